"""The fit of a correction: what it finds in worlds with a known truth, its pieces against plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrade.config.training import CorrectionConfig
from pygrade.correction import fit
from pygrade.correction.fit import (
    CALIBRATED,
    continue_fit,
    correct,
    correct_by_fold,
    fit_correction,
    select_item_columns,
)
from pygrade.correction.gate import NEEDED, JointLikelihood, PageValues, needed_of, zscore
from pygrade.correction.inputs import InputScaling, TaskRows, gram, parents_of
from pygrade.correction.maps import fit_maps
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset
from pygrade.logs.keys import hashes
from pygrade.workers import LOCAL
from tests.learning import logs_of, slots_of
from tests.workers.elsewhere import Elsewhere

CURVE = np.arange(1, 11.0) ** -0.5


def world(requests: int = 1500, seed: int = 0, effect: float = 0.8, bend: float = 0.0, noise: bool = False) -> Logs:
    """Clicks, and orders that need one. The log odds of orders spread 1 ± effect times as far as predicted, as the
    context says, so that it moves items past each other.

    bend: of the predictions' log odds above -2, which the feedback does not follow.
    """
    rng = np.random.default_rng([seed, 7])
    count, page, rows = 20, 8, requests * 20
    odds = rng.normal([-1.6, -1.0], 0.9, (rows, 2))
    context = rng.normal(size=(requests, 3)).astype(np.float32)
    request = np.repeat(np.arange(requests), count)
    truth = odds + np.stack([0 * request, effect * np.sign(context[request, 0]) * (odds[:, 1] + 1.0)], 1)
    if noise:
        truth = np.full((rows, 2), -1.5)
    given = 1 / (1 + np.exp(-(odds + bend * np.maximum(odds + 2.0, 0.0))))
    p = 1 / (1 + np.exp(-truth))
    order = np.argsort(-(odds.sum(1) + rng.normal(size=rows)).reshape(requests, count), 1)[:, :page]
    position = slots_of(order, count)
    look = np.where(position >= 0, CURVE[position], 0.0).reshape(-1)
    click = rng.random(rows) < look * p[:, 0]
    buy = click & (rng.random(rows) < p[:, 1])
    predictions, shape = np.stack([given[:, 0], given[:, 0] * given[:, 1]], 1), (requests, count, 2)
    return logs_of(
        predictions.reshape(shape),
        position,
        np.stack([click, buy], 1).reshape(shape),
        tasks=("click", "order"),
        features=("taste", "noise", "other"),
        user_id=np.arange(requests) // 2,
        context=context,
        item_id=rng.integers(0, 300, rows),
        task_values=(1.0, 8.0),
    )


def fitted(logs: Logs, **options):  # type: ignore[no-untyped-def]
    users = logs.user_id.astype(np.int64)
    return fit_correction(logs, looks(logs), users % 4, users, CorrectionConfig(**options))


def looks(logs: Logs) -> np.ndarray:
    return CURVE[logs.position[logs.shown]]


def test_a_planted_effect_of_the_context_is_found_and_accepted():
    found = fitted(world(4000), calibration=False)
    chosen = found.accepted
    assert chosen is not None and chosen.name == "correction"
    fresh = world(500, seed=1)
    moved = correct(chosen.correction, fresh)
    given = [p[:, 1] / p[:, 0] for p in (fresh.predictions, moved)]
    odds, after = (np.log(p / (1 - p)) for p in given)
    planted = 0.8 * np.repeat(np.sign(fresh.context[:, 0]), 20) * (odds + 1.0)
    assert np.corrcoef(after - odds, planted)[0, 1] > 0.7 and 0.4 < np.polyfit(planted, after - odds, 1)[0] < 1.2
    np.testing.assert_allclose(moved[:, 0], fresh.predictions[:, 0], rtol=0.35)  # clicks are as predicted


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_accurate_predictions_are_not_accepted(seed):
    for logs in (world(800, seed, noise=True), world(1500, seed, effect=0.0)):
        assert fitted(logs).accepted is None


def test_bent_predictions_are_mapped_before_they_are_corrected():
    found = fitted(world(6000, effect=0.0, bend=1.5))
    assert max(found.forms.values()) > 2
    assert [entry.name for entry in found.candidates] == ["maps and correction", "maps", CALIBRATED]
    assert found.accepted is found.candidates[1]
    fresh = world(400, seed=3, effect=0.0, bend=1.5)
    straight = world(400, seed=3, effect=0.0)
    error = [
        float(np.abs(np.log(p[:, 0] / straight.predictions[:, 0])).mean())
        for p in (fresh.predictions, correct(found.candidates[1].correction, fresh))
    ]
    assert error[1] < 0.5 * error[0]
    assert fitted(world(1500, effect=0.0, bend=1.5), calibration=False).forms == {}


def test_a_related_market_helps_a_small_log():
    source = fitted(world(6000, seed=5)).candidates[0].correction
    small = world(250, seed=6)
    users = small.user_id.astype(np.int64)
    with_prior = fit_correction(small, looks(small), users % 4, users, prior=source)
    alone = fitted(small)
    best = max(entry.gain.value for entry in with_prior.candidates)
    assert best > alone.candidates[0].gain.value
    stranger = replace(source, weights=-source.weights)
    against = fit_correction(small, looks(small), users % 4, users, prior=stranger)
    best = max(entry.gain.value for entry in against.candidates)
    assert best > alone.candidates[0].gain.value - 0.02


def test_a_task_without_events_keeps_what_another_market_found():
    source = fitted(world(3000, seed=5)).candidates[0].correction
    small = world(300, seed=6)
    small = replace(small, feedback=small.feedback * np.array([1, 0], np.float32))
    users = small.user_id.astype(np.int64)
    found = fit_correction(small, looks(small), users % 4, users, prior=source, parents=(-1, 0)).candidates
    kept = max(float(np.abs(entry.correction.weights[1]).max()) for entry in found)
    assert kept == pytest.approx(float(np.abs(source.weights[1].reshape(-1)[1:]).max()), rel=1e-5)


def test_cross_fitted_predictions_are_of_the_other_folds():
    logs = world(1200)
    found = fitted(logs).candidates[0]
    users = logs.user_id.astype(np.int64)
    predictions = correct_by_fold(found.folds, logs, users % 4)
    some = np.flatnonzero(users % 4 == 2)
    np.testing.assert_array_equal(
        predictions.reshape(len(users), 20, 2)[some].reshape(-1, 2), correct(found.folds[2], logs.select(some))
    )
    wider = replace(logs, features=("unread", *logs.features), context=np.insert(logs.context, 0, 9.0, 1))
    np.testing.assert_array_equal(correct_by_fold(found.folds, wider, users % 4), predictions)
    other = replace(logs, feedback=np.where((np.repeat(users, 20) % 4 == 2)[:, None], 0, logs.feedback))
    again = fit_correction(other, looks(other), users % 4, users, parents=found.correction.parents)
    # Without fold 2 nothing of its feedback is left but the start of the Newton steps.
    np.testing.assert_allclose(again.candidates[0].folds[2].weights, found.folds[2].weights, atol=0.2)


def test_missing_features_get_indicators_and_keep_the_rest():
    logs = world(4000)
    context = logs.context.copy()
    context[np.random.default_rng(0).random(len(context)) < 0.3, 1] = np.nan
    found = fitted(replace(logs, context=context)).accepted
    assert found is not None
    assert found.correction.indicators == (1,)
    whole = fitted(logs).accepted
    some = world(50, seed=9)
    blank = some.context.copy()
    blank[:, 1] = np.nan
    moved = correct(found.correction, replace(some, context=blank))
    np.testing.assert_allclose(moved, correct(whole.correction, some), rtol=0.6)
    assert np.corrcoef(moved[:, 1], correct(whole.correction, some)[:, 1])[0, 1] > 0.97


def test_the_fit_reads_a_log_as_the_core_serves_it():
    logs = world(900)
    context = logs.context.copy()
    context[::4, 1] = np.nan
    context[::9] = np.nan
    logs = replace(logs, context=context)
    found = fitted(logs, calibration=False, item_effects=False).candidates[0].correction
    scaling = InputScaling(*(getattr(found, name) for name in InputScaling.__dataclass_fields__))
    inputs = scaling.inputs(logs, logs.predictions)
    request = logs.row_request[logs.shown]
    eta = [inputs.base[:, t] + ((inputs.z @ found.weights[t])[request] * inputs.u).sum(1) for t in range(2)]
    click = np.minimum(np.exp(eta[0]), 1.0)
    expected = np.stack([click, click / (1 + np.exp(-eta[1]))], 1)
    np.testing.assert_allclose(correct(found, logs)[logs.shown], expected, rtol=2e-4)


def test_item_columns_are_inputs():
    logs = world(4000, effect=0.0)
    quality = np.random.default_rng(3).normal(size=logs.num_rows).astype(np.float32)
    boost = (logs.feedback[:, 0] > 0) & (np.random.default_rng(4).random(logs.num_rows) < np.where(quality > 0, 0.5, 0))
    feedback = logs.feedback.copy()
    feedback[:, 1] = np.maximum(feedback[:, 1], boost)
    quality[::17] = np.nan
    found = fitted(replace(logs, feedback=feedback, items=("quality",), item_features=quality[:, None])).accepted
    assert found is not None and found.correction.items == ("quality",)


def test_of_many_item_columns_the_telling_ones_are_kept(monkeypatch):
    logs = world(800, effect=0.0)
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(logs.num_rows, 12)).astype(np.float32)
    columns[:, 5] += 2 * logs.feedback[:, 0]
    names = tuple(f"a{i}" for i in range(12))
    logs = replace(logs, items=names, item_features=columns)
    theta = CURVE[logs.position[logs.shown]]
    assert select_item_columns(logs, theta) is logs
    monkeypatch.setattr(fit, "MOST_COEFFICIENTS", 60)
    kept = select_item_columns(logs, theta)
    assert "a5" in kept.items and len(kept.items) == 3 and kept.item_features.shape == (logs.num_rows, 3)
    found = fitted(logs, item_effects=False).candidates[0].correction
    assert found.items == kept.items and np.isfinite(correct(found, logs)).all()


def test_the_chain_is_found_in_the_log():
    y = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]] * 10)
    assert parents_of(y, (False, False, False)) == (-1, 0, 1)
    assert parents_of(y, (False, True, False)) == (-1, -1, 0)
    y[0] = [0, 1, 1]
    assert parents_of(y, (False, False, False)) == (-1, -1, 1)
    many = np.tile(y[1:], (10, 1))
    many[0] = [0, 1, 1]  # one event in two hundred without its parent's changes nothing
    assert parents_of(many, (False, False, False)) == (-1, 0, 1)
    assert parents_of(y[:8], (False, False, False)) == (-1, -1, -1)  # too few events


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_gram_matrix_is_that_of_the_products(requests, first, second, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, requests)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    z, u = rng.normal(size=(requests, first)), rng.normal(size=(sizes.sum(), second))
    weight = rng.random(sizes.sum())
    phi = (np.repeat(z, sizes, 0)[:, :, None] * u[:, None]).reshape(sizes.sum(), first * second)
    np.testing.assert_allclose(gram(z, u, weight, offsets), (phi * weight[:, None]).T @ phi, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [0, 1])
def test_the_gradient_is_that_of_the_likelihood(t):
    logs = world(200)
    scaling = InputScaling.of(logs, logs.predictions)
    theta = CURVE[logs.position[logs.shown]]
    rows = TaskRows(t, scaling, scaling.inputs(logs, logs.predictions), logs, theta)
    rng = np.random.default_rng(0)
    weights = 0.01 * rng.normal(size=(rows.z.shape[1], rows.u.shape[1]))

    def value(w):  # type: ignore[no-untyped-def]
        mean = rows.mean(w)
        if t == 0:
            return float((rows.y * np.log(mean) - mean).sum())
        return float((rows.y * np.log(mean) + (1 - rows.y) * np.log1p(-mean)).sum())

    gradient = rows.gradient(rows.mean(weights))
    for place in [(0, 0), (1, 1), (4, 2), (2, 0)]:
        step = np.zeros_like(weights)
        step[place] = 1e-5
        assert gradient[place] == pytest.approx((value(weights + step) - value(weights - step)) / 2e-5, rel=1e-4)


@given(st.integers(0, 20))
@settings(max_examples=5, deadline=None)
def test_maps_rise(seed):
    logs = world(300, seed)
    theta = CURVE[logs.position[logs.shown]]
    for form in ("marginal", "conditional", "linear"):
        maps, _ = fit_maps(form, logs, theta, (-1, 0), (False, False))
        grid = np.linspace(1e-4, 0.999, 400, dtype=np.float32)
        mapped = maps.apply(np.stack([grid, np.minimum(grid, 0.3)], 1))
        assert (np.diff(mapped[:, 0]) >= -1e-6).all() and (mapped > 0).all() and (mapped < 1).all()


def test_the_gain_is_clustered():
    rng = np.random.default_rng(0)
    values = rng.normal(0.1, 1.0, 400)
    once = zscore(values, np.arange(400))
    assert zscore(np.repeat(values, 4), np.repeat(np.arange(400), 4)) == pytest.approx(once, rel=1e-9)
    assert needed_of([values], np.arange(400)) == NEEDED
    assert needed_of([values, 2 * values], np.arange(400)) == pytest.approx(NEEDED, abs=0.02)  # one test, twice
    other = rng.normal(0.1, 1.0, (5, 400))
    assert NEEDED + 0.3 < needed_of(list(other), np.arange(400)) < NEEDED + 0.7


@pytest.mark.slow
def test_a_long_log_continues_from_its_sample_with_the_same_bits_for_any_workers(monkeypatch):
    monkeypatch.setattr("pygrade.correction.fit.PART", 1000)
    monkeypatch.setattr("pygrade.logs.dataset.CHUNK", 250)
    logs = world(3000)
    users = logs.user_id.astype(np.int64)
    sample = logs.select(slice(0, 1000))
    state = fit_correction(sample, looks(sample), users[:1000] % 4, users[:1000]).candidates[0].state
    found = continue_fit(state, Dataset(logs), _examine, LOCAL).weights()
    np.testing.assert_array_equal(found, continue_fit(state, Dataset(logs), _examine, Elsewhere(2)).weights())
    whole = fitted(logs).candidates[0].state.weights()
    assert np.abs(found - whole).max() < 0.5 * np.abs(state.weights() - whole).max()


def test_levels_of_items_are_found_and_added(monkeypatch):
    logs = world(5000, effect=0.8)
    level = 0.9 * np.random.default_rng(2).normal(size=300)
    odds = level[logs.item_id]
    more = (np.random.default_rng(5).random(logs.num_rows) < np.clip(0.35 * np.maximum(odds, 0), 0, 0.9)) * (
        logs.feedback[:, 0] > 0
    )
    logs = replace(logs, feedback=np.stack([logs.feedback[:, 0], np.maximum(logs.feedback[:, 1], more)], 1))
    found = fitted(logs)
    first, second = found.candidates[:2]
    assert first.name == "correction, item effects" and first.gain.z > second.gain.z
    assert first.correction.items == ("level of click", "level of order")
    table = first.correction.item_effects.of(hashes(np.arange(300)))
    assert np.corrcoef(table[:, 1], level)[0, 1] > 0.6
    moved, plain = correct(first.correction, logs), correct(second.correction, logs)
    ratio = [m[:, 1] / m[:, 0] for m in (moved, plain)]
    shift = np.log(ratio[0] / (1 - ratio[0])) - np.log(ratio[1] / (1 - ratio[1]))
    np.testing.assert_allclose(shift, table[logs.item_id, 1], atol=2e-3)
    assert [entry.name for entry in fitted(logs, item_effects=False).candidates] == ["correction", CALIBRATED]
    # An item that the log does not know has no level.
    unknown = replace(logs, item_id=logs.item_id + 10**6)
    np.testing.assert_allclose(correct(first.correction, unknown), plain, rtol=1e-4)


def test_no_levels_where_items_have_none():
    assert [entry.name for entry in fitted(world(3000)).candidates] == ["correction", CALIBRATED]


def _examine(logs):
    return np.where(logs.shown, CURVE[logs.position], 0.0)


def shop(requests: int, times: float, seed: int = 0, amount: float = 0.0) -> Logs:
    """Clicks and orders that need no click, of which members give ``times`` as many as predicted, others fewer.

    amount: the unit of a third task, seconds that go with clicks, predicted as they are; 0: none.
    """
    rng = np.random.default_rng([seed, 9])
    count, page = 16, 8
    z = rng.normal(size=(requests, count, 2))
    p = 1 / (1 + np.exp(-np.stack([-2.0 + z[..., 0], -3.6 - z[..., 0] + 0.6 * z[..., 1]], 2)))
    member = rng.random(requests) < 0.45
    fewer = 1 / (0.45 * times + 0.55)
    truth = p * np.stack([np.ones(requests), np.where(member, times * fewer, fewer)], 1)[:, None]
    order = np.argsort(-(p @ [1.0, 6.0]) * np.exp(rng.normal(0, 0.4, (requests, count))), 1)[:, :page]
    position = slots_of(order, count)
    look = rng.random((requests, count)) < np.where(position >= 0, CURVE[position], 0.0)
    feedback = (look[..., None] & (rng.random(p.shape) < np.minimum(truth, 0.9))).astype(np.float64)
    values: tuple[float, ...] = (1.0, 8.0)
    if amount:
        seconds = 40.0 * feedback[..., 0] * rng.gamma(2.0, 0.5, (requests, count))
        feedback = np.concatenate([feedback, amount * seconds[..., None]], 2)
        p, values = np.concatenate([p, amount * 40.0 * p[..., :1]], 2), (*values, 0.01 / amount)
    context = np.stack([member, rng.normal(size=requests)], 1).astype(np.float32)
    return logs_of(
        p,
        position,
        feedback,
        task_values=values,
        user_id=np.arange(requests) // 2,
        item_id=rng.integers(0, 300, requests * count),
        context=context,
        features=("member", "noise"),
    )


def test_an_effect_on_one_root_against_another_is_accepted():
    logs = shop(4000, 4.0)
    found = fitted(logs).accepted
    assert found is not None and found.correction.parents == (-1, -1)
    value = np.array(logs.task_values)
    truth, plain, moved = (
        (p @ value).reshape(-1, 16) for p in (_truth(logs, 4.0), logs.predictions, correct(found.correction, logs))
    )

    def earned(scores: np.ndarray) -> float:
        return (np.take_along_axis(truth, np.argsort(-scores, 1)[:, :8], 1) * CURVE[:8]).sum()

    base = earned(plain)
    assert earned(moved) - base > 0.7 * (earned(truth) - base) > 0
    assert fitted(shop(4000, 1.0)).accepted is None


def _truth(logs: Logs, times: float) -> np.ndarray:
    p, member, fewer = logs.predictions.copy(), logs.context[logs.row_request, 0] > 0, 1 / (0.45 * times + 0.55)
    p[:, 1] *= np.where(member, times * fewer, fewer)
    return p


def test_the_gate_knows_no_unit():
    logs = [shop(2500, 4.0, amount=unit) for unit in (1.0, 1 / 3600, 60.0)]
    gains = [fitted(log, calibration=False).candidates[0].gain for log in logs]
    for other in gains[1:]:
        assert other.passes == gains[0].passes
        assert (other.z, other.z_value, other.z_page) == pytest.approx(
            (gains[0].z, gains[0].z_value, gains[0].z_page), rel=0.05
        )


def test_an_order_without_its_click_changes_nothing():
    logs = world(4000)
    feedback = logs.feedback.copy()
    feedback[np.flatnonzero(feedback[:, 1])[::1000], 0] = 0.0
    one, other = fitted(logs).candidates[0], fitted(replace(logs, feedback=feedback)).candidates[0]
    assert one.correction.parents == other.correction.parents == (-1, 0)
    assert other.gain.z == pytest.approx(one.gain.z, rel=0.05) and other.gain.passes == one.gain.passes


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_scores_of_the_gate_are_proper(seed):
    """No other shares are expected to gain over the true ones, at any weights of tasks and rows."""
    rng = np.random.default_rng(seed)
    logs = world(30, seed)
    theta = looks(logs)
    true = 0.1 + 0.8 * rng.random((len(theta), 2))
    wrong = np.clip(true * np.exp(rng.normal(0, 0.5, true.shape)), 0.01, 0.95)
    scaling = replace(InputScaling.of(logs, logs.predictions), parents=(-1, -1))
    expected = replace(logs, feedback=logs.feedback * 0.0)
    expected.feedback[logs.shown] = theta[:, None] * true
    likelihood = JointLikelihood(expected, scaling.parents, theta, [1.0, 1.0])
    weight = rng.random(len(theta))
    assert likelihood.gain(likelihood.shares(wrong), likelihood.shares(true), rng.random(2), weight).sum() < 0
    pages = PageValues(expected, theta)
    scores = np.zeros(logs.num_rows)
    scores[logs.shown] = true @ np.array(logs.task_values)
    best = pages.rank(scores, True)
    assert pages.gain(pages.rank(rng.random(logs.num_rows), True), best).sum() < 1e-6


@pytest.mark.parametrize("lasts", [False, True])
def test_items_are_judged_on_later_hours(lasts):
    """What other users tell of an item in its own hour is gone a day later, unless its level lasts."""
    logs, rng = world(3000, effect=0.0), np.random.default_rng(8)
    item, hour = rng.integers(0, 40, logs.num_rows), (np.arange(logs.num_requests) // 300)[logs.row_request]
    mood = rng.normal(size=(10, 40))[0 * hour if lasts else hour, item]
    more = (rng.random(logs.num_rows) < 0.25 * np.clip(mood, 0, 2)) & logs.shown
    feedback = logs.feedback.copy()
    feedback[:, 0] = np.maximum(feedback[:, 0], more)
    logs = replace(logs, feedback=feedback, item_id=item, user_id=np.arange(logs.num_requests))
    assert fitted(logs, calibration=False).candidates[0].name.endswith("item effects") == lasts
