"""The report of a training or a demo: one self-contained HTML page, and its pictures as PNG files beside it.

A run directory holds any of: ``training/metrics.jsonl`` (or ``metrics.jsonl``), ``abtest.json`` (`AbTest.to_dict`),
``weights.json`` and ``weights.npz`` (`record_weights`), ``pages.json``, ``summary.json``. Each makes its sections.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade.reports import plots
from pygrade.reports.html import Json, Section, document, page_table
from pygrade.training.tracking import read_metrics
from pygrade.training.trust import label

NUMBER_FORMAT = {"ctr": ".2%", "cvr": ".2%", "opm": ".2f", "orders": ".4f", "value": ".3f"}
METRIC_LABELS = {"value": "value / request", "orders": "orders / request", "opm": "OPM", "ctr": "CTR", "cvr": "CVR"}


def record_weights(
    run_dir: Path,
    tasks: Sequence[str],
    weights: NDArray[np.float32],
    concentration: NDArray[np.float32],
    entropy: NDArray[np.float32],
    static: NDArray[np.float32],
    groups: Mapping[str, NDArray[Any]],
) -> None:
    """Keep the served weights for the report: weights, concentration [R, T], entropy [R], static weights [T].

    groups: name → label of each request [R] (segment, scenario …).
    """
    means = {
        kind: {
            str(label): dict(zip(tasks, weights[labels == label].mean(0).astype(float).tolist(), strict=True))
            for label in np.unique(labels)
        }
        for kind, labels in groups.items()
    }
    record = {
        "tasks": list(tasks),
        "static": dict(zip(tasks, np.asarray(static, float).tolist(), strict=True)),
        "all": dict(zip(tasks, weights.mean(0).astype(float).tolist(), strict=True)),
        "sd": dict(zip(tasks, weights.std(0).astype(float).tolist(), strict=True)),
        "groups": means,
    }
    write_text(run_dir / "weights.json", json.dumps(record, indent=2) + "\n")
    with atomic_file(run_dir / "weights.npz") as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, weights=weights, concentration=concentration, entropy=entropy)


def write_report(run_dir: str | Path, title: str = "pygrade run", highlight: str = "GRADE") -> Path:
    """Write ``report.html`` and ``plots/*.png`` for a run directory; returns the path of the page.

    ``highlight``: the arm of the A/B test that the text is about. ValueError if there is nothing to show.
    """
    run = Path(run_dir)
    summary, test = _json(run / "summary.json"), _json(run / "abtest.json")
    sections = [
        *_trust_sections(run),
        *(_ab_sections(test, highlight) if test else []),
        *training_sections(run),
        *_weight_sections(run),
        *_page_sections(_json(run / "pages.json")),
    ]
    if not sections:
        raise ValueError(f"{run} has no metrics.jsonl, abtest.json, weights.json or pages.json; want at least one")
    for section in sections:
        if section.picture:
            target = run / "plots" / f"{section.name}.png"
            with atomic_file(target) as partial:
                partial.write_bytes(section.picture)
    lead = _lead(test, highlight) if test else ""
    write_text(run / "report.html", document(title, lead, sections, summary))
    return run / "report.html"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as a whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def signed_percent(interval: Json) -> str:
    """A lift with its 95 % interval.

    >>> signed_percent({"value": 0.0312, "low": 0.029, "high": 0.0334})
    '+3.12 % (+2.90 … +3.34)'
    """
    if interval.get("value") is None:
        return "n/a"
    if interval.get("low") is None or interval.get("high") is None:
        return f"{100 * interval['value']:+.2f} %"
    return f"{100 * interval['value']:+.2f} % ({100 * interval['low']:+.2f} … {100 * interval['high']:+.2f})"


def _lead(test: Json, highlight: str) -> str:
    lifts = test["expected"].get(highlight, {}).get("lifts", {})
    if not lifts:
        return ""
    boxes = "".join(
        f"<div class=card><div class=name>{label}</div><div class=number>{100 * lifts[metric]['value']:+.2f} %</div>"
        f"<div class=range>95 %: {_range(lifts[metric])}</div></div>"
        for metric, label in METRIC_LABELS.items()
        if lifts.get(metric, {}).get("value") is not None
    )
    who = f"{html.escape(highlight)} against {html.escape(test['baseline'])}"
    return f"<p class=lead>{who}, on requests of users that are not in the log:</p><div class=cards>{boxes}</div>"


def _range(interval: Json) -> str:
    if interval["low"] is None:
        return "unknown"
    return f"{100 * interval['low']:+.2f} … {100 * interval['high']:+.2f}"


def _ab_sections(test: Json, highlight: str) -> list[Section]:
    base = test["baseline"]

    def lifts(kind: str) -> dict[str, Any]:
        return {arm: result["lifts"] for arm, result in test[kind].items() if arm != base}

    size = f"{test['num_requests']:,} requests of {test['num_users']:,} users"
    return [
        Section(
            "A/B test",
            f"Every arm ranked the same {size}. A dot is the closed-form expectation in the simulated world, the line "
            "on it its 95 % interval (often narrower than the dot). The pale bar behind is the 95 % interval of a "
            "sampled test with common random numbers: what simulated users did once.",
            "lifts",
            plots.lifts(lifts("expected"), lifts("sampled"), base, highlight),
        ),
        Section(
            "Outcome of each arm",
            f"Closed-form expectation per arm; below it the lift over {html.escape(base)} with its 95 % interval. "
            "CTR: clicks per impression. CVR: orders per click. OPM: orders per 1,000 impressions.",
            table=_outcomes(test, highlight),
        ),
    ]


def _outcomes(test: Json, highlight: str) -> str:
    head = "".join(f"<th>{label}</th>" for label in METRIC_LABELS.values())
    rows = []
    for arm, result in test["expected"].items():
        cells = []
        for metric in METRIC_LABELS:
            value = result["values"][metric]["value"]
            lift = result["lifts"].get(metric)
            under = f"<br><small>{signed_percent(lift)}</small>" if lift else "<br><small>baseline</small>"
            cells.append(f"<td>{'n/a' if value is None else format(value, NUMBER_FORMAT[metric])}{under}</td>")
        mark = " class=own" if arm == highlight else ""
        rows.append(f"<tr{mark}><th>{html.escape(arm)}</th>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


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


def _trust_sections(run: Path) -> list[Section]:
    """What cross-fitting found, of the training in a run directory or in its ``training/``."""
    summary = _json(run / "training" / "train.json") or _json(run / "train.json")
    trust = summary.get("trust")
    if not trust:
        return []
    lifts = trust["mixtures"] | trust["baselines"]
    served = label(trust["policy"], trust["trust"], trust["served_baseline"])
    how = (
        f"Policies and baselines learned from all users but a fold's and re-ordered the logged pages of that fold "
        f"({trust['folds']} folds, {trust['users']:,} users; slot propensities: {trust['propensity']}). Lifts of the "
        "debiased value, with one-sided 95 % bounds that hold for all rows at once. A mixture adds the standardized "
        f"scores of the policy and of {trust['served_baseline']}. Served: {served}."
    )
    text = html.escape(f"{trust['sentence']}. {how if lifts else ''}")
    title = "Cross-fitted value of the logged pages"
    picture = plots.intervals(lifts, trust["baseline"], served, title) if lifts else b""
    return [Section("Verdict", text, "trust", picture)]


def training_sections(run: Path) -> list[Section]:
    """Learning curves and rewards of the training in a run directory, or in its ``training/``; none without it."""
    path = next((p for p in (run / "training" / "metrics.jsonl", run / "metrics.jsonl") if p.exists()), None)
    if path is None:
        return []
    stages = curves(path)
    one, two = stages.get("stage1", {}), stages.get("stage2", {})
    panels: list[tuple[str, str, dict[str, Any]]] = []

    def panel(title: str, label: str, stage: dict[str, Any], *names: str) -> None:
        lines = {name.removeprefix("reward_"): stage[name] for name in names if name in stage}
        if lines:
            panels.append((title, label, lines))

    panel("Stage 1: listwise loss", "LambdaLoss", one, "loss")
    panel("Stage 2: reward", "business value per page", two, "reward")
    panel("Stage 2: distance to stage 1", "KL, nats", two, "kl")
    panel("Stage 2: entropy", "nats", two, "entropy")
    panel("Stage 2: clipped samples", "share", two, "clip_fraction")
    panel("Stage 2: gradient norm", "norm before clipping", two, "grad_norm")
    sections = []
    if panels:
        sections.append(
            Section(
                "Learning curves",
                "Stage 1 fits the logged pages with a listwise loss. Stage 2 samples groups of weights per request and "
                "moves towards those that earn more. Pale: each recorded step, strong: moving mean.",
                "learning",
                plots.curves(panels),
            )
        )
    record = _json(path.with_name("train.json")).get("served")
    if record:
        base = record["static"]
        sections.append(
            Section(
                "Reward on the training log (in-sample, not evidence)",
                "Mean reward of the weights served (not sampled) over the requests that the policy was fitted to, "
                "against the best static weights. Only other requests can judge it.",
                "served",
                plots.served(
                    {
                        label: {
                            part: record[name][part] / base[part] - 1
                            for part in ("posterior", "prior", "reward")
                            if base.get(part)
                        }
                        for name, label in (("stage1", "stage 1"), ("stage2", "stage 2"))
                    },
                    "best static",
                ),
            )
        )
    parts = [name for name in two if name.startswith("reward_")]
    if parts:
        sections.append(
            Section(
                "Reward components",
                "The parts of the composite reward in stage 2, as the mean over sampled weights. Posterior: logged "
                "feedback, corrected for position. Prior: the model's own predictions. Format: penalty for weights "
                "outside their bounds (0 is best). A prior that rises while the posterior falls is reward hacking.",
                "components",
                plots.curves([(n.removeprefix("reward_").capitalize(), "reward", {n: two[n]}) for n in parts]),
            )
        )
    return sections


def _weight_sections(run: Path) -> list[Section]:
    record = _json(run / "weights.json")
    if not record:
        return []
    how = "Mean weight served, in per cent. Blue: above the best static weights (last row), orange: below."
    unseen = " The policy is not told the segment; it infers it from noisy features."
    sections = [
        Section(
            f"Weights by {kind}",
            how + (unseen if kind == "segment" else ""),
            f"weights_by_{kind}",
            plots.weight_table(groups, record["static"], "best static"),
        )
        for kind, groups in record["groups"].items()
    ]
    if (run / "weights.npz").exists():
        with np.load(run / "weights.npz") as arrays:
            picture = plots.concentration(
                arrays["concentration"], arrays["weights"], arrays["entropy"], record["tasks"]
            )
        sections.append(
            Section(
                "Concentration",
                "Spread over requests: boxes are quartiles, whiskers the 5th and 95th percentile. A task's share of α "
                "is its weight; the sum of α sets how widely the policy explores when asked to.",
                "concentration",
                picture,
            )
        )
    return sections


def _page_sections(pages: Json) -> list[Section]:
    return [
        Section(
            f"A ranked page: {page['title']}",
            "What the saved policy served. First row: the weights it chose for this request. Below, each item's fused "
            "score and what every task contributed to it, w · f(p): blue lifts the item, orange sinks it."
            + f" Here: {html.escape(page['why'])}.",
            table=page_table(page),
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
