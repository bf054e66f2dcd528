"""What does a sweep ask of a model besides its steps? A clean pass that keeps what edited passes need not compute again."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from probes.inputs import two_sequences, written
from probes.observable import Steppable


class ReplayLike(Protocol):
    """A clean pass that goes on block by block, and states for edited passes that start in its middle.

    A model that has a method `replay(*inputs, keep=…)` gives one that can do more than `StepReplay`: begin at a later place
    (`keeps`), add what a change of heads writes (`adds_heads`), compute the last block at some positions only (`concludes`).
    """

    block: int
    keeps: bool
    adds_heads: bool
    concludes: bool
    looked: bool
    """has the block been run already, for its z?"""
    two_stacks: bool
    shared: int
    """tokens that all examples begin with and that no state holds"""
    width: int
    """numbers at each position of the output"""
    d_model: int
    itemsize: int

    def clean(self, positions: Tensor | None, tokens: Tensor | None) -> Tensor: ...

    def advance(self) -> None: ...

    def enter(self, copies: int, *, first: int = 0, inner: bool = False, fresh: frozenset[int] = frozenset()) -> Any: ...

    def places(self, block: int) -> int: ...

    def causal(self, block: int) -> bool: ...

    def look(self, site: str) -> Tensor: ...

    def after_attention(self, site: str, changes: Any, *, first: int = 0) -> Any: ...

    def conclude(self, state: Any, positions: Tensor, tokens: Tensor | None) -> Tensor: ...


class StepReplay:
    """The same for any steppable model: edited passes begin at their block, and with all places."""

    keeps = adds_heads = concludes = looked = False
    width = shared = 0

    def __init__(self, model: Steppable, inputs: tuple[Tensor | None, ...]) -> None:
        self.model, self.inputs, self.block, self.state = model, inputs, 0, model.start(*inputs)
        self.d_model, self.itemsize = self.state.resid.shape[-1], self.state.resid.itemsize
        self.two_stacks = two_sequences(inputs)

    def clean(self, positions: Tensor | None, tokens: Tensor | None) -> Tensor:
        """The output of the whole pass."""
        state = self.state
        for i in range(self.model.n_layers):
            state = self.model.step(state, i)
        logits = self.model.finish(state, positions)
        return logits if tokens is None else logits.gather(2, tokens.unsqueeze(1).expand(-1, logits.shape[1], -1))

    def advance(self) -> None:
        """Run the next block."""
        self.state, self.block = self.model.step(self.state, self.block), self.block + 1

    def enter(self, copies: int, *, first: int = 0, inner: bool = False, fresh: frozenset[int] = frozenset()) -> Any:
        """`copies` of the batch as it enters the block."""
        return self.state.repeat(copies)

    def places(self, block: int) -> int:
        """Tokens that a block reads, at most."""
        return max(self.inputs[0].shape[1], written(self.inputs)[0].shape[1])

    def causal(self, block: int) -> bool:
        """Are later places unseen? Not known."""
        return False


def replay_of(model: Steppable, inputs: tuple[Tensor | None, ...], *, keep: bool, shared: int = 0) -> ReplayLike:
    """The model's own replay, or one that any steppable model has."""
    return model.replay(*inputs, keep=keep, shared=shared) if hasattr(model, "replay") else StepReplay(model, inputs)


def shared_tokens(inputs: tuple[Tensor | None, ...]) -> int:
    """How many tokens all examples begin with, at most all but one; 0 for one example, two sequences, and padding before the text.

    >>> import torch
    >>> shared_tokens((torch.tensor([[4, 5, 6], [4, 5, 7]]),)), shared_tokens((torch.tensor([[4, 5, 6]]),))
    (2, 0)
    """
    tokens, mask = written(inputs)
    if len(tokens) == 1 or two_sequences(inputs):
        return 0
    same = (tokens == tokens[:1]).all(0) if mask is None else ((tokens == tokens[:1]) & mask).all(0)
    return min(int(same.long().cumprod(0).sum()), tokens.shape[1] - 1)
