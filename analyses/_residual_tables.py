"""Which tables hold the residual stream, and what do their columns mean?"""

from __future__ import annotations

import dataclasses

import pandas as pd

from analyses._contract import Tables, table
from analyses._residual_statistics import SHARES
from reports import Table

STACK = ("", "decoder or encoder")
GATES = ["stack", "gate", "layer", "measured", "bound"]

STATE, OVER, COUNT = (
    ("blocks", "how many blocks the stream has passed"),
    ("", "all positions, those that are no sink positions, or the sink positions"),
    ("tokens", "positions over all texts"),
)


def by_stack(tables: Tables) -> dict[str, Tables]:
    """The tables of every stack on its own, in the order in which they run; a stack has no table where it has no rows."""
    names = tables["gates"].frame["stack"].unique()
    return {name: {key: part for key, whole in tables.items() if _kept(key, part := _rows_of(whole, name))} for name in names}


def _kept(key: str, part: Table) -> bool:
    return key == "massive" or len(part.frame) > 0


def _rows_of(whole: Table, stack: str) -> Table:
    frame = whole.frame
    return dataclasses.replace(whole, frame=frame[frame["stack"] == stack].reset_index(drop=True))


def gates_table(frame: pd.DataFrame) -> Table:
    """The identity that defines every block, and how far it is from it."""
    return table(
        frame,
        "Is the stream what defines it?",
        stack=STACK,
        gate=(
            "",
            "additivity: resid_post = resid_pre + additions; normed sum: every state = norm(state + addition); replacement: every state = addition",
        ),
        layer=("", "block"),
        measured=("1", "largest deviation over tokens, over the sum of the parts' norms (normed sum: over the state's norm)"),
        bound=("1", "largest that rounding explains"),
    )


def stacks_table(frame: pd.DataFrame) -> Table:
    """The choices of every stack, and how much was read."""
    return table(
        frame,
        "What was read.",
        stack=STACK,
        n_layers=("blocks", "how many blocks the stack has"),
        norms=(
            "",
            "where the norms of a block stand: before each addition is computed (pre), behind each sum (post), around (sandwich) or behind (output) each sub-layer",
        ),
        pinned=("", "whether a norm layer sets the norm of every state"),
        head=("", "what reads the last state: lm the next token, mlm the masked token, none"),
        n_texts=("texts", "how many texts"),
        n_tokens=("tokens", "real tokens over all texts"),
    )


def _spread(name: str, unit: str, meaning: str) -> dict[str, tuple[str, str]]:
    return {
        f"{name}_median": (unit, f"median of {meaning}"),
        f"{name}_p05": (unit, "5th percentile"),
        f"{name}_p95": (unit, "95th percentile"),
    }


def states_table(frame: pd.DataFrame) -> Table:
    """Norms and shares of every state."""
    shares = {f"top_{k}": ("1", f"share of ‖x‖² in the {k} largest coordinates of a token, median over tokens") for k in SHARES}
    return table(
        frame,
        "The residual stream after every block.",
        stack=STACK,
        state=STATE,
        positions=OVER,
        n_tokens=COUNT,
        **_spread("norm", "1", "the L2 norm"),
        norm_max=("1", "largest norm"),
        mean_log_norm=("1", "mean of ln norm"),
        **shares,
    )


def blocks_table(frame: pd.DataFrame) -> Table:
    """Additions, cosine and influence of every block."""
    added = {
        **_spread("attn", "1", "‖attn_out‖/‖resid_pre‖"),
        **_spread("cross", "1", "‖cross_attn_out‖/‖resid_mid‖"),
        **_spread("mlp", "1", "‖mlp_out‖ over the norm of the stream that it is added to, resid_mid in a plain decoder"),
    }
    there = {name: what for name, what in added.items() if name in frame}
    return table(
        frame,
        "What every block adds.",
        stack=STACK,
        layer=("", "block"),
        positions=OVER,
        n_tokens=COUNT,
        **there,
        **_spread("cosine", "1", "cosine between resid_pre and resid_post"),
        influence=("1", "1 − mean cosine (ShortGPT)"),
    )


def growth_table(frame: pd.DataFrame) -> Table:
    """Fits of the norm over depth."""
    return table(
        frame,
        "How the norm grows with depth, l ≥ 1; no numbers where norm layers set it.",
        stack=STACK,
        positions=OVER,
        rate=("1", "g of norm ~ g^l"),
        r2_exponential=("1", "R² of that in ln norm"),
        power=("1", "p of norm ~ l^p"),
        r2_power=("1", "R² of that"),
        r2_square_root=("1", "R² of norm ~ √l"),
        n_states=("states", "points of the fit"),
    )


def massive_table(frame: pd.DataFrame, n_texts: int, n_states: int) -> Table:
    """Massive activations by place."""
    return table(
        frame,
        f"Massive activations (Sun et al. 2024) in {n_texts} texts and {n_states} states.",
        stack=STACK,
        position=("", "position in the text"),
        dimension=("", "coordinate of the stream"),
        first_state=STATE,
        last_state=STATE,
        n_states=("states", "states in which it is massive"),
        n_texts=("texts", "texts in which it is"),
        value_median=("1", "median of its values"),
        value_largest=("1", "the largest of them in magnitude"),
        ratio=("1", "largest magnitude over the median magnitude of the hidden state"),
    )


def lens_table(frame: pd.DataFrame) -> Table:
    """Divergence and agreement of every state."""
    return table(
        frame,
        "The logit lens on text.",
        stack=STACK,
        state=STATE,
        positions=OVER,
        n_tokens=COUNT,
        kl_mean=("nats", "mean KL(final ‖ lens)"),
        **_spread("kl", "nats", "KL(final ‖ lens)"),
        agreement=("1", "share of positions with the same most probable token"),
    )


def lens_example_table(frame: pd.DataFrame) -> Table:
    """What every state of one text says."""
    return table(
        frame,
        "The logit lens on the example.",
        stack=STACK,
        state=STATE,
        position=("", "position"),
        token=("", "the token there"),
        top_token=("", "most probable token"),
        probability=("1", "its probability"),
        kl=("nats", "KL(final ‖ lens)"),
    )


def lens_choices_table(frame: pd.DataFrame) -> Table:
    """The first choices of every state of one text."""
    return table(
        frame,
        "The first choices of the logit lens on the example.",
        stack=STACK,
        state=STATE,
        position=("", "position"),
        choice=("", "1: the most probable token"),
        token=("", "the token"),
        probability=("1", "its probability"),
    )


def lens_targets_table(frame: pd.DataFrame) -> Table:
    """Where the right answer stands after every block."""
    return table(
        frame,
        "The right answer in the logit lens on the example: the text's next token, or the masked one.",
        stack=STACK,
        state=STATE,
        position=("", "position"),
        target=("", "the right answer there"),
        rank=("", "its place among all tokens, 1: the most probable"),
        probability=("1", "its probability"),
    )


def contributions_table(frame: pd.DataFrame) -> Table:
    """What every part writes of one logit difference."""
    return table(
        frame,
        "Direct logit attribution: what each part adds to logit(answer) − logit(other) through the frozen final norm.",
        stack=STACK,
        layer=("", "block; −1: what enters block 0, number of blocks: biases behind the last"),
        part=("", "embedding, attention, cross-attention, MLP, biases of final norm and head"),
        contribution=("logits", "its direct share of the logit difference"),
    )


def answer_table(frame: pd.DataFrame) -> Table:
    """Which answer was asked about, and how well its parts add up."""
    return table(
        frame,
        "The logit difference whose parts were attributed.",
        stack=STACK,
        prompt=("", "what the answer stands behind"),
        answer=("", "the target, or where there is none the model's first choice"),
        other=("", "the foil, or the second choice"),
        measured=("logits", "logit(answer) − logit(other) of a pass without observation, before a cap"),
        total=("logits", "sum of all contributions"),
        error=("logits", "total − measured: rounding"),
    )


def norms_table(frame: pd.DataFrame) -> Table:
    """Scale and gain of every norm layer."""
    words = {
        f"scale_{word}": ("1", f"{word} over tokens of what the norm divides by; none in a batch norm") for word in ("min", "median", "max")
    } | {f"gain_{word}": ("1", f"{word} over coordinates of the gain") for word in ("min", "median", "max")}
    layer = ("", "block; for ln_final the number of blocks, for ln_embed −1")
    return table(frame, "The norm layers.", stack=STACK, norm=("", "norm layer"), layer=layer, positions=OVER, **words)


def positions_table(frame: pd.DataFrame, n_texts: int) -> Table:
    """The norm by position."""
    return table(
        frame,
        f"The norm by position, median over {n_texts} texts.",
        stack=STACK,
        state=STATE,
        position=("", "position in the text, padding not counted"),
        norm=("1", "L2 norm, median over texts"),
        n_texts=("texts", "texts that are as long"),
        n_sinks=("texts", "texts in which this is a sink position"),
    )


def pooled_table(frame: pd.DataFrame) -> Table:
    """Pooled representations of stacks that no head reads."""
    return table(
        frame,
        "When is the representation there? Final norm of every state, averaged over tokens.",
        stack=STACK,
        state=STATE,
        positions=("", "averaged over all positions, or those that are no sink positions"),
        n_texts=("texts", "texts"),
        **_spread("cosine", "1", "its cosine to the final representation of its text"),
        others_median=("1", "median cosine to the final representations of the other texts"),
        nearest=("1", "share of texts whose own final representation is the nearest of all texts'"),
    )
