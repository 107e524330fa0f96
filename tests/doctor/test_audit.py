"""The audit of a ranking names what was planted in it, and nothing where nothing was."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pygrade.doctor import audit_ranking
from pygrade.doctor.audit_words import audit_lines, audit_section
from pygrade.doctor.segments import SegmentScan, segments_of
from tests.learning import logs_of, slots_of

HEADS = {  # of X's kind: rate, and weight; the last one in seconds
    **{"like": (0.06, 0.5), "reply": (0.02, 5.0), "repost": (0.02, 1.0), "quote": (0.008, 5.0), "share": (0.02, 2.0)},
    **{"copy": (0.01, 20.0), "click": (0.1, 0.4), "photo": (0.08, 0.05), "video": (0.08, 0.05), "follow": (0.01, 4.0)},
    **{"hide": (0.005, -43.2), "mute": (0.002, -58.8), "block": (0.001, -31.2), "report": (0.0005, -234.0)},
    "dwell": (9.0, 0.004),
}
TASKS, RATES = tuple(HEADS), np.array([rate for rate, _ in HEADS.values()])
WEIGHTS = {task: weight for task, (_, weight) in HEADS.items()}
REPLY = ("reply", "category is news", 4.0)
GENRES = np.array(["cars", "film", "food", "games", "music", "news", "pets", "sport"])


def world(seed, requests, *planted, boost=1.0, candidates=30, page=10):
    """A log where heads are a factor times as likely as predicted in a part of the rows each; fresh items are boosted.

    Nothing is quite calibrated: items and tastes differ from their predictions, which are too sure of themselves.
    """
    rng = np.random.default_rng(seed)
    users, items = max(requests // 3, 1), 997  # a prime, so that steps meet no item twice
    user, (start, step) = rng.integers(0, users, requests), rng.integers(1, items, (2, requests, 1))
    item = (start + step * np.arange(candidates)) % items
    genre, fresh, age = rng.integers(0, 8, items)[item], (rng.random(items) < 0.3)[item], rng.exponential(20, items)
    mobile, hour = rng.random(requests) < 0.4, rng.integers(0, 24, requests)
    part = {
        "category is news": genre == 5,
        "mobile is 1": mobile[:, None],
        "age is above": age[item] > np.quantile(age, 0.8),
    }
    part["category is news and mobile is 1"] = part["category is news"] & part["mobile is 1"]
    quality = rng.normal(size=(items, 15))[item] + 0.5 * rng.normal(size=(items, 1))[item]
    truth = RATES * np.exp(0.5 * quality - 0.2 + 0.06 * rng.normal(size=(users, 8, 15))[user[:, None], genre])
    for head, where, factor in planted:
        truth[..., TASKS.index(head)] *= np.where(part[where], factor, 1.0)
    predicted = RATES * np.exp(0.6 * quality - 0.25 + 0.2 * rng.normal(size=(items, 15))[item])
    predicted[..., :14] = np.minimum(predicted[..., :14], 0.9)
    score = predicted @ np.array(list(WEIGHTS.values())) * np.where(fresh, boost, 1.0)
    top, shuffled = np.argsort(-score, axis=1, kind="stable")[:, :page], rng.random(requests) < 0.02
    top[shuffled] = rng.permuted(top[shuffled], axis=1)
    position = slots_of(top, candidates)
    looks = np.where(position >= 0, (np.maximum(position, 0) + 1.0) ** -0.6, 0.0)[..., None]
    happened = (rng.random(truth.shape) < np.minimum(truth, 0.95) * looks).astype(np.float64)
    happened[..., 14] = (rng.random(item.shape) < 0.5 * looks[..., 0]) * rng.exponential(2 * truth[..., 14])
    columns = {"tasks": TASKS, "task_values": tuple(WEIGHTS.values()), "user_id": user, "item_id": item.ravel()}
    columns |= {"features": ("mobile", "hour"), "context": np.stack([mobile, hour], 1).astype(np.float32)}
    columns |= {"category": GENRES[genre].ravel(), "exploration": np.where(shuffled, "shuffle", "none")}
    columns |= {"items": ("fresh", "age"), "production_score": score.ravel().astype(np.float32)}
    columns["item_features"] = np.stack([fresh.ravel(), age[item].ravel()], 1).astype(np.float32)
    return logs_of(predicted, position, happened, **columns)


def errors(logs):
    return SegmentScan(logs, segments_of(logs)).errors()


def test_planted_errors_are_named_with_their_factors():
    copy, dwell = ("copy", "mobile is 1", 4.0), ("dwell", "age is above", 4.0)
    like, hide = ("like", "category is news and mobile is 1", 0.25), ("hide", "category is news", 4.0)
    planted = sorted([copy, dwell, like, hide])
    found = sorted(errors(world(3, 6_000, *planted, candidates=12)), key=lambda error: error.head)
    for error, (head, where, factor) in zip(found, planted, strict=True):
        assert error.head == head and error.segment.startswith(where)
        assert error.factor.low < factor < error.factor.high


@pytest.mark.slow
def test_ten_thousand_requests_and_a_score_column_tell_weights_boost_and_error_in_half_a_minute():
    logs = world(5, 10_000, REPLY, boost=1.5)
    start = time.process_time()
    found = audit_ranking(logs, logs.production_score)
    assert time.process_time() - start < 30
    assert {head.name: head.weight for head in found.heads} == pytest.approx(WEIGHTS, rel=0.02, abs=0.02)
    assert found.fit is not None and found.fit > 0.999
    (boost,), (error,) = found.boosts, found.errors
    assert (boost.where, boost.head, boost.multiplier) == ("fresh is 1", "", pytest.approx(1.5, rel=0.01))
    assert boost.supported.low < 1 < boost.supported.high and boost.verdict == "the log supports less"
    assert (error.head, error.segment) == ("reply", "category is news") and error.factor.low < 4 < error.factor.high


def test_a_boost_of_one_head_is_found_and_supported_where_the_head_is_off():
    logs = world(6, 3_000, REPLY)
    found = audit_ranking(logs, logs.production_score + 15.0 * logs.predictions[:, 1] * (logs.category == "news"))
    (boost,), record = found.boosts, found.to_dict()
    assert (boost.where, boost.head) == ("category is news", "reply")
    assert boost.multiplier == pytest.approx(4.0, rel=0.02) and boost.verdict == "the log supports it"
    few = logs.arranged(("like", "reply", "copy"), logs.features)
    weights = {task: WEIGHTS[task] for task in few.tasks}
    assert audit_ranking(few, weights, {"category=news": 3.0}).boosts[0].verdict == "the log supports less"
    section, heads = audit_section(record), {head["name"]: head for head in record["heads"]}
    assert json.loads(json.dumps(record)) == record and set(heads["copy"]["more"]) == {*TASKS, "value"}
    assert all(heads[t]["more"][t]["value"] > heads[t]["less"][t]["value"] for t in ("like", "reply", "copy"))
    assert section.more.count("<svg") == 1 and section.more.count("<circle") == 15 + 1
    assert "boost of reply × 4 where category is news: the log supports it" in " ".join(section.notes)
    with pytest.raises(ValueError, match="boosts has old=2; expected a number above 0, and one of category=cars, "):
        audit_ranking(logs, WEIGHTS, {"old": 2.0})


def test_the_logged_order_tells_weights_that_make_it():
    found = audit_ranking(world(7, 1_000), "logged")
    size = dict(zip(TASKS, np.array([head.weight for head in found.heads]) * RATES, strict=True))
    assert found.fit is not None and found.fit > 0.7
    assert max(size, key=lambda task: size[task]) in ("copy", "reply") and size["report"] < 0


def test_a_head_that_is_bought_twice_one_that_moves_nothing_and_a_log_without_slots():
    logs = world(8, 1_500)
    logs.predictions[:, TASKS.index("click")] = 2 * logs.predictions[:, TASKS.index("like")]
    found = audit_ranking(replace(logs, slots_known=False), {"like": 1.0, "click": 1.0, "reply": 1.0, "report": 1e-6})
    assert {pair: r.value for pair, r in found.bought_twice.items()} == {"like and click": pytest.approx(1.0)}
    assert sum(head.share for head in found.heads) == pytest.approx(1.0)
    replaced = {head.name: head.replaced.value for head in found.heads}
    assert replaced["click"] > replaced["like"] > replaced["report"] == 0.0
    assert "no page changes by more than .1 % of its items without report" in list(audit_lines(found.to_dict()))
    assert not any(head.more or head.less for head in found.heads)
    assert found.no_replay == "slot propensities are unknown: the log has no slots"


def test_scores_of_other_forms_and_what_is_no_ranking():
    logs = replace(world(1, 150), value_tasks=("copy",), value=np.linspace(1, 9, 4_500, dtype=np.float32))
    copy, click = logs.predictions[:, [TASKS.index("copy"), TASKS.index("click")]].T.astype(np.float64)
    for score, form in (
        (np.log(3 * copy + click), "identity"),
        (copy**3 * click, "log"),
        (copy * logs.value, "times price"),
    ):
        found = audit_ranking(logs, score)
        assert found.transform == form and found.fit == pytest.approx(1.0, abs=1e-3)
    for production, message in (
        ({"likes": 1.0}, "production names task 'likes'"),
        ("score", "production is 'score'; expected weights"),
        (np.zeros(3), r"production has shape \(3,\); expected \(4500,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            audit_ranking(logs, production)


@pytest.mark.parametrize(
    ("seeds", "requests", "most"),
    [(range(100, 106), 1_000, 0), pytest.param(range(200, 240), 2_000, 2, marks=pytest.mark.release)],
)
def test_at_most_one_log_in_twenty_gets_a_name_that_was_not_planted(seeds, requests, most):
    assert sum(bool(errors(world(seed, requests))) for seed in seeds) <= most
