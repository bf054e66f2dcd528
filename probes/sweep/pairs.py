"""Can two inputs be patched into each other? Only where every example has its tokens at the same places, and another answer."""

from __future__ import annotations

from torch import Tensor

from probes.errors import SiteError
from probes.inputs import Inputs, mask_at, two_sequences, written

LEAST_GAP = 0.1
"""an example is refused where the metric of the two runs differs by less than this share of the clean one"""


def check_pairs(clean: Inputs, corrupt: Inputs) -> None:
    """Raises SiteError for inputs of different shape, and for an example with another number of tokens, or padded elsewhere.

    >>> import torch
    >>> check_pairs((torch.zeros(2, 5),), (torch.zeros(2, 6),))
    Traceback (most recent call last):
    probes.errors.SiteError: clean and corrupt must have the same shape, got (2, 5) and (2, 6)
    """
    if two_sequences(clean) != two_sequences(corrupt):
        raise SiteError(f"clean and corrupt must be inputs of the same kind, got {len(clean)} and {len(corrupt)} tensors")
    for side in ("encoder.", "") if two_sequences(clean) else ("",):
        tokens = [(inputs[0] if side else written(inputs)[0]) for inputs in (clean, corrupt)]
        if tokens[0].shape != tokens[1].shape:
            raise SiteError(f"clean and corrupt must have the same shape, got {tuple(tokens[0].shape)} and {tuple(tokens[1].shape)}")
        real = [
            tokens[i].new_ones(tokens[i].shape).bool() if (m := mask_at(side, x)) is None else m for i, x in enumerate((clean, corrupt))
        ]
        if wrong := (real[0] != real[1]).any(1).nonzero().flatten().tolist():
            i = wrong[0]
            counts = [int(mask[i].sum()) for mask in real]
            how = f"it has {counts[0]} and {counts[1]}" if counts[0] != counts[1] else f"its {counts[0]} are padded on different sides"
            raise SiteError(f"example {i} must have its tokens at the same places in clean and corrupt, {how}")


def check_gaps(clean: Tensor, corrupt: Tensor, least_gap: float) -> None:
    """Raises SiteError for an example in which the two runs differ too little."""
    degenerate = ~((clean - corrupt).abs() >= least_gap * clean.abs()) | (clean == corrupt)
    if bool(degenerate.any()):
        i = int(degenerate.nonzero()[0])
        raise SiteError(
            f"there is nothing to restore in example {i}: the metric is {float(clean[i]):.4g} clean and {float(corrupt[i]):.4g} corrupt, "
            f"which differ by less than {100 * least_gap:g} % of the clean one"
        )
