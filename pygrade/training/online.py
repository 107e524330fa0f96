"""Online learning: a served policy keeps learning from the feedback on what it serves, with a guard against
regressions.

    ranker = BlendedRanker(policy)
    learner = OnlineLearner(policy, config, publish=ranker.publish)
    page = ranker.rank(…, explore=True); learner.serve(page.log_rows(timestamp=…))
    learner.feedback(events)             # late, out of order, repeated
    learner.update(now)                  # from time to time; may publish a version, or roll back

Feedback is joined to its request until ``feedback_delay_ms`` have passed (`pygrade.training.feedback`); what is learned
depends on the set of requests and events, not on their order. An update is a few steps of stage 2 on the newest
requests; its KL term holds the policy to the reference, by default the policy that the learner began with.

A fraction of the requests with drawn weights is held out: it judges versions and is never learned from. Before a
version is published, and at every later update, `offpolicy.estimate` estimates from the exact densities of those draws
what it earns against the reference. A version whose interval lies below ``-max_regression`` of the reference's value is
not published; a published one is rolled back: the reference is served again, and learning restarts from it. Draws of
versions far from the reference say little about it, and an estimate with a small effective sample decides nothing:
serve a small share of the traffic by the reference, with exploration, to keep the guard working. A version that it
can't judge is not published.

One event must not blind the guard. Rewards that judge are cut at their 99.9 % quantile; amounts of tasks that happen at
most once (``single_tasks``) are 1 at most, together, and so are their predictions; other amounts and predictions are
held to ``max_amount``. While half the interval is wider than ``max_reach`` of the reference's value, the effective
sample is too small or no draw judges, nothing new is published: learning pauses.

A policy with limits keeps them: each version's multipliers and boosts are solved anew on the window's held-out
requests (`pygrade.training.guardrails`), of which half are then held out whatever made their pages. Where limits cannot
be kept nothing is published: the version in service stays, and its limits' state says which are broken or not proved.

With ``correction`` a version may also have a correction of the predictions learned anew (`pygrade.training.renewal`),
under the gate of the training. The reference takes it over, and from then on only later draws judge: under another
correction the same weights made other pages. Of a policy whose network does not rank, nothing else is learned.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Bools, Floats
from pygrade._util.files import atomic_directory, file_hash
from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors
from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.training import OnlineConfig
from pygrade.evaluation import offpolicy
from pygrade.evaluation.offpolicy import OffPolicyEstimate
from pygrade.evaluation.policy_estimates import item_inputs, log_inputs
from pygrade.logs import Logs, concatenate, read_logs
from pygrade.logs.parquet import write_part
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.training.feedback import EVENTS, PAGES, Event, FeedbackJoin, as_key, removed_pages
from pygrade.training.guardrails import keep_limits
from pygrade.training.policy_step import PolicyStep, concentrations, policy_step
from pygrade.training.propensity import slot_propensity
from pygrade.training.renewal import renew_correction
from pygrade.training.reward import CompositeReward
from pygrade.training.stages import stage2_step
from pygrade.training.steps import batch_rows, draw_seed

logger = logging.getLogger("pygrade")
_CUT = 0.999  # quantile of the rewards that judge
_STAGE = 3  # of the random streams of `train`: 1 and 2 are its own
_FORMAT = "pygrade.OnlineLearner 2"
_JUDGES = 4_000  # newest requests of the window that judge; older ones may be stale
_TENSORS, _WINDOW, _WAITING = "state.safetensors", "window.parquet", "waiting"  # of a saved learner
_FILES = (_TENSORS, _WINDOW, f"{_WAITING}/{PAGES}", f"{_WAITING}/{EVENTS}")


@dataclass(frozen=True)
class Update:
    """Results of an update."""

    version: str  # served now
    estimate: OffPolicyEstimate | None  # of the last judged version against the reference; None: no draws yet
    cut: int  # judging requests whose reward was cut in the estimate
    learned_from: int  # requests
    figures: dict[str, float]  # of the last step
    published: bool = False  # a new version
    rolled_back: bool = False  # to the reference
    refused: bool = False  # a version was made and not published
    paused: bool = False  # nothing new is published: the estimate is too wide to find a regression
    renewed: bool = False  # the version has a correction learned anew
    limits_unmet: bool = False  # a version was made, and nothing keeps its limits: it is not published


class _Judgment(NamedTuple):
    """A version judged against the reference."""

    estimate: OffPolicyEstimate | None = None
    regressed: bool = False
    blind: bool = False
    judged: bool = False  # there are draws enough to find a regression
    cut: int = 0


class OnlineLearner:
    """Learns from a stream of pages and feedback; see the module. Not for several threads at once (the ranker is).

    ``publish`` is called with every policy to serve: the ranker's `publish`, `FusionPolicy.save` of a directory, or
    both. If it raises it is called again with the version served before, so that ranker and learner agree; the error
    goes on to the caller, and the next update tries again. ``reference``: what versions are held to, such as stage 1;
    None: the given policy.
    """

    def __init__(
        self,
        policy: FusionPolicy,
        config: OnlineConfig | None = None,
        publish: Callable[[FusionPolicy], Any] | None = None,
        reference: FusionPolicy | None = None,
    ) -> None:
        self.config = config or OnlineConfig()
        self.policy = copy.deepcopy(policy).requires_grad_(True)  # being learned
        self.served = _frozen(policy)
        self.reference = _frozen(policy if reference is None else reference)
        self.publish = publish
        if unknown := [task for task in self.config.single_tasks if task not in policy.tasks]:
            raise ValueError(
                f"single_tasks has {unknown[0]!r}; expected tasks of the policy, {', '.join(policy.tasks)}"
            )
        if self.config.correction and not policy.uses_corrected:
            raise ValueError("correction is True; expected a policy that takes corrected predictions")
        if self.config.correction and policy.correction is not None and policy.correction.trees:
            raise ValueError(
                "correction is True; expected a policy without trees on its correction, which can't be renewed"
            )
        limits = self.config.max_pending_events, self.config.max_amount, self.config.feedback_delay_ms
        self.limits = _limits_of(self.config, policy)  # that versions keep
        self.guardrails = policy.guardrails  # the state of the limits of what is served, as last measured
        self.join = FeedbackJoin(policy.tasks, *limits, self.config.single_tasks)  # what waits for feedback
        self._learner = self._new_learner()
        self._steps = 0
        self._paused = False  # since the last update
        self._new = 0  # requests since the correction was last fitted
        self._judged_from: int | None = None  # ms: since when the served correction is
        self._window: Logs | None = None

    @property
    def counters(self) -> Counter[str]:
        """Counters of events (`FeedbackJoin`), capped_predictions, and versions: published, refused, rolled_back,
        paused, renewed (with a correction learned anew), limits_unmet.
        """
        return self.join.counters

    # ---- the stream --------------------------------------------------------------------------------------------------
    def serve(self, logs: Logs) -> None:
        """Add served pages, as `Page.log_rows` gives them with a timestamp; their feedback comes as events."""
        if logs.features != self.policy.features:
            raise ValueError(f"logs have features {logs.features}; expected the policy's, {self.policy.features}")
        limit = np.where(self.join.single, 1.0, self.config.max_amount).astype(np.float32)
        capped = (logs.predictions > limit) & np.isfinite(logs.predictions)
        self.join.serve(replace(logs, predictions=np.where(capped, limit, logs.predictions)))
        if capped.any():
            self.counters["capped_predictions"] += int(capped.sum())

    def feedback(self, events: Iterable[Event]) -> None:
        """Add feedback in any order, repeated or before its page; if an event is malformed none is taken."""
        self.join.feedback(events)

    def remove(self, users: Mapping[str, int]) -> None:
        """Drop what waits and what is learned from of users that were removed, see `removed_pages`."""
        self.join.remove(users)
        if self._window is not None and (gone := removed_pages(self._window, users)).any():
            self._set_window(None if gone.all() else self._window.select(np.flatnonzero(~gone)))

    @property
    def num_requests(self) -> int:
        """Requests with complete feedback to learn from."""
        return 0 if self._window is None else self._window.num_requests

    def update(self, now: int) -> Update:
        """Take in the requests whose feedback is complete at ``now`` (ms), judge, learn, judge, publish."""
        self._take(now - self.config.feedback_delay_ms)
        window = self._window
        if window is None or window.num_requests < self.config.min_requests:
            return self._report(_Judgment(), 0)
        if self.config.correction and self.policy.mixture is not None and not self.policy.mixture.uses_network:
            correction = self._renew(window)
            if correction is None and self.limits is None:
                return self._report(_Judgment(), 0)
            return self._publish(_frozen(self.policy), correction, now, _Judgment(), 0)
        judgment = self._judge(window, self.served)
        if judgment.regressed:
            logger.warning("version %s regressed and is rolled back: %s", self.served.version, judgment.estimate)
            self._serve(self.reference)
            self._return_to(self.reference)
            return self._report(judgment, 0, rolled_back=True)
        if judgment.blind:
            return self._pause(judgment, 0)
        count, figures = self._learn(window)
        candidate = _frozen(self.policy)
        judgment = self._judge(window, candidate)
        if judgment.regressed:
            logger.warning("a version regressed and is refused: %s", judgment.estimate)
            self._return_to(self.served)
            return self._report(judgment, count, figures, refused=True)
        if judgment.blind or not judgment.judged:
            self._return_to(self.served)
            correction = None if judgment.blind else self._renew(window)  # which has a gate of its own
            if correction is None:
                return self._pause(judgment, count, figures)
            candidate = _frozen(self.policy)
        else:
            correction = self._renew(window)
        return self._publish(candidate, correction, now, judgment, count, figures)

    def _publish(
        self,
        candidate: FusionPolicy,
        correction: Correction | None,
        now: int,
        judgment: _Judgment,
        count: int,
        figures: dict[str, float] | None = None,
    ) -> Update:
        """Serve a version that keeps the limits, with a correction learned anew if there is one."""
        if correction is not None:
            candidate.correction = correction
        if self.limits is not None and (candidate := self._keep_limits(candidate)).guardrails is not None:
            self.guardrails = candidate.guardrails
            if not candidate.guardrails.hold or candidate.guardrails.kept:
                self._return_to(self.served)
                return self._report(judgment, count, figures, limits_unmet=True)
            if candidate.version == self.served.version:
                return self._report(judgment, count, figures)
        self._serve(candidate)
        for follower in (self.policy, self.reference):  # prices are of all versions, as a correction is
            follower.spec, follower.guardrails = candidate.spec, candidate.guardrails
            if self.limits is not None:
                follower.correction = candidate.correction
        if correction is not None:
            self.policy.correction = self.reference.correction = correction
            self._new, self._judged_from = 0, now
        return self._report(judgment, count, figures, published=True, renewed=correction is not None)

    def _pause(self, judgment: _Judgment, count: int, figures: dict[str, float] | None = None) -> Update:
        if not self._paused:
            logger.warning("learning pauses, as its guard could not find a regression: %s", judgment.estimate)
        return self._report(judgment, count, figures, paused=True)

    def _take(self, until: int) -> None:
        """Move the requests served up to ``until`` into the window, with their feedback."""
        logs = self.join.complete_pages(until)
        if logs is None:
            return
        self._new += logs.num_requests
        window = logs if self._window is None else concatenate([self._window, logs])
        if window.num_requests > self.config.window:
            window = window.select(slice(window.num_requests - self.config.window, None))
        self._set_window(window)

    def _set_window(self, window: Logs | None) -> None:
        self._window = window
        self.join.joined = set() if window is None else {as_key("request_id", value) for value in window.request_id}

    # ---- learning ----------------------------------------------------------------------------------------------------
    def _learn(self, window: Logs) -> tuple[int, dict[str, float]]:
        config, policy = self.config.step, self.policy
        logs = window
        if policy.config.corrected:
            columns = (window.context, window.predictions, window.offsets, item_inputs(policy, window))
            logs = replace(window, predictions=policy.correct(*columns))
        data = CompositeReward(self.config.reward).build(logs, policy.spec)
        pool = torch.from_numpy(np.flatnonzero(self._learned(window)))
        reference, figures = concentrations(self.reference, self.config.engine), dict[str, float]()
        for _ in range(config.steps):
            rows = pool[batch_rows(self.config.seed, _STAGE, self._steps, len(pool), config.batch_size)]
            seed = draw_seed(self.config.seed, _STAGE, self._steps)
            values = data.draw_values(self.config.seed, _STAGE, self._steps, len(rows))
            figures = stage2_step(data, rows, self._learner, reference, config, seed, values, "update")
            self._steps += 1
        return len(pool), figures

    def _renew(self, window: Logs) -> Correction | None:
        """A better correction than the served one; None: the window shows none, or there are too few new requests."""
        if not self.config.correction or self._new < self.config.min_requests:
            return None
        logs = window.select(np.flatnonzero(self._learned(window)))
        logs = logs.with_values(self.config.reward.task_values, self.config.reward.value_tasks)
        correction = renew_correction(self.served, logs, self.config.reward, self.config.seed)
        if correction is None:
            self._new = 0
        return correction

    def _keep_limits(self, candidate: FusionPolicy) -> FusionPolicy:
        """The version at the prices that keep its limits on the newest held-out requests; else the served one."""
        window = self._window
        assert window is not None and self.limits is not None
        reward = self.config.reward
        window = window.with_values(reward.task_values, reward.value_tasks)
        rows = np.flatnonzero(self._held_out(window))[-_JUDGES:]
        if not len(rows):
            raise ValueError(
                "no request of the window is held out to measure limits on; expected holdout_fraction above 0"
            )
        propensity = slot_propensity(window, reward, warn=False)
        return keep_limits(candidate, window.select(rows), self.limits, reward, propensity, self.served)

    def _held_out(self, window: Logs) -> Bools:
        """Return the requests [R] that a hash of their id holds out."""
        low = [zlib.crc32(str(value).encode()) < self.config.holdout_fraction * 2**32 for value in window.request_id]
        return np.array(low, bool)

    def _judging(self, window: Logs) -> Bools:
        """Return the held-out requests [R] with drawn weights."""
        assert window.exploration is not None
        return np.asarray((window.exploration == "dirichlet") & self._held_out(window))

    def _learned(self, window: Logs) -> Bools:
        """Return the requests [R] to learn from; limits are measured on held-out ones, whatever made their pages."""
        return ~(self._judging(window) if self.limits is None else self._held_out(window))

    def _judge(self, window: Logs, policy: FusionPolicy) -> _Judgment:
        """Judge the policy against the reference: its gain per request, whether it regressed, and whether that could be
        found.
        """
        rows = np.flatnonzero(self._judging(window))
        rows = rows[rows >= window.num_requests - _JUDGES]
        if policy.version == self.reference.version:
            return _Judgment(judged=True)
        if self._judged_from is not None and window.timestamp is not None:
            rows = rows[window.timestamp[rows] >= self._judged_from]
        if len(rows) < 2:
            return _Judgment(blind=self._judged_from is not None)
        drawn = window.select(rows).with_values(self.config.reward.task_values, self.config.reward.value_tasks)
        assert drawn.weights is not None and drawn.concentration is not None
        logged = np.add.reduceat(drawn.value_of(drawn.feedback), drawn.offsets[:-1])
        rewards = clip_tails(logged)
        with np.errstate(divide="ignore"):
            logs = np.log(drawn.weights)
        with torch.no_grad():
            both = [
                offpolicy.Densities(p(log_inputs(p, drawn), drawn.scenario).numpy(), drawn.concentration, logs)
                for p in (policy, self.reference)
            ]
        options: dict[str, Any] = {"users": drawn.user_id, "weight_floor": self.config.step.weight_floor}
        base = offpolicy.estimate(rewards, both[1], replicates=100, **options).value
        options |= {"confidence": self.config.confidence, "replicates": 200}
        gain = offpolicy.estimate(rewards, both[0], baseline=both[1], **options)
        enough = gain.effective_sample_size >= self.config.min_effective_samples
        regressed = enough and gain.high < -self.config.max_regression * abs(base)
        blind = not (gain.high - gain.low) / 2 <= self.config.max_reach * abs(base)
        return _Judgment(gain, regressed, blind, enough, int((rewards != logged).sum()))

    def _return_to(self, policy: FusionPolicy) -> None:
        self.policy.load_state_dict(policy.state_dict())
        self.policy.correction = policy.correction
        self._learner = self._new_learner()

    def _new_learner(self) -> PolicyStep:
        return policy_step(self.policy, self.config.step.learning_rate, self.config.engine)

    def _serve(self, policy: FusionPolicy) -> None:
        if self.publish is not None:
            try:
                self.publish(policy)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.publish(self.served)
                raise
        self.served = policy

    def _report(self, judgment: _Judgment, count: int, figures: dict[str, float] | None = None, **done: bool) -> Update:
        self._paused = done.get("paused", False)
        self.counters.update(name for name, happened in done.items() if happened)
        return Update(self.served.version, judgment.estimate, judgment.cut, count, figures or {}, **done)

    # ---- state -------------------------------------------------------------------------------------------------------
    def save(self, directory: str | Path) -> Path:
        """Write everything that decides what comes next; the directory is the old state or the new one, never half."""
        tensors: dict[str, Tensor] = {}
        for name in ("policy", "served", "reference"):
            tensors |= {f"{name}.{key}": value for key, value in getattr(self, name).state_dict().items()}
        tensors |= self._learner.state()
        record = {
            "format": _FORMAT,
            "config": asdict(self.config),
            "steps": self._steps,
            "new": self._new,
            "judged_from": self._judged_from,
            "counters": dict(self.counters),
        }
        target = Path(directory)
        with atomic_directory(target) as partial:
            self.served.save(partial / "policy")
            (partial / _TENSORS).write_bytes(to_safetensors(tensors))
            (partial / _WAITING).mkdir()
            self.join.save(partial / _WAITING)
            if self._window is not None:
                write_part(vars(self._window), partial / _WINDOW)
            record["sha256"] = {name: file_hash(partial / name) for name in _FILES if (partial / name).exists()}
            (partial / "state.json").write_bytes(to_json(record | {"record_sha256": _digest(record)}))
        return target

    @classmethod
    def load(
        cls, directory: str | Path, config: OnlineConfig, publish: Callable[[FusionPolicy], Any] | None = None
    ) -> OnlineLearner:
        """A learner that continues as the saved one would have, bit for bit; nothing is published yet.

        ``ValueError`` naming the file if the state is damaged, or was saved under another config.
        """
        folder = Path(directory)
        path = folder / "state.json"
        record = read_json(path)
        if record.get("format") != _FORMAT:
            raise ValueError(f"{path} is {record.get('format')!r}; expected a {_FORMAT}")
        if record.pop("record_sha256", None) != _digest(record):
            raise ValueError(f"{path} is damaged: its content does not have the sha256 that it states")
        if to_json(record["config"]) != to_json(asdict(config)):
            raise ValueError(f"{folder} was saved under another config; expected the same one")
        for name, sha256 in record["sha256"].items():
            if file_hash(folder / name) != sha256:
                raise ValueError(f"{folder / name} is damaged: it does not have the sha256 that state.json states")
        tensors = read_safetensors(folder / _TENSORS, record["sha256"][_TENSORS])
        learner = cls(FusionPolicy.load(folder / "policy"), config, publish)
        for name in ("policy", "served", "reference"):
            state = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            getattr(learner, name).load_state_dict(state)
        learner._learner.load_state(tensors)
        learner._steps = int(record["steps"])
        learner._new, learner._judged_from = record["new"], record["judged_from"]
        learner._set_window(read_logs(folder / _WINDOW) if _WINDOW in record["sha256"] else None)
        learner.join.load(folder / _WAITING)
        learner.counters.clear()
        learner.counters.update(record["counters"])
        return learner


def clip_tails(rewards: Floats) -> Floats:
    """Rewards [n] cut at their 99.9 % quantile, and harm likewise; if fewer requests have any reward, at the quantile
    of these.

    >>> float(clip_tails(np.append(np.ones(500), 1e6)).max())
    1.0
    """

    def limit(values: Floats) -> float:
        high = float(np.quantile(values, _CUT, method="lower"))
        some = values[values > 0]
        return high if high > 0 else float(np.quantile(some, _CUT, method="lower")) if len(some) else 0.0

    return np.clip(rewards, -limit(-rewards), limit(rewards))


def _limits_of(config: OnlineConfig, policy: FusionPolicy) -> GuardrailConfig | None:
    """The limits to keep: given ones, else those of the policy; None: none. ValueError if the policy does not read what
    they are on: a ranker takes no policy with other item columns than the one before.
    """
    if not config.guardrails.limits and policy.guardrails is None:
        return None
    guardrails = config.guardrails
    if policy.guardrails is not None and not guardrails.limits:
        limits = tuple(state.limit for state in policy.guardrails.states)
        guardrails = GuardrailConfig(limits=limits, confidence=policy.guardrails.confidence)
    columns = () if policy.correction is None else policy.correction.items
    for limit in guardrails.parsed:
        if limit.share and limit.name not in columns:
            unread = f"limits name item column {limit.name!r}, which the policy does not read"
            raise ValueError(f"{unread}; expected one trained with them")
    return guardrails


def _frozen(policy: FusionPolicy) -> FusionPolicy:
    return copy.deepcopy(policy).requires_grad_(False).eval()


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(record)).hexdigest()
