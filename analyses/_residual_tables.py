"""Which tables hold the residual stream, and what do their columns mean?"""

from __future__ import annotations

import pandas as pd

from analyses import _residual_measure as measured
from analyses._contract import table
from reports import Table

STATE, OVER, COUNT = (
    ("blocks", "how many blocks the stream has passed"),
    ("", "all positions, those that are no sink positions, or the sink positions"),
    ("tokens", "positions over all texts"),
)


def gates_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "Is the stream the sum of its parts?",
        gate=("", "identity"),
        layer=("", "block"),
        measured=("1", "largest deviation over tokens, over the sum of the parts' norms"),
        bound=("1", "largest that rounding explains"),
    )


def _spread(name: str, unit: str, meaning: str) -> dict[str, tuple[str, str]]:
    return {
        f"{name}_median": (unit, f"median of {meaning}"),
        f"{name}_p05": (unit, "5th percentile"),
        f"{name}_p95": (unit, "95th percentile"),
    }


def states_table(frame: pd.DataFrame) -> Table:
    shares = {f"top_{k}": ("1", f"share of ‖x‖² in the {k} largest coordinates of a token, median over tokens") for k in measured.SHARES}
    return table(
        frame,
        "The residual stream after every block.",
        state=STATE,
        positions=OVER,
        n_tokens=COUNT,
        **_spread("norm", "1", "the L2 norm"),
        norm_max=("1", "largest norm"),
        mean_log_norm=("1", "mean of ln norm"),
        **shares,
    )


def blocks_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "What every block adds.",
        layer=("", "block"),
        positions=OVER,
        n_tokens=COUNT,
        **_spread("attn", "1", "‖attn_out‖/‖resid_pre‖"),
        **_spread("mlp", "1", "‖mlp_out‖/‖resid_mid‖"),
        **_spread("cosine", "1", "cosine between resid_pre and resid_post"),
        influence=("1", "1 − mean cosine (ShortGPT)"),
    )


def growth_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "How the norm grows with depth, l ≥ 1.",
        positions=OVER,
        rate=("1", "g of norm ~ g^l"),
        r2_exponential=("1", "R² of that in ln norm"),
        power=("1", "p of norm ~ l^p"),
        r2_power=("1", "R² of that"),
        r2_square_root=("1", "R² of norm ~ √l"),
        n_states=("states", "points of the fit"),
    )


def massive_table(frame: pd.DataFrame, n_texts: int, n_states: int) -> Table:
    return table(
        frame,
        f"Massive activations (Sun et al. 2024) in {n_texts} texts and {n_states} states.",
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
    return table(
        frame,
        "The logit lens on text.",
        state=STATE,
        positions=OVER,
        n_tokens=COUNT,
        kl_mean=("nats", "mean KL(final ‖ lens)"),
        **_spread("kl", "nats", "KL(final ‖ lens)"),
        agreement=("1", "share of tokens with the same most probable next token"),
    )


def lens_example_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "The logit lens on the example.",
        state=STATE,
        position=("", "position"),
        token=("", "the token there"),
        top_token=("", "most probable next token"),
        probability=("1", "its probability"),
        kl=("nats", "KL(final ‖ lens)"),
    )


def norms_table(frame: pd.DataFrame) -> Table:
    words = {f"scale_{word}": ("1", f"{word} over tokens of what the norm divides by") for word in ("min", "median", "max")} | {
        f"gain_{word}": ("1", f"{word} over coordinates of the gain") for word in ("min", "median", "max")
    }
    return table(
        frame, "The norm layers.", norm=("", "norm layer"), layer=("", "block; for ln_final the number of blocks"), positions=OVER, **words
    )
