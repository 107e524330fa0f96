"""Readings of a test by nested assumptions, the gate before it, its plan and its decision."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.abtest import SampleRatio, sequential_interval
from pygrade.evaluation.decision import MARGIN, decide, deciding_estimator
from pygrade.evaluation.plan_readings import items_compete, plan_readings
from pygrade.evaluation.readings import (
    BELOW,
    DIFFER,
    ESTIMATORS,
    ITEMS,
    PREDICTED,
    VALUE,
    WHOLE,
    PageTest,
    harvest_exposure,
    read_pages,
    read_returns,
)
from pygrade.logs import Logs
from tests.learning import logs_of

DAY = 86_400_000
CURVE = 1 / np.arange(1.0, 5.0)


def make_test(requests: int = 1500, seed: int = 0, arms: int = 2, lift: float = 0.0, same: bool = False) -> Logs:
    """Pages of four of six items; the control shows them at random, other arms mostly the same; lift: of knowing."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.05, 0.5, (requests, 6))
    score = rng.normal(size=(requests, 6))
    slots = np.empty((requests, 6, arms), np.int32)
    for a in range(arms):
        bent = score + (0 if same or not a else lift * np.log(chance) + 0.4 * rng.normal(size=score.shape))
        place = np.argsort(np.argsort(-bent, 1), 1)
        slots[:, :, a] = np.where(place < 4, place, -1)
    user = rng.integers(0, requests // 3, requests)
    arm = rng.integers(0, arms, requests // 3)[user]
    position = np.take_along_axis(slots, arm[:, None, None], 2)[..., 0]
    looked = np.where(position >= 0, np.append(CURVE, 0.0)[position], 0.0)
    click = rng.random((requests, 6)) < looked * chance
    feedback = np.stack([click, click & (rng.random((requests, 6)) < 0.4)], 2)
    names = np.array(["old", "new", "third"][:arms])
    return logs_of(
        np.stack([chance, 0.4 * chance], 2),
        position,
        feedback,
        user_id=user,
        arms=tuple(names.tolist()),
        arm=names[arm],
        slots=slots.reshape(-1, arms),
        arm_shares=np.full((requests, arms), 1 / arms, np.float32),
        task_values=(1.0, 5.0),
        timestamp=1_700_000_000_000 + np.arange(requests) * (63 * DAY // requests),
    )


def reference(logs: Logs, curve: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """estimator → gain of arm 1 in value a request and its influence [R], in loops, without any variate."""
    e = [*curve.tolist(), 0.0]
    count = logs.num_requests
    worth = {estimator: np.zeros(count) for estimator in (PREDICTED, BELOW, DIFFER, ITEMS)}
    for r in range(count):
        rows = range(logs.offsets[r], logs.offsets[r + 1])
        changed = [i for i in rows if logs.slots[i, 0] != logs.slots[i, 1]]
        first = min((s for i in changed for s in logs.slots[i] if s >= 0), default=99)
        shuffled = logs.exploration is not None and logs.exploration[r] == "shuffle"
        mean = [np.mean([e[logs.slots[i, a]] for i in rows if logs.slots[i, a] >= 0]) for a in (0, 1)]
        for i in rows:
            y = float(logs.feedback[i] @ np.array(logs.task_values))
            a, b = (e[s] for s in logs.slots[i])
            hats = [mean[x] if logs.slots[i, x] >= 0 else 0.0 for x in (0, 1)] if shuffled else [a, b]
            hat = sum(share * x for share, x in zip(logs.arm_shares[r].tolist(), hats, strict=True))
            worth[PREDICTED][r] += y
            worth[BELOW][r] += y * (logs.position[i] >= first)
            worth[DIFFER][r] += y * (i in changed)
            worth[ITEMS][r] += y * (b - a) / hat if hat else 0.0
    plain = np.ones(count, bool) if logs.exploration is None else logs.exploration == "none"
    result = {ITEMS: (worth[ITEMS].mean(), worth[ITEMS] - worth[ITEMS].mean())}
    for estimator in (PREDICTED, BELOW, DIFFER):
        means, influence = [], np.zeros(count)
        for sign, a in ((-1, 0), (1, 1)):
            weight = (logs.arm == logs.arms[a]) * plain / logs.arm_shares[:, a]
            means.append((weight * worth[estimator]).sum() / weight.sum())
            influence += sign * count * weight / weight.sum() * (worth[estimator] - means[-1])
        result[estimator] = means[1] - means[0], influence
    return result


def test_each_estimate_is_the_loops_less_what_variates_of_mean_zero_explain(monkeypatch):
    logs = make_test(400)
    logs = replace(logs, exploration=np.where(np.arange(400) % 7 == 0, "shuffle", "none"))
    wanted = reference(logs, CURVE)
    monkeypatch.setattr(PageTest, "_less", lambda _, value, influence, variates: PlainEstimate(value, influence))
    test = PageTest.of(logs, logs.arms)
    exposures = np.append(CURVE, 0.0)[test.slots]
    value = logs.value_of(logs.feedback)
    found = test.differences(1, value, value, exposures, test.served_exposure(exposures))
    for estimator, (gain, influence) in wanted.items():
        assert found[estimator].value == pytest.approx(gain, abs=1e-12), estimator
        np.testing.assert_allclose(found[estimator].influence, influence, atol=1e-9, err_msg=estimator)


class PlainEstimate:
    def __init__(self, value: float, influence: np.ndarray) -> None:
        self.value, self.influence = value, influence


def test_item_weights_by_hand():
    """Two requests, two items; the arm swaps them. e = 1, 1/2: w = ∓ (1/2) / (3/4) = ∓ 2/3."""
    slots = np.array([[0, 1], [1, 0], [0, 1], [1, 0]] * 2, np.int32)
    position = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    feedback = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], float)[:, :, None]
    logs = logs_of(
        np.full((4, 2, 1), 0.5), position, feedback, arms=("a", "b"), arm=np.array(["a", "b"] * 2), slots=slots
    )
    found = read_pages(logs, exposure=[1, 0.5])
    assert WHOLE in found.arms["b"].readings and not found.arms["b"].readings[WHOLE]  # every user has one event
    assert found.arms["b"].readings[ITEMS][VALUE].fixed.value == pytest.approx((-2 + 2 + 2 + 2) / 3 / 4)
    assert found.agreement == 1 and found.exposure_source == "given" and found.arms["b"].pages_differ == 1


def test_equal_pages_read_exactly_zero_and_stop():
    test = read_pages(make_test(same=True))
    new = test.arms["new"]
    for estimator in (BELOW, DIFFER, ITEMS):
        for reading in new.readings[estimator].values():
            assert (reading.fixed.value, reading.fixed.standard_error, reading.anytime.high) == (0.0, 0.0, 0.0)
    assert new.pages_differ == 0 and new.readings[WHOLE][VALUE].fixed.standard_error > 0
    choice = decide(test, compete=False)
    assert choice.action == "stop" and "new and old: the two rankings show the same pages" in choice.reason


def test_the_order_of_requests_and_the_names_of_arms_change_nothing():
    logs, order = make_test(600), np.random.default_rng(1).permutation(600)
    one, other = read_pages(logs), read_pages(logs.select(order))
    swapped = read_pages(logs.with_arms(("new", "old")), "old")
    for estimator in ESTIMATORS:
        reading = one.arms["new"].readings[estimator]
        assert set(reading) == {VALUE, "a", "b"}
        for metric in reading:
            for found in (other, swapped):
                interval = found.arms["new"].readings[estimator][metric].fixed
                assert interval.value == pytest.approx(reading[metric].fixed.value, abs=1e-9)
                assert interval.standard_error == pytest.approx(reading[metric].fixed.standard_error, rel=1e-6)


def test_estimators_agree_find_a_lift_and_need_ever_fewer_requests():
    test = read_pages(make_test(6000, lift=1.0), planned_requests=5000)
    errors = [test.arms["new"].readings[estimator][VALUE].fixed.standard_error for estimator in ESTIMATORS]
    assert errors[0] > errors[1] > errors[3] > 1.5 * errors[4]  # predictions, slots, items
    items = test.arms["new"].readings[ITEMS][VALUE]
    assert items.fixed.low > MARGIN and max(map(abs, test.arms["new"].disagreement.values())) < 3
    assert items.anytime == sequential_interval(items.fixed.value, items.fixed.standard_error, 6000, planned_units=5000)
    choice = decide(test, compete=False)
    assert (choice.action, choice.arm, choice.estimator) == ("ship", "new", ITEMS)
    assert decide(read_pages(make_test(6000, lift=-1.0)), False).action == "stop"


def test_several_arms_share_the_error_and_shares_may_change():
    logs = make_test(3000, arms=3, lift=1.0)
    test = read_pages(logs)
    assert list(test.arms) == ["new", "third"]
    reading = test.arms["third"].readings[ITEMS][VALUE]
    assert reading.fixed.high - reading.fixed.value > 2.1 * reading.fixed.standard_error  # 1.96 alone
    alone = sequential_interval(reading.fixed.value, reading.fixed.standard_error, 3000, confidence=0.975)
    assert reading.anytime == alone
    shares = logs.arm_shares.copy()
    shares[:10, 2], shares[10:30, 1] = np.nan, 0.0
    drawn = np.where(np.arange(3000) < 40, "dirichlet", "none")
    arm = logs.arm.astype(object)
    arm[40:45] = "other"
    left = read_pages(replace(logs, arm_shares=shares, exploration=drawn, arm=arm)).left_out
    assert left == {
        "not ranked by every arm": 10,
        "without traffic of every arm": 20,
        "with drawn weights": 10,
        "of no arm of the test": 5,
    }


def test_exposures_are_harvested_from_items_in_two_slots():
    logs = make_test(20_000, seed=3)
    test = read_pages(logs)
    np.testing.assert_allclose(test.exposure, CURVE, rtol=0.12)
    assert test.exposure_source.startswith("harvested from ")
    few = read_pages(make_test(60))
    assert "too few" in few.exposure_source and few.exposure[1] == pytest.approx(2**-0.7)
    exact, _ = harvest_exposure(np.array([0, 1]), np.array([1, 0]), np.array([3e6, 1e6]), 2)
    assert exact.tolist() == pytest.approx([1, 1 / 3], rel=1e-4)  # the likelihood's


def test_earlier_pages_narrow_whole_pages():
    rng = np.random.default_rng(0)
    logs = make_test(4000)
    level = rng.lognormal(0, 1, 5000)[logs.user_id]
    feedback = (logs.feedback * level[logs.row_request, None]).astype(np.float32)
    logs, before = replace(logs, feedback=feedback), replace(logs, feedback=feedback, request_id=np.arange(4000) + 9999)
    plain, cuped = (read_pages(logs, earlier=x).arms["new"].readings[WHOLE][VALUE].fixed for x in (None, before))
    assert cuped.standard_error < 0.8 * plain.standard_error
    with pytest.raises(ValueError, match="earlier has tasks a; expected a, b"):
        read_pages(logs, earlier=before.arranged(("a",), ()))


def test_the_decision_falls_back_where_assumptions_fail():
    test = read_pages(make_test(6000, lift=1.0))
    new = test.arms["new"]
    assert deciding_estimator(new.disagreement, compete=True) == PREDICTED
    doubtful = replace(test, arms={"new": replace(new, disagreement=new.disagreement | {ITEMS: -3.2})})
    assert (
        decide(doubtful, compete=False).estimator in (DIFFER, "")
        and deciding_estimator({ITEMS: -3.2, DIFFER: 1.0}, False) == DIFFER
    )
    broken = replace(test, split=SampleRatio(20.0, 1e-5, True))
    assert decide(broken, False)[:2] == ("stop", "The split is broken (p = 1e-05): do not read the test.")
    assert "in other slots than their arm's" in decide(replace(test, agreement=0.9), False).reason
    whole = new.readings[PREDICTED][VALUE]
    below = replace(whole, fixed=replace(whole.fixed, high=-0.001))
    held = replace(new, readings=new.readings | {PREDICTED: {VALUE: below}})
    choice = decide(replace(test, arms={"new": held}), False)
    assert choice.action == "go on" and "but whole pages read below 0; 4,000 requests to the plan" in choice.reason
    wide = read_pages(make_test(300))
    assert decide(replace(wide, planned_requests=100), False).reason.endswith("; the planned requests are over.")


def test_the_gate_counts_pairs_of_events():
    """Two slots, every prediction .5, slot rates .5 and .5: .25 pairs a page, and none if a visit buys one thing."""

    def log(buys: np.ndarray) -> Logs:
        return logs_of(np.full((400, 2, 1), 0.5), np.tile([0, 1], (400, 1)), buys[:, :, None])

    half = np.arange(400) % 2 == 0
    one = items_compete(log(np.stack([half, ~half], 1)))
    assert (one.events, one.observed, one.expected, one.lost, one.compete) == (400, 0.0, 100.0, 0.25, True)
    assert 0.2 < one.low < one.lost <= one.high == 0.25
    free = items_compete(log(np.stack([half, np.arange(400) % 4 < 2], 1)))
    assert (free.observed, free.lost, free.compete) == (100.0, 0.0, False) and free.low < 0 < free.high
    for task, message in (("x", "task is 'x'; expected one of a"), (None, "no events of a task with value")):
        with pytest.raises(ValueError, match=message):
            items_compete(log(np.zeros((400, 2))), task)


def test_a_plan_needs_the_requests_that_the_test_needs():
    before, test = make_test(8000, seed=5, same=True), make_test(8000, seed=6, lift=1.0)
    pages = make_test(8000, seed=5, lift=1.0).slots
    plans = plan_readings(before, pages[:, 0], pages[:, 1], 0.05, exposure=CURVE)
    for estimator in ESTIMATORS:
        error = read_pages(test, exposure=CURVE).arms["new"].readings[estimator][VALUE].fixed.standard_error
        needed = (2.8016 * error / 0.05) ** 2 * 8000
        assert plans[estimator]["requests"] == pytest.approx(needed, rel=0.25), estimator
    with pytest.raises(ValueError, match=r"new has shape \(3,\)"):
        plan_readings(before, pages[:, 0], pages[:3, 1], 0.05)
    with pytest.raises(ValueError, match="lift is 0; expected"):
        plan_readings(before, pages[:, 0], pages[:, 1], 0)


def test_returns_alarm_where_users_stay_away():
    """500 users an arm with a visit a week; half of the new arm's leave after five weeks."""
    logs = make_test(9000)
    user = np.tile(np.arange(1000), 9)
    arm = np.array(["old", "new"])[user % 2]
    stamps = 1_700_000_000_000 + np.repeat(np.arange(9), 1000) * 7 * DAY + np.tile(np.arange(1000), 9)
    logs = replace(logs, user_id=user, arm=arm, timestamp=np.append(stamps[:-1], stamps[0] + 63 * DAY - 1))
    calm = read_returns(logs, gains=["new"])
    assert calm.alarm == "" and [line["week"] for line in calm.weeks] == list(range(1, 9))
    assert calm.weeks[0]["old"]["visits"] == 1.0 and calm.weeks[0]["users"] == 1000
    gone = logs.select((user % 4 != 1) | (np.arange(9000) < 5000))
    found = read_returns(gone, gains=["new"])
    assert found.alarm.startswith("users of new return less: -50.0 % in weeks 6 to 9")
    assert found.lifts["new"]["visits"].corrected.value == pytest.approx(-0.5)
    assert read_returns(gone).alarm == ""  # nothing reads better
    with pytest.raises(ValueError, match="no timestamp"):
        read_returns(replace(logs, timestamp=None))


def test_a_holdout_is_read_by_user_and_its_returns_from_its_begin_on():
    """After four weeks nine tenths of the control's users get the new arm; later some users of that stay away."""
    user, week = np.tile(np.arange(1000), 9), np.repeat(np.arange(9), 1000)
    arm = np.array(["old", "new"])[np.where(week < 4, user % 2, user % 20 > 0)]
    shares = np.where(week[:, None] < 4, [0.5, 0.5], [0.05, 0.95]).astype(np.float32)
    shares[::100] = np.nan  # of pages that an arm could not rank
    stamps = 1_700_000_000_000 + week * 7 * DAY + np.tile(np.arange(1000), 9)
    changes = {
        "user_id": user,
        "arm": arm,
        "arm_shares": shares,
        "timestamp": np.append(stamps[:-1], stamps[0] + 63 * DAY - 1),
    }
    logs = replace(make_test(9000), **changes)
    test = PageTest.of(logs, logs.arms)
    assert test.is_by_user() and not test.split().mismatch
    assert not read_pages(logs).arms["new"].readings[WHOLE]
    found = read_returns(logs, gains=["new"])
    assert found.alarm == "" and [line["week"] for line in found.weeks] == [1, 2, 3, 4]
    assert found.weeks[-1]["old"]["visits"] == found.weeks[-1]["new"]["visits"] == 1.0
    gone = read_returns(logs.select((user % 4 != 1) | (week < 5)), gains=["new"])
    assert gone.alarm.startswith("users of new return less: -") and gone.weeks[-1]["old"]["visits"] == 1.0
    crossed = replace(logs, arm=np.array(["old", "new"])[(user + week) % 2])
    assert not PageTest.of(crossed, logs.arms).is_by_user()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"arm": None}, {}, "expected arm, and slot_<arm>"),
        ({}, {"control": "x"}, "control is 'x'; expected one of old, new"),
        ({}, {"exposure": [1.0, 0.5]}, "exposure is .*; expected 4 positive numbers"),
        (
            {"arm_shares": np.full((300, 2), np.nan, np.float32)},
            {},
            "no request can be read: .*not ranked by every arm",
        ),
        ({"arm": np.full(300, "new")}, {}, "arm 'old' has 0 requests; expected at least 2"),
    ],
)
def test_a_log_without_a_test_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        read_pages(replace(make_test(300), **change), **options)


def test_readings_are_json():
    record = read_pages(make_test(300)).to_dict()
    assert record["arms"]["new"]["readings"][ITEMS][VALUE]["fixed"]["value"] is not None
    assert not math.isnan(record["split"]["p_value"])
