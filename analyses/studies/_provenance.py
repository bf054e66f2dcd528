"""What would somebody need to run a study again? Versions, the shipped data by digest, seed, threads and the command line."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence

import torch

from analyses._provenance import source_state, versions
from model.zoo import data_path
from model.zoo._course import sha256
from reports import Provenance

DATA = ("prose.txt", "cmudict.dict.gz")


def study_provenance(*, seed: int, command: Sequence[str] = ("python",)) -> Provenance:
    """Everything needed to run it again, as it is now; models are trained by the study itself, or ship and are named in its `scale`."""
    commit, dirty = source_state()
    return Provenance(
        command=shlex.join(command), versions=versions(), git_commit=commit, git_dirty=dirty, model={"name": "trained by the study, or named in its scale"},
        corpus={name: sha256(data_path(name)) for name in DATA}, seed=seed, dtype="float32", device="cpu", threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.machine()}",
    )  # fmt: skip
