"""Does the logit lens read every state through the model's own ending? Against a naive computation, and planted states."""

import pytest
import torch

from model import EncoderDecoder, EncoderDecoderConfig, Transformer, TransformerConfig
from probes import record
from probes.statistics.logit_lens import logit_lens, state_logits
from tests.conftest import example


@pytest.fixture
def model() -> Transformer:
    config = TransformerConfig(n_layers=3, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=20, n_ctx=12)
    made = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5)
    return made


TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def test_equals_the_naive_lens(model: Transformer) -> None:
    lens = logit_lens(model, TOKENS, MASK)
    with record(model, ["blocks.*.resid_pre", "blocks.2.resid_post"]) as activations:
        final = model(TOKENS, MASK).double().log_softmax(-1)
    for state, resid in enumerate(activations.values()):
        got = model.unembed(model.ln_final(resid)).double().log_softmax(-1)
        torch.testing.assert_close(lens.kl[state].double(), (final.exp() * (final - got)).sum(-1), atol=2e-6, rtol=1e-5)
        assert torch.equal(lens.top_token[state], got.argmax(-1))
        torch.testing.assert_close(lens.top_probability[state].double(), got.max(-1).values.exp(), atol=1e-6, rtol=1e-5)
    assert torch.equal(lens.agrees, lens.top_token == final.argmax(-1))
    assert lens.kl[0].min() > 0.01  # the model does change its mind


def test_blocks_that_write_nothing_leave_the_answer_as_it_is(model: Transformer) -> None:
    for block in model.blocks:
        for part in (block.attn.W_O, block.mlp.W_out):
            torch.nn.init.zeros_(part.weight), torch.nn.init.zeros_(part.bias)
    lens = logit_lens(model, TOKENS)
    assert lens.kl.max() < 1e-5 and lens.agrees.all()


def test_half_precision_is_compared_in_single(model: Transformer) -> None:
    lens = logit_lens(model.to(torch.bfloat16), TOKENS)
    assert lens.kl.dtype == torch.float32 and lens.kl.isfinite().all() and (lens.kl[-1] == 0).all()


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("place", ["pre", "post"])
def test_of_two_stacks_it_reads_the_decoder(place: str, padding: str) -> None:
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 32, "d_vocab": 20, "n_ctx": 16}
    stack = shape | {"norm_place": place, "final_norm": place == "pre"}
    encoder = TransformerConfig(**stack | {"n_layers": 3}, causal=False, head="none")
    config = EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**stack))
    model = EncoderDecoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(5)
    inputs = example(model, padding)
    lens = logit_lens(model, *inputs)
    with record(model, ["decoder.blocks.*.resid_pre", "decoder.blocks.1.resid_post"]) as activations:
        final = model(*inputs).double().log_softmax(-1)
    real = inputs[3]
    for state, resid in enumerate(activations.values()):
        got = model.unembed(model.decoder.ln_final(resid)).double().log_softmax(-1)
        torch.testing.assert_close(lens.kl[state].double()[real], (final.exp() * (final - got)).sum(-1)[real], atol=2e-5, rtol=1e-4)
        assert torch.equal(lens.top_token[state][real], got.argmax(-1)[real])
    assert lens.kl.shape[0] == 3 and lens.kl[0][real].min() > 0.01 and (lens.kl[-1] == 0).all()


def test_without_a_head_there_is_nothing_to_read_with() -> None:
    config = TransformerConfig(n_layers=1, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=20, n_ctx=12, head="none", causal=False)
    with pytest.raises(ValueError, match="this model has no site 'logits'"):
        logit_lens(Transformer(config), TOKENS)


def test_the_logits_of_every_state_are_those_that_the_lens_compares(model: Transformer) -> None:
    lens, states = logit_lens(model, TOKENS, MASK), list(state_logits(model, TOKENS, MASK))
    torch.testing.assert_close(states[-1], model(TOKENS, MASK).float())
    for state, logits in enumerate(states):
        assert torch.equal(logits.argmax(-1), lens.top_token[state])
        torch.testing.assert_close(logits.softmax(-1).amax(-1), lens.top_probability[state])
