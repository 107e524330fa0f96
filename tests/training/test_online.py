"""Learning from a stream: the order of events does not matter, state resumes bit for bit, the guard rolls back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import OnlineConfig, RewardConfig, Stage2Config
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.feedback import Event
from pygrade.training.online import OnlineLearner, clip_tails
from tests.learning import TASKS, VALUES, tiny_logs, true_value

STEP = Stage2Config(steps=8, batch_size=64, group_size=8, learning_rate=5e-3)
CONFIG = OnlineConfig(
    window=1200,
    min_requests=200,
    feedback_delay_ms=10,
    reward=RewardConfig(propensity=0.5, page_size=5, prior_weight=0.0),
    min_effective_samples=1,
    step=STEP,
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


@pytest.fixture(scope="module")
def pages() -> tuple[Logs, list[Event]]:
    """The stream of `policy_of()`."""
    return stream(policy_of())


def fed(policy: FusionPolicy, pages, config=CONFIG, **options) -> OnlineLearner:
    """A learner to whom pages with their events were served."""
    learner = OnlineLearner(policy, config, **options)
    learner.serve(pages[0])
    learner.feedback(pages[1])
    return learner


def test_it_learns_what_pays(pages):
    policy, (logs, events) = policy_of(), pages
    learner = OnlineLearner(policy, replace(CONFIG, step=replace(STEP, steps=25)))
    for done, now in ((0, 300), (300, 600), (600, 920)):
        learner.serve(logs.select(slice(done, min(now, logs.num_requests))))
        learner.feedback(event for event in events if done <= event.request_id < now)
        learner.update(now + CONFIG.feedback_delay_ms)
    world = tiny_logs(requests=300, seed=9)
    inputs = policy.request_inputs(world.context, world.predictions, world.offsets)
    before, after = (true_value(world, p.serve(inputs).numpy()).mean() for p in (policy, learner.served))
    assert after > 1.05 * before
    assert learner.counters["published"] == 3


def test_order_and_repetition_of_events_change_nothing(pages):
    policy, (logs, events) = policy_of(), pages
    plain, messy = fed(policy, pages), OnlineLearner(policy, CONFIG)
    rng = np.random.default_rng(3)
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


def test_feedback_counts_only_while_its_time_lasts(pages):
    policy, (logs, events) = policy_of(), pages
    learner = fed(policy, (logs, []))
    assert not learner.update(100).published  # too few requests yet
    late = [event for event in events if event.request_id <= 90]
    learner.feedback(late)
    learner.feedback([Event("x", 10**6, 0, "click"), Event("y", 899, 10**6, "click")])
    learner.update(2000)
    assert learner.counters["late"] == len(late) > 0
    assert learner.counters["not_on_page"] == 1
    assert [event.request_id for event in learner.join.events] == [10**6]  # its page may still come
    small = OnlineLearner(policy, replace(CONFIG, max_pending_events=3))
    small.feedback(Event(i, i, 0, "click") for i in range(10))
    assert small.counters["unknown"] == 7 and [event.request_id for event in small.join.events] == [7, 8, 9]


def test_a_saved_learner_goes_on_bit_for_bit(pages, tmp_path):
    policy, (logs, events) = policy_of(), pages
    price = np.random.default_rng(5).uniform(1, 9, logs.num_rows).astype(np.float32)
    users = logs.user_id.astype(str).astype(object)  # as read_logs gives strings
    logs = replace(logs, value=price, value_tasks=("order",), user_id=users)
    logs = replace(logs, items=("margin",), item_features=price[:, None])
    whole, stopped = (fed(policy, (logs, events[::2])) for _ in range(2))
    for learner in (whole, stopped):
        learner.update(500)
    stopped.save(tmp_path / "state")
    resumed = OnlineLearner.load(tmp_path / "state", CONFIG)
    for one, other in zip(stopped.join.pages, resumed.join.pages, strict=True):
        assert one.items == other.items == ("margin",)
        np.testing.assert_array_equal(one.item_features, other.item_features)
    for learner in (whole, resumed):
        learner.feedback(events[1::2])
        learner.update(2000)
    assert whole.served.version == resumed.served.version != stopped.served.version
    assert whole.counters == resumed.counters
    with pytest.raises(ValueError, match="another config"):
        OnlineLearner.load(tmp_path / "state", replace(CONFIG, max_regression=0.1))


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


@pytest.fixture(scope="module")
def harm():
    """A policy that harms, and its stream."""
    bad = harmful()
    return bad, stream(bad, count=1200)


SLOW = replace(CONFIG, step=replace(STEP, learning_rate=1e-6))


@pytest.mark.parametrize("amount", [0.0, 100.0, 1e6])
def test_a_version_that_harms_is_rolled_back_whatever_one_event_is_worth(harm, amount):
    good, (bad, (logs, events)) = policy_of(), harm
    ranker = BlendedRanker(good, seed=1)
    learner = fed(bad, (logs, events), SLOW, publish=ranker.publish, reference=good)
    judges = int(np.flatnonzero(learner._judging(logs))[0])
    row = int(np.flatnonzero((logs.row_request == judges) & logs.shown)[0])
    learner.feedback([Event("large", int(logs.request_id[judges]), int(logs.item_id[row]), "order", amount)])
    result = learner.update(2000)
    assert result.rolled_back and not result.published and result.estimate.high < 0
    assert (result.cut >= 1) == (amount > 0)
    assert ranker.version == learner.served.version == good.version
    assert learner.update(2001).published  # it goes on from the reference


def test_learning_pauses_while_the_guard_is_blind(harm):
    """Few requests have any feedback, so that the interval is as wide as all they are worth."""
    good, (bad, (logs, events)) = policy_of(), harm
    published, few = [], (logs, events[::100])
    config = replace(CONFIG, max_regression=0.5, max_reach=0.2)
    learner = fed(bad, few, config, publish=published.append, reference=good)
    result = learner.update(2000)
    assert result.paused and not (result.published or result.rolled_back or result.refused) and not published
    assert result.estimate.high - result.estimate.low > 0.4 * learner._window.feedback.sum(1).mean()
    assert learner.served.version == bad.version and learner.counters["paused"] == 1
    assert same_weights(learner.policy, bad)
    assert fed(bad, few, replace(config, max_reach=10.0), reference=good).update(2000).published


def same_weights(one: FusionPolicy, other: FusionPolicy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("case", ["wide", "few", "no draw"])
def test_a_version_that_the_guard_cannot_judge_is_not_published(pages, case):
    policy, (logs, events) = policy_of(), pages
    logs = replace(logs, exploration=np.full(logs.num_requests, "none")) if case == "no draw" else logs
    blind = {"max_reach": 1e-9} if case == "wide" else {"min_effective_samples": 10_000}
    learner = fed(policy, (logs, events), replace(CONFIG, **blind))
    result = learner.update(2000)  # the served version is the reference: only the new one can't be judged
    assert result.paused and result.learned_from > 0 and result.version == learner.served.version == policy.version
    assert (result.estimate is None) == (case == "no draw") and same_weights(learner.policy, policy)


def test_tails_are_cut():
    rng = np.random.default_rng(0)
    rewards = rng.exponential(1, 5000)
    cut = clip_tails(rewards)
    assert (cut != rewards).sum() == 5 and cut.max() == np.sort(rewards)[-6]
    assert clip_tails(np.array([3.0, 9.0])).tolist() == [3.0, 3.0]
    rare = np.zeros(5000)
    rare[:4] = [1, 2, 3, 1e6]  # fewer than a thousandth: they are not all cut to 0
    assert clip_tails(rare)[:5].tolist() == [1, 2, 3, 3, 0]
    assert clip_tails(-rare)[:5].tolist() == [-1, -2, -3, -3, 0]
    assert clip_tails(np.zeros(3)).tolist() == [0, 0, 0]


def test_single_tasks_count_once_and_predictions_are_capped():
    policy = policy_of()
    logs, _ = stream(policy, count=20)
    learner = OnlineLearner(policy, replace(CONFIG, single_tasks=["click"], max_amount=50.0))
    predictions = logs.predictions.copy()
    predictions[:2] = [[3.0, 0.5], [0.5, 1e30]]
    learner.serve(replace(logs, predictions=predictions))
    assert learner.counters["capped_predictions"] == 2
    row = int(np.flatnonzero(logs.shown)[0])
    request, item = int(logs.request_id[logs.row_request[row]]), int(logs.item_id[row])
    learner.feedback(Event(f"{task}{n}", request, item, task, 2.0) for task in TASKS for n in range(3))
    learner.update(2000)
    assert learner._window.feedback[row].tolist() == [1.0, 6.0] and learner.counters["capped"] == 1
    assert learner._window.predictions[:2].tolist() == [[1.0, 0.5], [0.5, 50.0]]
    with pytest.raises(ValueError, match="single_tasks has 'sale'"):
        OnlineLearner(policy, replace(CONFIG, single_tasks=("sale",)))


def test_a_version_that_would_harm_is_not_published():
    good = policy_of()
    config = replace(
        CONFIG, step=replace(STEP, steps=60, learning_rate=2e-2), max_regression=0.0, min_effective_samples=10
    )
    learner = fed(good, stream(good, count=1200), config)
    learner._take(2000)
    assert learner._window is not None
    truth = learner._window
    rows = np.repeat(learner._judging(truth), np.diff(truth.offsets))
    lie = np.where(truth.shown[:, None], 1 - truth.feedback.max(1, keepdims=True), 0).astype(np.float32)
    mixed = np.where(rows[:, None], truth.feedback, lie)  # judges see the truth, learners its opposite
    learner._window = replace(truth, feedback=np.broadcast_to(mixed, truth.feedback.shape).copy())
    result = learner.update(2000)
    assert result.refused and result.version == good.version
    assert result.estimate is not None and result.estimate.high < 0 and same_weights(learner.policy, good)


def bad_events(page_item: int) -> list[tuple[Event, str]]:
    good, amounts = Event("x", 0, page_item, "click"), (np.nan, np.inf, -np.inf, 1e30, -1.0, "2", None, True)
    return [
        *((good._replace(amount=amount), "amount") for amount in amounts),
        *((good._replace(event_id=key), "event_id") for key in (b"x", ("a", 1), ["x"], 1.5, None)),
        (good._replace(request_id=0.0), "request_id"),
        (good._replace(request_id="0"), "request_id is '0'.*expected an integer"),
        (good._replace(item_id="3"), "item_id is '3'.*expected an integer"),
        (good._replace(task="sale"), "task is 'sale' in event 'x'; expected one of click, order"),
    ]


def test_a_malformed_event_is_refused_and_takes_nothing_with_it(pages):
    policy, (logs, events) = policy_of(), pages
    learner = fed(policy, (logs, []))
    for bad, message in bad_events(int(logs.item_id[0])):
        with pytest.raises((TypeError, ValueError), match=message):
            learner.feedback([*events[:5], bad])
    assert learner.counters == {} and not learner.join.events
    learner.feedback(events)
    assert learner.update(2000) == fed(policy, pages).update(2000)


def test_numpy_ids_and_amounts_are_plain_ones(pages, tmp_path):
    policy, (logs, events) = policy_of(), pages
    numpy, plain = (fed(policy, (logs.select(slice(0, 450)), [])) for _ in range(2))
    of_numpy = [
        e._replace(request_id=np.int64(e.request_id), item_id=np.int32(e.item_id), amount=np.float32(1)) for e in events
    ]
    numpy.feedback([*of_numpy, Event(np.int64(7), np.int64(10**6), np.int32(3), "click")])
    plain.feedback([*events, Event(7, 10**6, 3, "click")])
    numpy.save(tmp_path / "state")
    resumed = OnlineLearner.load(tmp_path / "state", CONFIG)
    assert resumed.join.events == plain.join.events
    assert resumed.update(2000) == plain.update(2000)


def test_pages_that_do_not_fit_are_refused():
    policy = policy_of()
    logs, _ = stream(policy, count=40)
    learner = OnlineLearner(policy, CONFIG)
    first, second = logs.select(slice(0, 20)), logs.select(slice(20, 40))
    learner.serve(first)
    infinite = second.predictions.copy()
    infinite[3, 1] = np.inf
    for changed, message in (
        ({"request_id": second.request_id.astype(str)}, "request_id is a string, in earlier pages an integer"),
        ({"item_id": second.item_id.astype(str)}, "item_id is a string"),
        ({"tasks": ("click", "sale")}, "tasks click, sale; expected click, order"),
        ({"features": ("x",), "context": second.context[:, :1]}, "features"),
        ({"predictions": infinite}, "p_order"),
        ({"timestamp": None}, "no timestamp"),
        ({"request_id": first.request_id}, "request_id repeats"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.serve(replace(second, **changed))
    learner.serve(second)


def test_a_publish_that_raises_leaves_ranker_and_learner_together(pages):
    policy = policy_of()
    ranker = BlendedRanker(policy)
    full = True

    def publish(version: FusionPolicy) -> None:
        ranker.publish(version)
        if full:
            raise OSError(28, "No space left on device")

    learner = fed(policy, pages, publish=publish)
    with pytest.raises(OSError, match="No space"):
        learner.update(2000)
    assert ranker.version == learner.served.version == policy.version
    assert "published" not in learner.counters
    full = False
    assert learner.update(2001).published
    assert ranker.version == learner.served.version != policy.version


def test_damaged_state_is_refused_by_the_name_of_its_file(tmp_path):
    policy = policy_of()
    learner = fed(policy, stream(policy, count=300))
    learner.feedback([Event("y", 10**6, 0, "click")])
    learner.update(240)
    folder = learner.save(tmp_path / "state")
    rng = np.random.default_rng(0)
    for name in ("state.json", "state.safetensors", "window.parquet", "waiting/pages.parquet", "waiting/events.json"):
        content = (folder / name).read_bytes()
        # A JSON without its last line feed is the same record.
        damaged = [content[:cut] for cut in (0, 1, len(content) // 2, len(content) - 2)]
        for at in rng.integers(0, len(content) - 1, 15):
            damaged.append(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
        for bad in damaged:
            (folder / name).write_bytes(bad)
            try:
                same = OnlineLearner.load(folder, CONFIG)
            except ValueError as error:
                assert name in str(error)
            else:  # white space of the JSON
                assert name == "state.json" and same.join.events == learner.join.events
        (folder / name).write_bytes(content)
    OnlineLearner.load(folder, CONFIG)
