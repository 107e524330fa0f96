"""Small towers and their items. Do not change them."""

import pytest

from pygrade.prerank import Catalog, fit
from tests.prerank.world import CONFIG, World


@pytest.fixture(scope="session")
def world():
    return World(users=80, items=300)


@pytest.fixture(scope="session")
def fitted(world):
    return fit(world.batches(500, seed=1), (1.0, 0.0), CONFIG)


@pytest.fixture(scope="session")
def catalog(world):
    return Catalog.from_batches(world.batches(2000, seed=1))
