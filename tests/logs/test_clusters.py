"""Copies of requests join their users; equal pages of many users, whose feedback is their own, do not."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.logs import Logs, concatenate, numbered
from pygrade.logs.clusters import clusters_of, copied_share, effective_number
from tests.learning import logs_of


def make_logs(requests: int = 1200, users: int = 400, seed: int = 0, candidates: int = 12, tasks: int = 3) -> Logs:
    """Personal predictions and noise."""
    rng = np.random.default_rng(seed)
    shape = (requests, candidates)
    position = rng.permuted(np.tile(np.arange(candidates), (requests, 1)), axis=1).astype(np.int32)
    position[position >= 8] = -1
    rate = np.array([0.25, 0.12, 0.05])[:tasks] / (1 + np.maximum(position, 0)[..., None]) ** 0.7
    feedback = rng.random((*shape, tasks)) < rate
    feedback[position < 0] = False
    columns = {
        "features": ("age", "hour"),
        "user_id": rng.integers(0, users, requests),
        "context": rng.normal(size=(requests, 2)).astype(np.float32),
        "item_id": rng.permuted(np.tile(np.arange(100), (requests, 1)), axis=1)[:, :candidates].reshape(-1),
    }
    return logs_of(rng.beta(2, 8, (*shape, tasks)), position, feedback, **columns)


def copy_of(logs: Logs, number: int = 1) -> Logs:
    """The same requests under other request and user ids, with the rows of each in another order."""
    rng = np.random.default_rng(number)
    rows = np.lexsort((rng.random(logs.num_rows), logs.row_request))
    return replace(
        logs,
        request_id=logs.request_id + 10**6 * number,
        user_id=logs.user_id + 10**6 * number,
        **{name: getattr(logs, name)[rows] for name in ("item_id", "position", "predictions", "feedback")},
    )


def shared_pages(contents: int, requests: int = 3000, users: int = 1000, seed: int = 0) -> Logs:
    """A ranking without personal inputs: few pages, shown to many users, with items that differ in appeal."""
    pages, rng = make_logs(contents, seed=seed), np.random.default_rng(seed)
    share = 1 / np.arange(1, contents + 1)
    chosen = rng.choice(contents, requests, p=share / share.sum())
    rows = (chosen[:, None] * 12 + np.arange(12)).reshape(-1)
    rates = rng.beta(1, 4, (contents * 12, 3)) * [1.0, 0.5, 0.2]
    feedback = (rng.random((len(rows), 3)) < rates[rows]) & (pages.position[rows] >= 0)[:, None]
    return replace(
        pages,
        request_id=np.arange(requests),
        user_id=rng.integers(0, users, requests),
        offsets=np.arange(0, requests * 12 + 1, 12),
        context=np.zeros((requests, 2), np.float32),
        feedback=feedback.astype(np.float32),
        **{name: getattr(pages, name)[rows] for name in ("item_id", "position", "predictions")},
    )


def test_without_copies_clusters_are_the_users():
    logs = make_logs()
    clusters = clusters_of(logs)
    users = logs.user_id.tolist()
    assert clusters.dtype == np.int64 and clusters[0] == 0
    assert clusters.tolist() == [list(dict.fromkeys(users)).index(user) for user in users]  # by first appearance
    assert copied_share(logs) == 0.0


@pytest.mark.parametrize("copies", [2, 4])
def test_copies_under_other_users_join_them(copies):
    logs = make_logs()
    whole = concatenate([logs, *(copy_of(logs, number) for number in range(1, copies))])
    expected = np.tile(clusters_of(logs), copies)
    assert clusters_of(whole).tolist() == expected.tolist()
    assert copied_share(whole) == 1 - 1 / copies
    mixed = whole.select(np.random.default_rng(1).permutation(whole.num_requests))
    assert clusters_of(mixed).max() == expected.max() and copied_share(mixed) == 1 - 1 / copies


def test_copies_under_the_same_user_are_no_copies_under_another_one():
    logs = make_logs(300)
    whole = concatenate([logs, replace(copy_of(logs), user_id=logs.user_id)])
    assert clusters_of(whole).tolist() == numbered_by_appearance(whole.user_id) and copied_share(whole) == 0.0


def numbered_by_appearance(ids) -> list[int]:
    places = {}
    return [places.setdefault(value, len(places)) for value in ids.tolist()]


def test_users_are_joined_along_a_chain():
    """Request 0 is of users a and b, request 1 of users b and c, so that all three are one cluster."""
    logs = make_logs(200, users=10**6)
    chain = concatenate([logs, replace(copy_of(logs), user_id=np.roll(logs.user_id, -1))])
    assert set(clusters_of(chain)) == {0}


def test_a_few_copies_among_others():
    logs = make_logs(2000)
    some = logs.select(np.arange(200))
    whole = concatenate([logs, copy_of(some)])
    assert copied_share(whole) == pytest.approx(200 / 2200, abs=0.002)
    assert clusters_of(whole).max() + 1 <= len(np.unique(logs.user_id)) + 1


@pytest.mark.parametrize("contents", [1, 30, 1000])
def test_equal_pages_of_many_users_do_not_join_them(contents):
    logs = shared_pages(contents)
    users = len(np.unique(logs.user_id))
    assert clusters_of(logs).max() + 1 > 0.98 * users and copied_share(logs) < 0.01
    assert effective_number(clusters_of(logs)) > 0.95 * effective_number(numbered(logs.user_id))


def test_amounts_tell_copies_from_chance():
    """Every row has a watch time, so that events recur always, and their amounts never."""
    logs = shared_pages(30)
    seconds = np.random.default_rng(2).gamma(1, 20, logs.num_rows).astype(np.float32)
    logs = replace(logs, feedback=np.where(logs.shown[:, None], seconds[:, None] + [[0, 1, 2]], 0).astype(np.float32))
    assert copied_share(logs) == 0.0
    personal = make_logs(300)
    personal = replace(personal, feedback=logs.feedback[: personal.num_rows] * personal.shown[:, None])
    assert copied_share(concatenate([personal, copy_of(personal)])) == 0.5


def test_logs_without_feedback_and_without_requests():
    logs = make_logs(50)
    nothing = replace(logs, feedback=np.zeros_like(logs.feedback))
    whole = concatenate([nothing, copy_of(nothing)])
    assert copied_share(whole) == 0.0  # nothing tells copies from equal pages, and nothing can be learned by heart
    assert clusters_of(logs.select(slice(0))).tolist() == [] and copied_share(logs.select(slice(0))) == 0.0


@pytest.mark.parametrize("change", ["predictions", "context", "candidate not shown", "items"])
def test_near_copies_are_copies(change):
    """Of another replica, with an hour that moved, with another candidate that was not shown, of another catalog."""
    logs = make_logs(300)
    copy = copy_of(logs)
    changes = {
        "predictions": {"predictions": np.nextafter(copy.predictions, np.float32(1))},
        "context": {"context": copy.context + np.float32(1e-3)},
        "candidate not shown": {"item_id": np.where(copy.shown, copy.item_id, copy.item_id + 1000)},
        "items": {"item_id": copy.item_id + 1000},
    }
    assert copied_share(concatenate([logs, replace(copy, **changes[change])])) == 0.5


def test_other_items_or_slots_are_no_copies():
    logs = make_logs(300)
    copy = copy_of(logs)
    turned = np.where(copy.shown, 7 - copy.position, -1).astype(np.int32)
    predictions = np.nextafter(copy.predictions, np.float32(1))
    for other in ({"item_id": copy.item_id + 1, "predictions": predictions}, {"position": turned}):
        assert copied_share(concatenate([logs, replace(copy, **other)])) == 0.0


def test_copies_of_a_page_that_everybody_saw():
    """A cached page: users' own contexts tell which requests may be copies."""
    logs = shared_pages(1, requests=600)
    logs = replace(logs, context=np.random.default_rng(3).normal(size=(600, 2)).astype(np.float32))
    assert copied_share(logs) < 0.01
    assert copied_share(concatenate([logs, copy_of(logs)])) > 0.4


def test_copies_that_lost_events_are_found_in_part():
    logs = make_logs(600)
    kept = np.random.default_rng(4).random((2, *logs.feedback.shape)) < 0.9
    lost = [replace(log, feedback=log.feedback * some) for log, some in zip((logs, copy_of(logs)), kept, strict=True)]
    assert 0.25 < copied_share(concatenate(lost)) < 0.5


def test_feedback_that_nobody_could_give_is_no_event():
    logs = make_logs(100)
    hidden = np.where(logs.shown[:, None], logs.feedback, np.float32(1))
    whole = concatenate([logs, copy_of(logs)])
    odd = replace(whole, feedback=np.concatenate([hidden, whole.feedback[logs.num_rows :]]))
    assert copied_share(odd) == copied_share(whole) == 0.5


def test_texts_as_ids():
    logs = make_logs(100)
    whole = concatenate([logs, copy_of(logs)])
    texts = {name: np.array([f"n{value}" for value in getattr(whole, name)]) for name in ("user_id", "item_id")}
    assert clusters_of(replace(whole, **texts)).tolist() == clusters_of(whole).tolist()
