"""A shop's table of requests, with names of its own."""

import datetime

import numpy as np

CANDIDATES, PAGE = 10, 5


def shop(requests: int = 200, seed: int = 0) -> dict[str, list]:
    """Columns of a shop: slots from 1, empty where not shown; booleans; dates; numbers and text of the request."""
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), CANDIDATES)
    rows = len(request)
    quality = rng.normal(size=rows)
    click = 1 / (1 + np.exp(1.2 - quality))
    buy = 1 / (1 + np.exp(2.0 - quality - rng.normal(0, 0.5, rows)))
    order = np.argsort(-(click + buy + rng.normal(0, 0.2, rows)).reshape(requests, -1), axis=1)
    slot = np.argsort(order, axis=1).ravel()
    shown = slot < PAGE
    examined = shown * (slot + 1.0) ** -0.7
    start = datetime.datetime(2026, 3, 1)
    of_request = {
        "session_id": [f"s{number:05d}" for number in range(requests)],
        "customer": [f"c{number}" for number in rng.integers(0, requests // 3, requests)],
        "device": rng.choice(["app", "web"], requests).tolist(),
        "at": [start + datetime.timedelta(minutes=11 * number) for number in range(requests)],
        "buyer_score": rng.random(requests).round(4).tolist(),
        "hour": rng.integers(0, 24, requests).tolist(),
    }
    items = rng.permuted(np.tile(np.arange(1000, 1060), (requests, 1)), axis=1)[:, :CANDIDATES].ravel()
    return {name: np.repeat(np.array(values, object), CANDIDATES).tolist() for name, values in of_request.items()} | {
        "product_id": items.tolist(),
        "rank": [int(s) + 1 if seen else None for s, seen in zip(slot, shown, strict=True)],
        "price": rng.uniform(5, 50, rows).round(2).tolist(),
        "pred_click": click.tolist(),
        "pred_buy": buy.tolist(),
        "clicked": (rng.random(rows) < click * examined).tolist(),
        "bought": (rng.random(rows) < buy * examined).tolist(),
    }
