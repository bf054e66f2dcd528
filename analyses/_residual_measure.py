"""What is measured of the residual stream, token by token, and how are positions summed up, with and without the sink positions?"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model import Transformer
from probes import record
from probes.statistics.logit_lens import logit_lens
from probes.statistics.residual_norms import (
    MassiveActivation,
    fit_growth,
    largest_share,
    massive_activations,
    sink_positions,
)

SHARES = (1, 3, 10)
VERSIONS = ALL, WITHOUT_SINKS, SINKS = "all", "without sinks", "sinks only"
"""the positions that a statistic is over; the first token of a text is always a sink position"""
SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "ln1.scale", "ln2.scale")


@dataclass(frozen=True)
class Stream:
    """What the residual stream of every token is like. `state` l is the stream after l blocks."""

    norm: Float[np.ndarray, "state example pos"]
    largest: Float[np.ndarray, "state share example pos"]
    """share of the squared norm in the 1, 3 and 10 largest coordinates"""
    attn: Float[np.ndarray, "layer example pos"]
    """‖attn_out‖ / ‖resid_pre‖"""
    mlp: Float[np.ndarray, "layer example pos"]
    """‖mlp_out‖ / ‖resid_mid‖"""
    cosine: Float[np.ndarray, "layer example pos"]
    """between resid_pre and resid_post"""
    rounding: Float[np.ndarray, "layer example pos"]
    """‖resid_post − (resid_pre + attn_out + mlp_out)‖ / (‖resid_pre‖ + ‖attn_out‖ + ‖mlp_out‖)"""
    scale: Float[np.ndarray, "norm_layer example pos"]
    """of ln1 and ln2 of every block, then of ln_final"""
    sinks: Bool[np.ndarray, "example pos"]
    massive: tuple[MassiveActivation, ...]

    def over(self, version: str) -> Bool[np.ndarray, "example pos"]:
        """The positions that a version of a statistic is over."""
        return over(self.sinks, version)


def over(sinks: Bool[np.ndarray, "example pos"], version: str) -> Bool[np.ndarray, "example pos"]:
    """The positions that a version of a statistic is over."""
    return {ALL: np.ones_like(sinks), WITHOUT_SINKS: ~sinks, SINKS: sinks}[version]


def measure_stream(model: Transformer, tokens: Int[Tensor, "batch pos"], *, batch_size: int, sink_factor: float) -> Stream:
    """Everything about the stream, a batch of texts at a time: only one batch's states exist at once."""
    parts = [_batch(model, batch, sink_factor) for batch in tokens.split(batch_size)]
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=-2) for f in fields(Stream) if f.name != "massive"}
    massive = [
        MassiveActivation(**vars(one) | {"example": one.example + k * batch_size}) for k, part in enumerate(parts) for one in part.massive
    ]
    return Stream(**joined, massive=tuple(massive))


def _batch(model: Transformer, tokens: Int[Tensor, "batch pos"], sink_factor: float) -> Stream:
    state = model.start(tokens)
    states, blocks, scales = [state.resid], [], []
    for i in range(model.n_layers):
        with record(model, [f"blocks.{i}.{site}" for site in SITES]) as activations:
            state = model.step(state, i)
        *parts, ln1, ln2 = (_exact(activations[f"blocks.{i}.{site}"]) for site in SITES)
        blocks.append(_block(*parts))
        scales += [ln1[..., 0], ln2[..., 0]]
        states.append(state.resid)
    with record(model, "ln_final.scale") as activations:
        model.ln_final(state.resid)
    scales.append(_exact(activations["ln_final.scale"])[..., 0])
    stack = torch.stack(states)
    norms = _exact(stack).norm(dim=-1)
    return Stream(
        norm=_numpy(norms),
        largest=np.stack([_numpy(largest_share(stack, k)) for k in SHARES], axis=1),
        **{name: np.stack([_numpy(block[name]) for block in blocks]) for name in ("attn", "mlp", "cosine", "rounding")},
        scale=_numpy(torch.stack(scales)),
        sinks=sink_positions(norms, factor=sink_factor).cpu().numpy(),
        massive=tuple(massive_activations(stack)),
    )


def _block(
    resid_pre: Tensor, attn_out: Tensor, resid_mid: Tensor, mlp_out: Tensor, resid_post: Tensor
) -> dict[str, Float[Tensor, "batch pos"]]:
    """What one block adds, against what it is added to."""
    wide = torch.float32 if resid_pre.device.type == "mps" else torch.float64  # no doubles there
    exact_sum = resid_pre.to(wide) + attn_out.to(wide) + mlp_out.to(wide)
    before, attn, mlp = (part.norm(dim=-1) for part in (resid_pre, attn_out, mlp_out))
    return {
        "attn": attn / before,
        "mlp": mlp / resid_mid.norm(dim=-1),
        "cosine": F.cosine_similarity(resid_pre, resid_post, dim=-1),
        "rounding": (resid_post.to(wide) - exact_sum).norm(dim=-1) / (before + attn + mlp),
    }


def states_frame(stream: Stream) -> pd.DataFrame:
    """Norms, and the share of the largest coordinates, of every state and version."""
    rows = []
    for state, (norm, largest) in enumerate(zip(stream.norm, stream.largest, strict=True)):
        for version in VERSIONS:
            chosen = stream.over(version)
            shares = {f"top_{k}": _quantile(share[chosen], 0.5) for k, share in zip(SHARES, largest, strict=True)}
            values = norm[chosen]
            log = np.log(values) if values.size and values.min() > 0 else np.array([])
            rows.append(
                {"state": state, "positions": version, "n_tokens": values.size}
                | _spread("norm", values)
                | {"norm_max": _quantile(values, 1.0), "mean_log_norm": log.mean() if log.size else np.nan}
                | shares
            )
    return pd.DataFrame(rows)


def blocks_frame(stream: Stream) -> pd.DataFrame:
    """What every block adds, in both versions."""
    rows = []
    for layer in range(len(stream.cosine)):
        for version in VERSIONS:
            chosen = stream.over(version)
            row = {"layer": layer, "positions": version, "n_tokens": int(chosen.sum())}
            for name in ("attn", "mlp", "cosine"):
                row |= _spread(name, getattr(stream, name)[layer][chosen])
            cosine = stream.cosine[layer][chosen]
            rows.append(row | {"influence": float(1 - cosine.mean()) if cosine.size else np.nan})
    return pd.DataFrame(rows)


def positions_frame(stream: Stream) -> pd.DataFrame:
    """The median norm over texts by state and position, and in how many texts that position is a sink position."""
    n_states, _, n_positions = stream.norm.shape
    state, position = np.meshgrid(np.arange(n_states), np.arange(n_positions), indexing="ij")
    sinks = np.broadcast_to(stream.sinks.sum(0), state.shape)
    return pd.DataFrame(
        {"state": state.ravel(), "position": position.ravel(), "norm": np.median(stream.norm, axis=1).ravel(), "n_sinks": sinks.ravel()}
    )


def norms_frame(model: Transformer, stream: Stream) -> pd.DataFrame:
    """The scale of every norm layer over tokens, and its gain over coordinates."""
    names = [*(f"blocks.{i}.{norm}" for i in range(model.n_layers) for norm in ("ln1", "ln2")), "ln_final"]
    rows = []
    for name, scale in zip(names, stream.scale, strict=True):
        gain = _numpy(model.get_submodule(name).gain)
        layer = int(name.split(".")[1]) if "." in name else model.n_layers
        for version in VERSIONS:
            values = scale[stream.over(version)]
            rows.append(
                {"norm": name, "layer": layer, "positions": version}
                | {f"scale_{word}": _quantile(values, q) for word, q in (("min", 0.0), ("median", 0.5), ("max", 1.0))}
                | {f"gain_{word}": _quantile(gain, q) for word, q in (("min", 0.0), ("median", 0.5), ("max", 1.0))}
            )
    return pd.DataFrame(rows)


def growth_frame(states: pd.DataFrame) -> pd.DataFrame:
    """The growth of the norm with depth, in both versions."""
    return pd.DataFrame(
        [{"positions": version} | vars(fit_growth(states.mean_log_norm[states.positions == version].to_numpy())) for version in VERSIONS]
    )


def massive_frame(stream: Stream) -> pd.DataFrame:
    """Massive activations, a row for each place (position, dimension): in how many texts, after which blocks, how large."""
    columns = ["position", "dimension", "first_state", "last_state", "n_states", "n_texts", "value_median", "value_largest", "ratio"]
    found = pd.DataFrame([vars(one) for one in stream.massive], columns=["state", "example", "position", "dimension", "value", "ratio"])
    rows = []
    for (position, dimension), group in found.groupby(["position", "dimension"]):
        largest = float(group.value.loc[group.value.abs().idxmax()])
        rows.append(
            (
                position,
                dimension,
                group.state.min(),
                group.state.max(),
                group.state.nunique(),
                group.example.nunique(),
                float(group.value.median()),
                largest,
                float(group.ratio.max()),
            )
        )
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(
        ["n_texts", "n_states", "position", "dimension"], ascending=[False, False, True, True], kind="stable", ignore_index=True
    )


def lens_frame(model: Transformer, tokens: Int[Tensor, "batch pos"], sinks: Bool[np.ndarray, "example pos"]) -> pd.DataFrame:
    """Divergence from and agreement with the final prediction, by state and version. One text at a time: logits are wide."""
    lenses = [logit_lens(model, text) for text in tokens.split(1)]
    kl = np.concatenate([_numpy(lens.kl) for lens in lenses], axis=1)  # state example pos
    agrees = np.concatenate([lens.agrees.cpu().numpy() for lens in lenses], axis=1)
    rows = []
    for state in range(len(kl)):
        for version in VERSIONS:
            chosen = over(sinks, version)
            n = int(chosen.sum())
            rows.append(
                {"state": state, "positions": version, "n_tokens": n, "kl_mean": float(kl[state][chosen].mean()) if n else np.nan}
                | _spread("kl", kl[state][chosen])
                | {"agreement": float(agrees[state][chosen].mean()) if n else np.nan}
            )
    return pd.DataFrame(rows)


def lens_prompt_frame(model: Transformer, tokens: Int[Tensor, "1 pos"]) -> pd.DataFrame:
    """The most probable next token after every block, at every position of one text."""
    lens = logit_lens(model, tokens)
    n_states, _, n_positions = lens.top_token.shape
    seen, said = texts(model, tokens[0]), texts(model, lens.top_token.flatten())
    state, position = np.meshgrid(np.arange(n_states), np.arange(n_positions), indexing="ij")
    return pd.DataFrame(
        {
            "state": state.ravel(),
            "position": position.ravel(),
            "token": [seen[i] for i in position.ravel()],
            "top_token": said,
            "probability": _numpy(lens.top_probability).ravel(),
            "kl": _numpy(lens.kl).ravel(),
        }
    )


def texts(model: Transformer, tokens: Int[Tensor, "pos"]) -> list[str]:
    """The text of each token, its id where there is no tokenizer."""
    return [str(int(i)) for i in tokens] if model.tokenizer is None else model.tokenizer.to_str_tokens(tokens)


def _spread(name: str, values: Float[np.ndarray, "n"]) -> dict[str, float]:
    return {f"{name}_median": _quantile(values, 0.5), f"{name}_p05": _quantile(values, 0.05), f"{name}_p95": _quantile(values, 0.95)}


def _quantile(values: Float[np.ndarray, "n"], q: float) -> float:
    return float(np.quantile(values, q)) if values.size else float("nan")


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
