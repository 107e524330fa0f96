"""Rules of the join that need no disk."""

import numpy as np
import pytest

from pygrade.training.feedback import Event, FeedbackJoin
from tests.service.served import DELAY, START, TASKS, pages


def joined(**limits):
    return FeedbackJoin(TASKS, 100, 1e6, **limits)


def event(logs, number, **changes):
    row = int(logs.offsets[number])
    given = Event(f"e{number}", str(logs.request_id[number]), int(logs.item_id[row]), "click")
    return given._replace(**changes)


def test_an_event_after_the_delay_is_late_by_its_own_time():
    logs = pages(3)
    for delay, late in ((DELAY, 1), (None, 0)):
        join = joined(delay_ms=delay)
        join.serve(logs)
        last = [int(time) + DELAY for time in logs.timestamp]
        join.feedback([event(logs, 0, timestamp=last[0]), event(logs, 1, timestamp=last[1] + 1), event(logs, 2)])
        done = join.complete_pages(START + 10**6)
        assert join.counters["late"] == late and join.counters["joined"] == 3 - late
        np.testing.assert_array_equal(np.add.reduceat(done.feedback, done.offsets[:-1])[:, 0], [1, 1 - late, 1])


def test_events_without_a_page_are_forgotten_by_request_or_time():
    logs = pages(4)
    join = joined()
    join.feedback(event(logs, n, timestamp=START + n) for n in range(4))
    join.forget(requests=["r0", "nobody"])
    assert [e.request_id for e in join.events] == ["r1", "r2", "r3"]
    join.forget(before=START + 2)
    assert [e.request_id for e in join.events] == ["r2", "r3"] and join.counters["unknown"] == 2
    join.serve(logs)
    join.complete_pages(START + 10**6)
    assert join.counters["joined"] == 2


def test_requests_that_were_served_are_known():
    logs = pages(4)
    join = joined()
    join.serve(logs.select([1, 2]))
    assert join.unseen(logs).tolist() == [True, False, False, True]
    join.complete_pages(START + 10**6)
    join.joined = {"r1"}
    assert join.unseen(logs).tolist() == [True, False, True, True]


def test_a_time_that_is_none_is_named():
    with pytest.raises(TypeError, match="timestamp is 'noon' in event 'e0'"):
        joined().feedback([event(pages(1), 0, timestamp="noon")])


def test_single_tasks_add_up_to_1_at_most():
    logs = pages(3)
    join = joined(single_tasks=("click",))
    join.serve(logs)
    join.feedback(event(logs, 0, event_id=f"e{n}") for n in range(4))
    join.feedback([event(logs, 1, amount=7.0), event(logs, 2), event(logs, 2, event_id="x", task=TASKS[1], amount=7.0)])
    done = join.complete_pages(START + 10**6)
    np.testing.assert_array_equal(np.add.reduceat(done.feedback, done.offsets[:-1]), [[1, 0], [1, 0], [1, 7]])
    assert join.counters["capped"] == 2 and join.counters["joined"] == 7
