"""Clusters of requests that are no independent evidence: those of one user, and copies of a request under other users.

A log may hold a request several times: joined twice with other user keys, of devices beside accounts, of bots that
replay. What a policy learned by heart from one copy it repeats on the other, and each copy counts as evidence again. So
users who share copies are one cluster, in folds and in intervals.

Two requests have *equal pages* if they showed the same items in the same slots: predictions that another replica
computed, a context column that moved, or another candidate that was not shown make no copy a request of its own. Nor do
the ids of another catalog: pages of equal bits of predictions in the same slots are equal, too. That may be chance: a
ranking without personal inputs, or a cache, shows one page to many users, whose feedback is their own. Copies share the
feedback, too. Requests with equal pages are compared in pairs of neighbors, those with equal bits of
predictions and context next to each other. For such a pair let m be the shown events that both have with one amount,
and d those that one of them has alone. If the events of task t recur by chance with probability q_{slot, t}, copies are
likelier than chance by

    log odds = Σ_m -log q + d log(ε),    ε = 0.02

and their share among such pairs is the one of highest likelihood (EM). Pairs that are likelier copies than not join
their users. q is three times the rate of the events (for items differ), at most halfway from it to 1, times the chance
of two equal amounts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._util.hashing import splitmix64
from pygrade._util.memo import cached_by_object
from pygrade.logs.keys import hashes
from pygrade.logs.logs import Logs
from pygrade.metrics.intervals import effective_number

__all__ = ["clusters_of", "copied_share", "effective_number"]

_MISMATCH = np.log(0.02)  # an event of a request that its copy lacks
_HETEROGENEITY = 3.0  # how much likelier than the mean a slot's item gets feedback
_ROUNDS, _MOST = 200, 50.0  # of EM; log odds are cut
_Hashes = NDArray[np.uint64]


@cached_by_object
def clusters_of(logs: Logs) -> NDArray[np.int64]:
    """Return each request's cluster [R], numbered from 0 in the order of first appearance: users, joined by copies."""
    users, pairs = logs.user_number, _copies(logs)
    joined = _components(int(users.max(initial=-1)) + 1, users[pairs.first], users[pairs.second])[users]
    _, first, number = np.unique(joined, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[number]


def copied_share(logs: Logs) -> float:
    """Share of the requests that repeat another one's page and feedback under another user."""
    distinct = len(np.unique(_components(logs.num_requests, *_copies(logs))))
    return (logs.num_requests - distinct) / max(logs.num_requests, 1)


class _Pairs(NamedTuple):
    """Requests with equal pages, of two users."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]


@cached_by_object
def _copies(logs: Logs) -> _Pairs:
    """Pairs that are likelier copies than chance, by the items or the predictions of their pages."""
    bits = _bits_hashes(logs.predictions)
    pairs = [_alike(logs, what, bits) for what in (hashes(logs.item_id, logs.item_number), bits)]
    return _Pairs(*(np.concatenate(side) for side in zip(*pairs, strict=True)))


def _alike(logs: Logs, what: _Hashes, bits: _Hashes) -> _Pairs:
    """Copies among the requests whose shown rows are equal by what [M] they are."""
    slots = splitmix64((logs.position.astype(np.int64) + 1).view(np.uint64))
    rows, users = splitmix64(what + slots), logs.user_number
    page = _of_requests(logs, np.where(logs.shown, rows, np.uint64(0)))
    inputs = _of_requests(logs, splitmix64(rows + bits)) + _bits_hashes(logs.context)
    order = np.lexsort((inputs, page))
    same = np.flatnonzero(page[order][1:] == page[order][:-1])
    first, second = order[same], order[same + 1]
    other = users[first] != users[second]
    pairs = _Pairs(first[other], second[other])
    odds = _log_odds(logs, rows, pairs)
    share = 0.5
    for _ in range(_ROUNDS):
        posterior = share / (share + (1 - share) * np.exp(-odds))
        share = float(posterior.mean()) if len(odds) else 0.0
    copied = share / (share + (1 - share) * np.exp(-odds)) > 0.5 if share > 0 else np.zeros(len(odds), bool)
    return _Pairs(pairs.first[copied], pairs.second[copied])


def _bits_hashes(matrix: NDArray[np.float32]) -> _Hashes:
    """Return hashes [n] of the rows' bits [n, C]."""
    result = np.zeros(len(matrix), np.uint64)
    for column in np.ascontiguousarray(matrix.T).view(np.uint32):
        result = splitmix64(result + column)
    return result


def _of_requests(logs: Logs, rows: _Hashes) -> _Hashes:
    """Return the sums of the rows' hashes [M], which do not depend on the order of the rows, of shape [R]."""
    return np.add.reduceat(rows, logs.offsets[:-1]) if len(rows) else rows


def _log_odds(logs: Logs, rows: _Hashes, pairs: _Pairs) -> NDArray[np.float64]:
    """Log odds of each pair: copies against chance, by the events of both."""
    row, task = np.nonzero(np.where(logs.shown[:, None], logs.feedback, 0.0))
    amount, slot = logs.feedback[row, task], logs.position[row]
    chance = _chances(logs, slot, task, amount)
    request = logs.row_request[row]
    key = splitmix64(rows[row] + task.astype(np.uint64)) + amount.view(np.uint32)
    left, right = (_events_of(side, request, logs.num_requests) for side in pairs)
    one, two = (splitmix64(splitmix64(pair.view(np.uint64)) + key[event]) for pair, event in (left, right))
    both = np.isin(one, two)
    count = len(pairs.first)
    odds = np.bincount(left[0][both], -np.log(chance[left[1][both]]), count)
    alone = np.bincount(left[0][~both], minlength=count) + np.bincount(right[0][~np.isin(two, one)], minlength=count)
    return np.asarray(np.clip(odds + _MISMATCH * alone, -_MOST, _MOST))


def _chances(
    logs: Logs, slot: NDArray[np.int32], task: NDArray[np.int64], amount: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the probability [E] that another page with this content has this event by chance."""
    slots, tasks = logs.num_slots, len(logs.tasks)
    shown = np.bincount(logs.position[logs.shown], minlength=slots)
    events = np.bincount(slot * tasks + task, minlength=slots * tasks).reshape(slots, tasks)
    rate = (events + 0.5) / (shown + 1.0)[:, None]
    rate = np.minimum(_HETEROGENEITY * rate, (1 + rate) / 2)
    equal = np.ones(tasks)
    for t in range(tasks):
        counts = np.unique(amount[task == t], return_counts=True)[1]
        if len(counts) > 1:
            equal[t] = float(np.square(counts / counts.sum()).sum())
    return rate[slot, task] * equal[task]


def _events_of(
    side: NDArray[np.int64], request: NDArray[np.int64], requests: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that each event belongs to, on one side, and the events; each request is in one pair of a side."""
    pair = np.full(requests, -1)
    pair[side] = np.arange(len(side))
    event_pair = pair[request]
    events = np.flatnonzero(event_pair >= 0)
    return event_pair[events], events


def _components(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest number of each node's connected component, by hooking and pointer jumping, [count]."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[first], label[second])
        hooked = label.copy()
        for end in (first, second):
            np.minimum.at(hooked, label[end], low)
        while bool((hooked[hooked] != hooked).any()):
            hooked = hooked[hooked]
        if bool((hooked == label).all()):
            return label
        label = hooked
