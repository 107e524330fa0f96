"""`pygrade doctor` on several tables: a schema of raw events, and what an import by it says."""

import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pygrade._util.alive import show_step, without_step_lines
from pygrade._util.serialization import write_json, write_text
from pygrade.cli import terminal
from pygrade.cli.run_directory import to_toml, to_words
from pygrade.config.ignored import refuse
from pygrade.config.logs import DoctorOptions
from pygrade.data.events import EventLog, import_events
from pygrade.doctor.event_proposal import SchemaProposal, propose_schema, sample
from pygrade.doctor.schema_file import schema_text, table_rows
from pygrade.logs.column_map import parse_map
from pygrade.storage import Place, is_url, join_path

SCHEMA = "events.toml"


def examine_events(options: DoctorOptions, groups: Sequence[Sequence[Place]], out: Path | None) -> dict[str, Any]:
    """Proposes a schema, prints and writes it, and imports the events once, to say what they hold and lose."""
    refuse(options, ("scale", "fix", "query", "production"), "one table of pages")
    stated_roles = parse_map(options.map)
    tables = [sample(group, stated_roles.get("item_id", "")) for group in groups]
    proposal = propose_schema(tables, stated_roles, options.values, options.value_tasks)
    if not options.json:
        with without_step_lines():
            _print(proposal)
    with tempfile.TemporaryDirectory(prefix="pygrade-", dir=out) as scratch:
        directory = Path(scratch) if out is None else out
        write_text(directory / SCHEMA, schema_text(proposal, lambda place: _name(place, directory)))
        record: dict[str, Any] = {"notes": proposal.notes, "open": proposal.open}
        if options.out is not None and out is not None:
            schema, config = join_path(options.out, SCHEMA), join_path(options.out, "pygrade.toml")
            record |= {"schema": schema, "config": config}
            folder, data = (None, schema) if is_url(options.out) else (Path(options.out), SCHEMA)
            again = to_toml(options, "doctor", folder, defaults={"data": f"events:{data}"})
            write_text(out / "pygrade.toml", f"# pygrade COMMAND --config pygrade.toml reads [defaults]\n{again}")
        if proposal.open:
            at = f" in {record['schema']}" if out is not None else ""
            raise ValueError(f"{'; '.join(proposal.open)} (the rest of the schema stands{at})")
        show_step("importing the events")
        log = import_events(f"events:{directory / SCHEMA}", Path(scratch) / "log")
        record |= _facts(log)
    record["summary"] = _summary(options, record)
    if out is not None:
        write_json(out / "doctor.json", record)
    if not options.json:
        with without_step_lines():
            _print_facts(record)
    return record


def _summary(options: DoctorOptions, record: dict[str, Any]) -> list[str]:
    """Three lines: can one train, what limits it, the next command."""
    limit = record["lost"][0] if record["lost"] else f"{record['num_requests']:,} requests"
    command = to_words(replace(options, out=Path("runs/events")), "doctor")
    if "schema" in record:
        run = f"{str(options.out).rstrip('/')}-run"
        command = shlex.join(["pygrade", "pipeline", "--config", str(record["config"]), "--out", run])
    can = "yes, by pygrade pipeline, which first trains a model that predicts these events"
    return [f"You can train: {can}.", f"What limits it: {limit.rstrip('.')}.", f"Next command: {command}"]


def _name(place: Place, directory: Path) -> str:
    """A file as the schema in a directory names it."""
    return str(place) if is_url(place) else os.path.relpath(Path(place).resolve(), directory.resolve())


def _facts(log: EventLog) -> dict[str, Any]:
    names = ["tasks", "num_requests", "num_rows", "num_shown", "positives", "first_time", "last_time"]
    names += ["users", "items", "context", "measures", "scenarios"]
    return {name: log.source[name] for name in names} | {"lost": list(log.source["notes"])}


def _print(proposal: SchemaProposal) -> None:
    for table in proposal.tables:
        form = f", {table.keys['form']} form" if table.entity == "events" else ""
        title = f"{table.table.where}: {table.entity}{form}, {table.table.total:,} rows"
        terminal.table(title, ["key", "column"], table_rows(table), left=True)
    for note in proposal.notes:
        terminal.text(f"note: {note}")


def _print_facts(record: dict[str, Any]) -> None:
    first, last = (datetime.fromtimestamp(record[f"{end}_time"] / 1000, UTC).date() for end in ("first", "last"))
    hidden = record["num_rows"] - record["num_shown"]
    more = f", {hidden:,} candidates that were not shown" if hidden else ""
    terminal.text(
        f"{record['num_requests']:,} requests with {record['num_shown']:,} exposures{more}, {first} to {last}; "
        + ", ".join(f"{task} {record['positives'][task] / record['num_shown']:.2%}" for task in record["tasks"])
    )
    for sentence in record["lost"]:
        terminal.text(f"! {sentence}")
    if "config" in record:
        terminal.text(f"schema, to be looked at: {record['schema']}    config: {record['config']}")
    for line in ("", *record["summary"]):
        terminal.text(line)
