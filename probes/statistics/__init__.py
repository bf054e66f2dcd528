"""What is counted, averaged and compared? Each file holds one family of quantities with its published definition."""

from probes.statistics.attention_scores import (
    duplicate_token_score,
    first_token_mass,
    hidden_mass,
    induction_score,
    mean_distance,
    offset_score,
    prefix_matching_score,
    previous_token_score,
    received_mass,
    row_entropy,
    row_sum_error,
    sink_score,
)
from probes.statistics.logit_lens import LogitLens, logit_lens
from probes.statistics.residual_norms import Growth, MassiveActivation, fit_growth, largest_share, massive_activations, sink_positions

__all__ = [
    "Growth", "LogitLens", "MassiveActivation", "duplicate_token_score", "first_token_mass", "fit_growth", "hidden_mass", "induction_score",
    "largest_share", "logit_lens", "massive_activations", "mean_distance", "offset_score", "prefix_matching_score", "previous_token_score",
    "received_mass", "row_entropy", "row_sum_error", "sink_positions", "sink_score",
]
