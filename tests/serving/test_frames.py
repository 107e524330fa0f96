"""A frame is ranked as the log of the same rows, and comes back in the library that it came from."""

import duckdb
import numpy as np
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest

import pygrade
from pygrade import BlendedRanker, FusionEstimator, Logs
from pygrade.logs import read_logs, write_logs
from tests.refusals import refuses
from tests.runs.test_train import FAST, MAP, SCALE, table

NAMES = {"names": ("place", "score")}
MAPPING = {**dict(pair.split("=") for pair in MAP.split(",")), "value": "cents / 100"}


@pytest.fixture(scope="module")
def frame():
    """`table` with a text of the request, prices, brands, and the rows of requests apart."""
    rng, columns = np.random.default_rng(1), table()
    columns = columns.append_column("device", [np.array(["app", "web", "7"])[columns["session"].to_numpy() % 3]])
    columns = columns.append_column("cents", [rng.integers(500, 5000, len(columns))])
    columns = columns.append_column("brand", [rng.choice(["a", "b<"], len(columns))])
    return columns.take(rng.permutation(len(columns)))


@pytest.fixture(scope="module")
def model(frame):
    return pygrade.train(frame, FAST, map=MAPPING, value_tasks="order", scale=SCALE, verbose=False)


LIBRARIES = {
    "pandas": lambda frame: frame.to_pandas().set_index("page_order"),
    "polars": polars.from_arrow,
    "lazy": lambda frame: polars.from_arrow(frame).lazy(),
    "pyarrow": lambda frame: frame,
    "duckdb": duckdb.from_arrow,
    "datasets": lambda frame: pytest.importorskip("datasets").Dataset(frame),
    "dict": lambda frame: frame.to_pydict(),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_comes_back_with_ranks_as_of_its_log(library, frame, model):
    given = LIBRARIES[library](frame)
    ranked = model.rank(given, **NAMES)
    assert type(ranked) is type(given)
    columns = ranked.collect() if library == "lazy" else ranked.to_arrow_table() if library == "duckdb" else ranked
    product, place, score = (np.asarray(columns[name]) for name in ("product", "place", "score"))
    assert product.tolist() == frame["product"].to_pylist()  # the order of the rows
    logs = Logs.from_table(frame, like=model)
    page = model.rank(logs, k=12)
    for b, request in enumerate(logs.request_id[:20]):
        rows = np.flatnonzero(frame["session"].to_numpy() == request)
        rows = rows[np.argsort(place[rows])]
        assert place[rows].tolist() == list(range(1, 13)) and product[rows].tolist() == page.items[b].tolist()
        assert np.asarray(score[rows], np.float32).tobytes() == page.values[b].tobytes()


def test_an_artifact_keeps_columns_scales_and_levels(frame, model, tmp_path):
    assert {"value": "cents / 100", "x_device": "device"}.items() <= model.policy.columns.items()
    assert {"device=7", "device=app", "device=web"} <= set(model.policy.features)
    logs = Logs.from_table(frame, model.policy.columns, scale=SCALE)
    write_logs(logs, tmp_path / "logs")
    assert read_logs(tmp_path / "logs").columns == logs.columns == model.policy.columns
    assert pygrade.train(tmp_path / "logs", FAST, verbose=False).policy.columns == logs.columns
    best = model.rank(logs.select(np.argsort(logs.request_id)), k=1).items[:, 0].tolist()
    ranker = FusionEstimator.load(model.save(tmp_path / "run"), k=3)
    own = pyarrow.parquet.read_table(tmp_path / "logs")
    for rows in (frame, own, own.replace_schema_metadata()):  # with the table's columns, and with those of a log
        ranked = ranker.rank(rows, **NAMES)
        assert ranked["place"].null_count == len(frame) - 600
        first = ranked.filter(pyarrow.compute.equal(ranked["place"], 1))
        first = first.sort_by("session" if rows is frame else "request_id")
        assert first["product" if rows is frame else "item_id"].to_pylist() == best


def test_a_saved_run_ranks_as_the_training_did(frame, model, tmp_path):
    wanted, run = model.rank(frame, k=5, **NAMES), model.save(tmp_path / "run")
    for saved in (BlendedRanker.load(run), BlendedRanker.load(run / "policy"), FusionEstimator.load(run)):
        assert saved.rank(frame, k=5, **NAMES)["place"].equals(wanted["place"])
        refuses(TypeError, "5 is given beside a frame; if it is k, expected k=5", saved.rank, frame, 5)
    refuses(TypeError, "5 is given beside a frame; if it is k, expected k=5", model.rank, frame, 5)
    loaded, logs = BlendedRanker.load(run), Logs.from_table(frame, like=model)
    assert loaded.rank(logs, k=3).items.tolist() == model.rank(logs, k=3).items.tolist()
    assert repr(loaded) == f"<BlendedRanker {model.policy.version[:12]}: {model.verdict}>"
    refuses(FileNotFoundError, f"{tmp_path} has no artifact and no policy", BlendedRanker.load, tmp_path)


def test_one_request_without_its_column_and_few_values(frame, model, caplog):
    some = polars.from_arrow(frame).filter(polars.col("session") == 4)
    place = model.rank(some, **NAMES)["place"]
    bare = model.rank(some.drop("session", "customer", "rank", "y_click", "y_order", "page_order"))
    assert bare["rank"].to_list() == place.to_list() and "no column 'session': its rows are one request" in caplog.text
    unknown = some.with_columns(device=polars.lit(None), mode=polars.lit(None))
    assert sorted(model.rank(unknown, **NAMES)["place"]) == list(range(1, 13))
    first = polars.col("product") == some["product"][0]
    gap = model.rank(some.with_columns(p_order=polars.when(first).then(None).otherwise("p_order")), **NAMES)
    assert gap["place"][0] == 12 and np.isnan(gap["score"][0])
    masked = model.rank(some, mask=np.arange(12) > 0, **NAMES)["place"]
    assert masked[0] is None and sorted(masked[1:]) == list(range(1, 12))


def test_what_is_missing_or_wrong_is_named(frame, model):
    logits = frame.set_column(frame.column_names.index("p_click"), "p_click", [np.full(len(frame), -2.0)])
    missing = r"has no column 'p_order' \(p_order\), 'mode' \(x_mode\), which the policy reads"
    for wrong, message in (
        (frame.drop_columns(["p_order", "mode"]), missing),
        (frame.drop_columns(["cents"]), "has no column 'cents'"),
        (frame.drop_columns(["session"]), "'mode' has several values"),
        (logits, "predictions is -2 at candidate 0, task 'click'"),
    ):
        refuses(ValueError, message, model.rank, wrong, **NAMES)
    refuses(
        ValueError, r"'rank', which the training read; expected .* names=\('new_rank', 'score'\)", model.rank, frame
    )
    refuses(ValueError, "context is given beside a frame", model.rank, frame, [[1.0]])
    refuses(TypeError, "logs is a Table; expected Logs", pygrade.evaluate, frame, {})


def test_requests_without_predictions_are_named(frame, model, caplog):
    rows = frame.to_pandas()
    message = "the frame's predictions order nothing: 'p_order' has no value in 2,400 of 2,400 rows"
    refuses(ValueError, message, model.rank, rows.assign(p_order=np.nan), **NAMES)
    refuses(ValueError, message, BlendedRanker(model.policy).rank, rows.assign(p_order=np.nan), k=5, **NAMES)
    lost = rows.assign(p_order=rows["p_order"].where(rows["session"] > 1))
    assert np.isnan(model.rank(lost, **NAMES)["score"]).sum() == 24
    assert "2 of 200 requests have no candidate with all predictions and keep the frame's order" in caplog.text
    assert "'p_order' has no value in 24 of 2,400 rows" in caplog.text


def test_a_value_that_the_policy_does_not_know_is_named(frame, model, caplog):
    rows = frame.to_pandas()
    model.rank(rows, **NAMES)
    assert not caplog.text
    model.rank(rows.assign(device=rows["device"].replace("web", "wbe")), **NAMES)
    assert (
        "'device' (feature): the policy knows no 'wbe', in 33.5% of the requests; it knows 7, app, web" in caplog.text
    )


def test_pages_become_frames(frame, model):
    page = model.rank(Logs.from_table(frame, like=model).select([0, 1]), k=3)
    rows = page.to_pandas()
    assert list(rows) == ["request", "rank", "item", "score", "from_click", "from_order"]
    assert rows["rank"].tolist() == [1, 2, 3, 1, 2, 3] and rows["item"].tolist() == page.items.ravel().tolist()
    assert np.array_equal(rows["from_order"], page.contributions[:, :, 1].ravel())
    assert page.to_polars()["request"].to_list() == np.repeat(page.ids.request, 3).tolist()
