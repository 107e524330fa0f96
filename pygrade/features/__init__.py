"""Declared features: materialized from logs as each request knew them, served with the same bits.

>>> log = EventLog.open("events")  # doctest: +SKIP
>>> schema = default_schema(log)  # doctest: +SKIP
>>> features = materialize(log, schema, "features", window=(start, end))  # doctest: +SKIP
>>> for batch in features.batches(requests=256, shuffle=seed):  # doctest: +SKIP
...     dense, ids = batch.model_inputs()

Online, from a store that holds the same records of the past:

>>> center = FeatureCenter(schema, features.fitted, open_store("lmdb:store", create=True))  # doctest: +SKIP
>>> center.publish(features.state(), log.users(), log.items(), "2024-05-01")  # doctest: +SKIP
>>> batch = center.read(user_id, item_ids, {"c_device": "phone"}, timestamp)  # doctest: +SKIP
>>> center.update(feedback)  # doctest: +SKIP

`find_leaks` looks for features that know the future, `Skew` for features that differ in serving.
"""

from pygrade.features.batch import FeatureBatch
from pygrade.features.center import FeatureCenter
from pygrade.features.defaults import default_schema
from pygrade.features.feature import Feature, SchemaError
from pygrade.features.fitted import FeatureEncoder
from pygrade.features.leak_check import FeatureLeak, find_leaks
from pygrade.features.materialize import FeatureSet, materialize, state_before
from pygrade.features.schema import FeatureSchema
from pygrade.features.state import FeatureState
from pygrade.features.train_serve_skew import Skew

__all__ = [
    "Feature",
    "FeatureBatch",
    "FeatureCenter",
    "FeatureEncoder",
    "FeatureLeak",
    "FeatureSchema",
    "FeatureSet",
    "FeatureState",
    "SchemaError",
    "Skew",
    "default_schema",
    "find_leaks",
    "materialize",
    "state_before",
]
