"""Options of the multi-task model, and what its columns mean."""

from dataclasses import asdict, dataclass
from typing import Any

from pygrade._util.serialization import section_hash


@dataclass(frozen=True)
class Columns:
    """Names of the inputs. With the tasks and the funnel they make the schema that a saved model is held to."""

    dense: tuple[str, ...]
    ids: tuple[str, ...]
    vocabulary: tuple[int, ...] = ()  # per id column V > 0: ids are 0 … V - 1, each with an embedding; 0 is unknown
    features: str = ""  # hash of the feature schema and its fitted normalization, stated by the maker of the inputs
    request_dense: int = 0  # so many dense columns, the first, depend on the request alone
    request_ids: int = 0  # so many id columns, the first, depend on the request alone

    def __post_init__(self) -> None:
        for name in ("dense", "ids"):
            columns = getattr(self, name)
            repeated = sorted({column for column in columns if columns.count(column) > 1})
            if repeated:
                raise ValueError(f"{name} names {repeated[0]!r} twice; expected distinct columns")
            count = getattr(self, f"request_{name}")
            if not 0 <= count <= len(columns):
                raise ValueError(
                    f"request_{name} is {count}; expected a number from 0 to {len(columns)}, that of {name}"
                )
        if len(self.vocabulary) != len(self.ids) or min(self.vocabulary, default=1) < 1:
            raise ValueError(f"vocabulary is {self.vocabulary}; expected {len(self.ids)} sizes above 0, those of ids")


def parents_of(tasks: tuple[str, ...], funnel: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """Per task: index of the task it is conditional on, or -1. ValueError for unknown tasks, two parents, a cycle."""
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks is {tasks}; expected distinct names")
    parents = [-1] * len(tasks)
    for parent, child in funnel:
        for task in (parent, child):
            if task not in tasks:
                raise ValueError(f"funnel names {task!r}; expected some of {', '.join(tasks)}")
        if parents[tasks.index(child)] >= 0:
            raise ValueError(f"funnel gives {child!r} two parents; expected one")
        parents[tasks.index(child)] = tasks.index(parent)
    for start, name in enumerate(tasks):
        at = start
        for _ in tasks:
            at = parents[at] if at >= 0 else -1
        if at >= 0:
            raise ValueError(f"funnel leads from {name!r} back to itself; expected a forest")
    return tuple(parents)


def schema(tasks: tuple[str, ...], columns: Columns, funnel: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The meaning of inputs and outputs, as JSON."""
    return {"tasks": list(tasks), "funnel": [list(pair) for pair in funnel], **asdict(columns)}


def schema_hash(tasks: tuple[str, ...], columns: Columns, funnel: tuple[tuple[str, str], ...]) -> str:
    """First 16 hex digits of the sha256 of `schema`."""
    return section_hash("schema", schema(tasks, columns, funnel))[:16]
