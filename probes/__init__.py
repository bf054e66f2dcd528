"""How any model is watched, changed and measured: record, intervene, sweep, and metrics."""

from probes.circuits import Edge, Node, edges_between, path_patch
from probes.edits import Edit, add, constant, mean, patch, positional_mean, resample, scale, zero
from probes.effects import check_gap, recovery, summarise
from probes.errors import SiteError, UnknownSiteError
from probes.estimates import FirstOrder, Screening, attribution_patching, recall, screen_then_verify
from probes.extract import Extracted, extract, load_extracted
from probes.intervene import intervene
from probes.linear_probe import linear_probe
from probes.metrics import (
    Metric,
    Readout,
    accuracy,
    kl_divergence,
    log_probability,
    logit_difference,
    loss,
    loss_at,
    masked_loss,
    probability,
    representation_shift,
    total_variation,
)
from probes.observable import Observable, SiteLike, Steppable, canonical, select
from probes.observe import Observed, observe
from probes.record import Activations, record, record_gradients
from probes.steering import steer, steering_vectors
from probes.stream import Reading, read_stream, stream
from probes.sweep import Plan, ablate_heads, cumulative_sweep, greedy_sweep, patch_sites, patching, plan, sets_of, sweep
from probes.sweep.noise import NoiseFloor, mark_noise, noise_floor

__all__ = [
    "Activations", "Edge", "Edit", "Extracted", "FirstOrder", "Metric", "Node", "NoiseFloor", "Observable", "Observed", "Plan",
    "Reading", "Readout", "Screening", "SiteError", "SiteLike", "Steppable", "UnknownSiteError", "ablate_heads", "accuracy",
    "add", "attribution_patching", "canonical", "check_gap", "constant", "cumulative_sweep", "edges_between", "extract",
    "greedy_sweep", "intervene", "kl_divergence", "linear_probe", "load_extracted", "log_probability", "logit_difference", "loss",
    "loss_at", "mark_noise", "masked_loss", "mean", "noise_floor", "observe", "patch", "patch_sites", "patching", "path_patch",
    "plan", "positional_mean", "probability", "read_stream", "recall", "record", "record_gradients", "recovery",
    "representation_shift", "resample", "scale", "screen_then_verify", "select", "sets_of", "steer", "steering_vectors", "stream",
    "summarise", "sweep", "total_variation", "zero",
]
