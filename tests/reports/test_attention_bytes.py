"""Do patterns come back from few bytes, as near as is said?"""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.attention_bytes import Code, block_of, code_of, packed, pooled, unpacked


def causal(n: int, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(n, n)) * 3
    scores[np.triu_indices(n, 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_no_probability_is_off_by_more_than_half_a_step_at_one():
    every = np.linspace(0, 1, 100_001)
    off = np.abs(Code().decode(Code().encode(every)) - every)
    assert off.max() <= 1 - (253.5 / 254) ** 2 < 0.004
    assert off[every < 0.01].max() < 0.0004  # small ones, of which there are most, are nearer
    assert Code().decode(Code().encode(np.array([0.0, 1.0]))).tolist() == [0.0, 1.0]


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=20))
def test_any_numbers_keep_sign_place_and_absence(values):
    array = np.array(values)
    code = code_of([array])
    back = code.decode(code.encode(array))
    assert (np.isnan(back) == np.isnan(array)).all()
    there = ~np.isnan(array)
    assert (np.abs(back - array)[there] <= code.top * (2 / 127)).all()
    assert (np.sign(back[there]) * np.sign(array[there]) >= 0).all()
    assert (code.encode(back) == code.encode(array)).all()  # a second time costs nothing more


def test_infinities_have_no_value():
    assert np.isnan(Code().decode(Code().encode(np.array([np.inf, -np.inf])))).all()


def test_the_bytes_are_key_after_key_from_the_diagonal_on():
    """By the definition: for key 0 every query, for key 1 the queries from 1 on, and so on."""
    pattern = np.arange(16, dtype=np.uint8).reshape(4, 4)
    flat = zlib.decompress(base64.b64decode(packed(pattern, triangle=True)))
    assert list(flat) == [pattern[query, key] for key in range(4) for query in range(key, 4)]
    whole = zlib.decompress(base64.b64decode(packed(pattern[:, :3], triangle=False)))
    assert list(whole) == [pattern[query, key] for key in range(3) for query in range(4)]


@pytest.mark.parametrize("shape, triangle", [((5, 5), True), ((3, 2, 6, 6), True), ((4, 7), False), ((2, 1, 1), False), ((0, 3, 3), True)])
def test_packed_maps_come_back(shape, triangle):
    for dtype in (np.uint8, np.dtype("<f2")):
        maps = np.random.default_rng(0).integers(0, 200, size=shape).astype(dtype)
        maps = np.tril(maps) if triangle else maps
        back = unpacked(packed(maps, triangle=triangle), shape, dtype, triangle=triangle)
        assert back.dtype == dtype and (back == maps).all()


def test_a_real_pattern_takes_less_than_a_byte_a_value():
    codes = Code().encode(causal(256))
    assert len(packed(codes, triangle=True)) < 256 * 257 / 2
    assert packed(codes, triangle=True) == packed(codes.copy(order="F"), triangle=True)


@pytest.mark.parametrize("n, most", [(256, 32), (250, 32), (33, 32), (7, 3), (32, 32)])
def test_blocks_of_rows_that_sum_to_one_sum_to_one(n, most):
    pattern = causal(n)
    small, block = pooled(pattern, most), block_of(n, most)
    assert small.shape == (-(-n // block),) * 2 and max(small.shape) <= most
    np.testing.assert_allclose(small.sum(-1), 1)
    for i, j in ((0, 0), (len(small) - 1, 0), (len(small) - 1, len(small) - 1)):
        cells = pattern[i * block : (i + 1) * block, j * block : (j + 1) * block]
        np.testing.assert_allclose(small[i, j], cells.sum(-1).mean())
    assert (np.triu(small, 1) == 0).all()


def test_missing_values_are_left_out_of_blocks():
    pattern = np.array([[1.0, np.nan, np.nan], [np.nan, np.nan, np.nan], [np.nan, np.nan, 0.5]])
    np.testing.assert_array_equal(pooled(pattern, 2), [[1.0, np.nan], [np.nan, 0.5]])
    assert pooled(np.zeros((0, 0)), 4).shape == (0, 0)
