"""How is the residual stream shown? Norms, additions, cosines, shares, norm layers by depth, and the logit lens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from analyses._residual_measure import ALL, SHARES, SINKS, WITHOUT_SINKS
from reports import Figure, Heatmap, Lines, Series, format_number, visible_token

BAND = "Bands hold 5–95 % of the tokens"


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Every figure, in the order of the question: how large, what is added, when is the answer there."""
    return (
        _norm(tables),
        _positions(tables),
        _additions(tables),
        _cosine(tables),
        _shares(tables),
        _divergence(tables),
        _agreement(tables),
        _lens_example(tables),
        _scales(tables),
        _gains(tables),
    )


def _norm(tables: Tables) -> Lines:
    states = tables["states"].frame
    growth = tables["growth"].frame.set_index("positions").loc[WITHOUT_SINKS]
    body, every, sinks = (_of(states, version) for version in (WITHOUT_SINKS, ALL, SINKS))
    grows = f"grows by {growth.rate - 1:.1%} per block" if np.isfinite(growth.rate) else "has too few blocks for a growth rate"
    top = every.loc[every.norm_max.idxmax()]
    return Lines(
        name="norm",
        title=f"Away from the sinks the norm {grows}; the largest token reaches {format_number(top.norm_max)}",
        caption=f"L2 norm of the residual stream. {BAND} (n = {_count(body)} without sink positions). Sink positions: the first token, and norms above ten times the median of their text.",
        alt=f"Median norm without sinks {format_number(body.norm_median.iloc[0])} at the embedding, {format_number(body.norm_median.iloc[-1])} after the last block; "
        f"largest {format_number(top.norm_max)} after {int(top.state)} blocks. Exponential fit R² {growth.r2_exponential:.2f}, power law {growth.r2_power:.2f}.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="norm",
        log_y=True,
        series={
            "median without sinks": _band(body, "norm"),
            "largest without sinks": _line(body, "norm_max"),
            "median of the sinks": _line(sinks, "norm_median"),
        },
    )


def _positions(tables: Tables) -> Heatmap:
    frame = tables["positions"].frame
    grid = frame.pivot(index="state", columns="position", values="norm")
    log = np.log10(grid.to_numpy(dtype=float), out=np.full(grid.shape, np.nan), where=grid.to_numpy() > 0)
    state, position = np.unravel_index(np.nanargmax(log), log.shape)
    ratio = float(10 ** (log[state, position] - np.nanmedian(log[state])))
    return Heatmap(
        name="norm-by-position",
        title=f"The norm is largest at position {position}: {format_number(ratio)} times that of the median position, after {state} blocks",
        caption=f"log₁₀ of the median norm over texts, by depth and position; n = {int(grid.size):,} cells.",
        alt=f"Largest {format_number(float(10 ** log[state, position]))} at position {position} after {state} blocks; median of all cells {format_number(float(10 ** np.nanmedian(log)))}.",
        values=log,
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        row_label="blocks passed",
        column_label="position",
        unit="log₁₀ of the norm",
    )


def _additions(tables: Tables) -> Lines:
    blocks = _of(tables["blocks"].frame, WITHOUT_SINKS)
    later = blocks[blocks.layer > 0] if len(blocks) > 1 else blocks
    first = blocks.iloc[0]
    return Lines(
        name="additions",
        title=f"After block 0, attention adds {_range(later.attn_median)} of the stream's norm, the MLP {_range(later.mlp_median)}",
        caption=f"‖attn_out‖/‖resid_pre‖ and ‖mlp_out‖/‖resid_mid‖, median over tokens that are no sink positions. {BAND} (n = {_count(blocks)}).",
        alt=f"Block 0: attention {first.attn_median:.2f}, MLP {first.mlp_median:.2f}. Later blocks: attention {_range(later.attn_median)}, MLP {_range(later.mlp_median)}.",
        x=blocks.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="norm of addition / norm of stream",
        log_y=True,
        series={"attention": _band(blocks, "attn"), "MLP": _band(blocks, "mlp")},
    )


def _cosine(tables: Tables) -> Lines:
    blocks = tables["blocks"].frame
    body, sinks = _of(blocks, WITHOUT_SINKS), _of(blocks, SINKS)
    known = body.dropna(subset=["influence"])
    low, high = (known.loc[known.influence.idxmin()], known.loc[known.influence.idxmax()]) if len(known) else (None, None)
    facts = (
        f"block {int(high.layer)} turns the stream most (1 − cosine {high.influence:.2f}), block {int(low.layer)} least ({low.influence:.3f})"
        if low is not None
        else "no position away from the sinks"
    )
    return Lines(
        name="cosine",
        title=facts[0].upper() + facts[1:],
        caption=f"Cosine between the stream before and after each block. {BAND} (n = {_count(body)}). A sink position that hardly turns does not mean that a block does nothing.",
        alt=f"{facts}. Median cosine without sinks {_range(body.cosine_median)}, of the sinks {_range(sinks.cosine_median)}.",
        x=body.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="cosine",
        series={"without sinks": _band(body, "cosine"), "sinks": _band(sinks, "cosine")},
    )


def _shares(tables: Tables) -> Lines:
    states = tables["states"].frame
    body, sinks = _of(states, WITHOUT_SINKS), _of(states, SINKS)
    top = body.loc[body.top_1.idxmax()] if body.top_1.notna().any() else None
    words = {k: f"largest {k}" if k > 1 else "largest" for k in SHARES}
    return Lines(
        name="largest-coordinates",
        title=f"One coordinate holds up to {sinks.top_1.max():.0%} of the squared norm at sink positions, {body.top_1.max():.0%} elsewhere",
        caption=f"Share of a token's ‖x‖² in its 1, 3 and 10 largest coordinates, median over tokens (n = {_count(body)} without sink positions, {_count(sinks)} at them).",
        alt=("" if top is None else f"Without sinks the largest coordinate holds at most {top.top_1:.2f}, after {int(top.state)} blocks. ")
        + f"At sinks: {_range(sinks.top_1)}.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="share of squared norm",
        series={**{words[k]: _line(body, f"top_{k}") for k in SHARES}, "largest, at sinks": _line(sinks, "top_1")},
    )


def _divergence(tables: Tables) -> Lines:
    body = _lens(tables)
    shown = body[body.state > 0]
    return Lines(
        name="logit-lens-kl",
        title=f"The logit lens stays up to {shown.kl_mean.max():.1f} nats from the answer and comes within 1 nat after {_first(body, body.kl_mean <= 1)} of {int(body.state.max())} blocks",
        caption=f"KL(final ‖ lens) over tokens that are no sink positions, from the first block on. {BAND} (n = {_count(body)}). Early divergence is mostly a matter of basis, not of missing knowledge.",
        alt="Mean KL "
        + ", ".join(f"{row.kl_mean:.2f} after {row.state}" for row in body.iloc[:: max(1, len(body) // 6)].itertuples(index=False))
        + " blocks.",
        x=shown.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="KL(final ‖ lens), nats",
        series={"mean": _line(shown, "kl_mean"), "median": _band(shown, "kl")},
    )


def _agreement(tables: Tables) -> Lines:
    lens, body = tables["lens"].frame, _lens(tables)
    every = _of(lens, ALL)
    return Lines(
        name="logit-lens-agreement",
        title=f"The top token agrees with the answer at half of the positions after {_first(body, body.agreement >= 0.5)} of {int(body.state.max())} blocks",
        caption=f"Share of tokens where the most probable next token of the logit lens is the model's own (n = {_count(body)} without sink positions).",
        alt="Agreement "
        + ", ".join(f"{row.agreement:.2f} after {row.state}" for row in body.iloc[:: max(1, len(body) // 6)].itertuples(index=False))
        + " blocks.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="share of tokens",
        series={"without sinks": _line(body, "agreement"), "all": _line(every, "agreement")},
    )


def _lens_example(tables: Tables) -> Heatmap:
    frame = tables["lens_example"].frame
    grid, said = (frame.pivot(index="state", columns="position", values=what) for what in ("probability", "top_token"))
    seen = frame[frame.state == 0].sort_values("position").token.tolist()
    last = frame[frame.position == frame.position.max()].sort_values("state")
    answer = last.iloc[-1]
    since = int(last.state.iloc[-1] - (last.top_token == answer.top_token)[::-1].cumprod().sum() + 1)
    word = visible_token(answer.top_token)
    return Heatmap(
        name="logit-lens-example",
        title=f"“{word}” after “{visible_token(seen[-1])}” is the first choice from {since} of {int(last.state.max())} blocks on",
        caption=f"The most probable next token at every position after every block, coloured by its probability; the last row is the model's own prediction. One text of {len(seen)} tokens.",
        alt=f"At the last position the model predicts “{word}” with probability {answer.probability:.2f}, first and lastingly after {since} blocks.",
        values=grid.to_numpy(dtype=float),
        text=np.array([[visible_token(t) for t in row] for row in said.to_numpy()], dtype=object),
        rows=[str(i) for i in grid.index],
        columns=[visible_token(t) for t in seen],
        row_label="blocks passed",
        column_label="token",
        unit="probability",
        low=0.0,
        high=1.0,
    )


def _scales(tables: Tables) -> Lines:
    norms = tables["norms"].frame
    inside = norms[norms.norm != "ln_final"]
    kinds = {"before attention": "ln1", "before the MLP": "ln2"}
    parts = {
        f"{label}{', at sinks' if version == SINKS else ''}": _of(inside[inside.norm.str.endswith(kind)], version)
        for version in (WITHOUT_SINKS, SINKS)
        for label, kind in kinds.items()
    }
    body = parts["before attention"]
    final = norms[(norms.norm == "ln_final") & (norms.positions == WITHOUT_SINKS)].iloc[0]
    return Lines(
        name="norm-scales",
        title=f"The norms divide by {format_number(body.scale_median.iloc[0])} in block 0 and by {format_number(final.scale_median)} before the unembedding",
        caption="Scale of every norm layer, median over tokens; bands from the smallest to the largest without sink positions. What a block adds counts as much as its size over this scale.",
        alt="Median scale before attention without sinks: "
        + ", ".join(
            f"{format_number(row.scale_median)} in block {row.layer}"
            for row in body.iloc[:: max(1, len(body) // 5)].itertuples(index=False)
        )
        + ".",
        x=body.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="scale",
        log_y=True,
        series={
            name: Series(
                y=part.scale_median.to_numpy(dtype=float),
                **({} if "sinks" in name else {"low": part.scale_min.to_numpy(dtype=float), "high": part.scale_max.to_numpy(dtype=float)}),
            )
            for name, part in parts.items()
        },
    )


def _gains(tables: Tables) -> Lines:
    norms = _of(tables["norms"].frame, ALL)
    parts = {
        label: norms[norms.norm.str.endswith(f".{kind}")] for label, kind in {"before attention": "ln1", "before the MLP": "ln2"}.items()
    }
    largest = norms.loc[norms.gain_max.idxmax()]
    return Lines(
        name="norm-gains",
        title=f"The gains of the norm layers reach {format_number(largest.gain_max)}, in {largest.norm}",
        caption="Gain of every norm layer inside the blocks, median over coordinates; bands from the smallest to the largest coordinate.",
        alt="; ".join(
            f"{label}: median {_range(part.gain_median)}, largest {format_number(part.gain_max.max())}, smallest {format_number(part.gain_min.min())}"
            for label, part in parts.items()
        )
        + ".",
        x=parts["before attention"].layer.to_numpy(dtype=float),
        x_label="block",
        y_label="gain",
        series={
            label: Series(
                y=part.gain_median.to_numpy(dtype=float), low=part.gain_min.to_numpy(dtype=float), high=part.gain_max.to_numpy(dtype=float)
            )
            for label, part in parts.items()
        },
    )


def _of(frame: pd.DataFrame, version: str) -> pd.DataFrame:
    return frame[frame.positions == version]


def _lens(tables: Tables) -> pd.DataFrame:
    return _of(tables["lens"].frame, WITHOUT_SINKS)


def _line(frame: pd.DataFrame, column: str) -> Series:
    return Series(y=frame[column].to_numpy(dtype=float))


def _band(frame: pd.DataFrame, name: str) -> Series:
    y, low, high = (frame[f"{name}_{part}"].to_numpy(dtype=float) for part in ("median", "p05", "p95"))
    return Series(y=y, low=low, high=high)


def _range(values: pd.Series) -> str:
    return f"{format_number(float(values.min()))} to {format_number(float(values.max()))}"


def _count(frame: pd.DataFrame) -> str:
    return f"{int(frame.n_tokens.max()):,} tokens"


def _first(frame: pd.DataFrame, condition: pd.Series) -> str:
    """After how many blocks a condition first holds, in words where it never does."""
    return str(int(frame[condition].state.min())) if condition.any() else "none"
