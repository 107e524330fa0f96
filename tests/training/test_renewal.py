"""Online learning on corrected predictions, and of the correction itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import OnlineConfig, RewardConfig, Stage2Config
from pygrade.correction.fit import correct
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.mixture import Mixture
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.feedback import Event
from pygrade.training.online import OnlineLearner
from pygrade.training.renewal import renew_correction
from tests.correction.test_fit import fitted, world
from tests.corrections import random_correction

CONFIG = OnlineConfig(
    min_requests=200,
    feedback_delay_ms=10,
    reward=RewardConfig(propensity=0.5, page_size=8, prior_weight=0.0),
    step=Stage2Config(steps=3, batch_size=32, group_size=4),
)
RENEW = replace(CONFIG, correction=True)


@pytest.fixture(scope="module")
def right():
    """The correction of a log whose taste is that of the stream."""
    return fitted(world(3000, seed=5)).candidates[0].correction


@pytest.fixture(scope="module")
def wrong():
    """That of a log whose taste is the opposite."""
    return fitted(world(3000, seed=5, effect=-0.8)).candidates[0].correction


def policy_of(correction, corrected=True, alone=False):
    """A policy of the tests' world; alone: it serves the expected value of corrected predictions."""
    logs = world(50)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig(hidden=(8,), corrected=corrected)))
    policy.correction = correction
    if alone:
        baseline = Baseline(CORRECTED_EXPECTED_VALUE, "identity", logs.task_values, True, corrected=True)
        policy.mixture = Mixture(0.0, baseline)
    return policy


def stream(count=2400, seed=6, start=0, **options) -> tuple[Logs, list[Event]]:
    """Pages of the world as served, a request a millisecond, without their feedback, and the feedback."""
    logs = world(count, seed=seed, **options)
    nothing = np.full((count, 2), np.nan, np.float32)
    served = replace(
        logs,
        request_id=np.arange(start, start + count),
        item_id=np.arange(logs.num_rows),
        timestamp=np.arange(start, start + count, dtype=np.int64),
        exploration=np.full(count, "none"),
        concentration=nothing,
        weights=nothing + 0.5,
        feedback=np.zeros_like(logs.feedback),
    )
    events = [
        Event(f"{start}/{row}/{t}", int(start + logs.row_request[row]), int(row), logs.tasks[t])
        for row, t in zip(*np.nonzero(logs.feedback), strict=True)
    ]
    return served, events


def fed(learner, now, **options):
    served, events = stream(**options)
    learner.serve(served)
    learner.feedback(events)
    return learner.update(now)


def error(correction, effect=0.8):
    """Of the corrected rates of orders given a click, in log odds."""
    logs = world(300, seed=9)
    moved, given = (np.divide(*p.T[::-1]) for p in (correct(correction, logs), logs.predictions))
    odds = np.log(given / (1 - given))
    planted = np.repeat(np.sign(logs.context[:, 0]), 20) * effect * (odds + 1.0)
    return float(np.abs(np.log(moved / (1 - moved)) - odds - planted).mean())


def of_items(count):
    """A policy that corrects by an item column, one that corrects nothing, pages, corrected predictions and events."""
    features, items = ("taste", "noise", "other"), ("margin",)
    correction = random_correction(tasks=("click", "order"), features=features, items=items)
    served, events = stream(count)
    columns = np.random.default_rng(0).normal(size=(served.num_rows, 2)).astype(np.float32)
    served = replace(served, items=("size", "margin"), item_features=columns)
    policy = policy_of(correction)
    corrected = policy.correct(served.context, served.predictions, served.offsets, columns[:, [1]])
    return policy, policy_of(None, corrected=False), served, corrected, events


def drawn(served, chosen):
    """The log with weights that were drawn on the chosen requests [R]."""
    alpha = np.full((len(chosen), 2), 5.0, np.float32)
    weights = np.random.default_rng(1).dirichlet(alpha[0], len(chosen)).astype(np.float32)
    alpha[~chosen] = np.nan
    return replace(served, exploration=np.where(chosen, "dirichlet", "none"), concentration=alpha, weights=weights)


def test_a_policy_of_corrected_predictions_learns_from_corrected_ones():
    """As one without a correction does from pages whose predictions were corrected before."""
    policy, plain, served, corrected, events = of_items(300)
    served = drawn(served, np.full(300, True))
    options = replace(CONFIG, max_reach=9.0, min_effective_samples=1)
    learners = [OnlineLearner(policy, options), OnlineLearner(plain, options)]
    for learner, predictions in zip(learners, (served.predictions, corrected), strict=True):
        learner.serve(replace(served, predictions=predictions))
        learner.feedback(events)
        assert learner.update(1000).published
    ours, theirs = (dict(learner.policy.named_parameters()) for learner in learners)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) and not torch.equal(value, dict(policy.named_parameters())[name]), name


def test_draws_judge_a_policy_by_its_own_inputs():
    """The guard's estimate is that of a policy without a correction on pages corrected before."""
    policy, plain, served, corrected, events = of_items(400)
    served = drawn(served, np.full(400, True))
    estimates = []
    options = replace(CONFIG, step=replace(CONFIG.step, learning_rate=1e-2), max_reach=9.0)
    for one, predictions in ((policy, served.predictions), (plain, corrected)):
        learner = OnlineLearner(one, options)
        learner.serve(replace(served, predictions=predictions))
        learner.feedback(events)
        estimates.append(learner.update(1000).estimate)
    assert estimates[0] is not None and estimates[0] == estimates[1]


@pytest.mark.parametrize("alone", [False, True])
def test_a_taste_that_turned_is_learned_anew_and_published(wrong, alone, tmp_path):
    policy = policy_of(wrong, alone=alone, corrected=not alone)
    ranker = BlendedRanker(policy)
    learner = OnlineLearner(policy, RENEW, ranker.publish)
    update = fed(learner, 5000)
    assert update.renewed and update.published and learner.counters["renewed"] == 1
    new = learner.served.correction
    assert new is not None and error(new) < 0.6 * error(wrong)
    assert ranker.version == update.version == learner.served.version != policy.version
    assert learner.policy.correction == learner.reference.correction == new
    # No draw judges a network that moved: none is served.
    assert all(torch.equal(a, b) for a, b in zip(learner.served.parameters(), policy.parameters(), strict=True))
    fresh = world(50, seed=3)
    assert not np.array_equal(policy_scores(learner.served, fresh), policy_scores(policy, fresh))
    # Without as many new requests nothing is fitted, and a saved learner knows it.
    assert not learner.update(5001).renewed
    resumed = OnlineLearner.load(learner.save(tmp_path / "state"), RENEW)
    assert resumed.served.correction == resumed.policy.correction == resumed.reference.correction == new
    assert (resumed._new, resumed._judged_from) == (learner._new, learner._judged_from) == (0, 5000)


def test_a_correction_with_trees_is_not_renewed(right):
    nodes = {"tree_inputs": np.zeros((1, 7)), "tree_thresholds": np.zeros((1, 7)), "tree_masks": np.full((1, 7), 255)}
    grown = replace(right, **nodes, tree_leaves=np.zeros((1, 8)))
    with pytest.raises(ValueError, match="expected a policy without trees on its correction"):
        OnlineLearner(policy_of(grown), RENEW)


def test_a_correction_that_is_as_good_stays(right):
    policy = policy_of(right, alone=True, corrected=False)
    learner = OnlineLearner(policy, RENEW)
    update = fed(learner, 5000)
    assert not update.published and not update.renewed and learner.served.correction == right
    assert learner._new == 0  # it was tried


def test_the_correction_is_left_alone_by_default(wrong):
    learner = OnlineLearner(policy_of(wrong), CONFIG)
    update = fed(learner, 5000)
    assert update.paused and not update.renewed and learner.served.correction == wrong


def test_draws_under_another_correction_do_not_judge(wrong):
    learner = OnlineLearner(policy_of(wrong), RENEW)
    served, events = stream()
    learner.serve(drawn(served, np.arange(2400) % 4 == 0))
    learner.feedback(events)
    learner.config = replace(RENEW, max_reach=9.0)
    first = learner.update(5000)
    assert first.renewed and first.estimate is not None
    second = learner.update(5001)
    assert second.paused and second.estimate is None  # no draw since then


def test_a_publish_that_raises_keeps_the_correction(wrong):
    def publish(policy):
        if policy.correction != wrong:
            raise OSError("full")

    learner = OnlineLearner(policy_of(wrong), RENEW, publish)
    with pytest.raises(OSError, match="full"):
        fed(learner, 5000)
    assert learner.served.correction == learner.policy.correction == learner.reference.correction == wrong
    learner.publish = None
    assert learner.update(5001).renewed  # the next update tries again


def test_too_little_feedback_and_other_kinds_of_it_renew_nothing(wrong):
    policy, reward = policy_of(wrong), CONFIG.reward
    logs = replace(world(2400, seed=6), timestamp=None)
    assert renew_correction(policy, logs, reward) is not None
    for changed in (
        logs.select(slice(0, 40)),
        replace(logs, feedback=logs.feedback * np.array([1, 0], np.float32)),  # no order
        replace(logs, feedback=logs.feedback * np.array([2.5, 1], np.float32)),  # amounts
    ):
        assert renew_correction(policy, changed, reward) is None


def test_errors_name_the_option():
    with pytest.raises(ValueError, match="correction is True"):
        OnlineLearner(policy_of(None, corrected=False), RENEW)
    with pytest.raises(ValueError, match="no correction to learn anew"):
        renew_correction(policy_of(None, corrected=False), world(50), CONFIG.reward)
