"""The report of a training or a demo, from what is in its run directory.

A run directory holds any of: ``training/metrics.jsonl`` (or ``metrics.jsonl``) and ``train.json`` beside it,
``evaluation.json`` (`training.evaluate_policy`), ``abtest.json`` (`AbTest.to_dict`), ``decision.json``
(`SimulatedTest.to_dict`), ``weights.json`` (`record_weights`), ``pages.json``, ``summary.json``. Each makes its
sections.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.html_table import Html, Table, escape
from pygrade._util.serialization import read_json
from pygrade.config.console import ConsoleConfig
from pygrade.console.charts import Chart, draw
from pygrade.console.collect import collect
from pygrade.console.html import Facts, Json, Lead, Section, card, facts, notes, table
from pygrade.console.marks import interval_mark, reach_of
from pygrade.console.page import write_page
from pygrade.console.run_files import JudgedRun
from pygrade.console.sections import (
    cross_fit_section,
    options_section,
    prediction_section,
    replay_section,
    run_section,
    verdict_lead,
)
from pygrade.console.tables import METRIC_LABELS
from pygrade.console.weights import weight_sections
from pygrade.metrics.texts import bounds_text, lift_text
from pygrade.serving.page_table import page_table
from pygrade.training.heldout import FIGURES
from pygrade.training.tracking import read_metrics

FILE = "report.html"
NUMBER_FORMAT = {"ctr": ".2%", "cvr": ".2%", "opm": ".2f", "orders": ".4f", "value": ".3f"}
_CURVES = (  # stage, figure, title, label
    ("stage1", "loss", "Stage 1: listwise loss", "LambdaLoss"),
    ("stage2", "reward", "Stage 2: reward", "business value per page"),
    ("stage2", "kl", "Stage 2: distance to stage 1", "KL, nats"),
    ("stage2", "entropy", "Stage 2: entropy", "nats"),
    ("stage2", "clip_fraction", "Stage 2: clipped samples", "share"),
    ("stage2", "grad_norm", "Stage 2: gradient norm", "norm before clipping"),
)


def write_report(
    run_dir: str | Path,
    title: str = "pygrade run",
    judged: JudgedRun | None = None,
    highlight: str = "GRADE",
    data: Facts = (),
    options: tuple[Any, Any] | None = None,
) -> Path:
    """Write ``report.html`` of a run directory; returns its path.

    ``judged``: the policy and the requests that its sliders rank; none: the page has no sliders. ``highlight``: the arm
    of the A/B test that the text is about. ``data``: names and texts that describe it; ``options``: dataclasses, those
    of the run and the defaults. ValueError if there is nothing to show.
    """
    out = Path(run_dir) / FILE
    lead, sections = training_report(Path(run_dir), judged, highlight)
    sections += [Section("Data", "What was learned from and judged on.", more=facts(data))] if data else []
    sections += [options_section(*options)] if options else []
    sections += run_section(_json(Path(run_dir) / "summary.json"))
    if not sections and not lead.verdict:
        raise ValueError(
            f"{run_dir} has no metrics.jsonl, abtest.json, weights.json or pages.json; expected at least one"
        )
    write_page(out, title, lead, sections, None if judged is None else collect(judged, ConsoleConfig()))
    return out


def training_report(run: Path, judged: JudgedRun | None, highlight: str = "GRADE") -> tuple[Lead, list[Section]]:
    """The verdict, and the sections of what is in a run directory, of which ``judged`` has the replay."""
    summary, test = _json(run / "summary.json"), _json(run / "abtest.json")
    trained = _json(run / "training" / "train.json") or _json(run / "train.json")
    replay, cross_fit = None if judged is None else judged.evaluation, trained.get("cross_fit")
    version = "" if judged is None else judged.policy.version
    verdict = (replay or {}).get("verdict") or summary.get("verdict") or cross_fit
    lead = verdict_lead(verdict, replay, trained.get("warnings", ()), version)
    if test:
        lead = replace(lead, cards=_test_cards(test, highlight))
    if decision := _json(run / "decision.json"):
        lead = replace(lead, beside=[*lead.beside, f"Simulated A/B test: {decision['sentence']}."])
    return lead, [
        *(_decision_section(decision) if decision else []),
        *(_ab_sections(test, highlight) if test else []),
        *([replay_section(replay), prediction_section(replay)] if replay else []),
        *cross_fit_section(cross_fit),
        *training_sections(run),
        *weight_sections(run),
        *_page_sections(_json(run / "pages.json")),
    ]


def _test_cards(test: Json, highlight: str) -> list[str]:
    """The lift of the arm in question by metric."""
    lifts = test["expected"].get(highlight, {}).get("lifts", {})
    measured = {metric: lifts[metric] for metric in METRIC_LABELS if lifts.get(metric, {}).get("value") is not None}
    reach = reach_of(measured.values())
    return [
        card(f"{highlight}: {METRIC_LABELS[metric]} over {test['baseline']}", lift, reach)
        for metric, lift in measured.items()
    ]


def _decision_section(test: Json) -> list[Section]:
    """The decision of a simulated test, the reading that decides after each look, and all readings at the end."""
    looks, name, truth = test["looks"], test["control"], 100 * test["true_lift"]
    text = (
        f"{test['sentence'].capitalize()}. Half of the simulated users got the new ranking, the others {name}; each "
        "request was ranked by both, so that one log gives the readings below, from few assumptions to many. The test "
        "was read again and again, by intervals that hold at any time, and ended with the first decision. The "
        f"simulation knows the truth: {truth:+.1f} %."
    )
    drawn = ""
    if len(looks) > 1:
        sizes = [look["requests"] for look in looks]
        value, low, high = ([100 * look["lift"][end] for look in looks] for end in ("value", "low", "high"))
        ends = {"truth": (sizes[-1], truth)}
        chart = Chart(f"Lift over {name}", "lift, %", {"lift": (sizes, value)}, (low, high), {}, ends, "requests read")
        drawn = _charts([chart])
    rows: list[list[str | Html]] = [
        [estimator, *(bounds_text(metrics["value"][kind]) for kind in ("fixed", "anytime"))]
        for arm in test["readings"].get("arms", {}).values()
        for estimator, metrics in arm["readings"].items()
        if "value" in metrics
    ]
    shown = Table(["estimator", "lift, one look", "at any time"], rows, looks[-1]["estimator"] if looks else "")
    return [Section("The decision of a simulated test", text, [shown] if rows else [], more=drawn)]


def _ab_sections(test: Json, highlight: str) -> list[Section]:
    """Both kinds of a simulated A/B test: each arm's values and their lifts."""
    base = test["baseline"]
    text = (
        f"Every arm ranked the same {test['num_requests']:,} requests of {test['num_users']:,} users that are not in "
        f"the log. Closed-form expectation in the simulated world, and its lift over {base}, ± 95 %; below, a sampled "
        "test with common random numbers: what users did once. CTR: clicks per impression. CVR: orders per click. OPM: "
        "orders per 1,000 impressions."
    )
    lifts = [result["lifts"].get("value", {}) for kind in ("expected", "sampled") for result in test[kind].values()]
    reach = reach_of(lifts)
    head = ["arm", *METRIC_LABELS.values(), "lift of the value"]

    def rows(kind: str) -> list[list[str | Html]]:
        made: list[list[str | Html]] = []
        for arm, result in test[kind].items():
            row: list[str | Html] = [arm]
            for metric in METRIC_LABELS:
                value, lift = result["values"][metric]["value"], result["lifts"].get(metric)
                shown = "n/a" if value is None else format(value, NUMBER_FORMAT[metric])
                row.append(f"{shown}  {lift_text(lift)}")
            mark = interval_mark(result["lifts"]["value"], reach, arm) if "value" in result["lifts"] else Html("")
            made.append([*row, mark])
        return made

    sampled = f"<h3>Sampled</h3>{table(Table(head, rows('sampled')))}"
    return [Section("A/B test", text, [Table(head, rows("expected"), highlight)], more=sampled)]


def curves(path: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """stage → figure → (steps, values) of a metrics.jsonl."""
    result: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in read_metrics(path):
        for name, value in line.items():
            if name not in ("stage", "step") and isinstance(value, int | float) and math.isfinite(value):
                steps, values = result.setdefault(line["stage"], {}).setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return result


def training_sections(run: Path) -> list[Section]:
    """Learning curves and rewards of the training in a run directory, or in its ``training/``; none without it."""
    path = next((p for p in (run / "training" / "metrics.jsonl", run / "metrics.jsonl") if p.exists()), None)
    if path is None:
        return []
    stages = curves(path)
    one, two = stages.get("stage1", {}), stages.get("stage2", {})
    sections = _heldout_section(one, two)
    panels = [
        Chart(title, label, {name: stages[stage][name]}, smooth=True)
        for stage, name, title, label in _CURVES
        if name in stages.get(stage, {})
    ]
    if panels:
        text = (
            "Stage 1 fits the logged pages with a listwise loss. Stage 2 samples groups of weights per request and "
            "moves towards those that earn more. Each step has other requests, so that the curves are noisy: whether "
            "anything is learned is for held-out requests to say. Pale: each recorded step, strong: moving mean."
        )
        sections.append(Section("Learning curves", text, more=_charts(panels)))
    parts = [name for name in two if name.startswith("reward_")]
    if parts:
        text = (
            "The parts of the composite reward in stage 2, as the mean over sampled weights. Posterior: logged "
            "feedback, corrected for position. Prior: the model's own predictions. Format: penalty for weights outside "
            "their bounds (0 is best). A prior that rises while the posterior falls is reward hacking."
        )
        drawn = [Chart(n.removeprefix("reward_").capitalize(), "reward", {n: two[n]}, smooth=True) for n in parts]
        sections.append(Section("Reward components", text, more=_charts(drawn)))
    return sections


def _charts(panels: Sequence[Chart]) -> str:
    return f'<div class="charts">{"".join(map(draw, panels))}</div>'


def _heldout_section(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[Section]:
    """The lift on held-out requests over both stages; none if the training had no such requests."""
    if FIGURES[0] not in one and FIGURES[0] not in two:
        return []
    end = max((curve[0][-1] for curve in one.values()), default=0.0)
    steps: list[float] = []
    columns: list[list[float]] = [[], [], []]
    for stage, offset in ((one, 0.0), (two, end)):
        if FIGURES[0] in stage:
            steps += [offset + step for step in stage[FIGURES[0]][0]]
            for column, name in zip(columns, FIGURES, strict=True):
                column += [100 * value for value in stage[name][1]]
    value, low, high = columns
    marks = {end: "stage 2"} if two and end else {}
    chart = Chart("Held-out lift over best static weights", "lift, %", {"lift": (steps, value)}, (low, high), marks)
    text = (
        "Debiased value of the logged pages in the policy's order, over the best static weights (0), on held-out "
        "requests that trained nothing. The band is the 95 % interval, clustered by user, of each point alone. A curve "
        "that falls again has overfitted; a band that holds 0 has not shown that anything was learned."
    )
    return [Section("Held-out learning curve", text, more=_charts([chart]))]


def _page_sections(record: Json) -> list[Section]:
    """Ranked pages, of `Page.describe`."""
    parts = []
    for ranked in record.get("pages", []):
        page = page_table(ranked)
        parts.append(f"<h3>{escape(ranked['title'])}</h3>{notes([ranked['why']])}")
        parts += [table(Table(page.head, page.texts(), texts=2)), notes(page.notes)]
    text = (
        "What the saved policy served. First row, if weights rank: those that it chose for this request. Below, each "
        "item's score and what every task contributed to it."
    )
    return [Section("Ranked pages", text, more="".join(parts))] if parts else []


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
