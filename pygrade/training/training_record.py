"""Requests and values that a policy was trained on, in a file beside it; evaluation leaves these requests out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade._typing import Bools
from pygrade._util.serialization import write_bytes
from pygrade.logs import Logs, request_keys
from pygrade.logs.dataset import Dataset
from pygrade.storage import Place, download

FILE = "trained_on.safetensors"


@dataclass(frozen=True)
class TrainingRecord:
    """The requests and the business values that a policy learned from."""

    keys: NDArray[np.uint64]  # sorted `request_keys`
    policy_version: str
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]
    value_tasks: tuple[str, ...]
    first_timestamp: int | None  # ms
    last_timestamp: int | None
    single_tasks: tuple[str, ...] = ()  # those whose feedback was 0 or 1 on every row

    @classmethod
    def of(cls, log: Logs | Dataset, policy_version: str = "") -> "TrainingRecord":
        """The record of a policy trained on this log."""
        dataset = Dataset(log) if isinstance(log, Logs) else log
        keys, times, events = [], [], [set[float]() for _ in dataset.logs.tasks]
        for logs in dataset.chunks():
            keys.append(request_keys(logs))
            times += [] if logs.timestamp is None else [int(logs.timestamp.min()), int(logs.timestamp.max())]
            for amounts, column in zip(events, logs.feedback.T, strict=True):
                amounts |= set(np.unique(column).tolist()) if len(amounts) < 3 else set()
        logs = dataset.logs
        single = tuple(task for task, amounts in zip(logs.tasks, events, strict=True) if amounts == {0.0, 1.0})
        first, last = (min(times), max(times)) if times else (None, None)
        values = logs.tasks, logs.task_values, logs.value_tasks
        return cls(np.sort(np.concatenate(keys)), policy_version, *values, first, last, single)

    def seen(self, logs: Logs) -> Bools:
        """Return whether the policy was trained on the request, bool, of shape [R]."""
        return np.isin(request_keys(logs), self.keys)

    def save(self, directory: Path) -> None:
        """Write it beside the policy."""
        facts = {name: value for name, value in asdict(self).items() if name != "keys"}
        write_bytes(directory / FILE, safetensors.numpy.save({"keys": self.keys}, {"record": json.dumps(facts)}))

    @classmethod
    def load(cls, directory: Place, policy_version: str) -> "TrainingRecord | None":
        """None if there is none, or it belongs to an earlier policy in this directory; ValueError if damaged."""
        path = download(directory) / FILE
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "np") as file:
                facts = json.loads(file.metadata()["record"])
                tuples = ("tasks", "task_values", "value_tasks", "single_tasks")
                facts |= {name: tuple(facts[name]) for name in tuples if name in facts}
                record = cls(file.get_tensor("keys"), **facts)
        except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is truncated or damaged: {error}") from error
        return record if record.policy_version == policy_version else None
