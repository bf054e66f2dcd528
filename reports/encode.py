"""How does a value become JSON without losing anything? NaN, infinity, tuples, the order of keys and arrays all come back as they were.

Strict JSON has no NaN, no tuple and no order of keys, so what it cannot say is tagged with a key that begins with `$`:

* `{"$float": "nan"}`, `"inf"`, `"-inf"`
* `{"$tuple": [...]}`
* `"$order": [...]` beside the keys of a mapping whose keys are not in alphabetical order
* `{"$array": "0003"}`: an array kept in the `.npz` file beside
* `{"$objects": {"shape": [...], "items": [...]}}`: an array of Python objects, for example of text
* a key of one's own that begins with `$` gets a second one
"""

from __future__ import annotations

import enum
import io
import json
import math
import zipfile
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath
from typing import Any

import numpy as np

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_SINCE_1980 = (1980, 1, 1, 0, 0, 0)


def encode(value: Any, where: str, arrays: MutableMapping[str, np.ndarray] | None = None) -> Any:
    """The value in terms of strict JSON.

    Arrays are put into `arrays` and referred to by key. A path becomes its text. `where` names the value in errors.

    Raises:
        TypeError: for a type that could not be brought back, or an array where `arrays` is None.

    >>> encode({"seed": 1, "low": (float("nan"), 2.0)}, "parameters")
    {'seed': 1, 'low': {'$tuple': [{'$float': 'nan'}, 2.0]}, '$order': ['seed', 'low']}
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, arrays)
    if isinstance(value, (list, tuple)):
        items = [encode(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if hasattr(value, "__array__") and arrays is not None:
        return _encode_array(np.asarray(value, order="C"), where, arrays)
    kept = "None, bool, int, float, str, path, list, tuple, mapping" + (" or array" if arrays is not None else "")
    raise TypeError(f"{where} must be made of {kept} to be saved, got {type(value).__module__}.{type(value).__qualname__}")


def _encode_mapping(value: Mapping, where: str, arrays: MutableMapping[str, np.ndarray] | None) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"the keys of {where} must be text to be saved, got {key!r} of type {type(key).__name__}")
    keys = {str(key): f"${key}" if key.startswith("$") else str(key) for key in value}
    encoded = {keys[key]: encode(item, f"{where}.{key}", arrays) for key, item in value.items()}
    if list(encoded) != sorted(encoded):
        encoded["$order"] = list(encoded)
    return encoded


def _encode_array(array: np.ndarray, where: str, arrays: MutableMapping[str, np.ndarray]) -> dict[str, Any]:
    if array.dtype.hasobject:
        items = [encode(item, f"{where}[{i}]") for i, item in enumerate(array.reshape(-1))]
        return {"$objects": {"shape": list(array.shape), "items": items}}
    key = f"{len(arrays):04d}"
    arrays[key] = array
    return {"$array": key}


def decode(encoded: Any, arrays: Mapping[str, np.ndarray] | None = None) -> Any:
    """The value that `encode` was given. Mappings come back as dicts in their first order.

    Raises:
        KeyError: if an array that is referred to is not there.

    >>> decode({"b": 1, "a": {"$tuple": [{"$float": "-inf"}]}, "$order": ["b", "a"]})
    {'b': 1, 'a': (-inf,)}
    """
    if isinstance(encoded, list):
        return [decode(item, arrays) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if set(encoded) == {"$float"}:
        return _FLOATS[encoded["$float"]]
    if set(encoded) == {"$tuple"}:
        return tuple(decode(item, arrays) for item in encoded["$tuple"])
    if set(encoded) == {"$array"}:
        return (arrays or {})[encoded["$array"]]
    if set(encoded) == {"$objects"}:
        return _decode_objects(encoded["$objects"], arrays)
    order = encoded.get("$order", [key for key in encoded if key != "$order"])
    return {key[1:] if key.startswith("$") else key: decode(encoded[key], arrays) for key in order}


def _decode_objects(encoded: dict[str, Any], arrays: Mapping[str, np.ndarray] | None) -> np.ndarray:
    flat = np.empty(len(encoded["items"]), dtype=object)
    for i, item in enumerate(encoded["items"]):
        flat[i] = decode(item, arrays)
    return flat.reshape(encoded["shape"])


def to_json(encoded: Any, *, indent: int | None = 1) -> str:
    """Strict JSON, ASCII only, keys sorted: equal values give equal text.

    >>> to_json({"b": 0.1, "a": "é"}, indent=None)
    '{"a": "\\\\u00e9", "b": 0.1}'
    """
    return json.dumps(encoded, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=indent)


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as an `.npz` file that numpy can open, without the time of day that numpy would write into it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, arrays[key], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=_SINCE_1980)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, part.getvalue(), compresslevel=6)
    return buffer.getvalue()


def unpack_arrays(packed: bytes) -> dict[str, np.ndarray]:
    """The arrays that `pack_arrays` was given.

    >>> unpack_arrays(pack_arrays({"0000": np.array([1.5, np.nan])}))
    {'0000': array([1.5, nan])}
    """
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}
