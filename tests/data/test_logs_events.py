"""Logs in the contract as raw events."""

import tracemalloc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pygrade.config.data import LogsEventConfig
from pygrade.config.training import HistoryConfig
from pygrade.data.events import EventSource, import_events
from pygrade.features import default_schema
from pygrade.logs import write_logs
from pygrade.logs.history import History
from tests.logs.test_logs import make_logs
from tests.refusals import refuses


def test_a_log_without_slots_stays_one(tmp_path):
    logs = make_logs()
    write_logs(replace(logs, slots_known=False), tmp_path / "logs")
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    write_logs(logs, tmp_path / "known")
    known = import_events(f"logs:{tmp_path / 'known'}", tmp_path / "other")
    assert (log.slots_known, known.slots_known) == (False, True) and log.scan().collect().equals(known.scan().collect())


@pytest.mark.parametrize(("limit", "part"), [(500_000, 1_000_000), (30, 50)])
def test_every_row_comes_through(tmp_path, limit, part):
    logs = make_logs()
    write_logs(logs, tmp_path / "logs", part)
    config = LogsEventConfig(funnel=(("click", "order"),))
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log", config, rows=limit)
    assert log.tasks == logs.tasks and log.task_values == logs.task_values and log.funnel == [["click", "order"]]
    assert log.num_rows == logs.num_rows and log.source["context"] == {"age": "dense", "hour": "dense"}
    events = log.scan().collect()
    assert events["timestamp"].is_sorted() and events["event_time"].equals(events["timestamp"].alias("event_time"))
    found = events.sort("request_id", "position", "item_id", nulls_last=True)
    r = logs.row_request
    order = np.lexsort((logs.item_id, np.where(logs.shown, logs.position, 99), r))
    np.testing.assert_array_equal(found["item_id"], logs.item_id[order])
    np.testing.assert_array_equal(found["user_id"], logs.user_id[r][order])
    np.testing.assert_array_equal(found["timestamp"], logs.timestamp[r][order])
    np.testing.assert_array_equal(found["position"].fill_null(-1), logs.position[order])
    np.testing.assert_array_equal(found["scenario"], logs.scenario[r][order])
    np.testing.assert_array_equal(found["c_hour"].fill_null(np.nan), logs.context[r, 1][order])
    for t, task in enumerate(logs.tasks):
        expected = np.where(logs.shown, logs.feedback[:, t], np.nan)[order]
        np.testing.assert_array_equal(found[f"y_{task}"].fill_null(np.nan), expected)


def test_features_get_names_that_are_identifiers(tmp_path):
    logs = replace(make_logs(), features=("plan=a b", "plan_a_b"))
    write_logs(logs, tmp_path / "logs")
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    assert log.source["context"] == {"plan_a_b_2": "dense", "plan_a_b": "dense"}
    events = log.scan().collect().unique("request_id").sort("request_id")
    for name, place in (("c_plan_a_b_2", 0), ("c_plan_a_b", 1)):
        np.testing.assert_array_equal(events[name].fill_null(np.nan), logs.context[:, place])


def test_columns_of_history_stay_those_of_the_rows(tmp_path):
    """Bit for bit, beside a column that has one value for each item."""
    logs, time = make_logs(2000), 1_764_000_000_000 + 100_000 * np.arange(2000)
    margin = np.sqrt(logs.item_id)[:, None].astype(np.float32)
    logs = replace(logs, items=("margin",), item_features=margin, value=None, timestamp=time)
    history = History.fit(logs, HistoryConfig(True))
    made = history.columns().add(logs)
    write_logs(made, tmp_path / "logs", 700)
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log", rows=900)
    assert log.items().columns == ["item_id", "margin"]
    found = log.scan().collect().sort("request_id", "item_id")
    order = np.lexsort((made.item_id, made.request_id[made.row_request]))
    assert len(history.items) > 8 and made.item_features[:, 1:].any(0).all()
    for name, values in zip(made.items[1:], made.item_features.T[1:], strict=True):
        assert found[f"i_{name}"].to_numpy().tobytes() == values[order].tobytes()


def test_item_columns_are_attributes_of_the_item(tmp_path):
    logs = make_logs()
    rows = np.arange(logs.num_rows)
    values = np.stack([rows, np.where(logs.item_id % 3 == 0, np.nan, -logs.item_id)], 1).astype(np.float32)
    logs = replace(logs, items=("age", "brand=a"), features=("old", "hour"), item_features=values, value=None)
    write_logs(logs, tmp_path / "logs", 50)
    config = LogsEventConfig(attributes=logs.items)
    items = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log", config).items().sort("item_id")
    assert items.columns == ["item_id", "age", "brand_a"]
    other = tmp_path / "other"
    assert import_events(f"logs:{tmp_path / 'logs'}", other).items().columns == ["item_id", "brand_a"]
    config = LogsEventConfig(attributes=("size",))
    refuses(ValueError, "'size'; expected item columns: age", import_events, f"logs:{tmp_path / 'logs'}", other, config)
    order = np.lexsort((rows, logs.timestamp[logs.row_request]))
    first = {
        int(item): float(values[row, 0]) for row, item in reversed(list(zip(order, logs.item_id[order], strict=True)))
    }
    assert dict(zip(items["item_id"], items["age"], strict=True)) == first
    expected = [None if item % 3 == 0 else -item for item in items["item_id"]]
    assert items["brand_a"].to_list() == expected


def test_the_price_is_an_attribute_of_the_item(tmp_path):
    logs = make_logs()
    price = (10.0 + logs.item_id).astype(np.float32)
    write_logs(replace(logs, value=price, value_tasks=logs.tasks[1:]), tmp_path / "logs", 50)
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    assert log.source["price"] == "price" and tuple(log.source["value_tasks"]) == logs.tasks[1:]
    assert (log.items()["price"] == log.items()["item_id"] + 10).all()
    made = {feature.name: feature.transform for feature in default_schema(log).features}
    assert made["item_price"] == "log1p" and made["item_value"] == "none"


def test_string_ids_become_numbers_with_names(tmp_path):
    logs = make_logs()
    texts = {name: np.char.add("n", getattr(logs, name).astype(str)) for name in ("user_id", "item_id", "request_id")}
    named = replace(logs, **texts)  # names of digits alone are the numbers
    write_logs(named, tmp_path / "logs", 50)
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log", rows=33)
    events = log.scan().collect().with_row_index()
    for kind in ("user", "item", "request"):
        names = log.names(kind, events[f"{kind}_id"].to_numpy())
        assert None not in names
        events = events.with_columns(pl.Series(f"{kind}_name", [int(name[1:]) for name in names]))
    found = events.sort("request_name", "position", "item_name", nulls_last=True)
    order = np.lexsort((logs.item_id, np.where(logs.shown, logs.position, 99), logs.row_request))
    np.testing.assert_array_equal(found["item_name"], logs.item_id[order])
    np.testing.assert_array_equal(found["user_name"], logs.user_id[logs.row_request][order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("y_click") * 0.5 + 0.25, r"column 'y_click', request \d+: 0.\d+; expected 0 or 1"),
        (pl.col("scenario") + "x" * 1000, r"column 'scenario', request \d+: .*; expected at most 1000 characters"),
        (pl.col("position") + 1, r"part-00000.parquet: column 'position', row \d+"),  # as of every log that is read
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    write_logs(make_logs(), tmp_path / "logs")
    path = tmp_path / "logs" / "part-00000.parquet"
    frame = pl.read_parquet(path).with_columns(change)
    path.unlink()
    frame.write_parquet(path)
    refuses(ValueError, message, import_events, f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_predictions_are_kept_shown_or_not(tmp_path):
    logs = make_logs()
    write_logs(logs, tmp_path / "logs")
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    assert log.predictions == logs.tasks
    found = log.scan().collect().sort("request_id", "item_id")
    order = np.lexsort((logs.item_id, logs.request_id[logs.row_request]))
    for t, task in enumerate(logs.tasks):
        assert np.array_equal(found[f"p_{task}"].to_numpy(), logs.predictions[order, t])
    refuses(ValueError, "predictions names 'buy'", EventSource, "n", "l", ("click",), (1.0,), predictions=("buy",))


def test_a_long_id_makes_no_matrix_as_wide(tmp_path):
    long = "x" * 100_000
    names = [[f"{kind}-{i}" for i in range(2000)] for kind in ("request", "user", "item")]
    for ids in names:
        ids[77] = long
    rows = pl.DataFrame({"request_id": names[0], "user_id": names[1], "item_id": names[2], "position": 0, "y_a": 1})
    (tmp_path / "logs").mkdir()
    rows.write_parquet(tmp_path / "logs" / "part-00000.parquet")
    tracemalloc.start()
    log = import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log")
    ids = log.scan().collect()["user_id"].to_numpy()
    assert max(map(len, log.names("user", ids))) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # a matrix as wide as the longest of 2,000 ids takes 800 MB


def test_tasks_that_the_log_does_not_have_are_named(tmp_path):
    write_logs(make_logs(), tmp_path / "logs")
    with pytest.raises(ValueError, match="task_values names 'like'"):
        import_events(f"logs:{tmp_path / 'logs'}", tmp_path / "log", LogsEventConfig(task_values={"like": 1.0}))
    path = tmp_path / "logs" / "part-00000.parquet"
    pl.read_parquet(path).select(pl.exclude("^y_.*$")).write_parquet(path)
    refuses(ValueError, "no column y_<task>", import_events, f"logs:{tmp_path / 'logs'}", tmp_path / "log")
