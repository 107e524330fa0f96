import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As many threads as processes that test wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run(trained_run):
    """A finished pipeline. Do not write into it."""
    return trained_run
