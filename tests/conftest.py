"""Settings of the whole suite.

Triton kernels run in its interpreter, with ``--device cuda`` on a GPU, with ``--emulate sm_90`` as compiled PTX that is
executed on the CPU (`devtools.ptx`), whose findings fail a test.
"""

import itertools
import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")  # workers share the cores

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pygrade", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pygrade")
_numbers = itertools.count()  # of buckets


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where Triton kernels run")
    parser.addoption("--emulate", metavar="ARCH", help="execute the PTX that Triton compiles for sm_80, sm_90, sm_100")
    parser.addoption("--fill", type=int, default=0xFF, help="bytes of unwritten shared memory with --emulate")


def pytest_configure(config):
    if config.getoption("--emulate"):
        os.environ.pop("TRITON_INTERPRET", None)
    elif config.getoption("--device") == "cpu":
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
def compiled_kernels(pytestconfig):
    """With ``--emulate`` every launch of the test executes PTX, and must be without a finding."""
    if not (arch := pytestconfig.getoption("--emulate")):
        yield
        return
    from devtools.ptx import emulated
    from tests.kernels.findings import unexpected

    with emulated(arch, pytestconfig.getoption("--fill")) as findings:
        yield
    assert unexpected(findings) == []


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 server on a free port."""
    server = pytest.importorskip("moto.server", reason="the S3 server of the tests is moto's").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """URL of an empty bucket of its own; the environment has endpoint and credentials, and a cache of its own."""
    fs = pytest.importorskip("pyarrow.fs")
    settings = {
        "ENDPOINT_URL": s3_server,
        "REGION": "us-east-1",
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "secret",
    }
    for name, value in {**settings, "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("PYGRADE_CACHE", str(tmp_path / "cache"))
    bucket = f"bucket-{next(_numbers)}"
    fs.S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True).create_dir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(autouse=True)
def silent_log():
    """The command line makes the logger speak; the next test begins without."""
    yield
    logger = logging.getLogger("pygrade")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


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


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A finished pipeline, the log beside it. Do not write into it."""
    from tests.pipeline.world import trained

    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def slots_alone(monkeypatch):
    """The rule of the slots without what the events above a row tell, which has tests of its own."""
    monkeypatch.setattr("pygrade.evaluation.value.browsing_factor", lambda logs: np.ones(logs.num_rows))
