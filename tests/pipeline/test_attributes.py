"""Attributes of users and items, embeddings among them, in every model, in the correction and in serving."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import polars as pl
import pytest

from pygrade import mtl, prerank
from pygrade._util.serialization import read_json
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import CheckConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.config.training import RewardConfig
from pygrade.data.event_log import EventLog
from pygrade.data.event_writer import EventWriter
from pygrade.features import FeatureCenter, SchemaError, default_schema, find_leaks, materialize
from pygrade.features.values import projected, tags_of
from pygrade.logs import read_logs
from pygrade.metrics.roc import auc
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.mtl import mtl_columns, mtl_rows
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import Baseline, FusionPolicy, Mixture
from pygrade.serving.pipeline import Pipeline, load_models, open_artifact, store_address
from pygrade.stores import open_store
from tests.pipeline import shop
from tests.pipeline.test_run import stage
from tests.pipeline.world import CONFIG, copy

OWN = replace(
    CONFIG,
    predictions="own",
    mtl=MtlConfig(),
    candidates=0,
    policy_requests=0,
    min_events=20,
    keep_prerank=True,
    train=replace(CONFIG.train, reward=RewardConfig(propensity=0.0)),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "log"
    folder.mkdir()
    shop.import_shop(None, EventWriter(folder))
    return EventLog.open(folder)


@pytest.fixture(scope="module")
def features(log, tmp_path_factory):
    return materialize(log, default_schema(log), tmp_path_factory.mktemp("features") / "set")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run on the log's own predictions, which know nothing of attributes. Do not write into it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "data").mkdir()
    points = [EntryPoint("shop", "tests.pipeline.shop:import_shop", "pygrade.datasets")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pygrade.data.events.entry_points", lambda **_: points)
        run_pipeline(f"shop:{folder / 'data'}", folder / "run", OWN)
    return folder / "run"


def test_the_default_schema_has_a_feature_of_every_kind(log):
    made = {f.name: (f.kind, f.transform, f.length) for f in default_schema(log).features}
    assert made["user_plan"] == ("categorical", "none", 0) and made["user_age"] == ("dense", "log1p", 0)
    assert made["user_taste"] == made["item_text"] == ("vector", "none", shop.DIMENSIONS)
    assert made["item_tags"] == ("list", "none", 3) and made["item_made"] == ("dense", "age", 0)
    assert made["item_cost"] == ("dense", "log1p", 0) and made["item_value"] == ("dense", "none", 0)
    wrong = replace(shop.SOURCE, items={**shop.SOURCE.items, "brand": "embedding"}, category=None)
    log = EventLog.open(log.path)
    log.source["items"] = wrong.items
    with pytest.raises(SchemaError, match=r"items\.brand is of the kind 'embedding', and String"):
        default_schema(log)


def test_what_has_no_feature_is_said(log, caplog):
    log = EventLog.open(log.path)
    odd = log.items().with_columns(
        (pl.col("cost") - 5).alias("cost"),
        pl.lit(None, pl.List(pl.Float32)).alias("text"),
        pl.col("made").cast(pl.Datetime("ms")).alias("since"),
    )
    log.items = lambda: odd
    made = {feature.name: feature for feature in default_schema(log).features}
    assert made["item_cost"].transform == "none"  # some are negative
    assert "item_text" not in made and "features: items.text is left out: it has no value" in caplog.text
    assert "item_since" not in made and "features: items.since is left out: it is Datetime" in caplog.text


def test_planted_effects_are_found_by_the_model(features):
    """Later items were shown some three times before, so that nothing but attributes tells of them."""
    columns = mtl_columns(features)
    assert {"user_taste_5", "item_text_0", "item_cost"} <= {*columns.dense} and "item_tags_2" in columns.ids
    times = mtl.count_times(batch.timestamp for batch in features.batches())
    config = MtlConfig(epochs=3, expert_hidden=32, refit=False)
    timeline = times.split((0.6, 0.1, 0.1))
    model = mtl.fit_stream(mtl_rows(features, shop.TASKS), shop.TASKS, timeline, columns, config)
    later = list(features.batches(timeline.calibrate_end))
    feedback = np.concatenate([batch.feedback for batch in later])
    found = np.concatenate([mtl.predict(model, *batch.model_inputs()) for batch in later])
    areas = {task: auc(feedback[:, t], found[:, t]).value for t, task in enumerate(shop.TASKS)}
    assert areas["click"] > 0.64 and areas["like"] > 0.68 and areas["cart"] > 0.7 and areas["order"] > 0.58, areas


def test_the_towers_find_items_by_their_embeddings(features):
    config = PrerankConfig(width=16, hidden=32, epochs=6, refit=False)
    end = int(np.quantile(np.concatenate([batch.timestamp for batch in features.batches()]), 0.8))
    weights = (1.0, 0.0, 0.0, 0.0)
    fitted = prerank.fit(lambda: features.batches(None, end), weights, config)
    built = prerank.Prerank.build(fitted, prerank.Catalog.from_batches(features.batches))
    popular = prerank.Popularity.fit(lambda: features.batches(None, end), weights)
    found = prerank.evaluate(built, lambda: features.batches(end), popular, 400)
    assert found.difference.low > 0.01 and found.recall.value > 0.17


@pytest.mark.slow
def test_planted_effects_are_found_by_the_correction(own):
    policy = FusionPolicy.load(own / "artifact/policy")
    correction = policy.correction
    assert {"user_plan=pro", "c_device=phone"} <= {*policy.features} and "user_taste_0" not in policy.features
    assert "c_device=web" not in policy.features  # the other of two levels
    assert {"item_cost", "item_made", "item_brand=acme", "item_tags=red"} <= {*correction.items}
    assert "item_text_0" not in correction.items
    inputs = ["1", *policy.features, *(f"missing {policy.features[i]}" for i in correction.indicators)]
    first, second = [*inputs, *policy.tasks, *correction.items], ["1", *policy.tasks, *correction.items]

    def weight(task, of_request, of_item):
        return correction.weights[shop.TASKS.index(task), first.index(of_request), second.index(of_item)]

    assert weight("like", "1", "item_tags=red") > 0.4 and abs(weight("cart", "1", "item_tags=red")) < 0.2
    assert weight("cart", "1", "item_brand=acme") > 0.4 and abs(weight("like", "1", "item_brand=acme")) < 0.2
    assert weight("order", "1", "item_cost") < -0.2 and weight("order", "user_plan=pro", "item_cost") > 0.1
    proof = read_json(own / "summary.json")["stages"]["policy"]["cross_fit"]["proof"]
    assert proof["replay"]["low"] > 0.05


@pytest.mark.slow
def test_the_policys_log_has_the_columns_as_of_the_request(own):
    events = EventLog.open(stage(own, "events") / "log")
    logs = read_logs(stage(own, "logs") / "policy")
    items = events.items().rows_by_key("item_id", named=True, unique=True)
    users = events.users().rows_by_key("user_id", named=True, unique=True)
    when = logs.timestamp[logs.row_request]
    columns = dict(zip(logs.items, logs.item_features.T, strict=True))
    shown = events.scan().collect()  # all rows are
    for row in range(0, logs.num_rows, 97):
        item = items[int(logs.item_id[row])]
        assert columns["item_cost"][row] == pytest.approx(np.log1p(item["cost"]), rel=1e-6)
        assert columns["item_made"][row] == pytest.approx(np.log1p((when[row] - item["made"]) / 3.6e6), rel=1e-6)
        assert columns["item_brand=acme"][row] == (item["brand"] == "acme")
        assert columns["item_tags=red"][row] == ("red" in (item["tags"] or ""))
        assert logs.value[row] == pytest.approx(item["cost"])
        before = shown.filter((shown["item_id"] == logs.item_id[row]) & (shown["event_time"] < when[row]))
        assert columns["item_count"][row] == pytest.approx(np.log1p(len(before)), abs=1e-6)
    assert {f"item_{task}_rate" for task in shop.TASKS} < {*columns}
    plan = logs.features.index("user_plan=team")
    assert logs.context[:, plan].tolist() == [users[int(u)]["plan"] == "team" for u in logs.user_id]


def test_offline_and_online_pages_are_equal(own, tmp_path):
    folder = copy(own, tmp_path / "run")
    record = serve_check(folder, CheckConfig(requests=20))
    assert record["equal_pages"] == 20
    compared = record["skew"]
    assert all(entry["equal"] == 1.0 for entry in compared.values())
    assert {"user_taste_0", "item_text_5", "item_tags_0", "item_cost", "user_plan"} <= {*compared}


def test_pages_have_the_item_columns_of_the_store(own):
    system = Pipeline.load(own, seed=0, predict=lambda rows: np.full((len(rows.item_id), 4), 0.3))
    asked = {"k": 4, "timestamp": shop.START + 31 * shop.DAY, "item_ids": np.arange(1, 60)}
    with_model = system.rank(110, **asked)
    given = system.rank(110, **asked, predictions=np.full((59, 4), 0.3))  # items are read for the correction alone
    assert given.scores.tobytes() == with_model.scores.tobytes()
    names = system.models.policy.correction.items
    place = names.index("item_brand=acme")
    assert 0 < with_model.page.item_columns[:, place].sum() < 59
    none = np.zeros(59, np.float32)
    other = system.rank(110, **asked, item_features={"item_brand=acme": none})
    assert not other.page.item_columns[:, place].any() and other.scores.tobytes() != with_model.scores.tobytes()
    unknown = system.rank(110, k=2, timestamp=0, item_ids=[10**6, 3])  # no such item: unknown numbers, no level
    columns = unknown.page.item_columns
    assert np.isnan(columns[0, names.index("item_cost")]) and columns[0, place] == 0.0
    system.close()


def test_prices_come_from_the_store(own, tmp_path):
    folder = copy(own, tmp_path / "run")
    models = load_models(open_artifact(folder / "artifact"))
    baseline = Baseline("expected value", "identity", (1.0, 1.0, 1.0, 1.0), value_tasks=("order",))
    models.policy.mixture = Mixture(0.3, baseline)
    system = Pipeline(
        models, open_store(store_address(folder, None)), "", seed=0, predict=lambda rows: rows.dense[:, :4]
    )
    costs = EventLog.open(stage(own, "events") / "log").items().sort("item_id")["cost"].to_numpy()
    items = np.arange(1, 40)
    asked = {"k": 5, "item_ids": items, "timestamp": shop.START, "predictions": np.full((39, 4), 0.2)}
    by_itself, told = system.rank(110, **asked), system.rank(110, **asked, item_values=costs[items - 1])
    assert by_itself.scores.tobytes() == told.scores.tobytes()
    assert np.array_equal(by_itself.page.item_values, costs[items - 1].astype(np.float32))
    assert system.rank(110, **asked, item_values=np.ones(39)).scores.tobytes() != told.scores.tobytes()
    system.close()


def test_an_embedding_of_another_length_is_refused(features, log):
    with open_store("memory:") as store:
        center = FeatureCenter(features.schema, features.fitted, store)
        items = log.items().with_columns(pl.lit([1.0, 2.0]).alias("text"))
        with pytest.raises(SchemaError, match="items: 'text' of item_id 1 has 2 numbers"):
            center.publish(features.state(), log.users(), items, "v1")
        center.publish(features.state(), log.users(), log.items(), "v1")
        read = center.read(110, [1, 10**7], None, shop.START)
        assert read.column("item_text_3")[0] == np.float32(log.items()["text"][0][3])
        assert np.isnan(read.column("item_text_3")[1])
        assert read.normalized().item_dense[1, read.names["item_dense"].index("item_text_3")] == 0.0


def test_features_of_attributes_know_no_future(log):
    assert find_leaks(log, default_schema(log), cuts=1, rows=2_000) == []


def test_long_embeddings_are_projected(log, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 300)).astype(np.float32)
    short = projected(vectors, 64)
    assert short.tobytes() == np.concatenate([projected(row[None], 64) for row in vectors]).tobytes()
    apart = [np.square(v[:20] - v[20:]).sum(1) for v in (vectors, short)]
    assert np.allclose(apart[1] / apart[0], 1.0, atol=0.6) and projected(short, 64) is short
    log = EventLog.open(log.path)
    long = log.items().with_columns(pl.Series("text", rng.normal(size=(shop.ITEMS, 70)).astype(np.float32)))
    log.items = lambda: long
    (made,) = (f for f in default_schema(log).features if f.name == "item_text")
    assert (made.length, made.size) == (64, 70)


def test_tags_of_texts():
    column = pl.Series("tags", ["red, cotton;wool|red", " ,", "", None, "summer"])
    assert tags_of(column).to_list() == [["red", "cotton", "wool"], [], [], None, ["summer"]]
