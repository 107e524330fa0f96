"""The study on tiny worlds: frozen settings, resumed runs, intervals against hand-computed ones, rules of verdicts."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.study import StudyConfig, reproduce, runner
from bench.study import command as study_command
from bench.study.arm_kinds import run_arm
from bench.study.family import trade_offs
from bench.study.findings import Difference, collapses, findings, targets, verdict
from bench.study.learners import MonotoneFusion, RivalConfig, train_rival
from bench.study.report import digest, page_text, summary, summary_text, write_docs
from bench.study.runner import load_unit, plan, run_units, scaled
from bench.study.settings import changed, load_settings, merged, override, parse_changes
from bench.study.stats import Results, over_worlds, sign
from bench.study.trial import Trial
from pygrade.cli import main as cli
from pygrade.metrics.intervals import Interval
from pygrade.simulation.marketplace import TASK_VALUES, MarketplaceConfig

ROOT = Path(__file__).parents[3]
TINY = ("log_users=300", "test_users=150", "items=300")


@pytest.fixture(scope="module")
def tiny():
    """The quick settings, smaller still."""
    config = StudyConfig(quick=True, full=True, world_set=TINY)
    settings = scaled(load_settings(), config)
    regimes = {name: replace(regime, requests=300) for name, regime in settings.regimes.items()}
    train = settings.train
    stage1 = replace(train.stage1, steps=3, batch_size=32)
    stage2 = replace(train.stage2, steps=3, batch_size=32, group_size=4)
    train = replace(train, stage1=stage1, stage2=stage2, static=replace(train.static, iterations=2))
    arms = {
        name: replace(arm, options=merged(arm.options, {"stage2": {"steps": min(steps(arm), 3)}}))
        for name, arm in settings.arms.items()
    }
    sizes = {"test_requests": 120, "oracle_requests": 300, "development_worlds": (0, 1), "judging_worlds": (0, 1)}
    return replace(settings, regimes=regimes, train=train, arms=arms, **sizes)


@pytest.fixture(scope="module")
def trial(tiny):
    return Trial(tiny, tiny.regimes["main"], 0, 0)


def steps(arm):
    return arm.options.get("stage2", {}).get("steps", 3)


def test_the_frozen_settings_keep_judging_worlds_apart():
    settings = load_settings()
    assert not set(settings.development_worlds) & set(settings.judging_worlds)
    assert set(settings.tuning["worlds"]) <= set(settings.development_worlds)
    assert min(settings.judging_worlds) >= 100 and max(settings.development_worlds) <= 9
    assert len(settings.judging_worlds) >= 5 and len(settings.training_seeds) >= 2
    stability = [unit for unit in plan(settings, StudyConfig(regimes=("stability",))) if unit.arm.name == "no-stage1"]
    assert len(stability) == 50
    quick = StudyConfig(quick=True, full=True)
    assert {unit.world for unit in plan(scaled(settings, quick), quick)} <= set(settings.development_worlds)
    units = plan(settings, StudyConfig(full=True))
    assert len({unit.path(Path("out")) for unit in units}) == len(units)  # a file of its own


@pytest.mark.parametrize("name", [name for name, arm in load_settings().arms.items() if name != "static-optuna"])
def test_every_arm_serves_valid_pages(tiny, trial, name):
    arm = tiny.arms[name]
    if arm.kind == "boosted":
        pytest.importorskip("lightgbm")
    ranking = run_arm(trial, arm.kind, merged(arm.options, {"steps": 3} if "steps" in arm.options else {}))
    record = trial.measure(ranking)
    assert all(math.isfinite(value) for value in record["expected"].values())
    if ranking.bounds is not None:
        assert record["compliance"]["served"] == 1.0
        np.testing.assert_allclose(ranking.weights.sum(-1), 1.0, atol=1e-5)
    if name == "production":
        assert record["lifts"]["expected"]["value"][0] == 0.0


def test_one_policy_is_compared_with_one_for_each_trade_off(tiny, trial):
    options = merged(tiny.arms["family"].options, {})
    options["trade_offs"] = {"default": {}, "orders × 3": {"order": 3}}
    figures = run_arm(trial, "family", options).figures
    assert set(figures) == {f"{kind}, {name}" for kind in ("family", "retrained") for name in options["trade_offs"]}
    units = [
        {"regime": "trade-offs", "arm": "family", "world": world, "seed": 0, "variant": {}, "figures": shifted}
        for world, shifted in enumerate([figures, {name: value + 1 for name, value in figures.items()}])
    ]
    table = trade_offs(Results(units), "trade-offs")
    assert list(table) == list(options["trade_offs"]) and trade_offs(Results(units), "main") == {}
    for name, (one, single, difference) in table.items():
        assert one.value == pytest.approx(figures[f"family, {name}"] + 0.5)
        assert difference.value == pytest.approx(one.value - single.value) == pytest.approx(difference.low)


def test_expected_value_sorts_by_value_times_probability(trial):
    pages = trial.pages(run_arm(trial, "baseline", {"baseline": "expected value"}))
    expected = (trial.requests.p_hat @ np.array(TASK_VALUES, np.float32)).argsort(1)[:, ::-1]
    assert (pages == expected[:, : pages.shape[1]]).mean() > 0.999  # but for rounding


@pytest.mark.parametrize("objective", ["tweedie", "lambdarank"])
def test_boosted_trees_start_at_the_expected_value(trial, objective):
    pytest.importorskip("lightgbm")
    trees = {"min_data_in_leaf": 10**6}  # nothing to split
    options = {"objective": objective, "rounds": 1, "small_rounds": 1, "trees": trees}
    expected = run_arm(trial, "baseline", {"baseline": "expected value"})
    pages = trial.pages(run_arm(trial, "boosted", options))
    assert (pages == trial.pages(expected)).mean() > 0.999


@pytest.mark.parametrize("personal", [False, True])
def test_monotone_transforms_rise_and_start_at_the_expected_value(trial, personal):
    policy, values = trial.policy(trial.config({})), trial.values
    p = torch.from_numpy(trial.requests.p_hat)
    fusion = MonotoneFusion(policy, p.log(), values, 32, personal, 0)
    inputs = policy.request_inputs(trial.requests.context, trial.requests.p_hat)
    with torch.no_grad():
        score = fusion(inputs, p.log())
        higher = fusion(inputs, (p * torch.tensor([1.0, 1.0, 1.3, 1.0, 1.0, 1.0])).log())
        other = fusion(inputs, p.log() - 20.0)
    assert bool((higher > score).all()) and bool((other < score).all())
    if not personal:
        both = torch.stack([score.flatten(), (p @ values).flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.97


def test_useless_tasks_are_appended_everywhere(tiny):
    trial = Trial(tiny, tiny.regimes["tasks17"], 0, 0)
    assert len(trial.logs.tasks) == trial.requests.p_hat.shape[-1] == 17
    assert trial.measure(run_arm(trial, "grade", {}))["compliance"]["served"] == 1.0
    trial = Trial(tiny, tiny.regimes["sparse"], 0, 0)
    assert float(trial.data.gains[..., 1].max()) <= 60.0  # orders alone


@pytest.mark.parametrize(("exploration", "critic"), [("dirichlet", True), ("gaussian", False), ("clipped", True)])
def test_rivals_raise_the_weight_of_the_only_task_that_pays(trial, exploration, critic):
    options = {} if exploration == "dirichlet" else {"policy": {"concentration_floor": 1e-6}}
    config = trial.config(merged(options, {"stage1": {"steps": 0}, "stage2": {"steps": 40, "learning_rate": 5e-3}}))
    gains = torch.softmax(trial.data.scores[..., 3:4], 1)
    every = torch.tensor([-1], dtype=torch.int32)
    one = torch.ones(1)
    data = replace(trial.data, gains=gains, lists=every, bounds=None, components=("truth",), component_weights=one)
    policy = trial.policy(config)
    before = policy.serve(data.inputs)[:, 3].mean()
    width = 0.2 if exploration == "clipped" else 1.0
    rival = RivalConfig(exploration, width, critic, 1e-2)
    train_rival(data, policy, rival, replace(config.stage2, kl_coefficient=0.0), 0)
    assert policy.serve(data.inputs)[:, 3].mean() > 1.4 * before


def test_a_killed_study_continues_with_the_missing_units(tiny, tmp_path, monkeypatch):
    arms = ("production", "static", "stage1", "grade")
    units = plan(tiny, StudyConfig(quick=True, arms=arms))
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
    for one, other in zip(whole, again, strict=True):
        assert numbers(one) == numbers(other)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert load_unit(units[0], replace(tiny, test_requests=121), tmp_path / "killed") is None  # of other settings
    units[0].path(tmp_path / "killed").write_text("{half")
    assert load_unit(units[0], tiny, tmp_path / "killed") is None


def numbers(record):
    return {key: value for key, value in record.items() if key not in ("seconds", "cpu_seconds")}


def test_arms_whose_package_is_absent_are_left_out_with_a_warning(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("bench.study.scaled", lambda settings, config: tiny)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    record = reproduce(StudyConfig(quick=True, arms=("production", "boosted-value")), tmp_path)
    assert {unit["arm"] for unit in record["units"]} == {"production"}
    assert "lightgbm" in caplog.text and "boosted-value" in caplog.text


def test_the_report_is_made_from_the_results(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.study.scaled", lambda settings, config: tiny)
    arms = ("production", "ev", "static", "stage1", "grade", "no-prior")
    record = reproduce(StudyConfig(quick=True, arms=arms), tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "A quick run" in text and "## Targets" in text and "## Findings" in text
    assert "## Every arm: " in text and "**Value over expected value" in text
    for picture in re.findall(r"\]\((pictures/[\w-]+\.png)\)", text):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())["units"] == record["units"]
    rows = [line for line in text.splitlines() if line.startswith("| GRADE |")]
    assert len(rows) == 1 and "%" in rows[0]


def unit(regime, world, seed, arm, value, predicted=1.0, **more):
    lifts = {"expected": {"value": [value / 10 - 1, None, None]}}
    expected = {name: value for name in ("value", "ctr", "cvr", "opm", "orders")} | {"predicted": predicted}
    record = {"regime": regime, "world": world, "seed": seed, "arm": arm, "variant": {}, "lifts": lifts, "slices": {}}
    return record | {"expected": expected, "sampled": expected} | more


def test_lifts_average_seeds_within_a_world_and_pair_worlds():
    mean = over_worlds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean.high - mean.value == pytest.approx(2.776 * np.sqrt(2.5 / 5), rel=3e-3)  # Student's t
    assert math.isnan(over_worlds([1.0]).low) and sign(over_worlds([1.0])) == 0
    units = [unit("main", 0, 0, "a", 11), unit("main", 0, 1, "a", 13), unit("main", 1, 0, "a", 23)]
    units += [unit("main", 0, 0, "b", 10), unit("main", 1, 0, "b", 20)]
    lift = Results(units).lift("main", "a", "b")
    assert lift.value == pytest.approx((20 + 15) / 2)  # 12 / 10 and 23 / 20
    assert lift.high - lift.value == pytest.approx(12.706 * np.std([20, 15], ddof=1) / np.sqrt(2))


def test_the_oracle_share_and_the_spread():
    units = [unit("main", w, 0, arm, v) for w in (0, 1) for arm, v in (("s", 10), ("g", 14), ("o", 15))]
    assert Results(units).share("main", "g", "s", "o").value == pytest.approx(80)
    units = [unit("stability", w, s, "no-stage1", 10 + s / 10) for w in (0, 1) for s in (0, 1, -1)]
    results = Results(units)
    assert results.spread("stability", "no-stage1") == pytest.approx(1.0)
    assert collapses(results, "no-stage1") == (2, 6)


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
            units.append(
                unit("hype", world, 0, arm, value * (1 + world / 1e4 * (arm != "stage1")), predicted + world / 1e3)
            )
    finding = next(f for f in findings(Results(units)) if "hyped" in f.claim and "hacking" in f.claim)
    assert finding.verdict.startswith(expected)


def test_harm_in_one_world_misses_the_target_and_names_it():
    def served(world, arm, value, over):
        return unit("hype-2k", world, 0, arm, value, figures={"over_baseline": over})

    assert all(target.met is None for target in targets(Results([]), load_settings()))
    units = [served(world, "ev", 10.0, 0.0) for world in range(3)]
    units += [served(world, "trust", 10.0 + 0.1 * world, 1.0 - world) for world in range(3)]
    units += [served(world, "boosted-rank", 10.2, 0.0) for world in range(3)]
    by_name = {target.name: target for target in targets(Results(units), load_settings())}
    chosen = by_name["served over the baseline that the log chose"]
    assert chosen.met is False and chosen.measured == "worst -1.00 % (hype-2k, world 2); 1 of 3 below"
    assert by_name["served over expected value"].met is True
    rival = by_name["served over boosted trees, LambdaMART"]
    assert rival.met is False and rival.measured.startswith("0 of 1; not in hype-2k -0.98")
    assert by_name["served over boosted trees, value"].met is None


def test_a_new_option_changes_no_fingerprint_and_another_value_does():
    settings = load_settings()
    assert changed(replace(settings.train.static, population=64)) == {"population": 64}
    one, *_ = plan(settings, StudyConfig(arms=("grade",)))
    assert one.fingerprint(settings) != replace(one, regime=settings.regimes["tiny"]).fingerprint(settings)
    other = replace(settings, train=replace(settings.train, static=replace(settings.train.static, population=64)))
    assert one.fingerprint(settings) != one.fingerprint(other)


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
        ([*run, "--quick", "--docs", str(tmp_path)], "frozen protocol"),
        ([*run, "--jobs", "2", "--cluster", "local"], "--cluster"),
        ([*run, "--jobs", "0"], "want at least 1"),
        (["--out", str(tmp_path / "file")], "a file; want a directory"),
    ):
        with pytest.raises(SystemExit) as stopped:
            study_command.main(words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "RESULTS.md").exists()


def test_without_a_clone_the_command_says_where_the_study_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "pygrade/cli/main.py"))
    assert cli.main(["reproduce", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bench/study" in line


def test_committed_results_are_of_the_frozen_settings_and_on_the_page():
    found, settings = json.loads((ROOT / "docs/study/summary.json").read_text()), load_settings()
    known = {(unit.regime.name, unit.name): unit for unit in plan(settings, StudyConfig(full=True))}
    assert len(found["settings"]) > 50
    for regime, entry in found["settings"].items():
        arms = entry["arms"].split()
        assert arms and entry["hash"] == digest({arm: known[regime, arm].fingerprint(settings) for arm in arms}), regime
    assert page_text(found) == (ROOT / "docs/RESULTS.md").read_text()


def test_the_summary_is_made_of_the_report_and_is_what_is_written(tmp_path):
    """What the docs show of a made-up record: its own figures, and a changed setting changes the hash."""
    units = [
        unit | {"fingerprint": "f", "seconds": 1.0}
        for world, value in ((100, 10.0), (101, 11.0))
        for unit in (made_up("ev", world, value), made_up("grade", world, 1.02 * value))
    ]
    record = {"quick": False, "judging": True, "units": units, "missing": [], "unit_seconds": 120.0}
    record["machine"] = dict.fromkeys(("pygrade", "torch", "python", "cpu", "cores", "instruction_set"), "1")
    found = summary(record, load_settings())
    assert json.loads(summary_text(found)) == json.loads(json.dumps(found))
    assert found["settings"]["main"] == {"arms": "ev grade", "hash": digest({"ev": "f", "grade": "f"})}
    assert digest({"ev": "f", "grade": "g"}) != found["settings"]["main"]["hash"]
    titles = [section["title"] for section in found["sections"]]
    assert "Findings" in titles and not any(title.startswith("Every arm") for title in titles)
    write_docs(record, load_settings(), tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text == page_text(json.loads((tmp_path / "study/summary.json").read_text()))
    assert "GRADE +2.00 ± 0.00 %" in text and "## Targets" in text


def made_up(arm, world, value):
    record = {"regime": "main", "world": world, "seed": 0, "arm": arm, "variant": {}, "figures": {}, "events": {}}
    lifts = {"expected": {"value": [0.0, None, None]}}
    compliance = {"served": 1.0, "before": 1.0, "value_before": value}
    means = {"value": value, "orders": value}
    return record | {"expected": means, "lifts": lifts, "compliance": compliance, "cpu_seconds": 1.0}


def test_settings_are_chosen_on_the_later_log_and_trained_on_all_of_it(tiny):
    arm = tiny.arms["chosen"]
    trial = Trial(tiny, tiny.regimes["small"], 0, 0)
    served = run_arm(trial, arm.kind, arm.options | {"tries": {"prior 1": {"reward": {"prior_weight": 1.0}}}})
    assert served.figures["chosen"] == 0.0  # the regime's own prior weight: no difference, so the default stays
    assert served.figures["estimated prior 1"] == served.figures["true prior 1"] == 0.0
    grade = run_arm(trial, "grade", {})
    assert np.array_equal(served.weights, grade.weights)


def test_estimates_run_on_worlds_of_their_own_and_are_compared_with_the_truth(tiny):
    units = plan(load_settings(), StudyConfig(regimes=("estimates",)))
    assert sorted({unit.world for unit in units}) == list(range(100, 150)) and len(units) == 50
    assert len(plan(tiny, StudyConfig(quick=True, regimes=("estimates",)))) == 2
    arm = tiny.arms["estimates"]
    regime = replace(tiny.regimes["estimates"], requests=600)
    figures = run_arm(Trial(tiny, regime, 0, 0), arm.kind, arm.options).figures
    assert {figures[f"covered {name}"] for name in ("lift", "snips", "position")} <= {0.0, 1.0}
    assert figures["half snips"] > 0 and figures["ess snips"] < 600
    assert len([name for name in figures if name.startswith("true ")]) == 11
    assert all(-1 <= figures[f"correlation, {share} % drawn"] <= 1 for share in (10, 2))
