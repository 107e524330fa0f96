"""Ranked pages as plain records, for JSON and the terminal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.serving.page import Page


def describe_pages(page: Page, titles: list[str], static: NDArray[np.float32] | None = None) -> list[dict[str, Any]]:
    """One record per request: title, tasks, weights, their source, and items with score and contributions."""
    records = []
    for b, title in enumerate(titles):
        places = [int(i) for i in page.indices[b] if i >= 0]
        records.append(
            {
                "title": title,
                "tasks": list(page.tasks),
                "weights": page.weights[b].astype(float).tolist(),
                "fallback": bool(page.fallback[b]),
                "explored": bool(page.explored[b]),
                "why": explain(page, b, static),
                "items": [
                    {
                        "item_id": page.item_id[int(page.offsets[b]) + place].item(),
                        "score": float(page.values[b, slot]),
                        "contributions": page.contributions[b, slot].astype(float).tolist(),
                    }
                    for slot, place in enumerate(places)
                ],
            }
        )
    return records


def explain(page: Page, request: int, static: NDArray[np.float32] | None) -> str:
    """The source of a request's weights and their largest differences from the static weights, as text."""
    if page.fallback[request]:
        return "features are missing: static weights"
    source = "drawn from the policy's Dirichlet" if page.explored[request] else "chosen by the policy"
    if static is None:
        return source
    shift = 100 * (page.weights[request] - static)
    order = np.argsort(-np.abs(shift))[:3]
    moved = [f"{page.tasks[t]} {shift[t]:+.1f}" for t in order if abs(shift[t]) >= 0.05]
    return f"{source}; points from best static: {', '.join(moved) or 'none'}"
