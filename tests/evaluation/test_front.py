"""The front of a policy with trade-offs: events counted as in training, and multipliers that keep a level."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.evaluation.front import AS_TRAINED, VALUE, Judge, front, solve
from pygrade.evaluation.replay import ranks
from pygrade.policy import FusionPolicy, PolicyConfig, PolicySpec
from tests.learning import TASKS, VALUES, tiny_logs
from tests.training.test_trade_offs import FAMILY, learned

CURVE = np.arange(1, 6) ** -0.5


@pytest.fixture(scope="module")
def policy():
    return learned(tiny_logs(400), FAMILY)


def judge(policy, logs, **options):
    production = logs.predictions.sum(1)
    return Judge(policy, logs, production, CURVE, k=4, **options)


def counted(scores, logs, floor=0.6):
    """Debiased and predicted events [2, T + 1] per request, row by row."""
    sums = np.zeros((2, len(TASKS) + 1))
    orders = ranks(scores, logs.offsets, logs.shown), ranks(scores, logs.offsets)
    for row in range(logs.num_rows):
        looks = max(CURVE[logs.position[row]], floor)
        for kind, (order, amounts) in enumerate(zip(orders, (logs.feedback, logs.predictions), strict=True)):
            if order[row] < 4 and (kind or logs.shown[row]):
                gain = CURVE[order[row]] * amounts[row] / (1.0 if kind else looks)
                sums[kind] += [*gain, gain @ np.array(VALUES)]
    return sums / logs.num_requests


@pytest.mark.parametrize("jagged", [False, True])
def test_events_are_those_of_the_reordered_page(policy, jagged):
    logs = tiny_logs(40, seed=3, jagged=jagged)
    counts, u = judge(policy, logs, floor=0.6), [2.0, 0.5]
    scores = policy.scores(logs.context, logs.predictions, logs.offsets, logs.scenario, np.array(u, np.float32)).numpy()
    np.testing.assert_array_equal(counts.scores(u), scores)
    (new, predicted), (base, expected) = counted(scores, logs), counted(logs.predictions.sum(1), logs)
    point = counts.at(u)
    np.testing.assert_allclose([point.events[name].value for name in counts.names], new / base - 1, rtol=1e-5)
    np.testing.assert_allclose(list(point.predicted.values()), predicted / expected - 1, rtol=1e-5)
    np.testing.assert_allclose(counts.lifts(u), new / base - 1, rtol=1e-5)
    assert point.values == dict(zip(TASKS, u, strict=True))
    for entry in point.events.values():
        assert entry.low < entry.value < entry.high
    production = counts.point(logs.predictions.sum(1))
    assert all(entry.value == entry.low == entry.high == 0 for entry in production.events.values())


def test_without_propensities_slots_count_alike_and_ranks_by_dcg(policy):
    logs = tiny_logs(30)
    production = logs.predictions.sum(1)
    blind = Judge(policy, logs, production, None, k=5)
    given = Judge(policy, logs, production, 1 / np.log2(np.arange(5) + 2.0), k=5, floor=1.0)
    np.testing.assert_allclose(blind.lifts([1.0, 1.0]), given.lifts([1.0, 1.0]))


def test_a_front_goes_from_one_task_to_the_other(policy):
    logs = tiny_logs(300, seed=5)
    result = front(judge(policy, logs), TASKS, logs.predictions @ np.array(VALUES))
    ((first, second, points),) = result.paths
    assert (first, second) == TASKS and len(points) == 7
    assert points[0].events["click"].value > points[-1].events["click"].value + 0.02
    assert points[0].events["order"].value < points[-1].events["order"].value - 0.02
    assert points[3].events == result.marks[AS_TRAINED].events
    assert set(result.marks) == {EXPECTED_VALUE, AS_TRAINED} and result.marks[EXPECTED_VALUE].values is None
    assert list(result.knobs) == ["click × 4", "click / 4", "order × 4", "order / 4"]
    assert result.to_dict()["paths"][0][2][0]["values"] == {"click": 8.0, "order": 0.125}


def test_multipliers_keep_a_level_and_earn_most_of_the_other(policy):
    search, other = (judge(policy, tiny_logs(300, seed=seed)) for seed in (5, 6))
    most = search.lifts([8.0, 0.125])[0]
    free = solve(search, search, {"click": 0.1}, "order")
    tight = solve(search, search, {"click": 1 + 0.8 * most}, "order")
    assert free.searched["order"] > tight.searched["order"] and not tight.lacking
    assert tight.searched["click"] >= 0.8 * most > free.searched["click"]
    assert tight.judged.events["click"].value == pytest.approx(tight.searched["click"])
    assert solve(search, search, {"click": 1 + 0.8 * most}, "order") == tight
    elsewhere = solve(search, other, {"click": 1 + 0.8 * most}, "order")
    assert elsewhere.judged == other.at(list(elsewhere.values.values()))
    beyond = solve(search, search, {"click": 3.0}, VALUE)
    assert beyond.lacking == {"click": pytest.approx(2.0 - beyond.searched["click"])}
    assert beyond.searched["click"] > 0.95 * most


def test_a_search_on_the_training_log_is_corrected_by_other_requests(policy):
    """The kept level is that of the judging requests at u = 1, plus what the search adds to it."""
    search, other = (judge(policy, tiny_logs(200, seed=seed)) for seed in (0, 6))
    plain = [1.0, 1.0]
    found = solve(search, other, {"click": 1.0}, "order")
    values = list(found.values.values())
    corrected = search.lifts(values) - search.lifts(plain) + other.lifts(plain)
    np.testing.assert_allclose(list(found.searched.values()), corrected)


@pytest.mark.parametrize(
    ("keep", "most", "named"),
    [
        ({"dwell": 1.0}, VALUE, "keep names 'dwell'; want one of click, order, value"),
        ({"click": 1.0}, "dwell", "most names 'dwell'; want one of click, order, value"),
        ({"click": 0.0}, VALUE, "keep is {'click': 0.0}; want a positive share"),
        ({}, VALUE, "keep is {}; want a positive share"),
        ({"order": 1.0}, VALUE, "keep and most name 'order', of which the log has no event"),
    ],
)
def test_what_is_kept_and_earned_is_checked(policy, keep, most, named):
    logs = tiny_logs(60)
    if "no event" in named:
        logs = replace(logs, feedback=logs.feedback * np.array([1, 0], np.float32))
    counts = judge(policy, logs)
    with pytest.raises(ValueError, match=named):
        solve(counts, counts, keep, most)


def test_a_front_needs_a_policy_with_trade_offs_and_known_tasks(policy):
    logs = tiny_logs(20)
    plain = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig()))
    with pytest.raises(ValueError, match="policy has no trade_offs; want one trained with them"):
        judge(plain, logs)
    for tasks, named in ((("dwell",), "tasks names 'dwell'"), (("click", "click"), "want each task once")):
        with pytest.raises(ValueError, match=named):
            front(judge(policy, logs), tasks, logs.predictions[:, 0])
