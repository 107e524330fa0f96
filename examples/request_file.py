"""The files that every example reads and writes, so that their pages can be compared byte for byte.

Little-endian; every number and array starts at a multiple of 4 bytes.

A file of requests: ``b"PGREQ001"``, then uint32 count, features F, tasks T. Then for each request uint32 candidates N,
k, parts, group columns A, bytes of the scenario, seed and offset of the draw, and the arrays that `parts` (a sum of the
bits below) names, in this order: context float32[F], predictions float32[N, T] (always), mask uint8[N] (filled up to a
multiple of 4), boost_mul float32[N], boost_add float32[N], groups int32[N, A] and caps int32[A], values float32[T],
item_values float32[N], names of the items char[N, 8], scenario in UTF-8 (filled up to a multiple of 4).

A file of pages: ``b"PGPAG001"``, then uint32 count, tasks T. Then for each page uint32 k, filled, fallback (0 or 1),
explored (0 or 1), seed and offset of the draw, item columns that the request lacked, float32 mixture_weight, char[12]
version of the policy, values float32[k], indices int32[k], weights float32[T], concentration float32[T].
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade.serving.page import Page

CONTEXT, MASK, BOOST_MUL, BOOST_ADD, GROUPS, SCENARIO, EXPLORE, VALUES, ITEM_VALUES, NAMES = (
    1 << bit for bit in range(10)
)


@dataclass
class Request:
    predictions: NDArray[np.float32]  # [N, T]
    k: int
    context: NDArray[np.float32] | None = None  # [F]
    mask: NDArray[np.bool_] | None = None
    boost_mul: NDArray[np.float32] | None = None
    boost_add: NDArray[np.float32] | None = None
    groups: NDArray[np.int32] | None = None  # [N, A]
    caps: NDArray[np.int32] | None = None  # [A]
    scenario: str | None = None
    seed: int | None = None  # explore, by draw 0 of this seed
    values: NDArray[np.float32] | None = None  # [T]
    item_values: NDArray[np.float32] | None = None  # [N]
    names: NDArray[np.bytes_] | None = None  # [N] of 8 bytes each


def write_requests(path: Path, requests: Sequence[Request], features: int) -> None:
    tasks = requests[0].predictions.shape[1]
    parts = [b"PGREQ001", struct.pack("<3I", len(requests), features, tasks)]
    for r in requests:
        scenario = (r.scenario or "").encode()
        bits = [r.context, r.mask, r.boost_mul, r.boost_add, r.groups, r.scenario, r.seed, r.values, r.item_values]
        bits.append(r.names)
        given = sum(1 << bit for bit, part in enumerate(bits) if part is not None)
        columns = 0 if r.caps is None else len(r.caps)
        parts.append(struct.pack("<7I", len(r.predictions), r.k, given, columns, len(scenario), r.seed or 0, 0))
        arrays = [r.context, r.predictions, r.mask, r.boost_mul, r.boost_add, r.groups, r.caps, r.values, r.item_values]
        parts += [_filled(array.tobytes()) for array in [*arrays, r.names] if array is not None]
        parts.append(_filled(scenario))
    path.write_bytes(b"".join(parts))


def write_pages(path: Path, pages: Sequence[Page], missing_items: Sequence[int]) -> None:
    """Pages of one request each, with how many item columns it lacked."""
    parts = [b"PGPAG001", struct.pack("<2I", len(pages), len(pages[0].tasks))]
    for page, missing in zip(pages, missing_items, strict=True):
        draw, filled = int(page.seed[0]), int((page.indices >= 0).sum())
        flags = int(page.fallback[0]), int(page.explored[0])
        head = page.indices.shape[1], filled, *flags, draw >> 32, draw & 0xFFFFFFFF, missing, page.mixture_weight
        parts.append(struct.pack("<7If12s", *head, page.policy_version.encode()))
        parts += [array.tobytes() for array in (page.values, page.indices, page.weights, page.concentration)]
    path.write_bytes(b"".join(parts))


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
