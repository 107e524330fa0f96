"""Directories of runs: whose they are, the options they keep, and two of them compared."""

import json
import shutil
import tomllib

import pytest

from pygrade.cli import main as cli
from pygrade.cli.parse import parse
from pygrade.cli.run_directory import write_options
from pygrade.policy import FusionPolicy
from tests.cli.test_cli import TINY, WORLD, result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A log, a training with seed 0 and one with seed 3, a fixed propensity."""
    path = tmp_path_factory.mktemp("runs")
    assert cli.main(["simulate", "--out", str(path / "logs"), "--requests", "200", "--quiet", *WORLD]) == 0
    other = ["--seed", "3", "--reward.propensity", "0.5", "--values", "order=20"]
    for name, more in (("one", []), ("two", other)):
        assert cli.main([*training(path, name), *more]) == 0
    return path


def training(path, out):
    place = ["--data", f"logs:{path / 'logs'}", "--out", str(path / out)]
    return ["train", *place, "--quiet", *TINY, "--cross-fit.folds", "0"]


def test_a_run_keeps_its_options_and_they_give_the_run_again(capsys, runs):
    stored = runs / "two" / "options.toml"
    table = tomllib.loads(stored.read_text())["train"]
    assert (table["seed"], table["reward"]["propensity"], table["values"]) == (3, 0.5, {"order": 20.0})
    assert table["stage2"]["steps"] == 6 and table["policy"]["transform"] == "zlog" and "quiet" not in table
    policy, before = runs / "two" / "policy" / "policy.json", stored.read_bytes()
    version = json.loads(policy.read_text())["version"]
    assert cli.main(["train", "--config", str(stored), "--out", str(runs / "again"), "--quiet"]) == 0
    assert json.loads((runs / "again" / "policy" / "policy.json").read_text())["version"] == version
    assert stored.read_bytes() == before
    assert tomllib.loads((runs / "logs" / "options.toml").read_text())["simulate"]["requests"] == 200


def test_a_resumed_run_names_the_options_that_differ(capsys, runs):
    before = (runs / "one" / "options.toml").read_bytes()
    arguments = [word for word in training(runs, "one") if word != "--quiet"]
    assert cli.main([*arguments, "--seed", "5", "--threads", "2"]) == 2
    printed = capsys.readouterr().err
    assert "--seed is 5; the run in" in printed and "--threads is 2; the run in" in printed and "has 1" in printed
    last = printed.splitlines()[-1]
    assert "other options: --seed is 5, the run has 0;" in last and "--no-resume" in last
    assert (runs / "one" / "options.toml").read_bytes() == before


def test_compare_shows_options_and_metrics_of_both(capsys, runs):
    arguments = ["evaluate", str(runs / "one"), str(runs / "two")]
    record = result(capsys, *arguments)
    changed = {"seed": [0, 3], "reward.propensity": ["estimate", 0.5], "values.order": [None, 20.0]}
    assert record["options"] == changed and record["command"] == "train"
    replay = json.loads((runs / "two" / "evaluation.json").read_text())
    assert record["metrics"]["value@10, GRADE"][1] == replay["rankers"]["GRADE"]["value"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "--reward.propensity" in printed and "value@10, GRADE" in printed and "NDCG@10, best static" in printed
    assert cli.main(["evaluate", str(runs / "one"), str(runs / "one")]) == 0
    assert "all options are equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "names 1 directories; expected two"),
        (["one", "logs"], "is of pygrade simulate"),
        (["one", "no"], "has no"),
    ],
)
def test_compare_refuses_what_is_no_run(capsys, runs, names, message):
    assert cli.main(["evaluate", *(str(runs / name) for name in names)]) == 2
    assert message in capsys.readouterr().err


def files_of(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_commands_refuse_the_directory_of_another_one(capsys, runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    before = files_of(tmp_path / "run")
    data, out = ["--data", f"logs:{runs / 'logs'}"], ["--out", str(tmp_path / "run")]
    for command in (["pipeline", *data], ["demo"], ["simulate"]):
        assert cli.main([*command, *out]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path / "run") in error and "expected" in error, command
    assert cli.main(["rank", *data, "--policy", str(runs / "one" / "policy"), "--log", out[1]]) == 2
    assert files_of(tmp_path / "run") == before


def test_a_file_or_the_data_is_no_place_for_results(capsys, runs, tmp_path):
    (tmp_path / "file").write_text("mine")
    data, before = f"logs:{runs / 'logs'}", files_of(runs / "logs")
    for command in ("train", "pipeline"):
        for out in (tmp_path / "file", runs / "logs", runs / "logs" / "run"):
            assert cli.main([command, "--data", data, "--out", str(out)]) == 2
            assert f"out is {out}" in capsys.readouterr().err
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "a file; expected a directory" in capsys.readouterr().err
    policy = str(runs / "one" / "policy")
    assert cli.main(["export", "--policy", policy, "--out", str(runs / "one")]) == 2
    assert "a directory; expected a file" in capsys.readouterr().err
    assert files_of(runs / "logs") == before and (tmp_path / "file").read_text() == "mine"


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_tracked_run_is_in_mlflow(capsys, runs, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'pygrade-ranking[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="pip install 'pygrade-ranking[mlflow]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    assert cli.main([*training(runs, "one"), "--track", "mlflow:sqlite:///runs.db#shop"]) == 0
    client = mlflow.MlflowClient("sqlite:///runs.db", "sqlite:///runs.db")
    model = client.get_model_version_by_alias("shop", "newest")
    data = client.get_run(model.run_id).data
    assert data.params["stage2.steps"] == "6" and data.params["policy.transform"] == "zlog"
    replay = json.loads((runs / "one" / "evaluation.json").read_text())
    assert data.metrics["value_at_10/GRADE"] == pytest.approx(replay["rankers"]["GRADE"]["value"]["value"])
    assert len(client.get_metric_history(model.run_id, "stage2/reward")) == 6
    assert {"options.toml", "report.html", "model"} <= {entry.path for entry in client.list_artifacts(model.run_id)}
    mlflow.set_tracking_uri("sqlite:///runs.db")
    mlflow.set_registry_uri("sqlite:///runs.db")
    folder = mlflow.artifacts.download_artifacts("models:/shop@newest", dst_path="down")
    policy = json.loads((runs / "one" / "policy" / "policy.json").read_text())
    assert FusionPolicy.load(folder).version == policy["version"] == model.tags["pygrade.version"]


def test_a_bad_address_costs_no_training(capsys, runs, tmp_path):
    for command in ("train", "pipeline"):
        arguments = [command, "--data", f"logs:{runs / 'logs'}", "--out", str(tmp_path / "x"), "--track", "wandb:x"]
        assert cli.main(arguments) == 2
        assert "expected mlflow:URI" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_stored_options_keep_no_password(tmp_path):
    words = ["--data", "logs:x", "--out", "y", "--store", "redis://me:secret@host:1/2"]
    write_options(parse("pipeline", words), "pipeline", tmp_path)
    stored = (tmp_path / "options.toml").read_text()
    assert "secret" not in stored and 'store = "redis://host:1/2"' in stored
