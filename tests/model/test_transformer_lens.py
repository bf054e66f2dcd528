"""Does a model of TransformerLens, wrapped, show what ours shows? And is every hook that does not left out and named?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformer_lens.model_bridge import sources as lens

from model import wrap
from model.architectures import architectures
from model.bridge import Bridged
from probes import Edit, ablate_heads, canonical, intervene, loss, mean, record, record_gradients, sweep, zero
from probes.inputs import mask_at
from tests.conftest import PADDING, example, hugging_face, read_mask, relative

pytestmark = pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")  # TransformerLens says that it rounds otherwise then

UNSUPPORTED = {"distilbert"}
"""Families of ours that TransformerLens does not have."""

ROW_CONSTANT = {"bloom"}
"""ALiBi: TransformerLens adds slope · key, we subtract slope · distance; within a row they differ by a constant, which softmax drops."""

ARANGED = {"bart", "marian", "roberta"}
"""Families whose positions TransformerLens does not count from the mask."""

LEFT_OUT = {
    "bart": {"attn.pattern", "attn.scores", "attn.result", "cross_attn.pattern", "cross_attn.scores", "cross_attn.result"},
    "bert": {"attn.pattern", "attn.scores", "attn.result"},
    "bloom": {"attn.result"},
    "gpt_neox": {"attn.rot_q", "attn.rot_k"},
    "gptj": {"attn.pattern", "attn.scores", "attn.result", "attn.rot_q", "attn.rot_k"},
    "granite": {"attn.result"},
    "marian": {"attn.pattern", "attn.scores", "attn.result", "cross_attn.pattern", "cross_attn.scores", "cross_attn.result"},
    "opt": {"attn.pattern", "attn.scores", "attn.result"},
    "phi3": {"attn.rot_q", "attn.rot_k"},
    "roberta": {"attn.pattern", "attn.scores", "attn.result"},
    "t5": {"attn.pattern", "attn.scores", "attn.result", "cross_attn.pattern", "cross_attn.scores", "cross_attn.result"},
}
"""What of attention TransformerLens 4.3 does not show, or shows without letting an edit reach the output."""


def foreign(name: str) -> nn.Module:
    """A small random model of a family, with stacks of one depth where TransformerLens asks for that."""
    if name not in ("bart", "marian"):
        return hugging_face(name, 0)
    family = architectures()[name]
    same = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    same |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "d_model": 16}
    config = transformers.AutoConfig.for_model(name, **{"attn_implementation": "eager", **family.random_configs[0], **same})
    model = getattr(transformers, family.transformers_class)._from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                gain = parameter.dim() == 1 and key.endswith("weight")
                parameter.copy_(gain + 0.25 * torch.randn(parameter.shape, generator=generator))
    return model


def bridge_around(theirs: nn.Module, tokenizer: Any = None) -> Any:
    """TransformerLens' model around, and in place of, a Hugging Face model."""
    return lens.build_bridge_from_module(theirs, type(theirs).__name__, hf_config=theirs.config, tokenizer=tokenizer)


def both(name: str) -> tuple[Any, Bridged]:
    """Our model and TransformerLens' around the same parameters, which want no gradients."""
    theirs = foreign(name).requires_grad_(False)
    ours = wrap(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ours, wrap(bridge_around(theirs))


@pytest.fixture(params=sorted(set(architectures()) - UNSUPPORTED), scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[str, Any, Bridged]:
    return request.param, *both(request.param)


@pytest.fixture(params=["gpt2", "llama"], scope="module")
def plain(request: pytest.FixtureRequest) -> tuple[Any, Bridged]:
    return both(request.param)


def at_real(name: str, value: Tensor, axes: tuple[str, ...], inputs: tuple[Tensor, ...]) -> Tensor:
    """The values at real positions, −inf as a number that no score has."""
    mask = mask_at(name, inputs)
    value = value[mask] if axes[1] == "pos" else value.transpose(1, 2)[mask]
    return value.masked_fill(value.isneginf(), -1e4)


@pytest.mark.parametrize("padding", PADDING)
@torch.no_grad()
def test_every_common_site_agrees(pair: tuple[str, Any, Bridged], padding: str) -> None:
    name, ours, bridged = pair
    inputs = example(ours, padding)
    if name in ARANGED and padding == "left":
        with pytest.raises(
            ValueError, match=r"TransformerLens runs \w+ with padding on the left of the \w+ .* are off by [\d.e-]+ of the largest"
        ):
            bridged(*inputs)
        return
    with record(ours, "*") as expected, record(bridged, "*") as got:
        a, b = ours(*inputs), bridged(*inputs)
    assert relative(b[read_mask(inputs)], a[read_mask(inputs)]) < 1e-5
    assert set(got) <= set(expected), "every site has a name that ours has for this family"
    for site in got:
        axes = ours.sites()[site].axes
        assert bridged.sites()[site].axes == axes
        x, y = at_real(site, got[site], axes, inputs), at_real(site, expected[site], axes, inputs)
        if site.endswith("scores") and name in ROW_CONSTANT:
            seen = y > -1e4
            x, y = (v.where(seen, v.where(seen, -1e9).amax(-1, keepdim=True)) for v in (x, y))
            x, y = x - x.amax(-1, keepdim=True), y - y.amax(-1, keepdim=True)
        assert relative(x, y) < 1e-5, site
    missing = {site.rpartition("blocks.")[2].partition(".")[2] for site in set(expected) - set(got) if "blocks." in site}
    assert {site for site in missing if ".ln_" not in site and "attn." in site} == LEFT_OUT.get(name, set())


CONVERSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "scores": lambda theirs: theirs.masked_fill(
        theirs <= torch.finfo(theirs.dtype).min / 2, -torch.inf
    ),  # the most negative number is "not seen"
}
"""What TransformerLens' own cache holds → what our site of that name holds, where they differ."""


@torch.no_grad()
def test_the_cache_of_transformer_lens_agrees(plain: tuple[Any, Bridged]) -> None:
    ours, bridged = plain
    inputs = example(ours)
    bridged.bridge.set_use_attn_result(True)
    logits, cache = bridged.bridge.run_with_cache(inputs[0])
    bridged.bridge.set_use_attn_result(False)
    with record(ours, "*") as expected:
        assert relative(logits, ours(*inputs)) < 1e-5
    shared = {hook: canonical(hook) for hook in cache if canonical(hook) in expected}
    assert set(shared.values()) | {"logits"} == set(expected)
    for hook, site in shared.items():
        if site != "pos_embed" or cache[hook].shape == expected[site].shape:
            got = CONVERSIONS.get(site.rpartition(".")[2], lambda same: same)(cache[hook])
            assert relative(got.masked_fill(got.isinf(), 0), expected[site].masked_fill(expected[site].isinf(), 0)) < 1e-5, hook


def centred(ours: Tensor) -> Tensor:
    return ours - ours.mean(-1, keepdim=True)


FOLDED: dict[str, Callable[[Tensor], Tensor]] = {
    "embed": centred,
    "pos_embed": centred,
    "resid_pre": centred,
    "resid_mid": centred,
    "resid_post": centred,
    "mlp_out": centred,
    "logits": centred,
}
"""TransformerLens' compatibility mode on GPT-2: norms folded, what writes to the stream centred. Ours → theirs, where they differ."""

VALUE_BIAS = {"v", "z", "result", "attn_out"}
"""Compatibility mode moves the bias of the values into that of the output, so that these differ by a constant."""


@torch.no_grad()
def test_folded_weights_differ_as_the_table_says() -> None:
    theirs = foreign("gpt2").requires_grad_(False)
    ours = wrap(foreign("gpt2").requires_grad_(False))
    bridge = bridge_around(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode()
        bridged = wrap(bridge)
    inputs = example(ours, "left")
    with record(ours, "*") as expected, record(bridged, "*") as got:
        a, b = ours(*inputs), bridged(*inputs)
    assert set(got) == set(expected)
    real = inputs[1]
    assert (a.log_softmax(-1) - b.log_softmax(-1))[real].abs().max() < 1e-3
    for site in got:
        word, axes = site.rpartition(".")[2], ours.sites()[site].axes
        x, y = at_real(site, got[site], axes, inputs), at_real(site, FOLDED.get(word, lambda same: same)(expected[site]), axes, inputs)
        if word in VALUE_BIAS:
            x, y = (v - v.mean(-1, keepdim=True) for v in (x, y)) if word in ("result", "attn_out") else (x, y)
            x, y = x - x.mean(0), y - y.mean(0)
        assert relative(x, y) < 1e-4, site


def ramp(value: Tensor) -> Tensor:
    """Each coordinate times another factor: no norm undoes it, and −inf stays."""
    return value * torch.linspace(0.3, 1.7, value.shape[-1])


@torch.no_grad()
def test_every_edit_does_what_ours_does(pair: tuple[str, Any, Bridged]) -> None:
    name, ours, bridged = pair
    inputs = example(ours, "right")
    clean, real = bridged(*inputs), read_mask(inputs)
    for site, at in bridged.sites().items():
        if re.search(r"blocks\.[02]\.", site) or (site.endswith("scores") and name in ROW_CONSTANT):
            continue  # one block of each stack is enough; a factor is not the same for scores that differ by a constant
        edit = Edit(site, ramp, heads=[1] if {"head", "kv_head"} & set(at.axes) else None, positions=[[3], [4], [2, 4]])
        with intervene(ours, edit), intervene(bridged, edit):
            expected, got = ours(*inputs)[real], bridged(*inputs)[real]
        moved = relative(expected, clean[real])
        assert relative(got, expected) < min(1e-5, 0.2 * moved), site
    assert torch.equal(bridged(*inputs), clean)


@pytest.mark.parametrize("padding", PADDING)
@torch.no_grad()
def test_a_head_set_to_zero_is_the_same(plain: tuple[Any, Bridged], padding: str) -> None:
    ours, bridged = plain
    inputs = example(ours, padding)
    real = inputs[1]
    for site in ("v", "z", "pattern", "result"):
        for edit in (
            Edit(f"blocks.*.attn.{site}", zero(), heads=[1]),
            Edit(f"blocks.1.attn.{site}", zero(), heads=[0], positions=[[5], [6], [4, 6]]),
        ):
            with intervene(ours, edit), intervene(bridged, edit):
                expected, got = ours(*inputs)[real], bridged(*inputs)[real]
            assert relative(got, expected) < 1e-5, site
            assert relative(got, bridged(*inputs)[real]) > 1e-3, site


def test_gradients_do_the_same(plain: tuple[Any, Bridged]) -> None:
    ours, bridged = plain
    inputs, seen = example(ours), []
    names = [name for name in ours.sites() if not name.endswith((".scores", ".scale"))]
    for model in (ours, bridged):
        with record(model, "embed", gradients=True), record_gradients(model, names) as gradients:
            model(*inputs)[inputs[1]].log_softmax(-1)[:, 3].sum().backward()
        seen.append(gradients)
    for name in names:
        x, y = (at_real(name, gradients[name], ours.sites()[name].axes, inputs) for gradients in reversed(seen))
        assert relative(x, y) < 1e-4, name


@torch.no_grad()
def test_sweeps_and_references_do_the_same(plain: tuple[Any, Bridged]) -> None:
    ours, bridged = plain
    inputs = example(ours, "right")
    slow, fast = (sweep(m, inputs, ablate_heads(m, zero()), loss()) for m in (bridged, ours))
    assert len(slow) == 3 * ours.n_layers * ours.n_heads and abs(slow["effect"] - fast["effect"]).max() < 1e-4
    other = example(ours, "left", seed=2)
    edit = Edit("blocks.1.attn.hook_z", mean(other), heads=[2])
    with intervene(ours, edit), intervene(bridged, edit):
        assert relative(bridged(*inputs)[inputs[1]], ours(*inputs)[inputs[1]]) < 1e-5
