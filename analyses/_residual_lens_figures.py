"""How is it shown when the answer is there? Divergence and agreement of the logit lens, one example, and pooled representations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from analyses._residual_claims import CLOSE
from analyses._residual_measure import ALL, WITHOUT_SINKS
from analyses._residual_series import BAND, band, count, first, lasting, line, of
from reports import LensGrid, Lines, Series, visible_token

MASKS = ("[MASK]", "<mask>")
"""how the tokens look that a masked-LM head is to guess"""


def divergence(tables: Tables) -> Lines:
    """How far each state's answer is from the model's own."""
    body = _body(tables)
    shown = body[body.state > 0]
    return Lines(
        part="lens",
        name="logit-lens-kl",
        title=f"The logit lens stays up to {shown.kl_mean.max():.1f} nats from the answer and comes within 1 nat after {first(body, body.kl_mean <= 1)} of {int(body.state.max())} blocks",
        caption=f"KL(final ‖ lens) over {'masked tokens' if _masked(tables) else 'tokens'} that are no sink positions, from the first block on. {BAND} (n = {count(body)}). Early divergence is mostly a matter of basis, not of missing knowledge.",
        alt="Mean KL "
        + ", ".join(f"{row.kl_mean:.2f} after {row.state}" for row in body.iloc[:: max(1, len(body) // 6)].itertuples(index=False))
        + " blocks.",
        x=shown.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="KL(final ‖ lens), nats",
        series={"mean": line(shown, "kl_mean"), "median": band(shown, "kl")},
    )


def agreement(tables: Tables) -> Lines:
    """How often each state's answer is the model's own."""
    lens, body = tables["lens"].frame, _body(tables)
    every = of(lens, ALL)
    return Lines(
        part="lens",
        name="logit-lens-agreement",
        title=f"The top token agrees with the answer at half of the positions after {first(body, body.agreement >= 0.5)} of {int(body.state.max())} blocks",
        caption=f"Share of tokens where the most probable {_answer(tables)} of the logit lens is the model's own (n = {count(body)} without sink positions).",
        alt="Agreement "
        + ", ".join(f"{row.agreement:.2f} after {row.state}" for row in body.iloc[:: max(1, len(body) // 6)].itertuples(index=False))
        + " blocks.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="share of tokens",
        series={"without sinks": line(body, "agreement"), "all": line(every, "agreement")},
    )


def example(tables: Tables) -> LensGrid:
    """The most probable tokens after every block, at every position of one text."""
    frame = tables["lens_example"].frame
    seen = frame[frame.state == 0].sort_values("position").token.tolist()
    shown = _shown_position(tables, seen)
    column = frame[frame.position == shown].sort_values("state")
    answer = column.iloc[-1]
    since = int(column.state.iloc[-1] - (column.top_token == answer.top_token)[::-1].cumprod().sum() + 1)
    word, token = visible_token(answer.top_token), visible_token(seen[shown])
    where = f"at {token}" if _masked(tables) else f"after “{token}”"
    states = sorted(frame.state.unique())
    choices = tables["lens_choices"].frame.sort_values(["state", "position", "choice"])
    shape = len(states), len(seen), -1
    targets, ranks = _targets(tables, len(states), len(seen))
    return LensGrid(
        name="logit-lens-example",
        part="lens",
        title=f"“{word}” {where} is the first choice from {since} of {int(column.state.max())} blocks on",
        caption=f"The most probable {_answer(tables)} at every position after every block, coloured by its probability; the last row is the model's own prediction. One text of {len(seen)} tokens.",
        alt=f"At {'position ' + str(shown) if _masked(tables) else 'the last position'} the model predicts “{word}” with probability {answer.probability:.2f}, first and lastingly after {since} blocks.",
        probabilities=choices.probability.to_numpy(dtype=float).reshape(shape),
        tokens=choices.token.to_numpy(dtype=object).reshape(shape),
        layers=[str(i) for i in states],
        positions=seen,
        layer_label="blocks passed",
        targets=targets,
        ranks=ranks,
    )


def target_rank(tables: Tables) -> Lines:
    """Where the right answer stands among all tokens after every block: at the end of the text, and at its median position."""
    frame = tables["lens_targets"].frame
    by_state = frame.groupby("state")["rank"].median()
    last = frame[frame.position == frame.position.max()].sort_values("state")
    word, n = visible_token(last.target.iloc[0]), frame.position.nunique()
    ranks = last["rank"].to_numpy(dtype=float)
    best = int(ranks.min())
    title = f"“{word}” at position {int(last.position.iloc[0])} ends at rank {int(ranks[-1]):,}"
    return Lines(
        name="logit-lens-target-rank",
        part="lens",
        title=f"{title}{'' if ranks[-1] == best else f', its best is {best:,}'}, from {int(ranks[0]):,} at the embedding",
        caption=f"Rank of the right answer, {'what the mask hides' if _masked(tables) else 'the token that follows in the text'}, among all tokens; 1 is the first choice. n = {n} positions of one text.",
        alt=f"Rank of “{word}”: " + ", ".join(f"{row.rank:,} after {row.state}" for row in last.iloc[:: max(1, len(last) // 6)].itertuples(index=False)) + " blocks.",
        x=by_state.index.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="rank",
        log_y=True,
        series={f"“{word}”": Series(y=ranks)} | ({f"median of {n} positions": Series(y=by_state.to_numpy(dtype=float))} if n > 1 else {}),
    )


def _targets(tables: Tables, n_states: int, n_positions: int) -> tuple[list[str] | None, np.ndarray | None]:
    """The right answers and their ranks on the grid of the example; nothing where there is none."""
    if "lens_targets" not in tables:
        return None, None
    frame = tables["lens_targets"].frame
    named = dict(zip(frame.position, frame.target, strict=True))
    grid = frame.pivot(index="state", columns="position", values="rank").reindex(index=range(n_states), columns=range(n_positions))
    return [named.get(i, "") for i in range(n_positions)], grid.to_numpy(dtype=float)


def pooled(tables: Tables) -> Lines:
    """How near each state's average over tokens is to the final one, and to those of the other texts."""
    frame = tables["pooled"].frame
    body, every = of(frame, WITHOUT_SINKS), of(frame, ALL)
    n_blocks, there = int(body.state.max()), body.cosine_median >= CLOSE
    nearest = (
        f" The text's own final representation is the nearest of all from {lasting(body, body.nearest == 1)} blocks on."
        if body.nearest.notna().all()
        else ""
    )
    return Lines(
        part="lens",
        name="pooled-representation",
        title=f"The pooled representation comes within cosine {CLOSE} of the final one after {first(body, there)} of {n_blocks} blocks",
        caption=f"Cosine between every state's average over tokens and the final one. Bands hold 5–95 % of the texts (n = {int(body.n_texts.max())} texts). The cosine to other texts' final representations says how much all texts share.{nearest}",
        alt="Median cosine without sinks "
        + ", ".join(f"{row.cosine_median:.2f} after {row.state}" for row in body.itertuples(index=False))
        + " blocks.",
        x=body.state.to_numpy(dtype=float),
        x_label="blocks passed",
        y_label="cosine to the final representation",
        series={"without sinks": band(body, "cosine"), "all": line(every, "cosine_median"), "other texts": line(body, "others_median")},
    )


def _shown_position(tables: Tables, seen: list[str]) -> int:
    """The position that the title is about: the last one; at masked tokens the first of them."""
    if not _masked(tables):
        return len(seen) - 1
    return next((i for i, token in enumerate(seen) if token in MASKS), len(seen) - 1)


def _masked(tables: Tables) -> bool:
    return tables["stacks"].frame["head"].iloc[0] == "mlm"


def _answer(tables: Tables) -> str:
    return "token" if _masked(tables) else "next token"


def _body(tables: Tables) -> pd.DataFrame:
    return of(tables["lens"].frame, WITHOUT_SINKS)
