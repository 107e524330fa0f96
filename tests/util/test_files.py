import errno
import os
from pathlib import Path

import pytest

from pygrade._util import files
from pygrade._util import optional_imports as extras
from tests.refusals import refuses


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


def test_a_full_disk_is_named_with_the_file_and_leftovers_go(tmp_path):
    for write, name in ((files.atomic_file, "file"), (files.atomic_directory, "log")):
        with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"), write(tmp_path / name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    old, young = tmp_path / ".trained_on.partial-1", tmp_path / ".trained_on.partial-2"
    old.touch()
    os.utime(old, (0, 0))
    young.touch()  # perhaps of a writer that goes on
    claim(tmp_path, "train")
    assert young.exists() and not old.exists()


def test_files_can_be_read_by_others(tmp_path):
    with files.atomic_file(tmp_path / "new" / "file") as partial:
        partial.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "new" / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_extra_names_the_install_command():
    wanted = r"no_such_module is not installed; run: pip install 'pygrade-ranking\[train\]'"
    refuses(ImportError, wanted, extras.require, "no_such_module")
    assert extras.require("json.decoder").__name__ == "json.decoder"


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("before", [False, True])
def test_two_writers_of_one_directory_both_succeed(tmp_path, monkeypatch, before):
    """The other writer puts its directory in place just before ours is renamed, and removes its temporary one."""
    path, rename = tmp_path / "log", files.os.rename
    if before:
        with files.atomic_directory(path) as directory:
            (directory / "old").write_text("old")

    def racing(source, target):
        if Path(target) == path:
            monkeypatch.setattr(files.os, "rename", rename)
            with files.atomic_directory(path) as other:
                (other / "theirs").write_text("theirs")
        return rename(source, target)

    glob = Path.glob
    monkeypatch.setattr(files.os, "rename", racing)
    monkeypatch.setattr(Path, "glob", lambda self, name: [*glob(self, name), self / ".log.partial-gone"])
    with files.atomic_directory(path) as directory:
        (directory / "ours").write_text("ours")
    assert names(path) == ["ours"] and names(tmp_path) == ["log"]


def claim(out, command):
    with files.directory_lock(out, command):
        pass


def test_a_directory_is_claimed_for_one_process_and_one_command(tmp_path):
    out = tmp_path / "run"
    with files.directory_lock(out, "train"), pytest.raises(ValueError, match="in use by another pygrade process"):
        claim(out, "train")
    claim(out, "train")
    refuses(ValueError, "results of pygrade train.*pipeline", claim, out, "pipeline")
    with pytest.raises(ValueError, match="holds the results of pygrade train"), files.atomic_directory(out):
        pytest.fail("it would replace the results")
    (tmp_path / "file").touch()
    refuses(ValueError, "file is a file", claim, tmp_path / "file", "train")
