"""What need an edited pass not compute again? Everything before its edit: earlier blocks, and in a causal stack earlier places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.context import KeyValueCache
from model.sites import Site

if TYPE_CHECKING:
    from model.encoder_decoder import EncoderDecoder
    from model.stack import Stack, State
    from model.transformer import Transformer


class Replay:
    """A clean pass that goes on block by block, and states for edited passes that start in its middle.

    `block` is the next one to run. `clean` gives the output of the whole clean pass; with `keep` it keeps the keys and
    values of all blocks, so that a state may hold the places from some `first` on only, and cross-attention reads the
    encoder without computing its keys and values again. `shared` is how many first tokens all examples have in common: they
    are read once, and no state holds them.
    """

    def __init__(self, model: Transformer | EncoderDecoder, inputs: tuple[Tensor | None, ...], *, keep: bool, shared: int = 0) -> None:
        self.model, self.inputs, self.block, self.two_stacks = model, inputs, 0, hasattr(model, "decoder")
        self.cache, self.shared = KeyValueCache() if keep else None, shared
        self.state = model.start(*inputs) if not shared else model.start(*inputs).at(slice(shared, None))
        self._next: Any = None
        self._attended: dict[tuple[int, bool], Tensor] = {}
        self._z: dict[str, Tensor] = {}

    keeps = adds_heads = concludes = True

    @property
    def d_model(self) -> int:
        return self._running(self.state).resid.shape[-1]

    @property
    def itemsize(self) -> int:
        return self._running(self.state).resid.itemsize

    @property
    def width(self) -> int:
        """Numbers at each position of the output."""
        return self.d_model if self.model.unembed is None else self.model.unembed.unembedding.out_features

    def places(self, block: int) -> int:
        """Tokens of an example that a block reads."""
        return self.inputs[1 if self.two_stacks and self.causal(block) else 0].shape[1]

    def causal(self, block: int) -> bool:
        """Do places of this block see no later ones, nor those of all blocks after it?"""
        return block < self.model.n_layers and self._place(block)[0].config.causal

    def clean(self, positions: Int[Tensor, "batch read"] | None, tokens: Int[Tensor, "batch answers"] | None) -> Tensor:
        """The output of the whole pass, at these positions and of these tokens, None for all."""
        cache = self.cache
        if self.shared:
            once = self._with(self.model.start(self.inputs[0][:1, : self.shared]), cache=(read := KeyValueCache()))
            for i in range(self.model.n_layers):
                once = self.model.step(once, i)
            cache = Shared(read, cache, len(self.inputs[0]))
            self.state, positions = self._with(self.state, cache=Prefix(self.cache, self.shared, 1, frozenset())), positions - self.shared
        state = self.state
        for i in range(self.model.n_layers):
            if self.causal(i):
                state = self._with(self._opened(state), cache=cache)
            state = self.model.step(state, i)
        return self.model.finish(state, positions, tokens=tokens)

    def advance(self) -> None:
        """Run the next block."""
        self.state = self.model.step(self.state, self.block) if self._next is None else self._next
        self.block, self._next, self._attended, self._z = self.block + 1, None, {}, {}

    def enter(self, copies: int, *, first: int = 0, inner: bool = False, fresh: frozenset[int] = frozenset()) -> Any:
        """`copies` of the batch, one after another, as it enters the block, at the places from `first` on.

        `inner` says that only sites of blocks are edited, so that a decoder's embedding is what it was; `fresh` are the
        decoder's layers in which cross-attention's keys or values are edited.
        """
        kept = self.cache is not None and inner and self.causal(self.block)
        state = self._opened(self.state) if kept else self.state
        if first > self.shared:
            state = self._replaced(state, self._running(state).at(slice(first - self.shared, None)))
        state = state.repeat(copies)
        return self._with(state, cache=Prefix(self.cache, first, copies, fresh)) if kept else state

    @property
    def looked(self) -> bool:
        """Has the block been run already, for its z?"""
        return self._next is not None

    def look(self, site: str) -> Float[Tensor, "batch pos head d_head"]:
        """The clean z of an attention of the block, by the name of its site; of the places that are not shared."""
        if self._next is None:
            stack, layer = self._place(self.block)
            modules = {"attn": stack.blocks[layer].attn, "cross_attn": stack.blocks[layer].cross_attn}
            with _outputs({name: module for name, module in modules.items() if module is not None}) as outputs:
                self._next = self.model.step(self.state, self.block)
            self._attended = {(layer, name == "cross_attn"): out for name, (_, out) in outputs.items()}
            self._z = {name: z for name, (z, _) in outputs.items()}
        return self._z[site.split(".")[-2]]

    def after_attention(
        self, site: str, changes: list[tuple[tuple[int, ...], Float[Tensor, "batch pos heads d_head"]]], *, first: int = 0
    ) -> Any:
        """One copy of the batch for each change of some heads' z, whose effect on what the attention writes is of low rank: it is
        added, and the attention is not computed again. `look` comes first."""
        module, (_, layer) = self.model.get_submodule(site.removesuffix(".z")), self._place(self.block)
        per_head = module.W_O.weight.unflatten(-1, (module.n_heads, module.d_head))  # d_model head d_head
        added = [torch.einsum("bphe,dhe->bpd", dz, per_head[:, list(heads)]) for heads, dz in changes]
        key = (layer, module.cross)
        known = {k: out for k, out in self._attended.items() if k == key or (module.cross and k == (layer, False))}
        known = {k: torch.cat([out + part if k == key else out for part in added]) for k, out in known.items()}
        state = self.enter(len(changes), first=first, inner=True)
        if self.causal(self.block):
            state = self._opened(state)
        return self._with(state, attended={k: out[:, first - self.shared :] for k, out in known.items()})

    def conclude(self, state: Any, positions: Int[Tensor, "rows read"], tokens: Int[Tensor, "rows answers"] | None) -> Tensor:
        """The last block and the output at these positions alone: all others are only read as keys and values there."""
        last = self.model.n_layers - 1
        stack, layer = self._place(last)
        if self.causal(last):
            state = self._opened(state)
        running, block = self._running(state), stack.blocks[layer]
        if any(part.observed for part in block.modules() if isinstance(part, Site)):
            return self.model.finish(self.model.step(state, last), positions, tokens=tokens)
        context = running.context
        if (layer, False) not in context.attended:
            context = replace(context, cache=Read(*block.keys(running.resid, context), context.cache))
        here = replace(running, context=context).at(positions)
        return self.model.finish(self.model.step(self._replaced(state, here), last), tokens=tokens)

    def _place(self, block: int) -> tuple[Stack, int]:
        """The stack of a block of the model, and its number there."""
        if not self.two_stacks:
            return self.model, block
        n = self.model.encoder.config.n_layers
        return (self.model.encoder, block) if block < n else (self.model.decoder, block - n)

    def _opened(self, state: Any) -> Any:
        return self.model.opened(state) if self.two_stacks else state

    def _running(self, state: Any) -> State:
        """The state of the stack that is being run."""
        return state if not self.two_stacks else state.encoder if state.decoder is None else state.decoder

    def _replaced(self, state: Any, running: State) -> Any:
        return running if not self.two_stacks else replace(state, **{"encoder" if state.decoder is None else "decoder": running})

    def _with(self, state: Any, **values: Any) -> Any:
        running = self._running(state)
        return self._replaced(state, replace(running, context=replace(running.context, **values)))


@dataclass(frozen=True)
class Prefix:
    """What a clean pass kept, for `copies` of the batch whose places before `first` are as they were."""

    kept: KeyValueCache
    first: int
    copies: int
    fresh: frozenset[int]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """These keys and values behind the kept ones."""
        if not self.first:
            return k, v
        before = (x[:, : self.first].repeat(self.copies, 1, 1, 1) for x in self.kept.own(layer))
        return tuple(torch.cat(pair, dim=1) for pair in zip(before, (k, v), strict=True))

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Cross-attention's keys and values, None where they are to be computed."""
        known = None if layer in self.fresh else self.kept.cross(layer)
        return None if known is None else tuple(x.repeat(self.copies, 1, 1, 1) for x in known)

    def keep_cross(self, layer: int, k: Tensor, v: Tensor) -> None:
        """An edited pass keeps nothing."""


@dataclass(frozen=True)
class Shared:
    """Keys and values of tokens that all `n_examples` begin with, read once; behind them are kept those of each example."""

    read: KeyValueCache
    kept: KeyValueCache
    n_examples: int

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep these behind the shared ones, and give all."""
        before = (x.expand(self.n_examples, -1, -1, -1) for x in self.read.own(layer))
        return self.kept.extend(layer, *(torch.cat(pair, dim=1) for pair in zip(before, (k, v), strict=True)))


@dataclass(frozen=True)
class Read:
    """Keys and values of one block, all of them known."""

    k: Tensor
    v: Tensor
    before: Any

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The known ones."""
        return self.k, self.v

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Those that were known before."""
        return None if self.before is None else self.before.cross(layer)

    def keep_cross(self, layer: int, k: Tensor, v: Tensor) -> None:
        """An edited pass keeps nothing."""


@contextmanager
def _outputs(attentions: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """z and output of some attentions, by name, in the pass inside."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    z: dict[str, Tensor] = {}
    handles = []
    for name, module in attentions.items():
        handles.append(module.z.register_forward_hook(lambda _, args, out, name=name: z.__setitem__(name, out)))
        handles.append(module.register_forward_hook(lambda _, args, out, name=name: found.__setitem__(name, (z[name], out))))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
