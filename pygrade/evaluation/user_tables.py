"""The tables of a finished A/B test: a row per user with what the user did, a CSV or Parquet file per arm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pygrade._typing import Array, Ints
from pygrade.data import tables
from pygrade.evaluation.abtest import UserMetric, covariates

USER, BEFORE = "user_id", "before_"


@dataclass(frozen=True)
class UserTest:
    """The users of all arms, one after another."""

    arm: Ints  # [U], a place in names
    names: tuple[str, ...]
    metrics: dict[str, UserMetric]


def load_test(arms: Mapping[str, Path], metrics: Sequence[str] = (), before: Path | None = None) -> UserTest:
    """Read the table of each arm, control first.

    metrics: columns (mean per user), or ``NAME=COLUMN/COLUMN`` (ratio of sums); none: every column of the first table.
    CUPED's covariates are columns ``before_<column>`` of the arms' tables, empty for users without history, or the same
    columns in the table ``before``, which has the users' earlier period. Errors name file, column, row or user.
    """
    header = {name: header_of(path) for name, path in arms.items()}
    first = next(iter(arms))
    columns = [c for c in header[first] if c != USER and not c.startswith(BEFORE)]
    parsed = dict(map(_parsed, metrics or columns))
    if len(parsed) < len(metrics or columns):
        raise ValueError(f"metrics are {', '.join(metrics)}; expected distinct names")
    if not parsed:
        raise ValueError(f"{arms[first]}: no column beside {USER}; expected at least one metric")
    needed = list(dict.fromkeys(column for pair in parsed.values() for column in pair if column))
    earlier = _earlier(arms, header, needed)
    if before is not None and earlier:
        raise ValueError(f"before is {before}, and the arms have {BEFORE}{earlier[0]}; expected one of them")
    kinds = dict.fromkeys(needed, "float") | dict.fromkeys((BEFORE + column for column in earlier), "float?")
    read = {name: read_table(path, kinds) for name, path in arms.items()}
    users = np.concatenate([table[USER] for table in read.values()])
    arm = np.repeat(np.arange(len(arms)), [len(table[USER]) for table in read.values()])
    _refuse_repeated(users, [f"arm {list(arms)[a]!r}" for a in arm])
    values = {column: np.concatenate([table[column] for table in read.values()]) for column in kinds}
    if before is not None:
        earlier = [column for column in needed if column in header_of(before)]
        values |= _history(before, users, earlier)
    return UserTest(arm, tuple(arms), {name: _metric(name, *pair, values) for name, pair in parsed.items()})


def _parsed(metric: str) -> tuple[str, tuple[str, str]]:
    """``value`` → value, (value, ""); ``ctr=clicks/views`` → ctr, (clicks, views)."""
    name, _, formula = metric.rpartition("=")
    top, slash, bottom = formula.partition("/")
    if not top or bool(slash) != bool(bottom) or (name and not slash):
        raise ValueError(f"metrics has {metric!r}; expected COLUMN or NAME=COLUMN/COLUMN")
    return name or formula, (top, bottom)


def _earlier(arms: Mapping[str, Path], header: Mapping[str, list[str]], needed: Iterable[str]) -> list[str]:
    """The columns of which the arms' tables have the earlier values."""
    earlier = []
    for column in needed:
        lacking = [name for name in arms if BEFORE + column not in header[name]]
        if not lacking:
            earlier.append(column)
        elif len(lacking) < len(arms):
            raise ValueError(f"{arms[lacking[0]]}: column {BEFORE + column!r} is missing, and other arms have it")
    return earlier


def header_of(path: Path) -> list[str]:
    """The columns of a table of users."""
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: expected a table of users, .csv or .parquet")
    return tables.column_names(path)


def read_table(path: Path, kinds: Mapping[str, str]) -> dict[str, Array]:
    """The columns of a table, user_id as text; kinds: of its other columns, as in `data.tables`."""
    frames = tables.read_batches(path, {USER: "text", **kinds})
    blocks = [{name: frame[name].to_numpy() for name in frame.columns} for _, frame in frames]
    table = {name: np.concatenate([block[name] for block in blocks]) for name in (USER, *kinds)}
    table[USER] = np.array(list(map(str, table[USER].tolist())), object)
    if "" in table[USER]:
        raise ValueError(f"{path}: column {USER!r} is empty in row {table[USER].tolist().index('')}")
    return table


def _refuse_repeated(users: Array, places: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for user, table in zip(users, places, strict=True):
        if user in seen:
            where = f"twice in {table}" if seen[user] == table else f"in {seen[user]} and in {table}"
            raise ValueError(f"user {user!r} is {where}; expected a row per user, each in one arm")
        seen[user] = table


def _history(path: Path, users: Array, columns: Sequence[str]) -> dict[str, Array]:
    """The earlier values of the users, NaN for those who are not in the table."""
    if not columns:
        raise ValueError(f"{path}: no column of the metrics; expected those of the arms' tables")
    table = read_table(path, dict.fromkeys(columns, "float"))
    _refuse_repeated(table[USER], [str(path)] * len(table[USER]))
    row = {user: at for at, user in enumerate(table[USER])}
    at = np.array([row.get(user, -1) for user in users])
    return {BEFORE + column: np.where(at >= 0, table[column][at], np.nan) for column in columns}


def _metric(name: str, top: str, bottom: str, values: Mapping[str, Array]) -> UserMetric:
    ones = np.ones(len(values[top]))
    denominator = values[bottom] if bottom else ones
    have = [column for column in (top, bottom) if column and BEFORE + column in values]
    if not have:
        return UserMetric(values[top], denominator)
    if bottom and len(have) == 1:
        raise ValueError(f"metric {name!r} has earlier values of {have[0]!r} alone; expected {top!r} and {bottom!r}")
    earlier = values[BEFORE + top]
    exposure = values[BEFORE + bottom] if bottom else ones
    complete = ~np.isnan(earlier) & ~np.isnan(exposure)
    history = covariates(np.where(complete, earlier, 0.0), np.where(complete, exposure, 0.0))
    return UserMetric(values[top], denominator, history)
