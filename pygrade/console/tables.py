"""Heads and rows of a run's records: the page shows them, and the terminal what is text in them."""

from collections.abc import Mapping
from typing import Any

from pygrade._util.html_table import Html, Table
from pygrade.console.marks import bar, interval_mark, reach_of
from pygrade.evaluation.policy_estimates import LIFT
from pygrade.evaluation.replay import metric_titles
from pygrade.evaluation.verdict import arm_name, is_simple
from pygrade.metrics.texts import bounds_text, lift_text, positive_text, rate_text, share_text, value_text

Json = Mapping[str, Any]
Rows = list[list[str | Html]]
METRIC_LABELS = {"value": "value / request", "orders": "orders / request", "opm": "OPM", "ctr": "CTR", "cvr": "CVR"}
_MANY = 200  # requests from which on a 99th percentile is more than the maximum


def replay_table(replay: Json) -> Table:
    """Each ranking's value and NDCG, the baseline first, and its lifts in the metrics in which rankings can differ."""
    metrics = metric_titles(replay["k"])
    differing = [metric for metric in metrics if metric not in replay["cannot_differ"]]
    reaches = {metric: reach_of(estimates[metric] for estimates in replay["lifts"].values()) for metric in differing}
    rows: Rows = []
    served = replay["later"]["served"]
    for name, estimates in sorted(replay["rankers"].items(), key=lambda row: row[0] != replay["baseline"]):
        lifts, arm = replay["lifts"].get(name, {}), arm_name(name, served)
        row: list[str | Html] = [arm]
        row += [positive_text(estimates[metric]) for metric in metrics]
        for metric in differing:
            mark = interval_mark(lifts[metric], reaches[metric], f"{arm}, {metric}") if lifts else Html("")
            row += [lift_text(lifts.get(metric)), mark]
        rows.append(row)
    heads = [head for metric in differing for head in (f"{metrics[metric]} lift", "interval")]
    return Table(["ranking", *metrics.values(), *heads], rows, arm_name(served, served))


def prediction_table(replay: Json) -> Table:
    """AUC and GAUC by task, with intervals; mean prediction, also times the slot's propensity if that is known."""
    known = all(figures.get("examined_prediction") is not None for figures in replay["predictions"].values())
    rows: Rows = [
        [
            task,
            f"{int(figures['events']):,}",
            f"{figures['rate']:.2%}",
            rate_text(figures["mean_prediction"]),
            *([rate_text(figures["examined_prediction"])] if known else []),
            share_text(figures["auc"], 3),
            share_text(figures["gauc"], 3),
        ]
        for task, figures in replay["predictions"].items()
    ]
    examined = ["predicted × examined"] if known else []
    return Table(["task", "events", "rate", "predicted", *examined, "AUC", "GAUC"], rows)


def model_table(tasks: Json, model: Json) -> Table:
    """Order and calibration of a multi-task model's predictions."""
    rows: Rows = [
        [
            task,
            f"{figures['positives']:,}",
            f"{100 * figures['rate']:.2f} / {100 * figures['mean_prediction']:.2f} %",
            share_text(figures["auc_interval"], 3),
            share_text(figures["gauc_interval"], 3),
            f"{number_text(figures['log_loss_before'], 3)} → {number_text(figures['log_loss'], 3)}",
            f"{number_text(figures['ece_before'], 3)} → {number_text(figures['ece'], 3)}",
        ]
        for task, figures in ((task, tasks[task]) for task in model["tasks"])
    ]
    return Table(["task", "events", "rate / predicted", "AUC", "GAUC", "log-loss", "ECE"], rows)


def off_policy_table(estimates: Json) -> tuple[Table, list[str]]:
    """The estimates, and the warnings about them, each with the names of those that it is about."""
    warned: dict[str, list[str]] = {}
    for name, figures in estimates.items():
        if figures["warning"]:
            warned.setdefault(figures["warning"], []).append(name)
    rows: Rows = [
        [name, lift_text(figures) if name == LIFT else value_text(figures), f"{figures['effective_sample_size']:,.0f}"]
        for name, figures in estimates.items()
    ]
    warnings = [f"{'; '.join(names)}: {warning}" for warning, names in warned.items()]
    return Table(["estimate", "value", "effective sample"], rows), warnings


def cross_fit_table(record: Json | None, brief: bool = False) -> Table:
    """Cross-fitted lifts of mixtures and baselines, the best first; without rows if there was no cross-fitting.

    brief: of mixtures that alone which the verdict is on; of a verdict on a simple ranking, the best.
    """
    lifts: dict[str, Any] = {} if not record else record["mixtures"] | record["baselines"]
    if record and record.get("lift"):  # of the verdict, which the last requests make, too
        lifts[record["served"]] = record["lift"]
    best = sorted(lifts.items(), key=lambda row: -(row[1]["value"] or 0.0))
    served = record["served"] if record else ""
    new = record.get("judged", served) if record else ""
    if brief and is_simple(new):
        new = next((name for name, _ in best if not is_simple(name)), new)
    shown = {arm_name(name, new): lift for name, lift in best if not brief or is_simple(name) or name == new}
    reach = reach_of(shown.values())
    rows: Rows = [[name, bounds_text(lift), interval_mark(lift, reach, name)] for name, lift in shown.items()]
    return Table(["ranking", "lift", "interval"], rows, arm_name(new if brief else served, new))


def tried_table(record: Json | None) -> Table:
    """The corrections that were tried until one was accepted, what held-out feedback shows, and what refused them."""
    rows: Rows = [
        [
            figures["name"],
            *(number_text(figures["gain"][name], 1) for name in ("z", "z_value", "z_page", "later", "later_page")),
            figures["failure"] or "accepted",
        ]
        for figures in (record or {}).get("tried", ())
    ]
    return Table(["correction", "z", "by value", "of the order", "later", "order later", ""], rows)


def recall_table(prerank: Json) -> Table:
    """The share of later positives among the candidates, by their number."""
    rows: Rows = [
        [
            f"recall@{figures['n']}",
            f"{figures['requests']:,}",
            f"{figures['unknown']:.1%}",
            *(value_text(figures[name], 3) for name in ("recall", "popularity_recall", "difference")),
        ]
        for figures in prerank["recall"]
    ]
    return Table(["", "requests", "unknown", "two towers", "most popular", "difference"], rows)


def stage_table(stages: Json) -> Table:
    """Time and memory of each stage of a pipeline."""
    longest = max(figures["seconds"] for figures in stages.values())
    rows: Rows = [
        [
            name,
            "earlier run" if figures["cached"] else "this run",
            f"{figures['seconds']:.1f} s",
            f"{figures['peak_mib']:,.0f} MiB",
            bar(figures["seconds"], longest),
        ]
        for name, figures in stages.items()
    ]
    return Table(["stage", "done in", "took", "peak memory so far", ""], rows, texts=2)


def latency_table(check: Json) -> Table:
    """Milliseconds of each step of a check. The 99th percentile of few requests is their maximum."""
    most = max(figures["p99_ms"] for figures in check["latency"].values())
    rows: Rows = [
        [name, f"{figures['p50_ms']:.2f}", f"{figures['p99_ms']:.2f}", bar(figures["p50_ms"], most)]
        for name, figures in check["latency"].items()
    ]
    return Table(["milliseconds", "p50", "p99" if check["requests"] >= _MANY else "max", ""], rows, "in all")


def skew_table(check: Json) -> tuple[Table, str]:
    """Features whose materialized and served values differ, those that differ most first, and how many do not."""
    skew = check["skew"]
    rows: Rows = [
        [
            name,
            f"{figures['values']:,}",
            f"{figures['equal']:.4%}",
            "known on one side" if figures["max_difference"] is None else f"{figures['max_difference']:.3g}",
        ]
        for name, figures in skew.items()
        if figures["equal"] < 1.0
    ]
    text = f"{len(skew) - len(rows)} of {len(skew)} features have the same bits both ways"
    return Table(["feature", "values", "equal", "largest difference"], rows), text


def lift_table(lifts: Mapping[str, Json], metrics: Mapping[str, str]) -> tuple[list[str], Rows]:
    """Lifts of each arm by metric; metrics: their titles."""
    return ["", *metrics.values()], [
        [arm, *(lift_text(by_metric.get(m)) for m in metrics)] for arm, by_metric in lifts.items()
    ]


def number_text(value: float | None, digits: int = 4) -> str:
    """A number, or that it is not known."""
    return "n/a" if value is None else f"{value:.{digits}f}"
