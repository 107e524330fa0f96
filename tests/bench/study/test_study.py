"""The study on tiny worlds: frozen settings, resumed runs, intervals against hand-computed ones, rules of verdicts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.study import StudyConfig, reproduce, runner
from bench.study import command as study_command
from bench.study.arms import run_arm
from bench.study.findings import Difference, findings, verdict
from bench.study.report import Table, digest, served, shares
from bench.study.runner import load_unit, plan, run_units, scaled
from bench.study.settings import load_settings, merged, override, parse_changes
from bench.study.stats import Results, over_worlds, sign
from bench.study.trial import Trial
from pygrade.cli import main as cli
from pygrade.metrics.intervals import Interval
from pygrade.simulation.marketplace import TASK_VALUES, MarketplaceConfig

ROOT = Path(__file__).parents[3]
CLOCKS = {"fatigue-5k", "fatigue-20k", "repeats-5k", "repeats-20k"}
NOT_RUN = CLOCKS | {"top-default-5k", "top-accurate-5k"}  # regimes without committed results
TINY = ("log_users=300", "test_users=150", "items=300")


@pytest.fixture(scope="module")
def tiny():
    """The quick settings, smaller still."""
    config = StudyConfig(quick=True, full=True, world_set=TINY)
    settings = scaled(load_settings(), config)
    regimes = {name: replace(regime, requests=300) for name, regime in settings.regimes.items()}
    batch = {"steps": 3, "batch_size": 32}
    stages = {"stage1": batch, "stage2": batch | {"group_size": 4}, "static": {"iterations": 2}}
    train = merged(settings.train, stages)
    found = {}
    for name, arm in settings.arms.items():
        steps = min(arm.options.get("stage2", {}).get("steps", 3), 3)
        found[name] = replace(arm, options=merged(arm.options, {"stage2": {"steps": steps}}))
    return replace(settings, regimes=regimes, train=train, arms=found, test_requests=120)


@pytest.fixture(scope="module")
def trial(tiny):
    return Trial(tiny, tiny.regimes["main"], 0, 0)


def test_the_frozen_settings_keep_judging_worlds_apart():
    settings = load_settings()
    own = {world for name, regime in settings.regimes.items() for world in regime.worlds if name not in NOT_RUN}
    clock = {world for name in NOT_RUN for world in settings.regimes[name].worlds}
    assert len(settings.judging_worlds) >= 5 and len(settings.training_seeds) >= 2 and min(own) == 9701
    groups = [set(settings.development_worlds), set(settings.judging_worlds), own, clock]
    assert len(set.union(*groups)) == sum(map(len, groups))
    quick = StudyConfig(quick=True, full=True)
    assert {unit.world for unit in plan(scaled(settings, quick), quick)} <= set(settings.development_worlds)
    units = plan(settings, StudyConfig(full=True))
    assert len({unit.path(Path("out")) for unit in units}) == len(units)  # a file of its own
    assert {unit.world for unit in units if unit.regime.name.startswith("served-")} == own
    one, changed = units[0], replace(settings, train=merged(settings.train, {"static": {"population": 64}}))
    smaller = replace(one, regime=settings.regimes["tiny"])
    assert len({one.fingerprint(settings), one.fingerprint(changed), smaller.fingerprint(settings)}) == 3


SLOW_ARMS = {"history": pytest.param("history", marks=pytest.mark.slow)}


@pytest.mark.parametrize("name", [SLOW_ARMS.get(name, name) for name in load_settings().arms])
def test_every_arm_serves_valid_pages(tiny, trial, clocks, name):
    arm = tiny.arms[name]
    trial = clocks[0] if "history" in arm.options else trial
    if arm.package:
        pytest.importorskip(arm.package)
    ranking = run_arm(trial, arm.kind, arm.options)
    record = trial.measure(ranking)
    assert all(math.isfinite(value) for value in record["expected"].values())
    if ranking.bounds is not None:
        assert record["compliance"]["served"] == 1.0
        np.testing.assert_allclose(ranking.weights.sum(-1), 1.0, atol=1e-5)


def test_expected_value_sorts_by_value_times_probability_and_trees_start_there(trial):
    pages = trial.pages(run_arm(trial, "baseline", {"baseline": "expected value"}))
    expected = (trial.requests.p_hat @ np.array(TASK_VALUES, np.float32)).argsort(1)[:, ::-1]
    assert (pages == expected[:, : pages.shape[1]]).mean() > 0.999  # but for rounding
    pytest.importorskip("lightgbm")
    trees = {"min_data_in_leaf": 10**6}  # nothing to split
    options = {"objective": "tweedie", "rounds": 1, "small_rounds": 1, "trees": trees}
    assert (trial.pages(run_arm(trial, "boosted", options)) == pages).mean() > 0.999


@pytest.fixture(scope="module")
def clocks(tiny):
    """Trials of a world with fatigue and of the same world without."""
    regimes = [tiny.regimes[name] for name in ("fatigue-5k", "repeats-5k")]
    return [Trial(tiny, replace(regime, world=regime.world | {"log_users": 20}), 0, 0) for regime in regimes]


def test_fatigue_is_the_null_but_for_what_earlier_requests_tell(clocks):
    fatigue, repeats = clocks
    for one, other in ((fatigue.logs, repeats.logs), (fatigue.later, repeats.later)):
        np.testing.assert_array_equal(one.position, other.position)
        np.testing.assert_array_equal(one.predictions, other.predictions)
    assert fatigue.logs.num_requests == 300 and len(fatigue.requests) == fatigue.later.num_requests == 150
    assert fatigue.logs.timestamp.max() < fatigue.later.timestamp.min()
    np.testing.assert_array_equal(repeats.requests.p, repeats.requests.p_hat)
    np.testing.assert_allclose(fatigue.requests.p, fatigue.requests.p_hat * fatigue.requests.told, rtol=1e-5)
    oracle, expected = (
        [trial.measure(run_arm(trial, kind, {"baseline": "expected value"}))["expected"]["value"] for trial in clocks]
        for kind in ("oracle", "baseline")
    )
    assert oracle[0] > 1.005 * expected[0] and oracle[1] == expected[1]


def test_a_history_goes_on_in_the_later_requests_unless_it_is_frozen(clocks, trial):
    (logs, later), (same, frozen) = clocks[0].remember(), clocks[0].remember(frozen=True)
    np.testing.assert_array_equal(logs.item_features, same.item_features)
    seen = [(part.item_features[:, part.items.index("seen")] != 0).mean() for part in (logs, later, frozen)]
    assert seen[1] > 1.2 * seen[2] > 0 and logs.num_requests == 300
    np.testing.assert_array_equal(later.predictions.ravel(), clocks[0].requests.p_hat.ravel())
    with pytest.raises(ValueError, match="main has no clock"):
        trial.remember()


def test_what_is_not_accepted_is_not_corrected_and_orders_alone_count_where_they_judge(tiny, trial, monkeypatch):
    sparse = Trial(tiny, tiny.regimes["sparse"], 0, 0)
    assert float(sparse.data.gains[..., 1].max()) <= 60.0 and sparse.values.tolist() == [0, 0, 60, 0, 0, 0]
    found, expected = trial.on_top, trial.requests.p_hat @ trial.values
    monkeypatch.setattr(found, "accepted", None)
    assert np.array_equal(run_arm(trial, "corrected", {}).scores, expected)
    monkeypatch.setattr(found, "accepted", found.fitted.candidates[0])
    corrected = run_arm(trial, "corrected", {})
    assert corrected.figures["licensed"] == 1.0 and not np.allclose(corrected.scores, expected)


def test_a_killed_study_continues_with_the_missing_units(tiny, tmp_path, monkeypatch):
    units = plan(tiny, StudyConfig(quick=True, arms=("production", "static", "stage1", "grade")))
    whole = run_units(units, tiny, tmp_path / "whole")
    done = []

    def dies(trial, kind, options):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(kind)
        return run_arm(trial, kind, options)

    monkeypatch.setattr(runner, "run_arm", dies)
    with pytest.raises(KeyboardInterrupt):
        run_units(units, tiny, tmp_path / "killed")
    monkeypatch.setattr(runner, "run_arm", run_arm)
    kept = [unit for unit in units if load_unit(unit, tiny, tmp_path / "killed") is not None]
    assert len(kept) == 5
    stamps = {unit.path(tmp_path / "killed"): unit.path(tmp_path / "killed").stat().st_mtime_ns for unit in kept}
    again = run_units(units, tiny, tmp_path / "killed")
    for unit in (*whole, *again):
        del unit["seconds"], unit["cpu_seconds"]
    assert whole == again
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert load_unit(units[0], replace(tiny, test_requests=121), tmp_path / "killed") is None  # of other settings
    units[0].path(tmp_path / "killed").write_text("{half")
    assert load_unit(units[0], tiny, tmp_path / "killed") is None


def test_arms_whose_package_is_absent_are_left_out_with_a_warning(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("bench.study.scaled", lambda settings, config: tiny)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = StudyConfig(quick=True, regimes=("served-default-2k",), arms=("production", "boosted-value"))
    record = reproduce(config, tmp_path)
    assert {unit["arm"] for unit in record["units"]} == {"production"}
    assert "lightgbm" in caplog.text and "boosted-value" in caplog.text


def test_the_report_is_made_from_the_results(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.study.scaled", lambda settings, config: tiny)
    config = StudyConfig(quick=True, regimes=("main", "served-hyped-2k"), arms=("production", "ev", "grade", "gated"))
    record = reproduce(config, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "A quick run" in text and "## Findings" in text and "## Every arm: hyped, 300 logged requests" in text
    assert json.loads((tmp_path / "results.json").read_text())["units"] == record["units"]
    found = json.loads((tmp_path / "summary.json").read_text())
    assert {name: entry["arms"] for name, entry in found["settings"].items()} == {
        "main": "ev grade production",
        "served-hyped-2k": "ev gated grade production",
    }
    for table in found["tables"]:
        assert str(Table(**table)) in text


def unit(regime, world, seed, arm, value, predicted=1.0, **more):
    expected = {name: value for name in ("value", "ctr", "cvr", "opm", "orders")} | {"predicted": predicted}
    return {"regime": regime, "world": world, "seed": seed, "arm": arm, "slices": {}, "expected": expected} | more


def test_lifts_average_seeds_within_a_world_and_pair_worlds():
    mean = over_worlds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean.high - mean.value == pytest.approx(2.776 * np.sqrt(2.5 / 5), rel=3e-3)  # Student's t
    assert math.isnan(over_worlds([1.0]).low) and sign(over_worlds([1.0])) == 0
    units = [unit("main", 0, 0, "a", 11), unit("main", 0, 1, "a", 13), unit("main", 1, 0, "a", 23)]
    units += [unit("main", 0, 0, "b", 10), unit("main", 1, 0, "b", 20)]
    lift = Results(units).lift("main", "a", "b")
    assert lift.value == pytest.approx((20 + 15) / 2)  # 12 / 10 and 23 / 20
    assert lift.high - lift.value == pytest.approx(12.706 * np.std([20, 15], ddof=1) / np.sqrt(2), rel=2e-3)


def test_verdicts_follow_the_rules():
    above, below, around = Interval(1, 0.1, 0.5, 1.5), Interval(-1, 0.1, -1.5, -0.5), Interval(0, 0.1, -0.2, 0.2)
    assert verdict([Difference("a", above), Difference("b", above)], "paper") == "reproduced"
    assert verdict([Difference("a", around), Difference("b", below)], "paper") == "not reproduced"
    assert verdict([Difference("5k logs", above), Difference("b", around)], "paper") == "depends: holds for 5k logs"
    assert verdict([Difference("a", below, -1)], "ours") == "confirmed"
    assert verdict([], "paper") == "not run"


@pytest.mark.parametrize(
    ("true", "composite", "expected"),
    [(9.0, 11.0, "reproduced"), (9.0, 9.5, "not reproduced"), (10.5, 11.0, "nothing to prevent")],
)
def test_hacking_is_predicted_up_and_true_down(true, composite, expected):
    units = []
    for world in range(5):
        for arm, value, predicted in (("stage1", 10, 10), ("no-posterior", true, 12), ("grade", composite, 11)):
            value *= 1 + world / 1e4 * (arm != "stage1")
            units.append(unit("hype", world, 0, arm, value, predicted + world / 1e3))
    finding = next(f for f in findings(Results(units)) if "hyped" in f.claim and "hacking" in f.claim)
    assert finding.verdict.startswith(expected)


@pytest.mark.parametrize(("lift", "met"), [(1.6, True), (1.4, False)])
def test_what_is_served_is_judged(lift, met):
    units = []
    for world in (9701, 9702):
        for arm, gain in (("ev", 0.0), ("gated", lift), ("served", lift + 0.01 * (world - 9701))):
            figures = {"licensed": 1.0}
            units.append(unit("served-default-2k", world, 0, arm, 10 * (1 + gain / 100), figures=figures))
            harmed = unit("served-accurate-5k", world, 0, arm, 10 * (1 - 0.0004 * lift * (gain > 0)), figures=figures)
            units.append(harmed)
    default, accurate = served(Results(units), load_settings()).rows
    assert default[-1] == ("≥ +1.5 %: met" if met else "≥ +1.5 %: **missed**") and default[-2] == "2 of 2"
    assert accurate[-1] == "worst ≥ -0.05 %: **missed**" and accurate[-3] == f"{-0.04 * lift:+.2f} %"


def test_the_share_of_the_oracle_is_pooled_over_worlds():
    units = []
    for world, (best, gain, licensed) in enumerate([(4.0, 3.0, 1.0), (6.0, 1.0, 0.0)]):
        for arm, value in (("ev", 100.0), ("oracle", 100.0 + best), ("gated", 100.0 + gain)):
            units.append(unit("fatigue-5k", world, 0, arm, value, figures={"licensed": licensed}))
            units.append(unit("repeats-5k", world, 0, arm, 100.0, figures={"licensed": 1.0, "history": 0.0}))
    fatigue, repeats = shares(Results(units), load_settings()).rows
    assert fatigue[:2] == ["fatigue", "5,000"] and fatigue[-2:] == ["40 %", "1 of 2"]
    assert fatigue[3].startswith("+5.00") and fatigue[4].startswith("+2.00")
    assert repeats[-2:] == ["", "0 of 2"]


def test_changes_of_nested_constants():
    config = override(MarketplaceConfig(), {"session": 0.5, "errors.bias": [0, 0, 0, 0, 0, 0], "errors.slope": [1] * 6})
    assert config.session == 0.5 and config.errors.bias == (0,) * 6 and config.errors.slope == (1,) * 6
    for changes, message in (({"sesion": 1}, "sesion"), ({"errors.bias": [0]}, "6 values"), ({"items": "x"}, "number")):
        with pytest.raises(ValueError, match=message):
            override(MarketplaceConfig(), changes)
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_changes(["session"])


def test_the_command(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["reproduce", "--quick", "--quiet", "--out", "run", "--arms", "production,static"]
    worlds = ["--world-seed", "3", "--world-set", *TINY]
    assert cli.main([*arguments, *worlds, "--json", "out.json"]) == 0
    assert "best static" in capfd.readouterr().out
    record = json.loads((tmp_path / "out.json").read_text())
    assert {(u["world"], u["arm"]) for u in record["units"]} == {(3, "production"), (3, "static")}


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    run = ["--out", str(tmp_path / "run")]
    for words, message in (
        ([*run, "--arms", "nobody"], "nobody"),
        ([*run, "--regimes", "nowhere"], "nowhere"),
        ([*run, "--jobs", "2", "--cluster", "local"], "--cluster"),
        ([*run, "--jobs", "0"], "expected at least 1"),
        (["--out", str(tmp_path / "file")], "a file; expected a directory"),
    ):
        with pytest.raises(SystemExit) as stopped:
            study_command.main(words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_without_a_clone_the_command_says_where_the_study_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "pygrade/cli/main.py"))
    assert cli.main(["reproduce", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bench/study" in line


def test_committed_results_are_of_the_frozen_settings_and_on_the_page():
    found, settings = json.loads((ROOT / "bench/results/study.json").read_text(encoding="utf-8")), load_settings()
    known = {(unit.regime.name, unit.arm.name): unit for unit in plan(settings, StudyConfig(full=True))}
    assert set(settings.regimes) - set(found["settings"]) == NOT_RUN and set(found["settings"]) <= set(settings.regimes)
    for regime, entry in found["settings"].items():
        fingerprints = {arm: known[regime, arm].fingerprint(settings) for arm in entry["arms"].split()}
        assert fingerprints and entry["hash"] == digest(fingerprints), regime
    assert str(Table(**found["tables"][1])) in (ROOT / "docs/STUDY.md").read_text(encoding="utf-8")
