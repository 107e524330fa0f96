"""Settings of the whole suite. Triton kernels run in its interpreter here; tests/compile is a process of its own."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pygrade", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pygrade")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Every torch.empty comes filled with NaN (or the largest integer), so that an unwritten element shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
