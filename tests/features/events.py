"""Small logs of raw events with ties, late feedback and rows that were not shown, which break naive histories."""

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass
class MemoryLog:
    """An event log in memory."""

    events: pl.DataFrame
    user_table: pl.DataFrame | None = None
    item_table: pl.DataFrame | None = None
    tasks: tuple[str, ...] = ("click", "order")

    def scan(self):
        return self.events.lazy()

    def users(self):
        return self.user_table

    def items(self):
        return self.item_table

    def chunks(self, rows=200_000):
        starts = np.flatnonzero(np.append(True, np.diff(self.events["request_id"].to_numpy()) != 0))
        ends = np.append(starts[1:], len(self.events))
        at = 0
        while at < len(self.events):
            inside = ends[(ends > at) & (ends <= at + rows)]
            stop = int(inside[-1]) if len(inside) else int(ends[ends > at][0])
            yield self.events[at:stop]
            at = stop


def make_log(requests=300, users=12, items=40, seed=0, most=6, step=600_000):
    """Requests at times that often coincide; feedback up to some requests later, a tenth of it at the very instant."""
    rng = np.random.default_rng(seed)
    time = 1_700_000_000_000 + np.sort(rng.integers(0, requests // 2 + 1, requests)) * step
    sizes = rng.integers(1, most + 1, requests)
    request = np.repeat(np.arange(requests), sizes)
    n = len(request)
    position = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shown = rng.random(n) < 0.85
    delay = rng.integers(0, 5, n) * (step // 2) * (rng.random(n) < 0.9)
    click = (rng.random(n) < 0.4) & shown
    order = click & (rng.random(n) < 0.3)
    blank = np.where(shown, 0.0, np.nan)
    columns = {
        "request_id": request * 7 + 3,
        "user_id": rng.integers(0, users, requests)[request] * 11 - 20,
        "item_id": rng.integers(0, items, n) * 13 + 5,
        "timestamp": time[request],
        "event_time": time[request] + delay,
        "position": np.where(shown, position, -1).astype(np.int32),
        "scenario": np.array(["feed", "search", "tab"])[rng.integers(0, 3, requests)][request],
        "c_battery": rng.random(requests)[request],
        "c_device": np.array(["phone", "tablet", "größe"])[rng.integers(0, 3, requests)][request],
        "m_play": np.where(rng.random(n) < 0.8, rng.exponential(30.0, n), np.nan).astype(np.float32) + blank,
        "y_click": (click + blank).astype(np.float32),
        "y_order": (order + blank).astype(np.float32),
    }
    events = pl.DataFrame(columns).with_columns(
        pl.when(pl.col("position") >= 0).then("position").alias("position"),
        pl.col("m_play", "y_click", "y_order").fill_nan(None),
    )
    other = np.random.default_rng(seed + 1)

    def vectors(rows, length):
        known = other.random(rows) < 0.8
        return [v if k else None for v, k in zip(other.normal(size=(rows, length)).tolist(), known, strict=True)]

    user_table = pl.DataFrame(
        {
            "user_id": np.arange(users) * 11 - 20,
            "level": rng.integers(0, 4, users),
            "age": np.where(rng.random(users) < 0.8, rng.random(users) * 50, np.nan),
            "city": rng.choice(["a", "b", "c"], users),
            "taste": vectors(users, 3),
        },
        schema_overrides={"taste": pl.List(pl.Float32)},
    ).head(users - 2)
    item_table = pl.DataFrame(
        {
            "item_id": np.arange(items) * 13 + 5,
            "author": [int(a) if a else None for a in rng.integers(0, 7, items)],
            "brand": rng.choice(["x", "y", "z"], items),
            "price": rng.exponential(10.0, items),
            "tags": [[f"t{t}" for t in rng.integers(0, 9, k)] for k in rng.integers(0, 4, items)],
            "uploaded": 1_700_000_000_000 - rng.integers(-5, 1000, items) * step,
            "text": vectors(items, 4),
            "words": [None if i % 5 == 0 else f" red , w{i % 3};w{i % 2}|" for i in range(items)],
        },
        schema_overrides={"tags": pl.List(pl.String), "text": pl.List(pl.Float32)},
    ).head(items - 3)
    return MemoryLog(events, user_table, item_table)
