"""What single number per example says how well the model did? Each metric has a unit and reads only the positions it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import SiteError
from probes.inputs import written
from probes.observable import Observable

Token = str | int
Answers = Token | Sequence[Token]
"""One token for all examples, or one for each; a string must be exactly one token."""


@dataclass(frozen=True)
class Readout:
    """A metric on one batch: at which positions it reads logits (Int[batch read], None for all), and what it makes of them.

    `measure(logits, clean)` takes Float[batch read d_vocab] of the run to be measured and of the unedited run, and
    gives Float[batch].
    """

    positions: Int[Tensor, "batch read"] | None
    measure: Callable[[Float[Tensor, "batch read d_vocab"], Float[Tensor, "batch read d_vocab"]], Float[Tensor, "batch"]]


@dataclass(frozen=True)
class Metric:
    """Logits → one number per example. `on(model, inputs)` prepares it for a batch."""

    name: str
    unit: str
    on: Callable[[Observable, tuple[Tensor, ...]], Readout]

    def __call__(self, model: Observable, inputs: tuple[Tensor, ...]) -> Float[Tensor, "batch"]:
        """The metric of a plain forward pass.

        >>> import torch; from model import Transformer, TransformerConfig
        >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
        >>> loss()(model, (torch.tensor([[1, 2, 3]]),)).shape
        torch.Size([1])
        """
        readout = self.on(model, inputs)
        with torch.no_grad():
            logits = read(model(*inputs), readout.positions)
            return readout.measure(logits, logits)


def read(logits: Float[Tensor, "batch pos d_vocab"], positions: Int[Tensor, "batch read"] | None) -> Float[Tensor, "batch read d_vocab"]:
    """The logits at some positions."""
    return logits if positions is None else logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))


def last_position(inputs: tuple[Tensor, ...]) -> Int[Tensor, "batch 1"]:
    """The last real token of every example, of the target where there are two sequences. Raises SiteError for an example without one."""
    tokens, mask = written(inputs)
    if mask is None:
        return torch.full((len(tokens), 1), tokens.shape[1] - 1, device=tokens.device)
    if not bool(mask.any(1).all()):
        raise SiteError(f"example {int((~mask.any(1)).nonzero()[0])} has no real token")
    numbers = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return numbers.masked_fill(~mask, -1).amax(1, keepdim=True)


def token_ids(model: Observable, answers: Answers, n_examples: int, device: torch.device) -> Int[Tensor, "batch"]:
    """One token id per example. Raises SiteError for a string that is not exactly one token, and a wrong number of answers."""
    given = [answers] if isinstance(answers, str | int) else list(answers)
    if len(given) not in (1, n_examples):
        raise SiteError(f"answers must be one for all or one for each of the {n_examples} examples, got {len(given)}")
    ids = torch.tensor([_token_id(model, answer) for answer in given], device=device)
    return ids.expand(n_examples)


def _token_id(model: Observable, answer: Token) -> int:
    if isinstance(answer, int):
        return answer
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SiteError(f"the model has no tokenizer to look up {answer!r}; give the token id")
    ids = tokenizer.encode(answer)
    if len(ids) != 1:
        raise SiteError(f"{answer!r} is {len(ids)} tokens {tokenizer.to_str_tokens(ids)}, but an answer must be exactly one")
    return ids[0]


def logit_difference(target: Answers, foil: Answers) -> Metric:
    """Logit of the target minus logit of the foil, after the last real token (Wang et al. 2023). Unit: logits."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        right, wrong = (token_ids(model, answers, len(inputs[0]), inputs[0].device)[:, None] for answers in (target, foil))
        return Readout(last_position(inputs), lambda logits, clean: (logits[:, 0].gather(1, right) - logits[:, 0].gather(1, wrong))[:, 0])

    return Metric("logit_difference", "logits", on)


def log_probability(target: Answers) -> Metric:
    """Log-probability of the target after the last real token. Unit: nats."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        right = token_ids(model, target, len(inputs[0]), inputs[0].device)[:, None]
        return Readout(last_position(inputs), lambda logits, clean: logits[:, 0].log_softmax(-1).gather(1, right)[:, 0])

    return Metric("log_probability", "nats", on)


def probability(target: Answers) -> Metric:
    """Probability of the target after the last real token. Unit: 1."""
    logarithm = log_probability(target)

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        readout = logarithm.on(model, inputs)
        return Readout(readout.positions, lambda logits, clean: readout.measure(logits, clean).exp())

    return Metric("probability", "1", on)


def loss() -> Metric:
    """Mean cross-entropy of the next token over the real tokens of an example. Unit: nats per token."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        tokens, counted = written(inputs)[0], predicted(inputs)
        if not bool(counted.any(1).all()):
            raise SiteError(f"loss needs two real tokens in a row, example {int((~counted.any(1)).nonzero()[0])} has none")

        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            return (token_losses(logits, tokens) * counted).sum(1) / counted.sum(1)

        return Readout(None, measure)

    return Metric("loss", "nats per token", on)


def predicted(inputs: tuple[Tensor, ...]) -> Bool[Tensor, "batch pos-1"]:
    """Which positions predict a real token from a real one."""
    tokens, mask = written(inputs)
    if mask is None:
        return torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    return mask[:, :-1] & mask[:, 1:]


def token_losses(logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
    """Cross-entropy of every next token, in nats, in fp32 at least."""
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    following = tokens[:, 1:].long()
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none").view_as(following)


def masked_loss(answers: Int[Tensor, "batch pos"], chosen: Bool[Tensor, "batch pos"]) -> Metric:
    """Mean cross-entropy of the tokens that were masked in an example (Devlin et al. 2019). Unit: nats per token.

    `answers` holds the tokens that stood there, `chosen` is True where they are to be guessed. Raises SiteError for an
    example without such a place, and for another shape than that of the inputs.
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        tokens = written(inputs)[0]
        if not answers.shape == chosen.shape == tokens.shape:
            raise SiteError(f"answers and chosen must have the shape of the tokens {tuple(tokens.shape)}, got {tuple(answers.shape)} and {tuple(chosen.shape)}")
        if not bool(chosen.any(1).all()):
            raise SiteError(f"masked_loss needs a masked token in every example, example {int((~chosen.any(1)).nonzero()[0])} has none")

        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            losses = F.cross_entropy(logits.flatten(0, 1), answers.flatten().long(), reduction="none").view_as(answers)
            return (losses * chosen).sum(1) / chosen.sum(1)

        return Readout(None, measure)

    return Metric("masked_loss", "nats per token", on)


def representation_shift() -> Metric:
    """1 − cosine between the pooled final states and those of the unedited run, for a model without a head. Unit: 1.

    Pooled is the mean over the real tokens, as sentence encoders do (Reimers & Gurevych 2019). 0 is no change, 2 the opposite.
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        mask = written(inputs)[1]

        def pooled(states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
            states = states.to(torch.float64 if states.device.type != "mps" else torch.float32)
            return states.mean(1) if mask is None else (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

        return Readout(None, lambda states, clean: 1 - F.cosine_similarity(pooled(states), pooled(clean), dim=-1))

    return Metric("representation_shift", "1", on)


def kl_divergence() -> Metric:
    """KL(clean ‖ edited) of the next-token distribution after the last real token. Unit: nats."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            expected, got = clean[:, 0].log_softmax(-1), logits[:, 0].log_softmax(-1)
            return F.kl_div(got, expected, log_target=True, reduction="none").sum(-1)

        return Readout(last_position(inputs), measure)

    return Metric("kl_divergence", "nats", on)
