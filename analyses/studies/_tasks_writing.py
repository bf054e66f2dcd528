"""What do rules of choosing the next token write? All of them behind the same beginnings in the same passes, and how often it comes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model import Sampling, Transformer, generate
from probes.metrics import token_losses


@dataclass(frozen=True, kw_only=True)
class InTurn(Sampling):
    """As many equal blocks of rows as there are `rules`, one beside the other, each drawn by its own.

    A pass over few rows costs nearly as much as one over many, so that all rules write at once. The likeliest token is the top 1.

    >>> both = InTurn(rules=(Sampling(top_k=1), Sampling()))
    >>> both.probabilities(torch.zeros(2, 2)).sort().values.tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    rules: tuple[Sampling, ...] = ()

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules must hold at least one Sampling(…), got none")

    def probabilities(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
        """What a token is drawn from. Raises ValueError for rows that are not as many for each rule."""
        if len(logits) % len(self.rules):
            raise ValueError(f"rows must be a multiple of the {len(self.rules)} rules, got {len(logits)}")
        blocks = logits.chunk(len(self.rules))
        return torch.cat([rule.probabilities(block) for rule, block in zip(self.rules, blocks, strict=True)])


def write_by_rules(
    model: Transformer, beginnings: Tensor, rules: Mapping[str, Sampling], *, n_new: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """By rule the `n_new` tokens behind each beginning, and their log-probabilities in the model's own distribution, each (text, new).

    An end token is one like the others: the text goes on behind it, so that all have one length.
    """
    together = InTurn(rules=tuple(rules.values()))
    found = generate(model, beginnings.repeat(len(rules), 1), n_new=n_new, sampling=together, generator=generator, stop=None)
    blocks = zip(found.tokens.chunk(len(rules)), found.log_probabilities.chunk(len(rules)), strict=True)
    return dict(zip(rules, blocks, strict=True))


@torch.no_grad()
def log_probabilities(model: Transformer, texts: Tensor, n_new: int, *, batch: int = 4) -> Tensor:
    """Of the last `n_new` tokens of texts that are there already, from whole passes without a cache (text, new)."""
    return torch.cat([-token_losses(model(some)[:, -n_new - 1 :], some[:, -n_new - 1 :]) for some in texts.split(batch)])


def repeated_runs(tokens: Sequence[int], n: int = 4) -> float:
    """Share of the runs of n tokens that stood in the text before: 1 − different runs / runs (rep-n; Welleck et al. 2020).

    >>> repeated_runs([1, 2, 3, 4, 5, 6]), repeated_runs([1, 2] * 5)
    (0.0, 0.7142857142857143)
    >>> repeated_runs([1, 2, 3])
    Traceback (most recent call last):
    ...
    ValueError: a text of 3 tokens holds no run of 4
    """
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if not runs:
        raise ValueError(f"a text of {len(tokens)} tokens holds no run of {n}")
    return 1 - len(set(runs)) / len(runs)
