"""Users and items by their names in the data: if they have names, their ids are hashes of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.hashing import stable_id
from pygrade._util.serialization import read_json
from pygrade.data.events import EventLog
from pygrade.serving.pipeline import STORE

_KINDS = ("user", "item")


@dataclass(frozen=True)
class Names:
    """The names that a finished run knows."""

    named: tuple[str, ...]  # kinds, of user and item, that have names
    events: Path  # the log of events, which holds them

    @classmethod
    def of(cls, run: str | Path) -> "Names":
        """FileNotFoundError if the run has not published; ValueError if an older pygrade did."""
        path = Path(run) / STORE
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected a run that has published")
        record = read_json(path)
        if "named" not in record:
            raise ValueError(f"{path} does not say whether users have names; run pygrade pipeline again")
        return cls(tuple(record["named"]), Path(run) / record["events"])

    def user_id(self, text: str) -> int:
        """The id of the user that the data calls ``text``; ValueError if users are numbers and it is none."""
        if "user" in self.named:
            return stable_id(text)
        if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -(2**63) <= int(text) < 2**63:
            raise ValueError(f"user is {text!r}; expected a whole number of 64 bits, as users are in this run's data")
        return int(text)

    def items(self, ids: NDArray[np.int64] | Sequence[int]) -> list[str | None]:
        """The names [n] of items; None if the data has none or its log is gone."""
        if "item" not in self.named or not self.events.is_dir():
            return [None] * len(ids)
        return EventLog.open(self.events).names("item", ids)


def names_record(log: EventLog, run: Path) -> dict[str, Any]:
    """The record that `Names.of` reads."""
    return {"named": [kind for kind in _KINDS if log.has_names(kind)], "events": str(log.path.relative_to(run))}
