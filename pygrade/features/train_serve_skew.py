"""Train/serve skew: features that a server reads against those that a model was trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.features.batch import FeatureBatch


@dataclass(frozen=True)
class FeatureSkew:
    """One feature offline against online."""

    feature: str
    values: int  # number of values compared
    equal: float  # share with the same bits (all NaN are the same)
    max_difference: float  # largest |offline − online|; inf if one side is unknown; of ids and sequences 0 or inf


class Skew:
    """Compares batches of the same requests, read offline and online, feature by feature."""

    def __init__(self) -> None:
        self._features: dict[str, tuple[int, int, float]] = {}

    def add(self, offline: FeatureBatch, online: FeatureBatch) -> None:
        """ValueError if the batches are not the same requests with the same items."""
        for name in ("user_id", "timestamp", "offsets", "item_id"):
            if not np.array_equal(getattr(offline, name), getattr(online, name)):
                raise ValueError(f"online has another {name} than offline; expected the same requests and items")
        names = {**offline.names, "sequences": ("sequences",) * offline.sequences.shape[1]}
        for group, columns in names.items():
            before, after = getattr(offline, group), getattr(online, group)
            if before.shape != after.shape:
                raise ValueError(f"online has {group} of shape {after.shape}; offline {before.shape}")
            for column, feature in enumerate(columns):
                self._compare(feature, before[:, column], after[:, column])

    def _compare(self, feature: str, a: NDArray[Any], b: NDArray[Any]) -> None:
        if a.dtype.kind == "f":
            unknown = np.isnan(a) & np.isnan(b)
            equal = unknown | (a.view(np.uint32) == b.view(np.uint32))
            apart = np.where(unknown, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
            apart[np.isnan(apart)] = np.inf
        else:
            equal = a == b
            apart = np.where(equal, 0.0, np.inf)
        values, same, largest = self._features.get(feature, (0, 0, 0.0))
        largest = max(largest, float(apart.max(initial=0.0)))
        self._features[feature] = (values + len(a), same + int(equal.sum()), largest)

    @property
    def exact(self) -> bool:
        """Return whether every value had the same bits; False without values."""
        return bool(self._features) and all(values == same for values, same, _ in self._features.values())

    def features(self) -> list[FeatureSkew]:
        """All features, those that differ most often first."""
        skews = [
            FeatureSkew(name, values, same / max(values, 1), largest)
            for name, (values, same, largest) in self._features.items()
        ]
        return sorted(skews, key=lambda skew: (skew.equal, -skew.max_difference, skew.feature))
