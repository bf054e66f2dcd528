"""Do the lines that prosect shows to the world run as they stand?"""

from __future__ import annotations

import torch
import transformers


def test_by_example() -> None:
    from model import load_model
    from probes import Edit, ablate_heads, intervene, logit_difference, mean, record, sweep, zero

    model = load_model("smollm2")
    tokens, mask = model.tokenize(["When Mary and John went to the store, John gave a drink to"])
    logits = model(tokens, mask)
    assert logits.shape == (1, 14, 49152) and mask.dtype == torch.bool and tokens.dtype == torch.long
    assert model.sites()["blocks.0.attn.pattern"].axes == ("batch", "head", "query", "key")

    with record(model, ["blocks.*.attn.pattern", "blocks.5.resid_post"]) as activations:
        model(tokens, mask)
    assert activations["blocks.3.attn.pattern"].shape == (1, 9, 14, 14)
    assert activations["blocks.3.attn.hook_pattern"] is activations["blocks.3.attn.pattern"]
    assert len(activations) == 31

    with intervene(model, Edit("blocks.3.attn.z", zero(), heads=[2], positions=None)):
        edited = model(tokens, mask)
    assert not torch.equal(edited, logits)

    table = sweep(model, (tokens, mask), ablate_heads(model, zero()), logit_difference(" Mary", " John"))
    assert len(table) == 270 and {"layer", "head", "example", "clean", "edited", "effect"} <= set(table.columns)
    assert abs(table["clean"].iloc[0] - 6.12) < 0.01
    with intervene(model, Edit("blocks.17.attn.z", mean((tokens, mask)), heads=[3])):
        model(tokens, mask)


def test_wrap_by_example() -> None:
    from model import wrap

    config = transformers.LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    hugging_face_model = transformers.LlamaForCausalLM(config)
    model = wrap(hugging_face_model)
    assert torch.allclose(model(torch.tensor([[1, 2, 3]])), hugging_face_model(torch.tensor([[1, 2, 3]])).logits, atol=1e-6)
