"""pygrade doctor"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.alive import show_step, without_step_lines
from pygrade._util.files import directory_lock
from pygrade._util.optional_imports import require
from pygrade._util.serialization import write_json, write_text
from pygrade._util.text import printable
from pygrade.cli import terminal
from pygrade.cli.first_log import start
from pygrade.cli.raw_events import examine_events
from pygrade.cli.run_directory import check_output, to_toml, to_words
from pygrade.config.logs import DoctorOptions
from pygrade.console.html import LIGHTS
from pygrade.data.event_tables import schema_of
from pygrade.doctor import profile_log, profile_page, words
from pygrade.doctor.audit_words import audit_section
from pygrade.doctor.production_formula import LOGGED, parse_production
from pygrade.doctor.ranking_audit import audit_ranking
from pygrade.doctor.schema_file import group_tables
from pygrade.logs import LogContractError, Logs, write_logs
from pygrade.logs.column_map import parse_map
from pygrade.logs.contract import text_of
from pygrade.logs.conversion import record_of
from pygrade.logs.feedback_tables import find_showing, table_name
from pygrade.logs.import_table import import_table
from pygrade.logs.problems import TableProblems
from pygrade.logs.roles import READING
from pygrade.logs.table_files import read_pages
from pygrade.storage import Place, is_url, join_path, working_directory


def run(options: DoctorOptions) -> dict[str, Any]:
    if options.cold_start:
        return start(options)
    groups = group_tables(options.files) if options.events or _may_be_several(options.files) else []
    several = options.events or (len(groups) > 1 and not _is_feedback_apart(groups, parse_map(options.map)))

    def examine(out: Path | None) -> dict[str, Any]:
        return examine_events(options, groups, out) if several else _examine(options, out)

    if options.out is None:
        return examine(None)
    check_output(options.out, "doctor")
    with working_directory(options.out, "doctor") as out, directory_lock(out, "doctor"):
        return examine(out)


def _is_feedback_apart(groups: Sequence[Sequence[Place]], stated_roles: Mapping[str, str]) -> bool:
    """Return whether the tables are one of what was shown, with predictions, and its feedback."""
    columns = {table_name(Path(str(group[0])).name): schema_of(group[0]).names for group in groups}
    return len(columns) == len(groups) and bool(find_showing(columns, stated_roles))


def _may_be_several(files: Sequence[Place]) -> bool:
    return len(files) > 1 or (not is_url(files[0]) and Path(files[0]).is_dir())


def _examine(options: DoctorOptions, out: Path | None) -> dict[str, Any]:
    show_step("reading the files")
    production, boosts = parse_production(options.production)
    column = production if isinstance(production, str) and production != LOGGED else ""
    score = [f"production={column}"] if column and parse_map(options.map).get("production_score") != column else []
    table, where = read_pages(options.files, options.query, parse_map(options.map))
    show_step(f"reading the columns of {where}")
    try:
        imported = import_table(
            table, [*options.map, *score], scale=_scales(options.scale), fix=options.fix, where=where
        )
    except TableProblems as error:
        lines = text_of(error.rows, error.where).splitlines() if isinstance(error, LogContractError) else []
        for line in [*lines, *(f"- {problem}" for problem in error.problems)]:
            print(printable(line), file=sys.stderr)
        summary = ValueError(error.summary)
        for note in getattr(error, "__notes__", ()):
            summary.add_note(note)
        raise summary from None
    logs = Logs.from_imported(imported, options.values, options.value_tasks)
    del table
    require("pyarrow").default_memory_pool().release_unused()
    record = record_of(imported.notes, imported.mapping)
    record |= {"contract": imported.contract, "values": dict(zip(logs.tasks, logs.task_values, strict=True))}
    show_step("what the log can tell")
    record["profile"] = profile_log(logs)
    if options.production:
        show_step("taking the ranking in use apart")
        ranking = logs.production_score if column else production
        if ranking is None:
            raise ValueError(f"production names {column!r}, which requests lack; expected a score of every candidate")
        record["audit"] = audit_ranking(logs, ranking, boosts).to_dict()
    record["summary"] = words.last_lines(record["profile"], _next_command(options, record["profile"]))
    if options.out is not None and out is not None:
        show_step("writing the log")
        record |= _write(options, out, options.out, logs, record, where)
    if not options.json:
        with without_step_lines():
            _print(record, where)
    return record


def _next_command(options: DoctorOptions, profile: dict[str, Any]) -> str:
    """The command to paste: train on the log, write it first, or start without one."""
    if options.out is None:
        return to_words(replace(options, out=Path("runs/log")), "doctor")
    run = f"{str(options.out).rstrip('/')}-run"
    if profile["trainable"]:
        return shlex.join(["pygrade", "train", "--data", f"logs:{join_path(options.out, 'logs')}", "--out", run])
    worth = {task: value or 1.0 for task, value in options.values.items()} or dict.fromkeys(profile["tasks"], 1.0)
    return to_words(DoctorOptions(cold_start=True, values=worth, out=Path(run)), "doctor")


def _scales(entries: Sequence[str]) -> dict[str, str]:
    """Task → scale of ``click=logit,buy=percent``, which may be several words."""
    pairs = [pair.partition("=") for pair in ",".join(entries).split(",") if pair]
    wrong = [task for task, equals, scale in pairs if not (task and scale)]
    if wrong:
        raise ValueError(f"scale has {wrong[0]!r}; expected TASK=SCALE, e.g. click=logit")
    return {task: scale for task, _, scale in pairs}


def _write(
    options: DoctorOptions, out: Path, place: Place, logs: Logs, record: dict[str, Any], where: str
) -> dict[str, Any]:
    write_logs(logs, out / "logs", check=False)
    write_text(out / "pygrade.toml", _toml(options, place, record))
    write_json(out / "doctor.json", record)
    write_text(out / "doctor.html", profile_page(record, f"pygrade doctor: {where}"))
    names = {"logs": "logs", "config": "pygrade.toml", "report": "doctor.html"}
    return {name: join_path(place, file) for name, file in names.items()}


def _toml(options: DoctorOptions, out: Place, record: dict[str, Any]) -> str:
    """The options that make this log again, and where the other commands find it."""
    entries = [f"{role}={column}" for role, column in record["map"].items()]
    entries += [f"skip={'+'.join(record['left_out'])}"] if record["left_out"] else []
    stated_roles = parse_map(options.map)
    entries += [f"{name}={stated_roles[name]}" for name in READING if name in stated_roles]
    again = replace(options, out=out, map=tuple(entries), values=record["values"])
    folder, data = (None, join_path(out, "logs")) if is_url(out) else (Path(out), "logs")
    text = to_toml(again, "doctor", folder, defaults={"data": f"logs:{data}"})
    return f"# pygrade COMMAND --config pygrade.toml reads the table of the command, and [defaults]\n{text}"


def _print(record: dict[str, Any], where: str) -> None:
    """Prints the columns, a line a section, what looks wrong, and whether to train, last, where it is seen."""
    rows = [(name, column) for name, _, _, column in _short(record["contract"]) if column != "none"]
    terminal.table(f"What the columns of {where} are", ["in the log", "column"], rows, left=True)
    for note in record["changed"]:
        terminal.text(note if note.startswith("fixed: ") else f"changed: {note}")
    if record["guessed"]:
        terminal.text(f"guessed: {', '.join(record['guessed'])}; --map says otherwise, skip=COLUMN leaves one out")
    if "audit" in record:
        terminal.text("")
        terminal.sections([audit_section(record["audit"])])
    terminal.text("")
    for section in words.record_sections(record)[1:]:
        terminal.text(f"{section.title}: {LIGHTS[section.light]}. {section.line}")
    for sentence in [*record["warned"], *record["profile"]["sentences"]]:
        terminal.text(f"! {sentence}")
    if "logs" in record:
        terminal.text(f"log: {record['logs']}    config: {record['config']}    figures: {record['report']}")
    for line in ("", *record["summary"]):
        terminal.text(line)


def _short(contract: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """The contract with the columns of one kind in one row."""
    rows, folded = list[tuple[str, str, str, str]](), dict[str, list[str]]()
    for name, required, what, column in contract:
        prefix = name[:2] if name[:2] in ("x_", "w_", "a_", "v_") and column != "none" else ""
        if name == "left out":
            column = f"{column}: {what}"
        if prefix and prefix not in folded:
            rows.append((f"{prefix}…", required, what, prefix))
        if prefix:
            folded.setdefault(prefix, []).append(column.rpartition(" (")[0])
        else:
            rows.append((name, required, what, column))
    return [(name, need, what, ", ".join(folded.get(column, [column]))) for name, need, what, column in rows]
