import pytest

from pygrade.progress import set_quiet
from tests.pipeline.world import trained


@pytest.fixture(autouse=True)
def quiet():
    set_quiet(True)
    yield
    set_quiet(False)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished pipeline. Do not write into it."""
    set_quiet(True)
    return trained(tmp_path_factory.mktemp("pipeline"))
