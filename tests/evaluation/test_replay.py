import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrade.evaluation.replay import auc, evaluate, gauc, ndcg_at_k, paired_lift, ranks, value_at_k
from pygrade.logs import Logs, concatenate
from pygrade.metrics.texts import lift_text, value_text
from tests.html_page import HtmlPage
from tests.learning import logs_of, tiny_logs


def slow_auc(labels, scores):
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels > 0] for n in scores[labels <= 0]]
    return np.mean(pairs) if pairs else np.nan


rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows)
def test_auc_and_gauc_equal_the_pair_count(data):
    labels, scores, users = (np.array(column) for column in zip(*data, strict=True))
    scores = scores.astype(np.float32)
    np.testing.assert_allclose(auc(labels, scores).value, slow_auc(labels, scores), rtol=1e-12)
    parts = [(slow_auc(labels[users == u], scores[users == u]), (users == u).sum()) for u in np.unique(users)]
    parts = [(value, weight) for value, weight in parts if not np.isnan(value)]
    expected = np.average([v for v, _ in parts], weights=[w for _, w in parts]) if parts else np.nan
    np.testing.assert_allclose(gauc(labels, scores, users).value, expected, rtol=1e-12)


def test_auc_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        users = rng.integers(0, 40, 400)
        bias = rng.standard_normal(40)[users]  # makes a user's rows dependent
        labels = rng.random(400) < 0.3
        scores = labels * 1.0 + rng.standard_normal(400) + bias
        result = auc(labels, scores, users)
        hits += result.low <= 0.6914624612740131 <= result.high  # Φ(1 / 2): difference of two N(·, 2)
    assert 0.90 < hits / 300 < 0.985


def test_ranks_follow_the_order_of_every_op():
    scores = np.array([1.0, np.nan, 1.0, -np.inf, 0.0, -0.0, 5.0])
    assert ranks(scores, np.array([0, 6, 7])).tolist() == [0, 5, 1, 4, 2, 3, 0]
    mask = np.array([False, True, True, True, True, True, True])
    assert ranks(scores, np.array([0, 6, 7]), mask).tolist() == [5, 4, 0, 3, 1, 2, 0]


def test_ndcg_and_value_by_hand():
    scores = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    gains = np.array([0.0, 4.0, 2.0, 0.0, 0.0])
    offsets = np.array([0, 3, 5])
    best = 4 + 2 / np.log2(3)
    np.testing.assert_allclose(ndcg_at_k(scores, gains, offsets, 3), [(4 / np.log2(3) + 2 / 2) / best, np.nan])
    np.testing.assert_allclose(ndcg_at_k(scores, gains, offsets, 2)[0], 4 / np.log2(3) / best)
    assert ndcg_at_k(gains, gains, offsets, 2)[0] == 1.0
    assert value_at_k(scores, gains, offsets, [1, 1]).tolist() == [4.0, 0.0]
    assert value_at_k(scores, gains, offsets, [1, 0.5, 0.25]).tolist() == [2.5, 0.0]
    hidden = np.array([False, True, True, True, True])
    assert value_at_k(scores, gains, offsets, [1], hidden).tolist() == [4.0, 0.0]


@pytest.fixture(scope="module")
def logs() -> Logs:
    """Only task "b" brings value, and its prediction is right; the page was shown in the order of the index."""
    rng = np.random.default_rng(0)
    requests, size, page = 200, 12, 8
    predictions = rng.random((requests, size, 2)).astype(np.float32)
    position = np.tile(np.where(np.arange(size) < page, np.arange(size), -1), (requests, 1))
    feedback = (rng.random(predictions.shape) < predictions**2) & (position >= 0)[..., None]
    scenario = np.where(np.arange(requests) % 2 == 0, "feed", "search")
    columns = {"user_id": np.arange(requests) // 2, "task_values": (0.0, 10.0), "scenario": scenario}
    return logs_of(predictions, position, feedback, **columns)


def test_evaluate_finds_the_better_ranker(logs):
    personal = np.tile([0.0, 1.0], (200, 1))
    personal[1::2] = [0.25, 0.75]
    rankers = {"wrong": [1.0, 0.0], "right": [0.0, 1.0], "personal": personal}
    result = evaluate(logs, rankers, k=4)
    assert result.baseline == "wrong" and set(result.lifts) == {"right", "personal"}
    for metric in ("ndcg", "value", "predicted_value"):
        assert result.lifts["right"][metric].low > 0.1
        assert result.rankers["right"][metric].value > result.rankers["personal"][metric].value
    assert result.predictions["b"]["auc"].low > 0.6 and result.predictions["b"]["gauc"].low > 0.6
    assert result.predictions["a"]["events"] == logs.feedback[:, 0].sum()
    assert result.weights["personal"]["search"]["b"] == {"mean": 0.75, "sd": 0.0}
    assert result.weights["personal"]["all"]["b"]["mean"] == 0.875
    flipped = evaluate(logs, rankers, "right", k=4)
    lift, back = result.lifts["right"]["value"].value, flipped.lifts["wrong"]["value"].value
    assert (1 + lift) * (1 + back) == pytest.approx(1)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["lifts"]["right"]["value"]["low"] > 0.1


def test_a_metric_that_cannot_differ_says_why(logs):
    rankers = {"one": [1.0, 0.0], "two": [0.0, 1.0]}
    whole = evaluate(logs, rankers, k=8)  # the whole page, without propensities: ranks count as in DCG
    assert whole.cannot_differ == {} and whole.lifts["two"]["value"].low > 0
    first = replace(logs, position=np.where(logs.position == 0, 0, -1).astype(np.int32))
    alone = evaluate(first, rankers, k=1)
    assert {"ndcg", "value"} <= set(alone.cannot_differ) and math.isnan(alone.lifts["two"]["value"].low)
    columns = {"predictions": logs.predictions[:, 1:], "feedback": logs.feedback[:, 1:]}
    one = replace(logs, tasks=("b",), task_values=(), **columns)
    assert "one task" in evaluate(one, {"r": [1.0], "s": [1.0]}).cannot_differ["ndcg"]
    moved = np.arange(len(one.item_id), dtype=np.float32)  # by what is more than the prediction, such as its item
    assert evaluate(one, {"r": [1.0]}, scores={"s": moved}, k=8).cannot_differ == {}


def test_events_are_worth_what_the_log_says(logs):
    price = np.random.default_rng(2).random(logs.num_rows).astype(np.float32)
    plain, priced = (
        evaluate(replace(logs, value=price, value_tasks=tasks), {"r": [0.0, 1.0]}, k=4) for tasks in ((), "b")
    )
    ones = evaluate(replace(logs, feedback=logs.feedback * price[:, None]), {"r": [0.0, 1.0]}, k=4)
    assert priced.rankers["r"]["value"].value == pytest.approx(ones.rankers["r"]["value"].value, rel=1e-6)
    assert priced.rankers["r"]["value"].value < 0.8 * plain.rankers["r"]["value"].value


def test_propensity_undoes_the_attention_of_the_slots(logs):
    attention = np.arange(1, 9) ** -1.0
    rng = np.random.default_rng(1)
    looked = rng.random(logs.num_rows) < np.where(logs.shown, attention[np.clip(logs.position, 0, 7)], 0)
    seen = replace(logs, feedback=logs.feedback * looked[:, None].astype(np.float32))
    gains = logs.feedback[:, 1] * 10.0
    plain = value_at_k(logs.predictions[:, 1], gains * looked, logs.offsets, attention, logs.shown).mean()
    undone = evaluate(seen, {"r": [0.0, 1.0]}, k=8, propensity=attention, propensity_floor=0.0)
    record = undone.to_dict()
    assert record["task_values"] == {"a": 0.0, "b": 10.0} and record["propensity"] == attention.tolist()
    everyone_looks = value_at_k(logs.predictions[:, 1], gains, logs.offsets, attention, logs.shown)
    assert undone.rankers["r"]["value"].low < everyone_looks.mean() < undone.rankers["r"]["value"].high
    assert plain < 0.9 * everyone_looks.mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rankers": {}}, "rankers is empty"),
        ({"baseline": "x"}, "baseline is 'x'"),
        ({"rankers": {"r": [1.0]}}, r"weights of 'r' have shape \(1,\)"),
        ({"rankers": {"r": [np.nan, 1.0]}}, "weights of 'r', row 0"),
        ({"k": 0}, "k is 0"),
        ({"propensity": [1.0, 0.0]}, "propensity is"),
    ],
)
def test_bad_arguments_are_named(logs, change, message):
    arguments = {"rankers": {"r": [0.5, 0.5]}, **change}
    with pytest.raises(ValueError, match=message):
        evaluate(logs, **arguments)


def test_an_evaluation_is_two_small_tables_in_a_notebook():
    found = evaluate(tiny_logs(60), {"a<b": [0.5, 0.5], "clicks": [0.9, 0.1]}, k=3)
    rows = {row[0]: " ".join(row) for row in HtmlPage(found._repr_html_()).rows}
    assert {"a<b", "clicks", "click", "order"} <= rows.keys() and "baseline" in rows["a<b"]
    assert lift_text(found.lifts["clicks"]["ndcg"]) in rows["clicks"]
    assert value_text(found.predictions["order"]["auc"]) in rows["order"]


def test_copies_under_other_users_are_no_more_evidence():
    logs = tiny_logs(300, seed=6)
    copy = replace(logs, request_id=logs.request_id + 1000, user_id=logs.user_id + 1000)
    whole = concatenate([logs, copy])
    one, two = (evaluate(part, {"equal": [0.5, 0.5], "click": [0.9, 0.1]}, "equal", k=3) for part in (logs, whole))
    assert two.num_users == 2 * one.num_users
    lifts = one.lifts["click"]["value"], two.lifts["click"]["value"]
    assert lifts[1].low == pytest.approx(lifts[0].low) and lifts[1].high == pytest.approx(lifts[0].high)


@pytest.mark.parametrize("metric", ["value", "ndcg"])
def test_the_paired_lift_is_that_of_the_evaluation(logs, metric):
    one, other = logs.predictions.T
    found = paired_lift(logs, metric, other, one, 3, None, 0.15)
    wide = evaluate(logs, {}, "one", scores={"one": one, "other": other}, k=3).lifts["other"][metric]
    assert found.value == pytest.approx(wide.value, rel=1e-12) and found.low >= wide.low  # two that cover at once
    hidden = np.where(logs.row_request == 3, np.nan, other)
    assert paired_lift(logs, metric, hidden, one, 3, None, 0.15).value != found.value
