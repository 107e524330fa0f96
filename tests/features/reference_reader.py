"""Features of requests of a log by `pygrade.reference.features`: what the core must give."""

import math

import numpy as np

from pygrade.features.attributes import Attributes
from pygrade.features.history import scenario_codes
from pygrade.features.values import NULL, code_of, floats_of
from pygrade.reference.features import Events, Request, features_of

ARRAYS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


class ReferenceReader:
    """Reads frames of events, users and items for the reference."""

    def __init__(self, schema, users, items):
        self.schema = schema
        self._known = {
            entity: Attributes.of(schema, entity, frame) for entity, frame in (("user", users), ("item", items))
        }

    def attributes(self, entity, ids):
        """[q, length] of each column and kind; what is unknown where there is no such id."""
        known, places = self._known[entity], {}
        rows = {id_: row for id_, row in zip(known.ids.tolist(), known.values, strict=True)}
        at = 0
        for column, kind, length in self.schema.attributes(entity):
            words = (length + 1) // 2 if kind == "floats" else length
            blank = {"float": np.array([math.nan]), "floats": np.full(2 * words, math.nan, np.float32)}
            unknown = blank[kind].view(np.int64) if kind in blank else np.full(length, NULL)
            values = [rows[id_][at : at + words] if id_ in rows else unknown for id_ in np.asarray(ids).tolist()]
            table = np.array(values, np.int64).reshape(len(values), words)
            types = {"float": np.float64, "floats": np.float32}
            places[column, kind] = table.view(types[kind])[:, :length] if kind in types else table
            at += words
        return places

    def events(self, frame):
        """The feedback of the shown rows."""
        frame = frame.filter(frame["position"].is_not_null())
        ids = {"user": frame["user_id"].to_numpy(), "item": frame["item_id"].to_numpy()}
        owned = {entity: self.attributes(entity, of) for entity, of in ids.items()}
        parts = {"user_id": ids["user"], "item_id": ids["item"], "scenario": scenario_codes(frame)}
        for part in self.schema.key_parts:
            owner, _, column = part.partition(".")
            if column:
                parts[part] = owned[owner][column, "code"][:, 0]
        outcomes = {name: floats_of(frame[name]) for name in self.schema.outcome_columns}
        return Events(frame["event_time"].to_numpy(), ids["item"], parts, outcomes)

    def read(self, events, user_id, item_ids, context, timestamp, scenario):
        """The arrays of a FeatureBatch, by name, with codes in place of ids."""
        values = {}
        for name, kind in self.schema.context.items():
            value = context.get(name)
            missing = NULL if kind == "str" else math.nan
            values[name] = missing if value is None else code_of(value) if kind == "str" else value
        named = (scenario or "").rstrip("\0")
        item_ids = np.asarray(item_ids, np.int64)
        request = Request(
            time=timestamp,
            user_id=user_id,
            scenario=code_of(named) if named else NULL,
            context=values,
            user=self.attributes("user", [user_id]),
            item_id=item_ids,
            items=self.attributes("item", item_ids),
        )
        return features_of(self.schema, events, request)
