"""Jobs in this process and in processes of their own: order, errors, log lines, progress."""

import io
import logging
import os
import subprocess
import sys

import pytest

from pygrade._util import progress
from pygrade._util.progress import screen
from pygrade.workers import LocalWorkers
from tests.documents import ROOT
from tests.workers.local_jobs import Loads, Shard, die, fail, process_of, work

logger = logging.getLogger("pygrade")


SHARDS = [Shard(number) for number in range(4)]


def test_log_lines_of_processes_come_back_without_their_bars(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "pygrade"):
        results = list(LocalWorkers(2).map(work, SHARDS, "labels"))
    assert results == [(number * 10, "1") for number in range(4)]
    assert [text for text in caplog.messages if "label" in text and ":" not in text] == [
        f"{shard} has no label" for shard in SHARDS
    ]
    assert not any(text.startswith("inner") for text in caplog.messages)
    last = caplog.messages[-1]
    assert last.startswith("labels: 4/4") and "rows/s" in last and "MiB a worker" in last


def test_lines_below_the_drivers_level_are_not_made(caplog):
    with caplog.at_level(logging.WARNING, "pygrade"):
        list(LocalWorkers(2).map(work, SHARDS, "labels"))
    assert not caplog.messages


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_names_stage_and_job(processes):
    results = LocalWorkers(processes).map(fail, SHARDS, "import")
    assert next(results) == 0
    with pytest.raises(FileNotFoundError) as caught:
        list(results)
    assert caught.value.__notes__ == ["import: shard 2 of 4"] and caught.value.filename == "part-00002.parquet"


def test_a_worker_holds_its_work_between_jobs():
    counts = list(LocalWorkers(2).map(Loads(), range(6), "held"))
    assert 1 <= counts.count(1) <= 2 and sum(counts) >= 12  # two workers with three jobs each, or fewer with more


def test_a_killed_process_is_an_error_that_names_a_job_and_the_next_map_has_others(tmp_path):
    workers = LocalWorkers(2)
    with pytest.raises(RuntimeError, match=r"folds: .* killed"):
        list(workers.map(die, SHARDS, "folds"))
    assert len(set(workers.map(process_of, SHARDS, "folds"))) <= 2


SCRIPT = """
import os
print("script", flush=True)
from pygrade.workers import LocalWorkers
from tests.workers.local_jobs import process_of
assert os.getpid() not in set(LocalWorkers(2).map(process_of, range(4), "jobs"))
"""


@pytest.mark.parametrize("how", ["file", "stdin", "command"])
def test_a_script_without_a_guard_runs_once(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = {"file": [str(tmp_path / "script.py")], "stdin": ["-"], "command": ["-c", SCRIPT]}[how]
    given = {"input": SCRIPT} if how == "stdin" else {}
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, timeout=100, **given,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["script"]


OWN_WORK = """
from pygrade.workers import LocalWorkers
def double(job):
    return 2 * job
if __name__ == "__main__":
    print(*LocalWorkers(2).map(double, range(3), "jobs"))
"""


def test_work_that_a_script_defines_is_found_there(tmp_path):
    (tmp_path / "script.py").write_text(OWN_WORK)
    run = subprocess.run([sys.executable, tmp_path / "script.py"], text=True, capture_output=True, timeout=100)
    assert run.stdout == "0 2 4\n", run.stderr


def test_maps_share_processes():
    workers = LocalWorkers(2)
    assert len({*workers.map(process_of, range(8), "maps"), *workers.map(process_of, range(8), "maps")}) <= 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_that_are_open_together_share_a_screen(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    logger.setLevel(logging.INFO)
    with screen():
        for name in ("first", "second"):
            list(LocalWorkers().map(work, SHARDS, name))
    text = terminal.getvalue().split("\x1b[1A")[-1]  # what is there at the end, below the last move up
    shown = terminal.getvalue()
    assert "first" in shown and "second" in shown and "rows/s" in shown and "4/4" in text
    from pygrade._util import progress

    assert progress._view is None
