"""A small log and its features. Do not change them."""

import pytest

from pygrade.features import default_schema, materialize
from tests.features.events import make_log


@pytest.fixture(scope="session")
def log():
    return make_log()


@pytest.fixture(scope="session")
def features(log, tmp_path_factory):
    return materialize(log, default_schema(log), tmp_path_factory.mktemp("features") / "set", rows=50)
