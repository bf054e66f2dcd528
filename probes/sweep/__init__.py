"""What does each of many edits do to a metric? Exact answers, without running what an edit cannot have changed."""

from probes.sweep.edits_by_name import ablate_heads
from probes.sweep.planning import Plan, plan
from probes.sweep.run import sweep

__all__ = ["Plan", "ablate_heads", "plan", "sweep"]
