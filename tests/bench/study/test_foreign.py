"""Foreign worlds: the truth is exact, logs hold what they are said to hold, and the report counts what counts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench.study.foreign.__main__ import main
from bench.study.foreign.evaluate import FAMILIES, configured, evaluate, read, run
from bench.study.foreign.nulls import KINDS
from bench.study.foreign.pages import Browsing, fading
from bench.study.foreign.report import claimed, mean, report, share, summed, targets, total
from bench.study.foreign.shops import UNITS
from pygrade.logs.clusters import copied_share
from pygrade.metrics.texts import lift_text

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "browsing",
    [
        Browsing(fading(5, 0.6), (-1, 0, 0), amounts=(2,)),
        Browsing(np.linspace(1, 0.7, 5), (-1, 0, -1), 0.9, stop=1),
        Browsing(fading(5, 0.3), (-1, 0, -1), 0.85, once=1),
    ],
    ids=("slots", "cascade", "once"),
)
def test_the_value_of_a_page_is_the_mean_of_its_events(browsing):
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(low, high, (3, 5)) for low, high in ((0.3, 0.6), (0.1, 0.3), (0.1, 0.3))], -1)
    worth, draws = rng.uniform(-1, 3, truth.shape), 40_000
    events = browsing.events(rng, np.repeat(truth, draws, 0)).reshape(3, draws, 5, 3)
    earned = (events * worth[:, None]).sum((2, 3))
    assert (np.abs(earned.mean(1) - browsing.value(truth, worth)) < 4 * earned.std(1) / draws**0.5).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_world_is_what_its_seed_says(family):
    log, new = FAMILIES[family](1).draw(400, 300)
    again, _ = FAMILIES[family](1).draw(400, 300)
    assert np.array_equal(log.logs.feedback, again.logs.feedback) and log.logs.num_requests == 400
    assert new.logs.timestamp.min() > log.logs.timestamp.max() and (np.diff(log.logs.timestamp) >= 0).all()
    best, expected = (new.earned(page).sum() for page in (new.oracle(), new.predicted()))
    assert best > expected if not family.startswith("null") else best == pytest.approx(expected)
    logs, copies = log.logs, "copies" in family or "near" in family
    pages = np.hstack([logs.position.reshape(400, -1), np.asarray(logs.item_number).reshape(400, -1)])
    assert len(np.unique(pages, axis=0)) == (100 if copies else 400)
    assert copied_share(logs) == (pytest.approx(0.75) if copies else 0.0)


def test_units_are_of_one_log():
    seconds, hours, cents, orphans = (FAMILIES[f"units-{unit}"](2).draw(900, 10)[0] for unit in UNITS)
    for other in (hours, cents):
        for amounts in ("predictions", "feedback"):
            worth = [part.logs.value_of(getattr(part.logs, amounts)) for part in (seconds, other)]
            assert np.allclose(*worth, rtol=1e-5)
    lost = seconds.logs.feedback - orphans.logs.feedback
    assert lost.sum() == 1 and seconds.logs.feedback[lost[:, 0] == 1, 1].all()


def test_what_is_served_is_judged(tmp_path, capsys):
    for _ in range(2):  # the second finds its line
        run(tmp_path / "lines.jsonl", ["roots-segment"], range(1), 400, light=True)
    (record,) = read(tmp_path / "lines.jsonl")
    served, production = (1 + record[name] / 100 for name in ("over_production", "production"))
    assert record["lift"] == pytest.approx(100 * (served * production - 1), abs=0.01) and record["oracle"] > 1
    assert capsys.readouterr().out.count("roots-segment") == 1 and record["light"]


def test_a_log_that_is_refused_counts(monkeypatch):
    def refuse(*_):
        raise ValueError("the log holds what it should foretell")

    monkeypatch.setattr("bench.study.foreign.evaluate.fit", refuse)
    record = evaluate("null-plain", 0, 40, configured(True), 10)
    assert record["sentence"] == "ValueError: the log holds what it should foretell" and "lift" not in record
    assert "| null-plain | 40 | 1 | 0 | 0 | 1 |" in report(summed([record]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_won_where_nothing_is(kind):
    record = evaluate(f"null-{kind}", 0, 1_200, configured(True), 1_000)
    assert record["verdict"] not in ("better", "error"), record["sentence"]
    assert record["lift"] > -0.05


def line(family, seed=0, **changes):
    """A line of a log that nothing was found in."""
    blank = {"verdict": "undecided", "claim": [1.0, -1.0, 3.0], "marked": None, "z": None, "named": False, "seconds": 1}
    true = {"lift": 0.0, "over_production": 2.0, "production": -2.0, "oracle": 4.0, "true": 0.0, "within": 0.0}
    return {"family": family, "seed": seed, "requests": 8_000} | blank | true | changes


def verdicts(records):
    """Target → what was found, and whether it is met."""
    return {name: (found, met == "met") for name, _, found, met in targets(summed([*records]))}


def test_the_report_counts():
    better = {"verdict": "better", "claim": [3.0, 1.0, 5.0], "lift": 3.0, "true": 3.0, "within": 0.5, "z": 5.0}
    roots = [line("roots-hour", 0, **better, named=True), line("roots-hour", 1, oracle=0.0, lift=0.0)]
    assert share(summed(roots)) == 75.0
    failed = {key: value for key, value in line("roots-hour", 2, verdict="error").items() if key != "lift"}
    found = verdicts([*roots, failed])
    assert found["roots-hour, 8,000: share of the oracle"] == ("38 % of 3 logs", False)
    assert found["roots: reasons name the effect where better"] == ("1 of 1", True)
    assert found["roots: not decidable"][0].startswith("1 of 3") and not found["roots: not decidable"][1]
    assert found["claims that cover, whole pages"][0].startswith("1 of 1")
    assert found["claims that cover, re-ordered pages"][0].startswith("0 of 1")


def test_the_report_compares_units_and_production():
    better = {"verdict": "better", "z": 5.0}
    units = [
        line("units-seconds", 0, **better),
        line("units-seconds", 1),
        line("units-cents", 0, **better | {"z": 5.2}),
    ]
    found = verdicts([*units, line("units-cents", 1), line("units-hours", 0, **better | {"z": 5.3})])
    assert found["units-cents: verdict and z as in units-seconds"] == ("2 of 2", True)
    assert found["units-hours: verdict and z as in units-seconds"] == ("0 of 1", False)
    strong = [line("strong", 0, over_production=-0.9), line("strong", 1, over_production=-3.0, marked=True)]
    name = "strong: marked, or not > 1 % below production"
    assert verdicts(strong)[name] == ("2 of 2", True)
    assert verdicts([*strong, line("strong", 2, over_production=-1.1)])[name] == ("2 of 3", False)


def test_the_report_counts_false_alarms():
    quiet = [line("null-plain", seed) for seed in range(60)]
    assert verdicts(quiet)["null-plain: better"] == ("0 of 60 [0.0, 6.0 %]", True)
    loud = [record | {"verdict": "better", "lift": -1.0} for record in quiet[:4]] + quiet[4:]
    found = verdicts([*loud, *(line("null-bots", seed) for seed in range(120))])
    assert not found["null-plain: better"][1] and found["nulls: better, pooled"][1]
    name = "nulls: served over EV, pooled"
    assert verdicts(loud[2:])[name][1]  # the interval holds 0
    assert not verdicts(record | {"lift": -1.0 - record["seed"] / 100} for record in quiet)[name][1]


def test_the_protocol_names_what_runs():
    text = re.sub(r"\s+", " ", (ROOT / "docs/STUDY.md").read_text(encoding="utf-8"))
    names = [name.removeprefix("null-") for name in FAMILIES]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_evidence_is_what_was_found():
    rows = read(ROOT / "bench/results/foreign.jsonl")
    small, rows = ([row for row in rows if (row["requests"] == 2_000) is part] for part in (True, False))
    lift = mean(small, "lift")
    evidence, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/evidence.md", "README.md"))
    words = re.sub(r"\s+", " ", evidence)
    text = f"served in {total(small, 'better')}, and what was served earned {lift_text(lift, scale=1.0)}"
    assert text in words and f"In {total(small, 'logs')} logs of [foreign worlds]" in words
    assert report(rows).split("\n\n")[1] in evidence
    claims = claimed(rows)
    assert f"whole pages earn more than that in {total(claims, 'above')} of {total(claims, 'claims')}" in words
    nulls = [row for row in rows if row["family"].startswith("null-")]
    assert f"**Nothing to gain**: in {total(nulls, 'logs')} logs of" in readme and total(nulls, "better") == 0


def test_the_command(monkeypatch, tmp_path, capsys):
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(line("factors")) + "\n")

    def output(*words):
        monkeypatch.setattr("sys.argv", ["foreign", *map(str, words)])
        main()
        return capsys.readouterr().out

    table = output("--report", lines)
    assert "| factors | 8,000 | 1 |" in table
    lines.write_text(output("--sums", lines))
    assert output("--report", lines) == table
    with pytest.raises(SystemExit):
        output("luck")
    assert "family is 'luck'; expected some of roots-segment" in capsys.readouterr().err
