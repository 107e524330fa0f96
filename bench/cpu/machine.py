"""The conditions of a run: the processors and threads that every contender gets, and the machine and versions."""

import importlib
import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of a clone; else the package
BUILD = (ROOT if (ROOT / "CMakeLists.txt").is_file() else Path.cwd()) / "build"
PACKAGES = ("pygrade", "torch", "triton", "numpy", "numba", "faiss-cpu", "onnx", "onnxruntime", "jax", "scipy")
# If ours is limited to AVX2, so are the peers that have a switch (ONNX Runtime has none). No peer is limited further:
# the baseline is compared with peers at full strength.
AVX2_SWITCHES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch, and the code that torch.compile writes
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "avx2",
    "NUMBA_CPU_NAME": "x86-64-v3",
    # The keys of torch.compile's cache lack the instruction set: one cache for both gives wrong results.
    "TORCHINDUCTOR_CACHE_DIR": str(BUILD / "inductor-avx2"),
}


def prepare(threads: int) -> None:
    """Set the environment that libraries read at import. Call it before importing numpy or torch."""
    os.environ.pop("TRITON_INTERPRET", None)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # meant for old libraries; they slow numpy's down
        os.environ.pop(name, None)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    if os.environ.get("PYGRADE_ISA") == "avx2" and "avx512f" in _flags():
        os.environ.update(AVX2_SWITCHES)
    pin(threads)


def pin(threads: int) -> None:
    """Run this process on the first ``threads`` processors, with as many threads in each library.

    The affinity also limits libraries that start threads of their own. ONNX Runtime gets its number of threads when a
    session is made.
    """
    chosen = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, chosen)
    for thread in Path("/proc/self/task").glob("*"):  # thread pools that already run
        os.sched_setaffinity(int(thread.name), chosen)
    import torch

    torch.set_num_threads(threads)
    with suppress(ImportError):
        importlib.import_module("faiss").omp_set_num_threads(threads)


def threads() -> int:
    """Number of threads of every contender now."""
    import torch

    return torch.get_num_threads()


def facts() -> dict[str, str]:
    """Processor, instruction set, threads, operating system, commit and the versions of everything that is timed."""
    import torch

    from pygrade import _core

    result = {
        "processor": processor(),
        "threads": str(threads()),
        "isa": _core.active_isa(),
        "peers_isa": "avx2, but ONNX Runtime" if "NUMBA_CPU_NAME" in os.environ else "the processor's",
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if commit := _commit():
        result["commit"] = commit
    return result | versions(PACKAGES)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    result = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            result[package] = metadata.version(package)
    return result


def _commit() -> str:
    """The last commit that touched what is timed, with + if it has changed since; empty without git or a clone."""
    git, timed = ["git", "-C", str(ROOT)], ["--", "csrc", "kernels", "pygrade", "CMakeLists.txt"]
    try:
        last = subprocess.run([*git, "log", "-1", "--format=%h", *timed], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", *timed], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return last.stdout.strip() + ("+" if changed.stdout else "")


def _flags() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def processor() -> str:
    """The name of this machine's processor, with family and model."""
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"} | os.environ)
        fields = dict(line.split(":", 1) for line in text.stdout.splitlines() if ":" in line)
        name, family, model = (fields[key].strip() for key in ("Model name", "CPU family", "Model"))
        return f"{name} (family {family}, model {model})"
    except (OSError, KeyError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
