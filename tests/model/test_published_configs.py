"""Are the keys that published checkpoints carry understood, the old spellings among them?"""

from __future__ import annotations

from typing import Any

import pytest

from model import EncoderDecoderConfig, Rotary, Span
from model.architectures import architecture_for

PYTHIA = dict(
    model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"], bos_token_id=0, eos_token_id=0, hidden_act="gelu", hidden_size=512,
    initializer_range=0.02, intermediate_size=2048, layer_norm_eps=1e-05, max_position_embeddings=2048, num_attention_heads=8,
    num_hidden_layers=6, rotary_emb_base=10000, rotary_pct=0.25, tie_word_embeddings=False, torch_dtype="float16",
    use_cache=True, use_parallel_residual=True, vocab_size=50304, classifier_dropout=0.1,
)
GPTJ = dict(
    model_type="gptj", architectures=["GPTJForCausalLM"], activation_function="gelu_new", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    layer_norm_epsilon=1e-05, n_embd=4096, n_head=16, n_inner=None, n_layer=28, n_positions=2048, rotary=True, rotary_dim=64,
    scale_attn_weights=True, gradient_checkpointing=False, summary_type="cls_index", summary_use_proj=True, tie_word_embeddings=False,
    vocab_size=50400, task_specific_params={"text-generation": {"do_sample": True}},
)
OPT = dict(
    model_type="opt", architectures=["OPTForCausalLM"], _remove_final_layer_norm=False, activation_dropout=0.0, activation_function="relu",
    attention_dropout=0.0, do_layer_norm_before=True, dropout=0.1, ffn_dim=3072, hidden_size=768, init_std=0.02, layerdrop=0.0,
    max_position_embeddings=2048, num_attention_heads=12, num_hidden_layers=12, prefix="</s>", vocab_size=50272, word_embed_proj_dim=768,
)
BLOOM = dict(
    model_type="bloom", architectures=["BloomForCausalLM"], apply_residual_connection_post_layernorm=False, attention_dropout=0.0,
    attention_softmax_in_fp32=True, bias_dropout_fusion=True, hidden_dropout=0.0, layer_norm_epsilon=1e-05, masked_softmax_fusion=True,
    n_embed=1024, n_inner=None, n_layer=24, num_attention_heads=16, offset_alibi=100, pretraining_tp=1, seq_length=2048,
    skip_bias_add=True, skip_bias_add_qkv=False, slow_but_exact=False, unk_token_id=0, vocab_size=250880,
)
QWEN2 = dict(
    model_type="qwen2", architectures=["Qwen2ForCausalLM"], attention_dropout=0.0, hidden_act="silu", hidden_size=896, intermediate_size=4864,
    max_position_embeddings=32768, max_window_layers=24, num_attention_heads=14, num_hidden_layers=24, num_key_value_heads=2,
    rms_norm_eps=1e-06, rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=True, use_sliding_window=False, vocab_size=151936,
)
GEMMA3 = dict(
    model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], attention_bias=False, attn_logit_softcapping=None, head_dim=256,
    cache_implementation="hybrid", final_logit_softcapping=None, hidden_activation="gelu_pytorch_tanh", hidden_size=1152,
    intermediate_size=6912, max_position_embeddings=32768, num_attention_heads=4, num_hidden_layers=12, num_key_value_heads=1,
    query_pre_attn_scalar=256, rms_norm_eps=1e-06, rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=512,
    sliding_window_pattern=6, vocab_size=262144,
)
BERT = dict(
    model_type="bert", architectures=["BertForMaskedLM"], attention_probs_dropout_prob=0.1, gradient_checkpointing=False, hidden_act="gelu",
    hidden_dropout_prob=0.1, hidden_size=768, intermediate_size=3072, layer_norm_eps=1e-12, max_position_embeddings=512,
    num_attention_heads=12, num_hidden_layers=12, pad_token_id=0, position_embedding_type="absolute", type_vocab_size=2, vocab_size=30522,
)
FLAN_T5 = dict(
    model_type="t5", architectures=["T5ForConditionalGeneration"], d_ff=1024, d_kv=64, d_model=512, decoder_start_token_id=0,
    dropout_rate=0.1, feed_forward_proj="gated-gelu", initializer_factor=1.0, is_encoder_decoder=True, layer_norm_epsilon=1e-06,
    n_positions=512, num_decoder_layers=8, num_heads=6, num_layers=8, output_past=True, relative_attention_max_distance=128,
    relative_attention_num_buckets=32, tie_word_embeddings=False, vocab_size=32128,
)
OPUS = dict(
    model_type="marian", architectures=["MarianMTModel"], _num_labels=3, activation_dropout=0.0, activation_function="swish",
    add_bias_logits=False, add_final_layer_norm=False, attention_dropout=0.0, bad_words_ids=[[58100]], classif_dropout=0.0, d_model=512,
    decoder_attention_heads=8, decoder_ffn_dim=2048, decoder_layerdrop=0.0, decoder_layers=6, dropout=0.1, encoder_attention_heads=8,
    encoder_ffn_dim=2048, encoder_layerdrop=0.0, encoder_layers=6, extra_pos_embeddings=58101, init_std=0.02, is_encoder_decoder=True,
    max_length=512, max_position_embeddings=512, normalize_before=False, normalize_embedding=False, num_beams=6, num_hidden_layers=6,
    pad_token_id=58100, scale_embedding=True, static_position_embeddings=True, vocab_size=58101,
)


def read(foreign: dict[str, Any]):
    return architecture_for(foreign["model_type"]).read_config(foreign)


@pytest.mark.parametrize("foreign", [PYTHIA, GPTJ, OPT, BLOOM, QWEN2, GEMMA3, BERT, FLAN_T5, OPUS], ids=lambda foreign: foreign["model_type"])
def test_published_keys_are_understood(foreign: dict[str, Any]) -> None:
    config = read(foreign)
    assert (config.decoder if isinstance(config, EncoderDecoderConfig) else config).family == foreign["model_type"]


def test_what_they_mean() -> None:
    assert read(PYTHIA).rotary == Rotary(dims=16) and read(PYTHIA).parallel
    assert read(GPTJ).rotary == Rotary(dims=64, pairs="adjacent") and read(GPTJ).d_mlp == 16384
    assert read(OPT).position_offset == 2 and (read(BLOOM).d_model, read(BLOOM).n_heads, read(BLOOM).n_ctx) == (1024, 16, 2048)
    assert read(QWEN2).span == Span() and read(QWEN2).rotary == Rotary(base=1e6)
    window = Span(kind="window", size=512)
    assert read(GEMMA3).span == ((window,) * 5 + (Span(),)) * 2
    assert [rotary.base for rotary in read(GEMMA3).rotary[4:6]] == [1e4, 1e6]
    assert read(FLAN_T5).decoder.gated and read(FLAN_T5).decoder.logit_scale == 1.0 and read(FLAN_T5).decoder.score_scale == 1.0
    assert read(OPUS).decoder.embed_scale == 512**0.5 and read(OPUS).decoder.activation == "silu"


@pytest.mark.parametrize(("foreign", "change", "message"), [
    (BERT, {"is_decoder": True}, "is_decoder=True is not supported, only False"),
    (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not supported, only 'absolute'"),
    (BERT, {"hidden_size": 770}, "got a width of 770 and 12 heads"),
    (OPT, {"word_embed_proj_dim": 512}, "word_embed_proj_dim=512 is not supported, only 768 or None"),
    (BLOOM, {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm=True is not supported"),
    (GPTJ, {"rotary_dim": None}, "rotary_dim=None is not supported"),
    (GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not supported"),
    (GEMMA3, {"layer_types": ["chunked_attention"] * 12}, "layer type 'chunked_attention'"),
    (FLAN_T5, {"feed_forward_proj": "gated-mish"}, "feed_forward_proj='gated-mish' is not supported"),
    (OPUS, {"normalize_before": True}, "normalize_before=True is not supported"),
    (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}}, "rotary scaling 'yarn', which is not supported"),
])
def test_what_would_compute_something_else_is_refused(foreign: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(foreign | change)
