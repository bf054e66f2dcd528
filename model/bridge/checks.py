"""Which hooks keep what their name promises? Each must fire once, have its axes, keep its definition, and reach the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from model.bridge.bridged import Call
from model.bridge.meaning import BLOCK, HEARD, is_heard, is_spare, misnamed, right_one
from model.bridge.probe import Probe
from model.bridge.sites import BridgeSite

ROWS = 64
"""How many edits share one pass, each in a row of the batch of its own."""

Sites = dict[str, BridgeSite]


def checked_sites(call: Call, offered: Mapping[str, list[BridgeSite]], witnesses: Sites, probe: Probe) -> tuple[Sites, dict[str, str]]:
    """The sites that pass, by name, and why each other one does not."""
    refused: dict[str, str] = {}
    sites, values = chosen(call, offered, witnesses, probe, refused)
    refused |= (wrong := misnamed(values, set(sites), probe))
    sites = {name: site for name, site in sites.items() if name not in wrong}
    refused |= (alone := alone_only(call, sites, probe))
    refused |= (unheard := deaf(call, sites, probe))
    return {name: site for name, site in sites.items() if name not in unheard and name not in alone}, refused


def chosen(
    call: Call, offered: Mapping[str, list[BridgeSite]], witnesses: Sites, probe: Probe, refused: dict[str, str]
) -> tuple[Sites, dict[str, Tensor]]:
    """The hook of each site that fires once and has its axes, and its value beside those of the witnesses."""
    flat = {f"{name}#{i}": site for name, found in offered.items() for i, site in enumerate(found)}
    results = {key: site for key, site in flat.items() if site.name.endswith(".result")}
    seen = fired(call, {key: site for key, site in flat.items() if key not in results} | witnesses, probe)
    seen |= fired_apart(call, results, probe, refused)
    values, sites = {name: seen[name][0] for name in witnesses if len(seen[name]) == 1}, {}
    for name, found in sorted(offered.items(), key=lambda item: order_of(item[0])):
        faults = [misshapen(name, seen.get(f"{name}#{i}", []), site, probe) for i, site in enumerate(found)]
        whole = {i: seen[f"{name}#{i}"][0] for i, fault in enumerate(faults) if not fault}
        if not whole:
            refused.setdefault(name, faults[0])
            continue
        i = right_one(name, whole, values, probe)
        values[name], sites[name] = whole[i], found[i]
    spare = {name for name in sites if is_spare(name, values)}
    return {name: sites[name] for name in offered if name in sites and name not in spare}, {
        k: v for k, v in values.items() if k not in spare
    }


def alone_only(call: Call, sites: Sites, probe: Probe) -> dict[str, str]:
    """The `result` of attentions in which its switch silences another site."""
    refused: dict[str, str] = {}
    if any(name.endswith(".result") for name in sites):
        for silent in (name for name, values in fired(call, sites, probe).items() if len(values) != 1):
            result = f"{silent.rpartition('.')[0].removesuffix('.attn')}.attn.result"
            refused[result] = f"silences {silent.rpartition('.')[2]}"
    return {name: reason for name, reason in refused.items() if name in sites}


def fired(call: Call, sites: Sites, probe: Probe) -> dict[str, list[Tensor]]:
    """All values of these sites in one pass."""
    seen: dict[str, list[Any]] = {}
    with ExitStack() as taps:
        for key, site in sites.items():
            look = seen.setdefault(key, []).append
            taps.callback(site.watch(lambda value, look=look: look(value.detach().clone() if isinstance(value, Tensor) else value)))
        call(*probe.tokens, *masks_of(probe.tokens))
    return seen


def fired_apart(call: Call, results: Sites, probe: Probe, refused: dict[str, str]) -> dict[str, list[Tensor]]:
    """The same for `result`, which has a switch that some bridges do not have."""
    try:
        return fired(call, results, probe) if results else {}
    except NotImplementedError:
        refused.update(dict.fromkeys((site.name for site in results.values()), "TransformerLens computes none in this attention"))
        return {}


def misshapen(name: str, values: list[Any], site: BridgeSite, probe: Probe) -> str:
    """What is wrong with how often a hook fires, and with its shape; nothing if all is well."""
    if len(values) != 1:
        return f"fires {len(values)} times in one pass" if values else "never fires"
    if not isinstance(values[0], Tensor) or not values[0].is_floating_point():
        return "is not a tensor of numbers"
    wanted = [probe.length(name, axis) for axis in site.axes]
    got = values[0].shape
    if len(got) == len(wanted) and all(want in (None, have) for want, have in zip(wanted, got, strict=True)):
        return ""
    return f"has another shape than {' '.join(site.axes)}"


def deaf(call: Call, sites: Sites, probe: Probe) -> dict[str, str]:
    """The sites at which noise does not move the output, or does not enter what follows as it should.

    Every site has its noise in a row of the batch of its own, so that one pass tries many of them; the last row stays clean.
    """
    refused: dict[str, str] = {}
    apart = {name: site for name, site in sites.items() if name.endswith(".result")}
    for group in ({name: site for name, site in sites.items() if name not in apart}, apart):
        names = list(group)
        tokens = probe.repeated(0, min(ROWS, len(names)) + 1)
        clean = edited(call, group, {}, {}, tokens)[0] if names else None
        for start in range(0, len(names), ROWS):
            rows = {name: row for row, name in enumerate(names[start : start + ROWS])}
            noisy, values = edited(call, group, rows, near_by(rows, sites), tokens)
            moves = ((noisy - clean).abs().flatten(1).amax(-1) / clean.abs().max()).tolist()
            for name, row in rows.items():
                if moves[row] <= probe.rounding:
                    refused[name] = "an edit does not reach the output"
                elif name.rpartition(".")[2] in HEARD and not is_heard(name, *(only(values, i) for i in (row, -1))):
                    refused[name] = "an edit does not enter what follows as it should"
    return refused


def edited(
    call: Call, group: Sites, rows: Mapping[str, int], watched: Sites, tokens: tuple[Tensor, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the watched values, with noise in the row of each site. All of the group are edited, if only by a copy:
    some bridges take another path, which rounds otherwise, when a value is replaced."""
    values: dict[str, Tensor] = {}
    with ExitStack() as taps:
        for name, site in group.items():
            taps.callback(site.edit(noise_in(rows[name], name) if name in rows else torch.clone))
        for name, site in watched.items():
            taps.callback(site.watch(lambda value, name=name: values.__setitem__(name, value.detach().clone())))
        return call(*tokens, *masks_of(tokens)), values


def only(values: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One example of each."""
    return {name: value[row].unsqueeze(0) for name, value in values.items()}


def near_by(edited: Iterable[str], sites: Sites) -> Sites:
    """The parts of the stream and of attention in the blocks of the edited sites, and the block behind each."""
    blocks = {(found.group(1), int(found.group(2)) + step) for name in edited if (found := BLOCK.match(name)) for step in (0, 1)}
    found = {name: BLOCK.match(name) for name in sites if name.rpartition(".")[2] in HEARD}
    return {name: sites[name] for name, at in found.items() if at and (at.group(1), int(at.group(2))) in blocks}


def noise_in(row: int, name: str) -> Callable[[Tensor], Tensor]:
    """Noise of four times the value's own size, in one example; of at least 4 in scores, whose unit is that of a logit."""
    generator = torch.Generator().manual_seed(row)

    def change(value: Tensor) -> Tensor:
        value, one = value.clone(), value[row]
        size = one[one.isfinite()].float().pow(2).mean().sqrt().clamp(min=1.0 if name.endswith(".scores") else 0.0)
        value[row] = one + (4.0 * size * torch.randn(one.shape, generator=generator).to(one.device)).to(one.dtype)
        return value

    return change


def padding_that_differs(call: Call, probe: Probe) -> dict[str, float]:
    """By how much padding on a side moves the logits of real tokens, relative to the largest; only where it does.

    The key is "source left" and so on; of one stack the tokens are called source.
    """
    alone = tuple(x[:1, :-2] for x in probe.tokens)
    expected = call(*alone, *masks_of(alone))[0]
    found: dict[str, float] = {}
    for i, where in enumerate(("source", "target")[: len(probe.tokens)]):
        for side in ("left", "right"):
            inputs, masks = [], []
            for j, x in enumerate(alone):
                full = probe.tokens[j].clone()
                mask = torch.ones_like(full, dtype=torch.bool)
                if i == j:
                    place = slice(2, None) if side == "left" else slice(None, -2)
                    full[0, place], mask[0] = x[0], False
                    mask[0, place] = True
                else:
                    full, mask = x.expand(3, -1).contiguous(), torch.ones(3, x.shape[1], dtype=torch.bool, device=x.device)
                inputs.append(full)
                masks.append(mask)
            off = float((call(*inputs, *masks)[0][masks[-1][0]] - expected).abs().max() / expected.abs().max())
            if not off <= max(1e-4, 16 * torch.finfo(expected.dtype).eps):
                found[f"{where} {side}"] = off
    return found


def masks_of(tokens: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Masks that say that every token is real."""
    return tuple(torch.ones_like(x, dtype=torch.bool) for x in tokens)


def order_of(name: str) -> int:
    """Which of several hooks is a site is asked in this order: each answer leans on those before it."""
    return {"embed": 1, "attn_out": 1, "resid_mid": 2, "cross_attn_out": 3, "resid_mid_cross": 3, "mlp_out": 3}.get(
        name.rpartition(".")[2], 0
    )
