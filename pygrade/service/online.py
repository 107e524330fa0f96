"""Online learning beside a service: a process that reads its logs, learns, and publishes policies.

``RUN/online/policy`` is a link to the policy that is served, ``policy-<version>``; an arm of the service may name it.
``status.json`` there says what was learned, published, refused and rolled back, and has the lifts of the arms, which
``RUN/arms.json`` has, too. ``state`` has all that decides what comes next, and what was read of the logs: a process
that was killed continues from it and reads again what came after.
"""

import logging
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.files import atomic_directory, directory_lock, replace_link
from pygrade._util.serialization import read_json, to_builtins, to_json, write_bytes
from pygrade.config.service import ServiceConfig
from pygrade.config.training import OnlineConfig
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.service.arms import ArmReadings
from pygrade.service.exposures import read_removals
from pygrade.service.tail_logs import LogTail
from pygrade.serving.artifact import open_artifact
from pygrade.serving.run_copy import ARTIFACT, check_proven, policy_of
from pygrade.training.feedback import as_key
from pygrade.training.online import OnlineLearner, Update
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")

FOLDER, LINK, STATUS, STATE, ARMS = "online", "policy", "status.json", "state", "arms.json"
_KEPT = 5  # policies beside the one that is served
_HISTORY = 200  # updates in the status
_SAVE_SECONDS = 600.0  # between saves of the state, which also follow each publication
_EXPOSURE_DELAY = 900_000  # ms, within which exposures are in a complete file; events wait for them


def point_to(run: Path, policy: FusionPolicy) -> Path:
    """Serves a policy as ``RUN/online/policy``; returns the link."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    target = folder / f"policy-{policy.version}"
    if not target.is_dir():
        policy.save(target)
    link = folder / LINK
    replace_link(link, Path(target.name))
    old = sorted(folder.glob("policy-*"), key=lambda path: path.stat().st_mtime)
    for path in [path for path in old if path != target][:-_KEPT]:
        shutil.rmtree(path)
    return link


def first_policy(run: Path) -> Path:
    """The link, made to the run's policy if there is none: an arm may name it before anything is learned."""
    link = run / FOLDER / LINK
    return link if link.exists() else point_to(run, _base(run)[1])


def _base(run: Path) -> tuple[str, FusionPolicy]:
    """Version and policy served before anything is learned; the version is the artifact's if there is one."""
    policy = FusionPolicy.load(policy_of(run))
    return (open_artifact(run / ARTIFACT).version if (run / ARTIFACT).exists() else policy.version), policy


def _with_single_tasks(config: OnlineConfig, run: Path, policy: FusionPolicy) -> OnlineConfig:
    """The options with the tasks of which the policy's training log had only 0 and 1."""
    record = TrainingRecord.load(policy_of(run), policy.version)
    names = config.single_tasks + (record.single_tasks if record is not None else ())
    return replace(config, single_tasks=tuple(task for task in policy.tasks if task in names))


class OnlineService:
    """Follows the logs of one run."""

    def __init__(
        self,
        run: Path,
        exposures: Path,
        feedback: Sequence[Path],
        config: ServiceConfig | None = None,
        shares: dict[str, float] | None = None,
        allow_unproven: bool = False,
    ) -> None:
        """shares: planned, by arm of the service, the control first; None: one arm. allow_unproven: also publish what
        is not shown to be as good as production."""
        self.run, self.exposures, self.feedback, self.allow_unproven = run, exposures, feedback, allow_unproven
        self.config = config or ServiceConfig()
        self.shares = shares or {"main": 1.0}
        self.ended = threading.Event()
        self._start()

    def _start(self) -> None:
        """Continues from the saved state if it is of this artifact, arms and options; else begins. ValueError if the
        policy of the run may not be served."""
        check_proven(policy_of(self.run), self.allow_unproven)
        self.artifact, base = _base(self.run)
        self.online = _with_single_tasks(self.config.online, self.run, base)
        self.error: str | None = None  # of the last look
        self.saved, self.paused = 0.0, False
        try:
            self._continue(base, self.run / FOLDER / STATE)
        except (ValueError, OSError, KeyError) as error:
            logger.warning("learning begins anew: %s", error)
            self._continue(base, None)
        point_to(self.run, self.learner.served)

    def _continue(self, base: FusionPolicy, state: Path | None) -> None:
        """The learner of a saved state; None, or a directory that does not exist: of the policy."""
        online, planned = self.online, self.config.planned_users
        limits = online.feedback_delay_ms, online.max_amount
        self.arms = ArmReadings(base.tasks, *limits, self.shares, planned, online.single_tasks)
        self.history: list[dict[str, Any]] = []
        if state is None or not state.is_dir():
            self.tail, self.since = LogTail(self.exposures, self.feedback, base.tasks), _now()
            self.learner = OnlineLearner(base, self.online, self._publish)
            return
        record = read_json(state / "inputs.json")
        if record["artifact"] != self.artifact:
            raise ValueError(f"the state is of {record['artifact']}; the run has {self.artifact}")
        self.learner = OnlineLearner.load(state / "learner", self.online, self._publish)
        self.arms.load(state / "arms")
        self.tail = LogTail(self.exposures, self.feedback, base.tasks, record["read"])
        self.tail.counters.update(record["counters"])
        self.history, self.since = record["history"], record["since"]
        logger.info("continued with version %s, %d updates", self.learner.served.version, len(self.history))

    # ---- one look ----------------------------------------------------------------------------------------------------
    def step(self, now: int) -> Update:
        """Reads what is new, learns, and writes status and arms."""
        if _base(self.run)[0] != self.artifact:
            logger.warning("what the run serves changed: learning begins anew from its policy")
            self._start()
        for logs in self.tail.pages():
            try:
                self.arms.serve(logs)
                self._serve(logs)
            except (ValueError, TypeError) as error:
                self.tail.refuse("pages", error)
        for event in self.tail.events():
            try:
                self.arms.feedback([event])
                self.learner.feedback([event])
            except (ValueError, TypeError) as error:
                self.tail.refuse("event", error)
        users = read_removals(self.exposures)
        self.arms.remove(users)
        self.learner.remove(users)
        self.learner.join.forget(before=now - self.config.online.feedback_delay_ms - _EXPOSURE_DELAY)
        self.arms.update(now)
        update = self.learner.update(now)
        self._remember(update, now)
        if update.published or time.monotonic() - self.saved > _SAVE_SECONDS:
            self.save()
        self._write(now)
        return update

    def _serve(self, logs: Logs) -> None:
        """Pages in full are learned from; the events of the others wait for nothing."""
        sizes = np.diff(logs.offsets)
        full = np.ones(len(sizes), bool) if logs.candidates is None else sizes >= logs.candidates
        self.learner.join.forget(as_key("request_id", value) for value in logs.request_id[~full])
        chosen = np.flatnonzero(full & self.learner.join.unseen(logs))
        if len(chosen):
            self.learner.serve(logs.select(chosen))

    def _publish(self, policy: FusionPolicy) -> None:
        point_to(self.run, policy)

    def _remember(self, update: Update, now: int) -> None:
        self.paused = update.paused
        names = ("published", "refused", "rolled_back", "paused", "limits_unmet")
        action = next((name for name in names if getattr(update, name)), None)
        lasting = action in ("paused", "limits_unmet")
        if action is None or (lasting and self.history and self.history[-1]["action"] == action):
            return  # what lasts is told once
        step = {
            "time": now,
            "action": action,
            "version": update.version,
            "learned_from": update.learned_from,
            "estimate": to_builtins(update.estimate),
            "figures": to_builtins(update.figures),
        }
        self.history = [*self.history, step][-_HISTORY:]
        logger.info("%s: version %s is served", action.replace("_", " "), update.version)

    def _write(self, now: int) -> None:
        arms = self.arms.record(now)
        learner = self.learner
        status = {
            "format": "pygrade.online 1",
            "time": now,
            "since": self.since,
            "paused": self.paused,
            "single_tasks": list(self.online.single_tasks),
            "artifact": self.artifact,
            "version": learner.served.version,
            "reference": learner.reference.version,
            "requests": learner.num_requests,
            "min_requests": self.config.online.min_requests,
            "limits": None if learner.guardrails is None else learner.guardrails.to_dict(),
            "limits_broken": 0 if learner.guardrails is None else len(learner.guardrails.broken),
            "limits_unproved": 0 if learner.guardrails is None else len(learner.guardrails.unproved),
            "counters": dict(learner.counters),
            "read": dict(self.tail.counters),
            "history": self.history,
            "error": self.error,
            "arms": arms,
        }
        folder = self.run / FOLDER
        folder.mkdir(exist_ok=True)
        write_bytes(folder / STATUS, to_json(status))
        write_bytes(self.run / ARMS, to_json(arms))

    def save(self) -> None:
        """Writes the state, whole or not at all."""
        with atomic_directory(self.run / FOLDER / STATE) as partial:
            self.learner.save(partial / "learner")
            (partial / "arms").mkdir()
            self.arms.save(partial / "arms")
            record: dict[str, Any] = {"artifact": self.artifact, "read": self.tail.state, "history": self.history}
            record |= {"counters": dict(self.tail.counters), "since": self.since}
            (partial / "inputs.json").write_bytes(to_json(record))
        self.saved = time.monotonic()

    def once(self) -> None:
        """Looks once and saves."""
        with self.claim():
            self.step(_now())
            self.save()

    def serve(self) -> None:
        """Looks every so often, until `ended` is set; within `claim`."""
        while not self.ended.is_set():
            try:
                self.step(_now())
                self.error = None
            except Exception as error:  # say an artifact that is being replaced: the next look tries again
                self.error = f"{type(error).__name__}: {error}"
                logger.error("a look at the logs failed: %s", self.error)
            self.ended.wait(self.config.interval_seconds)
        self.save()

    def claim(self) -> AbstractContextManager[None]:
        """Holds the run for this process; ValueError if another one learns there."""
        return directory_lock(self.run / FOLDER, "online")


def shares_of(table: Mapping[str, Any]) -> dict[str, float] | None:
    """The planned shares of the arms of ``[serve]``, the control first."""
    arms = table.get("arms") or []
    return {str(arm["name"]): float(arm.get("share", 1.0)) for arm in arms} or None


def log_folder(run: Path, table: Mapping[str, Any], name: str) -> Path:
    """The directory of exposures or feedback of ``[serve]``, relative to the run as in the core; ValueError if there is
    none."""
    if not table.get(name):
        raise ValueError(f"{name} is not given; expected the directory in which the service logs {name}")
    return run / str(table[name])


def _now() -> int:
    return time.time_ns() // 1_000_000
