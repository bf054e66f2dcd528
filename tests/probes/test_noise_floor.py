"""Does the noise floor part rounding from effects, and leave everything as it was?"""

from __future__ import annotations

import pytest
import torch

from model import wrap
from probes import (
    Edit,
    SiteError,
    ablate_heads,
    logit_difference,
    loss,
    mean,
    observe,
    scale,
    sweep,
    zero,
)
from probes.sweep.noise import NoiseFloor, mark_noise, noise_floor
from tests.conftest import example, hugging_face, interrupted, place_to_read


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "t5"])
def test_a_planted_zero_is_below_and_a_planted_effect_above(name: str) -> None:
    model = wrap(hugging_face(name, 0)).requires_grad_(False)
    inputs, metric = example(model, "left"), logit_difference(3, 4, positions=place_to_read(model))
    site = "decoder.blocks.0.attn.z" if name == "t5" else "blocks.0.attn.z"
    edits = ablate_heads(model, mean(inputs))
    threads, state = torch.get_num_threads(), {key: value.clone() for key, value in model.state_dict().items()}
    floor = noise_floor(model, inputs, edits, metric, n_edits=6)
    assert torch.get_num_threads() == threads and model.dtype == torch.float32
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(site.observed for site in model.sites().values())
    assert floor.n_edits == 6 and 0 < floor.dtype < 1e-3 and floor.threads < 1e-3 and floor.largest >= floor.dtype
    table = sweep(
        model, inputs, [Edit(site, scale(1.0), heads=[0]), Edit("*resid_post" if name == "t5" else "blocks.0.resid_post", zero())], metric
    )
    marked = mark_noise(table, floor)
    assert not marked[marked["edit"] == 0]["above_noise"].any()
    assert marked[marked["edit"] == 1]["above_noise"].all()
    assert marked.attrs["noise_floor"] == floor.largest and marked.attrs["exact"] is True and "noise_floor" not in table.attrs


def test_the_floor_is_the_rounding() -> None:
    """Against effects in float64, none of the chosen edits is off by more; half precision has a higher floor."""
    model = wrap(hugging_face("qwen3", 0)).requires_grad_(False)
    inputs, metric = example(model, "right"), loss()
    edits = ablate_heads(model, zero())
    floor = noise_floor(model, inputs, edits, metric)
    assert floor.n_edits == len(edits) <= 32 and floor.unit == "nats per token"
    effect = sweep(model, inputs, edits, metric)["effect"]
    wide = wrap(hugging_face("qwen3", 0)).requires_grad_(False).double()
    assert (effect - sweep(wide, inputs, edits, metric)["effect"]).abs().max() == pytest.approx(floor.dtype)
    half = noise_floor(wrap(hugging_face("qwen3", 0)).requires_grad_(False).bfloat16(), inputs, edits, metric)
    assert half.dtype > 30 * floor.dtype
    assert noise_floor(wide, inputs, edits, metric, n_edits=2).dtype is None


def test_the_same_seed_draws_the_same_edits() -> None:
    model = wrap(hugging_face("gpt2", 0)).requires_grad_(False)
    inputs, edits = example(model), ablate_heads(model, zero())
    floors = [noise_floor(model, inputs, edits, loss(), n_edits=3, seed=seed) for seed in (1, 1, 2)]
    assert floors[0] == floors[1] and floors[0] != floors[2]


def test_mistakes() -> None:
    model = wrap(hugging_face("gpt2", 0)).requires_grad_(False)
    inputs = example(model)
    threads = torch.get_num_threads()
    with pytest.raises(SiteError, match="at least one edit, got n_edits=0"):
        noise_floor(model, inputs, ablate_heads(model, zero()), loss(), n_edits=0)
    with pytest.raises(SiteError, match="at least one edit, got none"):
        noise_floor(model, inputs, [], loss())
    with pytest.raises(SiteError, match="Observed is no module with a dtype"):
        mine = observe(hugging_face("gpt2", 0), {"blocks.*.mlp_out": "transformer.h.*.mlp:output"})
        noise_floor(mine, inputs[:1], [Edit("blocks.0.mlp_out", zero())], loss())
    assert torch.get_num_threads() == threads
    table = sweep(model, inputs, ablate_heads(model, zero()), loss())
    with pytest.raises(SiteError, match="that of kl_divergence, the table's metric is loss"):
        mark_noise(table, NoiseFloor(threads=0.0, dtype=0.0, n_edits=1, metric="kl_divergence", unit="nats"))


@pytest.mark.filterwarnings("ignore:the sweep was interrupted")
@pytest.mark.parametrize("call", [1, 2, 4, 6])
def test_an_interrupted_floor_is_none(call: int) -> None:
    model, inputs = wrap(hugging_face("gpt2", 0)), (torch.arange(6).reshape(2, 3),)
    with pytest.raises(KeyboardInterrupt):
        noise_floor(model, inputs, ablate_heads(model, zero(), layers=[0])[:1], interrupted(loss(), call))
