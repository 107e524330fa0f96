"""The report of a pipeline: the verdict, and every stage's figures and pictures."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.html_table import Table
from pygrade._util.serialization import read_json
from pygrade.config.console import ConsoleConfig
from pygrade.console import tables
from pygrade.console.collect import collect
from pygrade.console.html import Lead, Section, facts
from pygrade.console.page import write_page
from pygrade.console.run_files import JudgedRun, find_run
from pygrade.console.sections import (
    cross_fit_section,
    off_policy_section,
    options_section,
    prediction_section,
    replay_section,
    run_section,
    verdict_lead,
)
from pygrade.console.training import FILE, training_sections
from pygrade.evaluation.replay import event_values_text

Json = Mapping[str, Any]
_SHOWN = 12  # features of the skew table
_RARE = {"unvalued": "too rare to be valued: predictions are read, events are worth 0", "left_out": "not predicted"}
_TOLD = ", all new to the user: columns of history are not checked here"
CHECK = "serve-check.json"  # written to the run by `pygrade pipeline --check`


def write_pipeline_report(run: Path, summary: Json, defaults: Any = None) -> Path:
    """Writes ``report.html`` from the summary of a finished run, its stages and its last check.

    defaults: the options that ``summary["options"]`` is compared with.
    """
    judged = find_run(run, evaluation=summary["stages"]["evaluate"]["replay"])
    lead, sections = pipeline_report(run, summary, judged)
    if defaults is not None and "options" in summary:
        sections.append(options_section(summary["options"], defaults))
    sections += run_section({name: value for name, value in summary.items() if name != "options"})
    record = collect(judged, ConsoleConfig())
    write_page(run / FILE, f"pygrade pipeline: {summary['data']}", lead, sections, record)
    return run / FILE


def pipeline_report(run: Path, summary: Json, judged: JudgedRun) -> tuple[Lead, list[Section]]:
    """The verdict, and the sections of the stages; ``judged`` has the replay."""
    stages, replay = summary["stages"], judged.evaluation
    check = read_json(run / CHECK) if (run / CHECK).exists() else {}
    if check.get("version") != stages["publish"]["version"]:
        check = {}
    text = (
        "Raw events → features → prerank → multi-task model → fusion policy → page. Every part is judged on requests "
        "later than all it learned from."
    )
    lead = verdict_lead(replay["verdict"], replay, summary.get("warnings", ()), judged.policy.version, text)
    if judged.events is not None:
        lead = replace(lead, warnings=[judged.events.name_ids(sentence) for sentence in lead.warnings])
    return lead, [
        replay_section(replay),
        off_policy_section(stages["evaluate"]["off_policy"], stages["evaluate"]["off_policy_note"]),
        *cross_fit_section(stages["policy"].get("cross_fit")),
        model_section(stages["logs"]["predictions"], stages["mtl"], replay),
        prerank_section(stages["prerank"]),
        *training_sections(run / f"policy-{stages['policy']['key']}"),
        *check_sections(check),
        _data(stages),
        *_leaks(stages.get("leaks")),
        time_section(stages),
    ]


def _data(stages: Json) -> Section:
    events, features, logs = stages["events"], stages["features"], stages["logs"]
    rows = [
        ("data set", f"{events['name']} ({events['license']})"),
        ("requests", f"{events['num_requests']:,}"),
        ("candidates", f"{events['num_rows']:,}, {events['num_shown']:,} of them shown"),
        ("kinds of feedback", ", ".join(events["tasks"])),
        *((words, ", ".join(stages["mtl"][name])) for name, words in _RARE.items() if stages["mtl"][name]),
        ("predictions", "of your own model" if stages["mtl"]["network"] == "own" else "of a multi-task model"),
        ("values", event_values_text(stages["policy"])),
        ("slot propensities", stages["evaluate"]["propensity"]),
        ("features", f"{features['features']} in schema {features['schema_hash']}"),
        ("the policy learns from", f"{logs['policy']['requests']:,} requests"),
        ("judged on", f"{logs['evaluate']['requests']:,} later requests"),
        *(("history", text) for text in _history(stages)),
    ]
    return Section("Data", "The inputs of the stages.", more=facts(rows))


def _history(stages: Json) -> list[str]:
    if (record := stages.get("history")) is None:
        return []
    if "reason" in record:
        return [f"none: {record['reason']}"]
    read = "history" in ((stages["policy"].get("cross_fit") or {}).get("proof") or {}).get("name", "")
    return [f"{'read' if read else 'not accepted'}; made from {record['before']['requests']:,} earlier requests on"]


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
    shown = Table(["feature", "rows", "altered from (ms)", "example"], rows)
    return [Section("Leaks from the future", text, [shown] if rows else [])]


def prerank_section(record: Json) -> Section:
    """Recall of the candidates by their number."""
    text = (
        f"Share of a request's later positives among its candidates, of {record['items']:,} items, ± 95 %. Unknown "
        f"items appeared after the training: no list can hold them. Published: {record.get('published', 'two towers')}."
    )
    return Section("Prerank", text, [tables.recall_table(record)])


def model_section(tasks: Json, model: Json, replay: Json) -> Section:
    """Order and calibration: the order of the replay's requests, which are the same."""
    if model["network"] == "own":
        about = "Predictions of your own model, columns p_ of the log, on the requests that judge."
        return prediction_section(replay, "Predictions", about)
    text = (
        f"Predictions of the multi-task model ({model['network']}) on the requests that judge: later than "
        "those that trained, stopped and calibrated it. Log-loss and calibration error (ECE): before → after "
        "calibration. GAUC: within a user. ± 95 %, clustered by user; an AUC of 0.5 is chance."
    )
    return Section("Multi-task model", text, [tables.model_table(tasks, model)])


def check_sections(check: Json) -> list[Section]:
    """Latencies and skew of a check; none without one."""
    if not check:
        return []
    text = (
        f"{check['requests']:,} requests went both ways, from materialized features and from the store as it was at "
        f"that moment ({check['store']}): {check['equal_pages']:,} of {check['requests']:,} pages are equal bit for "
        f"bit. {check['candidates']} candidates a request{_TOLD if check.get('history') else ''}. Bar: p50."
    )
    skew, equal = tables.skew_table(check)
    shown = [skew._replace(rows=skew.rows[:_SHOWN])] if skew.rows else []
    return [
        Section("Serving", text, [tables.latency_table(check)]),
        Section("Train/serve skew", f"{equal}; those that differ most come first.", shown),
    ]


def time_section(stages: Json) -> Section:
    """Time and memory of the stages."""
    return Section("Time", "Duration of each stage when it ran.", [tables.stage_table(stages)])
