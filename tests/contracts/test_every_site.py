"""Does every listed site of every kind of model fire once, have its axes, keep its definition, and change the output when it is edited?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from model import EncoderDecoder, Transformer, TransformerConfig, load_model, wrap
from model.sites import AXES
from probes import record
from tests.conftest import FAMILIES, PADDING, example, hugging_face, read_mask, relative
from tests.contracts.families import MOVED, moved_by_noise

KINDS = [*FAMILIES, pytest.param("glasslm", id="glasslm")]
Model = Transformer | EncoderDecoder


@pytest.fixture(params=KINDS, scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return load_model("glasslm") if request.param == "glasslm" else wrap(hugging_face(*request.param)).requires_grad_(False)


@dataclass(frozen=True)
class Part:
    """One stack of a model: what its sites' names begin with, and which of its tokens, and of its source's, are real."""

    prefix: str
    stack: nn.Module
    mask: Tensor
    source_mask: Tensor | None

    @property
    def config(self) -> TransformerConfig:
        return self.stack.config


def parts(model: Model, inputs: tuple[Tensor, ...]) -> list[Part]:
    if isinstance(model, Transformer):
        return [Part("", model, inputs[1], None)]
    return [Part("encoder.", model.encoder, inputs[2], None), Part("decoder.", model.decoder, inputs[3], inputs[2])]


def part_of(name: str, model: Model, inputs: tuple[Tensor, ...]) -> Part:
    found = parts(model, inputs)
    return next((part for part in found if part.prefix and name.startswith(part.prefix)), found[-1])


def everything(model: Model, padding: str):
    inputs = example(model, padding)
    with torch.no_grad(), record(model, "*") as activations:
        logits = model(*inputs)
    return inputs, activations, logits


def sizes(name: str, part: Part) -> dict[str, int]:
    """How long every axis of a site is."""
    config, (batch, pos) = part.config, part.mask.shape
    source = pos if ".cross_attn." not in name else part.source_mask.shape[1]
    return {
        "batch": batch, "pos": source if name.endswith((".k", ".v")) else pos, "query": pos, "key": source, "1": 1,
        "head": config.n_heads, "kv_head": config.n_kv_heads, "d_model": config.d_model, "d_head": config.d_head, "d_mlp": config.d_mlp,
        "d_vocab": config.d_vocab, "head·d_head": config.n_heads * config.d_head, "kv_head·d_head": config.n_kv_heads * config.d_head,
    }


@pytest.mark.parametrize("padding", PADDING)
def test_fires_once_with_its_axes(model: Model, padding: str) -> None:
    inputs, activations, logits = everything(model, padding)
    mask = read_mask(inputs)
    assert set(activations) == set(model.sites())
    for name, site in model.sites().items():
        if ".ln_q." not in name and ".ln_k." not in name:  # a norm inside attention has the axes of what it norms
            assert site.axes == AXES[name.rpartition(".")[2]]
        long = sizes(name, part_of(name, model, inputs))
        assert activations[name].shape == tuple(long[axis] for axis in site.axes), name
    for name in model.sites():  # each alone, since the others may have opened a path
        with torch.no_grad(), record(model, name) as alone:
            again = model(*inputs)
        assert relative(again[mask], logits[mask]) < 1e-5
        seen = alone[name].masked_fill(alone[name].isinf(), 0)
        assert relative(seen, activations[name].masked_fill(activations[name].isinf(), 0)) < 1e-4, name


@pytest.mark.parametrize("padding", PADDING)
def test_edit_by_noise_moves_the_output(model: Model, padding: str) -> None:
    inputs = example(model, padding)
    with torch.no_grad():
        clean = model(*inputs)
        moved = moved_by_noise(model, padding)
        assert list(moved) == list(model.sites())
        assert all(shift > MOVED for shift in moved.values()), {name: shift for name, shift in moved.items() if not shift > MOVED}
        assert torch.equal(model(*inputs), clean)


def attentions(part: Part) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Every attention of a stack: its sites' prefix, the module, and which keys are real."""
    for i, block in enumerate(part.stack.blocks):
        yield f"{part.prefix}blocks.{i}.attn.", block.attn, part.mask
        if block.cross_attn is not None:
            yield f"{part.prefix}blocks.{i}.cross_attn.", block.cross_attn, part.source_mask


@pytest.mark.parametrize("padding", PADDING)
def test_attention_is_what_it_says(model: Model, padding: str) -> None:
    inputs, a, _ = everything(model, padding)
    for part in parts(model, inputs):
        config = part.config
        for prefix, module, keys in attentions(part):
            pattern, scores = a[f"{prefix}pattern"], a[f"{prefix}scores"]
            seen = scores.isfinite().any(-1)  # batch head query
            assert not pattern.isnan().any() and (pattern[~seen] == 0).all()
            assert (pattern[~keys[:, None, None, :].expand_as(pattern)] == 0).all()
            assert seen[part.mask[:, None, :].expand_as(seen)].all()
            assert torch.allclose(scores.softmax(-1)[seen], pattern[seen], atol=1e-6)
            if config.causal and not module.cross:
                assert (pattern.triu(1) == 0).all()
            group = config.n_heads // config.n_kv_heads
            v = a[f"{prefix}v"].repeat_interleave(group, dim=2)  # batch key head d_head
            assert relative(torch.einsum("bhqk,bkhe->bqhe", pattern, v), a[f"{prefix}z"]) < 1e-5
            turned = "rot_" if f"{prefix}rot_q" in a else ""
            q, k = a[f"{prefix}{turned}q"], a[f"{prefix}{turned}k"].repeat_interleave(group, dim=2)
            expected = torch.einsum("bqhe,bkhe->bhqk", q, k) * (config.score_scale or config.d_head**-0.5)
            if config.score_cap is not None:
                expected = config.score_cap * torch.tanh(expected / config.score_cap)
            if config.positions in ("t5", "alibi") and not module.cross:  # test_switches compares these with their formulas
                continue
            assert relative(scores.masked_fill(scores.isinf(), 0), expected.masked_fill(scores.isinf(), 0)) < 1e-5


def normed(a: dict[str, Tensor], name: str, module: nn.Module) -> Tensor:
    """What a norm gives."""
    y = a[f"{name}.normalized"] * (module.gain + module.gain_offset)
    return y if module.bias is None else y + module.bias


def is_norm_of(a: dict[str, Tensor], name: str, module: nn.Module, x: Tensor) -> None:
    x = x - x.mean(-1, keepdim=True) if module.centred else x
    assert relative(a[f"{name}.normalized"] * a[f"{name}.scale"], x) < 1e-5, name


@pytest.mark.parametrize("padding", PADDING)
def test_the_stream_is_the_sum_of_its_parts(model: Model, padding: str) -> None:
    inputs, a, _ = everything(model, padding)
    for part in parts(model, inputs):
        for i, block in enumerate(part.stack.blocks):
            at = f"{part.prefix}blocks.{i}."
            steps = [("ln1", "attn", "attn_out", "resid_mid")]
            if block.cross_attn is not None:
                steps.append(("ln_cross", "cross_attn", "cross_attn_out", "resid_mid_cross"))
            steps.append(("ln2", "mlp", "mlp_out", "resid_post"))
            read = a[f"{at}resid_pre"]
            for norm, module, added, after in steps:
                out = a[f"{at}{module}.out"] if f"{at}{module}.out" in a else a[f"{at}{added}"]
                is_added(a, block, at, (norm, out, added, read))
                if "attn" in module:
                    bias = getattr(block, module).W_O.bias
                    assert relative(a[f"{at}{module}.result"].sum(2) + (0 if bias is None else bias), out) < 1e-5
                if not part.config.parallel:
                    total = read + a[f"{at}{added}"]
                    expected = normed(a, f"{at}{norm}", getattr(block, norm)) if part.config.norm_place == "post" else total
                    assert relative(a[f"{at}{after}"], expected) < 1e-5, after
                    read = a[f"{at}{after}"]
            if part.config.parallel:
                assert f"{at}resid_mid" not in a
                assert relative(read + a[f"{at}attn_out"] + a[f"{at}mlp_out"], a[f"{at}resid_post"]) < 1e-5


def is_added(a: dict[str, Tensor], block: nn.Module, at: str, step: tuple[str, Tensor, str, Tensor]) -> None:
    """A sub-layer's norms read what they should, and what is added is what comes out, normed and scaled where the config says so."""
    norm, out, added, read = step
    if block.place in ("pre", "sandwich") and hasattr(block, norm):
        is_norm_of(a, f"{at}{norm}", getattr(block, norm), read)
    if block.place == "post":
        is_norm_of(a, f"{at}{norm}", getattr(block, norm), read + a[f"{at}{added}"])
    if block.place in ("sandwich", "output"):
        after = getattr(block, f"{norm}_post")
        is_norm_of(a, f"{at}{norm}_post", after, out)
        out = normed(a, f"{at}{norm}_post", after)
    assert relative(out * block.factor, a[f"{at}{added}"]) < 1e-5


def test_blind_queries_have_zero_rows(model: Model) -> None:
    inputs, a, _ = everything(model, "left")
    part = parts(model, inputs)[-1]
    if not part.config.causal:
        return  # padding of an encoder sees the real tokens
    names = f"{part.prefix}blocks.0.attn.z", f"{part.prefix}blocks.0.attn.pattern"
    with torch.no_grad(), record(model, names[0]) as fused:
        model(*inputs)
    blind = ~part.mask[1]
    assert (a[names[1]][1, :, blind] == 0).all() and (a[names[0]][1, blind] == 0).all() and (fused[names[0]][1, blind] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_reach_what_can_be_seen_and_nothing_else(model: Model, side: str) -> None:
    inputs = example(model, side)
    found = parts(model, inputs)
    with record(model, [f"{part.prefix}embed" for part in found], gradients=True) as a:
        output = model(*inputs)
    number = output[1, 5].pow(2).sum()  # position 5 is real on both sides
    gradients = torch.autograd.grad(number, [a[f"{part.prefix}embed"] for part in found])
    for part, gradient in zip(found, gradients, strict=True):
        assert gradient.isfinite().all()
        assert (gradient[[0, 2]] == 0).all() and (gradient[1, ~part.mask[1]] == 0).all()
        seen = part.mask[1].clone()
        if part.config.causal:
            assert (gradient[1, 6:] == 0).all()
            seen[6:] = False
        near = torch.arange(len(seen))[seen][-2:] if part.config.causal else torch.arange(len(seen))[seen]
        assert (gradient[1, near] != 0).any(-1).all()
