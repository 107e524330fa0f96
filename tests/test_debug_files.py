"""The debug files of a wheel are those of its libraries."""

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from devtools import debug_files

PROJECT = f"""cmake_minimum_required(VERSION 3.24)
project(parts LANGUAGES C)
include({Path(__file__).resolve().parents[1]}/csrc/cmake/debug.cmake)
add_library(parts SHARED parts.c)
pygrade_split_debug(parts absent)
"""


def wheel_of(folder, body):
    folder.mkdir()
    (folder / "parts.c").write_text(f"int pygrade_part(int x) {{ return {body}; }}\n")
    (folder / "CMakeLists.txt").write_text(PROJECT)
    for command in (["-S", folder, "-B", folder, f"-DPYGRADE_DEBUG_FILES={folder / 'debug'}"], ["--build", folder]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    with zipfile.ZipFile(folder / "parts-1.whl", "w") as wheel:
        wheel.write(folder / "libparts.so", "pygrade/lib/libparts.so")
    return folder / "parts-1.whl"


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake and a C compiler")
def test_the_archive_has_the_lines_of_each_library(tmp_path):
    wheel, other = wheel_of(tmp_path / "one", "x + 1"), wheel_of(tmp_path / "two", "3 * x")
    with tarfile.open(debug_files.main(wheel, tmp_path / "one" / "debug", tmp_path)) as pack:
        assert pack.getnames() == ["pygrade/lib/.debug/libparts.so.debug"]
    symbols = subprocess.run(["nm", tmp_path / "one" / "libparts.so"], capture_output=True, text=True)
    assert "no symbols" in symbols.stderr
    with pytest.raises(ValueError, match="has build id"):
        debug_files.main(other, tmp_path / "one" / "debug", tmp_path)
