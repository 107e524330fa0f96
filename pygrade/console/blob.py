"""Records and arrays as one block of text, for the page to unpack: base64 of gzip.

Unpacked: the length of the JSON (4 bytes, little-endian), the JSON, zeros up to a multiple of 8, then the arrays, each
from a multiple of 8 on. In the JSON an array is ``{"array": dtype, "at": first byte after the JSON's, "length": n}``.
"""

import base64
import gzip
import json
from typing import Any

import numpy as np

from pygrade._util.serialization import to_builtins

DTYPES = ("float32", "float64", "int32", "uint8")


def pack(record: dict[str, Any]) -> str:
    """The text of a record, whose arrays are flattened; equal records give equal texts."""
    parts: list[bytes] = []
    head = json.dumps(to_builtins(_lifted(record, parts)), allow_nan=False, separators=(",", ":")).encode()
    text = len(head).to_bytes(4, "little") + head
    content = text + bytes(-len(text) % 8) + b"".join(parts)
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _lifted(value: Any, parts: list[bytes]) -> Any:
    """The value with its arrays moved to the parts."""
    if isinstance(value, np.ndarray):
        if value.dtype.name not in DTYPES:
            raise TypeError(f"array has dtype {value.dtype}; expected one of {', '.join(DTYPES)}")
        content = np.ascontiguousarray(value).tobytes()
        start = sum(map(len, parts))
        parts.append(content + bytes(-len(content) % 8))
        return {"array": value.dtype.name, "at": start, "length": int(value.size)}
    if isinstance(value, dict):
        return {name: _lifted(item, parts) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lifted(item, parts) for item in value]
    return value


def sparse(values: Any) -> dict[str, Any]:
    """A column that is mostly 0: the places of the other numbers, and these."""
    places = np.flatnonzero(values)
    return {"places": places.astype(np.int32), "values": np.asarray(values, np.float64)[places]}
