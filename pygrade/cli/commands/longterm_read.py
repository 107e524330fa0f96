"""pygrade longterm-read"""

from typing import Any

from pygrade._util.serialization import read_json, write_text
from pygrade.cli import terminal
from pygrade.config.longterm import LongtermReadOptions
from pygrade.longterm import page
from pygrade.longterm.experiment_plan import load_plan
from pygrade.longterm.read import read
from pygrade.longterm.user_table import load_users


def run(options: LongtermReadOptions) -> dict[str, Any]:
    plans = [load_plan(path) for path in options.plan]
    finished = [read_json(path) for path in options.finished]
    for path, record in zip(options.finished, finished, strict=True):
        if not isinstance(record, dict) or "kind" not in record:
            raise ValueError(f"{path}: want what pygrade longterm-read --json printed")
    record = read(load_users(options.users, options.experiment), plans, finished, options.margin, options.gain)
    if options.report is not None:
        write_text(options.report, page.longterm_page(record, f"pygrade longterm-read: {options.users}"))
    if not options.json:
        _print(record)
    return record


def _print(record: dict[str, Any]) -> None:
    if "settings" in record:
        terminal.table(page.TITLE, *page.setting_table(record, pictures=False), caption=page.caption(record))
        if record["index"] is not None:
            terminal.text(page.index_text(record))
        if record["segments"] is not None:
            terminal.table("A setting for each segment", *page.segment_table(record))
    terminal.text("")
    terminal.text(record["sentence"])
    for sentence in record["warnings"]:
        terminal.text(f"WARNING: {sentence}")
