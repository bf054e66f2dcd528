"""Does a steering vector hold the difference of two sets, and steer as linear algebra says?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import Transformer, TransformerConfig, wrap
from probes import (
    Edit,
    SiteError,
    UnknownSiteError,
    add,
    intervene,
    logit_difference,
    record,
)
from probes.steering import steer, steering_vectors
from tests.conftest import PADDING, example, hugging_face


def unnormed() -> Transformer:
    """Attention of zero, no norm, no MLP: logits are the unembedding of the stream, and what is added to it adds up."""
    config = TransformerConfig(
        n_layers=3, d_model=12, n_heads=2, d_head=4, d_mlp=0, d_vocab=20, n_ctx=8, norm="none", final_norm=False, tied_embeddings=False
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    for block in model.blocks:
        block.attn.W_O.weight.zero_()
    model.unembed.unembedding.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def test_the_unembedding_direction_raises_its_logit_linearly() -> None:
    model = unnormed()
    inputs = example(model, "right", pos=6)
    rows = model.unembed.unembedding.weight
    direction = rows[3] - rows[4]
    vectors = {f"blocks.{i}.resid_post": direction for i in range(3)}
    strengths = [-2.0, -0.5, 0.0, 1.0, 3.0]
    table = steer(model, inputs, vectors, logit_difference(3, 4), strengths)
    assert len(table) == 3 * 5 * 3 and table["strength"].tolist()[:6] == [-2.0] * 3 + [-0.5] * 3
    expected = table["strength"] * float(direction @ direction)
    assert np.allclose(table["effect"], expected, rtol=1e-5, atol=1e-5)
    chosen = steer(model, inputs, vectors, logit_difference(3, 4), strengths, layers=[1], positions=[5])
    assert set(chosen["layer"]) == {1} and set(chosen["position"]) == {5}
    at_end = chosen["example"] != 1  # example 1 ends at place 3
    assert np.allclose(chosen["effect"][at_end], chosen["strength"][at_end] * float(direction @ direction), rtol=1e-5, atol=1e-5)
    assert (chosen["effect"][~at_end] == 0).all()


@pytest.mark.parametrize("over", ["tokens", "last"])
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "t5"])
def test_is_the_difference_of_means_of_texts_on_their_own(name: str, padding: str, over: str) -> None:
    model = wrap(hugging_face(name, 0)).requires_grad_(False)
    two_stacks = name == "t5"
    sites = (
        ["encoder.blocks.1.resid_post", "decoder.blocks.1.attn.z"]
        if two_stacks
        else ["blocks.1.resid_post", "blocks.1.attn.z", "blocks.0.attn.k"]
    )
    sets = [example(model, padding, batch=n, pos=pos, seed=n) for n, pos in ((3, 7), (2, 5))]
    got = steering_vectors(model, *sets, sites, over=over)
    assert list(got) == [n for n in model.sites() if n in sites]
    for site in sites:
        means = []
        for inputs in sets:
            texts = []
            for i in range(len(inputs[0])):
                half = len(inputs) // 2
                alone = tuple(x[i : i + 1, m[i]] for x, m in zip(inputs[:half], inputs[half:], strict=True))
                with torch.no_grad(), record(model, site) as activations:
                    model(*alone)
                texts.append(activations[site][0] if over == "tokens" else activations[site][0, -1:])
            means.append(torch.cat(texts).mean(0))
        assert torch.allclose(got[site], means[0] - means[1], atol=1e-4), site


def test_equals_the_edit_alone() -> None:
    model = wrap(hugging_face("qwen3", 0)).requires_grad_(False)
    inputs, metric = example(model, "left"), logit_difference(3, 4)
    vectors = steering_vectors(model, inputs, example(model, "left", seed=5), "blocks.*.resid_mid")
    table = steer(model, inputs, vectors, metric, [2.0])
    for site, vector in vectors.items():
        with intervene(model, Edit(site, add(2 * vector))):
            edited = metric(model, inputs)
        assert np.allclose(table[table["site"] == site]["edited"], edited.numpy(), atol=1e-4)


def test_mistakes() -> None:
    model = unnormed()
    inputs, metric = example(model, pos=6), logit_difference(3, 4)
    vector = {"blocks.0.resid_post": torch.ones(12)}
    with pytest.raises(SiteError, match=r"no vector for layer 2, only for blocks.0.resid_post"):
        steer(model, inputs, vector, metric, [1.0], layers=[0, 2])
    with pytest.raises(SiteError, match="a vector and a strength, got 1 and 0"):
        steer(model, inputs, vector, metric, [])
    with pytest.raises(SiteError, match=r"belongs to one site, 'blocks.\*.resid_post' matches several"):
        steer(model, inputs, {"blocks.*.resid_post": torch.ones(12)}, metric, [1.0])
    with pytest.raises(UnknownSiteError, match="did you mean"):
        steer(model, inputs, {"blocks.0.resid_pots": torch.ones(12)}, metric, [1.0])
    with pytest.raises(SiteError, match="blocks.0.attn.pattern has axes batch head query key"):
        steering_vectors(model, inputs, inputs, "*pattern")
    with pytest.raises(SiteError, match="got 'first'"):
        steering_vectors(model, inputs, inputs, "embed", over="first")
    with pytest.raises(SiteError, match="one has none"):
        steering_vectors(model, inputs, (inputs[0], torch.zeros_like(inputs[1])), "embed")
