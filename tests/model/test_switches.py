"""Does every switch of the config do what its definition says, without any foreign family to compare with?"""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from model import Dropout, EncoderDecoder, EncoderDecoderConfig, Rotary, RotaryScaling, Span, Transformer, TransformerConfig
from model.context import KeyValueCache
from model.relative import BucketBias, alibi_slopes
from model.rotary import stretched
from probes import record
from tests.conftest import relative

SHAPE = dict(n_layers=2, d_model=18, n_heads=4, n_kv_heads=2, d_head=6, d_mlp=23, d_vocab=31, n_ctx=24)


def make(**changes) -> Transformer:
    """A model with these choices, its weights large enough that every path matters."""
    model, generator = Transformer(TransformerConfig(**SHAPE | changes)).eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("gain") else 0.4 * noise)
    return model


def padded(n: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    tokens, mask = torch.randint(31, (3, n), generator=torch.Generator().manual_seed(seed)), torch.ones(3, n, dtype=torch.bool)
    mask[1, :4] = False
    mask[2, -3:] = False
    return tokens, mask


@torch.no_grad()
def seen(model: Transformer, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Values of block 0, keys and values repeated for every query head."""
    with record(model, "*") as activations:
        model(tokens, mask)
    a = {name.removeprefix("blocks.0."): value for name, value in activations.items() if not name.startswith("blocks.1.")}
    return a | {name: a[name].repeat_interleave(2, dim=2) for name in ("attn.k", "attn.v") if a[name].shape[2] == 2}


def raw_scores(a: dict[str, Tensor]) -> Tensor:
    return torch.einsum("bqhe,bkhe->bhqk", a["attn.q"], a["attn.k"]) / math.sqrt(6)


def same_where_seen(a: dict[str, Tensor], expected: Tensor) -> None:
    visible = a["attn.scores"].isfinite()
    assert relative(a["attn.scores"][visible], expected.expand_as(visible)[visible]) < 1e-5


def test_shaw_adds_a_vector_for_each_clipped_distance() -> None:
    model, (tokens, mask) = make(positions="shaw", max_distance=3), padded()
    a, shaw, n = seen(model, tokens, mask), model.blocks[0].attn.shaw, 10
    counted = [[max(int(row[: i + 1].sum()) - 1, 0) for i in range(n)] for row in mask]
    numbers = torch.tensor([[[min(max(row[j] - row[i], -3), 3) + 3 for j in range(n)] for i in range(n)] for row in counted])
    keys = a["attn.k"][:, None] + shaw.keys.weight[numbers][:, :, :, None]  # batch query key head d_head
    same_where_seen(a, torch.einsum("bqhe,bqkhe->bhqk", a["attn.q"], keys) / math.sqrt(6))
    values = a["attn.v"][:, None] + shaw.values.weight[numbers][:, :, :, None]
    assert relative(torch.einsum("bhqk,bqkhe->bqhe", a["attn.pattern"], values), a["attn.z"]) < 1e-5


def test_additive_score() -> None:
    model, (tokens, mask) = make(score="additive"), padded()
    a = seen(model, tokens, mask)
    total = torch.tanh(a["attn.q"][:, :, None] + a["attn.k"][:, None])  # batch query key head d_head
    same_where_seen(a, torch.einsum("bqkhe,he->bhqk", total, model.blocks[0].attn.w_score))


def test_shared_queries_and_keys() -> None:
    model = make(shared_qk=True, n_kv_heads=4, positions="none")
    a = seen(model, *padded())
    assert torch.equal(a["attn.q"], a["attn.k"]) and model.blocks[0].attn.W_K is None
    assert not any("W_K" in name for name, _ in model.named_parameters())


def test_scores_and_logits_are_capped_and_scaled() -> None:
    tokens, mask = padded()
    a = seen(make(score_cap=0.7, score_scale=2.0, positions="none"), tokens, mask)
    same_where_seen(a, 0.7 * torch.tanh(raw_scores(a) * math.sqrt(6) * 2.0 / 0.7))
    plain, other = make()(tokens), make(logit_scale=3.0, logit_cap=2.0)(tokens)
    assert relative(other, 2 * torch.tanh(3 * plain / 2)) < 1e-5
    assert torch.equal(seen(make(embed_scale=5.0), tokens)["embed"], make().embedding(tokens) * 5.0)


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.var(0, unbiased=False)


def test_batch_norm_while_training_leaks_between_real_tokens_only() -> None:
    model, (tokens, mask) = make(norm="batch").train(), padded()
    with record(model, "*") as a:
        before = model(tokens, mask)
    mean, variance = batch_moments(a["blocks.0.ln1.normalized"][mask])
    assert mean.abs().max() < 1e-5 and (variance - 1).abs().max() < 1e-3
    assert "blocks.0.ln1.scale" not in a
    other = tokens.clone()
    other[~mask] = (other[~mask] + 1) % 31
    assert torch.allclose(model(other, mask)[mask], before[mask], atol=1e-5)  # padding is not part of the batch
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % 31
    assert not torch.allclose(model(other, mask)[0, 0], before[0, 0], atol=1e-4)  # a later token is, even for an earlier one


def test_batch_norm_keeps_running_statistics_for_evaluation() -> None:
    model, (tokens, mask) = make(norm="batch").train(), padded()
    twin = torch.nn.BatchNorm1d(18, eps=1e-5).train()
    for seed in range(3):
        tokens, _ = padded(seed=seed)
        with record(model, "blocks.0.resid_pre") as a, torch.no_grad():
            model(tokens, mask)
            twin(a["blocks.0.resid_pre"][mask])
    ln1 = model.blocks[0].ln1
    assert torch.allclose(ln1.mean, twin.running_mean, atol=1e-6) and torch.allclose(ln1.variance, twin.running_var, atol=1e-6)
    model.eval()
    before, kept = model(tokens, mask), ln1.mean.clone()
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % 31
    assert torch.equal(model(other, mask)[0, :-1], before[0, :-1]) and torch.equal(ln1.mean, kept)


def test_without_norm_residual_or_feed_forward_network() -> None:
    tokens, mask = padded()
    a = seen(make(norm="none"), tokens, mask)
    assert not any(name.endswith(("scale", "normalized")) for name in a)
    a = seen(make(residual=False), tokens, mask)
    assert torch.equal(a["resid_mid"], a["attn_out"]) and torch.equal(a["resid_post"], a["mlp_out"])
    model = make(d_mlp=0)
    a = seen(model, tokens, mask)
    assert torch.equal(a["resid_post"], a["resid_pre"] + a["attn_out"])
    assert not any(part in name for name in a for part in ("mlp", "ln2", "resid_mid"))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("span", [Span(kind="window", size=3), Span(kind="block", size=4), Span(kind="block", size=3, n_global=2)])
def test_spans_against_naive_masks(span: Span, causal: bool) -> None:
    tokens, mask = padded()
    model = make(span=span, causal=causal, head="lm" if causal else "none", positions="rotary")
    a = seen(model, tokens, mask)
    for row in range(3):
        place = [max(int(mask[row, : i + 1].sum()) - 1, 0) for i in range(10)]
        for i in range(10):
            for j in range(10):
                p, q = place[i], place[j]
                block = p // span.size == q // span.size or min(p, q) < span.n_global
                near = abs(p - q) < span.size if span.kind == "window" else block
                allowed = near and bool(mask[row, j]) and (not causal or j <= i)
                assert bool((a["attn.pattern"][row, :, i, j] > 0).all()) == allowed
    assert not a["attn.pattern"].isnan().any()
    assert relative(model(tokens, mask)[mask], observed(model, tokens, mask)[mask]) < 1e-5  # the fused kernel sees the same


def observed(model: Transformer, tokens: Tensor, mask: Tensor) -> Tensor:
    with record(model, "*.attn.pattern"):
        return model(tokens, mask)


def test_one_span_and_one_rotation_for_each_layer() -> None:
    tokens, _ = padded()
    both = dict(positions="rotary", span=(Span(kind="window", size=2), Span()), rotary=(Rotary(base=10.0), Rotary(base=1e4, dims=4)))
    model = make(**both)
    with record(model, "*") as a:
        model(tokens)
    assert (a["blocks.0.attn.pattern"].tril(-2) == 0).all() and (a["blocks.1.attn.pattern"][:, :, -1] > 0).all()
    assert not torch.equal(a["blocks.0.attn.rot_q"][..., 4:], a["blocks.0.attn.q"][..., 4:])
    assert torch.equal(a["blocks.1.attn.rot_q"][..., 4:], a["blocks.1.attn.q"][..., 4:])


@pytest.mark.parametrize(("n_heads", "slopes"), [(4, [2**-2, 2**-4, 2**-6, 2**-8]), (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])])
def test_alibi(n_heads: int, slopes: list[float]) -> None:
    assert alibi_slopes(n_heads).tolist() == slopes
    tokens, mask = padded()
    a = seen(make(positions="alibi", n_heads=n_heads, n_kv_heads=n_heads), tokens, mask)
    place = (mask.long().cumsum(-1) - 1).clamp(min=0)
    distance = (place[:, :, None] - place[:, None, :]).abs()[:, None]  # batch 1 query key
    same_where_seen(a, raw_scores(a) - torch.tensor(slopes)[:, None, None] * distance)


def naive_bucket(distance: int, n: int, longest: int, causal: bool) -> int:
    """Raffel et al. 2020: exact up to a half, then logarithmic, and in an encoder half of the buckets for each direction."""
    first = 0
    if not causal:
        n //= 2
        first = n if distance > 0 else 0
    back = max(-distance, 0) if causal else abs(distance)
    if back < n // 2:
        return first + back
    return first + min(n // 2 + int(math.log(back / (n // 2)) / math.log(longest / (n // 2)) * (n - n // 2)), n - 1)


@pytest.mark.parametrize("causal", [True, False])
def test_t5_buckets(causal: bool) -> None:
    tokens, mask = padded()
    model = make(positions="t5", causal=causal, head="lm" if causal else "none", n_buckets=8, max_distance=7)
    bias = BucketBias(TransformerConfig(**SHAPE | dict(causal=causal, n_buckets=32, max_distance=100)))
    assert bias.bucket(torch.arange(-200, 200)).tolist() == [naive_bucket(d, 32, 100, causal) for d in range(-200, 200)]
    a, place = seen(model, tokens, mask), (mask.long().cumsum(-1) - 1).clamp(min=0)
    numbers = torch.tensor([[[naive_bucket(int(k - q), 8, 7, causal) for k in row] for q in row] for row in place])
    same_where_seen(a, raw_scores(a) + model.position_bias.table.weight[numbers].permute(0, 3, 1, 2))


def test_sinusoids() -> None:
    tokens, mask = padded()
    a = seen(make(positions="sinusoidal", d_model=17), tokens, mask)
    for row in range(3):
        for i in range(10):
            p = max(int(mask[row, : i + 1].sum()) - 1, 0)
            naive = [math.sin(p / 10000 ** (2 * k / 17)) for k in range(9)] + [math.cos(p / 10000 ** (2 * k / 17)) for k in range(8)]
            assert torch.allclose(a["pos_embed"][row, i], torch.tensor(naive), atol=1e-6)


@pytest.mark.parametrize("place", [field.name for field in fields(Dropout)])
def test_dropout_acts_in_training_only(place: str) -> None:
    (tokens, mask), model = padded(), make(dropout=Dropout(**{place: 0.3}))
    plain = make()
    assert torch.equal(model(tokens, mask), plain(tokens, mask))
    model.train(), plain.train()
    assert not torch.allclose(model(tokens, mask), model(tokens, mask))
    assert torch.equal(plain(tokens, mask), plain(tokens, mask))
    if place == "pattern":  # where the pattern is looked at, attention is explicit, and drops all the same
        assert not torch.allclose(observed(model, tokens, mask), observed(model, tokens, mask))


YARN = dict(factor=3.0, beta_fast=8.0, beta_slow=2.0, truncate=False, attention_factor=1.3)


@pytest.mark.parametrize(("ours", "theirs"), [
    (dict(kind="linear", factor=4.0), dict(rope_type="linear", factor=4.0)),
    (dict(kind="ntk", factor=4.0), dict(rope_type="dynamic", factor=1.0)),  # at four times the length, the dynamic rule is the static one
    (dict(kind="yarn", factor=4.0, original_n_ctx=16), dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    (dict(kind="yarn", original_n_ctx=64, **YARN), dict(rope_type="yarn", original_max_position_embeddings=64, **YARN)),
    (dict(kind="llama3", factor=8.0, original_n_ctx=32, low_freq_factor=1.0, high_freq_factor=4.0),
     dict(rope_type="llama3", factor=8.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0)),
])
def test_stretched_rotations_against_transformers(ours: dict, theirs: dict) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=64, rope_parameters={"rope_theta": 500.0, **theirs})
    length = {"seq_len": 256} if ours["kind"] == "ntk" else {}
    expected, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, torch.device("cpu"), **length)
    got, got_factor = stretched(Rotary(base=500.0, scaling=RotaryScaling(**ours)), 32, torch.device("cpu"))
    assert torch.allclose(got, expected, rtol=1e-6) and got_factor == pytest.approx(factor)


EVERY_POSITION = ["sinusoidal", "learned", "shaw", "t5", "alibi", "rotary", "none"]


@torch.no_grad()
@pytest.mark.parametrize("positions", EVERY_POSITION)
@pytest.mark.parametrize("span", [Span(), Span(kind="window", size=4)])
def test_a_cache_gives_what_the_whole_sequence_gives(positions: str, span: Span) -> None:
    model, (tokens, mask) = make(positions=positions, span=span, max_distance=5), padded(12)
    mask[2] = True  # padding on the left only: a sequence goes on at its end
    for given in (None, mask):
        cache, whole, read = KeyValueCache(), model(tokens, given), []
        for start, end in ((0, 5), (5, 6), (6, 9), (9, 12)):
            read.append(model(tokens[:, start:end], None if given is None else given[:, start:end], cache=cache))
        real = mask if given is not None else torch.ones_like(mask)
        assert cache.n_read == 12 and relative(torch.cat(read, dim=1)[real], whole[real]) < 1e-5
    with pytest.raises(ValueError, match=r"holds 24 tokens \(n_ctx=24\), got a sequence of 25"):
        model(torch.zeros(3, 13, dtype=torch.long), cache=cache)


@torch.no_grad()
def test_a_cache_in_a_decoder_of_two_stacks() -> None:
    shape = SHAPE | dict(positions="t5")
    encoder, decoder = TransformerConfig(**shape | dict(causal=False, head="none")), TransformerConfig(**shape)
    model = EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=decoder)).eval()
    (source, source_mask), (target, _) = padded(8), padded(7, seed=1)
    states, cache, streams = model.encode(source, source_mask), KeyValueCache(), []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        state = model.decode(states, source_mask, target[:, start:end], cache=cache)
        streams.append(model.decoder.run(state))
    assert relative(model.unembed(torch.cat(streams, dim=1)), model(source, target, source_mask)) < 1e-5
