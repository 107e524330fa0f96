"""The leak check finds planted leaks, and none in materialization."""

import dataclasses

import polars as pl

from pygrade.features import default_schema, find_leaks, leak_check
from pygrade.features.history import LogReader


def test_materialized_features_know_nothing_of_the_future(log):
    assert find_leaks(log, default_schema(log), cuts=4) == []


def test_a_history_that_counts_events_of_the_same_instant_is_caught(log, monkeypatch):
    """`<=` in place of `<`: feedback seems to have come one millisecond earlier."""
    exact = LogReader.events

    def careless(self, frame):
        events = exact(self, frame)
        events[0] -= 1
        return events

    # without ties in the log: the search makes its own
    log = dataclasses.replace(log, events=log.events.with_columns(pl.col("event_time") + 7))
    monkeypatch.setattr(LogReader, "events", careless)
    found = {leak.feature for leak in find_leaks(log, default_schema(log))}
    assert {"user_count", "item_count", "user_click_rate", "user_by_author_click_rate", "user_recency"} <= found
    assert "sequences" in found
    assert not {"item_price", "c_battery", "hour_sin", "user_city"} & found


def test_feedback_that_is_counted_when_shown_and_not_when_it_came_is_caught(log, monkeypatch):
    """The most common leak: a click is known at the time of its impression."""
    exact = LogReader.events

    def early(self, frame):
        shown = frame.with_columns(pl.col("timestamp").alias("event_time")) if "timestamp" in frame.columns else frame
        return exact(self, shown)

    monkeypatch.setattr(LogReader, "events", early)
    found = {leak.feature: leak for leak in find_leaks(log, default_schema(log))}
    assert {"user_click_rate", "item_click_rate"} <= {*found} and "item_price" not in found
    assert found["user_click_rate"].rows >= 1 and found["user_click_rate"].before != found["user_click_rate"].after


def test_only_the_first_rows_are_looked_at(log, monkeypatch):
    """The rows of a request stay together."""
    sizes, exact = [], leak_check.materialize

    def counted(log, schema, out):
        made = exact(log, schema, out)
        sizes.append(made.num_rows)
        return made

    monkeypatch.setattr(leak_check, "materialize", counted)
    assert find_leaks(log, default_schema(log), cuts=1, rows=200) == [] and 200 <= sizes[0] < 210
