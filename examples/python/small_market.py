"""small_market: impressions of a made-up market, on which the examples beside it train their models.

Half of the customers are members, who order six times as often as others at the same match. The models of the examples
don't see who is one; the log does.
"""

import numpy as np

MODEL_INPUTS = ("quality", "price", "match")  # of a candidate
CANDIDATES, SLOTS = 20, 8


def impressions(requests: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns with a row per candidate; slot is NaN, and feedback 0, where it was not shown. In order of time."""
    rng = np.random.default_rng(seed)
    shape = requests, CANDIDATES
    quality, price = rng.normal(size=(2, 500))
    item = np.argsort(rng.random((requests, 500)), 1)[:, :CANDIDATES]
    match = rng.normal(size=shape)
    customer = rng.integers(0, requests // 2 + 1, (requests, 1))
    member = customer % 2 == 0
    click = _chance(-1.0 + quality[item] + 0.5 * match)
    order = click * _chance(-2.0 - quality[item] + match - 0.5 * price[item]) * np.where(member, 1.7, 0.3)
    # Pages are by quality, but for one in twenty, which is shuffled; the eighth slot is looked at one time in three.
    shuffled = rng.random((requests, 1)) < 0.05
    slot = np.argsort(np.argsort(-np.where(shuffled, rng.random(shape), quality[item] + 0.5 * match), 1), 1)
    seen = (slot < SLOTS) & (rng.random(shape) < (slot + 1.0) ** -0.5)
    chance = rng.random(shape)
    table = {
        "request": np.arange(requests)[:, None],
        "customer": customer,
        "member": member,
        "at": 1_767_225_600 + 60 * np.arange(requests)[:, None],  # seconds
        "page": np.where(shuffled, "shuffle", "none"),
        "item": item,
        "quality": quality[item],
        "price": price[item],
        "match": match,
        "slot": np.where(slot < SLOTS, slot + 1.0, np.nan),
        "clicked": seen & (chance < click),
        "ordered": seen & (chance < order),  # then it is clicked, too
    }
    return {name: np.broadcast_to(column, shape).reshape(-1) for name, column in table.items()}


def split(table: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The earlier third of the requests, for a model, and the later ones, which it has to predict."""
    early = table["request"] < table["request"].max() / 3
    return tuple({name: column[part] for name, column in table.items()} for part in (early, ~early))


def _chance(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
