"""Settings of the study's tests."""

import pytest

from pygrade._util.threads import torch_threads


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the runner: threads do not pay at this size."""
    with torch_threads(1):
        yield
