"""Does `precision` find the site that overflows, the block that loses digits, and nothing where nothing is lost?"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from model import Transformer, TransformerConfig, wrap
from probes import SiteError, UnknownSiteError, observe, record
from probes.statistics import precision
from tests.conftest import FAMILIES, example, hugging_face, read_mask
from tests.model.test_generation import decoder, two_stacks


def flagged(table) -> list[str]:
    return table.loc[table["nonfinite"] > 0, "site"].tolist()


@pytest.mark.parametrize("make", [decoder, two_stacks])
def test_the_first_site_that_overflows_is_the_planted_one(make) -> None:
    model = make(n_layers=3, positions="rotary", norm="rms")
    side = "decoder." if make is two_stacks else ""
    block = (model.decoder if side else model).blocks[1]
    inputs, names = example(model, "left"), "*"
    assert flagged(precision(model, inputs, torch.float16, names=names)) == []
    with torch.no_grad():
        block.mlp.W_in.weight.mul_(2e4)  # some of pre pass 65504, the largest number of fp16
        block.mlp.W_out.weight.mul_(5e-5)  # what comes out is not larger than before
    table = precision(model, inputs, torch.float16, names=names)
    assert flagged(table)[0] == f"{side}blocks.1.mlp.pre"
    first = table.set_index("site").loc[f"{side}blocks.1.mlp.pre"]
    assert first["layer"] == 1 and 0 < first["nonfinite"] < 1 and not math.isfinite(first["relative_error"])
    after = table.drop(columns="layer").set_index("site").loc["logits"]
    assert math.isnan(after["relative_error"]) and math.isnan(after["cosine"]) and after["nonfinite"] > 0  # NaN is kept
    wide = precision(model, inputs, torch.bfloat16, names=names)
    assert flagged(wide) == [] and wide["relative_error"].notna().all()  # bf16 has fp32's range


def test_the_block_that_loses_digits_is_the_planted_one() -> None:
    """A large constant beside small signals costs the signals their digits: in block 1 and, as the stream carries it on, after it."""
    model = decoder(n_layers=3, norm="none", positions="none")
    inputs = example(model)
    with torch.no_grad():
        model.blocks[1].mlp.W_in.bias.add_(3000.0)  # relu passes the sum on, W_out takes 3000 times its column sums off again
        model.blocks[1].mlp.W_out.bias.sub_(3000.0 * model.blocks[1].mlp.W_out.weight.sum(1))
        model.blocks[1].mlp.activation = torch.nn.functional.relu
    table = precision(model, inputs, names="blocks.*.mlp_out").set_index("layer")
    assert table.loc[1, "local_error"] > 5 * table.loc[[0, 2], "local_error"].max()
    assert table.loc[2, "relative_error"] > 5 * table.loc[2, "local_error"]  # it was given that error


def test_what_the_format_holds_exactly_does_not_drift() -> None:
    config = TransformerConfig(
        n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=10, n_ctx=6, norm="none", activation="relu", positions="none"
    )
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=torch.Generator().manual_seed(0)).float())
        model.blocks[0].attn.W_O.weight.zero_()
    table = precision(model, torch.tensor([[1, 2, 3]]), names=["embed", "blocks.0.resid_*", "blocks.0.mlp.*"])
    assert (table[["relative_error", "local_error", "max_error", "nonfinite"]] == 0).all(axis=None)
    assert table["cosine"].to_numpy() == pytest.approx(1)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_errors_are_those_of_two_recordings(side: str) -> None:
    model = decoder(positions="alibi")
    tokens, mask = example(model, side)
    low = copy.deepcopy(model).to(torch.float16)
    table = precision(model, (tokens, mask), torch.float16).set_index("site")
    with record(model, "*") as a:
        model(tokens, mask)
    with record(low, "*") as b:
        low(tokens, mask)
    assert list(table.index) == list(b)
    for name in ("embed", "blocks.0.attn.pattern", "blocks.1.attn.v", "blocks.1.ln2.scale", "logits"):
        x, y = ((value.transpose(1, 2) if "pattern" in name else value)[mask].double().flatten() for value in (a[name], b[name]))
        row = table.loc[name]
        assert row["relative_error"] == pytest.approx(float((y - x).norm() / x.norm())) and row["max_error"] == float((y - x).abs().max())
        assert row["cosine"] == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)))
    table = precision(model, (tokens, mask), torch.float16, names="*resid_post").set_index("site")
    state = low.step(low.start(tokens, mask), 0)  # the second block alone, on the exact stream
    alone = low.step(type(state)(a["blocks.1.resid_pre"].half(), state.context), 1).resid[mask].double()
    expected = a["blocks.1.resid_post"][mask].double()
    assert table.loc["blocks.1.resid_post", "local_error"] == pytest.approx(float((alone - expected).norm() / expected.norm()), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_bf16(family: tuple[str, int]) -> None:
    model = wrap(hugging_face(*family))
    inputs = example(model, "right")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = model(*inputs)
    table = precision(model, inputs)
    assert set(table["site"]) == set(model.sites()) and len(table) == len(model.sites())
    assert flagged(table) == [] and table["local_error"].between(0, 0.3).all()
    assert (table["relative_error"] < 0.3).all() and table["relative_error"].max() > 2**-10
    assert all(torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype for name, tensor in model.state_dict().items())
    assert torch.equal(model(*inputs)[read_mask(inputs)], output[read_mask(inputs)])
    assert not any(site.observed for site in model.sites().values())


def test_a_module_of_ones_own() -> None:
    tower = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        tower[0].weight.mul_(1e6)
    mine = observe(tower, {"blocks.*.mlp_out": "*:output"})
    table = precision(mine, torch.ones(1, 3, 4), torch.float16)
    assert flagged(table)[0] == "blocks.0.mlp_out" and table["local_error"].isna().all() and table["layer"].tolist() == [0, 1, 2]
    assert tower[0].weight.dtype == torch.float32


def test_mistakes() -> None:
    model, tokens = decoder(), torch.tensor([[1, 2, 3]])
    with pytest.raises(SiteError, match="dtype must be a floating-point format such as torch.bfloat16, got torch.int8"):
        precision(model, tokens, torch.int8)
    with pytest.raises(UnknownSiteError, match="did you mean blocks.0.resid_post"):
        precision(model, tokens, names="blocks.0.resid_pst")

    class Bare:
        def sites(self) -> dict[str, Tensor]:
            return {"embed": None}

    with pytest.raises(SiteError, match="must be a torch module or hold one in `module`, got Bare"):
        precision(Bare(), tokens)
