"""What of a model's output does a metric read, and how are those logits had without computing the others?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import SiteError
from probes.inputs import written
from probes.observable import Observable, Steppable

Token = str | int
Answers = Token | Sequence[Token]
"""One token for all examples, or one for each; a string must be exactly one token."""
Places = int | Sequence[int]
"""One place of the padded sequence for all examples, or one for each; None is the last real token."""


@dataclass(frozen=True)
class Readout:
    """A metric on one batch: which logits it reads, and what it makes of them.

    `measure(logits, clean)` takes Float[batch read d_vocab] of the run to be measured and of the unedited run, and
    gives Float[batch]. With `tokens` it reads the logits of these alone: Float[batch read answers].
    """

    positions: Int[Tensor, "batch read"] | None
    """None for all"""
    measure: Callable[[Float[Tensor, "batch read d_vocab"], Float[Tensor, "batch read d_vocab"]], Float[Tensor, "batch"]]
    tokens: Int[Tensor, "batch answers"] | None = None
    """None for the whole vocabulary"""

    def of(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Tensor:
        """What is read of the logits at all positions."""
        if self.positions is not None:
            logits = logits.gather(1, self.positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
        return self.chosen(logits)

    def chosen(self, logits: Float[Tensor, "batch read d_vocab"]) -> Tensor:
        """What is read of the logits at its positions."""
        return logits if self.tokens is None else logits.gather(2, self.tokens.unsqueeze(1).expand(-1, logits.shape[1], -1))

    def rows(self, rows: Int[Tensor, "rows"]) -> Readout:
        """The same of some examples, for reading alone: what is measured knows the whole batch."""
        positions, tokens = (None if x is None else x[rows] for x in (self.positions, self.tokens))
        return Readout(positions, self.measure, tokens)

    def repeat(self, n: int) -> Readout:
        """The same of n copies of the batch, for reading alone."""
        positions, tokens = (None if x is None else x.repeat(n, 1) for x in (self.positions, self.tokens))
        return Readout(positions, self.measure, tokens)

    def behind(self, first: int) -> Readout:
        """The same in a sequence that begins at a later place; places before it are read at its begin."""
        if not first or self.positions is None:
            return self
        return Readout((self.positions - first).clamp(min=0), self.measure, self.tokens)

    def finish(self, model: Steppable, state: Any) -> Tensor:
        """What is read of the model's output from its last state; nothing else is unembedded where the model knows how."""
        if self.tokens is not None and "tokens" in inspect.signature(model.finish).parameters:
            return model.finish(state, self.positions, tokens=self.tokens)
        return self.chosen(model.finish(state, self.positions))


@dataclass(frozen=True)
class Metric:
    """Logits → one number per example. `on(model, inputs)` prepares it for a batch.

    A metric of your own is a name, a unit, and that function:

    >>> import torch; from model import Transformer, TransformerConfig
    >>> largest = Metric("largest", "logits", lambda model, inputs: Readout(last_position(inputs), lambda logits, clean: logits[:, 0].amax(-1)))
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> largest(model, (torch.tensor([[1, 2, 3]]),)).shape
    torch.Size([1])
    """

    name: str
    unit: str
    on: Callable[[Observable, tuple[Tensor, ...]], Readout]

    def __call__(self, model: Observable, inputs: tuple[Tensor, ...]) -> Float[Tensor, "batch"]:
        """The metric of a plain forward pass."""
        readout = self.on(model, inputs)
        with torch.no_grad():
            logits = readout.of(model(*inputs))
            return readout.measure(logits, logits)


def last_position(inputs: tuple[Tensor, ...]) -> Int[Tensor, "batch 1"]:
    """The last real token of every example, of the target where there are two sequences. Raises SiteError for an example without one."""
    tokens, mask = written(inputs)
    if mask is None:
        return torch.full((len(tokens), 1), tokens.shape[1] - 1, device=tokens.device)
    if not bool(mask.any(1).all()):
        raise SiteError(f"example {int((~mask.any(1)).nonzero()[0])} has no real token")
    numbers = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return numbers.masked_fill(~mask, -1).amax(1, keepdim=True)


def answer_position(model: Observable, inputs: tuple[Tensor, ...], positions: Places | None, metric: str) -> Int[Tensor, "batch 1"]:
    """Where each example's answer is read, behind the last real token unless `positions` say.

    Raises SiteError for a model without a head; for one that reads both ways where no place is named, as the token behind the last is
    not what it predicts; for another number of places than examples, and places that are not there.
    """
    check_head(model, metric)
    if positions is None:
        if reads_both_ways(model):
            raise SiteError(f"this model reads both ways and predicts no next token: name the place that {metric} reads in positions")
        return last_position(inputs)
    tokens = written(inputs)[0]
    given = torch.as_tensor(positions, device=tokens.device).reshape(-1)
    (batch, n), size = tokens.shape, len(given)
    if given.dtype.is_floating_point or given.dtype == torch.bool:
        raise SiteError(f"positions must be whole numbers, got {positions!r}")
    if size not in (1, batch):
        raise SiteError(f"positions must be one for all or one for each of the {batch} examples, got {size}")
    if bool(((given < -n) | (given >= n)).any()):
        raise SiteError(f"positions must be in a sequence of {n} tokens, got {given.tolist()}")
    return (given.long() % n).expand(batch).unsqueeze(1)


def check_head(model: Observable, metric: str) -> None:
    """Raises SiteError for a model that is known to write no logits."""
    if getattr(model, "unembed", model) is None:
        raise SiteError(f"{metric} reads logits, but this model has no head; representation_shift measures its final states")


def reads_both_ways(model: Observable) -> bool:
    """Is the model known to be an encoder, whose output at a token is no prediction of the next one?"""
    return not getattr(getattr(model, "config", None), "causal", True)


def check_asked(inputs: Any, metric: Any) -> None:
    """Raises SiteError for a tensor that stands alone, and for what is no metric, such as a function that makes one."""
    if not isinstance(inputs, tuple | list):
        raise SiteError(f"the inputs of a model are a tuple, such as (tokens,) or (tokens, mask), got {type(inputs).__name__}")
    if not isinstance(metric, Metric):
        raise SiteError(f"a metric is one such as loss(), or a Metric of your own, got {getattr(metric, '__name__', type(metric).__name__)}")


def check_values(values: Any, n_examples: int, metric: str) -> None:
    """Raises SiteError for what a metric must not give."""
    if not isinstance(values, Tensor) or values.shape != (n_examples,):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise SiteError(f"a metric gives one number per example, a tensor of shape ({n_examples},), but {metric} gave {got}")


def token_ids(model: Observable, answers: Answers, n_examples: int, device: torch.device) -> Int[Tensor, "batch 1"]:
    """One token id per example. Raises SiteError for a string that is not exactly one token, an id that is not there, and a wrong
    number of answers."""
    answers = answers.tolist() if hasattr(answers, "tolist") else answers
    given = list(answers) if isinstance(answers, Iterable) and not isinstance(answers, str) else [answers]
    if len(given) not in (1, n_examples):
        raise SiteError(f"answers must be one for all or one for each of the {n_examples} examples, got {len(given)}")
    ids = torch.tensor([_token_id(model, answer) for answer in given], device=device)
    return ids.expand(n_examples).unsqueeze(1)


def _token_id(model: Observable, answer: Token) -> int:
    if hasattr(answer, "__index__") and not isinstance(answer, bool):
        id, config = index(answer), getattr(model, "config", None)
        n = getattr(getattr(config, "decoder", config), "d_vocab", None)
        if id < 0 or (n is not None and id >= n):
            raise SiteError(f"a token id is between 0 and {'the size of the vocabulary' if n is None else n - 1}, got {id}")
        return id
    if not isinstance(answer, str):
        raise SiteError(f"an answer is a token or its id, got {answer!r}")
    tokenizer: Any = getattr(model, "target_tokenizer", None) or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SiteError(f"the model has no tokenizer to look up {answer!r}; give the token id")
    ids = tokenizer.encode(answer)
    if len(ids) != 1:
        raise SiteError(f"{answer!r} is {len(ids)} tokens {tokenizer.to_str_tokens(ids)}, but an answer must be exactly one")
    return ids[0]


def real_examples(chosen: Bool[Tensor, "batch pos"], what: str) -> None:
    """Raises SiteError where an example has no position to measure."""
    if not bool(chosen.any(1).all()):
        raise SiteError(f"{what}, example {int((~chosen.any(1)).nonzero()[0])} has none")
