"""The conditions of a run: which processors and how many threads everyone gets, and what the run was made on."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("pygrade", "torch", "triton", "numpy", "numba", "faiss-cpu", "onnx", "onnxruntime", "jax", "scipy")
# Where ours is held to AVX2, so are the peers that have a switch. ONNX Runtime has none and keeps what the processor
# has; no peer is held to less, so the baseline runs against peers at full strength.
AVX2_SWITCHES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch, and the code that torch.compile writes
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "avx2",
    "NUMBA_CPU_NAME": "x86-64-v3",
    # torch.compile's cache does not ask for the instruction set: it would mix code of both, and did give wrong results.
    "TORCHINDUCTOR_CACHE_DIR": str(Path(__file__).parents[2] / "build" / "inductor-avx2"),
}


def prepare(threads: int) -> None:
    """Set what libraries read when they are imported. Call it before numpy or torch is."""
    os.environ.pop("TRITON_INTERPRET", None)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # overrides for old libraries; they slow numpy's own down
        os.environ.pop(name, None)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    if os.environ.get("PYGRADE_ISA") == "avx2" and "avx512f" in _flags():
        os.environ.update(AVX2_SWITCHES)
    pin(threads)


def pin(threads: int) -> None:
    """Run this process on the first ``threads`` processors only, with as many threads in every library that listens.

    The affinity is what holds everyone, also libraries that start threads of their own (ONNX Runtime is told
    besides, when a session is made).
    """
    chosen = _processors()[:threads]
    os.sched_setaffinity(0, chosen)
    for thread in Path("/proc/self/task").glob("*"):  # pools that libraries have started already
        os.sched_setaffinity(int(thread.name), chosen)
    import torch

    torch.set_num_threads(threads)
    try:
        import faiss

        faiss.omp_set_num_threads(threads)
    except ImportError:
        pass


_all: list[int] = []


def _processors() -> list[int]:
    if not _all:
        _all.extend(sorted(os.sched_getaffinity(0)))
    return _all


def available() -> int:
    """How many processors this process may use."""
    return len(_processors())


def threads() -> int:
    """How many threads everyone has now."""
    import torch

    return torch.get_num_threads()


def facts() -> dict[str, str]:
    """Processor, instruction set, threads, operating system, commit and the versions of everything that is timed."""
    import torch

    from pygrade import _core

    found = {
        "processor": _processor(),
        "threads": str(threads()),
        "isa": _core.active_isa(),
        "peers_isa": "avx2, but ONNX Runtime" if "NUMBA_CPU_NAME" in os.environ else "the processor's",
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if commit := _commit():
        found["commit"] = commit
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The last commit that touched what is timed, + where it has changed since; empty without git."""
    git, timed = ["git", "-C", str(Path(__file__).parents[2])], ["--", "csrc", "kernels", "pygrade", "CMakeLists.txt"]
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


def _processor() -> str:
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"} | os.environ)
        found = dict(line.split(":", 1) for line in text.stdout.splitlines() if ":" in line)
        return f"{found['Model name'].strip()} (family {found['CPU family'].strip()}, model {found['Model'].strip()})"
    except (OSError, KeyError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
