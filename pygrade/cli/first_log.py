"""`pygrade doctor --cold-start`: a policy by expected value, and how to explore until train can decide."""

from pathlib import Path
from typing import Any

from pygrade._util.files import directory_lock
from pygrade._util.optional_imports import require
from pygrade._util.serialization import write_json, write_text
from pygrade.cli import terminal
from pygrade.cli.run_directory import check_output
from pygrade.config.ignored import refuse
from pygrade.config.logs import DoctorOptions
from pygrade.doctor.first_log import plan_first_log, plan_rows, plan_sentence, plan_text
from pygrade.training.first_policy import save_first_policy

CONFIG, RECORD = "pygrade.toml", "cold_start.json"
OWNER = "doctor --cold-start"  # of the directory: other tables go elsewhere


def start(options: DoctorOptions) -> dict[str, Any]:
    """Writes the policy and the options of what follows; returns them with the plan."""
    refuse(options, ("files", "query", "map", "scale", "events", "fix", "production"), "no --cold-start")
    if not isinstance(options.out, Path):
        raise ValueError(f"out is {options.out}; expected a directory of this machine, where the service will log, too")
    out = options.out
    check_output(out, OWNER)
    plan = plan_first_log(options.k, options.requests_a_day, options.rates, options.shuffle)
    sentence = plan_sentence(plan)
    with directory_lock(out, OWNER):
        policy = save_first_policy(out / "policy", options.values, options.value_tasks, options.features)
        write_text(out / CONFIG, _toml(options, plan))
        assert policy.mixture is not None
        record = {"policy_version": policy.version, "verdict": policy.mixture.sentence, "plan": plan, "next": sentence}
        write_json(out / RECORD, record)
    if not options.json:
        _print(out, record)
    return record | {"policy": str(out / "policy"), "config": str(out / CONFIG)}


def _toml(options: DoctorOptions, plan: dict[str, Any]) -> str:
    """The options of what follows: serve, join, doctor and train; paths are relative to the file."""
    explored = {"shuffle": plan["shuffle"]}
    serve = {"exposures": "exposures", "feedback": "feedback", "exposure_share": plan["full"], "explore": explored}
    serve["max_explore"] = max(0.1, plan["shuffle"])
    worth = {"values": options.values, "value_tasks": list(options.value_tasks)}
    tables: dict[str, dict[str, Any]] = {"doctor": {"files": ["served"], **worth}}
    tables["join"] = {"exposures": "exposures", "feedback": ["feedback"], "out": "served"}
    tables["train"] = {"data": "logs:served", **worth}
    text: str = require("tomli_w").dumps({"serve": serve, **tables}, indent=2)
    return f"# pygrade serve, join, doctor and train read their tables: --config pygrade.toml\n{text}"


def _print(out: Path, record: dict[str, Any]) -> None:
    plan, config = record["plan"], out / CONFIG
    if plan["chosen"]["days"] is not None:
        terminal.table("Shuffled pages until train can decide", *plan_rows(plan), caption=plan_text(plan))
    else:
        terminal.text(f"{plan_text(plan)} With --requests-a-day and --rates the plan is in days.")
    terminal.text("")
    terminal.text(record["verdict"])
    terminal.text(record["next"])
    terminal.text(f"serve:  pygrade serve --run {out} --config {config}")
    terminal.text("later, with the same --config: pygrade join; pygrade doctor; pygrade train --out NEXT")
