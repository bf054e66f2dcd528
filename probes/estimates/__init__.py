"""What would patching do, roughly? First-order estimates of every node at once, and screens whose best nodes are settled exactly."""

from probes.estimates.attribution_patching import attribution_patching
from probes.estimates.first_order import FirstOrder
from probes.estimates.screen import Screening, recall, screen_then_verify

__all__ = ["FirstOrder", "Screening", "attribution_patching", "recall", "screen_then_verify"]
