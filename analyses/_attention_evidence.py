"""Which numbers stand behind the verdict on attention, and what does it claim?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analyses._anatomy import head_label
from analyses._attention_inputs import SHORTEST
from analyses._attention_scores import WITHOUT, Thresholds
from analyses._contract import Tables
from reports import Evidence, Verdict

COLLAPSED, UNIFORM = 0.05, 0.95
"""normalised entropy below and above which a head is called so: conventions of this analysis, no published value exists"""
JUDGED = {
    "previous_token": "previous-token score",
    "previous_token_without_first": "previous-token score without the first token",
    "induction": "induction score",
    "induction_without_first": "induction score without the first token",
    "duplicate_token": "duplicate-token score",
}
"""The scores on repeated random tokens, where there are some; else those on text."""
JUDGED_ON_TEXT = {"previous_token_text": "previous-token score", "next_token_text": "next-token score"}
LEFT_OUT = {"first": "the first token", "ends": "the first and the last token"}


@dataclass(frozen=True)
class Part:
    """One kind of attention in the tables: what its heads are called, what it sees, and its heads."""

    attention: str
    name: str
    sees: str
    heads: pd.DataFrame
    alone: bool
    """is it the model's only kind?"""

    @property
    def before(self) -> str:
        """What stands before a name where there are several kinds."""
        return "" if self.alone else f"{self.name}: "

    @property
    def entropy(self) -> str:
        """The column of the entropy that is judged: without the sinks."""
        return f"entropy_normalised_without_{WITHOUT[self.sees]}"

    @property
    def left_out(self) -> str:
        """The sinks in words."""
        return LEFT_OUT[WITHOUT[self.sees]]

    @property
    def repeats(self) -> bool:
        """Was the model asked about repeated random tokens? Then its previous-token heads are judged on them, not on text."""
        return "previous_token" in self.heads

    def has(self, column: str) -> bool:
        """Is there a number in this column?"""
        return column in self.heads and bool(self.heads[column].notna().any())


def parts_of(tables: Tables) -> Iterator[Part]:
    """The kinds of attention, one after another."""
    kinds, heads = tables["attentions"].frame, tables["heads"].frame
    for kind in kinds.itertuples(index=False):
        yield Part(kind.attention, kind.name, kind.sees, heads[heads["attention"] == kind.attention], len(kinds) == 1)


def label_of(row: pd.Series) -> str:
    """The name of the head in a row."""
    return head_label(row["attention"], int(row["layer"]), int(row["head"]))


def best(part: Part, column: str) -> str:
    """The head with the largest score, and the score."""
    if not part.has(column):
        return "undefined"
    row = part.heads.loc[part.heads[column].idxmax()]
    return f"{label_of(row)}, {row[column]:.2f}"


def verdict(tables: Tables, above: Thresholds) -> Verdict:
    """Patterns that are no probabilities fail; most heads of one kind collapsed or uniform is a warning; else what was found."""
    gates, parts = tables["gates"].frame, list(parts_of(tables))
    if gates.empty:
        claim = f"Nothing was measured: neither the text nor half the context holds {SHORTEST} tokens."
        if len(parts) > 1:
            claim = "Nothing was measured: neither the prompts nor the text have a line that the encoder can read."
        return Verdict(status="inconclusive", claim=claim)
    if gates["measured"].isna().any():
        return Verdict(status="fail", claim="The attention patterns hold values that are not numbers.")
    evidence, broken = _gates(gates, parts), gates[gates["measured"] > gates["bound"]]
    if not broken.empty:
        return Verdict(status="fail", claim=_broken(broken.iloc[0], parts), evidence=evidence)
    judged = [part for part in parts if part.has(part.entropy)]
    if not judged:
        why = f"there is no text of {SHORTEST} tokens, or nothing beside {parts[0].left_out} is attended to"
        return Verdict(status="inconclusive", claim=f"No head has a defined entropy on text: {why}.", evidence=evidence)
    states = {part.attention: _state(part) for part in judged}
    shares = tuple(e for part in judged for e in _shares(part))
    described = tuple(e for part in parts for e in _described(part, above))
    return Verdict(
        status="warn" if any(states.values()) else "pass",
        claim=_claim(parts, states, tables, above),
        evidence=(*evidence, *shares, *described, *_losses(tables)),
        why=_why(parts),
    )


def _gates(gates: pd.DataFrame, parts: list[Part]) -> tuple[Evidence, ...]:
    before = {part.attention: part.before for part in parts}
    return tuple(
        Evidence(
            name=before[g.attention] + g.gate,
            measured=g.measured,
            unit="1",
            threshold=g.bound,
            relation="==" if g.bound == 0 else "<=",
            source="algebra: a row of a pattern is a probability over the keys that its query sees; the bound is rounding",
        )
        for g in gates.itertuples(index=False)
    )


def _broken(gate: pd.Series, parts: list[Part]) -> str:
    part = next(part for part in parts if part.attention == gate["attention"])
    whose = "The patterns" if part.alone else f"The patterns of {part.name}"
    keys = "earlier tokens" if part.sees == "causal" else "real tokens"
    off = f"{gate['gate']} is {gate['measured']:.2g}, of which rounding explains at most {gate['bound']:.0e}"
    return f"{whose} are not probabilities over {keys}: {off}."


def _share(part: Part, side: str) -> float:
    entropy = part.heads[part.entropy].dropna()
    return float((entropy < COLLAPSED).mean() if side == "below" else (entropy > UNIFORM).mean())


def _shares(part: Part) -> Iterator[Evidence]:
    """How many heads are collapsed, how many uniform. To point at single source tokens is what an alignment does: no collapse."""
    for side, bound in (("below", COLLAPSED), ("above", UNIFORM)):
        judged = (
            {} if part.sees == "cross" and side == "below" else {"threshold": 0.5, "relation": "<", "source": "convention of this analysis"}
        )
        name = f"{part.before}share of heads with normalised entropy {side} {bound}, without {part.left_out}"
        yield Evidence(name=name, measured=_share(part, side), unit="1", **judged)


def _state(part: Part) -> str:
    if part.sees != "cross" and _share(part, "below") >= 0.5:
        one = "first one" if part.sees == "causal" else "first and the last one"
        return f"most heads look at a single token even without the {one}"
    return "most heads spread evenly over all tokens, as in an untrained model" if _share(part, "above") >= 0.5 else ""


def _described(part: Part, above: Thresholds) -> Iterator[Evidence]:
    """What the claim counts: the best head of a kind, and how many pass its threshold."""
    demos, sink = "threshold of the ARENA and TransformerLens demos", "ε of Gu et al. 2024"
    masses = JUDGED if part.repeats else JUDGED_ON_TEXT
    counted = [(column, what, above.mass, demos) for column, what in masses.items()]
    if part.sees != "causal":
        counted += [(f"{end}_token_mass", f"mass on the {end} token", above.sink, sink) for end in ("first", "last")]
        monotone = f"monotonicity_without_{WITHOUT[part.sees]}"
        counted.append((monotone, f"monotonicity without {part.left_out}", above.monotone, "convention of this analysis"))
    for column, what, threshold, source in counted:
        if part.has(column):
            top = part.heads.loc[part.heads[column].idxmax()]
            n = float((part.heads[column] > threshold).sum())
            yield Evidence(name=f"{part.before}largest {what}", measured=float(top[column]), unit="1", where=label_of(top))
            yield Evidence(name=f"{part.before}heads with a {what} above {threshold}", measured=n, unit="heads", source=source)
    if part.has("sink_share"):
        name = f"{part.before}Sink_1, share of heads with a sink at the first token"
        yield Evidence(name=name, measured=float(part.heads["sink_share"].mean()), unit="1", source=f"Gu et al. 2024, ε = {above.sink}")
    sinks = {"causal": ("with the first token", "without it"), "full": ("with the first and the last token", "without them")}
    for column, how in zip(("entropy_normalised", part.entropy), sinks["causal" if part.sees == "causal" else "full"], strict=True):
        if part.has(column) or part.alone:
            yield Evidence(
                name=f"{part.before}median normalised entropy of a head, {how}", measured=float(part.heads[column].median()), unit="1"
            )


def _losses(tables: Tables) -> Iterator[Evidence]:
    if "repeats" in tables:
        for row in tables["repeats"].frame.itertuples(index=False):
            yield Evidence(name=f"loss on random tokens, {row.half} occurrence", measured=row.loss, unit="nats")


def _claim(parts: list[Part], states: dict[str, str], tables: Tables, above: Thresholds) -> str:
    """Counts and thresholds stand in the evidence; of several kinds of attention each says what tells most about it, cross-attention first."""
    said = []
    for part in sorted(parts, key=lambda part: part.sees != "cross"):
        found = list(_found(part, tables, above))
        words = "; ".join([*filter(None, [states.get(part.attention)]), *(found if part.alone else found[-1:])])
        if words:
            said.append(words if part.alone else f"{'cross-attention' if part.sees == 'cross' else part.attention}: {words}")
    claim = "; ".join(said)
    return claim[0].upper() + claim[1:] + "."


def _found(part: Part, tables: Tables, above: Thresholds) -> Iterator[str]:
    """What the heads of one kind do; what tells most comes last."""
    n = len(part.heads)

    def count(column: str, threshold: float) -> int:
        return int((part.heads[column] > threshold).sum())

    if part.repeats:
        if part.has("previous_token"):
            yield (
                f"{count('previous_token', above.mass)} of {n} heads look at the previous token (best {best(part, 'previous_token')}) "
                f"and {count('induction_without_first', above.mass)} are induction heads (best {best(part, 'induction_without_first')})"
            )
    elif part.has("previous_token_text"):
        words = (
            f"{count('previous_token_text', above.mass)} of {n} heads look at the previous token (best {best(part, 'previous_token_text')})"
        )
        if part.has("next_token_text"):
            words += f" and {count('next_token_text', above.mass)} at the next one (best {best(part, 'next_token_text')})"
        yield words
    heads = f" of {n} heads" if not part.alone else ""
    if part.has("sink_share"):
        yield f"{part.heads['sink_share'].mean():.0%}{heads and ' of heads'} sink into the first token"
    if part.has("last_token_mass"):
        first, last = (count(f"{end}_token_mass", above.sink) for end in ("first", "last"))
        yield f"{first}{heads} rest on the first token{_named(part, tables, 0)}, {last} on the last{_named(part, tables, -1)}"
    monotone = f"monotonicity_without_{WITHOUT[part.sees]}"
    if part.has(monotone):
        yield f"{count(monotone, above.monotone)} of {n} heads follow the source monotonically (best {best(part, monotone)})"


def _named(part: Part, tables: Tables, place: int) -> str:
    """The text of the example's first or last key, in brackets, where it is a special token and so stands in all texts."""
    kinds, tokens = tables["attentions"].frame, tables["tokens"].frame
    keys = kinds.loc[kinds["attention"] == part.attention, "keys"].iloc[0]
    token = tokens.loc[tokens["sequence"] == keys, "token"].iloc[place]
    return f" {token}" if len(token) > 2 and token[0] + token[-1] in ("[]", "<>") else ""


def _why(parts: list[Part]) -> str:
    if all(part.sees == "causal" for part in parts):
        return "An attention sink makes idle heads look sharp and hides induction: only the scores without the first token tell them apart."
    return "Heads that rest on a first or last token look sharp and write little: only the scores without them tell heads apart."
