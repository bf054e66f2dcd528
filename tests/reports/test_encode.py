"""Does strict JSON bring back every value, and refuse what it could not?"""

import json
import math
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.encode import decode, encode, pack_arrays, to_json, unpack_arrays
from tests.reports.samples import TEXT, same

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["$order", "$float", "$$"])
KEYS = TEXT | st.sampled_from(["$order", "$float", "$array", "$tuple", "$objects", "$$"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3))


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")
    return json.loads(text, parse_constant=refuse)


@given(VALUES)
def test_every_value_comes_back_with_its_type_and_order(value):
    text = to_json(encode(value, "value"))
    assert text.isascii()
    assert same(decode(strict(text)), value)


def test_minus_zero_and_infinity_stay():
    back = decode(strict(to_json(encode([-0.0, math.inf, -math.inf, math.nan], "value"))))
    assert math.copysign(1, back[0]) == -1 and back[1:3] == [math.inf, -math.inf] and math.isnan(back[3])


def test_numpy_numbers_enums_and_paths_become_plain():
    class Choice(StrEnum):
        ONE = "one"
    assert encode([np.float32(0.5), np.int64(3), np.bool_(True), Choice.ONE, Path("a/b")], "value") == [0.5, 3, True, "one", "a/b"]


@pytest.mark.parametrize(("value", "message"), [
    ({"a": [object()]}, r"parameters\.a\[0\] must be made of .* got builtins\.object"),
    ({"a": {3: 1}}, r"the keys of parameters\.a must be text to be saved, got 3 of type int"),
    ({"a": {1, 2}}, r"parameters\.a must be made of .* got builtins\.set"),
    ({"a": np.zeros(2)}, r"parameters\.a must be made of .* got numpy\.ndarray"),
])
def test_what_cannot_come_back_is_refused_by_name(value, message):
    with pytest.raises(TypeError, match=message):
        encode(value, "parameters")


@pytest.mark.parametrize("array", [
    np.array([1.5, np.nan, -np.inf], dtype="float32"), np.zeros((0, 3), dtype="int8"), np.array(3.0), np.array(["a", "\ud800é"]), np.array([True, False]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
])
def test_arrays_come_back_and_their_file_is_the_same_every_time(array):
    packed = pack_arrays({"0000": array})
    assert packed == pack_arrays({"0000": array})
    assert same(unpack_arrays(packed)["0000"], array)


def test_arrays_of_objects_are_kept_as_json_not_pickled():
    arrays = {}
    array = np.array([["a", None], [1, np.nan]], dtype=object)
    back = decode(strict(to_json(encode(array, "text", arrays))), arrays)
    assert not arrays
    assert same(back, array)
