"""The leak check finds planted leaks, and none in materialization."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from pygrade.features import default_schema, find_leaks
from pygrade.features.history import LogReader
from pygrade.features.leak_check import _materialized as by_row
from tests.features.events import make_log


def test_materialized_features_know_nothing_of_the_future():
    log = make_log()
    assert find_leaks(log, default_schema(log), cuts=4) == []


def test_a_history_that_counts_events_of_the_same_instant_is_caught(monkeypatch):
    """`<=` in place of `<`: feedback seems to have come one millisecond earlier."""
    exact = LogReader.events

    def careless(self, frame):
        events = exact(self, frame)
        events[0] -= 1
        return events

    log = make_log()
    # without ties in the log: the search makes its own
    log = dataclasses.replace(log, events=log.events.with_columns(pl.col("event_time") + 7))
    monkeypatch.setattr(LogReader, "events", careless)
    found = {leak.feature for leak in find_leaks(log, default_schema(log))}
    assert {"user_count", "item_count", "user_click_rate", "user_by_author_click_rate", "user_recency"} <= found
    assert "sequences" in found
    assert not {"item_price", "c_battery", "hour_sin", "user_city"} & found


def test_a_feature_that_sees_its_own_outcome_is_caught():
    def own(log):
        events = pl.concat(list(log.chunks()))
        clicked = events["y_click"].fill_null(0.0).to_numpy()
        return {"own": clicked, "harmless": events["c_battery"].to_numpy()}

    found = find_leaks(make_log(), own)
    assert {leak.feature for leak in found} == {"own"}
    leak = found[0]
    assert leak.rows >= 1 and {leak.before, leak.after} == {0.0, 1.0}


def test_a_statistic_of_the_whole_log_is_caught():
    def target_encoding(log):
        events = pl.concat(list(log.chunks()))
        return {"item_ctr": events.select(pl.col("y_click").mean().over("item_id"))["y_click"].to_numpy()}

    assert {leak.feature for leak in find_leaks(make_log(), target_encoding)} == {"item_ctr"}


def test_feedback_that_is_counted_when_shown_and_not_when_it_came_is_caught():
    """The most common leak: a click is known at the time of its impression."""

    def early(log):
        shown = [frame.with_columns(pl.col("timestamp").alias("event_time")) for frame in log.chunks()]
        return compute(dataclasses.replace(make_log(), events=pl.concat(shown)))

    def compute(log):
        schema = default_schema(log)
        return by_row(schema)(log)

    found = {leak.feature for leak in find_leaks(make_log(), early)}
    assert "user_click_rate" in found and "item_click_rate" in found
    assert find_leaks(make_log(), compute) == []


def test_only_the_first_rows_are_looked_at():
    """A leak in the rows after them is not found; the rows of a request stay together."""
    log, sizes = make_log(), []

    def late(log):
        frames = list(log.chunks())
        sizes.append(sum(map(len, frames)))
        events = pl.concat(frames)
        return {"late": np.where(np.arange(len(events)) < 250, 0.0, events["y_click"].sum())}

    assert find_leaks(log, late, cuts=3) != [] and sizes[0] == len(log.events)
    assert find_leaks(log, late, cuts=3, rows=200) == [] and 200 <= sizes[4] < 210
    assert find_leaks(log, default_schema(log), cuts=1, rows=200) == []


def test_features_must_have_an_entry_a_row():
    with pytest.raises(ValueError, match="'short' has 3 entries; want one for each of"):
        find_leaks(make_log(), lambda log: {"short": np.zeros(3)})
