"""Which identities must hold whatever the model has learned? Each gate measures how far it is from holding, and says where."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses._anatomy import Model, Side, sides
from analyses._correctness_examples import Examples
from analyses._correctness_reference import Own
from analyses._residual_statistics import ADDED, STATES, deviation
from probes import Edit, intervene, record, scale
from probes.inputs import mask_at

BOUNDS = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 0.1}
"""the largest error that rounding explains, by the number format of the model: 84 units of its last place in fp32, about 15 in the
two short formats, which keep 11 and 8 binary digits and round every addition to the stream"""
ROUNDED_ROW = 4.0
"""a row of a pattern may be off by this many units of the last place, and by 1e-5 in long formats"""
NO_OP_LENGTH = 8
"""tokens of the examples on which every kind of site is edited: one pass for each kind"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one gate found: an error to hold against a bound, or the reason why it was not checked (then `measured` is NaN)."""

    measured: float
    where: str = ""
    compared: str

    def __post_init__(self) -> None:
        if self.measured == 0.0:
            object.__setattr__(self, "where", "")  # exact everywhere


@dataclass(frozen=True, kw_only=True)
class Gate:
    """An identity: what it is called, why a reader should care, and how it is measured on a model and examples."""

    name: str
    why: str
    measure: Callable[[Model, Examples], Outcome]


def unchecked(reason: str) -> Outcome:
    """A gate that does not apply, or cannot be tried here."""
    return Outcome(measured=math.nan, compared=reason)


def bound_of(name: str, dtype: torch.dtype) -> float:
    """The largest error that a gate may measure in this number format."""
    if name == "row sums":
        return max(1e-5, ROUNDED_ROW * torch.finfo(dtype).eps)
    return BOUNDS[str(dtype).removeprefix("torch.")]


def against_own(own: Own | str) -> Callable[[Model, Examples], Outcome]:
    """Every example alone through both implementations."""

    def measure(model: Model, examples: Examples) -> Outcome:
        if isinstance(own, str):
            return unchecked(own)
        pairs = [(model(*one), own(*one)) for one in examples.single]
        return _worst([(got[0], expected[0]) for got, expected in pairs], "every example alone, in both implementations")

    return measure


def batch_against_single(model: Model, examples: Examples) -> Outcome:
    if len(examples.single) < 2:
        return unchecked("there is one example only")
    inputs = examples.batch("right")
    together, mask = model(*inputs), inputs[-1]
    pairs = [(together[i][mask[i]], model(*one)[0]) for i, one in enumerate(examples.single)]
    return _worst(pairs, "the padded batch and every example alone, at real tokens")


def left_against_right(model: Model, examples: Examples) -> Outcome:
    if len(set(examples.lengths)) < 2:
        return unchecked("all examples have the same length: there is no padding")
    (left, left_mask), (right, right_mask) = ((model(*inputs), inputs[-1]) for inputs in map(examples.batch, ("left", "right")))
    pairs = [(left[i][left_mask[i]], right[i][right_mask[i]]) for i in range(len(left))]
    return _worst(pairs, "the batch padded on the left and on the right, at real tokens")


def row_sums(model: Model, examples: Examples) -> Outcome:
    inputs = examples.batch("left")
    worst = (-1.0, "")
    for site, pattern in _patterns(model, inputs):
        real = mask_at(site, inputs)
        off = (pattern.to(torch.float32).sum(-1) - 1).abs().amax(1)[real]  # of the worst head at every real query
        worst = max(worst, (_number(off.max()), site.removesuffix(".pattern")), key=lambda one: one[0])
    if worst[0] < 0:
        return unchecked("the model has no attention patterns")
    return Outcome(measured=worst[0], where=worst[1], compared="the rows of all heads with 1, at real tokens of a batch padded on the left")


def additivity(model: Model, examples: Examples) -> Outcome:
    """‖resid_post of the last block − (embeddings + all additions)‖ over the sum of their norms, the worst token; where that is not
    what defines the stream, block by block what is (see `deviation`)."""
    found = {side: _sum_error(model, side, examples.single[0]) for side in sides(model)}
    side = max(found, key=lambda one: found[one][0])
    measured, where, compared = found[side]
    return Outcome(measured=measured, where=" ".join(filter(None, (side.name, where))), compared=compared)


def causality(model: Model, examples: Examples) -> Outcome:
    side, written = sides(model)[-1], max(examples.single, key=lambda one: one[-1].shape[1])
    n = written[-1].shape[1]
    if not side.config.causal:
        return unchecked("an encoder reads in both directions")
    if n < 2:
        return unchecked("no example has two tokens")
    cuts = sorted({0, n // 4, n // 2, n - 2})
    shifted = (written[-1] + 1) % side.config.d_vocab
    later = torch.arange(n, device=shifted.device) > torch.tensor([n, *cuts], device=shifted.device)[:, None]
    changed = torch.where(later, shifted, written[-1])
    logits = model(*(part.repeat(len(changed), 1) for part in written[:-1]), changed)
    pairs = [(logits[1 + i, : cut + 1], logits[0, : cut + 1]) for i, cut in enumerate(cuts)]
    found = _worst(
        pairs, f"logits up to position {', '.join(map(str, cuts))} before and after all later tokens are exchanged", size=logits[0]
    )
    return Outcome(measured=found.measured, where=re.sub(r"example \d+, ", "", found.where), compared=found.compared)


def no_op_edit(model: Model, examples: Examples) -> Outcome:
    inputs = examples.first(2, NO_OP_LENGTH).batch("left")
    clean, mask = model(*inputs), inputs[-1]
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in model.sites())
    worst = (-1.0, "")
    for kind in kinds:
        with intervene(model, Edit(kind, scale(1.0))):
            edited = model(*inputs)
        worst = max(worst, (_relative(edited[mask], clean[mask]), kind), key=lambda one: one[0])
    return Outcome(
        measured=worst[0],
        where=worst[1],
        compared=f"the output while the values at {len(kinds)} kinds of sites, one after another, are taken times 1",
    )


GATES: tuple[Gate, ...] = (
    Gate(
        name="batch against single",
        measure=batch_against_single,
        why="Analyses run in batches: an example must not depend on those beside it.",
    ),
    Gate(
        name="left against right padding",
        measure=left_against_right,
        why="Where padding shows, every mean over a padded batch is wrong.",
    ),
    Gate(
        name="row sums",
        measure=row_sums,
        why="Entropies and masses take a row of the pattern for a distribution.",
    ),
    Gate(
        name="additivity",
        measure=additivity,
        why="The lens, contributions and patching take the residual stream apart as the sum of what is written to it.",
    ),
    Gate(
        name="causality",
        measure=causality,
        why="A model that sees what comes later predicts it: every loss is then too good.",
    ),
    Gate(
        name="no-op edit",
        measure=no_op_edit,
        why="Ablation and patching subtract two runs: what the machinery adds would be taken for an effect.",
    ),
)
"""all that need nothing but the model"""
OWN = "own implementation"
OWN_WHY = "A model that computes something else than its checkpoint makes every number here one about another model."


def gates(own: Own | str) -> tuple[Gate, ...]:
    """Every gate, in the order in which a reader meets them."""
    return (Gate(name=OWN, measure=against_own(own), why=OWN_WHY), *GATES)


def _patterns(model: Model, inputs: tuple[Tensor | None, ...]) -> Iterator[tuple[str, Tensor]]:
    """Every pattern by the name of its site, one block's at a time: only those exist at once."""
    by_step: dict[int, list[str]] = {}
    for name in model.sites():
        if name.endswith(".pattern"):
            by_step.setdefault(model.step_of(name), []).append(name)
    state = model.start(*inputs)
    for i in range(model.n_layers):
        if i not in by_step:
            state = model.step(state, i)
            continue
        with record(model, by_step[i]) as activations:
            state = model.step(state, i)
        yield from activations.items()


def _sum_error(model: Model, side: Side, one: tuple[Tensor, ...]) -> tuple[float, str, str]:
    """The error of one stack, where it is, and what was compared."""
    sites, prefix = model.sites(), side.prefix
    embedded = [prefix + name for name in ("embed", "pos_embed", "segment_embed")]
    blocks = [f"{prefix}blocks.{i}.{name}" for i in range(side.config.n_layers) for name in ("resid_pre", *ADDED, *STATES)]
    with record(model, [name for name in (*embedded, *blocks) if name in sites]) as activations:
        model(*one)
    if side.config.norm_place == "post" or not side.config.residual:
        return _block_error(side, activations)
    normed = f"{prefix}ln_embed.normalized" in sites
    start = [f"{prefix}blocks.0.resid_pre"] if normed else [name for name in embedded if name in activations]
    added = [name for name in blocks if name in activations and name.rpartition(".")[2] in ADDED]
    terms = [_wide(activations[name]) for name in (*start, *added)]
    total = _wide(activations[f"{prefix}blocks.{side.config.n_layers - 1}.resid_post"])
    off = ((total - sum(terms)).norm(dim=-1) / sum(term.norm(dim=-1) for term in terms))[0]
    words = "embeddings" if not normed else "the normed embedding"
    compared = f"the last state with {words} and {len(added)} additions, over the sum of their norms"
    return _number(off.max()), f"position {int(off.argmax())}", compared


def _block_error(side: Side, activations: Mapping[str, Tensor]) -> tuple[float, str, str]:
    """The same where a norm stands behind every sum, or nothing is summed: every state against what defines it."""
    errors = []
    for i, block in enumerate(side.stack.blocks):
        here = f"{side.prefix}blocks.{i}."
        values = {name.removeprefix(here): value for name, value in activations.items() if name.startswith(here)}
        off = deviation(block, values, torch.ones(values["resid_pre"].shape[:2], dtype=torch.bool, device=values["resid_pre"].device))
        errors.append(_number(off.max()))
    what = "the normed sum of the state before and its addition" if side.config.residual else "the addition that replaces the one before"
    worst = max(range(len(errors)), key=errors.__getitem__)
    return errors[worst], f"block {worst}", f"every state with {what}, over its norm"


def _worst(pairs: list[tuple[Tensor, Tensor]], compared: str, size: Tensor | None = None) -> Outcome:
    """The largest difference of the pairs, Float[pos, d] each, over the largest expected value (or that of `size`)."""
    largest = max(_number(one.abs().max()) for one in ([size] if size is not None else [expected for _, expected in pairs]))
    errors = [(got - expected).to(torch.float32).abs().amax(-1) for got, expected in pairs]
    places = [(_number(error.max()), f"example {i}, position {int(error.argmax())}") for i, error in enumerate(errors)]
    measured, where = max(places, key=lambda place: place[0])
    return Outcome(measured=_ratio(measured, largest), where=where, compared=compared)


def _relative(got: Tensor, expected: Tensor) -> float:
    return _ratio(_number((got - expected).to(torch.float32).abs().max()), _number(expected.abs().max()))


def _ratio(error: float, size: float) -> float:
    """The error as a share of the size: infinite where either is not finite, itself where the size is 0."""
    return math.inf if not (math.isfinite(error) and math.isfinite(size)) else error / size if size else error


def _number(value: Tensor) -> float:
    """The number, infinite where it is none."""
    number = float(value)
    return math.inf if math.isnan(number) else number


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)  # no doubles there
