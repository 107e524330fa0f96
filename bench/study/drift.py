"""The drifting world: a policy that keeps learning from feedback, and one that is retrained.

The world drifts during the first half of a stream of requests. Each interval of the stream is served with exploration;
its feedback comes late, out of order and partly twice. Arms are judged at the end, on test requests.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.study.trial import ArmRanking, Options, Trial
from pygrade.config.training import OnlineConfig
from pygrade.logs import Logs, concatenate
from pygrade.policy import FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import TASK_VALUES, TASKS, Marketplace, Requests
from pygrade.training.feedback import Event
from pygrade.training.online import OnlineLearner
from pygrade.training.stages import train_stage2

Array = NDArray[Any]
_HOUR = 3_600_000  # ms in an interval
_DRAWN, _SHUFFLED = 0.3, 0.1  # shares of an interval's requests
_LATE, _TWICE = 0.3, 0.1  # shares of the events that come one interval late, and that are repeated
_PROBE = 3_000  # test requests that compare policy and reference after each interval


def retrained(trial: Trial, options: Options) -> ArmRanking:
    """Trained from scratch on a log of the drifted world, of the window's size."""
    config = trial.config(options)
    count, size = options["window"] // options["interval"], options["interval"]
    ranker = BlendedRanker(trial.stage1(trial.config({})), seed=trial.seed)
    parts = [serve(trial.world, ranker, size, 1000 + interval, 1.0, trial.seed)[:2] for interval in range(count)]
    logs = concatenate([replace(logs, feedback=feedback) for logs, feedback in parts])
    return trial.serve(trial.trained(config, logs))


def online(trial: Trial, options: Options) -> ArmRanking:
    """GRADE trained before the drift, then learning online with its stage 1 as reference."""
    config = trial.config(options)
    reference = trial.stage1(config)
    policy = trial.stage1(config)
    train_stage2(trial.training_data(config), policy, config.stage2, seed=trial.seed, engine=config.engine)
    step = replace(config.stage2, steps=options["steps"], kl_coefficient=options["kl"])
    learner_config = OnlineConfig(
        window=options["window"],
        min_requests=options["interval"],
        feedback_delay_ms=2 * _HOUR,
        max_regression=options["max_regression"],
        seed=trial.seed,
        engine=config.engine,
        reward=config.reward,
        step=step,
    )
    ranker = BlendedRanker(policy, seed=trial.seed)
    learner = OnlineLearner(policy, learner_config, ranker.publish, reference)
    rng = np.random.default_rng([trial.world.seed, 8, trial.seed])
    late: list[Event] = []
    figures: dict[str, float] = {}
    for interval in range(options["intervals"]):
        time = min(1.0, 2 * interval / options["intervals"])
        logs, _, events = serve(trial.world, ranker, options["interval"], interval, time, trial.seed)
        learner.serve(logs)
        coin = rng.random((2, len(events)))
        now = late + [event for event, is_late in zip(events, coin[0] < _LATE, strict=True) if not is_late]
        now += [event for event, is_repeated in zip(events, coin[1] < _TWICE, strict=True) if is_repeated]
        late = [event for event, is_late in zip(events, coin[0] < _LATE, strict=True) if is_late]
        learner.feedback(now[i] for i in rng.permutation(len(now)))
        learner.update((interval + 1) * _HOUR)
        figures |= _probe(trial, ranker.policy, reference, interval, time)
    lifts = [value for name, value in figures.items() if name.startswith("lift_")]
    figures["worst"] = min(lifts)
    figures |= {name: float(learner.counters[name]) for name in ("published", "refused", "rolled_back", "repeated")}
    return trial.serve(ranker.policy, figures=figures)


def serve(
    world: Marketplace, ranker: BlendedRanker, count: int, interval: int, time: float, seed: int
) -> tuple[Logs, Array, list[Event]]:
    """One interval of traffic: the pages' log rows without feedback, the feedback [M, T], and the same as events."""
    requests = world.requests(count, 1 + 1000 * (interval + 1) + seed, "log", time)
    rng = np.random.default_rng([world.seed, 9, seed, interval])
    coin = rng.random(count)
    groups = {
        "dirichlet": np.flatnonzero(coin < _DRAWN),
        "shuffle": np.flatnonzero(coin >= 1 - _SHUFFLED),
        "none": np.flatnonzero((coin >= _DRAWN) & (coin < 1 - _SHUFFLED)),
    }
    ids = np.arange(count) + interval * count
    logs, feedbacks = [], []
    for name, rows in groups.items():
        page = ranker.rank(
            requests.context[rows],
            requests.p_hat[rows],
            world.config.page_size,
            explore=name == "dirichlet",
            scenario=[str(s) for s in requests.scenario[rows]],
            request_id=ids[rows],
            user_id=requests.user_id[rows],
            item_id=requests.item_id[rows].astype(np.int64),
        )
        places = page.indices.astype(np.int64)
        part = page.log_rows(timestamp=np.full(len(rows), interval * _HOUR), task_values=TASK_VALUES)
        if name == "shuffle":
            places = np.take_along_axis(places, np.argsort(rng.random(places.shape), 1), 1)
            position = np.full((len(rows), world.config.candidates), -1, np.int32)
            np.put_along_axis(position, places, np.arange(places.shape[1], dtype=np.int32)[None], 1)
            part = replace(part, position=position.ravel(), exploration=np.full(len(rows), "shuffle"))
        _, shown = world.sample(_rows(requests, rows), places, 1 + interval)
        feedback = np.zeros((len(rows), world.config.candidates, len(TASKS)), np.float32)
        np.put_along_axis(feedback, places[:, :, None], shown, 1)
        logs.append(part)
        feedbacks.append(feedback.reshape(-1, len(TASKS)))
    joined, feedback = concatenate(logs), np.concatenate(feedbacks)
    return joined, feedback, list(_events(joined, feedback))


def _rows(requests: Requests, rows: Array) -> Requests:
    return Requests(**{name: array[rows] for name, array in vars(requests).items()})


def _events(logs: Logs, feedback: Array) -> Iterator[Event]:
    request = logs.request_id[logs.row_request]
    for row, task in zip(*np.nonzero(feedback), strict=True):
        r, item = int(request[row]), int(logs.item_id[row])
        yield Event(f"{r}-{item}-{task}", r, item, logs.tasks[task], float(feedback[row, task]))


def _probe(trial: Trial, policy: FusionPolicy, reference: FusionPolicy, interval: int, time: float) -> dict[str, float]:
    """Closed-form lift over the reference at this time, in per cent, on test requests."""
    requests = trial.world.requests(_PROBE, 2, "test", time)
    inputs = policy.request_inputs(requests.context, requests.p_hat)
    value, base = (trial.value(requests, p.serve(inputs, requests.scenario).numpy()) for p in (policy, reference))
    return {f"lift_{interval:02d}": 100 * (value / base - 1)}
