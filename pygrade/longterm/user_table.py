"""The table of an experiment over weeks: a row per user, of a file or made in memory; see `config.user_table`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade.config import user_table as names
from pygrade.evaluation.user_tables import header_of, read_table
from pygrade.longterm.surface import grid_of

HORIZON = names.MONEY_DAYS[-1]
OUTCOMES = (
    *map(names.money, names.MONEY_DAYS),
    *map(names.visits, names.VISIT_DAYS),
    names.BEFORE_MONEY,
    names.BEFORE_VISITS,
)


@dataclass(frozen=True)
class ExperimentTable:
    """The users of an experiment."""

    tasks: tuple[str, ...]  # whose values are shifted
    points: Floats  # [K, D]: the settings, 0 is the base
    setting: Ints  # [U], a place in points
    cohort: Ints  # [U], from 0
    segment: Ints  # [U], a place in segments
    segments: tuple[str, ...]
    amounts: Mapping[str, Floats]  # money_*, visits_*, before_* → [U]; NaN: not known (yet)
    moved: int = 0  # users who were at several settings
    served_otherwise: float = 0.0  # share of the users who were served another shift than theirs

    @property
    def base(self) -> int:
        """The setting that shifts nothing."""
        return int(np.flatnonzero((self.points == 0).all(1))[0])

    @property
    def users(self) -> int:
        return len(self.setting)

    def complete(self, column: str) -> Bools:
        """[cohorts]: the column is known of every user of the cohort."""
        known = ~np.isnan(self.amounts.get(column, np.full(self.users, np.nan)))
        return np.asarray(np.bincount(self.cohort, ~known) == 0)

    def select(self, rows: Array) -> "ExperimentTable":
        """Some of the users."""
        return replace(
            self,
            setting=self.setting[rows],
            cohort=self.cohort[rows],
            segment=self.segment[rows],
            amounts={name: column[rows] for name, column in self.amounts.items()},
        )


def load_users(path: Path, experiment: str | None = None) -> ExperimentTable:
    """Read a .csv or .parquet file. experiment: of several in the file, the one to read.

    ValueError names the file, and the column or the user.
    """
    columns = header_of(path)
    text = "text" if path.suffix == ".csv" else "id"
    known = dict.fromkeys(OUTCOMES, "float?") | {names.ENROLLED: "float", names.SEGMENT: text, names.EXPERIMENT: text}
    kinds = {name: kind for name, kind in known.items() if name in columns}
    kinds |= {name: "float" for name in columns if name.startswith(names.SHIFT)}
    kinds |= {name: "float?" for name in columns if name.startswith(names.SERVED)}
    return table_of(read_table(path, kinds), experiment, f"{path}: ")


def table_of(columns: Mapping[str, Array], experiment: str | None = None, where: str = "") -> ExperimentTable:
    """The experiment of columns [U] with the names of `config.user_table`. where: the start of errors."""
    every = tuple(name.removeprefix(names.SHIFT) for name in columns if name.startswith(names.SHIFT))
    if not every:
        raise ValueError(f"{where}no column {names.SHIFT}<task>; want the shift of each user's setting")
    for needed in (names.BEFORE_MONEY, names.BEFORE_VISITS, names.money(HORIZON)):
        if needed not in columns:
            raise ValueError(f"{where}column {needed!r} is missing; it may be empty, but must be there")
    table = _of_experiment(where, columns, experiment)
    points, setting = np.unique(np.stack([table[names.SHIFT + t] for t in every], 1), axis=0, return_inverse=True)
    tasks = tuple(task for task, column in zip(every, points.T, strict=True) if column.any())  # that are shifted
    points = np.asarray(points[:, [every.index(task) for task in tasks]], np.float64)
    try:
        grid_of(points)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    rows, moved = _once(where, table[names.USER_ID], setting.ravel())
    table = {name: column[rows] for name, column in table.items()}
    nothing = np.zeros(len(rows), np.int64)
    cohort = (table.get(names.ENROLLED, nothing) // names.COHORT_DAYS).astype(np.int64)
    segments, segment = np.unique(table.get(names.SEGMENT, nothing), return_inverse=True)
    return ExperimentTable(
        tasks,
        points,
        setting.ravel()[rows],
        np.unique(cohort, return_inverse=True)[1],
        segment,
        tuple(map(str, segments)),
        {name: np.asarray(table[name], np.float64) for name in OUTCOMES if name in table},
        moved,
        _served_otherwise(table, every),
    )


def _of_experiment(where: str, table: Mapping[str, Array], experiment: str | None) -> dict[str, Array]:
    found = sorted(map(str, np.unique(table[names.EXPERIMENT]))) if names.EXPERIMENT in table else []
    if experiment is None:
        if len(found) > 1:
            raise ValueError(f"{where}has the experiments {', '.join(found)}; name one with --experiment")
        return dict(table)
    if experiment not in found:
        raise ValueError(f"experiment is {experiment!r}; {where}has {', '.join(found) or 'no column experiment'}")
    rows = table[names.EXPERIMENT].astype(str) == experiment
    return {name: column[rows] for name, column in table.items()}


def _once(where: str, users: Array, setting: Ints) -> tuple[Ints, int]:
    """The first row of each user, and how many users have rows at several settings; ValueError for a row that is there
    twice.
    """
    _, first, number, rows = np.unique(users, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(users):
        return np.arange(len(users)), 0
    pairs, counts = np.unique(np.stack([number.ravel(), setting.ravel()], 1), axis=0, return_counts=True)
    if counts.max() > 1:
        user = users[first[pairs[counts.argmax(), 0]]]
        raise ValueError(f"{where}user {user!r} is there twice with the same setting; want a row per user")
    return np.sort(first), int((rows > 1).sum())


def _served_otherwise(table: Mapping[str, Array], tasks: tuple[str, ...]) -> float:
    wrong = np.zeros(len(table[names.USER_ID]), bool)
    for task in tasks:
        if names.SERVED + task in table:
            served = table[names.SERVED + task]
            wrong |= ~np.isnan(served) & (np.abs(served - table[names.SHIFT + task]) > 1e-6)
    return float(wrong.mean())
