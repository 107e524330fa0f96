"""A reader of a service's logs as they grow."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pygrade.logs import Logs
from pygrade.service.exposures import exposure_files, read_exposures
from pygrade.service.feedback_log import event_of, feedback_files, key_of, lines_of
from pygrade.training.feedback import Event

logger = logging.getLogger("pygrade")
_NAMED = 3  # of each kind that is left out


class LogTail:
    """New pages and events since the last look. `state` says what was read; a tail with that state continues."""

    def __init__(
        self,
        exposures: Path,
        feedback: Sequence[Path],
        tasks: Sequence[str],
        state: dict[str, Any] | None = None,
        whole_items: bool = True,
    ) -> None:
        """tasks: of the pages; events of others are left out. whole_items: see `event_of`."""
        self.exposures, self.feedback, self.tasks = exposures, feedback, tuple(tasks)
        self.whole_items = whole_items
        self.state: dict[str, Any] = state or {"exposures": [], "feedback": {}}
        self.counters: Counter[str] = Counter()  # pages, repeated_pages, events, unknown, other, refused_…

    def pages(self) -> Iterator[Logs]:
        """The pages of each new file; a damaged file is left out."""
        joined = set(self.state["exposures"])
        for file in exposure_files(self.exposures):
            if file.name in joined:
                continue
            self.state["exposures"].append(file.name)
            try:
                logs, repeated = read_exposures(file)
            except (ValueError, TypeError) as error:
                self.refuse("pages", error)
                continue
            self.counters.update(pages=logs.num_requests, repeated_pages=repeated)
            yield logs

    def events(self) -> Iterator[Event]:
        """The new events that name a request; malformed ones are left out."""
        offsets = self.state["feedback"]
        for file in feedback_files(self.feedback):
            for line, end in lines_of(file, offsets.get(key_of(file), 0)):
                offsets[key_of(file)] = end
                try:
                    event = event_of(line, self.whole_items, self.tasks)
                except (ValueError, TypeError) as error:
                    self.refuse("event", f"{error}: {line[:200].decode(errors='replace').strip()}")
                    continue
                if isinstance(event, str):
                    self.counters[event] += 1
                    continue
                self.counters["events"] += 1
                yield event

    def refuse(self, what: str, error: object) -> None:
        """An event or pages do not fit."""
        self.counters[f"refused_{what}"] += 1
        if self.counters[f"refused_{what}"] <= _NAMED:
            logger.warning("%s left out: %s", what, error)
