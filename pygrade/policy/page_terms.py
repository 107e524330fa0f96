"""Page terms of a correction: how what stands above an item on a page moves its root probability.

    value of a page = Σ_k q_k (b_i + r_i exp(E_i)),    i the item of slot k
    E_i = Σ_{j above i} a_{slot(j)} (P[c_j, c_i] + κ max(0, cos(e_j, e_i)))

b and r are the two parts of an item's expected value: what does not need the root task, and what does. Categories and
embeddings that are not known add nothing. The C++ core searches the page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_CATEGORIES = 1024
MAX_DIMENSION = 256  # of embeddings
MAX_COEFFICIENT = 8.0  # of absolute value: odds times 3000
BEAMS = (1, 8)
_LISTS = ("root", "categories", "cosine", "beam", "dimension")  # in policy.json
_TENSORS = ("attention", "pairs")


@dataclass(frozen=True, eq=False)
class PageTerms:
    """Coefficients of C categories and of similarity; ValueError names the field that is not as below."""

    root: str  # task whose probability they move: one without a parent, no amount
    attention: NDArray[np.float32]  # [K] of slots, ≥ 0, relative to slot 0, which has 1; later slots: that of the last
    categories: tuple[str, ...]  # C distinct names, at most 1024
    pairs: NDArray[np.float32]  # [C, C] category above × category below, -8 … 8; "same category" is on its diagonal
    cosine: float = 0.0  # of similarity by embedding, -8 … 8; 0: embeddings do not count
    beam: int = 1  # 1: greedy; 8: a search of so many pages at once
    dimension: int = 0  # of the embeddings, at most 256; 0: none are read

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(str, self.categories)))
        object.__setattr__(self, "cosine", float(np.float32(self.cosine)))
        for name in _TENSORS:
            array = np.array(getattr(self, name), np.float32, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        count = len(self.categories)
        if len({*self.categories}) != count or "" in self.categories or count > MAX_CATEGORIES:
            shown = ", ".join(self.categories[:8])
            raise ValueError(
                f"categories are {count} names, {shown} …; expected at most {MAX_CATEGORIES} distinct ones"
            )
        first = self.attention
        if first.ndim != 1 or len(first) < 1 or not np.isfinite(first).all() or first.min() < 0 or first[0] != 1:
            raise ValueError(f"attention is {first.tolist()}; expected one number ≥ 0 for each slot, 1 of the first")
        if self.pairs.shape != (count, count):
            raise ValueError(
                f"pairs has shape {self.pairs.shape}; expected {(count, count)}, one for each two categories"
            )
        for name, values in (("pairs", self.pairs), ("cosine", np.array(self.cosine))):
            if not (np.abs(values) <= MAX_COEFFICIENT).all():
                wrong = values[~(np.abs(values) <= MAX_COEFFICIENT)][0]
                raise ValueError(f"{name} holds {wrong}; expected numbers from {-MAX_COEFFICIENT} to {MAX_COEFFICIENT}")
        if self.beam not in BEAMS:
            raise ValueError(f"beam is {self.beam!r}; expected one of {BEAMS}")
        if not 0 <= self.dimension <= MAX_DIMENSION or (self.cosine != 0) != (self.dimension > 0):
            raise ValueError(
                f"dimension is {self.dimension} and cosine {self.cosine:g}; expected the embeddings' length, 1 to "
                f"{MAX_DIMENSION}, if similarity counts, and 0 of both if it does not"
            )

    def __eq__(self, other: object) -> bool:
        """Equal bit for bit."""
        if not isinstance(other, PageTerms):
            return NotImplemented
        return self.record() == other.record() and all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes() for name in _TENSORS
        )

    def __hash__(self) -> int:
        return hash((self.root, self.categories, self.pairs.tobytes()))

    def check(self, tasks: tuple[str, ...], parents: tuple[int, ...], amounts: tuple[bool, ...]) -> None:
        """ValueError unless `root` is one of these tasks, without a parent and no amount."""
        roots = [t for t, parent, amount in zip(tasks, parents, amounts, strict=True) if parent < 0 and not amount]
        if self.root not in roots:
            raise ValueError(
                f"root of the page terms is {self.root!r}; expected a probability without a parent: {roots}"
            )

    def codes(self, names: NDArray[Any]) -> NDArray[np.int32]:
        """Places of categories by name, in the shape of ``names``; -1 of unknown ones."""
        places = {name: place for place, name in enumerate(self.categories)}
        return np.array([places.get(str(name), -1) for name in names.reshape(-1)], np.int32).reshape(names.shape)

    def record(self) -> dict[str, Any]:
        """The names and lists that policy.json holds."""
        return {name: getattr(self, name) for name in _LISTS} | {"slots": len(self.attention)}

    def tensors(self) -> dict[str, Tensor]:
        """The arrays that the file of tensors holds, by name there without the prefix of the block."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in _TENSORS}

    @classmethod
    def decode(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float32]]) -> "PageTerms":
        """Read page terms back from a `record` and their `tensors`."""
        fields: dict[str, Any] = {name: record[name] for name in _LISTS}
        fields |= {name: arrays[name] for name in _TENSORS}
        return cls(**fields)
