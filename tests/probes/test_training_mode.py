"""Is a model refused whose passes are random, or change it?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model import Dropout, Transformer, TransformerConfig
from probes import (
    Edge,
    Edit,
    SiteError,
    extract,
    loss,
    patching,
    path_patch,
    stream,
    sweep,
    zero,
)
from probes.estimates import attribution_patching, screen_then_verify
from probes.statistics import Moments


@pytest.mark.parametrize("change", [{"dropout": Dropout(mlp=0.1)}, {"norm": "batch"}])
def test_a_model_in_training_mode_has_no_numbers(change: dict, tmp_path: Path) -> None:
    config = TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=8, **change)
    model, inputs, other = Transformer(config).train(), (torch.arange(6).reshape(2, 3),), (torch.arange(6).flip(0).reshape(2, 3),)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = [
        lambda: sweep(model, inputs, [Edit("blocks.0.mlp_out", zero())], loss()),
        lambda: stream(model, [inputs], [Moments(at="embed")], progress=False),
        lambda: extract(model, [inputs], "embed", tmp_path / "a"),
        lambda: patching(model, inputs, other, loss()),
        lambda: path_patch(model, inputs, other, [Edge("blocks.0.mlp_out", "logits")], loss()),
        lambda: attribution_patching(model, inputs, other, loss()),
        lambda: screen_then_verify(model, inputs, other, loss(), k=1, generator=torch.Generator()),
    ]
    for call in calls:
        with pytest.raises(SiteError, match=r"training mode, .* call model.eval\(\) first"):
            call()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(sweep(model.eval(), inputs, [Edit("blocks.0.mlp_out", zero())], loss())) == 2
