"""Features of one request by numpy, from a state in memory: what the C++ core must read from a store."""

import numpy as np

from pygrade.features.chunks import Chunk, Questions
from pygrade.features.compute import Attributes, compute
from pygrade.features.values import NULL, code_of

ARRAYS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


def read(schema, fitted, state, users, items, user_id, item_ids, context, timestamp, scenario):
    """The arrays of a FeatureBatch, by name."""
    values = {}
    for name, kind in schema.context.items():
        value = context.get(name)
        if kind == "str":
            values[name] = np.array([NULL if value is None else code_of(value)])
        else:
            values[name] = np.array([np.nan if value is None else value])
    chunk = Chunk(
        request_id=np.zeros(1, np.int64),
        user_id=np.array([user_id], np.int64),
        timestamp=np.array([timestamp], np.int64),
        scenario=None if scenario is None else np.array([scenario]),
        scenario_code=np.array([code_of(scenario.rstrip("\0")) if scenario and scenario.rstrip("\0") else NULL]),
        context=values,
        offsets=np.array([0, len(item_ids)], np.int64),
        item_id=np.asarray(item_ids, np.int64),
        position=np.full(len(item_ids), -1, np.int32),
        feedback=np.full((len(item_ids), len(schema.tasks)), np.nan, np.float32),
    )
    known = Attributes.of(schema, "user", users), Attributes.of(schema, "item", items)
    questions = Questions.of(schema, *known, chunk)
    views = {name: state.read(name, *asked) for name, asked in questions.tables.items()}
    raw = compute(schema, *known, questions.answered(chunk, views))
    arrays = {name: getattr(raw, name) for name in ARRAYS}
    return arrays | {name: fitted.encode(name, arrays[name]) for name in ("request_ids", "item_ids")}
