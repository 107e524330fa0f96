"""Pages that were ranked offline beside those of serving: which are equal, where the features differ, the times."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.features import FeatureBatch
from pygrade.features.train_serve_skew import Skew
from pygrade.serving.pipeline import STEPS, ServedPage

_NAMED = 20  # requests with different pages that the record names


@dataclass(frozen=True)
class Offline:
    """One request, ranked offline."""

    features: FeatureBatch
    predictions: NDArray[np.float32]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    weights: NDArray[np.float32]


def compare(offline: list[Offline], online: list[tuple[ServedPage, FeatureBatch]]) -> dict[str, Any]:
    """The record of `serve_check` for these requests."""
    skew, equal, different = Skew(), 0, []
    same = {"candidates": 0, "predictions": 0}
    for one, (other, features) in zip(offline, online, strict=True):
        skew.add(one.features, features)
        if features is other.features:
            same["candidates"] += 1
            same["predictions"] += one.predictions.tobytes() == other.predictions.tobytes()
        pages = ((one.items, other.items), (one.scores, other.scores), (one.weights, other.page.weights[0]))
        if all(a.tobytes() == b.tobytes() for a, b in pages) and not other.degraded:
            equal += 1
        else:
            different.append({"user": int(other.features.user_id[0]), "timestamp": int(other.features.timestamp[0])})
    steps: dict[str, list[float]] = {name: [page.seconds[name] for page, _ in online] for name in STEPS}
    steps["in all"] = [sum(page.seconds.values()) for page, _ in online]
    return {
        "requests": len(online),
        "equal_pages": equal,
        "equal_candidates": same["candidates"],
        "equal_predictions": same["predictions"],
        "different": different[:_NAMED],
        "skew": {
            entry.feature: {
                "values": entry.values,
                "equal": entry.equal,
                "max_difference": entry.max_difference if np.isfinite(entry.max_difference) else None,
            }
            for entry in skew.features()
        },
        "latency": {
            name: {"p50_ms": 1e3 * float(np.percentile(times, 50)), "p99_ms": 1e3 * float(np.percentile(times, 99))}
            for name, times in steps.items()
        },
    }
