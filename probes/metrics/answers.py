"""How strongly does the model prefer an answer? Metrics that read the output after the last real token, or at the `positions` that are
given, places of the padded sequence: where a masked language model is to guess. A model that reads both ways needs them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.metrics.readout import Answers, Metric, Places, Readout, answer_position, token_ids
from probes.observable import Observable


def logit_difference(target: Answers, foil: Answers, *, positions: Places | None = None) -> Metric:
    """Logit of the target minus logit of the foil, after the last real token (Wang et al. 2023). Unit: logits.

    >>> logit_difference(3, 4).unit
    'logits'
    """

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        ids = [token_ids(model, answers, len(inputs[0]), inputs[0].device) for answers in (target, foil)]
        return Readout(answer_position(model, inputs, positions, "logit_difference"), lambda logits, clean: logits[:, 0, 0] - logits[:, 0, 1], torch.cat(ids, dim=1))

    return Metric("logit_difference", "logits", on)


def log_probability(target: Answers, *, positions: Places | None = None) -> Metric:
    """Log-probability of the target after the last real token. Unit: nats."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        right = token_ids(model, target, len(inputs[0]), inputs[0].device)
        return Readout(answer_position(model, inputs, positions, "log_probability"), lambda logits, clean: _exact(logits)[:, 0].log_softmax(-1).gather(1, right)[:, 0])

    return Metric("log_probability", "nats", on)


def probability(target: Answers, *, positions: Places | None = None) -> Metric:
    """Probability of the target after the last real token. Unit: 1."""
    logarithm = log_probability(target, positions=positions)

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        readout = logarithm.on(model, inputs)
        return Readout(readout.positions, lambda logits, clean: readout.measure(logits, clean).exp())

    return Metric("probability", "1", on)


def accuracy(target: Answers, *, positions: Places | None = None) -> Metric:
    """1 where the target is the likeliest token after the last real one, else 0; a tie counts as its share. Unit: 1."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        right = token_ids(model, target, len(inputs[0]), inputs[0].device)

        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            best = logits[:, 0] == logits[:, 0].amax(-1, keepdim=True)  # batch d_vocab
            return best.gather(1, right)[:, 0] / best.sum(-1)

        return Readout(answer_position(model, inputs, positions, "accuracy"), measure)

    return Metric("accuracy", "1", on)


def kl_divergence(*, positions: Places | None = None) -> Metric:
    """KL(clean ‖ edited) of the next-token distribution after the last real token. Unit: nats."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            expected, got = (_exact(x)[:, 0].log_softmax(-1) for x in (clean, logits))
            return F.kl_div(got, expected, log_target=True, reduction="none").sum(-1)

        return Readout(answer_position(model, inputs, positions, "kl_divergence"), measure)

    return Metric("kl_divergence", "nats", on)


def total_variation(*, positions: Places | None = None) -> Metric:
    """½ Σ |p_edited − p_clean| of the next-token distribution after the last real token: the largest difference in the
    probability of any set of tokens. Unit: 1."""

    def on(model: Observable, inputs: tuple[Tensor, ...]) -> Readout:
        def measure(logits: Tensor, clean: Tensor) -> Tensor:
            return (_exact(logits)[:, 0].softmax(-1) - _exact(clean)[:, 0].softmax(-1)).abs().sum(-1) / 2

        return Readout(answer_position(model, inputs, positions, "total_variation"), measure)

    return Metric("total_variation", "1", on)


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
