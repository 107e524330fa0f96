import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from pygrade.logs import Logs, concatenate, pad, read_logs, validate, write_logs  # noqa: E402
from pygrade.logs.dataset import map_columns  # noqa: E402
from pygrade.logs.log_parts import LogParts  # noqa: E402
from pygrade.logs.parquet import write_part  # noqa: E402


def make_logs(requests: int = 50, seed: int = 0, ids: type = int, optional: bool = True) -> Logs:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, requests)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows, tasks = int(offsets[-1]), 3
    slot = np.arange(rows) - np.repeat(offsets[:-1], sizes)
    position = np.where(slot < 4, slot, -1).astype(np.int32)
    feedback = (rng.random((rows, tasks)) < 0.3).astype(np.float32)
    feedback[position < 0] = 0
    context = rng.standard_normal((requests, 2)).astype(np.float32)
    context[0, 1] = np.nan  # a missing feature is legal
    extra = {}
    if optional:
        concentration = rng.random((requests, tasks)).astype(np.float32) * 5
        concentration[::2] = np.nan
        extra = dict(
            scenario=rng.choice(["home", "search"], requests),
            value=rng.random(rows).astype(np.float32),
            weights=rng.dirichlet(np.ones(tasks), requests).astype(np.float32),
            concentration=concentration,
            seed=rng.integers(0, 2**63, requests).astype(np.uint64),
            policy_version=np.full(requests, "v1"),
            exploration=np.where(np.arange(requests) % 2 == 0, "none", "dirichlet"),
            timestamp=rng.permutation(requests).astype(np.int64) + 1_700_000_000_000,
            mixture_weight=rng.random(requests).astype(np.float32),
            baseline=rng.choice(["", "expected value"], requests),
            verdict=np.full(requests, "better"),
            request_values=np.where(np.isnan(concentration), concentration, 2 * concentration),
            items=("brand", "margin"),
            item_features=np.where(rng.random((rows, 2)) < 0.1, np.nan, rng.random((rows, 2))).astype(np.float32),
            production_score=rng.normal(size=rows).astype(np.float32),
            arms=("old", "new"),
            slots=np.stack([position, np.where(slot < 3, np.minimum(sizes.repeat(sizes), 3) - 1 - slot, -1)], 1).astype(
                np.int32
            ),
            arm_shares=np.where(rng.random((requests, 2)) < 0.1, np.nan, 0.5).astype(np.float32),
        )
    return Logs(
        tasks=("click", "cart", "order"),
        features=("age", "hour"),
        request_id=np.arange(requests).astype(np.int64) if ids is int else np.array([f"r{i}" for i in range(requests)]),
        user_id=rng.integers(0, 9, requests) if ids is int else rng.choice(["ann", "bob"], requests),
        offsets=offsets,
        context=context,
        item_id=np.arange(rows) % 11 if ids is int else np.array([f"i{i % 11}" for i in range(rows)]),
        position=position,
        predictions=rng.random((rows, tasks)).astype(np.float32),
        feedback=feedback,
        task_values=(1.0, 3.0, 60.0),
        **extra,
    )


def assert_same(left: Logs, right: Logs) -> None:
    for field in fields(Logs):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype or {a.dtype.kind, b.dtype.kind} <= set("UO")
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def assert_same_rows(left: Logs, right: Logs) -> None:
    """`assert_same`, but for the columns that a table has."""
    assert_same(replace(left, columns=right.columns), right)


@pytest.mark.parametrize("ids", [int, str])
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("rows_per_file", [20, 10**6])
def test_round_trip(tmp_path, ids, optional, rows_per_file):
    logs = make_logs(ids=ids, optional=optional)
    write_logs(logs, tmp_path / "log", rows_per_file)
    assert_same(logs, read_logs(tmp_path / "log"))
    parts = list((tmp_path / "log").glob("*.parquet"))
    assert (len(parts) > 5) == (rows_per_file == 20)
    table = pq.read_table(parts[0])
    assert table.column("y_click").null_count == table.column("position").null_count > 0
    assert pq.ParquetFile(parts[0]).metadata.row_group(0).column(0).compression == "ZSTD"


def test_reads_foreign_single_file_with_loose_types(tmp_path):
    table = pa.table(
        {
            "request_id": pa.array(["a", "a", "b"]).dictionary_encode(),
            "user_id": pa.array([1, 1, 2], pa.int16()),
            "item_id": [10, 11, 12],
            "position": pa.array([0, None, 3], pa.int64()),
            "p_click": [0.5, 0.25, 1.0],
            "y_click": pa.array([True, None, False]),
            "x_visits": pa.array([20_000_001, 20_000_001, 3], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "one.parquet")
    logs = read_logs(tmp_path / "one.parquet")
    assert logs.tasks == ("click",) and logs.features == ("visits",) and logs.task_values == (1.0,)
    assert logs.request_id.tolist() == ["a", "b"] and logs.offsets.tolist() == [0, 2, 3]
    assert logs.position.tolist() == [0, -1, 3] and logs.feedback[:, 0].tolist() == [1, 0, 0]
    assert logs.user_id.dtype == np.int64 and logs.shown.tolist() == [True, False, True]


def columns_of(logs: Logs, tmp_path) -> dict:
    write_logs(logs, tmp_path / "source")
    return {name: column for name, column in pq.read_table(tmp_path / "source").to_pydict().items()}


def set_value(name, row, value):
    def change(columns):
        columns[name][row] = value

    return change


def set_all(name, value):
    return lambda columns: columns.update({name: [value] * len(columns[name])})


def swap_last_into_first(columns):
    for values in columns.values():
        values.append(values.pop(0))


def shift_all(name, change):
    return lambda columns: columns.update({name: [v if v is None else change(v) for v in columns[name]]})


FIRST_HIDDEN = int(np.argmax(make_logs().position < 0))
# what is changed, and the column and its row that the error names
BAD = {
    "slots from 1": (shift_all("position", lambda slot: slot + 1), "position", 0),
    "a slot beyond all pages": (set_value("position", 0, 2**31 - 1), "position", 0),
    "negative position": (set_value("position", 0, -3), "position", 0),
    "timestamps in seconds": (shift_all("timestamp", lambda time: time // 1000), "timestamp", 0),
    "timestamps in nanoseconds": (shift_all("timestamp", lambda time: time * 10**6), "timestamp", 0),
    "predictions in percent": (shift_all("p_cart", lambda p: 100 * p), "p_cart", 0),
    "an item twice in a request": (
        lambda c: c["item_id"].__setitem__(FIRST_HIDDEN, c["item_id"][FIRST_HIDDEN - 1]),
        "item_id",
        FIRST_HIDDEN,
    ),
    "huge feedback": (set_value("y_cart", 0, 1e38), "y_cart", 0),
    "negative feedback": (set_value("y_cart", 0, -1.0), "y_cart", 0),
    "feedback without position": (set_value("y_cart", FIRST_HIDDEN, 1.0), "y_cart", FIRST_HIDDEN),
    "shown without feedback": (set_value("y_click", 0, None), "y_click", 0),
    "huge value": (set_value("value", 3, 1e20), "value", 3),
    "negative value": (set_value("value", 3, -2.0), "value", 3),
    "no score": (set_value("production_score", 3, None), "production_score", 3),
    "NaN prediction": (set_value("p_order", 7, float("nan")), "p_order", 7),
    "null prediction": (set_value("p_order", 7, None), "p_order", 7),
    "negative prediction": (set_value("p_click", 3, -0.5), "p_click", 3),
    "infinite prediction": (set_value("p_click", 3, float("inf")), "p_click", 3),
    "not contiguous": (swap_last_into_first, "request_id", None),
    "null id": (set_value("item_id", 5, None), "item_id", 5),
    "bad weight": (set_all("w_cart", -1.0), "w_cart", 0),
    "infinite item column": (set_value("i_margin", 4, float("inf")), "i_margin", 4),
    "mixture_weight above 1": (set_all("mixture_weight", 1.5), "mixture_weight", 0),
    "two items in a slot of an arm": (set_value("slot_new", 1, 2), "slot_new", 1),
    "a slot beyond an arm's page": (set_value("slot_new", 0, 10**6), "slot_new", 0),
    "an arm with more than all of the traffic": (set_all("share_old", 1.5), "share_old", 0),
    "unknown exploration": (set_all("exploration", "x"), "exploration", 0),
}


def refuse_changed(folder, change, error, message):
    columns = columns_of(make_logs(), folder)
    change(columns)
    pq.write_table(pa.table(columns), folder / "bad.parquet")
    with pytest.raises(error, match=message):
        read_logs(folder / "bad.parquet")


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_named(tmp_path, name):
    change, column, row = BAD[name]
    where = rf"column '{column}', row {chr(92) + 'd+' if row is None else row} of bad.parquet: .*expected"
    refuse_changed(tmp_path, change, ValueError, where)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda c: [c.pop(name) for name in ("y_cart", "user_id")],
            ValueError,
            "no column user_id, y_cart; it has request_id, item_id, .*a row per candidate, with request_id, user_id",
        ),
        (lambda c: c.update(y_wish=c["y_cart"]), ValueError, "no column p_wish"),
        (lambda c: [c.pop(n) for n in list(c) if n.startswith("p_")], ValueError, "no column p_<task>"),
        (lambda c: c.update(p_cart=[str(v) for v in c["p_cart"]]), TypeError, "'p_cart' has type string"),
        (set_all("i_brand", "a"), TypeError, "'i_brand' has type string; expected a number .pygrade doctor"),
        (set_all("position", 0.5), TypeError, "'position' has type double"),
    ],
)
def test_columns_that_are_missing_or_of_another_type_are_named(tmp_path, change, error, message):
    refuse_changed(tmp_path, change, error, message)


def test_what_is_unusual_is_read_with_a_warning(tmp_path, caplog):
    columns = columns_of(make_logs(), tmp_path)
    columns["y_cart"] = [value or 0.0 for value in columns["y_cart"]]
    columns["x_age"] = [float("nan")] * len(columns["x_age"])
    columns["i_brand"] = [None] * len(columns["x_age"])
    columns["color"] = ["red"] * len(columns["x_age"])
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    assert_same(
        read_logs(tmp_path / "odd.parquet").select([1]),
        replace(
            make_logs().select([1]),
            task_values=(1.0, 1.0, 1.0),
            features=("age", "hour"),
            context=np.array([[np.nan, make_logs().context[1, 1]]], np.float32),
            item_features=make_logs().select([1]).item_features * np.array([np.nan, 1], np.float32),
        ),
    )
    words = ("color", "0 where position is null", "'x_age' has no", "'i_brand' has no")
    assert [word for word in words if word not in caplog.text] == []


def test_one_long_id_costs_no_other_row_memory(tmp_path):
    count = 3000
    ids = [f"user {i}" for i in range(count)]
    ids[7], ids[8] = "x" * 200_000, "user 9\0"  # numpy's own strings: 2.4 GB, and equal to user 9
    columns = {"request_id": ids, "user_id": ids, "item_id": ["a"] * count, "position": [0] * count}
    pq.write_table(pa.table(columns | {"p_t": [0.5] * count, "y_t": [1.0] * count}), tmp_path / "log.parquet")
    tracemalloc.start()
    logs = read_logs(tmp_path / "log.parquet")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert logs.user_id.tolist() == logs.request_id.tolist() == ids
    write_logs(logs, tmp_path / "again")
    assert_same(read_logs(tmp_path / "again"), logs)


def test_values_of_events():
    logs = make_logs().with_values((1.0, 2.0, 3.0), ("order",))
    assert logs.task_values == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(logs.event_values[:, :2], np.tile(np.float32([1, 2]), (logs.num_rows, 1)))
    np.testing.assert_array_equal(logs.event_values[:, 2], 3 * logs.value)
    assert make_logs().event_values.tolist() == [[1.0, 3.0, 60.0]]


def test_duplicate_position_and_disagreeing_context_are_named(tmp_path):
    logs = make_logs()
    request = int(np.argmax(np.diff(logs.offsets) >= 2))
    row = int(logs.offsets[request]) + 1
    for name, value, message in (("position", 0, "each slot once"), ("x_age", 9.0, "one value a request")):
        columns = columns_of(logs, tmp_path)
        columns[name][row] = value
        pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=rf"column '{name}', row {row} of bad.parquet: .*{message}"):
            read_logs(tmp_path / "bad.parquet")


def test_rows_are_named_within_their_part(tmp_path):
    logs = make_logs()
    write_logs(logs, tmp_path / "log", 20)
    part = sorted((tmp_path / "log").glob("*.parquet"))[2]
    table = pq.read_table(part)
    spoiled = table.column("p_cart").to_pylist()
    spoiled[4] = -1.0
    index = table.schema.get_field_index("p_cart")
    pq.write_table(table.set_column(index, table.schema.field(index), [pa.array(spoiled, pa.float32())]), part)
    with pytest.raises(ValueError, match=f"column 'p_cart', row 4 of {part.name}: -1.0"):
        read_logs(tmp_path / "log")


def test_corrupt_truncated_and_lost_parts_are_named(tmp_path):
    write_logs(make_logs(), tmp_path / "log", 60)
    parts = sorted((tmp_path / "log").glob("*.parquet"))
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{parts[1].name}: not a complete Parquet file"):
        read_logs(tmp_path / "log")
    parts[1].write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])  # data gone, footer there
    with pytest.raises(ValueError, match=parts[1].name):
        read_logs(tmp_path / "log")
    parts[1].unlink()
    with pytest.raises(ValueError, match=f"says the log has {len(parts)}"):
        read_logs(tmp_path / "log")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_logs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \*\.parquet"):
        read_logs(tmp_path / "empty")


def test_write_checks_before_it_writes(tmp_path):
    logs = make_logs()
    predictions = logs.predictions.copy()
    predictions[3, 1] = np.nan
    with pytest.raises(ValueError, match="column 'p_cart', row 3: nan"):
        write_logs(replace(logs, predictions=predictions), tmp_path / "log")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        write_logs(logs, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_killed_writer_keeps_the_earlier_log(tmp_path):
    write_logs(make_logs(seed=1), tmp_path / "log", 30)
    program = (
        "import os, sys, time; sys.path.insert(0, sys.argv[2]); from test_logs import make_logs\n"
        "import pyarrow.parquet as pq; from pygrade.logs import write_logs\n"
        "real = pq.write_table\n"
        "def slow(*a, **o): real(*a, **o); os.write(1, b'wrote\\n'); time.sleep(60)  # parts are written by threads\n"
        "pq.write_table = slow; write_logs(make_logs(seed=2), sys.argv[1], 30)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log"), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=os.path.dirname(__file__)) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"wrote\n"
        writer.send_signal(signal.SIGKILL)
    assert_same(make_logs(seed=1), read_logs(tmp_path / "log"))
    leftovers = [child for child in tmp_path.iterdir() if child.name != "log"]
    assert len(leftovers) == 1 and leftovers[0].name.startswith(".log.partial-")
    os.utime(leftovers[0], (time.time() - 7200,) * 2)
    write_logs(make_logs(seed=3), tmp_path / "log", 30)
    assert [child.name for child in tmp_path.iterdir()] == ["log"]


def test_select_split_concatenate():
    logs = make_logs()
    chosen = np.array([7, 3, 30])
    part = logs.select(chosen)
    assert part.request_id.tolist() == [7, 3, 30]
    rows = np.concatenate([np.arange(logs.offsets[r], logs.offsets[r + 1]) for r in chosen])
    np.testing.assert_array_equal(part.predictions, logs.predictions[rows])
    np.testing.assert_array_equal(part.value, logs.value[rows])
    np.testing.assert_array_equal(part.item_features, logs.item_features[rows])
    assert_same(logs.select(logs.request_id < 10), logs.select(slice(10)))
    early, late = logs.split(0.7)
    assert early.num_requests == 35 and early.timestamp.max() < late.timestamp.min()
    again, rest = logs.split(time=int(late.timestamp.min()))
    assert_same(early, again)
    assert_same(late, rest)
    assert_same(concatenate([logs.select(slice(20)), logs.select(slice(20, None))]), logs)
    fewer = concatenate([logs.select(slice(20)).arranged(logs.tasks, logs.features, ("margin",)), logs])
    first = logs.offsets[20]
    assert fewer.items == ("margin", "brand") and np.isnan(fewer.item_features[:first, 1]).all()
    np.testing.assert_array_equal(fewer.item_features[first:], logs.item_features[:, ::-1])
    assert np.isnan(concatenate([make_logs(optional=False), logs]).item_features[: logs.num_rows]).all()
    with pytest.raises(ValueError, match="differ in request_id"):
        concatenate([logs, make_logs(ids=str)])
    with pytest.raises(ValueError, match="exactly one"):
        logs.split()
    with pytest.raises(ValueError, match=r"fraction is 1\.5"):
        logs.split(1.5)


def test_arms_come_and_go_between_the_files_of_a_log(tmp_path):
    logs = make_logs()
    parts = [logs.select(slice(20)).with_arms(()), logs.select(slice(20, None)).with_arms(("new", "third"))]
    for number, part in enumerate(parts):
        write_part(vars(part), tmp_path / f"{number}.parquet")
    whole = concatenate(parts)
    first, row = 20, logs.offsets[20]
    assert whole.arms == ("new", "third") and (whole.slots[:row] == -1).all() and (whole.slots[:, 1] == -1).all()
    assert np.isnan(whole.arm_shares[:first]).all() and np.isnan(whole.arm_shares[:, 1]).all()
    np.testing.assert_array_equal(whole.slots[row:, 0], logs.slots[row:, 1])
    np.testing.assert_array_equal(whole.arm_shares[first:, 0], logs.arm_shares[first:, 1])
    assert whole.with_arms(()).slots is None
    assert_same(read_logs(tmp_path), whole)
    assert_same(LogParts.open(tmp_path).read(), whole)
    assert map_columns(parts, tmp_path / "mapped").arms == ()


def test_pad():
    offsets = np.array([0, 2, 3])
    padded, mask = pad(np.array([[1.0, 2], [3, 4], [5, 6]], np.float32), offsets)
    assert padded.tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]
    assert mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("position", np.zeros(3, np.int32), ValueError),
        ("predictions", np.zeros((1, 1)), ValueError),
        ("user_id", np.zeros(50, np.float32), TypeError),
        ("seed", np.zeros(50, np.int64), TypeError),
        ("context", [[0.0]], TypeError),
        ("tasks", ("click", "click", "order"), ValueError),
        ("task_values", (1.0,), ValueError),
        ("task_values", (1.0, float("nan"), 1.0), ValueError),
        ("value_tasks", ("wish",), ValueError),
        ("request_id", np.array([0] * 50, object), TypeError),
        ("items", ("brand", "brand"), ValueError),
        ("items", ("brand", "click"), ValueError),
        ("items", ("brand", "hour"), ValueError),
        ("items", (), ValueError),
        ("item_features", None, ValueError),
        ("arms", ("old", "old"), ValueError),
        ("arms", (), ValueError),
        ("slots", np.zeros((3, 2), np.int32), ValueError),
        ("arm_shares", np.zeros((50, 2)), TypeError),
        ("item_features", np.zeros((3, 2), np.float32), ValueError),
    ],
)
def test_record_checks_types_and_shapes(name, value, error):
    with pytest.raises(error, match=name):
        replace(make_logs(), **{name: value})


def test_validate_passes_a_good_log_and_names_where():
    validate(make_logs())
    logs = make_logs()
    item = logs.item_id.copy()
    item[np.argmax(logs.position == 1)] = item[np.argmax(logs.position == 1) - 1]
    validate(replace(logs, item_id=item))  # an item in two slots
    twice = logs.request_id.copy()
    twice[5] = twice[2]
    with pytest.raises(ValueError, match=f"here: column 'request_id', row {logs.offsets[5]}: 2"):
        validate(replace(logs, request_id=twice), "here")


def test_tasks_and_features_are_arranged_by_name():
    logs = make_logs()
    other = logs.arranged(("order", "click"), ("hour",))
    assert other.tasks == ("order", "click") and other.features == ("hour",) and other.task_values == (60.0, 1.0)
    for name in ("predictions", "feedback", "weights", "concentration", "request_values"):
        np.testing.assert_array_equal(getattr(other, name), getattr(logs, name)[:, [2, 0]])
    np.testing.assert_array_equal(other.context, logs.context[:, [1]])
    validate(other)
    assert_same(logs.arranged(logs.tasks, logs.features), logs)
    turned = logs.arranged(logs.tasks, logs.features, ("margin", "brand"))
    assert turned.items == ("margin", "brand")
    np.testing.assert_array_equal(turned.item_features, logs.item_features[:, [1, 0]])
    none = logs.arranged(logs.tasks, logs.features, ())
    assert none.items == () and none.item_features is None and none.item_columns.shape == (logs.num_rows, 0)
    for tasks, features, items, message in (
        (("click", "like"), (), None, "the log has no tasks like; it has click, cart, order"),
        (("click",), ("hour", "day"), None, "the log has no features day; it has age, hour"),
        (("click",), (), ("margin", "hype"), "the log has no items hype; it has brand, margin"),
    ):
        with pytest.raises(ValueError, match=message):
            logs.arranged(tasks, features, items)


def test_a_notebook_shows_a_small_table():
    logs = replace(make_logs(), tasks=("click", "<b>", "order"), value_tasks=("order",))
    text = logs._repr_html_()
    assert text.startswith("<table>") and text.endswith("</table>") and "<b>" not in text and "&lt;b&gt;" in text
    rate = logs.feedback[logs.shown, 2].mean()
    for part in ("50 of 9 users", f"{logs.num_rows:,} of 11 items", "in 4 slots", "home, search", "2023-11-14 22:13"):
        assert part in text
    assert f"{rate:.2%} of shown rows" in text and "worth 60 times the price" in text and "% missing" in text
    hidden = replace(logs, position=np.full_like(logs.position, -1), feedback=np.zeros_like(logs.feedback))
    assert "0, 0.0 a request" in hidden._repr_html_()
    assert "item column margin" in text
    names = "tasks click, <b>, order; features age, hour; items brand, margin"
    assert repr(logs) == f"<Logs: 50 requests; {logs.num_rows} candidates; {names}>"
    wide = replace(logs, features=tuple(f"x{n}" for n in range(200)), context=np.zeros((50, 200), np.float32))
    assert "features x0, x1, x2, x3, x4, x5 and 194 more; items" in repr(wide)


def test_shown_only_keeps_the_shown_rows_of_the_requests_that_have_some():
    logs = make_logs()
    logs = replace(logs, position=np.where(logs.row_request == 3, -1, logs.position))
    shown = logs.shown_only()
    assert shown.num_requests == logs.num_requests - 1 and shown.shown.all()
    assert shown.request_id.tolist() == np.delete(logs.request_id, 3).tolist()
    for name in ("item_id", "position", "predictions", "feedback", "value", "item_features"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(logs, name)[logs.shown])
    assert shown.row_request.tolist() == np.unique(logs.row_request[logs.shown], return_inverse=True)[1].tolist()


def test_values_of_numpy_are_numbers_of_json():
    values = replace(make_logs(), task_values=tuple(np.array([1.0, 3.0, 60.0]))).task_values
    assert values == (1.0, 3.0, 60.0) and {type(value) for value in values} == {float}
