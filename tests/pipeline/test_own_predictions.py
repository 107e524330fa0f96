"""`--mtl own`: the policy fuses the log's own predictions, and whoever serves it gives them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars
import pytest

from pygrade.cli import main as cli
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import CheckConfig, PipelineConfig
from pygrade.data.events import EventLog
from pygrade.features import FeatureSet
from pygrade.logs import read_logs
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.mtl import OwnPredictions
from pygrade.pipeline.run import run_pipeline
from pygrade.serving.artifact import open_artifact
from pygrade.serving.pipeline import Pipeline
from pygrade.serving.ranker import BlendedRanker
from tests.pipeline.test_run import stage, summary_of
from tests.pipeline.world import CONFIG, write_log
from tests.refusals import refuses

OWN = replace(CONFIG, predictions="own", mtl=MtlConfig(), candidates=0)
NOW = 1_700_003_000_000
TASKS = ("click", "like", "order")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run on own predictions. Do not write into it."""
    folder = tmp_path_factory.mktemp("own")
    run_pipeline(write_log(folder / "log"), folder / "run", OWN)
    return folder / "run"


def half(rows):
    """A model: of item i the predictions are (1, 2, 3) / (4 + i mod 5)."""
    return np.array([1.0, 2.0, 3.0]) / (4 + rows.item_id % 5)[:, None] / 3


def test_the_policy_learns_from_the_predictions_of_the_log(own):
    raw = polars.read_parquet(own.parent / "log" / "*.parquet")
    for part in ("policy", "evaluate"):
        logs = read_logs(stage(own, "logs") / part)
        assert logs.tasks == TASKS and np.diff(logs.offsets).tolist() == [8] * logs.num_requests  # nothing is added
        rows = raw.filter(polars.col("request_id").is_in(logs.request_id.tolist()))
        order = np.lexsort((rows["item_id"].to_numpy(), rows["request_id"].to_numpy()))
        mine = np.lexsort((logs.item_id, logs.request_id[logs.row_request]))
        for t, task in enumerate(TASKS):
            assert np.array_equal(rows[f"p_{task}"].to_numpy()[order], logs.predictions[mine, t])
    stages = summary_of(own)["stages"]
    assert stages["mtl"]["network"] == "own" and stages["mtl"]["tasks"] == list(TASKS)
    assert stages["logs"]["predictions"]["click"]["ece_before"] is None
    page = (own / "report.html").read_text()
    assert "of your own model" in page and ">Multi-task model<" not in page


def test_the_artifact_has_no_model_and_says_so(own):
    artifact = open_artifact(own / "artifact")
    assert artifact.own_predictions and not artifact.part("mtl").exists()
    system = Pipeline.load(own)
    refuses(ValueError, r"predictions is missing: .*--mtl own", system.rank, 3)
    system.close()


def test_predictions_of_a_request_make_the_page_that_predict_makes(own):
    rows = []

    def predict(given):
        rows.append(given)
        return half(given)

    system = Pipeline.load(own, seed=0, predict=predict)
    items = np.arange(200)[::-1]
    asked = {"k": 5, "item_ids": items, "scenario": "feed", "timestamp": NOW, "context": {"c_hour": 2.0}}
    wanted = system.rank(3, **asked, user_data={"who": 3})
    assert rows[-1].user_data == {"who": 3} and rows[-1].first == 0
    system.rank(3, **asked, deadline=100.0)
    assert [part.first for part in rows[2:]] == [0, 128] and rows[-1].user_data is None
    system.close()
    system = Pipeline.load(own, seed=0)
    predictions = half(rows[1])
    served = system.rank(3, **asked, predictions=predictions)
    assert served.scores.tobytes() == wanted.scores.tobytes() and served.items.tolist() == wanted.items.tolist()
    assert served.features.item_dense.shape == (200, 0) and not served.degraded
    late = system.rank(3, **asked, predictions=predictions, deadline=0.0)
    assert late.degraded == "deadline" and late.page.fallback[0] and len(late.items) == 5
    for wrong in ({"item_ids": None}, {"predictions": predictions[:7]}):
        with pytest.raises(ValueError, match=r"predictions has shape .* expected \[n, T\] of item_ids"):
            system.rank(3, **asked | {"predictions": predictions} | wrong)
    with pytest.raises(ValueError, match="item_features names 'distance'"):
        system.rank(3, **asked, predictions=predictions, item_features={"distance": np.ones(200)})
    system.close()


def test_a_page_is_the_rankers_of_the_callers_predictions(own):
    asked = []

    def predict(rows):
        asked.append(rows)
        return half(rows)

    system = Pipeline.load(own, seed=0, predict=predict)
    assert asked[0].user_id is None  # what a request gets that runs out of time
    served = system.rank(3, k=5, candidates=40, scenario="feed", timestamp=NOW, context={"c_hour": 2.0})
    (rows,) = asked[1:]
    assert (rows.user_id, rows.timestamp, rows.scenario) == (3, NOW, "feed")
    assert np.array_equal(rows.item_id, served.features.item_id) and len(rows.item_id) == 40
    dense, ids = served.features.model_inputs()
    assert np.array_equal(np.concatenate([np.tile(rows.request_dense, (40, 1)), rows.dense], 1), dense)
    assert np.array_equal(np.concatenate([np.tile(rows.request_ids, (40, 1)), rows.ids], 1), ids)
    expected = half(rows).astype(np.float32)
    assert np.array_equal(served.predictions, expected)
    ranker = BlendedRanker(system.models.policy, seed=0)
    context = served.features.request_dense
    page = ranker.rank(context, expected, 5, offsets=served.features.offsets, scenario=["feed"])
    assert page.values.tobytes() == served.page.values.tobytes()
    assert page.indices.tobytes() == served.page.indices.tobytes()
    system.close()


def test_what_the_model_does_not_know_ranks_last_and_errors_reach_the_caller(own):
    def predict(rows):
        known = half(rows)
        known[rows.item_id == 7] = np.nan
        if rows.user_id == 4:
            raise KeyError("no such user")
        return known if rows.user_id != 5 else known[:, :2]

    system = Pipeline.load(own, seed=0, predict=predict)
    assert system.rank(3, k=4, item_ids=[7, 1, 2, 3], timestamp=NOW).items[-1] == 7
    refuses(KeyError, "no such user", system.rank, 4, item_ids=[1, 2], timestamp=NOW)
    refuses(ValueError, r"predict gave shape \(2, 2\)", system.rank, 5, item_ids=[1, 2], timestamp=NOW)
    system.close()


def test_pages_are_equal_offline_online_and_in_the_library(own, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(own, run, symlinks=True)
    found = serve_check(run, CheckConfig(requests=12, k=5))
    assert found["equal_pages"] == found["requests"] == 12
    assert found["candidates"] == 8  # those of the log


def test_commands_that_have_no_model_say_what_works(own, capsys):
    assert cli.main(["rank", "--run", str(own), "--user", "3", "--allow-unproven"]) == 2
    assert "predictions is missing" in capsys.readouterr().err


def test_a_model_beside_that_of_the_artifact_is_refused(run):
    refuses(ValueError, "predict is given", Pipeline.load, run, predict=half)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": "both"}, "predictions is 'both'; expected one of mtl, own"),
        ({"predictions": "own", "mtl": MtlConfig(epochs=3)}, "mtl.… are options of a multi-task model"),
        ({"predictions": "own", "candidates": 7}, "candidates is 7, and predictions is 'own'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    refuses(ValueError, message, PipelineConfig, **options)


def altered(own, folder, change):
    """The address of a copy of the log whose table is changed."""
    (part,) = (own.parent / "log").glob("*.parquet")
    folder.mkdir()
    change(polars.read_parquet(part)).write_parquet(folder / "part.parquet")
    return f"logs:{folder}"


def test_a_task_without_predictions_is_left_out(own, tmp_path, caplog):
    data = altered(own, tmp_path / "log", lambda table: table.drop("p_like"))
    found = run_pipeline(data, tmp_path / "run", OWN)
    assert found["stages"]["mtl"]["tasks"] == ["click", "order"]
    assert "no column p_like; the task is left out" in caplog.text
    with pytest.raises(ValueError, match=r"tasks names 'like'.*p_like"):
        run_pipeline(data, tmp_path / "run", replace(OWN, tasks=("click", "like")))


def test_predictions_of_a_task_without_events_stay_an_input(own, tmp_path):
    nothing = polars.col("y_order") * 0.0
    data = altered(own, tmp_path / "log", lambda table: table.with_columns(nothing))
    found = run_pipeline(data, tmp_path / "run", OWN)["stages"]["mtl"]
    assert found["tasks"] == list(TASKS) and found["unvalued"] == ["order"] and not found["left_out"]
    logs = read_logs(stage(tmp_path / "run", "logs") / "policy")
    assert logs.tasks == TASKS and logs.task_values[2] == 0 and logs.predictions[:, 2].std() > 0
    system = Pipeline.load(tmp_path / "run", seed=0, predict=half)
    assert len(system.rank(3, k=4, item_ids=[7, 1, 2, 3], timestamp=NOW).items) == 4
    system.close()


def test_a_log_without_predictions_and_a_missing_one_are_named(own, tmp_path):
    data = altered(own, tmp_path / "log", lambda table: table.drop("p_click", "p_like", "p_order"))
    refuses(ValueError, "the data has no column p_<task>", run_pipeline, data, tmp_path / "run", OWN)
    log = EventLog.open(stage(own, "events") / "log")
    features = FeatureSet.open(stage(own, "features") / "set")
    batch = next(features.batches(requests=4))
    strange = replace(batch, item_id=np.where(np.arange(len(batch.item_id)) == 9, 10**9, batch.item_id))
    with pytest.raises(ValueError, match=r"column 'p_click', request \d+, item 1000000000: null"):
        OwnPredictions(log, TASKS)(strange)


def test_the_command_line_takes_mtl_own(own, tmp_path, capsys):
    given = ["--min-events", "2", "--prerank.epochs", "1", "--no-prerank.refit"]
    given += ["--train.stage1.steps", "2", "--train.stage2.steps", "2", "--train.cross-fit.folds", "0"]
    command = ["pipeline", "--data", f"logs:{own.parent / 'log'}", "--mtl", "own", "--out", str(tmp_path / "run")]
    assert cli.main([*command, *given, "--quiet", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["options"]["predictions"] == "own" and record["stages"]["mtl"]["network"] == "own"


def test_a_log_without_feedback_is_named(own, tmp_path):
    nothing = [polars.col(f"y_{task}") * 0.0 for task in TASKS]
    data = altered(own, tmp_path / "log", lambda table: table.with_columns(nothing))
    refuses(ValueError, "no shown row has feedback", run_pipeline, data, tmp_path / "run", OWN)
