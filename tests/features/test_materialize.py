"""Materialized features against histories counted by hand, for every way of reading the log."""

import dataclasses
import math
import pickle
import shutil

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from pygrade.features import (
    Feature,
    FeatureEncoder,
    FeatureSchema,
    FeatureSet,
    FeatureState,
    SchemaError,
    materialize,
    state_before,
)
from pygrade.features.history import LogReader
from tests.features.replay import same_bits
from tests.refusals import refuses

HOUR = 3_600_000


def whole(features):
    (batch,) = features.batches(requests=10**9)
    return batch


def same_records(state, other):
    return all(
        same_bits(records.keys, other.records[name].keys) and same_bits(records.all(), other.records[name].all())
        for name, records in state.records.items()
    )


def repeat_exposure_sentence(log, row):
    """Shown rows whose feedback came strictly before the row's request."""
    events = log.events.filter(pl.col("position").is_not_null())
    return events.filter(pl.col("event_time") < row["timestamp"])


def rate(events, everything, column, prior=None, smoothing=20.0):
    """(s + m·g) / (n + m) by hand."""
    if prior is None:
        known = everything[column].drop_nulls()
        prior = float(known.mean()) if len(known) else 0.0
    known = events[column].drop_nulls()
    return (float(known.sum()) + smoothing * prior) / (len(known) + smoothing)


def test_every_kind_of_feature_is_what_counting_by_hand_gives(log, features):
    batch = whole(features)
    schema = features.schema
    authors = dict(zip(log.items()["item_id"], log.items()["author"], strict=True))
    author = pl.col("item_id").replace_strict(authors, default=None, return_dtype=pl.Int64)
    rows = log.events.with_columns(author.alias("author"))
    request = batch.row_request
    checked = 0
    for at in range(0, len(rows), 13):
        row = rows.row(at, named=True)
        r = request[at]
        past = repeat_exposure_sentence(log, row).with_columns(author.alias("author"))
        mine = past.filter(pl.col("user_id") == row["user_id"])
        item = past.filter(pl.col("item_id") == row["item_id"])
        dense = dict(zip(schema.request_features, batch.request_dense[r].tolist(), strict=True))
        dense |= dict(zip(schema.item_features, batch.item_dense[at].tolist(), strict=True))
        dense |= dict(zip(schema.cross_features, batch.cross_dense[at].tolist(), strict=True))
        step = 3 * HOUR
        start = (row["timestamp"] // step - 7) * step
        expected = {
            "user_count": len(mine),
            "user_log_count": math.log1p(len(mine)),
            "item_count": math.log1p(len(item)),
            "user_day_count": math.log1p(len(mine.filter(pl.col("event_time") >= start))),
            "item_day_count": math.log1p(len(item.filter(pl.col("event_time") >= start))),
            "user_click_rate": rate(mine, past, "y_click"),
            "item_order_rate": rate(item, past, "y_order"),
            "user_click_day_rate": rate(mine.filter(pl.col("event_time") >= start), past, "y_click"),
            "user_play_mean": rate(
                mine.with_columns(pl.col("m_play").log1p()), past.with_columns(pl.col("m_play").log1p()), "m_play"
            ),
            "c_battery": row["c_battery"],
            "hour_sin": math.sin(2 * math.pi * (row["timestamp"] // 60_000 % 1440) / 1440),
        }
        for name, events in (("user_recency", mine), ("user_click_recency", mine.filter(pl.col("y_click") > 0))):
            last = events["event_time"].max()
            expected[name] = math.nan if last is None else math.log1p((row["timestamp"] - last) / HOUR)
        if row["author"] is None:
            assert dense["by_author_count"] == dense["user_by_author_count"] == 0
        else:
            theirs = past.filter(pl.col("author") == row["author"])
            ours = theirs.filter(pl.col("user_id") == row["user_id"])
            expected["by_author_count"] = math.log1p(len(theirs))
            expected["by_author_click_rate"] = rate(theirs, past, "y_click")
            expected["user_by_author_click_rate"] = rate(ours, past, "y_click", rate(mine, past, "y_click"))
        for name, value in expected.items():
            assert dense[name] == pytest.approx(value, rel=2e-5, abs=2e-5, nan_ok=True), (at, name)
        clicks = mine.filter(pl.col("y_click") > 0).sort("event_time", "item_id", descending=True)["item_id"]
        assert batch.sequences[r].tolist() == (clicks.to_list() + [-1] * 20)[:20]
        checked += len(mine) > 0
    assert checked > 40  # histories were not all empty


def test_attributes_and_vocabularies(log, features):
    batch, schema = whole(features), features.schema
    items = {row["item_id"]: row for row in log.items().rows(named=True)}
    column = {name: at for at, name in enumerate(schema.item_id_features)}
    dense = {name: at for at, name in enumerate(schema.item_features)}
    ids: dict[str, dict[int, object]] = {name: {} for name in ("item_author", "item_brand", "item_tags_0")}
    for at, item_id in enumerate(batch.item_id.tolist()):
        item = items.get(item_id)
        price = batch.item_dense[at, dense["item_price"]]
        if item is None:
            assert math.isnan(price) and batch.item_ids[at, column["item_author"]] == 0
            continue
        assert price == np.float32(item["price"])
        tag = item["tags"][0] if item["tags"] else None
        for name, value in (("item_author", item["author"]), ("item_brand", item["brand"]), ("item_tags_0", tag)):
            found = int(batch.item_ids[at, column[name]])
            assert (found == 0) == (value is None), name
            assert ids[name].setdefault(found, value) == value  # one id a value
    for name, size in zip(schema.item_id_features, features.fitted.sizes["item_ids"], strict=True):
        assert batch.item_ids[:, column[name]].max() < size
    assert len(set(ids["item_brand"].values())) == len(ids["item_brand"]) == 3


def test_chunks_do_not_matter(log, features, tmp_path):
    again = materialize(log, features.schema, tmp_path / "again", rows=40)
    assert same_bits(whole(features), whole(again)) and same_records(features.state(), again.state())


def test_the_state_depends_on_the_set_of_events_alone_and_goes_on_from_a_file(log, features, tmp_path):
    schema = features.schema
    state, reader = FeatureState(schema), LogReader.of(log, schema)
    shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=3)
    for part in np.array_split(np.arange(len(shuffled)), 13):
        state.apply(reader.events(shuffled[part]))
    assert same_records(features.state(), state)
    cut = int(whole(features).timestamp[120])
    state_before(log, schema, cut).save(tmp_path / "state.safetensors")
    state = FeatureState.load(tmp_path / "state.safetensors", schema)
    state.apply(reader.events(log.events.filter(pl.col("event_time") >= cut)))
    assert same_records(features.state(), state)


def test_the_summary_says_what_is_known_and_what_tells_nothing(log, features, tmp_path, caplog):
    found = {record["feature"]: record for record in features.summary}
    batch = whole(features)
    assert set(found) == {f.name for f in features.schema.features if f.kind != "sequence"}
    for name in ("user_recency", "item_price", "user_by_author_count"):
        values = batch.column(name).astype(np.float64)
        assert found[name]["known"] == pytest.approx(np.isfinite(values).mean())
        moments = np.nanmean(values), np.nanstd(values)
        assert (found[name]["mean"], found[name]["std"]) == (pytest.approx(moments[0]), pytest.approx(moments[1]))
    assert 0 < found["user_recency"]["known"] < 1
    assert found["item_author"]["known"] == pytest.approx((batch.column("item_author") > 0).mean())
    assert found["item_brand"]["values"] == 3
    dull = dataclasses.replace(
        log, events=log.events.with_columns(pl.lit(0.5).alias("c_battery"), pl.lit(None, pl.String).alias("c_device"))
    )
    caplog.set_level("INFO", "pygrade")
    materialize(dull, features.schema, tmp_path / "dull")
    (never,) = [line for line in caplog.messages if "never known" in line]
    (one,) = [line for line in caplog.messages if "of one value" in line]
    assert "c_device" in never and "c_battery" in one and "user_count" not in never + one


def test_only_the_window_is_learned_from(log, features, tmp_path):
    times = whole(features).timestamp
    window = (int(times[60]), int(times[200]))
    inside = materialize(log, features.schema, tmp_path / "inside", window)
    part = next(inside.batches(*window, requests=10**9))
    assert len(part) == ((times >= window[0]) & (times < window[1])).sum()
    for name in ("request_dense", "item_dense", "cross_dense"):
        values = getattr(part, name).astype(np.float64)
        np.testing.assert_allclose(inside.fitted.mean[name], np.nanmean(values, 0), rtol=1e-9)
        spread = np.nanstd(values, 0)
        np.testing.assert_allclose(inside.fitted.std[name], np.where(spread > 1e-6, spread, 1.0), rtol=1e-6)
    seen = np.unique(part.item_id, return_counts=True)
    assert inside.fitted.vocabularies["item_id"].tolist() == seen[0][seen[1] >= 2].tolist()
    # what comes later, changed, changes nothing of what was learned
    later = pl.col("timestamp") >= window[1]
    changed = dataclasses.replace(
        log,
        events=log.events.with_columns(
            pl.when(later).then(pl.col("item_id") + 1).otherwise("item_id").alias("item_id"),
            pl.when(later).then(pl.lit(1e6)).otherwise("c_battery").alias("c_battery"),
        ),
    )
    assert window[1] < log.events["timestamp"].max()
    other = materialize(changed, features.schema, tmp_path / "changed", window)
    for group in ("mean", "std", "vocabularies"):
        for name, values in getattr(inside.fitted, group).items():
            assert same_bits(values, getattr(other.fitted, group)[name]), (group, name)


def test_batches_partition_the_requests(log, features, tmp_path):
    small, everything = materialize(log, features.schema, tmp_path / "small", rows=40), whole(features)
    ordered = list(small.batches(requests=32))
    assert [len(b) for b in ordered] == [32] * 9 + [12]
    for name in ("request_id", "item_dense", "scenario"):
        assert same_bits(np.concatenate([getattr(b, name) for b in ordered]), getattr(everything, name)), name
    shuffled, again = (
        np.concatenate([b.request_id for b in small.batches(requests=32, shuffle=1)]).tolist() for _ in range(2)
    )
    assert shuffled == again != everything.request_id.tolist() and sorted(shuffled) == sorted(everything.request_id)
    assert small.num_requests == 300 and small.num_rows == len(log.events)


def test_model_inputs_are_finite_and_normalized(features):
    dense, ids = whole(features).model_inputs()
    names = features.schema.request_features + features.schema.item_features + features.schema.cross_features
    assert dense.shape[1] == len(names) and dense.dtype == np.float32 and ids.dtype == np.int64
    assert np.isfinite(dense).all() and np.abs(dense).max() <= 10
    sent = pickle.loads(pickle.dumps(features.fitted))  # to another process, without what the core holds
    assert sent.to_bytes() == features.fitted.to_bytes()
    at = names.index("by_author_count")
    assert abs(dense[:, at].mean()) < 1e-3 and abs(dense[:, at].std() - 1) < 1e-3


def test_errors_name_what_does_not_fit(log, features, tmp_path):
    def events(*columns):
        return dataclasses.replace(log, events=log.events.with_columns(*columns))

    def items(table):
        return dataclasses.replace(log, item_table=table)

    for bad, message in (
        (items(None), "no table items"),
        (items(log.items().drop("price")), "items.price, which is missing"),
        (items(log.items().cast({"author": pl.String})), r"items.author as int; it now is String \(type drift\)"),
        (events(pl.col("c_battery").cast(pl.String)), r"c_battery as float; it now is String \(type drift\)"),
        (dataclasses.replace(log, events=log.events.drop("m_play")), "events.m_play, which is missing"),
        (dataclasses.replace(log, events=log.events.drop("scenario")), "events.scenario, which is missing"),
        (dataclasses.replace(log, tasks=("click",)), "no task 'order'"),
        (dataclasses.replace(log, events=log.events.reverse()), "not in order of time"),
        (events(pl.lit(None, pl.Float32).alias("y_click")), "y_click is null on a shown row"),
        (events(pl.col("timestamp").alias("event_time") - 1), "request 3 is before its timestamp"),
        (events(pl.lit(math.inf).alias("m_play")), "m_play holds an infinite number"),
    ):
        refuses(SchemaError, message, materialize, bad, features.schema, tmp_path / "out")
    refuses(SchemaError, "training window", materialize, log, features.schema, tmp_path / "out", (0, 1))
    assert list(tmp_path.iterdir()) == []  # nothing half done


def test_a_wrong_declaration_is_named():
    """All rules are the core's, whose tests have them."""
    good = {"name": "ctr", "entity": "user", "kind": "rate", "source": "y_click", "key": ("user_id",)}
    assert Feature(**good).record == good
    with pytest.raises(SchemaError, match=r"^feature \"ctr\": 'kind' is \"magic\"; expected one of dense, categorical"):
        Feature(**good | {"kind": "magic"})
    with pytest.raises(
        SchemaError, match=r"^feature \"ctr\": key names \"weather\"; expected user_id, item_id, scenario"
    ):
        Feature(**good | {"key": ("weather",)})


def test_columns_by_name(features):
    batch = whole(features)
    assert batch.column("user_count").shape == (300,) and batch.column("item_count").shape == batch.item_id.shape
    assert batch.column("item_brand").max() == 3 and batch.column("hour_sin").dtype == np.float32
    refuses(SchemaError, "'magic'.* hour_sin, ", batch.column, "magic")


def test_a_schema_of_ones_own(log, tmp_path):
    """Features over users' attributes, scenarios, several windows, two sequences, measures as they are."""
    own = (
        Feature("click_rate_of_level", "user", "rate", "y_click", ("user.level",), smoothing=0.0),
        Feature("scenario_rate", "context", "rate", "y_order", ("scenario",)),
        Feature("all_rate", "context", "rate", "y_click"),
        Feature("clicks", "user", "count", "y_click", ("user_id",)),
        Feature("clicks_6h", "user", "count", "y_click", ("user_id",), window_hours=6),
        Feature("play", "item", "rate", "m_play", ("item_id",), smoothing=1.0),
        Feature("play_2d", "item", "rate", "m_play", ("item_id",), window_hours=48),
        Feature("seen_in_scenario", "cross", "count", key=("scenario", "item_id")),
        Feature("level_by_brand", "cross", "rate", "y_click", ("user.level", "item.brand")),
        Feature("viewed", "user", "sequence", length=5),
        Feature("ordered", "user", "sequence", "y_order", length=3),
        Feature("city", "user", "categorical", "city"),
        Feature("price_rate", "item", "rate", "y_click", ("item.price",)),
        Feature("first_tag_clicks", "item", "count", "y_click", ("item.tags",)),
    )
    schema = FeatureSchema.of(own, log)
    assert schema.dtypes == {
        "users.level": "int",
        "users.city": "str",
        "items.brand": "str",
        "items.tags": "list[str]",
        "items.price": "float",
    }
    batch = whole(materialize(log, schema, tmp_path / "own", rows=100))
    assert batch.sequences.shape == (300, 8)
    with pytest.raises(SchemaError, match=r"the log has no users\.shoe_size, which a feature reads"):
        FeatureSchema.of([Feature("shoe", "user", "dense", "shoe_size")], log)


def test_schema_errors_and_round_trip(features):
    schema = features.schema
    assert FeatureSchema.from_json(schema.to_json()) == schema
    assert FeatureSchema.from_json(schema.to_json()).hash == schema.hash
    ctr = Feature("ctr", "user", "rate", "y_like", ("user_id",))
    assert dataclasses.replace(schema, utc_offset_hours=8.0).hash != schema.hash
    refuses(SchemaError, 'feature "ctr": it reads y_like; the tasks are click', FeatureSchema, (ctr,), ("click",))
    for text in (
        '{"tasks": []}',
        '{"features": [], "tasks": ["click"], "dtypes": null, "utc_offset_hours": 0}',
        '{"features": [], "tasks": ["click"], "dtypes": {}, "utc_offset_hours": "east"}',
    ):
        refuses(SchemaError, "not a feature schema", FeatureSchema.from_json, text)


def test_damage_is_named(log, features, tmp_path):
    path, hash_ = tmp_path / "set", {"schema": features.schema.hash}
    other = dataclasses.replace(features.schema, utc_offset_hours=8.0)
    materialize(log, other, tmp_path / "other")

    def cut(name, size):
        (path / name).write_bytes((path / name).read_bytes()[:size])

    def no_fitted():
        safetensors.numpy.save_file({"mean.x": np.zeros(1)}, path / "fitted.safetensors", hash_)

    for damage, act, message in (
        (lambda: cut("fitted.safetensors", 100), None, "fitted.safetensors is truncated or corrupt"),
        (lambda: cut("index.json", 5), None, "index.json is truncated"),
        (lambda: other.save(path / "schema.json"), None, "the parts are of"),
        (no_fitted, None, "holds no fitted features: "),
        (lambda: (tmp_path / "other" / "state.safetensors").rename(path / "state.safetensors"),
         FeatureSet.state, r"state.safetensors is of schema \w+; expected"),
        (lambda: cut("part-00000.safetensors", -8),
         lambda opened: list(opened.batches()), "part-00000.safetensors is truncated or corrupt"),
    ):  # fmt: skip
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(features.path, path)
        damage()
        with pytest.raises(SchemaError, match=message):
            opened = FeatureSet.open(path)
            assert act is not None
            act(opened)
    refuses(FileNotFoundError, "no feature set", FeatureSet.open, tmp_path / "nowhere")
    assert FeatureEncoder.load(features.path / "fitted.safetensors").schema == features.schema
