"""How any model is watched, changed and measured: record, intervene, sweep, and metrics."""

from probes.edits import Edit, add, mean, patch, resample, scale, zero
from probes.errors import SiteError, UnknownSiteError
from probes.intervene import intervene
from probes.metrics import Metric, kl_divergence, log_probability, logit_difference, loss, masked_loss, probability, representation_shift
from probes.observable import Observable, SiteLike, Steppable, canonical, select
from probes.observe import Observed, observe
from probes.record import Activations, record, record_gradients
from probes.sweep import ablate_heads, sweep

__all__ = [
    "Activations", "Edit", "Metric", "Observable", "Observed", "SiteError", "SiteLike", "Steppable", "UnknownSiteError",
    "ablate_heads", "add", "canonical", "intervene", "kl_divergence", "log_probability", "logit_difference", "loss",
    "masked_loss", "mean", "observe", "patch", "probability", "record", "record_gradients", "representation_shift", "resample", "scale", "select", "sweep", "zero",
]
