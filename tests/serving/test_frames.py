"""A frame is ranked as the log of the same rows, and comes back in the library that it came from."""

import duckdb
import numpy as np
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest

import pygrade
from pygrade import FusionRanker, Logs
from pygrade.evaluation.policy_estimates import match_policy
from pygrade.logs import read_logs, write_logs
from tests.refusals import refuses
from tests.runs.test_train import FAST, MAP, SCALE, table

NAMES = ("place", "score")


def shop(requests=200):
    """`table` with a text of the request, prices, brands, and the rows of requests apart."""
    rng, columns = np.random.default_rng(1), table(requests)
    session = columns["session"].to_numpy()
    columns = columns.append_column("device", [np.array(["app", "web", "7"])[session % 3]])
    columns = columns.append_column("cents", [rng.integers(500, 5000, len(columns))])
    columns = columns.append_column("brand", [rng.choice(["a", "b<"], len(columns))])
    return columns.take(rng.permutation(len(columns)))


@pytest.fixture(scope="module")
def frame():
    return shop()


@pytest.fixture(scope="module")
def model(frame):
    words = {**dict(pair.split("=") for pair in MAP.split(",")), "value": "cents / 100"}
    return pygrade.train(frame, FAST, map=words, value_tasks="order", scale=SCALE, verbose=False)


def as_library(name, frame):
    if name == "datasets":
        return pytest.importorskip("datasets").Dataset(frame)
    return {
        "pandas": lambda: frame.to_pandas().set_index("page_order"),
        "polars": lambda: polars.from_arrow(frame),
        "lazy": lambda: polars.from_arrow(frame).lazy(),
        "pyarrow": lambda: frame,
        "duckdb": lambda: duckdb.from_arrow(frame),
        "dict": lambda: frame.to_pydict(),
    }[name]()


@pytest.mark.parametrize("library", ["pandas", "polars", "lazy", "pyarrow", "duckdb", "datasets", "dict"])
def test_a_frame_comes_back_with_ranks_as_of_its_log(library, frame, model):
    given = as_library(library, frame)
    ranked = model.rank(given, names=NAMES)
    assert type(ranked) is type(given)
    columns = ranked.collect() if library == "lazy" else ranked
    columns = columns.to_arrow_table() if library == "duckdb" else columns
    place, score = (np.asarray(columns[name]) for name in NAMES)
    assert list(np.asarray(columns["product"])) == frame["product"].to_pylist()  # the order of the rows
    logs = Logs.from_table(frame, like=model)
    page = model.rank(logs, k=12)
    items, session = frame["product"].to_numpy(), frame["session"].to_numpy()
    for b, request in enumerate(logs.request_id[:20]):
        rows = np.flatnonzero(session == request)
        rows = rows[np.argsort(place[rows])]
        assert place[rows].tolist() == list(range(1, 13))
        assert items[rows].tolist() == page.items[b].tolist()
        assert np.asarray(score[rows], np.float32).tobytes() == page.values[b].tobytes()


def test_an_artifact_keeps_columns_scales_and_levels(frame, model, tmp_path):
    assert model.policy.columns["value"] == "cents / 100" and model.policy.columns["x_device"] == "device"
    assert {"device=7", "device=app", "device=web"} <= set(model.policy.features)
    logs = Logs.from_table(frame, model.policy.columns, scale=SCALE)
    write_logs(logs, tmp_path / "logs")
    assert read_logs(tmp_path / "logs").columns == logs.columns == model.policy.columns
    assert pygrade.train(tmp_path / "logs", FAST, value_tasks="order", verbose=False).policy.columns == logs.columns
    expected = model.rank(logs.select(np.argsort(logs.request_id)), k=1).items.tolist()
    ranker = FusionRanker.load(model.save(tmp_path / "run"), k=3)
    own = pyarrow.parquet.read_table(tmp_path / "logs")
    for rows in (frame, own, own.replace_schema_metadata()):  # with the table's columns, and with those of a log
        ranked = ranker.rank(rows, names=NAMES)
        assert ranked["place"].null_count == len(frame) - 600 and max(ranked["place"].drop_null().to_pylist()) == 3
        best = ranked.filter(pyarrow.compute.equal(ranked["place"], 1)).sort_by(
            "session" if rows is frame else "request_id"
        )
        assert best["product" if rows is frame else "item_id"].to_pylist() == [items[0] for items in expected]


def test_one_request_without_its_column_and_few_values(frame, model, caplog):
    some = polars.from_arrow(frame).filter(polars.col("session") == 4)
    whole = model.rank(some, names=NAMES)["place"]
    assert model.rank(some.drop("session", "customer", "rank", "y_click", "y_order", "page_order"))["rank"].equals(
        whole.rename("rank")
    )
    assert "the frame has no column 'session': its rows are one request" in caplog.text
    unknown = some.with_columns(device=polars.lit(None), mode=polars.lit(None))
    assert sorted(model.rank(unknown, names=NAMES)["place"]) == list(range(1, 13))
    gap = some.with_columns(
        p_order=polars.when(polars.col("product") == some["product"][0]).then(None).otherwise("p_order")
    )
    ranked = model.rank(gap, names=NAMES)
    assert ranked["place"][0] == 12 and np.isnan(ranked["score"][0])
    masked = model.rank(some, names=NAMES, mask=np.arange(12) > 0)
    assert masked["place"][0] is None and masked["place"].drop_nulls().max() == 11
    assert model.rank(some, k=2, names=NAMES)["place"].null_count() == 10


def test_what_is_missing_or_wrong_is_named(frame, model):
    missing = r"has no column 'p_order' \(p_order\), 'mode' \(x_mode\), which the policy reads"
    refuses(ValueError, missing, model.rank, frame.drop_columns(["p_order", "mode"]), names=NAMES)
    refuses(ValueError, "has no column 'cents'", model.rank, frame.drop_columns(["cents"]), names=NAMES)
    refuses(
        ValueError,
        r"column 'rank', which the training read; want others, as names=\('new_rank', 'score'\)",
        model.rank,
        frame,
    )
    refuses(ValueError, "'mode' has several values", model.rank, frame.drop_columns(["session"]), names=NAMES)
    refuses(ValueError, "context is given beside a frame", model.rank, frame, [[1.0]])
    logits = frame.set_column(frame.column_names.index("p_click"), "p_click", [np.full(len(frame), -2.0)])
    refuses(ValueError, "predictions is -2 at candidate 0, task 'click'", model.rank, logits, names=NAMES)
    refuses(TypeError, "logs is a Table; want Logs", pygrade.evaluate, frame, {})


def test_an_estimator_ranks_frames_and_is_saved(frame, tmp_path):
    words = {**dict(pair.split("=") for pair in MAP.split(",")), "value": "cents / 100"}
    fitted = FusionRanker(4, config=FAST, map=words, scale=SCALE, verbose=False).fit(frame.to_pandas())
    ranked = fitted.rank(frame.to_pandas(), names=NAMES)
    assert ranked["place"].notna().sum() == 4 * 200
    again = FusionRanker.load(fitted.save(tmp_path / "run"), k=4)
    assert again.rank(frame.to_pandas(), names=NAMES).equals(ranked) and again.result_ is None
    bare = FusionRanker.load(again.save(tmp_path / "bare"))
    assert bare.policy_.version == fitted.policy_.version and bare.k == 10
    refuses(FileExistsError, "bare, which exists", again.save, tmp_path / "bare")
    refuses(ValueError, r"want fit\(log\) before save", FusionRanker().save, tmp_path / "none")


def test_pages_become_frames(frame, model):
    logs = match_policy(model.policy, Logs.from_table(frame, like=model)).select([0, 1])
    page = model.rank(logs, k=3)
    rows = page.to_pandas()
    assert list(rows) == ["request", "rank", "item", "score", "from_click", "from_order"] and len(rows) == 6
    assert rows["rank"].tolist() == [1, 2, 3, 1, 2, 3] and rows["item"].tolist() == page.items.ravel().tolist()
    assert np.array_equal(rows["from_order"], page.contributions[:, :, 1].ravel())
    assert page.to_polars().to_dict(as_series=False)["request"] == np.repeat(logs.request_id, 3).tolist()
