"""Options of the multi-task model, and what its columns mean."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pygrade._util.serialization import to_json


@dataclass(frozen=True)
class MtlConfig:
    """Size and training of the multi-task model."""

    network: Literal["ple", "mmoe"] = "ple"
    """"ple": each task has experts of its own beside shared ones; "mmoe": all tasks share all experts. Either way each
    task mixes the experts it sees with its own softmax gate."""
    levels: int = 1
    """Layers of experts (PLE)."""
    task_experts: int = 1
    """Experts of each task's own in a layer (PLE)."""
    shared_experts: int = 1
    """Experts for all tasks in a layer (PLE)."""
    experts: int = 4
    """Experts for all tasks (MMoE)."""
    expert_hidden: int = 64
    """Width of an expert's hidden layer."""
    expert_output: int = 32
    """Width of an expert's output, which the towers read."""
    tower_hidden: int = 16
    """Width of a task tower's hidden layer."""
    embedding: int = 4
    """Width of the embedding of each id column."""
    buckets: int = 1 << 15
    """Hash buckets of an id column without a vocabulary; ids that collide share an embedding."""
    funnel: tuple[tuple[str, str], ...] = ()
    """Pairs such as ("click", "order"): p(order) = p(click) · p(order | click), both trained on every row (ESMM)."""
    dropout: float = 0.4
    """Dropout on the embeddings and on the experts' hidden layer."""
    positive_weight_power: float = 0.5
    """Positives weigh (negatives / positives) ** power in the loss; predictions are probabilities all the same."""
    max_positive_weight: float = 30.0
    """Upper bound of that weight."""
    learning_rate: float = 1e-3
    """Step size of AdamW."""
    weight_decay: float = 0.3
    """Decoupled weight decay of AdamW, on every parameter."""
    batch_size: int = 512
    """Rows a step."""
    epochs: int = 20
    """Most passes over the training rows."""
    patience: int = 3
    """Passes that are no better on the early-stopping rows, after which training stops."""
    stop_on: Literal["auc", "loss"] = "auc"
    """What early stopping watches: the tasks' mean AUC, each task weighing as many rows as its rarer class has (a mean
    that a task with twenty positives cannot sway), or their mean log-loss relative to the base rate's."""
    calibration: Literal["beta", "isotonic"] = "beta"
    """Map from predictions to calibrated ones: three numbers a task, or a monotone curve (needs many positives)."""
    refit: bool = True
    """After stopping, train again with the early-stopping rows included, for the best number of passes."""
    memory_rows: int = 1 << 17
    """Rows held at a time: a part with at most this many is kept and shuffled whole, a larger one is streamed
    through a shuffle buffer of this size."""
    seed: int = 0
    """Initial parameters, dropout and the order of rows."""

    def __post_init__(self) -> None:
        for name in ("levels", "task_experts", "shared_experts", "experts", "expert_hidden", "expert_output",
                     "tower_hidden", "embedding", "buckets", "batch_size", "epochs", "patience",
                     "memory_rows"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; want a number in [0, 1)")
        for name, known in (("network", ("ple", "mmoe")), ("stop_on", ("auc", "loss")),
                            ("calibration", ("beta", "isotonic"))):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; want {' or '.join(map(repr, known))}")


@dataclass(frozen=True)
class Columns:
    """Names of the inputs. With the tasks and the funnel they make the schema that a saved model is held to."""

    dense: tuple[str, ...]
    ids: tuple[str, ...]
    vocabulary: tuple[int, ...] = ()
    """Per id column: V > 0 where ids are 0 … V - 1 (each has an embedding), 0 where they are any int64 (hashed)."""
    features: str = ""
    """Hash of the feature schema and its fitted normalization, as whoever makes the inputs states it."""

    def __post_init__(self) -> None:
        for name in ("dense", "ids"):
            columns = getattr(self, name)
            repeated = sorted({column for column in columns if columns.count(column) > 1})
            if repeated:
                raise ValueError(f"{name} names {repeated[0]!r} twice; want distinct columns")
        if self.vocabulary and (len(self.vocabulary) != len(self.ids) or min(self.vocabulary) < 0):
            raise ValueError(f"vocabulary is {self.vocabulary}; want {len(self.ids)} sizes, 0 where ids are hashed")

    @classmethod
    def numbered(cls, dense: int, ids: int) -> "Columns":
        """Columns without names of their own: dense_0 …, id_0 …"""
        return cls(tuple(f"dense_{i}" for i in range(dense)), tuple(f"id_{i}" for i in range(ids)))

    def sizes(self, buckets: int) -> tuple[int, ...]:
        """Rows of each id column's embedding table."""
        return tuple(size or buckets for size in self.vocabulary or (0,) * len(self.ids))


def parents_of(tasks: tuple[str, ...], funnel: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """Per task: index of the task it is conditional on, or -1. ValueError for unknown tasks, two parents, a cycle."""
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks is {tasks}; want distinct names")
    parents = [-1] * len(tasks)
    for parent, child in funnel:
        for task in (parent, child):
            if task not in tasks:
                raise ValueError(f"funnel names {task!r}; want some of {', '.join(tasks)}")
        if parents[tasks.index(child)] >= 0:
            raise ValueError(f"funnel gives {child!r} two parents; want one")
        parents[tasks.index(child)] = tasks.index(parent)
    for start, name in enumerate(tasks):
        at = start
        for _ in tasks:
            at = parents[at] if at >= 0 else -1
        if at >= 0:
            raise ValueError(f"funnel leads from {name!r} back to itself; want a forest")
    return tuple(parents)


def schema(tasks: tuple[str, ...], columns: Columns, funnel: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What inputs and outputs mean, as JSON."""
    return {"tasks": list(tasks), "funnel": [list(pair) for pair in funnel], **asdict(columns)}


def schema_hash(tasks: tuple[str, ...], columns: Columns, funnel: tuple[tuple[str, str], ...]) -> str:
    """First 16 hex digits of the sha256 of `schema`."""
    return hashlib.sha256(to_json(schema(tasks, columns, funnel))).hexdigest()[:16]
