"""Records do not depend on the order of events, and a read inside a chunk equals a server's read."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrade.features.aggregates import Feedback, State
from pygrade.features.feature import Feature
from pygrade.features.records import NEVER
from pygrade.features.schema import FeatureSchema
from pygrade.features.values import NULL, SCALE, codes_of, mix, to_fixed

SCHEMA = FeatureSchema(
    (
        Feature("count", "user", "count", key=("user_id",)),
        Feature("rate", "user", "rate", "y_click", ("user_id",)),
        Feature("mean", "user", "rate", "m_play", ("user_id",)),
        Feature("last", "user", "recency", key=("user_id",)),
        Feature("last_click", "user", "recency", "y_click", ("user_id",)),
        Feature("short", "user", "rate", "y_click", ("user_id",), window_hours=80 / 3_600_000),  # steps of 10 ms
        Feature("long", "user", "rate", "m_play", ("user_id",), window_hours=400 / 3_600_000),
        Feature("seen", "user", "sequence", length=3),
        Feature("clicked", "user", "sequence", "y_click", length=2),
    ),
    ("click",),
)
TABLE = SCHEMA.tables["user"]


def feedback_of(events):
    """(user, time, item, click, play or None) each, as `Feedback`."""
    user, time, item, click, play = (np.array(column, object) for column in zip(*events, strict=True))
    known = np.array([p is not None for p in play])
    return Feedback(
        time.astype(np.int64),
        item.astype(np.int64),
        {"user_id": user.astype(np.int64)},
        {"y_click": to_fixed(click.astype(np.float64)), "m_play": to_fixed(np.where(known, play, 0.0))},
        {"m_play": known.astype(np.int64)},
    )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([-7, 0, 3, 2**62]),
        st.integers(-60, 700),
        st.integers(-3, 5),
        st.integers(0, 1),
        st.none() | st.floats(-100, 1e4, width=16),
    ),
    min_size=1,
    max_size=60,
)


def by_hand(events, user, time):
    """What a view shows, from the list of events."""
    mine = [e for e in events if e[0] == user and e[1] < time]
    names = {"count": len(mine), "y_click": sum(e[3] for e in mine) * SCALE}
    names["n:m_play"] = sum(e[4] is not None for e in mine)
    names["m_play"] = sum(float(to_fixed(np.array([e[4]]))[0]) for e in mine if e[4] is not None)
    names["last:"] = max([e[1] for e in mine], default=NEVER)
    names["last:y_click"] = max([e[1] for e in mine if e[3]], default=NEVER)
    for hours, sums in TABLE.windows:
        step = round(hours * 3_600_000) // 8
        inside = [e for e in mine if e[1] // step > time // step - 8]
        names[f"count@{hours}"] = len(inside)
        if "y_click" in sums:
            names[f"y_click@{hours}"] = sum(e[3] for e in inside) * SCALE
        else:
            names[f"n:m_play@{hours}"] = sum(e[4] is not None for e in inside)
            names[f"m_play@{hours}"] = sum(float(to_fixed(np.array([e[4]]))[0]) for e in inside if e[4] is not None)
    latest = sorted(((e[1], e[2]) for e in mine), reverse=True)
    clicked = sorted(((e[1], e[2]) for e in mine if e[3]), reverse=True)
    recents = {"": ([i for _, i in latest] + [-1] * 3)[:3], "y_click": ([i for _, i in clicked] + [-1] * 2)[:2]}
    return names, recents


@given(
    EVENTS, st.integers(1, 60), st.lists(st.tuples(st.sampled_from([-7, 0, 3, 9]), st.integers(-60, 800)), max_size=9)
)
def test_a_read_inside_a_chunk_is_what_came_before_and_what_a_server_would_see(events, cut, queries):
    events = sorted(events, key=lambda e: e[1])
    cut = min(cut, len(events))
    before, inside = events[:cut], events[cut:]
    low = before[-1][1] if not inside else inside[0][1]
    queries = [(user, max(time, low)) for user, time in queries]  # a chunk's requests come after what is applied
    queries.sort(key=lambda query: query[1])
    state = State(SCHEMA)
    state.apply(feedback_of(before))
    asked, times = (np.array([query[i] for query in queries], np.int64) for i in (0, 1))
    chunk = state.records["user"].stream(asked, times, feedback_of(inside).by_time()) if inside else None
    for place, (user, time) in enumerate(queries):
        if any(e[1] >= time for e in before):
            continue  # applied events of the very moment count; materialization applies none
        server = State(SCHEMA)
        server.apply(feedback_of(before))
        arrived = [e for e in inside if e[1] < time]
        if arrived:
            server.apply(feedback_of(arrived))
        online = server.read("user", asked[place : place + 1], times[place : place + 1])
        names, recents = by_hand(events, user, time)
        assert online.values[0].tolist() == [int(names[name]) for name in TABLE.columns]
        assert chunk is None or chunk.values[place].tolist() == online.values[0].tolist()
        for source, items in recents.items():
            assert online.recents[source][0].tolist() == items
            assert chunk is None or chunk.recents[source][place].tolist() == items
    whole = State(SCHEMA)
    whole.apply(feedback_of(events))
    if inside:
        assert state.records["user"].all().tolist() == whole.records["user"].all().tolist()


@given(EVENTS, st.randoms(use_true_random=False))
def test_records_are_of_the_set_of_events(events, random):
    whole = State(SCHEMA)
    whole.apply(feedback_of(events))
    shuffled = list(events)
    random.shuffle(shuffled)
    pieces = State(SCHEMA)
    while shuffled:
        size = random.randint(1, len(shuffled))
        pieces.apply(feedback_of(shuffled[:size]))
        shuffled = shuffled[size:]
    for name, records in whole.records.items():
        assert records.keys.tolist() == pieces.records[name].keys.tolist()
        assert records.all().tolist() == pieces.records[name].all().tolist()
        halves = State(SCHEMA), State(SCHEMA)
        for at, half in enumerate(halves):
            if events[at::2]:
                half.apply(feedback_of(events[at::2]))
        halves[0].records[name].merge(halves[1].records[name].keys, halves[1].records[name].all())
        assert halves[0].records[name].keys.tolist() == records.keys.tolist()
        assert halves[0].records[name].all().tolist() == records.all().tolist()
        table = records.table
        encoded = table.encode(records.all())
        assert table.decode([None, *encoded]).tolist() == [table.empty.tolist(), *records.all().tolist()]


def test_a_record_of_another_size_is_refused():
    with pytest.raises(ValueError, match=f"a record of table 'user' has 8 bytes; this schema's have {8 * TABLE.width}"):
        TABLE.decode([None, b"12345678"])


def test_events_without_a_key_are_left_out():
    schema = FeatureSchema((Feature("seen", "item", "count", key=("item.author",)),), (), {"items.author": "int"})
    records = State(schema).records["author"]
    events = Feedback(np.arange(3), np.arange(3), {"item.author": np.array([NULL, 4, NULL])}, {}, {})
    view = records.stream(np.array([4, NULL, 4]), np.array([1, 2, 2]), events)
    assert records.keys.tolist() == [4] and records.all().tolist() == [[1]]
    assert view.values.tolist() == [[0], [0], [1]]


def test_what_a_stream_cannot_read_is_named():
    schema = FeatureSchema((Feature("seen", "user", "count", key=("user_id",)),), ())
    records = State(schema).records["user"]
    events = Feedback(np.array([2, 1]), np.arange(2), {"user_id": np.arange(2)}, {}, {})
    with pytest.raises(ValueError, match="time of events goes back"):
        records.stream(np.arange(2), np.arange(2), events)
    with pytest.raises(ValueError, match="time of questions goes back"):
        records.stream(np.arange(2), np.array([1, 0]), events.by_time())
    with pytest.raises(ValueError, match="records"):
        records.merge(np.arange(2), np.zeros((2, 2), np.int64))
    assert len(records) == 0


def test_many_keys():
    """Growth of the table, keys that collide in its low or high bits, and blocks of records."""
    schema = FeatureSchema((Feature("seen", "user", "count", key=("user_id",)),), ())
    records = State(schema).records["user"]
    keys = np.concatenate([np.arange(30_000), np.arange(1, 30_001) << 40, [-1, -(2**63) + 1, 2**63 - 1]])
    for part in (keys, keys[::2]):
        records.apply(Feedback(np.zeros(len(part), np.int64), np.zeros(len(part), np.int64), {"user_id": part}, {}, {}))
    found, known = records.get(keys)
    assert known.all() and found[::2].tolist() == [[2]] * len(keys[::2]) and found[1::2].tolist() == [[1]] * 30_001
    assert records.keys.tolist() == np.unique(keys).tolist()
    assert not records.get(np.array([30_000, -2, NULL]))[1].any()


def test_numbers_are_counted_over_by_octave():
    column = pl.Series([0.0, 0.9, 1.0, 2.9, 3.0, 1000.0, -5.0, None, float("nan")])
    assert codes_of(column).tolist() == [0, 0, 1, 1, 2, 9, -2, NULL, NULL]


def test_mixed_keys_differ_in_order_and_keep_the_unknown():
    a, b = np.array([1, 2, NULL, 3]), np.array([2, 1, 5, NULL])
    assert len(set(mix(a, b)[:2].tolist()) | set(mix(b, a)[:2].tolist())) == 2
    assert mix(a, b)[0] != mix(b, a)[0] and mix(a, b)[2:].tolist() == [NULL, NULL]
    grid = np.stack(np.meshgrid(np.arange(300), np.arange(300)), -1).reshape(-1, 2)
    assert len(np.unique(mix(grid[:, 0].copy(), grid[:, 1].copy()))) == len(grid)


def test_a_task_whose_name_looks_like_a_measure_is_none():
    features = (Feature("submits", "user", "rate", "y_form_submit", ("user_id",), window_hours=1.0),)
    records = State(FeatureSchema(features, ("form_submit",))).records["user"]
    sent = {"y_form_submit": to_fixed(np.ones(2))}
    records.apply(Feedback(np.array([5, 6]), np.array([1, 2]), {"user_id": np.array([3, 3])}, sent, {}))
    view = records.read(np.array([3]), np.array([7]))
    assert view.values[0, records.table.columns["y_form_submit@1.0"]] == 2 * SCALE
