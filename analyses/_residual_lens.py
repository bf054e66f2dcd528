"""When is the answer there? The logit lens summed up over positions, and shown on one example."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from analyses._anatomy import Inputs, Model, sides
from analyses._residual_frames import spread
from analyses._residual_inputs import EXAMPLE_TOKENS, words, writer
from analyses._residual_measure import VERSIONS, over, rows
from analyses._residual_statistics import plain, real_first
from probes.statistics.logit_lens import LogitLens, logit_lens


def lens_frame(model: Model, inputs: Inputs, chosen: Bool[Tensor, "batch pos"], sinks: Bool[np.ndarray, "example pos"]) -> pd.DataFrame:
    """Divergence from and agreement with the final prediction at the chosen positions, by state and version.

    `sinks` is counted in real tokens, `chosen` in padded positions. One text at a time: logits are wide.
    """
    mask = sides(model)[-1].tokens(inputs)[1]
    lenses = [logit_lens(model, *rows(inputs, i, i + 1)) for i in range(len(inputs[0]))]
    kl = _counted([lens.kl for lens in lenses], mask)
    agrees = _counted([lens.agrees for lens in lenses], mask).astype(bool)
    where = real_first(chosen, mask).cpu().numpy()
    found = []
    for state in range(len(kl)):
        for version in VERSIONS:
            here = over(where, sinks, version)
            n, values = int(here.sum()), kl[state][here]
            found.append(
                {"state": state, "positions": version, "n_tokens": n, "kl_mean": float(values.mean()) if n else np.nan}
                | spread("kl", values)
                | {"agreement": float(agrees[state][here].mean()) if n else np.nan}
            )
    return pd.DataFrame(found)


def _counted(parts: list[Tensor], mask: Tensor | None) -> np.ndarray:
    """Float[state example pos], positions counted in real tokens; each part is [state 1 pos]."""
    joined = torch.cat(parts, dim=1)
    return plain(torch.stack([real_first(state, mask) for state in joined]))


def lens_example_frame(model: Model, inputs: Inputs) -> pd.DataFrame:
    """The most probable token after every block, at every position of one text."""
    tokens, mask = sides(model)[-1].tokens(inputs)
    lens = logit_lens(model, *inputs)
    kept = (torch.arange(tokens.shape[1]) if mask is None else mask[0].nonzero()[:, 0].cpu())[:EXAMPLE_TOKENS]
    lens = LogitLens(*(part[..., kept] for part in (lens.kl, lens.top_token, lens.top_probability)))
    n_states, _, n_positions = lens.top_token.shape
    seen, said = words(writer(model), tokens[0, kept]), words(writer(model), lens.top_token.flatten())
    state, position = np.meshgrid(np.arange(n_states), np.arange(n_positions), indexing="ij")
    return pd.DataFrame(
        {
            "state": state.ravel(),
            "position": position.ravel(),
            "token": [seen[i] for i in position.ravel()],
            "top_token": said,
            "probability": plain(lens.top_probability).ravel(),
            "kl": plain(lens.kl).ravel(),
        }
    )
