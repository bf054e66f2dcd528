"""What is counted, averaged and compared? Each file holds one family of quantities with its published definition."""

from probes.statistics._contract import Part, RowsLike, Seen, Statistic
from probes.statistics._discovery import statistics
from probes.statistics._view import View
from probes.statistics.attention import AttentionStatistics
from probes.statistics.attention_scores import (
    diagonal_share,
    duplicate_token_score,
    first_token_mass,
    hidden_mass,
    induction_score,
    last_token_mass,
    mean_distance,
    monotonicity,
    next_token_score,
    offset_score,
    prefix_matching_score,
    previous_token_score,
    received_mass,
    row_entropy,
    row_sum_error,
    same_token_score,
    sink_score,
)
from probes.statistics.covariance import Covariance
from probes.statistics.head_similarity import pattern_divergence, subspace_overlap
from probes.statistics.histogram import Histogram, log_edges
from probes.statistics.logit_lens import LogitLens, logit_lens
from probes.statistics.moments import Moments
from probes.statistics.norms import Norms
from probes.statistics.precision import precision
from probes.statistics.quantiles import Quantiles
from probes.statistics.residual_norms import Growth, MassiveActivation, fit_growth, largest_share, massive_activations, sink_positions
from probes.statistics.top_examples import TopExamples
from probes.statistics.update_norms import UpdateNorms

__all__ = [
    "AttentionStatistics", "Covariance", "Growth", "Histogram", "LogitLens", "MassiveActivation", "Moments", "Norms", "Part", "Quantiles",
    "RowsLike", "Seen", "Statistic", "TopExamples", "UpdateNorms", "View", "diagonal_share", "duplicate_token_score", "first_token_mass",
    "fit_growth", "hidden_mass", "induction_score", "largest_share", "last_token_mass", "log_edges", "logit_lens", "massive_activations",
    "mean_distance", "monotonicity", "next_token_score", "offset_score", "pattern_divergence", "precision", "prefix_matching_score",
    "previous_token_score", "received_mass", "row_entropy", "row_sum_error", "same_token_score", "sink_positions", "sink_score",
    "statistics", "subspace_overlap",
]
