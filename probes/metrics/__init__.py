"""What single number per example says how well the model did? Each metric has a unit and reads only the output that it needs."""

from probes.metrics.answers import accuracy, kl_divergence, log_probability, logit_difference, probability, total_variation
from probes.metrics.readout import Answers, Metric, Readout, Token, last_position, token_ids
from probes.metrics.text import loss, loss_at, masked_loss, predicted, representation_shift, token_losses

__all__ = [
    "Answers", "Metric", "Readout", "Token", "accuracy", "kl_divergence", "last_position", "log_probability", "logit_difference", "loss",
    "loss_at", "masked_loss", "predicted", "probability", "representation_shift", "token_ids", "token_losses", "total_variation",
]
