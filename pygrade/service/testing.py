"""A test of a run's verdict beside its service: the options, and what joins and reads the log from time to time.

``EXPOSURES/test`` holds the test's salt, the joined log, and ``reading.json``, which `pygraded` shows at /test and in
/metrics. Who continues there deals users to the same arms.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.files import directory_lock
from pygrade._util.serialization import read_json, write_json, write_text
from pygrade._util.text import one_line
from pygrade.config.service import JoinConfig, TestConfig
from pygrade.evaluation.decision import DecidedTest, decide_log
from pygrade.evaluation.verdict import verdict_of
from pygrade.logs import Logs, read_logs
from pygrade.metrics.texts import bounds_text
from pygrade.policy import FusionPolicy
from pygrade.service.join import join_logs
from pygrade.service.online import log_folder
from pygrade.serving.run_copy import policy_of

logger = logging.getLogger("pygrade")
FOLDER, READING, JOINED, SERVER = "test", "reading.json", "joined", "pygraded"
_SALT = "salt"
_UNREAD_SECONDS = 60.0  # at most, between looks until there is something to read
_DAY = 86_400_000  # ms
_AFTER = "The TOML of the winner stands here once there is one."
_UNREAD: dict[str, Any] = {"format": "pygrade.test 1", "action": "go on", "reason": "Nothing was read yet."}
_UNREAD |= {"arms": {}, "deciding": {}, "facts": {}, "alarms": [], "after": _AFTER, "toml": ""}
_OWN = (
    "arms",
    "test",
    "file_seconds",
)  # options of [serve] that are the test's, and not in the winner's TOML as they were


def fill_table(run: Path, table: Mapping[str, Any], config: TestConfig) -> dict[str, Any]:
    """The options of ``[serve]`` with those of a test: logs, the two arms unless there are some, and the salt by which
    the test in the directory of exposures deals users, once `TestReader.claim` has written it. ValueError for another.
    """
    filled: dict[str, Any] = {
        "exposures": "exposures",
        "feedback": "feedback",
        "file_seconds": min(300.0, config.interval_seconds),
    }
    filled |= dict(table) | {"test": True}
    control, new = {"name": "control", "ranking": config.control, "share": 1 - config.share}, {"name": "new"}
    filled.setdefault("arms", [control, new | {"share": config.share}])
    file = log_folder(run, filled, "exposures") / FOLDER / _SALT
    known = file.read_text(encoding="utf-8") if file.exists() else None
    salt = str(filled.setdefault("salt", known or f"test of {FusionPolicy.load(policy_of(run)).version}"))
    if known not in (None, salt):
        raise ValueError(f"salt is {salt!r}; {file.parent} has a test by {known!r}: expected that, or other exposures")
    return filled


class TestReader:
    """Joins and reads the log of one test, `fill_table`'s."""

    __test__ = False  # pytest

    def __init__(self, run: Path, table: Mapping[str, Any], config: TestConfig) -> None:
        self.exposures, self.feedback = (log_folder(run, table, name) for name in ("exposures", "feedback"))
        self.run, self.folder, self.table, self.config = run, self.exposures / FOLDER, table, config
        self.join = JoinConfig(config.feedback_delay_ms, float(table.get("max_amount", config.max_amount)))
        self.weeks = verdict_of(FusionPolicy.load(policy_of(run)).mixture).weeks
        self.ended = threading.Event()
        self.record, file = _UNREAD, self.folder / READING
        try:
            self.record = _UNREAD | (read_json(file) if file.exists() else {})
        except ValueError as error:
            logger.warning("the reading is written again: %s", error)
        self.feedback.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Holds the test for this process, and keeps its salt; ValueError if another process reads it, or by another
        salt."""
        with directory_lock(self.folder, "serve"):
            fill_table(self.run, self.table, self.config)  # which another one may have begun meanwhile
            write_text(self.folder / _SALT, str(self.table["salt"]))
            yield

    def serve(self) -> None:
        """Reads every so often, until `ended` is set; within `claim`."""
        while not self.ended.is_set():
            try:
                self.step(time.time_ns() // 1_000_000)
            except OSError as error:  # a full disk: the next look tries again
                logger.error("the reading was not written: %s", one_line(error))
            seconds = self.config.interval_seconds
            self.ended.wait(seconds if self.record["arms"] else min(seconds, _UNREAD_SECONDS))

    def step(self, now: int) -> None:
        """Joins what is new, reads all, and writes the reading; the earlier one with an alarm if that fails."""
        try:
            counts = join_logs(self.exposures, [self.feedback], self.folder / JOINED, self.join)
            if not counts["requests"]:
                delay = self.config.feedback_delay_ms / 60_000
                raise ValueError(f"no page is complete; each waits {delay:g} minutes for its feedback")
            logs = read_logs(self.folder / JOINED)
            control = str(self.table["arms"][0]["name"])
            decided = decide_log(logs, control, planned_requests=self.config.planned_requests)
            self.record = self._record(decided, logs, counts) | {"time": now}
        except Exception as error:  # which the page shows
            level = logging.WARNING if self.record["arms"] else logging.INFO
            logger.log(level, "the test was not read: %s: %s", type(error).__name__, one_line(error))
            if self.record["arms"]:
                self.record = self.record | {"alarms": [f"The log can't be read: {one_line(error)}"]}
            else:
                self.record = self.record | {"reason": f"Nothing can be read yet: {one_line(error)}.", "time": now}
        self.record = self.record | {"interval_seconds": self.config.interval_seconds}
        write_json(self.folder / READING, self.record)

    def _record(self, decided: DecidedTest, logs: Logs, counts: Mapping[str, int]) -> dict[str, Any]:
        toml = self._toml(decided.choice.arm) if decided.choice.action == "ship" else ""
        after = f"All but {100 * self.config.holdout:g} % of the users get the winner, and the reading goes on"
        after += ": pygrade serve --run RUN --config FILE --test"
        words = {"facts": dict(self._facts(decided, logs, counts)), "alarms": list(_alarms(decided, logs))}
        return _UNREAD | decided.to_dict() | words | {"toml": toml, "after": after if toml else _AFTER}

    def _facts(self, decided: DecidedTest, logs: Logs, counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Names and texts of what the page shows beside the readings."""
        test, gate, _, returns = decided
        left = "".join(f"; {count:,} {reason} left out" for reason, count in test.left_out.items())
        yield "requests", f"{test.requests:,} of {test.users:,} users; {counts['open']:,} wait for their feedback{left}"
        lost = ", ".join(f"{counts[n]:,} {n}" for n in ("late", "unknown", "not_on_page", "malformed") if counts[n])
        yield "feedback", f"{counts['joined']:,} events joined" + (f"; {lost.replace('_', ' ')}" if lost else "")
        yield "plan", self._plan(test.requests, logs)
        yield "split", f"{'broken' if test.split.mismatch else 'as planned'} (p = {test.split.p_value:.2g})"
        yield "log and ranking", f"{100 * test.agreement:.2f} % of the shown items are in their arm's slot"
        yield "one purchase", str(gate)
        yield "e(slot)", test.exposure_source
        for name, arm in test.arms.items():
            z = ", ".join(f"{estimator} {value:+.1f}" for estimator, value in arm.disagreement.items())
            yield (
                name,
                f"{100 * arm.pages_differ:.1f} % of its pages are others than {test.control}'s; z of estimators: {z}",
            )
            for metric, lift in ({} if returns is None else returns.lifts.get(name, {})).items():
                yield f"{name}, {metric} a user", f"{bounds_text(lift.corrected)} in the last four weeks"

    def _plan(self, requests: int, logs: Logs) -> str:
        """Days left: of the verdict's plan, or else until the planned requests."""
        if logs.timestamp is None or not (days := float(np.ptp(logs.timestamp)) / _DAY) > 0:
            return f"{self.config.planned_requests:,} requests"
        if self.weeks is not None:
            return f"{7 * self.weeks:.0f} days by the verdict; {max(7 * self.weeks - days, 0):.0f} left"
        left = max(self.config.planned_requests - requests, 0) * days / requests
        return f"{self.config.planned_requests:,} requests; {left:.1f} days left at {requests / days:,.0f} a day"

    def _toml(self, arm: str) -> str:
        """Options that serve the winner to all users but the holdout."""
        arms = {str(options["name"]): options for options in self.table["arms"]}
        control = next(iter(arms))
        of_test = {field.name: getattr(self.config, field.name) for field in fields(TestConfig)}
        of_test = {k: v for k, v in of_test.items() if k not in (*self.table, "share", "control")}
        kept = {name: value for name, value in self.table.items() if name not in _OWN}
        secret = "@" in str(kept.get("store", "")) and kept.pop("store")
        lines = ["# The store's address has a password: set PYGRADE_STORE.", ""] if secret else []
        lines += ["[serve]", *(f"{name} = {_toml_value(value)}" for name, value in kept.items())]
        lines += ["", "[serve.test]", *(f"{name} = {value}" for name, value in of_test.items())]
        for name, share in ((control, self.config.holdout), (arm, 1 - self.config.holdout)):
            options = dict(arms[name]) | {"share": share}
            lines += ["", "[[serve.arms]]", *(f"{key} = {_toml_value(value)}" for key, value in options.items())]
        return "\n".join(lines) + "\n"


def _alarms(decided: DecidedTest, logs: Logs) -> Iterator[str]:
    if decided.returns is not None and decided.returns.alarm:
        yield f"Returns: {decided.returns.alarm}."
    if (policies := logs.policy_version) is None:
        return
    for name in logs.arms:
        versions = np.unique(policies[np.flatnonzero(logs.arm == name)].astype(str))
        if len(versions) > 1:
            yield f"{name} is of {len(versions)} policies ({', '.join(versions)}); the reading is of all of them."


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
