"""How sure is a mean over examples? As the probes say it."""

from probes.intervals import bootstrap_mean

__all__ = ["bootstrap_mean"]
