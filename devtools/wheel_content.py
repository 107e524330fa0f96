"""Checks that the wheel in a folder holds the package, the importers of public data sets and nothing else.

python -m devtools.wheel_content DIR
"""

import sys
import zipfile
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
)


def main(folder: str) -> str | None:
    """The fault, if there is one."""
    (wheel,) = Path(folder).glob("pygrade_ranking-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [
        name for name in (*EXPECTED, "../pygrade_datasets/recflow.py") if normpath(f"pygrade/{name}") not in names
    ]
    outside = {name.split("/")[0] for name in names} - {"pygrade", "pygrade_datasets"}
    if missing or any(not name.endswith(".dist-info") for name in outside):
        return f"{wheel.name}: missing {missing}; outside the package {outside}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
