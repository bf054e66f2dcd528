"""How exactly does every family load, and do all of its sites act? What the contract tests measure, and the table of docs/families.md.

`make families` writes the table; `tests/contracts/test_families_table.py` holds it to the families that there are.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from torch import Tensor, nn

from model import EncoderDecoder, Transformer, load_model, wrap
from model.architectures import architectures
from model.zoo import zoo
from probes import Edit, intervene
from tests.conftest import Pair, example, hugging_face, read_mask, relative
from tests.model.test_trained_models import llama_of
from tests.model.test_zoo_models import original

TABLE = Path(__file__).parents[2] / "docs" / "families.md"
SHAPES = ((1, 1), (2, 2), (1, 7), (3, 32))
"""batch and length of the unpadded inputs"""
PADDED_LENGTHS = (2, 7, 32)
EXACT, LOWER, MOVED = 1e-5, 0.1, 1e-3
"""bounds: on the difference in fp32, on that in bf16, and the least by which noise at a site must move the output"""


def worst(differences: Iterable[float]) -> float:
    """The largest one; NaN if there is one."""
    return float(torch.tensor(list(differences)).max())


@torch.no_grad()
def plain_difference(pair: Pair) -> float:
    """The worst relative difference to the family's own output over several lengths, with masks and without."""

    def differences() -> Iterator[float]:
        for batch, pos in SHAPES:
            inputs = example(pair.ours, batch=batch, pos=pos)
            expected = pair.expected(*inputs)
            yield relative(pair.got(*inputs), expected)
            yield relative(pair.ours(*inputs[: (len(inputs) + 1) // 2]), expected)

    return worst(differences())


@torch.no_grad()
def padded_difference(pair: Pair, side: str) -> float:
    """The same for batches of which one row is padded."""
    examples = [example(pair.ours, side, pos=pos) for pos in PADDED_LENGTHS]
    return worst(relative(pair.got(*inputs), pair.expected(*inputs)) for inputs in examples)


@torch.no_grad()
def dtype_difference(pair: Pair, other: Transformer | EncoderDecoder) -> float:
    """The relative difference between our output in another number format, which `other` is in, and our own in this one."""
    inputs = example(pair.ours, "right", pos=9)
    got = Pair(pair.theirs, other).got(*inputs)
    return relative(got.to(torch.promote_types(got.dtype, torch.float32)), pair.got(*inputs))


@torch.no_grad()
def moved_by_noise(model: Transformer | EncoderDecoder, padding: str) -> dict[str, float]:
    """How far the output moves when a site's values get noise of their own size, relative to the largest output; NaN if it is not finite."""
    inputs = example(model, padding)
    mask = read_mask(inputs)
    clean, moved = model(*inputs)[mask], {}
    for name in model.sites():
        with intervene(model, Edit(name, _noise(torch.Generator().manual_seed(0)))):
            edited = model(*inputs)[mask]
        moved[name] = relative(edited, clean) if bool(edited.isfinite().all()) else float("nan")
    return moved


def _noise(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    def change(value: Tensor) -> Tensor:
        return value + value[value.isfinite()].std() * torch.randn(value.shape, generator=generator)

    return change


@dataclass(frozen=True, kw_only=True)
class Row:
    """A family over all its random configs, or one trained model."""

    name: str
    n_configs: int
    plain: float
    left: float
    right: float
    n_sites: int
    n_moved: int
    bf16: float

    @classmethod
    def of(cls, name: str, pairs: Iterable[Pair]) -> Row:
        """Measure them, one after another."""
        columns: dict[str, list[float]] = {}
        for pair in pairs:
            moved = moved_by_noise(pair.ours, "left")
            measured = {
                "plain": plain_difference(pair),
                "left": padded_difference(pair, "left"),
                "right": padded_difference(pair, "right"),
                "n_sites": len(moved),
                "n_moved": sum(shift > MOVED for shift in moved.values()),
                "bf16": dtype_difference(pair, copy.deepcopy(pair.ours).to(torch.bfloat16)),
            }
            for key, value in measured.items():
                columns.setdefault(key, []).append(value)
        counts = {key: sum(columns.pop(key)) for key in ("n_sites", "n_moved")}
        return cls(name=name, n_configs=len(columns["plain"]), **counts, **{key: worst(values) for key, values in columns.items()})

    def line(self) -> str:
        """The row in Markdown, two digits for measurements."""
        numbers = (f"{x:.1e}" for x in (self.plain, self.left, self.right, self.bf16))
        plain, left, right, bf16 = numbers
        return f"| {self.name} | {self.n_configs} | {plain} | {left} | {right} | {self.n_sites} | {self.n_moved} | {bf16} |"


class _Answers(nn.Module):
    """A model that answers as transformers' do: for one whose own module answers with a tuple."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, source: Tensor, decoder_input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.theirs(source, decoder_input_ids)[0])


def _annalog(ours: EncoderDecoder) -> nn.Module:
    theirs = original(ours)
    theirs.src_pad_idx = theirs.trg_pad_idx = -1  # it takes an id for padding, which random tokens may hold
    return _Answers(theirs)


TRAINED: dict[str, Callable[[Transformer | EncoderDecoder], nn.Module]] = {
    "annalog": _annalog,
    "glasslm": llama_of,
    "smollm2": llama_of,
    "minilm": lambda ours: transformers.BertModel.from_pretrained(zoo()["minilm"].path().parent, attn_implementation="eager").eval(),
}
"""How each trained model that has another implementation becomes one of those."""


def pairs_of(family: str) -> Iterator[Pair]:
    """A family's random configs, each with weights in both implementations."""
    for i in range(len(architectures()[family].random_configs)):
        theirs = hugging_face(family, i)
        yield Pair(theirs, wrap(theirs).requires_grad_(False))


def trained_pair(name: str) -> Pair:
    """A trained model by its name."""
    ours = load_model(name)
    return Pair(TRAINED[name](ours), ours)


HEAD = """# Families

What loads, and how exactly: measured by `make families` with torch {torch} and transformers {transformers}, on one thread.
Differences are the largest ones to the family's own implementation, relative to its largest output, in fp32: over unpadded
batches (with a mask and without, 1 to 32 tokens), and over batches of which a row is padded on the left, or on the right.
`moved` counts the sites at which noise of the site's own size moves the output: all of them must. `bf16` is the largest
difference between our output in bf16 and in fp32. Families are summed and maximised over small random odd-sized configs.

| {kind} | configs | unpadded | left | right | sites | moved | bf16 |
|---|---|---|---|---|---|---|---|
"""


def document() -> str:
    """The whole table, families and then the trained models that are installed."""
    torch.set_num_threads(1)
    versions = {name: version(name).partition("+")[0] for name in ("torch", "transformers")}
    families = [Row.of(name, pairs_of(name)).line() for name in sorted(architectures())]
    trained = [Row.of(name, [trained_pair(name)]).line() for name in sorted(TRAINED) if zoo()[name].path() is not None]
    parts = [HEAD.format(kind="family", **versions), "\n".join(families), "\n"]
    if trained:
        parts += [
            "\nTrained models, with random tokens:\n\n",
            HEAD[HEAD.index("| {kind}") :].format(kind="model"),
            "\n".join(trained),
            "\n",
        ]
    return "".join(parts)


if __name__ == "__main__":
    TABLE.write_text(document())
    sys.stdout.write(f"{TABLE.relative_to(Path.cwd()) if TABLE.is_relative_to(Path.cwd()) else TABLE}\n")
