"""How is a TransformerBridge wrapped? Its hooks are run once, each is checked, and what is left out is said."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.bridge.bridged import Bridged, Call, has_two_stacks
from model.bridge.checks import checked_sites, padding_that_differs
from model.bridge.names import candidates
from model.bridge.probe import Probe
from model.bridge.sites import BridgeSite, ResultSwitch
from model.tokenizer import Tokenizer


def is_bridge(model: Any) -> bool:
    """Is this a TransformerBridge of TransformerLens? Asked of its class' name, so that nothing is imported."""
    return any(cls.__name__ == "TransformerBridge" and cls.__module__.startswith("transformer_lens.") for cls in type(model).__mro__)


def wrap_bridge(bridge: Any, tokenizer: Tokenizer | None) -> Bridged:
    """The bridge with those of our sites that it shows as we define them and whose edits reach its output.

    Warns (UserWarning), once, with the name and the reason of every hook that was left out.
    """
    call = logits_of(bridge)
    probe = Probe.of(bridge, two_stacks=has_two_stacks(bridge))
    with undisturbed(bridge):
        offered, witnesses = site_candidates(bridge)
        sites, refused = checked_sites(call, offered, witnesses, probe)
        off = padding_that_differs(call, probe)
    if refused:
        warnings.warn(refusals(bridge.cfg.architecture, len(sites) + 1, refused), UserWarning, stacklevel=3)
    return Bridged(bridge, call, sites, off, tokenizer)


def logits_of(bridge: Any) -> Call:
    """The bridge as a function of token ids and boolean masks."""
    if has_two_stacks(bridge):

        def call(source: Tensor, target: Tensor, source_mask: Tensor, target_mask: Tensor) -> Tensor:
            masks = {"attention_mask": source_mask.long(), "decoder_attention_mask": target_mask.long()}
            return bridge(source, decoder_input=target, **masks)

        return call
    return lambda tokens, mask: bridge(tokens, attention_mask=mask.long())


def site_candidates(bridge: Any) -> tuple[dict[str, list[BridgeSite]], dict[str, BridgeSite]]:
    """What may become a site, the likeliest hook of each first, and what they are checked against."""
    hooks, switch, d_head = bridge.hook_dict, ResultSwitch(bridge), bridge.cfg.d_head
    names, witnesses = candidates(hooks)
    read = {id(hook) for name, hook in hooks.items() if name.endswith(".hook_in")}  # what a submodule reads: a branch of the stream

    def site(name: str, hook: str) -> BridgeSite:
        after = names.get(re.sub(r"resid_mid(_cross)?$", "resid_post", name)) if id(hooks[hook]) in read else None
        return BridgeSite(
            name,
            hooks[hook],
            d_head=d_head,
            normed=hook.endswith("_normed"),
            switch=switch if name.endswith(".result") else None,
            carry=hooks[after[0]] if after and "resid_mid" in name else None,
        )

    found: dict[str, list[BridgeSite]] = {}
    for name, of_name in names.items():
        distinct = {id(hooks[hook]): hook for hook in reversed(of_name) if not hook.startswith("rotary_emb.")}
        kept = [hook for hook in of_name if distinct.get(id(hooks[hook])) == hook]
        if name == "pos_embed":  # with rotary positions this name is another one of the rotation's hook
            kept = [hook for hook in kept if getattr(bridge.cfg, "positional_embedding_type", "standard") == "standard"]
        if kept:
            found[name] = [site(name, hook) for hook in kept]
    for name in [name for name in found if re.search(r"(attn|mlp)\.out$", name)]:
        added = found.get(re.sub(r"(attn|mlp)\.out$", r"\1_out", name), [])
        if any(one.hook is other.hook for one in added for other in found[name]):
            del found[name]  # what is added to the stream is the sum itself
    return found, {name: site(name, hook) for name, hook in witnesses.items()}


@contextmanager
def undisturbed(bridge: Any) -> Iterator[None]:
    """No gradients, no dropout and no warnings inside; every module's mode is put back."""
    modules = {id(module): module for module in (*bridge.modules(), *bridge.original_model.modules())}
    modes = [(module, module.training) for module in modules.values()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bridge.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def refusals(architecture: str, n_sites: int, refused: dict[str, str]) -> str:
    """One text for all that was left out: a line for each reason, blocks of the same kind together.

    >>> print(refusals("GPT2LMHeadModel", 40, {"blocks.0.attn.q": "did not fire", "blocks.1.attn.q": "did not fire", "embed": "fired twice"}))
    TransformerLens' GPT2LMHeadModel has 40 of our sites; these are left out:
      did not fire: blocks.{0-1}.attn.q
      fired twice: embed
    """
    by_reason: dict[str, dict[str, list[int]]] = {}
    for name, reason in refused.items():
        block = re.search(r"blocks\.(\d+)\.", name)
        kinds = by_reason.setdefault(reason, {})
        kinds.setdefault(re.sub(r"blocks\.\d+\.", "blocks.{}.", name), []).extend([int(block.group(1))] if block else [])
    lines = [f"  {reason}: {', '.join(_filled(kind, layers) for kind, layers in kinds.items())}" for reason, kinds in by_reason.items()]
    return "\n".join([f"TransformerLens' {architecture} has {n_sites} of our sites; these are left out:", *lines])


def _filled(kind: str, layers: list[int]) -> str:
    layers = sorted(layers)
    if not layers:
        return kind
    if len(layers) == 1:
        return kind.replace("{}", str(layers[0]))
    run = layers == list(range(layers[0], layers[-1] + 1))
    return kind.replace("{}", "{" + (f"{layers[0]}-{layers[-1]}" if run else ",".join(map(str, layers))) + "}")
