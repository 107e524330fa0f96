"""Settings of the whole suite. Triton kernels run in its interpreter, or with ``--device cuda`` on a GPU."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")  # workers share the cores

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pygrade", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pygrade")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where Triton kernels run")


def pytest_configure(config):
    if config.getoption("--device") == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
    else:
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch's deterministic mode asks for
        if not torch.cuda.is_available():
            raise pytest.UsageError("--device is cuda, and torch sees no GPU")


@pytest.fixture(scope="session")
def device(pytestconfig):
    """``"cpu"``, where Triton kernels are interpreted, or ``"cuda"``."""
    return pytestconfig.getoption("--device")


@pytest.fixture(autouse=True, scope="session")
def kernels_take_cpu_tensors(pytestconfig):
    """With ``--device cuda`` a test that sends CPU tensors to the backend "triton" runs the kernels on the GPU."""
    device = pytestconfig.getoption("--device")
    if device == "cpu":
        yield
        return
    from tests.kernels.adapter import adapted_kernels

    with adapted_kernels(device):
        yield


@pytest.fixture(autouse=True)
def poisoned_memory(pytestconfig):
    """Every torch.empty is filled with NaN (or the largest integer), so that an unwritten element shows."""
    torch.use_deterministic_algorithms(True, warn_only=pytestconfig.getoption("--device") != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_terminal_summary(terminalreporter):
    """The number of values that the parity tests found equal bit for bit, by backend."""
    totals = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name.startswith("bit-equal "):
                totals[name] = totals.get(name, 0) + value
    for name, value in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {value:,} values")
