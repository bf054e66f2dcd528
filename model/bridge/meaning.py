"""Is a value what its name says? Identities that hold in every Transformer, tried on the values of one pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from model.bridge.probe import Probe

Values = dict[str, Tensor]
BLOCK = re.compile(r"((?:encoder\.|decoder\.)?)blocks\.(\d+)\.")
HEARD = ("resid_pre", "attn_out", "resid_mid", "cross_attn_out", "resid_mid_cross", "mlp_out", "resid_post", "v", "pattern", "z")
"""Sites whose edits must keep the identities that follow from them."""

NORM_OF = {"attn": "ln1", "cross_attn": "ln_cross", "mlp": "ln2"}
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of the largest value: a bridge rounds otherwise than the identity is written, but another meaning is off by far more."""


def close(got: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Are these the same but for rounding, that of `dtype` where they were computed from values of it?"""
    if got.shape != expected.shape:
        return False
    tolerance = max(TOLERANCE.get(kind, 1e-3) for kind in (got.dtype, expected.dtype, dtype or got.dtype))
    return bool((got.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max().clamp(min=1e-12))


def right_one(name: str, found: Mapping[int, Tensor], known: Values, probe: Probe) -> int:
    """Which of several hooks is the site: the first that keeps the definition, else the first."""
    at, _, word = name.rpartition(".")
    fits = {"embed": is_embed, "attn_out": is_added, "cross_attn_out": is_added, "mlp_out": is_added, "resid_mid": is_mid}.get(word)
    at = f"{at}." if at else ""
    return next((i for i, value in found.items() if fits is not None and fits({**known, name: value}, at, name, probe)), next(iter(found)))


def is_spare(name: str, a: Values) -> bool:
    """Is an `attn.out` or `mlp.out` nothing of its own, since neither a norm nor a multiplier stands between it and the stream?"""
    sublayer = re.fullmatch(r"(.*\.)(attn|cross_attn|mlp)\.out", name)
    if sublayer is None:
        return False
    at, kind = sublayer.groups()
    post = f"{at}{NORM_OF[kind]}_post.in"
    if post in a:
        return not close(a[name], a[post])
    added = a.get(f"{at}{kind}_out")
    return added is None or close(added, a[name]) or not multiplied(added, a[name])


def misnamed(known: Values, sites: set[str], probe: Probe) -> dict[str, str]:
    """The sites whose value is not what the name says, and why."""
    a, wrong = dict(known), {}

    def refuse(names: list[str], reason: str) -> None:
        for name in names:
            a.pop(name, None)
            if name in sites:
                wrong[name] = reason

    for at in sorted({name.removesuffix("normalized") for name in sites if name.endswith(".normalized")}):
        if reason := norm_fault(a, at):
            refuse([f"{at}normalized", f"{at}scale"], reason)
    for at in sorted({found.group() for name in sites if (found := re.match(r".*attn\.", name))}):
        for names, reason in attention_faults(a, at, probe):
            refuse(names, reason)
    for at in sorted({found.group() for name in sites if (found := re.match(r"(?:(?:en|de)coder\.)?blocks\.\d+\.", name))}):
        for names, reason in stream_faults(a, at):
            refuse(names, reason)
    for name in sorted(name for name in sites if re.fullmatch(r"(?:(?:en|de)coder\.)?embed", name)):
        if not is_embed(a, name.removesuffix("embed"), name, probe):
            refuse([name], "is not what enters the stream for the token")
    return wrong


def norm_fault(a: Values, at: str) -> str:
    """Is normalized, before the gain, times scale what the norm reads, less its mean if the norm centres? And is it what the gain meets?"""
    normalized, scale, x, y = (a.get(f"{at}{part}") for part in ("normalized", "scale", "in", "out"))
    if at.endswith("ln_final."):
        last = max((name for name in a if name.endswith(".resid_post")), key=lambda name: int(name.split(".")[-2]), default="")
        if last and x is not None and not any(close(x, a[name]) for name in a if name.endswith(".resid_post")):
            return "does not read what the last block gives"
    if x is not None and scale is not None:
        product = normalized * scale
        if not (close(product, x) or close(product, x - x.mean(-1, keepdim=True))):
            return "normalized · scale is not what the norm reads"
    if y is not None and not is_gain_of(normalized, y):
        return "what the norm gives is not a gain times it"
    return ""


def is_gain_of(x: Tensor, y: Tensor) -> bool:
    """Is y, coordinate for coordinate, one multiple of x plus one bias?"""
    dtype, x, y = y.dtype, x.flatten(0, -2).float(), y.flatten(0, -2).float()
    x, y = x - x.mean(0), y - y.mean(0)
    return close(x * ((x * y).sum(0) / x.pow(2).sum(0).clamp(min=1e-12)), y, dtype)


def of_token_only(value: Tensor, tokens: Tensor) -> bool:
    """Is the value of a token the same wherever it stands?"""
    same = tokens.flatten()[:, None] == tokens.flatten()[None, :]
    flat = value.flatten(0, 1)
    return close(flat, flat[same.int().argmax(-1)])  # the first place of the same token


def is_embed(a: Values, at: str, name: str, probe: Probe) -> bool:
    """Is it of the token only, and, with positions and segments, what the first block or the embedding's norm reads?"""
    embed, enters = a[name], a.get(f"{at}ln_embed.in", a.get(f"{at}blocks.0.resid_pre"))
    if not of_token_only(embed, probe.tokens[-1] if at == "decoder." else probe.tokens[0]):
        return False
    total = embed + sum(a[f"{at}{part}"] for part in ("pos_embed", "segment_embed") if f"{at}{part}" in a)
    return enters is None or close(total, enters)


def attention_faults(a: Values, at: str, probe: Probe) -> list[tuple[list[str], str]]:
    """What of an attention does not fit together."""
    faults = []
    pattern, scores = a.get(f"{at}pattern"), a.get(f"{at}scores")
    if pattern is not None and not (close(pattern.sum(-1), torch.ones_like(pattern.sum(-1))) and bool((pattern >= 0).all())):
        faults.append(([f"{at}pattern"], "rows do not sum to 1"))
        pattern = None
    if scores is not None and pattern is not None and not close(scores.float().softmax(-1), pattern, scores.dtype):
        faults.append(([f"{at}scores"], "its softmax is not the pattern"))
        scores = None
    v, z = a.get(f"{at}v"), a.get(f"{at}z")
    if pattern is not None and v is not None and z is not None:
        if not is_mix(pattern, v, z):
            faults.append(([f"{at}z", f"{at}v"], "z is not pattern · v"))
    out = a.get(f"{at}out", a.get(re.sub(r"\.$", "_out", at)))
    if f"{at}result" in a and out is not None:
        bias = out - a[f"{at}result"].sum(2)
        if not close(out - bias.mean((0, 1)), out - bias):
            faults.append(([f"{at}result"], "its sum over heads, with a bias, is not what comes out"))
    return faults + score_faults(a, at, scores, probe)


def is_mix(pattern: Tensor, v: Tensor, z: Tensor) -> bool:
    """Is z what the pattern takes of v?"""
    v = v.repeat_interleave(z.shape[2] // v.shape[2], dim=2)
    return close(torch.einsum("bhqk,bkhe->bqhe", pattern.to(v.dtype), v), z)


def score_faults(a: Values, at: str, scores: Tensor | None, probe: Probe) -> list[tuple[list[str], str]]:
    """Whether q and k, rotated if there is a rotation, make the scores."""
    faults, made = [], f"{at}rot_" if f"{at}rot_q" in a and f"{at}rot_k" in a else at
    if made != at:
        for word in ("q", "k"):
            if f"{at}{word}" in a:
                ratio = a[f"{made}{word}"].float().norm(dim=-1) / a[f"{at}{word}"].float().norm(dim=-1)
                if not close(ratio, ratio.mean().expand_as(ratio), a[f"{at}{word}"].dtype):
                    faults.append(([f"{at}{word}"], "the rotation changes its length: a norm stands between"))
    q, k = a.get(f"{made}q"), a.get(f"{made}k")
    rotates_unseen = made == at and probe.rotary
    if scores is not None and q is not None and k is not None and not rotates_unseen:
        if not makes_scores(q, k, scores, probe.score_cap):
            faults.append(([f"{made}q", f"{made}k"], "q · k does not give the scores"))
    return faults


def makes_scores(q: Tensor, k: Tensor, scores: Tensor, cap: float | None) -> bool:
    """Are the scores of the last query a multiple of q · k, apart from a bias of positions, which is equal in all examples?"""
    dtype, q, k, scores = q.dtype, q.float(), k.float(), scores.float()
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    dots = torch.einsum("bhe,bkhe->bhk", q[:, -1], k)
    seen = scores[:, :, -1].isfinite().all(0).all(0)  # key
    dots, last = dots[..., seen], scores[:, :, -1][..., seen]
    if cap is not None:
        return are_capped(dots, last, cap, dtype)
    dots, last = dots - dots.mean(0), last - last.mean(0)
    return close(dots * ((dots * last).sum() / dots.pow(2).sum()), last, dtype)


def are_capped(dots: Tensor, scores: Tensor, cap: float, dtype: torch.dtype) -> bool:
    """Are the scores cap · tanh(multiple of q · k / cap)? The multiple is read where the cap does not bite."""
    free = scores.abs() < 0.9 * cap
    if not free.any():
        return True
    factor = (dots[free] * torch.atanh(scores[free] / cap) * cap).sum() / dots[free].pow(2).sum()
    return close(cap * torch.tanh(factor * dots / cap), scores, dtype)


def is_added(a: Values, at: str, name: str, probe: Probe) -> bool:
    """Is it what a sub-layer adds to the stream? Then a norm reads their sum, or it is the stream that follows."""
    word = name.removeprefix(at)
    before, after, norm = {"attn_out": ("pre", "mid", "ln1"), "cross_attn_out": ("mid", "mid_cross", "ln_cross")}.get(
        word, ("mid", "post", "ln2")
    )
    if word == "mlp_out" and f"{at}resid_mid_cross" in a:
        before = "mid_cross"
    if f"{at}resid_{before}" not in a:
        return True
    total = a[f"{at}resid_{before}"] + a[name]
    return any(close(total, a[follows]) for follows in (f"{at}{norm}.in", f"{at}resid_{after}") if follows in a)


def is_mid(a: Values, at: str, name: str, probe: Probe) -> bool:
    """Is it the stream behind attention, or what the norm behind that sum gives?"""
    if f"{at}resid_pre" not in a or f"{at}attn_out" not in a:
        return True
    total = a[f"{at}resid_pre"] + a[f"{at}attn_out"]
    if f"{at}ln1.in" in a and f"{at}ln1.out" in a and close(total, a[f"{at}ln1.in"]):
        return close(a[name], a[f"{at}ln1.out"])
    return close(total, a[name])


def stream_faults(a: Values, at: str) -> list[tuple[list[str], str]]:
    """What of a block does not add up: each part is what is added to the stream, each sum what follows."""
    faults, read = [], f"{at}resid_pre"
    steps = [("attn_out", "resid_mid", "ln1"), ("cross_attn_out", "resid_mid_cross", "ln_cross"), ("mlp_out", "resid_post", "ln2")]
    there = [step for step in steps if f"{at}{step[0]}" in a]
    if f"{at}resid_mid" not in a:  # a parallel block: both read the same
        parts = [f"{at}{part}" for part, _, _ in there]
        if parts and read in a and f"{at}resid_post" in a and not close(a[read] + sum(a[part] for part in parts), a[f"{at}resid_post"]):
            faults.append((parts, "is not what is added to the stream"))
        return faults
    for part, after, norm in there:
        if read not in a or f"{at}{after}" not in a:
            read = f"{at}{after}"
            continue
        total, follows = a[read] + a[f"{at}{part}"], a[f"{at}{after}"]
        added = close(total, follows) or (
            f"{at}{norm}.in" in a and close(total, a[f"{at}{norm}.in"]) and close(follows, a[f"{at}{norm}.out"])
        )
        if not added and multiplied(follows - a[read], a[f"{at}{part}"]):
            faults.append(([f"{at}{part}"], "is not what is added to the stream: a multiplier follows"))
        elif not added:
            faults.append(
                ([f"{at}{part}"] + ([f"{at}{after}"] if after != "resid_post" else []), "the stream is not the sum of its parts here")
            )
        read = f"{at}{after}"
    return faults


def is_heard(name: str, edited: Values, clean: Values) -> bool:
    """Is an edited value what the rest goes on with? What follows from it when it is clean must follow from it then."""
    return all(holds(edited) for holds in consequences(name, clean) if holds(clean))


def consequences(name: str, a: Values) -> list[Callable[[Values], bool]]:
    """What follows from a site: the stream is the sum of its parts, the next block reads it, z is pattern · v."""
    at, _, word = name.rpartition(".")
    block = BLOCK.match(name)
    if word in ("v", "pattern") and all(f"{at}.{part}" in a for part in ("v", "pattern", "z")):
        return [lambda b: is_mix(b[f"{at}.pattern"], b[f"{at}.v"], b[f"{at}.z"])]
    if word == "resid_post":
        following = f"{block.group(1)}blocks.{int(block.group(2)) + 1}.resid_pre"
        return [lambda b: close(b[name], b[following])] if following in a else []
    sums = [[f"{at}.{part}" for part in parts] for parts in sums_of(f"{at}.", a) if word in parts[:-1]]
    return [
        lambda b, parts=parts: close(sum(b[part] for part in parts[:-1]), b[parts[-1]])
        for parts in sums
        if all(part in a for part in parts)
    ]


def sums_of(at: str, a: Values) -> list[tuple[str, ...]]:
    """The sums of a block, each the last of its names: of a parallel one, or one whose middle is not known, a single one."""
    if f"{at}resid_mid" not in a:
        return [("resid_pre", "attn_out", "mlp_out", "resid_post")]
    if f"{at}resid_mid_cross" not in a:
        return [("resid_pre", "attn_out", "resid_mid"), ("resid_mid", "mlp_out", "resid_post")]
    return [
        ("resid_pre", "attn_out", "resid_mid"),
        ("resid_mid", "cross_attn_out", "resid_mid_cross"),
        ("resid_mid_cross", "mlp_out", "resid_post"),
    ]


def multiplied(got: Tensor, part: Tensor) -> bool:
    """Is one a multiple of the other?"""
    return close(part * ((got * part).sum() / part.pow(2).sum()), got)
