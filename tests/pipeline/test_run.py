"""The whole pipeline on a tiny log: its results, what it repeats, and how it continues after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pygrade import mtl
from pygrade._util.files import directory_lock
from pygrade.cli import main as cli
from pygrade.data.events import EventLog
from pygrade.evaluation.arms import GRADE, STAGE1, STATIC
from pygrade.features import FeatureLeak, FeatureSchema, FeatureSet
from pygrade.logs import read_logs, validate
from pygrade.mtl import TimeSplit
from pygrade.pipeline import features
from pygrade.pipeline import run as module
from pygrade.pipeline.mtl import choose_tasks
from pygrade.pipeline.prerank import fit_prerank
from pygrade.pipeline.run import run_pipeline
from pygrade.pipeline.stages import code_hash
from pygrade.stores import StoreError
from tests.pipeline.world import CONFIG, OTHER, copy, write_log
from tests.refusals import refuses

STAGES = ("events", "features", "leaks", "prerank", "mtl", "logs", "policy", "evaluate", "publish")


def summary_of(run: Path):
    return json.loads((run / "summary.json").read_text())


def stage(run: Path, name: str) -> Path:
    return run / f"{name}-{summary_of(run)['stages'][name]['key']}"


def test_it_leaves_every_stage_an_artifact_and_a_report(run):
    summary = summary_of(run)
    assert tuple(summary["stages"]) == STAGES and summary["data"] == "logs:log"
    assert all(stage(run, name).is_dir() for name in STAGES)
    assert (
        summary["stages"]["publish"]["version"] == json.loads((run / "artifact/manifest.json").read_text())["version"]
    )
    assert str(run.parent) not in (run / "summary.json").read_text()
    page = (run / "report.html").read_text()
    titles = ("Prerank", "Multi-task model", "Held-out learning curve", "Replay of all rankings", "Time")
    for title in (*titles, "Pages side by side", "Options"):
        assert f">{title}<" in page
    assert page.index(summary["stages"]["policy"]["cross_fit"]["sentence"][:40]) < page.index('class="report"')
    assert not [p.name for p in run.iterdir() if p.name.endswith((".work", ".new")) or "partial" in p.name]


def test_every_stage_says_how_good_it_is(run):
    stages = summary_of(run)["stages"]
    assert [own["n"] for own in stages["prerank"]["recall"]] == [50, 100, 500]
    tasks = stages["logs"]["predictions"]
    assert list(tasks) == stages["mtl"]["tasks"] == ["click", "like", "order"]
    for own in tasks.values():
        assert {"auc", "gauc", "log_loss", "log_loss_before", "ece", "ece_before"} <= set(own)
    assert tasks["click"]["positives"] > 0 and tasks["click"]["ece"] != tasks["click"]["ece_before"]
    found = stages["evaluate"]
    assert {STATIC, STAGE1, GRADE} < set(found["replay"]["rankers"])
    assert found["off_policy"] == {} and "slot propensities" in found["off_policy_note"]


def test_the_multi_task_model_knows_what_depends_on_the_request(run):
    schema = FeatureSchema.load(run / "artifact" / "features" / "schema.json")
    columns = mtl.load(run / "artifact" / "mtl").columns
    assert columns.dense[: columns.request_dense] == schema.request_features != columns.dense
    assert columns.ids[: columns.request_ids] == schema.request_id_features != columns.ids


def test_no_part_is_judged_by_what_it_learned_from(run):
    stages = summary_of(run)["stages"]
    bounds = stages["features"]["timeline"]
    early, late = (read_logs(stage(run, "logs") / name) for name in ("policy", "evaluate"))
    assert early.timestamp.min() >= bounds["calibrate_end"] > bounds["stop_end"] > bounds["train_end"]
    assert late.timestamp.min() >= stages["features"]["policy_end"] > early.timestamp.max()


def test_the_logs_are_a_bounded_sample_in_the_contract(run):
    log = EventLog.open(stage(run, "events") / "log")
    early = read_logs(stage(run, "logs") / "policy")
    validate(early)
    assert early.num_requests == CONFIG.policy_requests
    assert np.diff(early.offsets).tolist() == [6 + 2 + 5] * early.num_requests  # shown, stage negatives, of prerank
    rows = log.scan().collect()
    rows = rows.filter(rows["request_id"].is_in(early.request_id.tolist()))
    logged = np.tile(np.arange(13) < 8, early.num_requests)
    assert rows["item_id"].to_list() == early.item_id[logged].tolist()
    assert rows["y_click"].fill_null(0).to_list() == early.feedback[logged, 0].tolist()
    assert not early.shown[~logged].any() and not early.feedback[~logged].any()
    assert early.context.shape[1] == len(early.features) and "user_count" in early.features
    count = early.context[:, early.features.index("user_count")]
    shown = log.scan().collect().drop_nulls("position")
    for r in range(0, early.num_requests, 17):
        before = shown.filter((shown["user_id"] == early.user_id[r]) & (shown["event_time"] < early.timestamp[r]))
        assert count[r] == len(before)


def times(run: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and "lock" not in p.name}


def test_again_does_nothing_and_says_so(run, caplog):
    before = times(run)
    caplog.set_level("INFO", "pygrade")
    found = run_pipeline(f"logs:{run.parent / 'log'}", run, CONFIG)
    said = caplog.text
    assert times(run) == before and all(own["cached"] for own in found["stages"].values())
    assert said.count("done before") == len(STAGES) and "nothing to do" in said


def test_an_option_redoes_what_it_decides(run, tmp_path):
    other = copy(run, tmp_path / "run")
    found = run_pipeline(f"logs:{run.parent / 'log'}", other, OTHER)
    cached = [name for name, own in found["stages"].items() if own["cached"]]
    assert cached == ["events", "features", "leaks", "prerank", "mtl", "logs"]
    before = summary_of(run)["stages"]["publish"]["version"]
    assert found["stages"]["publish"]["version"] != before
    assert json.loads((other / "store.json").read_text())["version"] == found["stages"]["publish"]["version"]


def test_a_leak_and_a_prerank_that_loses_are_said_loudly(run, tmp_path, monkeypatch, caplog):
    """In the log, in the summary, at the top of the report, and again when nothing is to do."""
    other, data = copy(run, tmp_path / "run"), f"logs:{run.parent / 'log'}"
    assert summary_of(run)["stages"]["leaks"] | {"seconds": 0, "peak_mib": 0, "key": 0} == {
        "key": 0,
        "seconds": 0,
        "peak_mib": 0,
        "cached": False,
        "moments": 2,
        "rows": 100_000,
        "leaks": [],
    }
    leak = FeatureLeak("user_count", 5, 0, 7, 1.0, float("nan"))
    monkeypatch.setattr(features, "find_leaks", lambda log, schema, cuts, seed, rows: [leak] * cuts)

    def fit(*args, **options):
        record = fit_prerank(*args, **options)
        difference = {"value": -0.2, "low": -0.3, "high": -0.1}
        return record | {"recall": [entry | {"difference": difference} for entry in record["recall"]]}

    monkeypatch.setattr(module, "fit_prerank", fit)
    config = replace(CONFIG, leak_checks=3, prerank=replace(CONFIG.prerank, epochs=2))
    for _ in range(2):
        caplog.clear()
        summary = run_pipeline(data, other, config)
        leaking, losing, *_ = summary["warnings"]
        assert leaking.startswith("LEAK: the features user_count change") and "recall@500 is" in losing
        assert "difference -0.200, 95 %: -0.300 … -0.100" in losing
        assert all(sentence in caplog.text for sentence in summary["warnings"])
    report = (other / "report.html").read_text()
    assert report.index("LEAK") < report.index('class="report"') and "Prerank is worse than popularity" in report
    assert summary_of(other)["stages"]["leaks"]["leaks"][0]["after"] is None
    without = run_pipeline(data, other, replace(CONFIG, leak_checks=0))
    assert "leaks" not in without["stages"] and without["warnings"] == summary_of(run)["warnings"]


def test_commands_do_not_overwrite_each_others_results(run, tmp_path, capsys):
    mine, data = copy(run, tmp_path / "run"), f"logs:{stage(run, 'logs') / 'policy'}"
    before = times(mine)
    assert cli.main(["train", "--data", data, "--out", str(mine), "--quiet"]) == 2
    assert "holds the results of pygrade pipeline; expected another for train" in capsys.readouterr().err
    assert times(mine) == before
    with directory_lock(tmp_path / "trained", "train"):
        pass
    refuses(ValueError, "holds the results of pygrade train", run_pipeline, data, tmp_path / "trained", CONFIG)
    assert [path.name for path in (tmp_path / "trained").iterdir()] == [".pygrade"]


@pytest.mark.parametrize("store", ["nowhere:1", "redis://127.0.0.1:1/0"])
def test_a_bad_store_is_named_before_the_first_stage(tmp_path, store):
    data = write_log(tmp_path / "log")
    with pytest.raises((ValueError, StoreError), match=r"nowhere|127\.0\.0\.1"):
        run_pipeline(data, tmp_path / "run", CONFIG, store=store)
    assert not list((tmp_path / "run").glob("events-*"))


def test_new_data_redoes_all_and_a_file_beside_it_nothing(run, tmp_path):
    data = tmp_path / "log"
    write_log(data)
    (data / "report.html").write_text("of another command")
    other = copy(run, tmp_path / "run")
    assert all(own["cached"] for own in run_pipeline(f"logs:{data}", other, CONFIG)["stages"].values())
    part = next(data.glob("*.parquet"))
    part.rename(part.with_name("part-9.parquet"))
    assert not any(own["cached"] for own in run_pipeline(f"logs:{data}", other, CONFIG)["stages"].values())


KILLED = """
import os, signal, sys
from pathlib import Path
from pygrade.pipeline import features, stages
from pygrade.pipeline.run import run_pipeline
from pygrade.stores import StoreError
from tests.pipeline.world import CONFIG
point, data, out, code = sys.argv[1:]
stages.code_hash = lambda: code
def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)
def on_step(stage, step):
    if point == f"{stage} {step}":
        die()
if point == "materialize":
    from pygrade.features import materialize as real
    def materialize(*args, **options):
        real(*args, **options)
        die()
    features.materialize = materialize
elif point == "store":
    from pygrade.stores import Store
    Store.switch = die
run_pipeline(data, out, CONFIG, on_step=on_step)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(run, tmp_path):
    data, out = f"logs:{run.parent / 'log'}", tmp_path / "run"
    expected = summary_of(run)["stages"]
    done, one = 0, {**os.environ, "OMP_NUM_THREADS": "1"}
    for point in ("materialize", "stage2 6", "store"):
        # The code of this process also if a build replaces the package meanwhile, which makes every stage new.
        command = [sys.executable, "-c", KILLED, point, data, str(out), code_hash()]
        killed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=one)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        found = [name for name in STAGES if list(out.glob(f"{name}-*"))]
        assert len(found) > done, point
        done = len(found)
        assert not (out / "summary.json").exists()
        if point == "stage2 6":
            (partial,) = out.glob(".policy-*.work")
            assert [p.name for p in (partial / "training" / "checkpoints").iterdir()]
        if point == "store":
            assert not (out / "artifact").exists()
    summary = run_pipeline(data, out, CONFIG)
    assert summary["stages"]["policy"]["resumed_from"] is not None
    for name, own in summary["stages"].items():
        assert own["key"] == expected[name]["key"]
    assert summary["stages"]["publish"]["version"] == expected["publish"]["version"]
    assert not list(out.glob(".*.work"))


def test_bad_options_and_bad_data_are_named(tmp_path):
    data = write_log(tmp_path / "log")
    for options, message in (
        ({"train_share": 0.9}, "shares sum to"),
        ({"train_share": 0.0}, "train_share is 0"),
        ({"policy_requests": -1}, "policy_requests is -1"),
        ({"candidates": -1}, "candidates is -1"),
        ({"evidence_prior": -1.0}, "evidence_prior is -1"),
    ):
        refuses(ValueError, re.escape(message), replace, CONFIG, **options)
    refuses(FileNotFoundError, "does not exist", run_pipeline, "logs:nowhere", tmp_path / "run")
    for spec in (f"what:{tmp_path}", "logs", "logs:"):
        refuses(ValueError, f"data is '{spec}'; expected one of", run_pipeline, spec, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json is missing"):
        run_pipeline(data, tmp_path / "run", replace(CONFIG, schema=tmp_path / "nowhere.json"))
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name != ".pygrade"]  # nothing was read
    with pytest.raises(ValueError, match="tasks names 'buy'"):
        run_pipeline(data, tmp_path / "run", replace(CONFIG, tasks=("buy",)))
    with pytest.raises(ValueError, match="no task has 100000 events"):
        run_pipeline(data, tmp_path / "run", replace(CONFIG, min_events=100_000))
    assert not (tmp_path / "run" / "summary.json").exists() and not list((tmp_path / "run").glob("mtl-*"))


def test_a_task_that_ends_before_the_policys_part_is_not_valued(run):
    features = FeatureSet.open(stage(run, "features") / "set")
    timeline = TimeSplit(**summary_of(run)["stages"]["features"]["timeline"])
    assert choose_tasks(features, timeline, CONFIG).valued == ("click", "like", "order")
    late, end = 0, 0
    for batch in reversed(list(features.batches(requests=1))):
        late += int(np.nansum(batch.feedback[:, 2]))
        if late >= CONFIG.min_events:
            break
        end = int(batch.timestamp[0])
    short = replace(timeline, calibrate_end=end)  # fewer orders follow than a task must have
    choice = choose_tasks(features, short, CONFIG)
    assert "click" in choice.valued and "order" in choice.unvalued
    refuses(ValueError, "tasks names 'order'", lambda: choose_tasks(features, short, replace(CONFIG, tasks=("order",))))
