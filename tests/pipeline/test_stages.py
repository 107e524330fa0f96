"""Stages that are done once: keys, caching, damage, and processes that are killed."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import pygrade
from pygrade import _core
from pygrade.pipeline import stages
from pygrade.pipeline.stages import Runner, content_hash


@dataclass(frozen=True)
class Options:
    size: int = 1


def make(runner: Runner, calls: list[str], size: int = 1, text: str = "a"):
    """Two stages, the second reads the first."""

    def first(directory: Path):
        calls.append("first")
        (directory / "data.txt").write_text(text * size)
        return {"size": size}

    def second(directory: Path):
        calls.append("second")
        (directory / "copy.txt").write_text((one.path / "data.txt").read_text())
        return {}

    one = runner.stage("first", first, Options(size))
    return one, runner.stage("second", second, None, [one])


def test_a_second_run_does_nothing(tmp_path, caplog):
    calls: list[str] = []
    caplog.set_level("INFO", "pygrade")
    made = make(Runner(tmp_path), calls)
    assert len(caplog.messages) == 2  # a line a stage
    found = make(Runner(tmp_path), calls)
    assert calls == ["first", "second"]
    assert [s.cached for s in made] == [False, False] and [s.cached for s in found] == [True, True]
    assert [s.key for s in made] == [s.key for s in found] and found[0].record == {"size": 1}
    assert (found[1].path / "copy.txt").read_text() == "a"
    assert caplog.text.count("done before") == 2


def test_an_option_makes_its_stage_and_all_that_read_it_new(tmp_path):
    calls: list[str] = []
    make(Runner(tmp_path), calls, 1)
    make(Runner(tmp_path), calls, 2)
    assert calls == ["first", "second"] * 2
    make(Runner(tmp_path), calls, 1)  # the first results are still there
    assert calls == ["first", "second"] * 2


@pytest.mark.slow
def test_any_module_kernel_or_core_makes_a_stage_new(tmp_path):
    """The package is copied, and a file of each kind edited there."""
    package = tmp_path / "pygrade"
    ignored = shutil.ignore_patterns("__pycache__", "kernels", "*.so")
    shutil.copytree(Path(pygrade.__file__).parent, package, ignore=ignored)
    shutil.copytree(Path(pygrade.__file__).parents[1] / "kernels", package / "kernels", ignore=ignored)
    core = shutil.copy(_core.__file__, package)
    torch_ops = shutil.copy(Path(_core.__file__).with_name("_ops.so"), package)
    program = "from pygrade.pipeline.stages import code_hash; print(code_hash())"

    def current() -> str:
        command = [sys.executable, "-S", "-c", f"import sys; sys.path += {[str(tmp_path), *sys.path]!r}; {program}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    hashes = [current()]
    for file in (
        package / "pipeline" / "run.py",
        package / "_util" / "hashing.py",
        package / "kernels" / "fusion.py",
        core,
        torch_ops,
    ):
        with open(file, "ab") as stream:
            stream.write(b"\n")
        hashes.append(current())
    assert len(set(hashes)) == len(hashes)


def test_a_record_is_json(tmp_path):
    done = Runner(tmp_path).stage("x", lambda _: {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (1, None)}})
    assert done.record == {"a": None, "b": [None, 1.5], "c": {"d": [1, None]}}
    json.loads((done.path / stages.RECORD).read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_failed_stage_leaves_no_result_and_starts_afresh(tmp_path):
    def fails(directory: Path):
        (directory / "half").write_text("")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        Runner(tmp_path).stage("x", fails)
    assert caught.value.__notes__ == ["stage x"]
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]

    def works(directory: Path):
        assert not list(directory.iterdir())
        return {}

    assert not Runner(tmp_path).stage("x", works).cached


@pytest.mark.parametrize("resumable", [False, True])
def test_what_other_runs_left_half_made_goes_when_their_stage_starts(tmp_path, resumable):
    def fails(directory: Path):
        (directory / "half").write_text("")
        raise ValueError("no")

    for name, options in (("x", 1), ("x", 2), ("y", 1)):
        with pytest.raises(ValueError, match="no"):
            Runner(tmp_path).stage(name, fails, options, resumable=True)
    assert len(list(tmp_path.glob(".*.work"))) == 2  # of x the second
    found = []
    Runner(tmp_path).stage("x", lambda out: found.extend(out.iterdir()) or {}, 2, resumable=resumable)
    assert len(found) == resumable
    (left,) = tmp_path.glob(".*.work")
    assert left.name.startswith(".y-")


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "record", "key"])
def test_a_damaged_stage_is_made_again(tmp_path, damage):
    calls: list[str] = []
    one, _ = make(Runner(tmp_path), calls, 3)
    record = one.path / stages.RECORD
    if damage == "cut":
        (one.path / "data.txt").write_text("a")
    elif damage == "flipped":
        (one.path / "data.txt").write_text("aba")
    elif damage == "missing":
        (one.path / "data.txt").unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:20])
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"key": "0"}))
    again, _ = make(Runner(tmp_path), calls, 3)
    assert calls == ["first", "second", "first"] and (again.path / "data.txt").read_text() == "aaa"


KILLED = """
import os, signal, sys
from pathlib import Path
from pygrade.pipeline.stages import Runner
def work(directory):
    (directory / "steps").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
Runner(Path(sys.argv[1])).stage("x", work, resumable=sys.argv[2] == "True")
"""


@pytest.mark.parametrize("resumable", [True, False])
def test_a_killed_stage_goes_on_where_it_can(tmp_path, resumable):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(resumable)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and not list(tmp_path.glob("x-*"))

    def work(directory: Path):
        return {"found": sorted(p.name for p in directory.iterdir())}

    done = Runner(tmp_path).stage("x", work, resumable=resumable)
    assert done.record["found"] == (["steps"] if resumable else []) and not list(tmp_path.glob(".x*"))


def test_content_hash_follows_content_and_names(tmp_path):
    memory, data = tmp_path / "memory.json", tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    before = content_hash(data, memory)
    assert content_hash(data, memory) == before == content_hash(data, tmp_path / "none.json")
    (data / "a").write_text("23")
    changed = content_hash(data, memory)
    (data / "a").rename(data / "b")
    assert len({before, changed, content_hash(data, memory)}) == 3
    now = content_hash(data, memory)
    (data / "run").mkdir()
    (data / "run" / "c").write_text("3")
    assert content_hash(data, memory, without=data / "run") == now != content_hash(data, memory)
    parquet = content_hash(data, memory, pattern="*.parquet")
    (data / "report.html").write_text("other")
    assert content_hash(data, memory, pattern="*.parquet") == parquet
    (data / "part.parquet").write_text("1")
    assert content_hash(data, memory, pattern="*.parquet") != parquet
    with pytest.raises(FileNotFoundError, match="does not exist"):
        content_hash(tmp_path / "nothing", memory)


def test_content_hash_reads_a_file_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    before = content_hash(tmp_path / "a", tmp_path / "memory.json")
    monkeypatch.setattr(stages, "file_hash", lambda path: pytest.fail("read again"))
    assert content_hash(tmp_path / "a", tmp_path / "memory.json") == before
