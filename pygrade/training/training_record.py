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
    def of(
        cls,
        logs: Logs,
        policy_version: str,
        keys: NDArray[np.uint64] | None = None,
        times: tuple[int, int] | None = None,
    ) -> "TrainingRecord":
        """The record of a policy trained on these logs; keys, times: of the whole log, if they are a sample of it."""
        if keys is None:
            keys = request_keys(logs)
            times = None if logs.timestamp is None else (int(logs.timestamp.min()), int(logs.timestamp.max()))
        first, last = times or (None, None)
        values = logs.tasks, logs.task_values, logs.value_tasks
        return cls(np.sort(keys), policy_version, *values, first, last, find_single_tasks(logs))

    def seen(self, logs: Logs) -> Bools:
        """[R]: the policy was trained on the request."""
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


def find_single_tasks(logs: Logs) -> tuple[str, ...]:
    """The tasks whose feedback is 0 or 1 on every row, and somewhere 1."""
    return tuple(task for t, task in enumerate(logs.tasks) if set(np.unique(logs.feedback[:, t])) == {0.0, 1.0})
