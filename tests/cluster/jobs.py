"""Jobs of the tests: functions that workers find by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Shard:
    number: int
    folder: str = ""
    rows: int = 10

    def __str__(self):
        return f"shard {self.number} of 8, part-{self.number:05d}.parquet"


def square(shard):
    return shard.number**2


def slow_first(shard):
    time.sleep(0.3 if shard.number == 0 else 0.0)
    return shard.number


def threads(_shard):
    return torch.get_num_threads()


def doubled(array):
    array *= 2  # fails where arrays arrive read-only
    return array


def fails_at_3(shard):
    Path(shard.folder, f"started-{shard.number}").touch()
    if shard.number == 3:
        raise FileNotFoundError(2, "No such file or directory", "part-00003.parquet")
    return shard.number


def die_once(shard):
    """Kills its own process the first time that shard 2 runs."""
    mark = Path(shard.folder, f"ran-{shard.number}")
    first = not mark.exists()
    mark.touch()
    if first and shard.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number**2


def die_always(_shard):
    os.kill(os.getpid(), signal.SIGKILL)
