"""How well does the model predict a text? Metrics that read the output at every position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import SiteError
from probes.inputs import written
from probes.metrics.readout import Metric, Readout, check_head, reads_both_ways, real_examples
from probes.observable import Observable


def loss() -> Metric:
    """Mean cross-entropy of the next token over the real tokens of an example; of the target in a model of two stacks.
    Unit: nats per token. Raises SiteError for a model without a head, and for one that reads both ways: it sees the token.

    >>> import torch; from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> loss()(model, (torch.tensor([[1, 2, 3]]),)).shape
    torch.Size([1])
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        _check_next_token(model, "loss")
        tokens, counted = written(inputs)[0], predicted(inputs)
        real_examples(counted, "loss needs two real tokens in a row")
        return Readout(None, lambda logits, clean: (token_losses(logits, tokens) * counted).sum(1) / counted.sum(1))

    return Metric("loss", "nats per token", on)


def loss_at(position: int) -> Metric:
    """Cross-entropy of the token at one place of the padded sequence, given those before it. Unit: nats.

    A loss for each token of a text is one metric for each place. Raises SiteError for a place that predicts nothing: the
    first real token, padding, and places that there are not.
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        _check_next_token(model, "loss_at")
        tokens, counted = written(inputs)[0], predicted(inputs)
        n = tokens.shape[1]
        if not -n < position < n or position == 0:
            raise SiteError(f"a loss is there at places 1 to {n - 1}, got {position}")
        place = position % n
        real_examples(counted[:, place - 1 : place], f"place {place} must be a real token behind a real one")
        read = torch.full((len(tokens), 1), place - 1, device=tokens.device)
        following = tokens[:, place].long()

        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            return F.cross_entropy(logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32)), following, reduction="none")

        return Readout(read, measure)

    return Metric("loss_at", "nats", on)


def masked_loss(answers: Int[Tensor, "batch pos"], chosen: Bool[Tensor, "batch pos"]) -> Metric:
    """Mean cross-entropy of the tokens that were masked in an example (Devlin et al. 2019). Unit: nats per token.

    `answers` holds the tokens that stood there, `chosen` is True where they are to be guessed. Raises SiteError for an
    example without such a place, and for another shape than that of the inputs.
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        check_head(model, "masked_loss")
        tokens = written(inputs)[0]
        if not answers.shape == chosen.shape == tokens.shape:
            raise SiteError(
                f"answers and chosen must have the shape of the tokens {tuple(tokens.shape)}, got {tuple(answers.shape)} and {tuple(chosen.shape)}"
            )
        real_examples(chosen, "masked_loss needs a masked token in every example")

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


def _check_next_token(model: Observable, metric: str) -> None:
    """Raises SiteError for a model that does not predict the next token."""
    check_head(model, metric)
    if reads_both_ways(model):
        raise SiteError(f"this model reads both ways and predicts no next token, so it has no {metric}; masked_loss measures it")
