"""The report of a pipeline: the verdict, and every stage's figures and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrade._util.serialization import read_json
from pygrade.console.comparison import FILE, comparison_section
from pygrade.console.html import Cell, Column, Html, Section, escape, facts, table
from pygrade.console.marks import Scale, bars, whisker
from pygrade.console.sections import (
    key,
    options_section,
    prediction_section,
    replay_section,
    trust_section,
    verdict_lead,
)
from pygrade.console.training import training_sections, write_page
from pygrade.evaluation.arms import LOGGED_ORDER
from pygrade.evaluation.policy_estimates import LIFT
from pygrade.evaluation.replay import event_worth
from pygrade.metrics.texts import lift_text, share_text, value_text

Json = Mapping[str, Any]
_SHOWN = 12  # features of the skew table
_MANY = 200  # requests from which on a 99th percentile is more than the maximum
CHECK = "serve-check.json"  # written to the run by `pygrade serve-check`


def write_pipeline_report(run: Path, summary: Json, training: Path, defaults: Any = None) -> Path:
    """Writes ``report.html`` and ``plots/*.png`` from the summary, the policy's training and the last serve-check.

    defaults: the options that ``summary["options"]`` is compared with.
    """
    stages = summary["stages"]
    check = read_json(run / CHECK) if (run / CHECK).exists() else {}
    if check.get("version") != stages["publish"]["version"]:
        check = {}
    judged = run / f"evaluate-{stages['evaluate']['key']}" / FILE
    replay, trust = stages["evaluate"]["replay"], stages["policy"].get("trust")
    sections = [
        replay_section(replay, "Policy: replay"),
        *_users(stages["evaluate"]),
        *comparison_section(read_json(judged) if judged.exists() else {}),
        *_off_policy(stages["evaluate"]),
        *trust_section(trust),
        _predictions(stages["logs"]["predictions"], stages["mtl"], replay),
        _prerank(stages["prerank"]),
        *training_sections(training),
        *_serving(check),
        _data(stages),
        *_leaks(stages.get("leaks")),
        *(options_section(summary["options"], defaults) if defaults is not None and "options" in summary else []),
        _time(stages),
    ]
    text = (
        "Raw events → features → prerank → multi-task model → fusion policy → page. Every part is judged on requests "
        "later than all it learned from."
    )
    lead = verdict_lead(replay["verdict"], replay, summary.get("warnings", ()), text)
    shown = {name: value for name, value in summary.items() if name != "options"}
    write_page(run, f"pygrade pipeline: {summary['data']}", lead, sections, shown)
    return run / "report.html"


def _data(stages: Json) -> Section:
    events, features, logs = stages["events"], stages["features"], stages["logs"]
    rows = [
        ("data set", f"{events['name']} ({events['license']})"),
        ("requests", f"{events['num_requests']:,}"),
        ("candidates", f"{events['num_rows']:,}, {events['num_shown']:,} of them shown"),
        ("kinds of feedback", ", ".join(events["tasks"])),
        ("predictions", "of your own model" if stages["mtl"]["network"] == "own" else "of a multi-task model"),
        ("values", event_worth(stages["policy"])),
        ("slot propensities", stages["evaluate"]["propensity"]),
        ("features", f"{features['features']} in schema {features['schema_hash']}"),
        ("the policy learns from", f"{logs['policy']['requests']:,} requests"),
        ("judged on", f"{logs['evaluate']['requests']:,} later requests"),
    ]
    return Section("Data", "The inputs of the stages.", table=facts(rows))


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
    heads: list[Column | str] = [Column("feature", "text"), "rows", "altered from (ms)", "example"]
    return [Section("Leaks from the future", text, table=table(heads, rows) if rows else "")]


def _prerank(record: Json) -> Section:
    both = ("recall", "popularity_recall")
    scale = Scale.of([entry[name] for entry in record["recall"] for name in both])
    rows: list[list[Cell]] = [
        [
            f"recall@{entry['n']}",
            f"{entry['requests']:,}",
            f"{entry['unknown']:.1%}",
            *(value_text(entry[name], 3) for name in (*both, "difference")),
            Html(whisker(scale, *(entry[name] for name in both), strong=True)),
            _number(entry["index_recall"]),
        ]
        for entry in record["recall"]
    ]
    heads: list[Column | str] = ["", "requests", "unknown", "two towers", "most popular", "difference"]
    columns = [*heads, Column(Html(scale.axis), "mark"), "index found"]
    text = (
        f"Share of a request's later positives among its candidates, of {record['items']:,} items in a "
        f"{record['index']} index, ± 95 %. Unknown items appeared after the training: no list can hold them. "
        f"Published: <b>{escape(record.get('published', 'two towers'))}</b>."
    )
    marks = key(("own", "two towers"), ("second", "most popular items, the same for everybody"))
    return Section("Prerank", text, table=marks + table(columns, rows))


def _predictions(tasks: Json, model: Json, replay: Json) -> Section:
    """Order and calibration: the order of the replay's requests, which are the same."""
    if model["network"] == "own":
        about = "Predictions of your own model, columns p_ of the log, on the requests that judge."
        return prediction_section(replay, "Predictions", about)
    scale = Scale.of([entry["auc_interval"] for entry in tasks.values()], 0.5)
    errors = Scale.of([{"value": entry[name]} for entry in tasks.values() for name in ("ece", "ece_before")])
    rows: list[list[Cell]] = [
        [
            task,
            f"{entry['positives']:,}",
            f"{100 * entry['rate']:.2f} / {100 * entry['mean_prediction']:.2f} %",
            share_text(entry["auc_interval"], 3),
            share_text(entry["gauc_interval"], 3),
            Html(whisker(scale, entry["auc_interval"], strong=True)),
            f"{_number(entry['log_loss_before'], 3)} → {_number(entry['log_loss'], 3)}",
            f"{_number(entry['ece_before'], 3)} → {_number(entry['ece'], 3)}",
            Html(bars(errors, entry["ece"], entry["ece_before"])),
        ]
        for task, entry in ((task, tasks[task]) for task in model["tasks"])
    ]
    columns: list[Column | str] = [Column("task", "text"), "events", "rate / predicted", "AUC", "GAUC"]
    columns += [Column(Html(scale.axis), "mark"), "log-loss", "ECE", Column(Html(errors.axis), "mark")]
    text = (
        f"Predictions of the {escape(model['network'].upper())} on the requests that judge: later than those that "
        "trained, stopped and calibrated it. Log-loss and calibration error (ECE): before → after calibration. GAUC: "
        "within a user. ± 95 %, clustered by user; the line beside the AUC is chance."
    )
    marks = key(("own", "AUC, and ECE after calibration"), ("second", "ECE before it"))
    return Section("Multi-task model", text, table=marks + table(columns, rows))


def _off_policy(record: Json) -> list[Section]:
    estimates, absent = record["off_policy"], record["off_policy_note"]
    notes: dict[str, list[str]] = {}
    for name, entry in estimates.items():
        if entry["warning"]:
            notes.setdefault(entry["warning"], []).append(name)
    rows = [
        [name, lift_text(entry) if name == LIFT else value_text(entry), f"{entry['effective_sample_size']:,.0f}"]
        for name, entry in estimates.items()
    ]
    text = (
        "Value of a request's page if the policy orders the shown items, by the position-based model, ± 95 %. "
        f"{escape(absent[:1].upper() + absent[1:])}"
    )
    below = "".join(f'<p class="note">{escape(", ".join(names))}: {escape(note)}</p>' for note, names in notes.items())
    shown = table([Column("estimate", "text"), "value", "effective sample"], rows) + below if rows else ""
    return [Section("Policy: off-policy estimate", text, table=shown)]


def _users(record: Json) -> list[Section]:
    replay = record["replay"]
    if not record["users"]:
        return []
    arms = [arm for arm in replay["lifts"] if arm in (*replay["weights"], LOGGED_ORDER)]
    rows = [
        [
            name,
            f"{entry['from']} … {'' if entry['to'] is None else entry['to']}",
            f"{entry['requests']:,}",
            *(lift_text(entry["lifts"][arm]["ndcg"]) if arm in entry.get("lifts", {}) else "too few" for arm in arms),
        ]
        for name, entry in record["users"].items()
    ]
    text = (
        f"Lift of NDCG@{replay['k']} over {escape(replay['baseline'])}, for users by their events before the "
        "request. Users of whom little is known are served weights near their scenario's. The intervals of a row cover "
        "at once, not those of the groups: one of four groups that differs is no finding."
    )
    heads: list[Column | str] = [Column("users", "text"), "events", "requests", *arms]
    return [Section("Users by their history", text, table=table(heads, rows))]


def high_percentile(requests: int) -> str:
    """What the larger latency of so few requests is: their 99th percentile is their maximum."""
    return "p99" if requests >= _MANY else "max"


def _serving(check: Json) -> list[Section]:
    if not check:
        return []
    high = high_percentile(check["requests"])
    scale = Scale.of([{"value": entry[name]} for entry in check["latency"].values() for name in ("p50_ms", "p99_ms")])
    rows: list[list[Cell]] = [
        [
            name,
            f"{entry['p50_ms']:.2f}",
            f"{entry['p99_ms']:.2f}",
            Html(bars(scale, entry["p50_ms"], mark=entry["p99_ms"])),
        ]
        for name, entry in check["latency"].items()
    ]
    text = (
        f"{check['requests']:,} requests went both ways, from materialized features and from the store as it was at "
        f"that moment ({escape(check['store'])}): {check['equal_pages']:,} pages are equal bit for bit. "
        f"{check['candidates']} candidates a request. Bar: p50; tick: {high}."
    )
    worst = list(check["skew"].items())[:_SHOWN]
    skew = [[name, f"{entry['values']:,}", f"{entry['equal']:.4%}", difference(entry)] for name, entry in worst]
    exact = sum(entry["equal"] == 1.0 for entry in check["skew"].values())
    about = f"{exact} of {len(check['skew'])} features have the same bits both ways; those that differ most come first."
    columns: list[Column | str] = [Column("milliseconds", "text"), "p50", high, Column(Html(scale.axis), "mark")]
    heads: list[Column | str] = [Column("feature", "text"), "values", "equal", "largest difference"]
    return [
        Section("Serving", text, table=table(columns, rows, "in all")),
        Section("Train/serve skew", about, table=table(heads, skew)),
    ]


def _time(stages: Json) -> Section:
    longest = Scale.of([{"value": entry["seconds"]} for entry in stages.values()])
    rows: list[list[Cell]] = [
        [
            name,
            f"{entry['seconds']:.1f} s",
            "earlier run" if entry["cached"] else "this run",
            f"{entry['peak_mib']:,.0f} MiB",
            Html(bars(longest, entry["seconds"])),
        ]
        for name, entry in stages.items()
    ]
    heads: list[Column | str] = [Column("stage", "text"), "took", Column("done in", "text"), "peak memory so far"]
    heads.append(Column("", "mark"))
    return Section("Time", "Duration of each stage when it ran.", table=table(heads, rows))


def difference(entry: Json) -> str:
    """The largest difference of a feature; a text if one side does not know it."""
    return "known on one side" if entry["max_difference"] is None else f"{entry['max_difference']:.3g}"


def _number(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
