"""Activation patching: which activations carry what tells a prompt from its corrupt version?

Two prompts of the same length differ in a few tokens, and so in what they make of an answer. One activation of one run takes its value from
the other run; what that moves of the difference between the runs, it carries. Nothing is estimated (Vig et al. 2020; Meng et al. 2022; Wang et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from analyses import _patching_circuit as circuits
from analyses import _patching_evidence as said
from analyses import _patching_figures as figures
from analyses import _patching_measure as measured
from analyses._anatomy import Model
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus
from model import EncoderDecoder
from probes.sweep.patching import Direction
from reports import Figure, Verdict


@dataclass(frozen=True, kw_only=True)
class Patching(Analysis):
    """Which activations carry what tells a prompt from its corrupt version?"""

    name: ClassVar[str] = "patching"
    title: ClassVar[str] = "Activation patching"
    question: ClassVar[str] = "Which heads, layers and tokens carry what tells a prompt from its corrupt version?"
    method: ClassVar[str] = (
        "Each prompt has a corrupt version with as many tokens. denoise: the corrupt prompt is run and one activation takes its value from the clean run; noise: the clean prompt is run and one "
        "activation takes its value from the corrupt run. Share = (patched − the run that is patched) / (the other run − the run that is patched): 0 where the patch changes nothing, 1 where the metric becomes "
        "that of the other run. The metric of a decoder is the logit difference target − foil after the last token, that of an encoder-decoder the loss of the target, whose source is corrupt. Heads: the "
        "output z of one head at all positions, mean effect over mean difference of the prompts; 95 % bootstrap percentile intervals over prompts; family-wise p of the mean effect by sign flips of the largest "
        "statistic over all heads (Nichols & Holmes 2002). Circuit: path patches (Wang et al. 2023; Goldowsky-Dill et al. 2023) between the input, the at most 8 strongest heads and the logits, on at most 8 prompts. Maps: the residual stream, attention's and the feed-forward network's output of one layer at one position, for single prompts, since positions of different prompts are not the same "
        "places. Prompts whose two metrics differ by less than 10 % of the clean one are left out and counted. Every number is that of a whole forward pass, up to rounding."
    )
    limits: ClassVar[str] = (
        "Only what differs between the two prompts is seen: what a model needs in both is invisible. Denoising finds what is enough by itself in a corrupt run, noising what is needed in a clean one; heads that back "
        "each other up differ in the two. Shares of single activations need not add up to 1, and can exceed it. Shares of the stream say where the information is, not who put it there. A few "
        "prompts from a few templates are less independent than the intervals take them to be."
    )
    order: ClassVar[int] = 35

    n_prompts: int = 16
    """how many prompts with a corrupt version of equal length are used, the first of the file"""
    n_maps: int = 2
    """for how many of them layers and tokens are mapped"""
    n_positions: int = 24
    """how many positions a map has at most: those that differ, and the last ones"""
    direction: Direction = "denoise"
    """denoise: clean values into the corrupt run; noise: corrupt values into the clean run"""

    def __post_init__(self) -> None:
        for field, least in (("n_prompts", 1), ("n_maps", 0), ("n_positions", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")
        if self.direction not in said.VERBS:
            raise ValueError(f"direction must be denoise or noise, got {self.direction!r}")

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        reason = measured.why_not(model, corpus)
        asked = () if reason else measured.candidates(model, corpus, self.n_prompts)
        prompts = measured.prompts_frame(model, asked)
        used = {i: p for i, p in enumerate(asked) if prompts["used"].iloc[i]}
        if asked and not used:
            reason = f"None of {len(asked)} prompts can be used: with its corrupt version, the metric differs by less than 10 % of the clean one."
        heads, edges = pd.DataFrame(columns=measured.HEAD_COLUMNS), pd.DataFrame(columns=circuits.EDGE_COLUMNS)
        maps = measured.maps(model, {}, self.direction, self.n_positions)
        gates = pd.DataFrame(columns=["gate", "measured", "bound"])
        if used:
            pairs = measured.pairs_of(model, list(used.values()))
            heads, gates = measured.heads(model, pairs, self.direction, self.seed), measured.gates(model, pairs)
            maps = measured.maps(model, dict(list(used.items())[: self.n_maps]), self.direction, self.n_positions)
            edges = circuits.circuit(model, pairs, heads, self.direction)
        metric = ("loss of the target", "nats per token") if isinstance(model, EncoderDecoder) else ("logit difference", "logits")
        task = pd.DataFrame([(*metric, self.direction, len(used), reason)], columns=["metric", "unit", "direction", "n", "reason"])
        return tables_of(heads, maps, edges, prompts, gates, task)

    def judge(self, tables: Tables) -> Verdict:
        task, gates = tables["task"].frame.iloc[0], tables["gates"].frame
        if task["reason"]:
            evidence = tuple(said.evidence(tables)) if len(tables["prompts"].frame) else ()
            return Verdict(status="inconclusive", claim=task["reason"], evidence=evidence)
        evidence = tuple(said.evidence(tables))
        for gate in gates.itertuples():
            if not gate.measured <= gate.bound:
                how = f"{gate.gate} must leave the metric as it is, and moved it by {gate.measured:.2g}, allowed are {gate.bound:.2g}"
                return Verdict(status="fail", claim=f"The measurement is not to be trusted: {how}.", evidence=evidence)
        mean, error, n = said.gap(tables)
        if not abs(mean) >= said.STANDARD_ERRORS * error:
            how = f"on {n} prompts it is {mean:.2f} {task['unit']}, less than {said.STANDARD_ERRORS:.0f} standard errors of {error:.2f}"
            how = how if n > 1 else "one prompt has no standard error"
            claim = f"Clean and corrupt prompts cannot be said to differ in one way: {how}; shares of the difference mean little."
            return Verdict(status="inconclusive", claim=claim, evidence=evidence)
        status = "pass" if len(said.clear(tables["heads"].frame)) else "inconclusive"
        return Verdict(status=status, claim=said.claim(tables), evidence=evidence, why=said.WHY)

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables)

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        asked = () if measured.why_not(model, corpus) else measured.candidates(model, corpus, self.n_prompts)
        used = int(measured.prompts_frame(model, asked)["used"].sum())
        facts = {
            "prompts": f"{len(asked)} with a corrupt version of equal length (asked for: {self.n_prompts}), of which {used} were used, "
            f"{len(asked) - used} differ by less than 10 % of the clean metric"
        }
        if not measured.why_not(model, corpus) and (n := measured.n_of_other_length(model, corpus)):
            facts["prompts of unequal length"] = f"{n}, left out: their corrupt version has another number of tokens"
        if asked:
            facts["first prompt"] = f"{asked[0].prompt!r} against {asked[0].corrupt!r}"
        return facts


def tables_of(
    heads: pd.DataFrame, maps: pd.DataFrame, edges: pd.DataFrame, prompts: pd.DataFrame, gates: pd.DataFrame, task: pd.DataFrame
) -> Tables:
    """The tables of the answer."""
    unit = task["unit"].iloc[0]
    share = "share of the difference between the two runs that the patch moves"
    return {
        "heads": table(
            heads.astype({"share": float, "low": float, "high": float, "p_family": float, "effect": float}),
            "What each head's output carries, patched at all positions, mean over prompts.", attention=("", "self, or of which stack, or cross"),
            layer=("", "block of its stack"), head=("", "query head in its block"), share=("1", f"{share}, mean over mean"), low=("1", "lower end of the 95 % interval"),
            high=("1", "upper end of the 95 % interval"), p_family=("1", "p of the mean effect, corrected for all heads"),
            effect=(unit, "patched − the run that is patched, mean over prompts"), n=("prompts", "prompts"),
        ),
        "maps": table(
            maps, "What one layer carries at one position of one prompt.", example=("", "number of the prompt"), stack=("", "encoder or decoder, empty where there is one stack"),
            part=("", "the residual stream that enters the layer, or what its attention or feed-forward network writes"), layer=("", "block of its stack"),
            position=("", "position in the prompt"), token=("", "clean token there"), corrupt_token=("", "corrupt token there"), share=("1", share),
        ),
        "edges": table(
            edges.astype({"share": float, "effect": float}), "Paths between the input, the strongest heads and the answer.", sender=("", "the part that writes"),
            receiver=("", "the part that reads it"), through=("", "read as query (q), key (k) or value (v) alone, or all of them together"), share=("1", f"{share}, mean over mean"),
            effect=(unit, "patched − the run that is patched, mean over prompts"), n=("prompts", "prompts"),
        ),
        "prompts": table(
            prompts, "Both versions of each prompt.", example=("", "number of the prompt"), prompt=("", "clean text"), corrupt=("", "corrupt text"), target=("", "right answer"),
            foil=("", "wrong answer"), clean_metric=(unit, "metric of the clean run"), corrupt_metric=(unit, "metric of the corrupt run"),
            used=("", "do the two differ by at least 10 % of the clean one?"),
        ),
        "gates": table(
            gates.astype({"measured": float, "bound": float}), "Identities of patching: what the machinery itself adds.", gate=("", "identity"),
            measured=(unit, "largest deviation"), bound=(unit, "largest allowed: 100 units of rounding of the largest output, or of 1"),
        ),
        "task": table(
            task, "What was asked.", metric=("", "what the shares are shares of"), unit=("", "its unit"), direction=("", "which run is patched"),
            n=("prompts", "prompts used"), reason=("", "why nothing could be measured, empty where it could"),
        ),
    }


ANALYSIS = Patching
