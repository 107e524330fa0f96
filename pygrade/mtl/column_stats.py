"""Checks of the rows before training, and for each part of the timeline their counts, rates and moments."""

import numpy as np

from pygrade._typing import Floats, Floats32, Ints
from pygrade.config.mtl import MtlConfig
from pygrade.metrics.streamed import Moments
from pygrade.mtl.columns import Columns, parents_of
from pygrade.mtl.stream import Batch, Batches, labeled
from pygrade.mtl.timeline import TimeSplit
from pygrade.workers.group import Group

_MAX_ORPHANS = 0.01  # of a funnel child's positives: the largest share without the parent's


class ColumnStats(Moments):
    """Counts of rows and labels, and moments of the dense columns."""

    def __init__(self, num_dense: int, num_tasks: int) -> None:
        super().__init__(num_dense)
        self.rows = 0
        self.observed: Ints = np.zeros(num_tasks, np.int64)  # [T] labels that are not NaN
        self.positives: Floats = np.zeros(num_tasks)  # [T] sum of the labels

    def add_rows(self, dense: Floats32, labels: Floats32) -> None:
        """Counts rows: dense[n, D], labels[n, T]."""
        self.add(dense)
        self.rows += len(dense)
        self.observed = self.observed + (~np.isnan(labels)).sum(0)
        self.positives = self.positives + np.nansum(labels, axis=0, dtype=np.float64)

    def merge_stats(self, other: "ColumnStats") -> None:
        """Adds another part's rows."""
        self.merge(other)
        self.rows += other.rows
        self.observed, self.positives = self.observed + other.observed, self.positives + other.positives

    @property
    def rate(self) -> Floats:
        """Return the mean label [T], kept away from 0 and 1."""
        result: Floats = np.clip(self.positives / self.observed.clip(1), 1e-6, 1 - 1e-6)
        return result


def check(batch: Batch, columns: Columns, tasks: tuple[str, ...]) -> None:
    """ValueError that names the argument, the row and what is wanted."""
    dense, ids, labels, time = batch
    shapes = {"dense": dense.shape, "ids": ids.shape, "labels": labels.shape}
    for (name, shape), width in zip(shapes.items(), (len(columns.dense), len(columns.ids), len(tasks)), strict=True):
        if shape != (len(dense), width):
            raise ValueError(f"{name} has shape {shape}; expected [{len(dense)}, {width}]")
    if time.shape != (len(dense),):
        raise ValueError(f"time has shape {time.shape}; expected {(len(dense),)}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; expected int64")
    if np.isinf(dense).any():
        row = int(np.argmax(np.isinf(dense).any(1)))
        raise ValueError(f"dense is infinite in row {row}; expected finite numbers, or NaN where unknown")
    outside = (labels < 0) | (labels > 1)
    if outside.any():
        row, task = np.argwhere(outside)[0]
        raise ValueError(f"labels of task {tasks[task]!r} is {labels[row, task]} in row {row}; expected 0 to 1 or NaN")


def stats_of_parts(
    batches: Batches, tasks: tuple[str, ...], timeline: TimeSplit, config: MtlConfig, columns: Columns, group: Group
) -> dict[str, ColumnStats]:
    """Stats of the labeled rows of each part, of all ranks, in one pass that checks every row.

    Every task must have a positive and a negative in every part that makes the model, except in one of no length.
    """
    parents = parents_of(tasks, config.funnel)
    by_part = {part: ColumnStats(len(columns.dense), len(tasks)) for part in timeline.parts}
    orphans = np.zeros(len(tasks), np.int64)  # rows with a funnel child's event and without its parent's
    with group.shared_errors():
        for batch in batches():
            check(batch, columns, tasks)
            dense, _, labels, time = batch
            usable = labeled(labels)
            for part, (start, stop) in timeline.parts.items():
                inside = usable & (time >= start) & (time < stop)
                if inside.any():
                    by_part[part].add_rows(dense[inside], labels[inside])
            for child, parent in enumerate(parents):
                if parent >= 0:
                    orphans[child] += int(((labels[:, child] > 0) & (labels[:, parent] == 0)).sum())
    (by_part, orphans), *others = group.gather((by_part, orphans))
    for stats, count in others:
        orphans = orphans + count
        for part in by_part:
            by_part[part].merge_stats(stats[part])
    for part, (start, stop) in timeline.parts.items():
        if start < stop and part != "predict":
            _check_classes(by_part[part], part, tasks)
    for child, parent in enumerate(parents):
        if orphans[child] > _MAX_ORPHANS * sum(part.positives[child] for part in by_part.values()):
            raise ValueError(
                f"funnel says {tasks[child]!r} follows {tasks[parent]!r}, but {orphans[child]} rows have the former "
                "without the latter; expected another funnel"
            )
    return by_part


def _check_classes(stats: ColumnStats, part: str, tasks: tuple[str, ...]) -> None:
    for task, observed, positives in zip(tasks, stats.observed, stats.positives, strict=True):
        if not 0 < positives < observed:
            raise ValueError(
                f"task {task!r} has {positives:.0f} positives of {observed} labels in the {part} part "
                f"({stats.rows} rows); expected some of each: move the part's bounds or leave the task out"
            )
