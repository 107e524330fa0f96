"""Learning from a stream: the order of events does not matter, state resumes bit for bit, the guard rolls back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, PolicyConfig, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.online import Event, OnlineConfig, OnlineLearner
from pygrade.training.reward import RewardConfig
from pygrade.training.train import Stage2Config
from tests.learning import TASKS, VALUES, tiny_logs, true_value

STEP = Stage2Config(steps=8, batch_size=64, group_size=8, learning_rate=5e-3)
CONFIG = OnlineConfig(
    window=1200, least=200, wait=10, reward=RewardConfig(propensity=0.5, page_size=5, prior_weight=0.0), step=STEP
)


def policy_of(seed: int = 0) -> FusionPolicy:
    logs = tiny_logs(requests=200)
    config = PolicyConfig(hidden=(16,), total_concentration=10.0)
    policy = FusionPolicy(PolicySpec(TASKS, logs.features, config), seed=seed)
    policy.fit_normalization(policy.request_inputs(logs.context, logs.predictions, logs.offsets))
    return policy


def stream(policy: FusionPolicy, count: int = 900, seed: int = 0) -> tuple[Logs, list[Event]]:
    """Pages that the policy served while exploring, a request a millisecond, and what users did on them."""
    world = tiny_logs(requests=count, seed=seed)
    predictions = world.predictions.reshape(count, -1, 2)
    page = BlendedRanker(policy, seed=seed).rank(
        world.context, predictions, 5, explore=True, request_id=world.request_id, user_id=world.user_id
    )
    logs = page.log_rows(timestamp=np.arange(count), task_values=VALUES)
    rng = np.random.default_rng(seed)
    mode = (world.scenario == "buy").astype(int)
    events = []
    for r, k in zip(*np.nonzero(rng.random((count, 5)) < np.arange(1, 6) ** -0.5), strict=True):
        item, task = int(page.indices[r, k]), mode[r]
        if rng.random() < predictions[r, item, task] * (0.9, 0.6)[task]:
            events.append(Event(f"{r}/{item}", int(r), item, TASKS[task]))
    return logs, events


def run(learner: OnlineLearner, logs: Logs, events: list[Event], times=(300, 600, 920)) -> None:
    done = 0
    for now in times:
        part = logs.select(slice(done, min(now, logs.num_requests)))
        learner.serve(part)
        learner.feedback(event for event in events if done <= event.request_id < now)
        done = now
        learner.update(now + CONFIG.wait)


def test_it_learns_what_pays():
    policy = policy_of()
    logs, events = stream(policy)
    learner = OnlineLearner(policy, replace(CONFIG, step=replace(STEP, steps=25)))
    run(learner, logs, events)
    world = tiny_logs(requests=300, seed=9)
    inputs = policy.request_inputs(world.context, world.predictions, world.offsets)
    before, after = (true_value(world, p.serve(inputs).numpy()).mean() for p in (policy, learner.served))
    assert after > 1.05 * before
    assert learner.counters["published"] == 3


def test_order_and_repetition_of_events_change_nothing():
    policy = policy_of()
    logs, events = stream(policy)
    plain, messy = (OnlineLearner(policy, CONFIG) for _ in range(2))
    rng = np.random.default_rng(3)
    plain.serve(logs)
    plain.feedback(events)
    twice = [*events, *events[::3]]
    shuffled = [twice[i] for i in rng.permutation(len(twice))]
    messy.feedback(shuffled[:200])  # before their pages
    for part in (slice(450, 900), slice(0, 450)):
        messy.serve(logs.select(part))
    messy.feedback(shuffled[200:])
    for learner in (plain, messy):
        learner.update(2000)
    assert plain.served.version == messy.served.version != policy.version
    assert messy.counters["repeated"] == len(events[::3])
    assert plain._window is not None
    total = plain._window.feedback.sum(0)
    assert total.tolist() == [sum(e.task == t for e in events) for t in TASKS]


def test_feedback_counts_only_while_its_time_lasts():
    policy = policy_of()
    logs, events = stream(policy)
    learner = OnlineLearner(policy, CONFIG)
    learner.serve(logs)
    assert not learner.update(100).published  # too few requests yet
    late = [event for event in events if event.request_id <= 90]
    learner.feedback(late)
    learner.feedback([Event("x", 10**6, 0, "click"), Event("y", 899, 10**6, "click")])
    learner.update(2000)
    assert learner.counters["late"] == len(late) > 0
    assert learner.counters["not_on_page"] == 1
    assert list(learner._events) == [10**6]  # of a page that may still come
    small = OnlineLearner(policy, replace(CONFIG, waiting=3))
    small.feedback(Event(i, i, 0, "click") for i in range(10))
    assert small.counters["unknown"] == 7 and list(small._events) == [7, 8, 9]


def test_a_saved_learner_goes_on_bit_for_bit(tmp_path):
    policy = policy_of()
    logs, events = stream(policy)
    whole, stopped = (OnlineLearner(policy, CONFIG) for _ in range(2))
    for learner in (whole, stopped):
        learner.serve(logs)
        learner.feedback(events[::2])
        learner.update(500)
    stopped.save(tmp_path / "state")
    resumed = OnlineLearner.load(tmp_path / "state", CONFIG)
    for learner in (whole, resumed):
        learner.feedback(events[1::2])
        learner.update(2000)
    assert whole.served.version == resumed.served.version != stopped.served.version
    assert whole.counters == resumed.counters
    with pytest.raises(ValueError, match="another config"):
        OnlineLearner.load(tmp_path / "state", replace(CONFIG, guard=0.1))
    (tmp_path / "state" / "window.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"window\.npz is damaged"):
        OnlineLearner.load(tmp_path / "state", CONFIG)


def harmful() -> FusionPolicy:
    """Leans to the task that does not pay."""
    worse = policy_of()
    logs = tiny_logs(requests=600, seed=5)
    inputs = worse.request_inputs(logs.context, logs.predictions, logs.offsets)
    wrong = torch.from_numpy((logs.scenario == "buy").astype(np.float32))
    optimizer = torch.optim.Adam(worse.parameters(), lr=1e-2)
    for _ in range(100):
        alpha = worse.concentration(inputs)
        loss = (alpha[:, 0] / alpha.sum(-1) - (0.35 + 0.3 * wrong)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return worse


def test_a_version_that_harms_is_rolled_back():
    good, bad = policy_of(), harmful()
    logs, events = stream(bad, count=1200)
    ranker = BlendedRanker(good, seed=1)
    config = replace(CONFIG, step=replace(STEP, learning_rate=1e-6))
    learner = OnlineLearner(bad, config, ranker.publish, reference=good)
    learner.serve(logs)
    learner.feedback(events)
    result = learner.update(2000)
    assert result.rolled_back and not result.published
    assert result.estimate is not None and result.estimate.high < 0
    assert ranker.version == learner.served.version == good.version
    assert learner.update(2001).published  # it goes on from the reference


def test_a_version_that_would_harm_is_not_published():
    good = policy_of()
    logs, events = stream(good, count=1200)
    config = replace(CONFIG, step=replace(STEP, steps=60, learning_rate=2e-2), guard=0.0, enough=10)
    learner = OnlineLearner(good, config)
    learner.serve(logs)
    learner.feedback(events)
    learner._ripen(2000)
    assert learner._window is not None
    truth = learner._window
    rows = np.repeat(learner._judging(truth), np.diff(truth.offsets))
    lie = np.where(truth.shown[:, None], 1 - truth.feedback.max(1, keepdims=True), 0).astype(np.float32)
    mixed = np.where(rows[:, None], truth.feedback, lie)  # judges see the truth, learners its opposite
    learner._window = replace(truth, feedback=np.broadcast_to(mixed, truth.feedback.shape).copy())
    result = learner.update(2000)
    assert result.refused and result.version == good.version
    assert result.estimate is not None and result.estimate.high < 0
    assert all(torch.equal(a, b) for a, b in zip(learner.policy.parameters(), good.parameters(), strict=True))


def test_too_little_evidence_decides_nothing():
    good, bad = policy_of(), harmful()
    logs, events = stream(bad, count=1200)
    learner = OnlineLearner(bad, replace(CONFIG, enough=10_000), reference=good)
    learner.serve(logs)
    learner.feedback(events)
    result = learner.update(2000)
    assert not result.rolled_back and result.estimate is not None


def test_the_ranker_swaps_policies_between_pages():
    first, second = policy_of(0), policy_of(1)
    ranker = BlendedRanker(first, seed=0)
    logs = tiny_logs(requests=4)
    predictions = logs.predictions.reshape(4, -1, 2)
    ranker.publish(second)
    page = ranker.rank(logs.context, predictions, 3)
    assert ranker.version == second.version == page.log_rows().policy_version[0]
    np.testing.assert_array_equal(page.weights, BlendedRanker(second).rank(logs.context, predictions, 3).weights)
    with pytest.raises(ValueError, match="schema_hash"):
        ranker.publish(FusionPolicy(PolicySpec(TASKS, logs.features, PolicyConfig(transform="zscore"))))
    assert ranker.version == second.version


def test_errors_name_what_is_wrong():
    policy = policy_of()
    learner = OnlineLearner(policy, CONFIG)
    logs, _ = stream(policy, count=20)
    learner.serve(logs)
    for call, message in (
        (lambda: learner.serve(logs), "request_id repeats"),
        (lambda: learner.serve(replace(logs, timestamp=None)), "no timestamp"),
        (lambda: learner.feedback([Event(0, 0, 0, "sale")]), "task is 'sale'; want one of click, order"),
        (lambda: OnlineConfig(window=0), "window is 0"),
        (lambda: OnlineConfig(guard=-1.0), "guard -1.0"),
        (lambda: OnlineConfig(judged=2.0), "judged 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
