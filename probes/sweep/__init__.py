"""What does each of many edits do to a metric? Exact answers, without running what an edit cannot have changed."""

from probes.sweep.curves import cumulative_sweep, greedy_sweep, sets_of
from probes.sweep.edits_by_name import ablate_heads
from probes.sweep.patch_grid import patch_sites
from probes.sweep.patching import patching
from probes.sweep.planning import Plan, plan
from probes.sweep.run import sweep

__all__ = ["Plan", "ablate_heads", "cumulative_sweep", "greedy_sweep", "patch_sites", "patching", "plan", "sets_of", "sweep"]
