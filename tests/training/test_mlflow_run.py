"""Runs in MLflow, in a local database: options, learning curves, metrics, files, a model with an alias."""

import json
from importlib.util import find_spec

import pytest

from pygrade.training.mlflow_run import ALIAS, VERSION, MlflowRun, metric_name

pytestmark = [
    pytest.mark.skipif(
        find_spec("mlflow") is None or find_spec("sqlalchemy") is None, reason="pip install 'pygrade-ranking[mlflow]'"
    ),
    pytest.mark.filterwarnings("ignore"),  # MLflow's own
]
STEPS = [{"stage": s, "step": n, "loss": 1 / n, "bad": float("nan")} for s in ("stage1", "stage2") for n in (1, 2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A database, and the files of a run; artifacts of a local database lie in the working directory."""
    path = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(path)
        (path / "policy").mkdir()
        (path / "policy" / "policy.json").write_text("{}")
        (path / "report.html").write_text("<html>")
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in STEPS))
        yield path


def reported(place, version="v1", name="shop"):
    options = {f"option{number}": str(number) for number in range(130)} | {"long": "x" * 9000}
    metrics = {"value@10, GRADE": 0.5, "value@10, GRADE.low": None}
    run = MlflowRun(f"mlflow:sqlite:///{place / 'runs.db'}#{name}")
    files = [place / "report.html"]
    return run, run.report("train mine", options, metrics, place / "metrics.jsonl", files, place / "policy", version)


@pytest.mark.slow
def test_a_run_is_reported_and_its_model_found_by_the_alias(place):
    from mlflow import MlflowClient, artifacts, set_registry_uri, set_tracking_uri

    run, number = reported(place)
    client = MlflowClient(run.uri, run.uri)
    found = client.get_model_version_by_alias("shop", ALIAS)
    assert (str(found.version), found.tags[VERSION]) == (number, "v1") and number == "1"
    data = client.get_run(found.run_id).data
    assert data.params["option129"] == "129" and len(data.params["long"]) == 500
    assert data.metrics["value_at_10/GRADE"] == 0.5 and not any("bad" in name for name in data.metrics)
    assert [(m.step, m.value) for m in client.get_metric_history(found.run_id, "stage2/loss")] == [(1, 1.0), (2, 0.5)]
    assert client.get_run(found.run_id).info.status == "FINISHED"
    assert [entry.path for entry in client.list_artifacts(found.run_id)] == ["model", "report.html"]
    set_tracking_uri(run.uri)
    set_registry_uri(run.uri)
    assert [path.name for path in place.glob("mlruns/**/policy.json")] == ["policy.json"]
    downloaded = artifacts.download_artifacts(f"models:/shop@{ALIAS}", dst_path=str(place / "down"))
    assert json.loads((place / "down" / "policy.json").read_text()) == {} and str(place) in downloaded


def test_a_version_is_registered_once_and_the_alias_follows_the_newest(place):
    run, first = reported(place, "v1", "twice")
    assert reported(place, "v1", "twice")[1] == first == "1"
    assert reported(place, "v2", "twice")[1] == "2"
    assert int(run._client.get_model_version_by_alias("twice", ALIAS).version) == 2
    assert len(run._client.search_runs([run._experiment])) == 2


def test_a_run_that_cannot_be_reported_is_marked(place):
    run = MlflowRun(f"mlflow:sqlite:///{place / 'runs.db'}#failed")
    with pytest.raises(OSError):
        run.report("t", {}, {}, place / "no.jsonl", [place / "absent"], place / "policy", "v1")
    assert [found.info.status for found in run._client.search_runs([run._experiment])] == ["FAILED"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///x.db", "expected mlflow:URI"),
        ("mlflow:", "expected mlflow:URI"),
        ("mlflow:https://me:secret@host", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow:nonsense://x", "track nonsense://x: "),
    ],
)
def test_a_wrong_address_is_refused_before_anything_is_done(place, address, message):
    with pytest.raises(ValueError, match=message) as error:
        MlflowRun(address)
    assert "secret" not in str(error.value)


def test_names_of_metrics():
    assert metric_name("AUC [x]") == "AUC _x_" and metric_name("value@10, GRADE.low") == "value_at_10/GRADE.low"
