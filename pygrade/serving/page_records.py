"""Ranked pages as plain records, for JSON and the terminal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.serving.page import Page


def describe_pages(page: Page, titles: list[str], static: NDArray[np.float32] | None = None) -> list[dict[str, Any]]:
    """One record per request: title, tasks, weights, their source, and items with score and contributions.

    Of a mixture also its trust, baseline and verdict, and what the baseline contributed to each item. Where the weights
    rank nothing (``weighs`` is false), contributions are the amounts that the baseline, or what is mixed with it, adds.
    """
    records = []
    mixed = 0.0 < page.trust < 1.0
    for b, title in enumerate(titles):
        places = [int(i) for i in page.indices[b] if i >= 0]
        records.append(
            {
                "title": title,
                "tasks": list(page.tasks),
                "weighs": page.takes_network,
                "weights": page.weights[b].astype(float).tolist(),
                "fallback": bool(page.fallback[b]),
                "explored": bool(page.explored[b]),
                "why": explain(page, b, static),
                "trust": page.trust,
                "baseline": page.baseline,
                "verdict": page.verdict,
                "items": [
                    {
                        "item_id": page.item_id[int(page.offsets[b]) + place].item(),
                        "score": float(page.values[b, slot]),
                        "contributions": page.contributions[b, slot].astype(float).tolist(),
                        **({"baseline": float(page.baseline_contribution[b, slot])} if mixed else {}),
                    }
                    for slot, place in enumerate(places)
                ],
            }
        )
    return records


def explain(page: Page, request: int, static: NDArray[np.float32] | None) -> str:
    """The source of a request's weights, their largest differences from the static weights, what they are mixed with,
    and what the correction did, as text."""
    moved = page.explain_correction(request)
    if page.trust == 0.0 and not page.by_values:
        alone = f"ranked by {page.baseline} alone (verdict: {page.verdict})"
        return f"{alone}; {moved}" if moved else alone
    parts = [_source(page, request, static) if page.takes_network else f"ranked by {page.ranked_by[0].name}"]
    parts += [moved] if moved else []
    if page.multipliers is not None and (page.multipliers[request] != 1.0).any():
        pairs = zip(page.tasks, page.multipliers[request], strict=True)
        parts.append("values: " + ", ".join(f"{task} × {u:g}" for task, u in pairs if u != 1.0))
    if page.baseline and not page.by_values:
        parts.append(f"trust {page.trust:.2f} against {page.baseline} (verdict: {page.verdict})")
    return "; ".join(parts)


def _source(page: Page, request: int, static: NDArray[np.float32] | None) -> str:
    if page.fallback[request]:
        return "features are missing: static weights"
    source = "drawn from the policy's Dirichlet" if page.explored[request] else "chosen by the policy"
    if static is None:
        return source
    shift = 100 * (page.weights[request] - static)
    order = np.argsort(-np.abs(shift))[:3]
    moved = [f"{page.tasks[t]} {shift[t]:+.1f}" for t in order if abs(shift[t]) >= 0.05]
    return f"{source}; points from best static: {', '.join(moved) or 'none'}"
