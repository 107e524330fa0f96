"""KuaiRand as `Logs`: impressions grouped into requests, with out-of-sample predictions of a small multi-task model.

The earlier days train the multi-task model (`pygrade.mtl`); the later days become the log, with predictions that the
model made without having seen them. Every feature of a request, its user's and its videos' history included, counts
only events strictly before the request's first impression, for the model's own training rows too.

What to keep in mind:

- KuaiRand has no request id. A request here is what a user was shown in one tab on one day (or in one session); a
  longer one is cut every ``max_rows`` impressions.
- It has no slot either: every row was shown, one after another. ``position`` is the order in time within the request.
  In a feed of full-screen videos that order is no examination probability, and no page was shuffled to measure one:
  take the feedback as it is (a propensity of 1), and do not read a power law into these positions.
- The logging policy's weights are unknown: no off-policy estimate, no production baseline. Only shown videos are
  candidates, so a ranking is judged by how it reorders what was shown.
- The excerpt holds only rows with an explicit like or hate: ``like`` is then nearly a property of the video and stays
  out of the default tasks.
- user_features is one snapshot of unknown date. video_features_statistic averages a month that contains the rows to be
  predicted, so it is never read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade.data.history import last_before, prior_sums
from pygrade.data.kuairand_files import EVENTS, USER_FEATURES, Events, find_files, local_day, read_events
from pygrade.data.kuairand_requests import TASK_VALUES, Requests, group_requests
from pygrade.logs import Logs
from pygrade.mtl import MtlConfig, MtlModel, fit, predict

CONTEXT_FEATURES = (
    *USER_FEATURES, "hour_sin", "hour_cos", "weekend",
    "log_history", "history_play", "log_hours_since", *(f"history_{event}" for event in EVENTS),
)  # fmt: skip
"""Context of a request: the user, the time (UTC+8), and the user's history before the request (rates are smoothed)."""

_MAX_HOURS = 24.0 * 31


@dataclass(frozen=True)
class KuaiRandConfig:
    """How rows become requests, and which of them train the multi-task model."""

    requests: str = "day"
    """"day": a request is a user's day (UTC+8) in one tab; "session": it ends at a gap of ``session_gap_minutes``."""
    session_gap_minutes: float = 30.0
    """Minutes without an impression after which a new session begins."""
    min_rows: int = 2
    """Requests with fewer rows are left out of the log (they still train the model and count in histories)."""
    max_rows: int = 100
    """Longer requests are cut into consecutive ones of at most this many rows."""
    mtl_fraction: float = 0.5
    """Share of the days, the earliest, that train the multi-task model; the log holds the requests of the rest."""
    tasks: tuple[str, ...] | None = None
    """Kinds of feedback to predict; None: those with ``min_positives`` in the model's days (excerpt: without like)."""
    min_positives: int = 50
    """Events, and non-events, that a task must have in the model's days."""
    task_values: Mapping[str, float] = field(default_factory=lambda: TASK_VALUES)
    """Business value of one event of each kind of feedback."""
    random_rows: bool = True
    """Whether randomly inserted videos (is_rand = 1 in the public files) are part of the requests."""
    user_fraction: float = 1.0
    """Share of the users to read (a fixed pseudo-random choice); less than 1 makes 1K and 27K fit into memory."""
    mtl: MtlConfig = field(default_factory=MtlConfig)
    """Size, training and seed of the multi-task model."""

    def __post_init__(self) -> None:
        if self.requests not in ("day", "session"):
            raise ValueError(f"requests is {self.requests!r}; want 'day' or 'session'")
        if not self.session_gap_minutes >= 0:
            raise ValueError(f"session_gap_minutes is {self.session_gap_minutes}; want 0 or more")
        if not 1 <= self.min_rows <= self.max_rows:
            raise ValueError(f"min_rows is {self.min_rows}, max_rows is {self.max_rows}; want 1 ≤ min_rows ≤ max_rows")
        if not 0 < self.mtl_fraction < 1:
            raise ValueError(f"mtl_fraction is {self.mtl_fraction}; want a number between 0 and 1")
        if not 0 < self.user_fraction <= 1:
            raise ValueError(f"user_fraction is {self.user_fraction}; want a number in (0, 1]")
        if self.min_positives < 1:
            raise ValueError(f"min_positives is {self.min_positives}; want at least 1")
        for task in self.tasks or ():
            if task not in EVENTS:
                raise ValueError(f"tasks names {task!r}; want some of {', '.join(EVENTS)}")
        for task in self.task_values:
            if task not in EVENTS:
                raise ValueError(f"task_values names {task!r}; want some of {', '.join(EVENTS)}")


def load(directory: str | Path, config: KuaiRandConfig | None = None, log: Callable[[str], None] | None = None) -> Logs:
    """The later days of a KuaiRand directory as `Logs` with out-of-sample predictions, in order of time.

    ``Logs.split`` divides them into an earlier part to learn from and a later one to judge by. The same files and
    config give the same log. Errors name file, line and column of bad input; see `find_files` and `read_events`.
    """
    config = config or KuaiRandConfig()
    files = find_files(Path(directory))
    events = read_events(files, random=config.random_rows, user_fraction=config.user_fraction, log=log)
    requests = group(events, config)
    cut = _cut_time(requests, config)
    tasks = _choose_tasks(events, cut, config, files.excerpt)
    context, dense, ids = features(events, requests)
    columns = [EVENTS.index(task) for task in tasks]
    feedback = events.feedback[requests.order][:, columns]
    time = events.time[requests.order]
    row_request = requests.row_request
    model = _fit_before(dense, ids, feedback, time, cut, tasks, config, log)
    keep = (requests.start >= cut) & (np.diff(requests.offsets) >= config.min_rows)
    if not keep.any():
        raise ValueError(
            f"no request of the later days has {config.min_rows} rows or more; want a smaller min_rows or mtl_fraction"
        )
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(requests.start[chosen], kind="stable")]
    sizes = np.diff(requests.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(requests.offsets[chosen] - offsets[:-1], sizes)
    position = np.arange(len(row_request)) - requests.offsets[row_request]
    return Logs(
        tasks=tasks,
        features=CONTEXT_FEATURES,
        request_id=chosen.astype(np.int64),
        user_id=events.user_id[requests.user[chosen]],
        offsets=offsets,
        context=context[chosen],
        item_id=events.video_id[events.video[requests.order[rows]]],
        position=position[rows].astype(np.int32),
        predictions=predict(model, dense[rows], ids[rows]),
        feedback=feedback[rows],
        task_values=tuple(float(config.task_values.get(task, 1.0)) for task in tasks),
        scenario=None if files.excerpt else np.array([f"tab{t}" for t in requests.tab[chosen]]),
        timestamp=requests.start[chosen],
    )


def group(events: Events, config: KuaiRandConfig) -> Requests:
    """Each user's impressions in one tab as requests: by day or by gap, at most ``max_rows`` each."""
    gap = None if config.requests == "day" else config.session_gap_minutes
    return group_requests(events.user, events.tab, events.time, gap, config.max_rows)


def features(events: Events, requests: Requests) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Context [R, F] of the requests, and the model's inputs of the rows in request order: dense [n, D] and ids [n, 5].

    Nothing counts an event at or after the first impression of the request it describes. Rates of the user and of the
    video are (sum + m·g) / (count + m), g being the rate of all earlier events, m = 10. Ids: user, video, author,
    first tag, tab.
    """
    facts = np.concatenate([events.feedback, np.log1p(events.play)[:, None]], 1)  # [n, 9]
    everyone = np.zeros(len(events.user), np.int64)
    count, sums = prior_sums(everyone, events.time, facts, everyone[: len(requests.user)], requests.start)
    overall = sums / count.clip(1)[:, None]  # [R, 9]

    count, sums = prior_sums(events.user, events.time, facts, requests.user, requests.start)
    rates = (sums + 10.0 * overall) / (count + 10.0)[:, None]
    hours = last_before(events.user, events.time, requests.user, requests.start) / 3_600_000.0
    local = requests.start / 3_600_000.0 + 8.0
    angle = 2.0 * np.pi * (local % 24.0) / 24.0
    weekday = (local_day(requests.start) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    context = np.concatenate(
        [
            events.users[requests.user],
            np.stack([np.sin(angle), np.cos(angle), weekday >= 5, np.log1p(count), rates[:, -1]], 1),
            np.log1p(np.nan_to_num(hours, nan=_MAX_HOURS).clip(max=_MAX_HOURS))[:, None],
            rates[:, :-1],
        ],
        1,
    ).astype(np.float32)

    request, video = requests.row_request, events.video[requests.order]
    start = requests.start[request]
    count, sums = prior_sums(events.video, events.time, facts, video, start)
    rates = (sums + 10.0 * overall[request]) / (count + 10.0)[:, None]
    age = local_day(start) - events.upload[video].astype(np.float64)
    dense = np.concatenate(
        [
            context[request],
            np.log1p(count)[:, None],
            rates,
            np.stack([np.log1p(events.duration[video]), events.duration[video] > 0, events.advert[video]], 1),
            np.log1p(age.clip(min=0))[:, None],
        ],
        1,
    ).astype(np.float32)
    ids = np.stack(
        [
            events.user_id[requests.user[request]], events.video_id[video], events.author[video], events.tag[video],
            requests.tab[request],
        ],
        1,
    )  # fmt: skip
    return context, dense, ids


def _cut_time(requests: Requests, config: KuaiRandConfig) -> int:
    """First ms of the first day that is not among the model's."""
    days = np.unique(local_day(requests.start))
    if len(days) < 2:
        raise ValueError(f"the logs hold {len(days)} day; want at least 2, the earlier for the multi-task model")
    first = days[min(max(round(config.mtl_fraction * len(days)), 1), len(days) - 1)]
    return int(first) * 86_400_000 - 8 * 3_600_000


def _choose_tasks(events: Events, cut: int, config: KuaiRandConfig, excerpt: bool) -> tuple[str, ...]:
    before = events.feedback[events.time < cut]
    positives = before.sum(0)
    enough = np.minimum(positives, len(before) - positives) >= config.min_positives
    if config.tasks is not None:
        for task in config.tasks:
            at = EVENTS.index(task)
            if not enough[at]:
                raise ValueError(
                    f"tasks names {task!r}, which has {int(positives[at])} positives in {len(before)} rows of the "
                    f"model's days; want at least {config.min_positives} positives and negatives"
                )
        return tuple(config.tasks)
    tasks = tuple(event for at, event in enumerate(EVENTS) if enough[at] and not (excerpt and event == "like"))
    if not tasks:
        raise ValueError(f"no kind of feedback has min_positives={config.min_positives} events in {len(before)} rows")
    return tasks


def _fit_before(
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    feedback: NDArray[np.float32],
    time: NDArray[np.int64],
    cut: int,
    tasks: tuple[str, ...],
    config: KuaiRandConfig,
    log: Callable[[str], None] | None,
) -> MtlModel:
    """Trains on the rows before ``cut`` alone, whatever request they are in."""
    before = np.flatnonzero(time < cut)
    return fit(dense[before], ids[before], feedback[before], time[before], tasks, config.mtl, log)
