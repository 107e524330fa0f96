"""Makes the vectors anew: only if features are meant to have other bits."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from devtools.json_text import json_text
from pygrade.features import FeatureCenter, FeatureSchema, FeatureSet, default_schema, materialize
from pygrade.stores import open_store
from tests.features.events import MemoryLog, make_log
from tests.features.random_schemas import random_schema
from tests.features.vectors import BITS, FOLDER, WINDOW, arrays_of, attribute_tables, hash_of, load_log

SEEDS = (3, 5, 8, 11, 14, 17)  # schemas of many features; together of every kind


def odd_log() -> MemoryLog:
    """A log of `make_log` with what the random one lacks."""
    log = make_log(requests=160, users=9, items=25, seed=4, most=4)
    rng = np.random.default_rng(4)
    rows = len(log.events)
    request = log.events["request_id"].to_numpy()
    late = pl.Series(600_000 * rng.choice([0, 0, 0, 0, 20, 60, 10_000], rows))

    def per_request(values: list[Any]) -> pl.Series:
        chosen = rng.integers(len(values), size=int(request.max()) + 1)
        return pl.Series([values[place] for place in chosen[request]])

    battery = per_request([None, math.nan, math.inf, -math.inf, -0.0, 1e300, 0.25, 0.75])
    device = per_request([None, "", "phone", "größe", "tablet\0"])
    scenario = per_request([None, "", "feed", "search", "tab"])
    odd_play = pl.Series(rng.choice([-3.5, 0.0, 1e-9, 1e12, math.nan], rows).astype(np.float32))
    play = pl.when(pl.Series(rng.random(rows) < 0.2)).then(odd_play.fill_nan(None)).otherwise("m_play")
    events = log.events.with_columns(
        (pl.col("event_time") + late).alias("event_time"),
        pl.when(pl.col("timestamp").is_between(*WINDOW) & battery.abs().gt(1.0))
        .then(0.5)
        .otherwise(battery)
        .alias("c_battery"),
        device.alias("c_device"),
        scenario.alias("scenario"),
        play.alias("m_play"),
    )
    price = pl.Series([math.nan, -2.0, None, *rng.exponential(10.0, 19)])
    items = log.items().with_columns(price.alias("price"))
    return dataclasses.replace(log, events=events, item_table=items)


def vector_of(log: MemoryLog, schema: FeatureSchema) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        features = materialize(log, schema, Path(folder) / "features", WINDOW, rows=97)
        return arrays_of(features) | stored_attributes(log, features)


def stored_attributes(log: MemoryLog, features: FeatureSet) -> dict[str, Any]:
    """int64 [m, C] that a store holds of each entity, in order of the ids."""
    found = {}
    with open_store("memory:") as store:
        center = FeatureCenter(features.schema, features.fitted, store)
        center.publish(features.state(), log.users(), log.items(), "v1")
        for entity, table in attribute_tables(features.schema).items():
            ids = getattr(log, f"{entity}s")()[f"{entity}_id"].sort().to_numpy()
            rows = [value for value in store.get_many(table, ids) if value is not None]
            found[f"attributes.{entity}"] = np.array([np.frombuffer(row, np.int64) for row in rows], np.int64)
    return found


def main() -> None:
    log = odd_log()
    for name, frame in (("events", log.events), ("users", log.users()), ("items", log.items())):
        frame.write_parquet(FOLDER / f"{name}.parquet", compression="zstd")
    log = load_log()
    schemas = [default_schema(log), *(random_schema(log, seed) for seed in SEEDS)]
    bits = {}
    for number, schema in enumerate(schemas):
        (FOLDER / f"{number}.json").write_text(json_text(json.loads(schema.to_json())) + "\n")
        bits[str(number)] = {name: hash_of(values) for name, values in vector_of(log, schema).items()}
    BITS.write_text(json.dumps(bits, indent=1) + "\n")


if __name__ == "__main__":
    main()
