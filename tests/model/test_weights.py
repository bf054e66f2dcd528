"""Are the weights by name the ones that the model computes with, in the layout that they claim, and its own memory?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from model import EncoderDecoder, LayerWeights, Transformer, TransformerConfig, wrap
from model.stack import Stack
from model.weights import BIASES, MATRICES
from probes import Activations, record
from tests.conftest import FAMILIES, PADDING, example, hugging_face, relative

Model = Transformer | EncoderDecoder
EXACT = 1e-5


@dataclass(frozen=True)
class Run:
    """What one stack saw: its weights, its activations, and the final states of the encoder where it has one."""

    stack: Stack
    prefix: str
    seen: Activations
    source: Tensor | None

    def __call__(self, name: str) -> Tensor:
        return self.seen[f"{self.prefix}{name}"]

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.seen


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return wrap(hugging_face(*request.param)).requires_grad_(False)


def runs(model: Model, padding: str = "left") -> Iterator[Run]:
    inputs = example(model, padding)
    with torch.no_grad(), record(model, "*") as seen:
        model(*inputs)
    if isinstance(model, Transformer):
        yield Run(model, "", seen, None)
    else:
        yield Run(model.encoder, "encoder.", seen, None)
        yield Run(model.decoder, "decoder.", seen, model.encode(inputs[0], inputs[2]))


def bias_of(weights: object, name: str, like: Tensor) -> Tensor | list[Tensor]:
    """The bias of every layer, zeros where there is none."""
    try:
        return getattr(weights, name)
    except ValueError as error:
        assert "has no bias" in str(error)
        return [torch.zeros(1)] * len(like)


def normed(run: Run, name: str, norm: nn.Module) -> Tensor:
    """What a norm gives: (gain + offset) · normalized + bias, from the recorded value and the config."""
    y = run(f"{name}.normalized") * (norm.gain + run.stack.config.gain_offset)
    return y if norm.bias is None else y + norm.bias


def read_by(run: Run, i: int, name: str, stream: str) -> Tensor:
    """What a sub-layer of block i reads: the normed residual stream, or the stream itself."""
    place, block = run.stack.config.norm_place, run.stack.blocks[i]
    return normed(run, f"blocks.{i}.{name}", getattr(block, name)) if place in ("pre", "sandwich") else run(f"blocks.{i}.{stream}")


def before_qk_norm(run: Run, site: str, norm: str) -> Tensor:
    """q or k as the matrix made it: what was normalised, times its scale."""
    head, _, word = site.rpartition(".")
    if not run.has(f"{head}.{norm}.normalized"):
        return run(site)
    raw = run(f"{head}.{norm}.normalized") * run(f"{head}.{norm}.scale")
    return raw.reshape(run(site).shape)


@torch.no_grad()
@pytest.mark.parametrize("padding", PADDING[1:])
def test_queries_keys_and_values(model: Model, padding: str) -> None:
    """q = (gain · normalized + bias) W_Q + b_Q, and so on, in every layer of every family."""
    for run in runs(model, padding):
        weights = run.stack.weights
        for i in range(run.stack.config.n_layers):
            x = read_by(run, i, "ln1", "resid_pre")
            attn = f"blocks.{i}.attn"
            for w, site, norm in (("W_Q", f"{attn}.q", "ln_q"), ("W_K", f"{attn}.k", "ln_k"), ("W_V", f"{attn}.v", "none")):
                matrix, bias = getattr(weights, w), bias_of(weights, w.replace("W", "b"), getattr(weights, w))
                got = torch.einsum("bpm,hmd->bphd", x, matrix[i]) + bias[i]
                assert relative(got, before_qk_norm(run, site, norm)) < EXACT, (w, i)


@torch.no_grad()
def test_cross_attention(model: Model) -> None:
    for run in runs(model):
        if run.source is None:
            with pytest.raises(ValueError, match="there is no cross-attention"):
                _ = run.stack.weights.cross
            continue
        weights = run.stack.weights.cross
        for i in range(run.stack.config.n_layers):
            attn, place = f"blocks.{i}.cross_attn", run.stack.config.norm_place
            x = normed(run, f"blocks.{i}.ln_cross", run.stack.blocks[i].ln_cross) if place == "pre" else run(f"blocks.{i}.resid_mid")
            for w, site, read in (("W_Q", "q", x), ("W_K", "k", run.source), ("W_V", "v", run.source)):
                matrix, bias = getattr(weights, w), bias_of(weights, w.replace("W", "b"), getattr(weights, w))
                assert relative(torch.einsum("bpm,hmd->bphd", read, matrix[i]) + bias[i], run(f"{attn}.{site}")) < EXACT
            out = torch.einsum("bphd,hdm->bpm", run(f"{attn}.z"), weights.W_O[i]) + bias_of(weights, "b_O", weights.W_O)[i]
            assert relative(out, run(f"{attn}.out" if run.has(f"{attn}.out") else f"blocks.{i}.cross_attn_out")) < EXACT


@torch.no_grad()
def test_heads_sum_to_what_attention_adds(model: Model) -> None:
    """Σ_head z W_O + b_O is attn.out where a norm or a factor follows, attn_out elsewhere."""
    for run in runs(model):
        weights = run.stack.weights
        for i in range(run.stack.config.n_layers):
            out = torch.einsum("bphd,hdm->bpm", run(f"blocks.{i}.attn.z"), weights.W_O[i]) + bias_of(weights, "b_O", weights.W_O)[i]
            assert relative(out, run(f"blocks.{i}.attn.out" if run.has(f"blocks.{i}.attn.out") else f"blocks.{i}.attn_out")) < EXACT


@torch.no_grad()
def test_feed_forward_network(model: Model) -> None:
    """pre = x W_gate + b_gate and pre_linear = x W_in + b_in, or pre = x W_in + b_in; mlp.out = post W_out + b_out."""
    for run in runs(model):
        weights, config = run.stack.weights, run.stack.config
        for i in range(config.n_layers):
            stream = "resid_pre" if config.parallel else "resid_mid" if run.source is None else "resid_mid_cross"
            x = read_by(run, i, "ln1" if config.parallel_shared_norm else "ln2", stream)
            made = (("gate", "pre"), ("in", "pre_linear")) if config.gated else (("in", "pre"),)
            for word, site in made:
                matrix = getattr(weights, f"W_{word}")
                assert relative(x @ matrix[i] + bias_of(weights, f"b_{word}", matrix)[i], run(f"blocks.{i}.mlp.{site}")) < EXACT
            out = run(f"blocks.{i}.mlp.post") @ weights.W_out[i] + bias_of(weights, "b_out", weights.W_out)[i]
            assert relative(out, run(f"blocks.{i}.mlp.out" if run.has(f"blocks.{i}.mlp.out") else f"blocks.{i}.mlp_out")) < EXACT


@torch.no_grad()
def test_embedding_positions_and_logits(model: Model) -> None:
    inputs = example(model)
    for run, tokens in zip(runs(model, "none"), inputs, strict=False):
        config = run.stack.config
        assert relative(run.stack.W_E[tokens] * config.embed_scale, run("embed")) < EXACT
        if config.positions == "learned":
            assert run.stack.W_pos.shape == (config.n_ctx, config.d_model)
            assert torch.equal(run.stack.W_pos[: tokens.shape[1]].expand_as(run("pos_embed")), run("pos_embed"))
        else:
            with pytest.raises(ValueError, match=f"positions are not learned vectors \\(positions='{config.positions}'\\)"):
                _ = run.stack.W_pos
    config, stack = run.stack.config, run.stack
    final = normed(run, "ln_final", stack.ln_final) if config.final_norm else run(f"blocks.{config.n_layers - 1}.resid_post")
    states = final if model.unembed.transform is None else model.unembed.transform(final)
    logits = (states @ model.W_U + (model.b_U if config.unembed_bias else 0)) * config.logit_scale
    logits = logits if config.logit_cap is None else config.logit_cap * torch.tanh(logits / config.logit_cap)
    assert relative(logits, run.seen["logits"]) < EXACT
    if not config.unembed_bias:
        with pytest.raises(ValueError, match="there is no b_U: the unembedding has no bias"):
            _ = model.b_U
    shared = model.W_U.untyped_storage().data_ptr() == stack.W_E.untyped_storage().data_ptr()
    assert shared == config.tied_embeddings


@torch.no_grad()
def test_writing_through_a_view_changes_the_output_and_nothing_else(model: Model) -> None:
    """Every named weight: memory of the model, whose output moves while it is another and comes back when it is put back."""
    inputs = example(model, "right")
    clean = model(*inputs)
    memory = {p.untyped_storage().data_ptr() for p in model.parameters()}
    owners = [model] if isinstance(model, Transformer) else [model, model.encoder, model.decoder, model.decoder.weights.cross]
    written = 0
    for owner in owners:
        for name in (*MATRICES, *BIASES):
            try:
                found = getattr(owner, name)
            except (ValueError, AttributeError):
                continue
            for view in found[-1:] if isinstance(found, LayerWeights) else [found]:
                assert view.untyped_storage().data_ptr() in memory, name
                before = view.clone()
                view.add_(torch.randn(view.shape, generator=torch.Generator().manual_seed(0)))
                moved = not torch.allclose(model(*inputs), clean, atol=1e-4)
                assert moved or name == "b_K", name  # a bias of keys adds the same to all scores of a query where nothing is turned
                view.copy_(before)
                written += 1
    assert written >= 8 and torch.equal(model(*inputs), clean)


def test_a_view_of_one_head_is_that_head_alone() -> None:
    model = wrap(hugging_face("gpt_neox", 0)).requires_grad_(False)  # fused: the view of a view
    tokens, mask = example(model)
    with record(model, "blocks.1.attn.q") as clean:
        model(tokens, mask)
    model.W_Q[1, 2].zero_()
    model.weights.b_Q[1, 2].zero_()
    with record(model, "blocks.1.attn.q") as edited:
        model(tokens, mask)
    changed = (clean["blocks.1.attn.q"] != edited["blocks.1.attn.q"]).any(-1).any(0).any(0)
    assert changed.tolist() == [False, False, True, False, False] and not edited["blocks.1.attn.q"][:, :, 2].any()


SHAPE = dict(n_layers=3, d_model=8, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=6, d_vocab=10, n_ctx=5)


def small(**choices: object) -> Transformer:
    return Transformer(TransformerConfig(**SHAPE | choices), generator=torch.Generator().manual_seed(0))


def test_grouped_heads_are_told_apart() -> None:
    model = small().requires_grad_(False)
    assert model.W_Q.shape == (3, 4, 8, 4) and model.W_K.shape == (3, 2, 8, 4) and model.W_O.shape == (3, 4, 4, 8)
    assert model.W_K.axes == ("kv_head", "d_model", "d_head") and len(model.W_K) == 3
    per_head = model.W_K.per_head()
    assert per_head.shape == (3, 4, 8, 4) and model.W_Q.per_head().shape == (3, 4, 8, 4)
    for head in range(4):
        assert torch.equal(per_head[1, head], model.W_K[1, head // 2]) and torch.equal(model.W_K.of_head(1, head), per_head[1, head])
    assert model.W_K.of_head(1, 3).data_ptr() == model.W_K[1, 1].data_ptr()
    assert torch.equal(model.W_V.stack(), torch.stack(list(model.W_V))) and model.W_V.stack().shape == (3, 2, 8, 4)
    assert model.W_Q[1:].shape == (2, 4, 8, 4) and torch.equal(model.W_Q[1:][0], model.W_Q[1])
    assert torch.equal(model.W_in[-1, :, 3], model.W_in[2][:, 3])


def test_gradients_flow_through_views() -> None:
    model = small()
    model.W_Q.stack().pow(2).sum().backward()
    weight = model.blocks[1].attn.W_Q.weight
    assert torch.equal(weight.grad, 2 * weight)


def test_shared_queries_and_keys_are_one_matrix() -> None:
    model = small(shared_qk=True, n_kv_heads=4)
    assert model.W_K[2].data_ptr() == model.W_Q[2].data_ptr() and model.b_K[0].data_ptr() == model.b_Q[0].data_ptr()


@pytest.mark.parametrize(
    ("choices", "name", "message"),
    [
        ({}, "W_gate", r"there is no W_gate: the feed-forward network is not gated \(gated=False\)"),
        ({}, "b_gate", "there is no b_gate"),
        ({"d_mlp": 0}, "W_in", r"there is no W_in: the model has no feed-forward network \(d_mlp=0\)"),
        ({"q_bias": False}, "b_Q", "there is no b_Q: W_Q of this transformer model has no bias"),
        ({"mlp_bias": False}, "b_out", "there is no b_out: W_out of this transformer model has no bias"),
        ({"positions": "none"}, "W_pos", r"there is no W_pos: positions are not learned vectors \(positions='none'\)"),
        ({"head": "none"}, "W_U", r"there is no W_U: the model has no head \(head='none'\)"),
        ({"unembed_bias": False}, "b_U", r"there is no b_U: the unembedding has no bias \(unembed_bias=False\)"),
    ],
)
def test_what_is_missing_is_said(choices: dict, name: str, message: str) -> None:
    model = small(**choices)
    with pytest.raises(ValueError, match=message):
        getattr(model, name)
    with pytest.raises(ValueError, match=message):
        getattr(model.weights, name)


def test_mistakes_in_an_index() -> None:
    model = small()
    for index in (3, (0, 9), (slice(None), 2), "first"):
        with pytest.raises(
            IndexError, match=r"W_K has axes \[layer kv_head d_model d_head\] of shape \(3, 2, 8, 4\), the first taken by a number, got"
        ):
            _ = model.W_K[index]
    with pytest.raises(ValueError, match=r"W_in has no heads, its axes are \[layer d_model d_mlp\]"):
        model.W_in.of_head(0, 0)
    with pytest.raises(IndexError, match="there are query heads 0 to 3, got head 4"):
        model.W_K.of_head(0, 4)
    with pytest.raises(TypeError):
        model.W_Q[0] = torch.zeros(4, 8, 4)


def test_one_stack_of_two_has_no_head() -> None:
    model = wrap(hugging_face("t5", 0))
    with pytest.raises(ValueError, match="there is no W_U in one stack of an encoder-decoder: the head belongs to both, model.W_U"):
        _ = model.decoder.W_U
    assert model.W_U.shape == (30, 101)
