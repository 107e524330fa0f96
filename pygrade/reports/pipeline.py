"""The report of a pipeline: every stage's figures and pictures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade._util.serialization import read_json
from pygrade.evaluation.arms import GRADE
from pygrade.evaluation.policy_estimates import LIFT
from pygrade.evaluation.replay import equal_metrics, judged_by
from pygrade.reports.html import Section, document
from pygrade.reports.pipeline_plots import latencies, lifts, predictions, recall, seconds
from pygrade.reports.training import signed_percent, training_sections, write_text

Json = Mapping[str, Any]
_SHOWN = 12  # features of the skew table
CHECK = "serve-check.json"  # written to the run by `pygrade serve-check`


def write_pipeline_report(run: Path, summary: Json, training: Path) -> Path:
    """Writes ``report.html`` and ``plots/*.png`` from the summary, the policy's training and the last serve-check."""
    stages = summary["stages"]
    check = read_json(run / CHECK) if (run / CHECK).exists() else {}
    if check.get("version") != stages["publish"]["version"]:
        check = {}
    sections = [
        _data(stages),
        *_leaks(stages.get("leaks")),
        *_prerank(stages["prerank"]),
        *_predictions(stages["logs"]["predictions"], stages["mtl"]),
        *training_sections(training),
        *_judgment(stages["evaluate"]),
        *_serving(check),
        Section(
            "Time",
            "Duration of each stage when it ran.",
            "seconds",
            seconds([(name, entry["seconds"]) for name, entry in stages.items()]),
        ),
    ]
    for section in sections:
        if section.picture:
            with atomic_file(run / "plots" / f"{section.name}.png") as partial:
                partial.write_bytes(section.picture)
    title = f"pygrade pipeline: {summary['data']}"
    lead = (
        "<p class=lead>Raw events → features → prerank → multi-task model → fusion policy → page. Every part is judged "
        "on requests later than all it learned from.</p>"
    )
    lead += "".join(f"<p class=lead><b>WARNING: {html.escape(text)}</b></p>" for text in summary.get("warnings", ()))
    write_text(run / "report.html", document(title, lead, sections, summary))
    return run / "report.html"


def _data(stages: Json) -> Section:
    events, features, logs = stages["events"], stages["features"], stages["logs"]
    rows = [
        ["data set", f"{events['name']} ({events['license']})"],
        ["requests", f"{events['num_requests']:,}"],
        ["candidates", f"{events['num_rows']:,}, {events['num_shown']:,} of them shown"],
        ["kinds of feedback", ", ".join(events["tasks"])],
        ["features", f"{features['features']} in schema {features['schema_hash']}"],
        ["the policy learns from", f"{logs['policy']['requests']:,} requests"],
        ["judged on", f"{logs['evaluate']['requests']:,} later requests"],
    ]
    return Section("Data", "The inputs of the stages.", table=_table(["", ""], rows))


def _leaks(check: Json | None) -> list[Section]:
    if check is None:
        return []
    text = (
        f"After {check['moments']} moments the log's first {check['rows']:,} rows were altered; no feature of a "
        f"request before them may change. {len(check['leaks'])} did."
    )
    rows = [
        [leak["feature"], f"{leak['rows']:,}", str(leak["cut"]), f"{leak['before']} → {leak['after']}"]
        for leak in check["leaks"]
    ]
    head = ["feature", "rows", "altered from (ms)", "example"]
    return [Section("Leaks from the future", text, table=_table(head, rows) if rows else "")]


def _prerank(record: Json) -> list[Section]:
    rows = [
        [
            f"recall@{entry['n']}",
            f"{entry['requests']:,}",
            f"{entry['unknown']:.1%}",
            _interval(entry["recall"]),
            _interval(entry["popularity_recall"]),
            _interval(entry["difference"]),
            _number(entry["index_recall"]),
        ]
        for entry in record["recall"]
    ]
    head = ["", "requests", "unknown items", "two towers", "most popular", "difference", "index against brute force"]
    text = (
        f"Share of a request's later positives among its candidates, of {record['items']:,} items in a "
        f"{record['index']} index. Unknown items appeared after the training: no list can hold them."
    )
    return [
        Section("Prerank", text, "recall", recall(record["recall"])),
        Section("Prerank in numbers", text, table=_table(head, rows)),
    ]


def _predictions(tasks: Json, model: Json) -> list[Section]:
    rows = [
        [
            task,
            f"{entry['positives']:,}",
            f"{entry['rate']:.2%}",
            f"{entry['mean_prediction']:.2%}",
            _number(entry["auc"]),
            _number(entry["gauc"]),
            f"{_number(entry['log_loss_before'])} → {_number(entry['log_loss'])}",
            f"{_number(entry['ece_before'])} → {_number(entry['ece'])}",
        ]
        for task, entry in tasks.items()
    ]
    head = ["task", "events", "rate", "predicted", "AUC", "GAUC", "log-loss, calibrated", "ECE, calibrated"]
    text = (
        f"Predictions of the {html.escape(model['network'].upper())} on the requests that judge: later than those that "
        "trained, stopped and calibrated it. Before → after calibration."
    )
    return [
        Section("Multi-task model", text, "predictions", predictions(tasks)),
        Section("Multi-task model in numbers", text, table=_table(head, rows)),
    ]


def _judgment(record: Json) -> list[Section]:
    replay = record["replay"]
    groups = {"all users": replay["lifts"]}
    groups |= {f"{name} users": entry["lifts"] for name, entry in record["users"].items() if "lifts" in entry}
    rows = [
        [
            name,
            *(_interval(entry[metric]) for metric in ("ndcg", "value")),
            *(
                signed_percent(replay["lifts"][name][metric]) if name in replay["lifts"] else "baseline"
                for metric in ("ndcg", "value")
            ),
        ]
        for name, entry in replay["rankers"].items()
    ]
    k, base = replay["k"], replay["baseline"]
    users = [
        [
            name,
            f"{entry['from']} … {'' if entry['to'] is None else entry['to']}",
            f"{entry['requests']:,}",
            *(
                signed_percent(entry["lifts"][arm]["ndcg"]) if arm in entry.get("lifts", {}) else "too few"
                for arm in replay["lifts"]
            ),
        ]
        for name, entry in record["users"].items()
    ]
    estimates = [
        [
            name,
            signed_percent(entry) if name == LIFT else _interval(entry),
            f"{entry['effective_sample_size']:,.0f}",
            entry["warning"] or "",
        ]
        for name, entry in record["off_policy"].items()
    ]
    text = (
        f"Each ranker re-orders the logged pages of {replay['num_requests']:,} later requests; items that "
        f"were not shown can't be judged. {html.escape('; '.join((judged_by(replay), *equal_metrics(replay))))}"
    )
    sections = [
        Section("Policy: replay", text, "replay", lifts(groups, "ndcg", base, GRADE)),
        Section(
            "Policy: replay in numbers",
            text,
            table=_table(["", f"NDCG@{k}", f"value@{k}", f"NDCG@{k} lift", f"value@{k} lift"], rows, GRADE),
        ),
        Section(
            "Policy: off-policy estimate",
            "Value of a request's page if the policy orders the shown items, by the position-based model. "
            f"{record['off_policy_note']}",
            table=_table(["", "value", "effective sample", "warning"], estimates) if estimates else "",
        ),
    ]
    if users:
        sections.append(
            Section(
                "Users by their history",
                f"Lift of NDCG@{k} over {html.escape(base)}, for users by their events before the request. Users of "
                "whom little is known are served weights near their scenario's.",
                table=_table(["users", "events", "requests", *replay["lifts"]], users),
            )
        )
    return sections


def _serving(check: Json) -> list[Section]:
    if not check:
        return []
    rows = [[name, f"{entry['p50_ms']:.2f}", f"{entry['p99_ms']:.2f}"] for name, entry in check["latency"].items()]
    text = (
        f"{check['requests']:,} requests went both ways, from materialized features and from the store as it was at "
        f"that moment ({html.escape(check['store'])}): {check['equal_pages']:,} pages are equal bit for bit. "
        f"{check['candidates']} candidates a request."
    )
    worst = list(check["skew"].items())[:_SHOWN]
    skew = [[name, f"{entry['values']:,}", f"{entry['equal']:.4%}", difference(entry)] for name, entry in worst]
    exact = sum(entry["equal"] == 1.0 for entry in check["skew"].values())
    about = f"{exact} of {len(check['skew'])} features have the same bits both ways; those that differ most come first."
    head = ["feature", "values", "equal", "largest difference"]
    return [
        Section("Serving", text, "latency", latencies(check["latency"])),
        Section("Serving in numbers", text, table=_table(["milliseconds", "p50", "p99"], rows)),
        Section("Train/serve skew", about, table=_table(head, skew)),
    ]


def difference(entry: Json) -> str:
    """The largest difference of a feature; a text if one side does not know it."""
    return "known on one side" if entry["max_difference"] is None else f"{entry['max_difference']:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], strong: str = "") -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr{' class=own' if strong and row[0] == strong else ''}><th>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _interval(entry: Json) -> str:
    if entry["value"] is None:
        return "n/a"
    if entry["low"] is None or entry["high"] is None:
        return f"{entry['value']:.4f}"
    return f"{entry['value']:.4f} ({entry['low']:.4f} … {entry['high']:.4f})"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
