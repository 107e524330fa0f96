"""Records do not depend on the order of events, and a request of a log sees what a reader of the set of events sees."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrade.features.feature import Feature
from pygrade.features.history import LogReader
from pygrade.features.schema import FeatureSchema
from pygrade.features.state import FeatureState
from pygrade.features.values import NULL, codes_of
from tests.features.events import MemoryLog
from tests.features.replay import ARRAYS

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
USERS = [-7, 0, 3, 2**62]


def reader_of(schema, items=None):
    return LogReader.of(MemoryLog(pl.DataFrame(), None, items), schema)


READER = reader_of(SCHEMA)


def frame_of(events):
    """(user, time, item, click, play or None) each, as feedback of shown rows."""
    names = {
        "user_id": pl.Int64,
        "event_time": pl.Int64,
        "item_id": pl.Int64,
        "y_click": pl.Float64,
        "m_play": pl.Float64,
    }
    return pl.DataFrame(events, names, orient="row").with_columns(pl.lit(0).alias("position"))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.integers(-60, 700),
        st.integers(-3, 5),
        st.integers(0, 1),
        st.none() | st.floats(-100, 1e4, width=16),
    ),
    min_size=1,
    max_size=60,
)


@given(EVENTS, st.integers(0, 60), st.lists(st.tuples(st.sampled_from([*USERS, 9]), st.integers(-60, 800)), max_size=9))
def test_a_request_of_a_log_sees_what_came_before_it(events, cut, requests):
    """Events of earlier chunks are in the state, those of this one come in any order."""
    events = sorted(events, key=lambda event: event[1])
    before, inside = events[:cut], events[cut:][::-1]
    requests = sorted((time, user) for user, time in requests if not before or time > before[-1][1])
    if not requests:
        return
    state = FeatureState(SCHEMA)
    state.apply(READER.events(frame_of(before)))
    asked = pl.DataFrame(requests, {"timestamp": pl.Int64, "user_id": pl.Int64}, orient="row").with_columns(
        pl.lit(1, pl.Int64).alias("item_id"),
        pl.lit(0.0).alias("y_click"),
        pl.lit(2**40).alias("event_time"),
        pl.lit(0).alias("position"),
        pl.int_range(pl.len()).alias("request_id"),
    )
    found = READER.features(state, READER.events(frame_of(inside)), asked).tensors
    for place, (time, user) in enumerate(requests):
        known = FeatureState(SCHEMA)
        known.apply(READER.events(frame_of([event for event in [*before, *inside] if event[1] < time])))
        alone = READER.features(known, READER.events(frame_of([])), asked[place : place + 1]).tensors
        for name in ARRAYS:
            assert found[name][place : place + 1].tobytes() == alone[name].tobytes(), (name, time, user)
    whole = FeatureState(SCHEMA)
    whole.apply(READER.events(frame_of([*before, *inside])))
    assert state.records["user"].all().tolist() == whole.records["user"].all().tolist()


@given(EVENTS, st.randoms(use_true_random=False))
def test_records_are_of_the_set_of_events(events, random):
    whole = FeatureState(SCHEMA)
    whole.apply(READER.events(frame_of(events)))
    shuffled = list(events)
    random.shuffle(shuffled)
    pieces = FeatureState(SCHEMA)
    while shuffled:
        size = random.randint(1, len(shuffled))
        pieces.apply(READER.events(frame_of(shuffled[:size])))
        shuffled = shuffled[size:]
    for name, records in whole.records.items():
        assert records.keys.tolist() == pieces.records[name].keys.tolist()
        assert records.all().tolist() == pieces.records[name].all().tolist()
        halves = FeatureState(SCHEMA), FeatureState(SCHEMA)
        for at, half in enumerate(halves):
            half.apply(READER.events(frame_of(events[at::2])))
        halves[0].records[name].merge(halves[1].records[name].keys, halves[1].records[name].all())
        assert halves[0].records[name].keys.tolist() == records.keys.tolist()
        assert halves[0].records[name].all().tolist() == records.all().tolist()
        assert records.get(np.array([12345]))[0].tolist() == [SCHEMA.tables[name].tolist()]


def test_events_without_a_key_are_left_out():
    schema = FeatureSchema(
        (Feature("seen", "item", "count", key=("item.author",)),), ("click",), {"items.author": "int"}
    )
    items = pl.DataFrame({"item_id": [0, 1, 2], "author": [None, 4, None]})
    state, reader = FeatureState(schema), reader_of(schema, items)
    events = pl.DataFrame({"user_id": [5, 5, 5], "item_id": [0, 1, 2], "event_time": [0, 1, 2]})
    columns = {"timestamp": [1, 2, 2], "user_id": [5, 5, 5], "item_id": [1, 0, 1], "event_time": [9, 9, 9]}
    asked = pl.DataFrame({"request_id": [1, 2, 2], **columns, "position": [0, 0, 1], "y_click": [0.0, 0.0, 0.0]})
    found = reader.features(state, reader.events(events), asked).tensors["item_dense"]
    records = state.records["author"]
    assert records.keys.tolist() == [4] and records.all().tolist() == [[1]]
    assert found.tolist() == [[0], [0], [1]]


def test_what_the_core_cannot_read_is_named():
    schema = FeatureSchema((Feature("seen", "user", "count", key=("user_id",)),), ("click",))
    state, reader = FeatureState(schema), reader_of(schema)
    two = np.arange(2)
    events = reader.core.events(two, two, two, np.full(2, NULL), {})
    records = [one.core for one in state.records.values()]
    asked = [two, np.array([1, 0]), np.full(2, NULL), np.arange(3), two]
    others = [one.core for one in FeatureState(SCHEMA).records.values()]
    for arguments, message in (
        ((records, events, *asked, []), "time of requests goes back"),
        ((records, events, *asked[:3], np.array([0, 1, 3]), two, []), "offsets do not divide the rows"),
        ((records[:1], events, *asked, []), "records needs one of each table"),
        ((others, events, *asked, []), "records are of another schema"),
        ((records, events[1:], *asked, []), "events"),
    ):
        with pytest.raises(ValueError, match=message):
            reader.core.read(*arguments)
    with pytest.raises(ValueError, match="records"):
        state.records["user"].merge(two, np.zeros((2, 2), np.int64))
    assert len(state.records["user"]) == 0


def test_many_keys():
    """Growth of the table, keys that collide in its low or high bits, and blocks of records."""
    schema = FeatureSchema((Feature("seen", "user", "count", key=("user_id",)),), ())
    records, reader = FeatureState(schema).records["user"], reader_of(schema)
    keys = np.concatenate([np.arange(30_000), np.arange(1, 30_001) << 40, [-1, -(2**63) + 1, 2**63 - 1]])
    for part in (keys, keys[::2]):
        records.core.apply(reader.events({"user_id": part, "item_id": part, "event_time": part}))
    found, known = records.get(keys)
    assert known.all() and found[::2].tolist() == [[2]] * len(keys[::2]) and found[1::2].tolist() == [[1]] * 30_001
    assert records.keys.tolist() == np.unique(keys).tolist()
    assert not records.get(np.array([30_000, -2, NULL]))[1].any()


def test_numbers_are_counted_over_by_octave():
    column = pl.Series([0.0, 0.9, 1.0, 2.9, 3.0, 1000.0, -5.0, None, float("nan")])
    assert codes_of(column).tolist() == [0, 0, 1, 1, 2, 9, -2, NULL, NULL]


def test_a_task_whose_name_looks_like_a_measure_is_none():
    feature = Feature("submits", "user", "rate", "y_form_submit", ("user_id",), smoothing=0.0, window_hours=1.0)
    schema = FeatureSchema((feature,), ("form_submit",))
    sent = pl.DataFrame({"user_id": [3, 3], "item_id": [1, 2], "event_time": [5, 6], "y_form_submit": [1.0, 0.0]})
    asked = sent[:1].with_columns(
        pl.lit(7, pl.Int64).alias("timestamp"),
        pl.lit(7, pl.Int64).alias("event_time"),
        pl.lit(0).alias("request_id"),
        pl.lit(0).alias("position"),
    )
    reader = reader_of(schema)
    found = reader.features(FeatureState(schema), reader.events(sent), asked).tensors
    assert found["request_dense"].tolist() == [[0.5]]
