"""What do Gemma 2 and Gemma 3 have in common? Gains stored as gain − 1, norms around each sub-layer, caps, its own score scale."""

from __future__ import annotations

from typing import Any

from model.architectures._keys import Keys
from model.architectures._llama import attention_biases, common


def gemma(keys: Keys) -> dict[str, Any]:
    """The choices of both, as arguments of a config."""
    keys.expect("use_bidirectional_attention", False, None)
    keys.ignore("hidden_act", "sliding_window_size")  # older files repeat `hidden_activation` and `sliding_window`
    shared = common(keys, tied=True)
    return shared | attention_biases(keys.take("attention_bias", False)) | dict(
        score_scale=keys.take("query_pre_attn_scalar", 256) ** -0.5, score_cap=keys.take("attn_logit_softcapping", None),
        logit_cap=keys.take("final_logit_softcapping", None), activation=keys.activation("hidden_activation", "gelu_pytorch_tanh"),
        norm_place="sandwich", gain_offset=1.0, embed_scale=shared["d_model"] ** 0.5,
    )
