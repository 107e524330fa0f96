"""Columns of a log's history: against the reference, in parts, and what they may not see."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.training import HistoryConfig
from pygrade.logs import Logs
from pygrade.logs.history import GROUPS, History, group_of, repeat_exposure_sentence, without_columns
from pygrade.logs.keys import hashes
from pygrade.reference import history as reference
from tests.learning import logs_of

HOUR = 3_600_000


def make_log(seed: int = 0, requests: int = 400, users: int = 12, items: int = 40, rows: int = 8) -> Logs:
    """Requests of few users within 60 days, in order of time; 5 of the rows were shown."""
    rng = np.random.default_rng(seed)
    total = requests * rows
    predictions = rng.beta(2, 8, (total, 2)).astype(np.float32)
    predictions[:, 1] *= predictions[:, 0]
    position = np.tile(np.where(np.arange(rows) < 5, np.arange(rows), -1), requests).astype(np.int32)
    feedback = (rng.random((total, 2)) < predictions).astype(np.float32) * (position >= 0)[:, None]
    feedback[:, 1] *= feedback[:, 0]
    predictions[: total // 4] *= rng.random((total // 4, 2)) < 0.5  # 0: unknown
    shape = (requests, rows, 2)
    return logs_of(
        predictions.reshape(shape),
        position,
        feedback.reshape(shape),
        tasks=("click", "order"),
        features=("hour",),
        user_id=rng.integers(0, users, requests),
        context=rng.random((requests, 1)).astype(np.float32),
        item_id=np.concatenate([rng.choice(items, rows, replace=False) for _ in range(requests)]),
        timestamp=1_700_000_000_000 + np.sort(rng.integers(0, 60 * 24 * HOUR, requests)),
        category=np.array(["", "a", "b"])[rng.integers(0, 3, total)],
    )


def fit(logs: Logs, **options: float) -> History:
    return History.fit(logs, HistoryConfig(enabled=True, **options))


@pytest.mark.parametrize("half_life", [600.0, 86_400.0, 20 * 86_400.0])
def test_columns_are_those_of_the_reference(half_life: float) -> None:
    logs = make_log()
    history = fit(logs, half_life_seconds=half_life)
    made = history.columns().add(logs)
    users, items, request = (hashes(ids).view(np.int64) for ids in (logs.user_id, logs.item_id, logs.request_id))
    category = np.where(logs.category == "", 0, hashes(logs.category).view(np.int64))
    before: list[reference.Exposure] = []
    own = len(logs.features)
    for r in range(logs.num_requests):
        now, rows = int(logs.timestamp[r]), range(logs.offsets[r], logs.offsets[r + 1])
        wanted = reference.user_columns(history, before, users[r], now)
        np.testing.assert_allclose(made.context[r, own:], wanted, rtol=2e-5, atol=2e-5)
        for m in rows:
            wanted = reference.item_columns(history, before, users[r], items[m], category[m], now)
            # Weights of steps are whole numbers, of 2^10 for the smallest.
            np.testing.assert_allclose(made.item_features[m], wanted, rtol=2e-5, atol=2e-3, err_msg=f"row {m}")
        for m in rows:
            if logs.position[m] >= 0:
                predicted = logs.predictions[m] * np.array(history.expected)[group_of(logs.position[m])]
                facts = now, request[r], users[r], items[m], category[m]
                before.append(reference.Exposure(*facts, logs.feedback[m] > 0, predicted))
    assert (made.item_features != 0).any(0).all()


def test_parts_give_the_bits_of_the_whole() -> None:
    logs = make_log()
    history = fit(logs)
    whole = history.columns().add(logs)
    columns = history.columns()
    parts = [columns.add(logs.select(slice(*ends))) for ends in ((0, 7), (7, 150), (150, None))]
    np.testing.assert_array_equal(np.concatenate([part.context for part in parts]), whole.context)
    np.testing.assert_array_equal(np.concatenate([part.item_features for part in parts]), whole.item_features)
    assert without_columns(whole, history).features == logs.features
    assert without_columns(whole, history).item_features is None
    with pytest.raises(ValueError, match="time goes back"):
        columns.add(logs.select(slice(0, 7)))


def test_columns_of_a_served_log_are_made_anew() -> None:
    logs = make_log()
    history = fit(logs)
    made = history.columns().add(logs)
    again = history.columns().add(replace(made, context=made.context[::-1].copy()))
    assert again.features == made.features and again.items == made.items
    np.testing.assert_array_equal(again.context[:, 1:], made.context[:, 1:])
    np.testing.assert_array_equal(again.item_features, made.item_features)


def test_order_of_the_rows_in_the_log_does_not_matter() -> None:
    logs = make_log()
    history = fit(logs)
    shuffled = np.random.default_rng(1).permutation(logs.num_requests)
    made = history.columns().add(logs.select(shuffled))
    np.testing.assert_array_equal(made.context, history.columns().add(logs).select(shuffled).context)


def test_columns_know_nothing_of_what_is_not_settled() -> None:
    logs = make_log()
    history = fit(logs)
    cut = 200
    later = logs.timestamp > logs.timestamp[cut] - history.feedback_delay_ms
    feedback = np.where(later[logs.row_request][:, None], 1 - logs.feedback, logs.feedback)
    feedback *= logs.shown[:, None]
    changed = replace(logs, feedback=feedback.astype(np.float32))
    one, other = (history.columns().add(log).select(slice(0, cut + 1)) for log in (logs, changed))
    np.testing.assert_array_equal(one.context, other.context)
    np.testing.assert_array_equal(one.item_features, other.item_features)


def test_fatigue_is_said_with_its_interval_and_only_if_there_is_any() -> None:
    logs = make_log()
    assert not list(repeat_exposure_sentence(logs))  # feedback as predicted, whatever was seen
    seen: set[tuple[object, object]] = set()
    feedback, tired = logs.feedback.copy(), np.random.default_rng(2).random(logs.num_rows) < 0.6
    for row in np.flatnonzero(logs.shown):  # in order of time
        pair = logs.user_id[logs.row_request[row]], logs.item_id[row]
        feedback[row] *= not (pair in seen and tired[row])
        seen.add(pair)
    logs = replace(logs, feedback=feedback)
    sentence = next(repeat_exposure_sentence(logs))
    value, low, high = map(
        float, re.findall(r"click is ([\d.]+) \(([\d.]+) to ([\d.]+)\) times as frequent", sentence)[0]
    )
    assert low < 0.4 < high < 1 and low < value < high
    assert not list(repeat_exposure_sentence(replace(logs, user_id=logs.request_id)))
    assert not list(repeat_exposure_sentence(replace(logs, timestamp=None)))


def test_arguments_are_refused_by_name() -> None:
    logs = make_log()
    for change, wanted in (
        ({"timestamp": None}, "timestamps"),
        ({"user_id": logs.request_id, "item_id": np.arange(logs.num_rows)}, "comes twice"),
        ({"feedback": np.zeros_like(logs.feedback)}, "events"),
    ):
        with pytest.raises(ValueError, match=wanted):
            fit(replace(logs, **change))
    with pytest.raises(ValueError, match="user_shown"):
        fit(logs).columns().add(replace(logs, features=("user_shown",)))
    with pytest.raises(ValueError, match="feedback_delay_seconds"):
        HistoryConfig(feedback_delay_seconds=1.0)
    with pytest.raises(ValueError, match="user"):
        History.from_dict({**vars(fit(logs)), "user": [1.0, 1.0, 1.0]})


def test_slots_have_groups() -> None:
    assert group_of(np.arange(34)).tolist() == [0, 1, *[2] * 2, *[3] * 4, *[4] * 8, *[GROUPS - 1] * 18]
