"""Checks that the wheel in a folder holds the package, the importers of public data sets and nothing else, or that the
sdist there has the sources and nothing that was built.

python -m devtools.wheel_content DIR
"""

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from os.path import normpath
from pathlib import Path

EXPECTED = (
    "_core.pyi",
    "_ops.so",
    "bench/__main__.py",
    "bench/gpu/timing.py",
    "bin/pygrade_core_bench",
    "bin/pygraded",
    "include/pygrade/pygrade.h",
    "include/pygrade/ranker.hpp",
    "kernels/advantage.py",
    "lib/cmake/pygrade/pygrade-config.cmake",
    "lib/libpygrade.a",
    "lib/libpygrade.so.1",
    "lib/libpygrade_redis.so",
    "lib/pkgconfig/pygrade.pc",
    "py.typed",
    "../pygrade_datasets/recflow.py",
)
SOURCES = (
    "CMakeLists.txt CONTRIBUTING.md LICENSE Makefile PKG-INFO README.md pyproject.toml bench/cpu/core_bench.cpp "
    "csrc/cmake/sources.txt csrc/include/pygrade/version.hpp csrc/tests/fuzz.cpp devtools/wheels kernels/advantage.py "
    "examples/datasets/pygrade_datasets/recflow.py pygrade/py.typed pygrade/_core.pyi tests/conftest.py"
)
BUILT = (".so", ".o", ".a", ".pyc", ".whl")


def main(folder: str) -> str | None:
    """The fault, if there is one."""
    (file,) = (path for path in Path(folder).glob("pygrade_ranking-*") if path.name.endswith((".whl", ".tar.gz")))
    if file.suffix == ".whl":
        names = zipfile.ZipFile(file).namelist()
        outside = {name.split("/")[0] for name in names} - {"pygrade", "pygrade_datasets"}
        outside = {name for name in outside if not name.endswith(".dist-info")}
        return _fault(file.name, names, (normpath(f"pygrade/{name}") for name in EXPECTED), outside)
    with tarfile.open(file) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    strange = (name for name in names if name.endswith(BUILT) or name.startswith((".git/", ".venv", "build/", "docs/")))
    return _fault(file.name, names, SOURCES.split(), strange)


def _fault(file: str, names: list[str], wanted: Iterable[str], outside: Iterable[str]) -> str | None:
    missing, outside = sorted(set(wanted) - set(names)), sorted(outside)
    return f"{file}: missing {missing}; should not be there {outside}" if missing or outside else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
