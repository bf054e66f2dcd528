"""How is the residual stream shown? Norms, additions, cosines and shares by depth; the lens and the norm layers from the rooms beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from analyses import _residual_answer_figures as answer
from analyses import _residual_lens_figures as lens
from analyses import _residual_norm_figures as norms
from analyses._contract import Tables
from analyses._residual_measure import ALL, SINKS, WITHOUT_SINKS
from analyses._residual_series import BAND, band, count, line, of, span
from analyses._residual_statistics import SHARES
from analyses._residual_tables import by_stack
from reports import Figure, Heatmap, Lines, format_number

ADDITIONS = {
    "attn": ("attention", "‖attn_out‖/‖resid_pre‖"),
    "cross": ("cross-attention", "‖cross_attn_out‖/‖resid_mid‖"),
    "mlp": ("MLP", "‖mlp_out‖/‖resid_mid‖"),
}
"""what a block adds: its name for a reader, and what is shown of it"""


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Every figure whose data are there, in the order of the question: how large, what is added, when is the answer there.

    Where there are two stacks each has a figure of its own, that says so.
    """
    stacks = by_stack(tables)
    drawn: list[Figure] = []
    for figure, needs in FIGURES:
        for name, one in stacks.items():
            if needs in one and (made := figure(one)) is not None:
                drawn.append(made if len(stacks) == 1 else _named(made, name))
    return tuple(drawn)


def _named(figure: Figure, stack: str) -> Figure:
    """The figure with its stack in name and title."""
    title = f"{stack.capitalize()}: {figure.title[:1].lower()}{figure.title[1:]}"
    return dataclasses.replace(figure, name=f"{figure.name}-{stack}", title=title)


def _norm(tables: Tables) -> Lines:
    states = tables["states"].frame
    growth = tables["growth"].frame.set_index("positions").loc[WITHOUT_SINKS]
    body, every, sinks = (of(states, version) for version in (WITHOUT_SINKS, ALL, SINKS))
    pinned = bool(tables["stacks"].frame["pinned"].iloc[0])
    grows = f"grows by {growth.rate - 1:.1%} per block" if np.isfinite(growth.rate) else "has too few blocks for a growth rate"
    fit = f" Exponential fit R² {growth.r2_exponential:.2f}, power law {growth.r2_power:.2f}." if np.isfinite(growth.rate) else ""
    if pinned:
        grows = f"is what the norm layers make it, {span(body.norm_median[body.state > 0])}"
    top = every.loc[every.norm_max.idxmax()]
    return Lines(
        part="layers",
        name="norm",
        title=f"Away from the sinks the norm {grows}; the largest token reaches {format_number(top.norm_max)}",
        caption=f"L2 norm of the residual stream. {BAND} (n = {count(body)} without sink positions). Sink positions: the first token, and norms above ten times the median of their text."
        + (" A norm layer stands behind every sum, so that the norm says nothing of growth." if pinned else ""),
        alt=f"Median norm without sinks {format_number(body.norm_median.iloc[0])} at the embedding, {format_number(body.norm_median.iloc[-1])} after the last block; "
        f"largest {format_number(top.norm_max)} after {int(top.state)} blocks.{fit}",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="norm",
        log_y=True,
        series={
            "median without sinks": band(body, "norm"),
            "largest without sinks": line(body, "norm_max"),
            "median of the sinks": line(sinks, "norm_median"),
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
    blocks = of(tables["blocks"].frame, WITHOUT_SINKS)
    later = blocks[blocks.layer > 0] if len(blocks) > 1 else blocks
    there = [name for name in ADDITIONS if f"{name}_median" in blocks and blocks[f"{name}_median"].notna().any()]
    formulas = {name: formula for name, (_, formula) in ADDITIONS.items()} | (
        {"mlp": "‖mlp_out‖/‖resid_mid_cross‖"} if "cross" in there else {}
    )
    sizes = {name: span(later[f"{name}_median"]) for name in there}
    others = "".join(f", {'the ' if name == 'mlp' else ''}{ADDITIONS[name][0]} {sizes[name]}" for name in there[1:])
    starts = ", ".join(f"{ADDITIONS[name][0]} {blocks[f'{name}_median'].iloc[0]:.2f}" for name in there)
    rest = ", ".join(f"{ADDITIONS[name][0]} {size}" for name, size in sizes.items())
    return Lines(
        part="layers",
        name="additions",
        title=f"{'After block 0, ' if len(blocks) > 1 else ''}attention adds {sizes['attn']} of the stream's norm{others}",
        caption=f"{_listed([formulas[name] for name in there])}, median over tokens that are no sink positions. {BAND} (n = {count(blocks)}).",
        alt=f"Block 0: {starts}. Later blocks: {rest}.",
        x=blocks.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="norm of addition / norm of stream",
        log_y=True,
        series={ADDITIONS[name][0]: band(blocks, name) for name in there},
    )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _cosine(tables: Tables) -> Lines:
    blocks = tables["blocks"].frame
    body, sinks = of(blocks, WITHOUT_SINKS), of(blocks, SINKS)
    known = body.dropna(subset=["influence"])
    low, high = (known.loc[known.influence.idxmin()], known.loc[known.influence.idxmax()]) if len(known) else (None, None)
    facts = (
        f"block {int(high.layer)} turns the stream most (1 − cosine {high.influence:.2f}), block {int(low.layer)} least ({low.influence:.3f})"
        if low is not None
        else "no position away from the sinks"
    )
    return Lines(
        part="layers",
        name="cosine",
        title=facts[0].upper() + facts[1:],
        caption=f"Cosine between the stream before and after each block. {BAND} (n = {count(body)}). A sink position that hardly turns does not mean that a block does nothing.",
        alt=f"{facts}. Median cosine without sinks {span(body.cosine_median)}, of the sinks {span(sinks.cosine_median)}.",
        x=body.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="cosine",
        series={"without sinks": band(body, "cosine"), "sinks": band(sinks, "cosine")},
    )


def _shares(tables: Tables) -> Lines:
    states = tables["states"].frame
    body, sinks = of(states, WITHOUT_SINKS), of(states, SINKS)
    top = body.loc[body.top_1.idxmax()] if body.top_1.notna().any() else None
    words = {k: f"largest {k}" if k > 1 else "largest" for k in SHARES}
    return Lines(
        name="largest-coordinates",
        title=f"One coordinate holds up to {sinks.top_1.max():.0%} of the squared norm at sink positions, {body.top_1.max():.0%} elsewhere",
        caption=f"Share of a token's ‖x‖² in its 1, 3 and 10 largest coordinates, median over tokens (n = {count(body)} without sink positions, {count(sinks)} at them).",
        alt=("" if top is None else f"Without sinks the largest coordinate holds at most {top.top_1:.2f}, after {int(top.state)} blocks. ")
        + f"At sinks: {span(sinks.top_1)}.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="share of squared norm",
        series={**{words[k]: line(body, f"top_{k}") for k in SHARES}, "largest, at sinks": line(sinks, "top_1")},
    )


FIGURES: tuple[tuple[Callable[[Tables], Figure | None], str], ...] = (
    (_norm, "states"),
    (_positions, "positions"),
    (_additions, "blocks"),
    (_cosine, "blocks"),
    (_shares, "states"),
    (lens.divergence, "lens"),
    (lens.agreement, "lens"),
    (lens.example, "lens_choices"),
    (lens.target_rank, "lens_targets"),
    (lens.pooled, "pooled"),
    (answer.waterfall, "contributions"),
    (norms.scales, "norms"),
    (norms.gains, "norms"),
)
"""every figure with the table that it needs"""
