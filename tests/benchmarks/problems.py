"""What is every peer asked to compute? One model, one batch, a list of edits, and a number for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from model import load_model
from model.zoo import data_path, zoo
from probes import Edit, Metric, ablate_heads, logit_difference, patch, record, representation_shift, zero
from probes.observable import layer_of
from tests.model.test_trained_models import llama_of

ANSWERS = (" Mary", " John")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of a table: which model, on how many tokens of how many examples."""

    model: str
    n_tokens: int
    batch: int
    every: int = 1
    """peers whose cost per edit does not depend on the block are timed on one block in so many, and scaled"""

    def __str__(self) -> str:
        return f"{self.model} {self.n_tokens} × {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model in two implementations that share their parameters, and what is asked of it.

    `ours` is what prosect runs, `theirs` what all others do: Hugging Face's own where it has one. `paths` are, for each site z,
    the linear layer of `theirs` that reads it; `read` turns the output of `theirs` into Float[batch read width].
    """

    ours: Any
    theirs: nn.Module
    inputs: tuple[Tensor, ...]
    metric: Metric
    paths: dict[str, str]
    read: Callable[[Any], Tensor]
    measured: Callable[[Tensor, Tensor], Tensor]
    """one number per example, given what was read and what is read of the clean run"""
    options: dict[str, Any]
    every: int = 1

    @cached_property
    def clean(self) -> Tensor:
        """What is read of the unedited run."""
        return self.read(self.theirs(*self.inputs, **self.options))

    @cached_property
    def ablations(self) -> list[Edit]:
        """Every head's z set to zero, on its own: those of one block in `every`."""
        return [edit for edit in ablate_heads(self.ours, zero()) if self.takes(layer_of(edit.site))]

    @cached_property
    def corrupt(self) -> tuple[Tensor, ...]:
        """Other text of the same length: what is patched comes from `inputs`, and goes into the run of this."""
        return (self.inputs[0].flip(1),)

    @cached_property
    def patches(self) -> list[tuple[int, int]]:
        """Every layer and position at which the residual stream is patched."""
        return [(i, p) for i in range(self.ours.n_layers) if self.takes(i) for p in range(self.inputs[0].shape[1])]

    @cached_property
    def patch_edits(self) -> list[Edit]:
        with torch.no_grad(), record(self.ours, "blocks.*.resid_pre") as activations:
            self.ours(*self.inputs)
        change = patch(dict(activations))
        return [Edit(f"blocks.{i}.resid_pre", change, positions=[p]) for i, p in self.patches]

    def takes(self, layer: int) -> bool:
        """Is this block among those that are timed?"""
        return layer % self.every == self.every // 2

    def run(self, copies: int = 1) -> Tensor:
        """One number per example, of copies one after another."""
        output = self.read(self.theirs(*(x.repeat(copies, 1) for x in self.inputs), **self.options))
        return self.measured(output, self.clean.repeat(copies, 1, 1))


def prose(model: Any, cell: Cell) -> Tensor:
    """Tokens of plain English, Long[batch pos]."""
    text = model.tokenizer.encode(data_path("prose.txt").read_text()[: 12 * cell.n_tokens * cell.batch])
    return torch.tensor(text[: cell.n_tokens * cell.batch]).view(cell.batch, cell.n_tokens)


def smollm2(cell: Cell, every: int) -> Problem:
    """A decoder of 30 blocks with 9 heads. The last position is unembedded alone: an option of Hugging Face's own."""
    ours = load_model("smollm2")
    theirs = llama_of(ours)
    theirs.set_attn_implementation("sdpa")
    right, wrong = (ours.tokenizer.encode(word)[0] for word in ANSWERS)
    return Problem(
        ours=ours,
        theirs=theirs,
        inputs=(prose(ours, cell),),
        metric=logit_difference(*ANSWERS),
        paths={f"blocks.{i}.attn.z": f"model.layers.{i}.self_attn.o_proj" for i in range(ours.n_layers)},
        read=lambda output: output.logits[:, -1:],
        measured=lambda logits, _: logits[:, 0, right] - logits[:, 0, wrong],
        options={"use_cache": False, "logits_to_keep": 1},
        every=every,
    )


def minilm(cell: Cell, every: int) -> Problem:
    """An encoder of 6 blocks with 12 heads, without a head: the shift of its pooled states."""
    ours = load_model("minilm")
    theirs = transformers.BertModel.from_pretrained(zoo()["minilm"].path().parent, attn_implementation="sdpa").eval()
    return Problem(
        ours=ours,
        theirs=theirs,
        inputs=(prose(ours, cell),),
        metric=representation_shift(),
        paths={f"blocks.{i}.attn.z": f"encoder.layer.{i}.attention.output.dense" for i in range(ours.n_layers)},
        read=lambda output: output.last_hidden_state,
        options={},
        every=every,
        measured=lambda states, clean: 1 - F.cosine_similarity(states.double().mean(1), clean.double().mean(1), dim=-1),
    )


def g2p(cell: Cell, every: int) -> Problem:
    """The encoder-decoder of the paper, small. No other library has it: all work on our module as on any torch module."""
    ours, generator = load_model("g2p"), torch.Generator().manual_seed(0)
    source = torch.randint(4, 30, (cell.batch, cell.n_tokens), generator=generator)
    target = torch.randint(4, 43, (cell.batch, cell.n_tokens), generator=generator)
    return Problem(
        ours=ours,
        theirs=ours,
        inputs=(source, target),
        metric=logit_difference(5, 6),
        paths={site: site.removesuffix("z") + "W_O" for site in ours.sites() if site.endswith("attn.z")},
        read=lambda logits: logits[:, -1:],
        measured=lambda logits, _: logits[:, 0, 5] - logits[:, 0, 6],
        options={},
        every=every,
    )


PROBLEMS: dict[str, Callable[[Cell, int], Problem]] = {"smollm2": smollm2, "minilm": minilm, "g2p": g2p}


def head_columns(problem: Problem, edit: Edit) -> slice:
    """The coordinates of a head in what the output projection reads."""
    width = problem.theirs.get_submodule(problem.paths[edit.site]).in_features
    size = width // problem.ours.n_heads_at(edit.site)
    return slice(edit.heads[0] * size, (edit.heads[0] + 1) * size)


def by_site(edits: Sequence[Edit]) -> dict[str, list[Edit]]:
    """Edits of the same site together, in order."""
    groups: dict[str, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit.site, []).append(edit)
    return groups
