"""The report of a training or a demo: one self-contained HTML page, and its pictures as PNG files beside it.

A run directory holds any of: ``training/metrics.jsonl`` (or ``metrics.jsonl``) and ``train.json`` beside it,
``evaluation.json`` (`training.evaluate_policy`), ``comparison.json`` (`comparison.compare_pages`), ``abtest.json``
(`AbTest.to_dict`), ``weights.json`` and ``weights.npz`` (`record_weights`), ``pages.json``, ``summary.json``. Each
makes its sections.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade.console import plots
from pygrade.console.comparison import FILE, comparison_section
from pygrade.console.html import (
    Cell,
    Column,
    Html,
    Json,
    Lead,
    Picture,
    Section,
    cards,
    document,
    escape,
    facts,
    folded,
    shaded_page,
    table,
)
from pygrade.console.marks import Scale, whisker
from pygrade.console.sections import (
    key,
    options_section,
    prediction_section,
    replay_section,
    trust_section,
    verdict_lead,
)
from pygrade.console.weights import record_weights, weight_sections
from pygrade.metrics.texts import lift_text, span_text
from pygrade.training.heldout import FIGURES
from pygrade.training.tracking import read_metrics

__all__ = ["curves", "record_weights", "training_sections", "write_report", "write_text"]

NUMBER_FORMAT = {"ctr": ".2%", "cvr": ".2%", "opm": ".2f", "orders": ".4f", "value": ".3f"}
METRIC_LABELS = {"value": "value / request", "orders": "orders / request", "opm": "OPM", "ctr": "CTR", "cvr": "CVR"}


def write_report(
    run_dir: str | Path,
    title: str = "pygrade run",
    highlight: str = "GRADE",
    data: Sequence[tuple[str, str]] = (),
    options: tuple[Any, Any] | None = None,
) -> Path:
    """Write ``report.html`` and ``plots/*.png`` for a run directory; returns the path of the page.

    ``highlight``: the arm of the A/B test that the text is about. ``data``: names and texts that describe it;
    ``options``: dataclasses, those of the run and the defaults. ValueError if there is nothing to show.
    """
    run = Path(run_dir)
    summary, test = _json(run / "summary.json"), _json(run / "abtest.json")
    trained = _json(run / "training" / "train.json") or _json(run / "train.json")
    replay, trust = _json(run / "evaluation.json"), trained.get("trust")
    sections = [
        *(_ab_sections(test, highlight) if test else []),
        *([replay_section(replay), prediction_section(replay)] if replay else []),
        *trust_section(trust),
        *comparison_section(_json(run / FILE)),
        *training_sections(run),
        *weight_sections(run),
        *_page_sections(_json(run / "pages.json")),
        *([Section("Data", "What was learned from and judged on.", table=facts(data))] if data else []),
        *(options_section(*options) if options else []),
    ]
    warnings = [*trained.get("warnings", ()), *replay.get("warnings", ())]
    lead = verdict_lead(replay.get("verdict") or summary.get("verdict") or trust, replay or None, warnings)
    if test:
        lead = replace(lead, cards=_test_cards(test, highlight))
    if not sections and not lead.verdict:
        raise ValueError(f"{run} has no metrics.jsonl, abtest.json, weights.json or pages.json; want at least one")
    write_page(run, title, lead, sections, summary)
    return run / "report.html"


def write_page(run: Path, title: str, lead: Lead, sections: Sequence[Section], summary: Json) -> None:
    """``report.html`` of the sections, and their pictures in ``plots/``."""
    for section in sections:
        if section.picture:
            with atomic_file(run / "plots" / f"{section.name}.png") as partial:
                partial.write_bytes(section.picture.png)
    write_text(run / "report.html", document(title, lead, sections, summary))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as a whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _test_cards(test: Json, highlight: str) -> str:
    """The lift of the arm in question by metric, and in its value those of the other learned arms beside it."""
    lifts = test["expected"].get(highlight, {}).get("lifts", {})
    base = test["baseline"]
    boxes = [
        (
            f"{highlight}: {name}",
            f"{100 * lifts[metric]['value']:+.2f} %",
            f"over {base}, 95 %: {span_text(lifts[metric])}",
            True,
        )
        for metric, name in METRIC_LABELS.items()
        if lifts.get(metric, {}).get("value") is not None
    ]
    for arm in ("GRADE", "stage 1"):
        entry = test["expected"].get(arm, {}).get("lifts", {}).get("value")
        if entry and arm != highlight and entry["value"] is not None:
            reach = f"over {base}, 95 %: {span_text(entry)}"
            boxes.append((f"{arm}: {METRIC_LABELS['value']}", f"{100 * entry['value']:+.2f} %", reach, False))
    return cards(boxes) if boxes else ""


def _ab_sections(test: Json, highlight: str) -> list[Section]:
    base = escape(test["baseline"])
    text = (
        f"Every arm ranked the same {test['num_requests']:,} requests of {test['num_users']:,} users that are not in "
        f"the log. Closed-form expectation in the simulated world, and its lift over {base} with the 95 % interval. "
        "CTR: clicks per impression. CVR: orders per click. OPM: orders per 1,000 impressions."
    )
    arms = {arm: result["lifts"] for arm, result in test["expected"].items() if arm != test["baseline"]}
    sampled = {arm: result["lifts"] for arm, result in test["sampled"].items() if arm != test["baseline"]}
    png = plots.lifts(arms, sampled, test["baseline"], highlight)
    marks = key(("own", "expectation"), ("second", "a sampled test with common random numbers: what users did once"))
    return [Section("A/B test", text, "lifts", Picture(png, ()), marks + _outcomes(test, highlight))]


def _outcomes(test: Json, highlight: str) -> str:
    scale = Scale.of(
        [
            result["lifts"][m]
            for kind in ("expected", "sampled")
            for result in test[kind].values()
            for m in result["lifts"]
        ],
        percent=True,
    )
    heads: list[Column | str] = [Column("arm", "text"), *METRIC_LABELS.values(), Column(Html(scale.axis), "mark")]
    rows: list[list[Cell]] = []
    for arm, result in test["expected"].items():
        row: list[Cell] = [arm]
        for metric in METRIC_LABELS:
            value, lift = result["values"][metric]["value"], result["lifts"].get(metric)
            shown = "n/a" if value is None else format(value, NUMBER_FORMAT[metric])
            row.append(Html(f"{shown}<br><small>{lift_text(lift or None)}</small>"))
        both = [test[kind][arm]["lifts"].get("value", {"value": None}) for kind in ("expected", "sampled")]
        row.append(Html(whisker(scale, *both, strong=arm == highlight, says=f"{arm}: value / request")))
        rows.append(row)
    return table(heads, rows, highlight)


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
        plots.Panel(title, label, {name: stage[name]})
        for title, label, stage, name in (
            ("Stage 1: listwise loss", "LambdaLoss", one, "loss"),
            ("Stage 2: reward", "business value per page", two, "reward"),
            ("Stage 2: distance to stage 1", "KL, nats", two, "kl"),
            ("Stage 2: entropy", "nats", two, "entropy"),
            ("Stage 2: clipped samples", "share", two, "clip_fraction"),
            ("Stage 2: gradient norm", "norm before clipping", two, "grad_norm"),
        )
        if name in stage
    ]
    if panels:
        text = (
            "Stage 1 fits the logged pages with a listwise loss. Stage 2 samples groups of weights per request and "
            "moves towards those that earn more. Each step has other requests, so that the curves are noisy: whether "
            "anything is learned is for held-out requests to say. Pale: each recorded step, strong: moving mean."
        )
        sections.append(Section("Learning curves", text, "learning", plots.curves(panels)))
    sections += _in_sample(_json(path.with_name("train.json")).get("served"))
    parts = [name for name in two if name.startswith("reward_")]
    if parts:
        text = (
            "The parts of the composite reward in stage 2, as the mean over sampled weights. Posterior: logged "
            "feedback, corrected for position. Prior: the model's own predictions. Format: penalty for weights outside "
            "their bounds (0 is best). A prior that rises while the posterior falls is reward hacking."
        )
        drawn = [plots.Panel(n.removeprefix("reward_").capitalize(), "reward", {n: two[n]}) for n in parts]
        sections.append(Section("Reward components", text, "components", plots.curves(drawn)))
    return sections


def _heldout_section(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[Section]:
    """The lift on held-out requests over both stages; none if the training had no such requests."""
    if FIGURES[0] not in one and FIGURES[0] not in two:
        return []
    end = max((entry[0][-1] for entry in one.values()), default=0.0)
    steps: list[float] = []
    columns: list[list[float]] = [[], [], []]
    for stage, offset in ((one, 0.0), (two, end)):
        if FIGURES[0] in stage:
            steps += [offset + step for step in stage[FIGURES[0]][0]]
            for column, name in zip(columns, FIGURES, strict=True):
                column += [100 * value for value in stage[name][1]]
    value, low, high = columns
    panel = plots.Panel(
        "Held-out lift over best static weights",
        "lift, %",
        {"lift": (steps, value)},
        band=(steps, low, high),
        marks={end: "stage 2"} if two and end else {},
        smooth=False,
    )
    text = (
        "Debiased value of the logged pages in the policy's order, over the best static weights (0), on held-out "
        "requests that trained nothing. The band is the 95 % interval, clustered by user, of each point alone. A curve "
        "that falls again has overfitted; a band that holds 0 has not shown that anything was learned."
    )
    return [Section("Held-out learning curve", text, "heldout", plots.curves([panel], (7.4, 3.0)))]


def _in_sample(record: Json | None) -> list[Section]:
    if not record:
        return []
    base, parts = record["static"], ("posterior", "prior", "reward")
    known = [part for part in parts if base.get(part)]
    rows = [
        [label, *(f"{100 * (record[name][part] / base[part] - 1):+.2f} %" for part in known)]
        for name, label in (("stage1", "stage 1"), ("stage2", "stage 2"))
    ]
    text = (
        "Mean reward of the weights served (not sampled) over the requests that the policy was fitted to, against the "
        "best static weights. Only other requests can judge it."
    )
    shown = folded("in-sample figures", table([Column("after", "text"), *known], rows))
    return [Section("Reward on the training log (in-sample, not evidence)", text, table=shown)]


def _page_sections(pages: Json) -> list[Section]:
    return [
        Section(
            f"A ranked page: {page['title']}",
            "What the saved policy served. First row, if weights rank: those that it chose for this request. Below, "
            "each item's score and what every task contributed to it: blue lifts the item, orange sinks it."
            + f" Here: {escape(page['why'])}.",
            table=shaded_page(page),
        )
        for page in pages.get("pages", [])
    ]


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is no file. ValueError naming the file if it is damaged."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}; want an object")
    return record
