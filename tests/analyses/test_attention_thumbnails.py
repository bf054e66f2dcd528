"""Are the patterns of all heads kept as they are, small in memory, and whole for the heads that tell most?"""

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import _attention_thumbnails as thumbnails
from analyses._anatomy import attentions
from analyses._attention_thumbnails import maps_of, most_telling, thumbnails_of, whole_maps_of
from model import EncoderDecoder, EncoderDecoderConfig, Transformer, TransformerConfig
from probes import Edit, intervene, record

SIZES = {"d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 16, "d_vocab": 30, "n_ctx": 96}


def stack(**choices) -> Transformer:
    return Transformer(TransformerConfig(**{"n_layers": 3, **SIZES, **choices}), generator=torch.Generator().manual_seed(0))


def two_stacks() -> EncoderDecoder:
    encoder = TransformerConfig(n_layers=2, causal=False, head="none", **SIZES)
    decoder = TransformerConfig(n_layers=3, **SIZES)
    return EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=decoder), generator=torch.Generator().manual_seed(0))


def ids(length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(30, (1, length), generator=torch.Generator().manual_seed(seed))


def scores(model) -> pd.DataFrame:
    """Every head of every kind; later heads of later layers tell more."""
    rows = [
        {"attention": kind.key, "layer": layer, "head": head, "first_token_mass": 10 * layer + head, "sink_score": 10 * layer + head}
        for kind in attentions(model)
        for layer in range(kind.side.config.n_layers)
        for head in range(kind.side.config.n_heads)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "model, example",
    [(stack(), (ids(70),)), (stack(causal=False), (ids(40),)), (two_stacks(), (ids(50), ids(9, seed=2)))],
    ids=["decoder", "encoder", "two stacks"],
)
def test_every_head_of_every_kind_is_kept_as_a_whole_pass_records_it(model, example) -> None:
    with torch.no_grad():
        frame = maps_of(model, example, scores(model)).frame
        for kind in attentions(model):
            names = [kind.site(layer, "pattern") for layer in range(kind.side.config.n_layers)]
            with record(model, names) as activations:
                model(*example)
            expected = np.stack([activations[name][0].numpy() for name in names])  # layer head query key
            rows, shape = frame[frame["attention"] == kind.key], expected.shape[2:]
            whole = whole_maps_of(rows, *shape, causal=kind.causal)
            assert len(whole) == len(names) * 4
            for place, pattern in whole.items():
                np.testing.assert_allclose(pattern, expected[place], atol=3e-4)
            small = thumbnails_of(rows, *shape, causal=kind.causal)
            assert small.shape[:2] == expected.shape[:2] and max(small.shape[2:]) <= 32
            np.testing.assert_allclose(small.sum(-1), 1, atol=3e-3)  # blocks of rows that sum to 1 do too
            block = -(-shape[0] // 32)
            np.testing.assert_allclose(small[..., 0, :].sum(-1), expected[..., :block, :].mean(-2).sum(-1), atol=3e-3)


def test_a_planted_head_is_seen_in_its_blocks() -> None:
    model = stack()

    def first_key(pattern: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)

    with torch.no_grad(), intervene(model, Edit("blocks.1.attn.pattern", first_key, heads=[2])):
        frame = maps_of(model, (ids(64),), scores(model)).frame
    small = thumbnails_of(frame, 64, 64, causal=True)
    assert (small[1, 2, :, 0] == 1).all() and (small[1, 2, :, 1:] == 0).all()
    assert not (small[1, 1, :, 0] == 1).all()


def test_where_not_all_heads_fit_the_most_telling_are_kept(monkeypatch) -> None:
    model = stack()
    monkeypatch.setattr(thumbnails, "MOST_CELLS", 5 * 20 * 21 // 2)
    with torch.no_grad():
        frame = maps_of(model, (ids(20),), scores(model)).frame
    assert set(whole_maps_of(frame, 20, 20, causal=True)) == {(2, 3), (2, 2), (2, 1), (2, 0), (1, 3)}
    assert (frame["blocks"].str.len() > 0).all()


def test_the_first_by_every_score_come_before_the_second_by_any() -> None:
    heads = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "a": [4.0, 3, 2, 1], "b": [1.0, 2, 3, np.nan]})
    assert most_telling(heads, ["a", "b", "unknown"], 3) == [(0, 0), (1, 0), (0, 1)]
    assert len(most_telling(heads, ["a", "b"], 99)) == 4
