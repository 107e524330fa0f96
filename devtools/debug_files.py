"""Packs the debug files of a wheel: `python -m devtools.debug_files WHEEL DEBUG_DIR OUT_DIR` writes WHEEL-debug.tar.xz.

The wheel was built with ``-C cmake.define.PYGRADE_DEBUG_FILES=DEBUG_DIR``. The archive is unpacked in site-packages:
debuggers and profilers look in a folder .debug beside each file. Each program and shared library of ours is checked
first: it holds no path of the current folder, its build id is that of its debug file, which it names, and a function's
address gives its name and source.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path


def main(wheel: Path, debug_folder: Path, out: Path) -> Path:
    """The archive. ValueError names a file whose debug file is absent or is that of another."""
    target = out / f"{wheel.stem}-debug.tar.xz"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as made, tarfile.open(target, "w:xz") as pack:
        for name in made.namelist():
            if made.read(name)[:4] == b"\x7fELF" and not name.split("/")[0].endswith(".libs"):
                file = Path(made.extract(name, folder))
                debug = debug_folder / f"{file.name}.debug"
                _check(file, debug)
                pack.add(debug, str(Path(name).parent / ".debug" / debug.name), filter=_without_builder)
    return target


def _without_builder(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without what differs between two builds of the same bytes."""
    entry.mtime, entry.mode = int(os.environ.get("SOURCE_DATE_EPOCH", entry.mtime)), 0o644
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _check(file: Path, debug: Path) -> None:
    if any(os.fsencode(Path.cwd()) in path.read_bytes() for path in (file, debug)):
        raise ValueError(f"{file.name} or {debug} holds the path of this folder, {Path.cwd()}")
    ids = [re.findall(r"Build ID: (\w+)", _run("readelf", "-n", path)) for path in (file, debug)]
    if not ids[0] or ids[0] != ids[1] or debug.name not in _run("readelf", "-p", ".gnu_debuglink", file):
        raise ValueError(f"{file.name} has build id {ids[0]}, or does not name {debug}, which has {ids[1]}")
    functions = re.findall(r"^(\w+) \w+ [Tt] ", _run("nm", "-S", debug), re.MULTILINE)[:50]
    lines = _run("addr2line", "-f", "-e", debug, *functions).splitlines()
    if not functions or 2 * str(lines).count("??") > len(functions):  # those of the compiler's own objects have none
        raise ValueError(f"{debug} has no functions, or not their lines: {lines}")


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True).stdout.decode(errors="replace")


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:])))
