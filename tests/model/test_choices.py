"""Does a config refuse choices that do not go together, and say which values it got?"""

from __future__ import annotations

import pytest

from model import Dropout, EncoderDecoderConfig, Rotary, RotaryScaling, Span, TransformerConfig

SHAPE = dict(n_layers=2, d_model=18, n_heads=4, n_kv_heads=2, d_head=6, d_mlp=23, d_vocab=31, n_ctx=24)


@pytest.mark.parametrize(("change", "message"), [
    ({"score": "additive", "positions": "shaw"}, "an additive score has no scale and no Shaw positions"),
    ({"shared_qk": True}, "as many key heads as query heads, got n_heads=4, n_kv_heads=2"),
    ({"parallel": True, "norm_place": "post"}, "norm before the sub-layers, got norm_place='post'"),
    ({"parallel_shared_norm": True}, "belongs to a parallel block, got parallel=False"),
    ({"parallel": True, "d_mlp": 0}, "a parallel block needs a feed-forward network, got d_mlp=0"),
    ({"gated": True, "d_mlp": 0}, "no feed-forward network to gate, got gated=True, d_mlp=0"),
    ({"residual": False, "residual_scale": 0.5}, "nothing to scale, got residual_scale=0.5"),
    ({"head": "mlm"}, "belongs to an encoder, got causal=True"),
    ({"span": (Span(),)}, "one for each of the 2, got 1"),
    ({"rotary": (Rotary(),) * 3}, "one for each of the 2, got 3"),
    ({"positions": "rotary", "rotary": Rotary(dims=8)}, "at most d_head dimensions, got dims=8, d_head=6"),
    ({"positions": "rotary", "position_offset": 2}, "got position_offset=2, positions='rotary'"),
    ({"position_offset": -1}, "at least 0, got position_offset=-1"),
    ({"positions": "wavelet"}, "positions must be one of sinusoidal, .*, got 'wavelet'"),
    ({"score_cap": 0.0}, "must be positive, got score_cap=0.0"),
])
def test_choices_that_do_not_go_together(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SHAPE | change)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Rotary(dims=5), "must be even and at least 2, got dims=5"),
    (lambda: Rotary(base=0), "must be positive, got base=0"),
    (lambda: Rotary(pairs="quarters"), "one of halves, adjacent, got 'quarters'"),
    (lambda: RotaryScaling(kind="linear", factor=0.5), "at least 1, got factor=0.5"),
    (lambda: RotaryScaling(kind="yarn", factor=2.0), "yarn scaling needs original_n_ctx, the positions of the training, got 0"),
    (lambda: Span(kind="window"), "'window' needs a size, got size=0"),
    (lambda: Span(size=3), "'all' takes no size, got size=3"),
    (lambda: Span(kind="window", size=3, n_global=1), "got kind='window', size=3, n_global=1"),
    (lambda: Dropout(mlp=1.0), "below 1, got mlp=1.0"),
    (lambda: EncoderDecoderConfig(encoder=TransformerConfig(**SHAPE), decoder=TransformerConfig(**SHAPE)), "causal=False, head='none'"),
])
def test_groups_of_numbers_are_checked(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_two_stacks_that_do_not_fit() -> None:
    encoder = TransformerConfig(**SHAPE | dict(causal=False, head="none"))
    for change, message in (({"d_model": 20}, "same d_model, got 18 and 20"), ({"d_vocab": 30}, "one vocabulary, got d_vocab=31 and 30"),
                            ({"causal": False}, "is causal, got causal=False")):
        with pytest.raises(ValueError, match=message):
            EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**SHAPE | change))
    with pytest.raises(ValueError, match="a decoder that reads an encoder has no parallel blocks"):
        EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**SHAPE | {"parallel": True}))
    apart = EncoderDecoderConfig(encoder=encoder, decoder=TransformerConfig(**SHAPE | {"d_vocab": 30}), shared_embeddings=False)
    assert EncoderDecoderConfig.from_dict(apart.to_dict()) == apart
    with pytest.raises(ValueError, match="unknown config field 'flavour'"):
        EncoderDecoderConfig.from_dict(apart.to_dict() | {"flavour": 1})
