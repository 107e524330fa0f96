"""The feature center: declared features, materialised from logs as each request knew them, and served with the same
bits. `FeatureSchema` says what there is, `materialise` makes a `FeatureSet` of `FeatureBatch` from an event log."""

from pygrade.features.aggregates import State
from pygrade.features.batch import FeatureBatch
from pygrade.features.defaults import default_schema
from pygrade.features.fitted import Fitted
from pygrade.features.materialise import FeatureSet, materialise, state_before
from pygrade.features.schema import Feature, FeatureSchema, SchemaError

__all__ = [
    "Feature", "FeatureBatch", "FeatureSchema", "FeatureSet", "Fitted", "SchemaError", "State", "default_schema",
    "materialise", "state_before",
]  # fmt: skip
