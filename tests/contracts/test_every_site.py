"""Does every listed site of every kind of model fire once, have its axes, and change the logits when it is edited?"""

from __future__ import annotations

import pytest
import torch

from model import Transformer, load_model, wrap
from model.sites import AXES
from probes import Edit, intervene, record
from tests.conftest import FAMILIES, hugging_face, relative

KINDS = [*FAMILIES, pytest.param("glasslm", id="glasslm")]
MASKS = ["none", "left", "right"]


@pytest.fixture(params=KINDS, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    return load_model("glasslm") if request.param == "glasslm" else wrap(hugging_face(*request.param)).requires_grad_(False)


def batch(model: Transformer, padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(model.config.d_vocab, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 11, dtype=torch.bool)
    if padding == "left":
        mask[1, :4] = False
    if padding == "right":
        mask[1, 7:] = False
    return tokens, mask


def everything(model: Transformer, padding: str):
    inputs = batch(model, padding)
    with torch.no_grad(), record(model, "*") as activations:
        logits = model(*inputs)
    return inputs, activations, logits


@pytest.mark.parametrize("padding", MASKS)
def test_fires_once_with_its_axes(model: Transformer, padding: str) -> None:
    (tokens, mask), activations, logits = everything(model, padding)
    assert set(activations) == set(model.sites())
    config = model.config
    sizes = {"batch": 3, "pos": 11, "query": 11, "key": 11, "head": config.n_heads, "kv_head": config.n_kv_heads, "1": 1,
             "d_model": config.d_model, "d_head": config.d_head, "d_mlp": config.d_mlp, "d_vocab": config.d_vocab}
    for name, site in model.sites().items():
        assert site.axes == AXES[name.rpartition(".")[2]]
        assert activations[name].shape == tuple(sizes[axis] for axis in site.axes), name
    for name in model.sites():  # each alone, since the others may have opened a path
        with torch.no_grad(), record(model, name) as alone:
            again = model(tokens, mask)
        assert relative(again[mask], logits[mask]) < 1e-5
        seen = alone[name].masked_fill(alone[name].isinf(), 0)
        assert relative(seen, activations[name].masked_fill(activations[name].isinf(), 0)) < 1e-4, name


@pytest.mark.parametrize("padding", MASKS)
def test_edit_by_noise_moves_the_logits(model: Transformer, padding: str) -> None:
    tokens, mask = batch(model, padding)
    with torch.no_grad():
        clean = model(tokens, mask)
        for name in model.sites():
            generator = torch.Generator().manual_seed(0)

            def noise(value: torch.Tensor) -> torch.Tensor:
                spread = value[value.isfinite()].std()
                return value + spread * torch.randn(value.shape, generator=generator)

            with intervene(model, Edit(name, noise)):
                edited = model(tokens, mask)
            assert edited[mask].isfinite().all(), name
            assert relative(edited[mask], clean[mask]) > 1e-3, name
        assert torch.equal(model(tokens, mask), clean)


@pytest.mark.parametrize("padding", MASKS)
def test_identities(model: Transformer, padding: str) -> None:
    (tokens, mask), a, logits = everything(model, padding)
    group = model.config.n_heads // model.config.n_kv_heads
    assert torch.equal(a["logits"], logits)
    for i in range(model.config.n_layers):
        at = lambda word, i=i: a[f"blocks.{i}.{word}"]  # noqa: E731
        pattern, real = at("attn.pattern"), mask[:, None, :].expand(-1, model.config.n_heads, -1)
        sums = pattern.sum(-1)
        assert torch.allclose(sums[real], torch.ones_like(sums[real]), atol=1e-6)
        assert not pattern.isnan().any() and (pattern.triu(1) == 0).all() and (pattern[~mask[:, None, None, :].expand_as(pattern)] == 0).all()
        seen = real & at("attn.scores").isfinite().any(-1)
        assert torch.allclose(at("attn.scores").softmax(-1)[seen], pattern[seen], atol=1e-6)
        v = at("attn.v").repeat_interleave(group, dim=2)  # batch pos head d_head
        assert relative(torch.einsum("bhqk,bkhe->bqhe", pattern, v), at("attn.z")) < 1e-5
        if model.config.positions == "rotary":
            q, k = at("attn.rot_q"), at("attn.rot_k").repeat_interleave(group, dim=2)
        else:
            q, k = at("attn.q"), at("attn.k").repeat_interleave(group, dim=2)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / model.config.d_head**0.5
        visible = at("attn.scores").isfinite()
        assert relative(scores[visible], at("attn.scores")[visible]) < 1e-5
        bias = model.blocks[i].attn.W_O.bias
        assert relative(at("attn.result").sum(2) + (0 if bias is None else bias), at("attn_out")) < 1e-5
        assert relative(at("resid_pre") + at("attn_out"), at("resid_mid")) < 1e-6
        assert relative(at("resid_pre") + at("attn_out") + at("mlp_out"), at("resid_post")) < 1e-5
        for norm, reads in (("ln1", "resid_pre"), ("ln2", "resid_mid")):
            x = at(reads)
            x = x - x.mean(-1, keepdim=True) if model.config.norm == "layer" else x
            assert relative(at(f"{norm}.normalized") * at(f"{norm}.scale"), x) < 1e-5


def test_blind_queries_have_zero_rows(model: Transformer) -> None:
    (tokens, mask), a, _ = everything(model, "left")
    assert (a["blocks.0.attn.pattern"][1, :, :4] == 0).all() and (a["blocks.0.attn.z"][1, :4] == 0).all()
    with torch.no_grad(), record(model, "blocks.0.attn.z") as fused:
        model(tokens, mask)
    assert (fused["blocks.0.attn.z"][1, :4] == 0).all()


def test_no_gradient_reaches_the_future_or_padding(model: Transformer) -> None:
    for padding in ("left", "right"):
        tokens, mask = batch(model, padding)
        with record(model, "embed", gradients=True) as a:
            logits = model(tokens, mask)
        gradient = torch.autograd.grad(logits[1, 6].pow(2).sum(), a["embed"])[0]  # position 6 is real in both
        assert gradient.isfinite().all()
        assert (gradient[1, 7:] == 0).all() and (gradient[[0, 2]] == 0).all() and (gradient[1][~mask[1]] == 0).all()
        assert (gradient[1, 6] != 0).any() and (gradient[1, 5] != 0).any()
