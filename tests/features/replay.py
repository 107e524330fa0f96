"""Serves the requests of a log again, one after another, with the feedback between them."""

import numpy as np
import polars as pl

from pygrade.features import FeatureCenter
from pygrade.features.values import encode_rows

ARRAYS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


def publish(log, features, store, state=None, version="v1", **options):
    """A center of a store that serves a state (default: that of the whole log) and the log's attributes."""
    center = FeatureCenter(features.schema, features.fitted, store, **options)
    center.publish(features.state() if state is None else state, log.users(), log.items(), version)
    return center


def replay(log, features, center, start, seed=None, delay=0):
    """(offline, online) of each request from ``start`` on, whose store is at ``start``.

    Before each request the center gets the feedback since the one before it, in order of arrival, or shuffled with
    ``seed``; with a ``delay`` (ms) it comes that much later than in the log.
    """
    random = np.random.default_rng(seed)
    offline = features.batches(start, requests=1)
    events = pl.concat(list(log.chunks()))
    waiting = events.filter(pl.col("position").is_not_null() & (pl.col("event_time") >= start))
    heads = events.filter(pl.col("request_id").ne_missing(pl.col("request_id").shift(1)))
    for head in heads.filter(pl.col("timestamp") >= start).rows(named=True):
        arrived = pl.col("event_time") < head["timestamp"] - delay
        come, waiting = waiting.filter(arrived), waiting.filter(~arrived)
        if len(come):
            center.update(come[come["event_time"].arg_sort() if seed is None else random.permutation(len(come))])
        batch = next(offline)
        context = {name: head[name] for name in features.schema.context}
        time, scenario = head["timestamp"], head.get("scenario")
        yield batch, center.read(head["user_id"], batch.item_id, context, time, scenario, head["request_id"])


def same_bits(one, other):
    """Batches, or arrays, are equal bit for bit."""
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return all(same_bits(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def holds(store, state):
    """The store has the records of a state."""
    return all(
        store.get_many(f"{name}.{state.schema.hash}", records.keys) == encode_rows(records.all())
        for name, records in state.records.items()
    )
