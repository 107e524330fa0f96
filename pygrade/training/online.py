"""A served policy goes on learning from the feedback on what it serves, under a guard.

    ranker = BlendedRanker(policy)
    learner = OnlineLearner(policy, config, publish=ranker.publish)
    page = ranker.rank(…, explore=True); learner.serve(page.log_rows(timestamp=…))
    learner.feedback(events)             # late, out of order, twice: all the same
    learner.update(now)                  # now and then; may publish a version, or roll back

Feedback is joined to its request until the request's time is up (``wait``); what is learned is a function of the set of
requests and events alone, not of the order they came in. An update is a few steps of stage 2 on the newest requests,
held by the KL term to the reference, which is the policy that the learner began with unless another is given.

A share of the requests whose weights were drawn is never learned from: it judges. Before a version is published, and at
every update afterwards, `offpolicy.compare` estimates from the exact densities of those draws what it earns against the
reference. A version whose interval lies below ``-guard`` of the reference's value is not published; one that was, and
now does, is taken back: the reference is served again, and learning starts from there. The draws of versions far from
the reference tell little of it, and an estimate of too small an effective sample decides nothing: serve a small share
of the traffic by the reference, exploring, and the guard keeps its sight.
"""

import copy
import hashlib
import io
import logging
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors
from pygrade.evaluation import offpolicy
from pygrade.evaluation.offpolicy import OffPolicyEstimate
from pygrade.logs import Logs, concatenate
from pygrade.policy import FusionPolicy
from pygrade.training.reward import CompositeReward, RewardConfig
from pygrade.training.train import Stage2Config, batch_rows, draw_seed, stage2_step

logger = logging.getLogger("pygrade")
Key = int | str
Array = NDArray[Any]
_STAGE = 3  # of the random streams of `train`: 1 and 2 are its own
_FORMAT = "pygrade.OnlineLearner"


class Event(NamedTuple):
    """One piece of feedback on an item of a page that was served."""

    event_id: Key  # the same however often it is delivered
    request_id: Key
    item_id: Key
    task: str
    amount: float = 1.0


@dataclass(frozen=True)
class OnlineConfig:
    """How an `OnlineLearner` learns and what it is held to."""

    window: int = 10_000  # newest requests with complete feedback to learn from
    least: int = 1_000  # of them, how many before the first update
    wait: int = 3_600_000  # ms after which a request's feedback counts as complete; what comes later is dropped
    waiting: int = 100_000  # events kept whose request is not known yet
    guard: float = 0.02  # share of the reference's value that a version may fall short of it
    confidence: float = 0.95  # of the interval that must lie below the guard, all of it, to refuse or roll back
    recent: int = 4_000  # newest requests of the window that judge: older ones speak of a world that may have moved on
    enough: int = 100  # effective sample size below which an estimate is no reason to act
    judged: float = 0.5  # share of the requests with drawn weights that judge versions and are never learned from
    seed: int = 0  # of the batches and the draws
    reward: RewardConfig = field(default_factory=RewardConfig)
    # An update's steps; the rate stays what it is.
    step: Stage2Config = field(default_factory=lambda: Stage2Config(steps=25))

    def __post_init__(self) -> None:
        for name in ("window", "least", "waiting", "recent", "enough"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        if self.wait < 0 or not self.guard >= 0:
            raise ValueError(f"wait is {self.wait}, guard {self.guard}; want numbers >= 0")
        if not 0 < self.confidence < 1 or not 0 <= self.judged <= 1:
            raise ValueError(f"confidence is {self.confidence}, judged {self.judged}; want shares, 0 to 1")


@dataclass(frozen=True)
class Update:
    """What an update did."""

    version: str  # that is served now
    published: bool  # a new version
    rolled_back: bool  # the reference again
    refused: bool  # a version was made and not published
    estimate: OffPolicyEstimate | None  # of the version that was judged last, against the reference; None: no draws yet
    learned_from: int  # requests
    figures: dict[str, float]  # of the last step


class OnlineLearner:
    """Learns from a stream of pages and feedback; see the module. Not for several threads at once (the ranker is).

    ``publish`` is called with every policy to serve: the ranker's `publish`, `FusionPolicy.save` of a directory, or
    both. ``reference``: what versions are held to, such as stage 1; None: the policy as it comes in.
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
        self.counters: Counter[str] = Counter()
        self._optimizer = self._new_optimizer()
        self._steps = 0
        self._open: list[Logs] = []  # served, feedback still coming
        self._known: set[Key] = set()  # request ids in _open
        self._done: set[Key] = set()  # in the window: what comes for them is late
        self._events: dict[Key, dict[Key, Event]] = {}  # request → event id → event
        self._window: Logs | None = None

    # ---- the stream --------------------------------------------------------------------------------------------------
    def serve(self, logs: Logs) -> None:
        """Pages that were served, as `Page.log_rows` gives them with a timestamp; their feedback comes as events."""
        if logs.timestamp is None or logs.exploration is None or logs.concentration is None:
            raise ValueError("logs have no timestamp, exploration or concentration; want `Page.log_rows(timestamp=…)`")
        ids = {_key(value) for value in logs.request_id}
        again = ids & (self._known | self._done)
        if len(ids) < logs.num_requests or again:
            raise ValueError(f"request_id repeats: {sorted(map(str, again))[:3]}; want each request once")
        self._open.append(logs)
        self._known |= ids

    def feedback(self, events: Iterable[Event]) -> None:
        """Feedback, in any order and as often as it is delivered; before its page too."""
        for event in events:
            if event.task not in self.policy.tasks:
                raise ValueError(f"task is {event.task!r}; want one of {', '.join(self.policy.tasks)}")
            if event.request_id in self._done:
                self.counters["late"] += 1
                continue
            own = self._events.setdefault(event.request_id, {})
            self.counters["repeated" if event.event_id in own else "events"] += 1
            own[event.event_id] = event
        excess = sum(map(len, self._events.values())) - self.config.waiting
        for request in [key for key in self._events if key not in self._known] if excess > 0 else []:
            if excess <= 0:
                break
            lost = len(self._events.pop(request))  # the oldest first
            self.counters["unknown"] += lost
            excess -= lost

    def update(self, now: int) -> Update:
        """Take in the requests whose time is up at ``now`` (ms), judge, learn, judge, publish."""
        self._ripen(now - self.config.wait)
        window = self._window
        if window is None or window.num_requests < self.config.least:
            return self._report(None, 0)
        estimate, falls = self._judge(window, self.served)
        if falls:
            logger.warning("version %s is below the guard and rolled back: %s", self.served.version, estimate)
            self.counters["rolled_back"] += 1
            self._return_to(self.reference)
            self._serve(self.reference)
            return self._report(estimate, 0, rolled_back=True)
        count, figures = self._learn(window)
        candidate = _frozen(self.policy)
        estimate, falls = self._judge(window, candidate)
        if falls:
            logger.warning("a version is below the guard and refused: %s", estimate)
            self.counters["refused"] += 1
            self._return_to(self.served)
            return self._report(estimate, count, figures, refused=True)
        self.counters["published"] += 1
        self._serve(candidate)
        return self._report(estimate, count, figures, published=True)

    def _ripen(self, until: int) -> None:
        """Move the requests served up to ``until`` into the window, with their feedback."""
        if not self._open:
            return
        waiting = concatenate(self._open)
        assert waiting.timestamp is not None
        ripe = waiting.timestamp <= until
        if not ripe.any():
            return
        chosen = waiting.select(np.flatnonzero(ripe))
        self._open = [waiting.select(np.flatnonzero(~ripe))] if not ripe.all() else []
        assert chosen.timestamp is not None
        chosen = chosen.select(np.lexsort((chosen.request_id, chosen.timestamp)))
        feedback = chosen.feedback.copy()
        for r, value in enumerate(chosen.request_id):
            request = _key(value)
            self._known.discard(request)
            events = self._events.pop(request, None)
            if events is None:
                continue
            begin, end = int(chosen.offsets[r]), int(chosen.offsets[r + 1])
            place = {
                _key(item): begin + i for i, item in enumerate(chosen.item_id[begin:end])
                if chosen.position[begin + i] >= 0
            }  # fmt: skip
            for _, event in sorted(events.items(), key=lambda pair: str(pair[0])):  # sums must not depend on the order
                row = place.get(event.item_id)
                if row is None:
                    self.counters["not_on_page"] += 1
                else:
                    feedback[row, self.policy.tasks.index(event.task)] += event.amount
        chosen = replace(chosen, feedback=feedback)
        window = chosen if self._window is None else concatenate([self._window, chosen])
        if window.num_requests > self.config.window:
            window = window.select(slice(window.num_requests - self.config.window, None))
        self._window = window
        self._done = {_key(value) for value in window.request_id}

    # ---- learning ----------------------------------------------------------------------------------------------------
    def _learn(self, window: Logs) -> tuple[int, dict[str, float]]:
        config = self.config.step
        data = CompositeReward(self.config.reward).build(window, self.policy)
        pool = torch.from_numpy(np.flatnonzero(~self._judging(window)))
        anchors = self.reference.concentration(data.inputs, data.exploration)
        figures: dict[str, float] = {}
        for _ in range(config.steps):
            rows = pool[batch_rows(self.config.seed, _STAGE, self._steps, len(pool), config.batch_size)]
            seed = draw_seed(self.config.seed, _STAGE, self._steps)
            figures = stage2_step(data, self.policy, self._optimizer, config, rows, anchors[rows], seed, "update")
            self._steps += 1
        return len(pool), figures

    def _judging(self, window: Logs) -> NDArray[np.bool_]:
        """[R]: drawn weights, and chosen by a hash of the request's id."""
        assert window.exploration is not None
        low = [zlib.crc32(str(value).encode()) < self.config.judged * 2**32 for value in window.request_id]
        return np.asarray((window.exploration == "dirichlet") & np.array(low, bool))

    def _judge(self, window: Logs, policy: FusionPolicy) -> tuple[OffPolicyEstimate | None, bool]:
        """What the policy earns per request more than the reference, and whether that is below the guard."""
        rows = np.flatnonzero(self._judging(window))
        rows = rows[rows >= window.num_requests - self.config.recent]
        if len(rows) < 2 or policy.version == self.reference.version:
            return None, False
        drawn = window.select(rows)
        assert drawn.weights is not None and drawn.concentration is not None
        values = self.config.reward.task_values or drawn.task_values
        rewards = np.add.reduceat(drawn.feedback @ np.array(values), drawn.offsets[:-1])
        inputs = policy.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
        with np.errstate(divide="ignore"):
            logs = np.log(drawn.weights)
        with torch.no_grad():
            both = [
                offpolicy.Densities(p(inputs, drawn.scenario).numpy(), drawn.concentration, logs)
                for p in (policy, self.reference)
            ]
        options: dict[str, Any] = {"users": drawn.user_id, "weight_floor": self.config.step.weight_floor}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", offpolicy.SupportWarning)  # poor support makes it wide, which is the point
            base = offpolicy.estimate(rewards, both[1], replicates=100, **options).value
            gain = offpolicy.compare(rewards, *both, confidence=self.config.confidence, replicates=200, **options)
        falls = gain.high < -self.config.guard * abs(base) and gain.effective_sample_size >= self.config.enough
        return gain, falls

    def _return_to(self, policy: FusionPolicy) -> None:
        self.policy.load_state_dict(policy.state_dict())
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.policy.parameters(), lr=self.config.step.learning_rate)

    def _serve(self, policy: FusionPolicy) -> None:
        if self.publish is not None:
            self.publish(policy)
        self.served = policy

    def _report(
        self, estimate: OffPolicyEstimate | None, count: int, figures: dict[str, float] | None = None, **done: bool
    ) -> Update:
        flags = dict.fromkeys(("published", "rolled_back", "refused"), False) | done
        return Update(self.served.version, estimate=estimate, learned_from=count, figures=figures or {}, **flags)

    # ---- state -------------------------------------------------------------------------------------------------------
    def save(self, directory: str | Path) -> Path:
        """Write everything that decides what comes next; the directory is the old state or the new one, never half."""
        tensors: dict[str, Tensor] = {}
        for name in ("policy", "served", "reference"):
            tensors |= {f"{name}.{key}": value for key, value in getattr(self, name).state_dict().items()}
        for index, entry in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in entry.items()}
        parts = {"window": self._window, "open": concatenate(self._open) if self._open else None}
        content = to_safetensors(tensors)
        record = {
            "format": _FORMAT, "config": asdict(self.config), "steps": self._steps, "counters": dict(self.counters),
            "sha256": hashlib.sha256(content).hexdigest(),
            "events": [list(event) for own in self._events.values() for event in own.values()],
            "logs": {name: None if part is None else _plain(part) for name, part in parts.items()},
        }  # fmt: skip
        target = Path(directory)
        with atomic_directory(target) as partial:
            self.served.save(partial / "policy")
            (partial / "state.safetensors").write_bytes(content)
            for name, part in parts.items():
                if part is not None:
                    (partial / f"{name}.npz").write_bytes(_arrays(part))
            (partial / "state.json").write_bytes(to_json(record))
        return target

    @classmethod
    def load(
        cls, directory: str | Path, config: OnlineConfig, publish: Callable[[FusionPolicy], Any] | None = None
    ) -> "OnlineLearner":
        """A learner that goes on as the saved one would have, bit for bit; nothing is published yet.

        ``ValueError`` naming the file where the state is damaged, or was saved under another config.
        """
        folder = Path(directory)
        record = read_json(folder / "state.json")
        if record.get("format") != _FORMAT:
            raise ValueError(f"{folder / 'state.json'} is {record.get('format')!r}; want a {_FORMAT}")
        if to_json(record["config"]) != to_json(asdict(config)):
            raise ValueError(f"{folder} was saved under another config; want the same one")
        tensors = read_safetensors(folder / "state.safetensors", str(record["sha256"]))
        learner = cls(FusionPolicy.load(folder / "policy"), config, publish)
        for name in ("policy", "served", "reference"):
            own = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            getattr(learner, name).load_state_dict(own)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, index, entry = key.split(".")
                state.setdefault(int(index), {})[entry] = value
        groups = learner._optimizer.state_dict()["param_groups"]
        learner._optimizer.load_state_dict({"state": state, "param_groups": groups})
        learner._steps = int(record["steps"])
        learner.counters.update(record["counters"])
        for values in record["events"]:
            event = Event(*values)
            learner._events.setdefault(event.request_id, {})[event.event_id] = event
        parts = {
            name: None if plain is None else _logs(folder / f"{name}.npz", plain)
            for name, plain in record["logs"].items()
        }
        learner._window = parts["window"]
        learner._open = [] if parts["open"] is None else [parts["open"]]
        learner._known = {_key(value) for part in learner._open for value in part.request_id}
        learner._done = set() if learner._window is None else {_key(value) for value in learner._window.request_id}
        return learner


def _frozen(policy: FusionPolicy) -> FusionPolicy:
    return copy.deepcopy(policy).requires_grad_(False).eval()


def _key(value: Any) -> Key:
    """A numpy id as a plain one."""
    plain: Key = value.item() if isinstance(value, np.generic) else value
    return plain


def _plain(logs: Logs) -> dict[str, list[Any]]:
    return {name: list(getattr(logs, name)) for name in ("tasks", "features", "task_values")}


def _arrays(logs: Logs) -> bytes:
    columns: dict[str, Any] = {f.name: getattr(logs, f.name) for f in fields(Logs)}
    arrays: dict[str, Any] = {name: value for name, value in columns.items() if isinstance(value, np.ndarray)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _logs(path: Path, plain: dict[str, list[Any]]) -> Logs:
    try:
        with np.load(path) as arrays:
            columns: dict[str, Any] = {name: tuple(values) for name, values in plain.items()} | dict(arrays)
            return Logs(**columns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
