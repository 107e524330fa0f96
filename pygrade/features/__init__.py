"""The feature center: declared features, materialised from logs as each request knew them, and served with the same
bits. `FeatureSchema` says what there is, `materialise` makes a `FeatureSet` of `FeatureBatch` from an event log."""

from pygrade.features.aggregates import State
from pygrade.features.batch import FeatureBatch
from pygrade.features.center import FeatureCenter
from pygrade.features.defaults import default_schema
from pygrade.features.fitted import Fitted
from pygrade.features.leaks import Leak, leaks
from pygrade.features.materialise import FeatureSet, materialise, state_before
from pygrade.features.schema import Feature, FeatureSchema, SchemaError
from pygrade.features.skew import Skew, replay

__all__ = [
    "Feature", "FeatureBatch", "FeatureCenter", "FeatureSchema", "FeatureSet", "Fitted", "Leak", "SchemaError", "Skew",
    "State", "default_schema", "leaks", "materialise", "replay", "state_before",
]  # fmt: skip
