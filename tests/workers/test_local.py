"""Jobs in this process and in processes of their own: order, errors, log lines, progress."""

import io
import logging
import os
import sys

import pytest
import torch

from pygrade._util.progress import screen, track
from pygrade.workers import LocalWorkers

logger = logging.getLogger("pygrade")


class Shard(int):
    """A job."""

    rows = 100

    def __str__(self):
        return f"shard {int(self)} of 4"


def work(shard):
    logger.info("%s has no label", shard)
    with track("inner", total=1) as bar:
        bar.advance(1)
    return shard * 10, torch.get_num_threads()


def fail(shard):
    if shard == 2:
        raise FileNotFoundError(2, "No such file or directory", "part-00002.parquet")
    return shard


SHARDS = [Shard(number) for number in range(4)]


def test_log_lines_of_processes_come_back_without_their_bars(caplog):
    with caplog.at_level(logging.INFO, "pygrade"):
        results = list(LocalWorkers(2).map(work, SHARDS, "labels"))
    assert results == [(number * 10, 1) for number in range(4)]
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


class Loads:
    """Work that counts the jobs of the object."""

    jobs = 0

    def __call__(self, job):
        self.jobs += 1
        return self.jobs


def test_a_worker_holds_its_work_between_jobs():
    counts = list(LocalWorkers(2).map(Loads(), range(6), "held"))
    assert 1 <= counts.count(1) <= 2 and sum(counts) >= 12  # two workers with three jobs each, or fewer with more


def process_of(job):
    return os.getpid()


def test_maps_share_processes_that_are_reused():
    workers = LocalWorkers(2)
    with workers.reuse_processes():
        first, second = ({*workers.map(process_of, range(8), "maps")} for _ in range(2))
        assert len(first | second) <= 2
    assert not {*workers.map(process_of, range(8), "maps")} & (first | second)


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
