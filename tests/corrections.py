"""Corrections of random coefficients, and requests for them."""

from typing import Any

import numpy as np

from pygrade.policy import Correction
from pygrade.reference.correction import in_order

TASKS, FEATURES, ITEMS = ("click", "cart", "order", "like", "spend"), ("hour", "age", "visits"), ("price", "size")
PARENTS, AMOUNTS = (-1, 0, 1, 0, -1), (False, False, False, False, True)


def random_correction(seed: int = 0, scale: float = 0.2, **fields: Any) -> Correction:
    """Of the tasks above, or of others; scale: of the coefficients; fields: those to set."""
    tasks, features = fields.get("tasks", TASKS), fields.get("features", FEATURES)
    items, indicators = fields.get("items", ITEMS), fields.get("indicators", (0, 2) if len(features) > 2 else ())
    parents = fields.get("parents", PARENTS[: len(tasks)])
    rng, count, trees = np.random.default_rng(seed), len(tasks), fields.pop("trees", 0)
    inputs, variables = len(features) + len(indicators), count + len(items)
    base = np.array([-3.0 if s < 0 else -1.0 for s in parents])
    options = {
        "tasks": tasks,
        "features": features,
        "items": items,
        "parents": parents,
        "amounts": AMOUNTS[:count],
        "median": rng.normal(size=len(features)),
        "indicators": indicators,
        "x_mean": rng.normal(size=inputs) * 0.3,
        "x_std": rng.uniform(0.5, 2, inputs),
        "l_mean": np.concatenate([base, np.zeros(len(items))]),
        "l_std": rng.uniform(0.5, 1.5, variables),
        "weights": scale * rng.normal(size=(count, 1 + inputs + variables, 1 + variables)),
        "form": "",
        "map_mean": base,
        "map_std": rng.uniform(0.5, 2, count),
        "map_knots": np.sort(rng.normal(size=(count, 5)), 1),
        "map_weights": rng.uniform(-0.15, 0.3, (count, 7)),
    }
    if trees:  # a chain or a balanced tree of up to eight leaves in turn
        chain, balanced = [255 & ~(1 << k) for k in range(7)], [0xFE, 0xFC, 0xFB, 0xF0, 0xEF, 0xCF, 0xBF]
        masks = np.array([chain if g % 2 else balanced for g in range(trees)])
        masks[::3, 4:] = 255
        options |= {
            "tree_inputs": rng.integers(0, 3 * variables + inputs, (trees, 7)),
            "tree_thresholds": rng.normal(size=(trees, 7)),
            "tree_masks": masks,
            "tree_leaves": 0.1 * rng.normal(size=(trees, 8)),
        }
    return Correction(**options | fields)


def random_requests(correction: Correction, sizes: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """context [R, F] with some values unknown, predictions [M, T], offsets [R + 1] and items [M, I]."""
    rng, rows = np.random.default_rng(seed), sum(sizes)
    predictions = np.empty((rows, len(correction.tasks)), np.float32)
    for t in in_order(correction.parents):
        parent = correction.parents[t]
        largest = 40 if correction.amounts[t] else 1 if parent < 0 else predictions[:, parent]
        predictions[:, t] = largest * rng.beta(1, 6 if parent < 0 else 2, rows)
    context = (2 * rng.normal(size=(len(sizes), len(correction.features)))).astype(np.float32)
    context[rng.uniform(size=context.shape) < 0.2] = np.nan
    items = rng.normal(size=(rows, len(correction.items))).astype(np.float32)
    items[rng.uniform(size=items.shape) < 0.2] = np.nan
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return {"context": context, "predictions": predictions, "offsets": offsets, "items": items}
