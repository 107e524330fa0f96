"""The demo, end to end on a tiny world."""

import json
from dataclasses import replace

import pytest

from pygrade._util.serialization import to_builtins
from pygrade.cli.commands import demo as command
from pygrade.config.simulation import DemoConfig, DemoOptions, SimulateConfig
from pygrade.config.training import CemConfig, CrossFitConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, PRODUCTION, SERVED, STAGE1, STATIC
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation import demo as demo_module
from pygrade.simulation.demo import demo
from pygrade.simulation.marketplace import MarketplaceConfig

CONFIG = DemoConfig(
    requests=300,
    test_requests=150,
    pages=2,
    simulate=SimulateConfig(world=MarketplaceConfig(log_users=100, test_users=60, items=200)),
    train=TrainConfig(
        stage1=Stage1Config(steps=4, batch_size=16),
        stage2=Stage2Config(steps=6, batch_size=16, group_size=4),
        static=CemConfig(iterations=2, population=6, elite=2, subsample=200),
        cross_fit=CrossFitConfig(folds=2),
        checkpoint_every=2,
        tensorboard=False,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, demo(CONFIG, out)


def test_the_demo_writes_its_files_and_lifts(finished):
    out, result = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"]["sentence"] == summary["cross_fit"]["sentence"] == result.summary["verdict"]["sentence"]
    assert summary["seed"] == 0 and summary["wall_seconds"] > 0 and summary["test_requests"] == 150
    assert {EXPECTED_VALUE, STATIC, PRODUCTION, STAGE1, GRADE, SERVED} <= set(summary["arms"])
    for kind in ("expected", "sampled"):
        value = summary["arms"][GRADE][kind]["value"]
        for against, baseline in (("lift_over_production", PRODUCTION), ("lift_over_baseline", summary["baseline"])):
            other = summary["arms"][baseline][kind]["value"]["value"]
            assert value[against]["value"] == pytest.approx(value["value"] / other - 1, rel=1e-9)
            assert value[against]["low"] <= value[against]["value"] <= value[against]["high"]
    assert summary["arms"][PRODUCTION]["expected"]["ctr"]["lift_over_production"] is None
    assert result.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not [path for path in out.rglob("*partial*")]
    decision = json.loads((out / "decision.json").read_text())
    assert decision == to_builtins(result.decision) and decision["requests"] == 150
    assert summary["decision"] == {name: decision[name] for name in ("sentence", "action", "requests", "true_lift")}
    report = result.report.read_text(encoding="utf-8")
    assert "The decision of a simulated test" in report and report.count(decision["sentence"]) >= 1
    assert BlendedRanker.load(out / "policy").version == summary["policy_version"]


def test_the_demo_ends_with_the_decision_and_how_to_open_its_report(finished, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "demo", lambda *_: finished[1])
    command.run(DemoOptions(out=tmp_path / "run"))
    *lines, report = capsys.readouterr().out.splitlines()
    test = f"Simulated A/B test of the verdict: {finished[1].decision.sentence}; the truth"
    assert sum(line.startswith(test) for line in lines) == 1
    assert report == f"report: {finished[1].report}    open it in a browser: {finished[1].report.as_uri()}"


def test_without_grade_the_demo_has_no_arms_of_its_stages(tmp_path):
    result = demo(replace(CONFIG, train=replace(CONFIG.train, grade=False)), tmp_path / "run")
    assert not {STAGE1, GRADE} & result.summary["arms"].keys() and SERVED in result.summary["arms"]
    assert result.report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_pages_come_from_the_saved_policy_and_add_up(finished):
    out, result = finished
    assert json.loads((out / "pages.json").read_text())["pages"] == result.pages
    assert len(result.pages) == 2
    for page in result.pages:
        assert len(page["items"]) == 10 and not page["fallback"]
        assert sum(page["weights"]) == pytest.approx(1, abs=1e-5)
        for item in page["items"]:
            parts = sum(item["contributions"]) + item.get("baseline", 0.0)
            if page["weighs"]:
                assert parts == pytest.approx(item["score"], rel=1e-4, abs=1e-5)
            else:  # amounts of an expected value, whose standardized logarithm the score is
                assert sum(item["contributions"]) == pytest.approx(item["sum"], rel=1e-4)
        scores = [item["score"] for item in page["items"]]
        assert scores == sorted(scores, reverse=True)


def test_an_interrupted_demo_continues_with_the_same_result(finished, tmp_path, monkeypatch):
    out, _ = finished
    monkeypatch.setattr(demo_module, "write_report", lambda run, *_: run / "report.html")  # slow, and tested above
    real = demo_module.fit

    def interrupted(logs, config, directory, **options):
        def stop(stage, step):
            if (stage, step) == ("stage2", 3):
                raise KeyboardInterrupt

        return real(logs, config, directory, on_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    stamp = (tmp_path / "run" / "logs" / "part-00000.parquet").stat().st_mtime_ns
    result = demo(CONFIG, tmp_path / "run")
    assert result.summary["resumed_from"] == "stage2-000002"
    assert (tmp_path / "run" / "logs" / "part-00000.parquet").stat().st_mtime_ns == stamp
    for name in (
        "policy/policy.json",
        "abtest.json",
        "decision.json",
        "pages.json",
    ):  # the JSON names its tensors by their hash
        assert (tmp_path / "run" / name).read_bytes() == (out / name).read_bytes()


def test_other_options_start_again_and_other_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "write_report", lambda run, *_: run / "report.html")
    out = tmp_path / "run"
    demo(replace(CONFIG, test_requests=20), out)
    result = demo(replace(CONFIG, test_requests=20, seed=1), out)
    assert result.summary["resumed_from"] is None and result.summary["seed"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        demo(CONFIG, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
