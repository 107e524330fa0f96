"""pygrade day0"""

from pathlib import Path
from typing import Any

from pygrade._util.files import directory_lock
from pygrade._util.serialization import write_json, write_text
from pygrade.cli import terminal
from pygrade.cli.run_directory import check_out, to_toml
from pygrade.config.day0 import Day0Options
from pygrade.doctor.first_log import plan_first_log, plan_rows, plan_sentence, plan_text
from pygrade.storage import Place, join_path, working_directory
from pygrade.training.first_policy import save_first_policy

CONFIG, RECORD = "pygrade.toml", "day0.json"


def run(options: Day0Options) -> dict[str, Any]:
    check_out(options.out, "day0")
    plan = plan_first_log(options.k, options.requests_a_day, options.rates, options.shuffle, options.full)
    sentence = plan_sentence(plan)
    with working_directory(options.out, "day0") as out, directory_lock(out, "day0"):
        policy = save_first_policy(out / "policy", options.values, options.value_tasks, options.features)
        write_text(out / CONFIG, _toml(options, plan))
        assert policy.mixture is not None
        record = {"policy_version": policy.version, "verdict": policy.mixture.sentence, "plan": plan, "next": sentence}
        write_json(out / RECORD, record)
    if not options.json:
        _print(options.out, record)
    return record | {"policy": join_path(options.out, "policy"), "config": join_path(options.out, CONFIG)}


def _toml(options: Day0Options, plan: dict[str, Any]) -> str:
    """The options of what follows: serve, join, doctor and train."""
    explored = {"shuffle": plan["shuffle"]}
    serve = {"exposures": "exposures", "feedback": "feedback", "exposure_share": plan["full"], "explore": explored}
    serve["max_explore"] = max(0.1, plan["shuffle"])
    place = options.out if isinstance(options.out, str) else Path(options.out)
    logs = {"exposures": join_path(place, "exposures"), "feedback": [join_path(place, "feedback")]}
    served = join_path(place, "served")
    worth = {"values": options.values, "value_tasks": list(options.value_tasks)}
    tables: dict[str, dict[str, Any]] = {"join": logs | {"out": served}, "doctor": {"files": [served], **worth}}
    text = to_toml(options, "day0", serve=serve, **tables, train={"data": f"logs:{served}", **worth})
    return f"# pygrade serve, join, doctor and train read their tables: --config pygrade.toml\n{text}"


def _print(place: Place, record: dict[str, Any]) -> None:
    plan, config = record["plan"], join_path(place, CONFIG)
    if plan["chosen"]["days"] is not None:
        terminal.table("Shuffled pages until train can decide", *plan_rows(plan), caption=plan_text(plan))
    else:
        terminal.text(f"{plan_text(plan)} With --requests-a-day and --rates the plan is in days.")
    terminal.text("")
    terminal.text(record["verdict"])
    terminal.text(record["next"])
    terminal.text(f"serve:  pygrade serve --run {place} --config {config}")
    terminal.text("later, with the same --config: pygrade join; pygrade doctor; pygrade train --out NEXT")
