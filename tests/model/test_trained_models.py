"""Do the trained models give the numbers that are known of them?"""

from __future__ import annotations

import importlib
import time

import pytest
import torch
import transformers

from model import Transformer, load_model
from model.zoo import data_path, zoo
from tests.conftest import relative

IOI = "When Mary and John went to the store, John gave a drink to"


def llama_of(model: Transformer) -> transformers.LlamaForCausalLM:
    """Hugging Face's own Llama with the weights of ours."""
    c = model.config
    config = transformers.LlamaConfig(
        vocab_size=c.d_vocab, hidden_size=c.d_model, intermediate_size=c.d_mlp, num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads, head_dim=c.d_head, rms_norm_eps=c.norm_eps, max_position_embeddings=c.n_ctx,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": c.rotary.base}, attn_implementation="eager",
    )
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(config)
    names = {"attn.W_Q": "self_attn.q_proj", "attn.W_K": "self_attn.k_proj", "attn.W_V": "self_attn.v_proj", "attn.W_O": "self_attn.o_proj",
             "mlp.W_gate": "mlp.gate_proj", "mlp.W_in": "mlp.up_proj", "mlp.W_out": "mlp.down_proj",
             "ln1": "input_layernorm", "ln2": "post_attention_layernorm", "embedding": "model.embed_tokens", "ln_final": "model.norm"}
    weights = {}
    for name, parameter in model.named_parameters():
        name = name.replace("blocks.", "model.layers.").replace(".gain", ".weight")
        for ours, foreign in names.items():
            name = name.replace(ours, foreign) if ours in name else name
        weights[name] = parameter
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    theirs.load_state_dict(weights, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config=config)
    return theirs.eval()


@torch.no_grad()
def test_smollm2_reference_values(smollm2: Transformer) -> None:
    tokens, mask = smollm2.tokenize(["The capital of France is", IOI, "The Eiffel Tower is located in the city of"])
    last = smollm2(tokens, mask)[torch.arange(3), mask.sum(1) - 1]
    paris, mary, john = (smollm2.tokenizer.encode(word)[0] for word in (" Paris", " Mary", " John"))
    probability = last.softmax(-1)
    assert probability[0, paris].item() == pytest.approx(0.7725, abs=1e-4)
    assert probability[1, mary].item() == pytest.approx(0.9229, abs=1e-4)
    assert (last[1, mary] - last[1, john]).item() == pytest.approx(6.12, abs=0.005)
    assert probability[2, paris].item() == pytest.approx(0.7015, abs=5e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["smollm2", "glasslm"])
def test_logits_equal_hugging_faces(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    theirs = llama_of(model)
    tokens = torch.tensor(model.tokenizer.encode(data_path("prose.txt").read_text()[:3000])[:192]).view(2, 96)
    assert relative(model(tokens), theirs(tokens).logits) < 1e-5
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :20] = False
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=mask.long(), position_ids=positions).logits
    assert relative(model(tokens, mask)[mask], expected[mask]) < 1e-5


@torch.no_grad()
def test_glasslm_equals_its_own_numpy_model(glasslm: Transformer) -> None:
    original = importlib.import_module("glassllm.model").GlassLM.load(zoo()["glasslm"].path())
    tokens = torch.tensor(glasslm.tokenizer.encode(data_path("prose.txt").read_text()[:2000])[:128])[None]
    assert relative(glasslm(tokens)[0], torch.from_numpy(original(tokens[0].numpy()).data[0])) < 1e-5


def test_glasslm_tokenizer_equals_its_own(glasslm: Transformer) -> None:
    path = zoo()["glasslm"].path().with_name("en.tokenizer.json")
    original = importlib.import_module("glassllm.tokenizer").Tokenizer.load(path)
    text = data_path("prose.txt").read_text()[:5000] + "  two  spaces\n\n ☃ “quoted” cafe\u0301"
    ids = glasslm.tokenizer.encode(text)
    assert ids == original.encode(text)
    assert glasslm.tokenizer.decode([i for i in ids if i > 3]) == original.decode([i for i in ids if i > 3])


def test_smollm2_tokenizer(smollm2: Transformer) -> None:
    tokenizer = smollm2.tokenizer
    assert tokenizer.to_str_tokens(IOI)[:4] == ["When", " Mary", " and", " John"]
    assert tokenizer.encode("2026") == [tokenizer.encode(d)[0] for d in "2026"]  # digits one by one
    for text in ("Hello  world\n\n  x\t", "naïve café ☃ 漢字 🙂", "<|im_start|>user\nhi<|im_end|>", "it's  a\u200btest"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("<|im_start|>")) == 1
    assert tokenizer.encode("a", prepend_bos=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
    assert tokenizer.encode("lone \ud800 surrogate") == tokenizer.encode("lone ? surrogate")


def test_converted_copy_equals_the_gguf_and_is_used_again(tmp_path, monkeypatch, smollm2: Transformer) -> None:
    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path))
    first = load_model("smollm2")
    start = time.perf_counter()
    again = load_model(zoo()["smollm2"].path())
    seconds = time.perf_counter() - start
    kept = next(tmp_path.glob("gguf-*")) / "model.safetensors"
    for (name, a), (_, b) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert first.source.sha256(first) == again.source.sha256(again)
    assert seconds < 30 and kept.stat().st_size > 5e8  # the time is looked at in the benchmarks
    kept.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged and is made again"):
        assert torch.equal(load_model("smollm2").embedding.weight, first.embedding.weight)
