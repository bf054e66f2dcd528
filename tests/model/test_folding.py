"""Does folding norms leave every logit and every normalised value as it is, and no gain behind?"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from model import EncoderDecoder, EncoderDecoderConfig, Transformer, TransformerConfig, fold_norms, load_model, save_model, wrap
from model.architectures import architectures
from model.folding import STEP
from model.lstm import LSTMConfig, LSTMLanguageModel
from model.norms import BatchNorm, Norm
from probes import record
from tests.conftest import FAMILIES, PADDING, example, hugging_face, read_mask, relative

EXACT = 1e-5
POST = {"bert", "roberta", "distilbert", "bart", "marian"}
"""families whose norms come after each sum; OPT's second config is one of them, too"""

SHAPE = dict(n_layers=2, d_model=12, n_heads=4, n_kv_heads=2, d_head=3, d_mlp=10, d_vocab=11, n_ctx=16)


def is_post(model: Transformer | EncoderDecoder) -> bool:
    return (model.config if isinstance(model, Transformer) else model.config.decoder).norm_place == "post"


def shaken(model: Transformer | EncoderDecoder) -> Transformer | EncoderDecoder:
    """Weights that matter everywhere: gains far from 1, biases far from 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_folded_exactly_or_refused(family: tuple[str, int]) -> None:
    model = wrap(hugging_face(*family)).requires_grad_(False)
    if is_post(model):
        with pytest.raises(ValueError, match=r"gains of a post-norm model cannot be folded: the residual stream itself carries them"):
            fold_norms(model)
        return
    folded = fold_norms(model)
    for padding in PADDING:
        inputs = example(model, padding)
        mask = read_mask(inputs)
        assert relative(folded(*inputs)[mask], model(*inputs)[mask]) < EXACT
    names = [name for name in model.sites() if name.endswith(".normalized")]
    with record(model, names) as before:
        model(*inputs)
    with record(folded, names) as after:
        folded(*inputs)
    assert names and all(relative(after[name], before[name]) < EXACT for name in names)
    assert_no_gain(folded)


def assert_no_gain(folded: Transformer | EncoderDecoder) -> None:
    """Norms that matrices read have gain 1 and bias 0, and there is one of them at least; the gain of others counts for something."""
    n_folded = 0
    for name, norm in folded.named_modules():
        if isinstance(norm, Norm | BatchNorm):
            gain = norm.gain + getattr(norm, "gain_offset", 0.0)
            if name.rpartition(".")[2] in ("ln1", "ln2", "ln_cross", "ln_final"):
                n_folded += 1
                assert (gain == 1).all() and (norm.bias is None or not norm.bias.any()), name
            else:
                assert name.rpartition(".")[2] in ("ln1_post", "ln2_post", "ln_q", "ln_k", "ln_embed") and not (gain == 1).any(), name
    assert n_folded


def test_which_families_are_refused() -> None:
    """The contract of the test above: all but those that are post-norm."""
    configs = [
        (name, family.read_config(AutoConfig.for_model(name, **values).to_dict()))
        for name, family in architectures().items()
        for values in family.random_configs
    ]
    refused = {name for name, config in configs if getattr(config, "decoder", config).norm_place == "post"}
    assert refused == POST | {"opt"}


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"q_bias": False, "k_bias": False, "v_bias": False, "mlp_bias": False},
        {"tied_embeddings": False, "unembed_bias": True},
        {"parallel": True, "gated": True},
        {"parallel": True, "parallel_shared_norm": True, "mlp_bias": False},
        {"norm_bias": False},
        {"norm_place": "sandwich", "gain_offset": 1.0, "logit_scale": 0.3, "logit_cap": 4.0},
        {"norm_place": "output"},
        {"shared_qk": True, "n_kv_heads": 4},
        {"d_mlp": 0},
        {"qk_norm": "head"},
        {"score": "additive"},
        {"positions": "shaw"},
        {"head": "mlm", "causal": False},
        {"residual_scale": 0.4},
        {"embed_norm": True},
    ],
)
def test_every_design(norm: str, choices: dict) -> None:
    """In fp64, where nothing but a mistake is left."""
    if norm == "batch":  # which stores the gain itself
        choices = choices | {"gain_offset": 0.0}
    model = shaken(Transformer(TransformerConfig(**SHAPE | choices | {"norm": norm}))).double()
    if norm == "batch":
        for part in model.modules():
            if isinstance(part, BatchNorm):
                part.mean.normal_(generator=torch.Generator().manual_seed(1))
    folded, inputs = fold_norms(model), example(model, "left")
    assert relative(folded(*inputs)[inputs[1]], model(*inputs)[inputs[1]]) < 1e-10
    assert folded.config.head == "none" or not folded.config.tied_embeddings
    assert not [p for p in folded.parameters() if p.requires_grad]


@torch.no_grad()
@pytest.mark.parametrize(("encoder", "decoder"), [("layer", "layer"), ("rms", "rms"), ("layer", "rms")])
def test_the_encoders_last_norm_goes_into_cross_attention(encoder: str, decoder: str) -> None:
    shape = SHAPE | {"k_bias": False, "v_bias": False}
    config = EncoderDecoderConfig(
        encoder=TransformerConfig(**shape, causal=False, head="none", norm=encoder), decoder=TransformerConfig(**shape, norm=decoder)
    )
    model = shaken(EncoderDecoder(config))
    folded = fold_norms(model)
    for padding in PADDING:
        inputs = example(model, padding)
        assert relative(folded(*inputs)[inputs[3]], model(*inputs)[inputs[3]]) < EXACT
    assert (folded.encoder.ln_final.gain == 1).all() and (model.encoder.ln_final.gain != 1).all()
    assert folded.config.shared_embeddings and folded.W_U.data_ptr() != folded.decoder.W_E.data_ptr()


@torch.no_grad()
def test_final_states_of_a_headless_model_stay() -> None:
    model = shaken(Transformer(TransformerConfig(**SHAPE, head="none")))
    folded, (tokens, mask) = fold_norms(model), example(model)
    assert relative(folded(tokens, mask), model(tokens, mask)) < EXACT
    assert torch.equal(folded.ln_final.gain, model.ln_final.gain) and (folded.blocks[0].ln1.gain == 1).all()


@torch.no_grad()
def test_matrices_are_read_as_they_stand() -> None:
    """What folding is for: without norms in between, W_Q says by itself what a query is made of."""
    model = shaken(Transformer(TransformerConfig(**SHAPE)))
    folded, inputs = fold_norms(model), example(model)
    with record(folded, ["blocks.1.ln1.normalized", "blocks.1.attn.q"]) as seen:
        folded(*inputs)
    q = torch.einsum("bpm,hmd->bphd", seen["blocks.1.ln1.normalized"], folded.W_Q[1]) + folded.b_Q[1]
    assert relative(q, seen["blocks.1.attn.q"]) < EXACT
    gain, bias = model.blocks[1].ln1.gain, model.blocks[1].ln1.bias
    assert relative(folded.W_Q[1], model.W_Q[1] * gain[:, None]) < EXACT
    assert relative(folded.b_Q[1], model.b_Q[1] + torch.einsum("m,hmd->hd", bias, model.W_Q[1])) < EXACT


@torch.no_grad()
def test_the_given_model_stays_and_the_source_tells(tmp_path) -> None:
    model = load_model("glasslm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_norms(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in folded.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert model.source.steps == () and folded.source.steps == (STEP,) and folded.tokenizer is model.tokenizer
    again = load_model(save_model(folded, tmp_path))
    assert again.source.steps == (STEP,) and torch.equal(again.W_U, folded.W_U)
    tokens, mask = model.tokenize(["The cat sat on the mat"])
    assert relative(again(tokens, mask), model(tokens, mask)) < EXACT


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"norm_place": "post"}, r"cannot be folded: the residual stream itself carries them \(norm_place='post'\)"),
        ({"norm": "none"}, r"no gains to fold: the model has no norms \(norm='none'\)"),
    ],
)
def test_what_cannot_be_folded_is_refused(choices: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold_norms(Transformer(TransformerConfig(**SHAPE | choices)))


def test_a_recurrent_model_has_no_norms() -> None:
    with pytest.raises(ValueError, match=r"no gains to fold: the model is no Transformer \(family='lstm'\)"):
        fold_norms(LSTMLanguageModel(LSTMConfig(n_layers=1, d_model=4, d_vocab=5)))


def test_one_matrix_cannot_hold_two_gains() -> None:
    shape = SHAPE | {"n_kv_heads": 4}
    encoder = TransformerConfig(**shape, causal=False, head="none")
    model = EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**shape, shared_qk=True)))
    with pytest.raises(ValueError, match=r"queries and keys of cross-attention \(shared_qk=True\), and cannot hold the gains of two norms"):
        fold_norms(model)
