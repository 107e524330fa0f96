"""A shop whose feedback depends on attributes alone: each task on one, of items that are shown so seldom that nothing
is learned of an item by itself.

``click``: the item's embedding, in one direction for all users and in that of the user's. ``like``: the item has the
tag "red". ``cart``: its brand is "acme". ``order``: its price is low, or, for users of the plan "pro", high. The log's
own predictions know none of it.
"""

import numpy as np
import polars as pl

from pygrade.data.event_log import EventSource

DAY, START = 86_400_000, 1_700_000_000_000
TASKS = ("click", "like", "cart", "order")
USERS, ITEMS, SHOWN, DIMENSIONS = 150, 4_000, 8, 6
SOURCE = EventSource(
    name="shop",
    license="none",
    tasks=TASKS,
    task_values=(1.0, 1.0, 1.0, 1.0),
    users={"plan": "categorical", "age": "dense", "taste": "embedding"},
    items={"brand": "categorical", "tags": "list", "cost": "dense", "text": "embedding", "made": "time"},
    context={"device": "categorical"},
    predictions=TASKS,
    category="brand",
    price="cost",
)


def tables(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Users and items."""
    rng = np.random.default_rng(seed)
    taste, text = rng.normal(size=(USERS, DIMENSIONS)), rng.normal(size=(ITEMS, DIMENSIONS))
    words = rng.choice(["red", "blue", "cotton", "summer", "wool"], (ITEMS, 3))
    users = pl.DataFrame(
        {
            "user_id": np.arange(USERS) + 100,
            "plan": rng.choice(["free", "pro", "team"], USERS, p=[0.6, 0.3, 0.1]),
            "age": [None if i % 9 == 0 else float(a) for i, a in enumerate(rng.integers(18, 80, USERS))],
            "taste": [None if i % 10 == 0 else row for i, row in enumerate(taste.tolist())],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": np.arange(ITEMS) + 1,
            "brand": [None if i % 15 == 0 else b for i, b in enumerate(rng.choice(["acme", "umbra", "zeta"], ITEMS))],
            "tags": [None if i % 20 == 0 else ", ".join(row) for i, row in enumerate(words.tolist())],
            "cost": np.exp(rng.normal(2.0, 1.0, ITEMS)).round(2),
            "text": text,
            "made": START - rng.integers(0, 400, ITEMS) * DAY,
        }
    )
    return users, items


def import_shop(directory, writer, config=None, requests: int = 2_400) -> None:
    """An importer."""
    rng = np.random.default_rng(1)
    users, items = tables()
    writer.add_attributes("user", users)
    writer.add_attributes("item", items)
    user = rng.integers(0, USERS, requests)
    item = np.stack([rng.choice(ITEMS, SHOWN, replace=False) for _ in range(requests)])
    rows = item.ravel()
    zeros = [0.0] * DIMENSIONS
    taste = np.array([row or zeros for row in users["taste"].to_list()])
    text = np.array(items["text"].to_list())
    pro = (users["plan"] == "pro").to_numpy()[user][:, None]
    dear = np.log(items["cost"].to_numpy())[item] - 2.0
    logits = {
        "click": np.einsum("rd,rnd->rn", taste[user] / 2 + np.eye(DIMENSIONS)[0], text[item]) - 1.0,
        "like": np.where(items["tags"].str.contains("red").fill_null(False).to_numpy()[item], 0.5, -2.0),
        "cart": np.where((items["brand"] == "acme").fill_null(False).to_numpy()[item], 0.5, -2.0),
        "order": np.where(pro, dear, -1.5 * dear) - 1.0,
    }
    time = START + np.repeat(np.arange(requests) * (30 * DAY // requests), SHOWN)
    columns = {
        "request_id": np.repeat(np.arange(requests), SHOWN),
        "user_id": users["user_id"].to_numpy()[np.repeat(user, SHOWN)],
        "item_id": items["item_id"].to_numpy()[rows],
        "timestamp": time,
        "event_time": time + 60_000,
        "position": np.tile(np.arange(SHOWN), requests),
        "c_device": np.repeat(rng.choice(["phone", "web"], requests), SHOWN),
    }
    for task, logit in logits.items():
        event = rng.random(logit.shape) < 1.0 / (1.0 + np.exp(-logit))
        columns |= {f"y_{task}": event.ravel().astype(float), f"p_{task}": rng.uniform(0.15, 0.4, len(rows))}
    writer.add_events(pl.DataFrame(columns))
    writer.finish(SOURCE)
