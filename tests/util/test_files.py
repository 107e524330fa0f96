import errno
from pathlib import Path

import pytest

from pygrade._util import files
from pygrade._util import optional_imports as extras


@pytest.fixture(params=["exchange", "two renames"])
def swap(request, monkeypatch):
    """The one-step exchange of Linux, and the two renames of systems and file systems without it."""
    if request.param == "two renames":

        class Library:
            @staticmethod
            def renameat2(*_: object) -> int:
                return -1

        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: Library)
        monkeypatch.setattr(files.ctypes, "get_errno", lambda: errno.ENOSYS)
    return request.param


def names(directory: Path) -> list[str]:
    return sorted(child.name for child in directory.iterdir())


@pytest.mark.usefixtures("swap")
def test_directory_replaces_the_earlier_one_whole(tmp_path):
    for content in ("first", "second"):
        with files.atomic_directory(tmp_path / "log") as directory:
            (directory / content).write_text(content)
            assert names(tmp_path / "log") == ["first"] if content == "second" else not (tmp_path / "log").exists()
    assert names(tmp_path) == ["log"] and names(tmp_path / "log") == ["second"]


def test_failed_block_leaves_what_was_there(tmp_path):
    with files.atomic_directory(tmp_path / "log") as directory:
        (directory / "a").write_text("whole")
    with files.atomic_file(tmp_path / "file") as partial:
        partial.write_text("whole")
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(tmp_path / "log") as directory:
        (directory / "b").write_text("ha")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="disk"), files.atomic_file(tmp_path / "file") as partial:
        partial.write_text("ha")
        raise OSError("disk full")
    assert names(tmp_path) == ["file", "log"] and names(tmp_path / "log") == ["a"]
    assert (tmp_path / "file").read_text() == "whole"


def test_files_can_be_read_by_others(tmp_path):
    with files.atomic_file(tmp_path / "new" / "file") as partial:
        partial.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "new" / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_extra_names_the_install_command():
    with pytest.raises(ImportError, match=r"no_such_module is not installed; run: pip install 'pygrade\[train\]'"):
        extras.require("no_such_module")
    assert extras.require("json.decoder").__name__ == "json.decoder"
