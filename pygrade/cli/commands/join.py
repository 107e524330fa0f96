"""pygrade join"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import sub_config
from pygrade.config.service import JoinConfig, JoinOptions
from pygrade.service.join import STATE, join_logs
from pygrade.storage import Folder, download_directory, is_url

_FOREVER = 1 << 62


def run(options: JoinOptions) -> dict[str, Any]:
    if options.final and options.until is not None:
        raise ValueError("--final and --until both say which pages wait no more; expected one of them")
    until = _FOREVER if options.final else options.until
    # Of URLs, mirrors: files that were read before are not copied again.
    exposures, feedback = (
        download_directory(options.exposures),
        [download_directory(place) for place in options.feedback],
    )
    out = download_directory(options.out)
    record = join_logs(exposures, feedback, out, sub_config(JoinConfig, options), until)
    if is_url(options.out):
        Folder.at(options.out).publish(out, hidden=(STATE,))
    if not options.json:
        rows = [[text, f"{record[name]:,}"] for name, text in _ROWS.items()]
        terminal.table(f"{options.out}", ["", "in all"], rows)
        wait = f"no page is complete yet: each waits {options.feedback_delay_ms / 60_000:g} minutes for its feedback"
        wait += "; --final waits for none, where the logs have ended"
        terminal.text(f"train on it: pygrade train --data logs:{options.out} --out RUN" if record["requests"] else wait)
    return record


_ROWS = {
    "requests": "pages with complete feedback",
    "open": "open pages: their feedback may still come",
    "repeated_pages": "pages left out: their request was served before",
    "removed_pages": "pages left out: their user was removed",
    "joined": "events joined",
    "late": "events too late",
    "repeated": "events received again",
    "not_on_page": "events of items that their page did not show",
    "unknown": "events of unknown requests",
    "other": "events without a task, or with one that the pages do not have",
    "waiting": "events that wait",
    "malformed": "events malformed",
}
