"""What the columns of a sample of a table look like: times, flags, tags, values of one item or request."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Floats
from pygrade._util.optional_imports import require
from pygrade.data.event_tables import Piece, pieces_of, read_piece
from pygrade.logs.categories import MANY
from pygrade.logs.column_names import is_id, normal, role_names
from pygrade.logs.leaks import are_times
from pygrade.logs.table import Table
from pygrade.logs.text_times import are_time_texts
from pygrade.storage import Place

SAMPLE = 200_000  # rows of a table that are looked at, its first
STEADY = 0.98  # of the groups that have one value of what belongs to them
_GROUPS = 20  # with several rows, from which on that is said
_FEW = 12  # whole numbers with so many values are categories
_TAGGED, _WORDS = 0.05, 0.8  # of the texts that have a separator; words over texts, of tags
_FAR_BELOW = -9  # what stands for nothing: -9, -99, -124
_RUN = 30 * 60_000  # ms between the rows of a run of a user


@dataclass(frozen=True)
class Sampled:
    """The first rows of a table."""

    places: tuple[Place, ...]
    table: Table
    rows: int  # of all of it

    @property
    def where(self) -> str:
        return self.table.where

    @property
    def names(self) -> list[str]:
        return self.table.names

    def named(self, role: str, taken: Sequence[str] = ()) -> list[str]:
        """Columns with a name of a role, the surest first."""
        by_name = {normal(name): name for name in reversed(self.names) if name not in taken}
        return list(dict.fromkeys(by_name[name] for name in role_names(role) if name in by_name))

    @cached_property
    def _distinct(self) -> dict[str, int]:
        return {}

    def distinct(self, name: str) -> int:
        """Distinct values, without missing ones."""
        if name not in self._distinct:
            codes = self.codes(name)
            self._distinct[name] = int(codes.max(initial=-1)) + 1
        return self._distinct[name]

    def codes(self, name: str) -> NDArray[np.int64]:
        """[M] numbers of the distinct values, -1 for a missing one."""
        return self.table.codes(name)

    def is_list(self, name: str) -> bool:
        types = require("pyarrow").types
        dtype = self.table.type_of(name)
        return bool(types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype))

    def is_key(self, name: str) -> bool:
        """Has each row a value of its own that can be an id?"""
        whole = not self.is_list(name) and self.table.kind(name) in ("integer", "text")
        return whole and self.distinct(name) == len(self.table)

    def is_time(self, name: str) -> bool:
        kind = "other" if self.is_list(name) else self.table.kind(name)
        if kind == "text" and not self.table.is_numeric(name):
            texts = self.table.column(name).slice(0, 100).drop_null().combine_chunks()
            return bool(len(texts)) and are_time_texts(texts)
        return kind == "time" or (kind in ("integer", "number", "text") and are_times(self.numbers(name)))

    def numbers(self, name: str) -> Floats:
        """[M], NaN where there is none."""
        return self.table.numbers(name, gaps=True)

    def is_numeric(self, name: str) -> bool:
        return not self.is_list(name) and self.table.is_numeric(name)

    def is_flag(self, name: str) -> bool:
        """Are all values 0 and 1, or yes and no?"""
        if not self.is_numeric(name):
            return False
        values = self.numbers(name)
        return set(np.unique(values[~np.isnan(values)])) == {0.0, 1.0}

    def levels(self, name: str) -> list[str]:
        """The distinct texts, the most frequent first."""
        counts = np.bincount(self.codes(name)[self.codes(name) >= 0])
        levels = self.table.levels(name)
        return [levels[code] for code in np.argsort(-counts, kind="stable")]

    def steady(self, name: str, group: NDArray[np.int64]) -> bool:
        """Has nearly each group of rows one value? Of groups with only the most frequent value nothing is said."""
        code = self.codes(name)
        known = (code >= 0) & (group >= 0)
        order = np.argsort(group[known], kind="stable")
        code, group = code[known][order], group[known][order]
        if not len(code):
            return False
        starts = np.flatnonzero(np.append(True, np.diff(group) != 0))
        low, high = np.minimum.reduceat(code, starts), np.maximum.reduceat(code, starts)
        usual = np.bincount(code).argmax()
        telling = (np.diff(np.append(starts, len(code))) > 1) & ((low != usual) | (high != usual))
        return bool(telling.sum() >= _GROUPS and (low == high)[telling].mean() >= STEADY)

    def runs(self, user: str, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """[M] numbers of the runs of a user's rows with less than half an hour between them."""
        code = self.codes(user)
        order = np.lexsort((time, code))
        breaks = (np.diff(code[order]) != 0) | (np.diff(time[order]) > _RUN)
        result = np.empty(len(code), np.int64)
        result[order] = np.append(0, np.cumsum(breaks))
        return result


def sample(places: Sequence[Place], item: str = "") -> Sampled:
    """The first rows of the files of one table; a row an item, if the column ``item`` has lists.

    ValueError names a file that cannot be read, or has no rows.
    """
    pa = require("pyarrow")
    found, count, rows = [], 0, 0
    for place in places:
        for piece in pieces_of(place, SAMPLE) or [Piece(place)]:
            rows += piece.rows
            if count >= SAMPLE:
                continue
            for batch in read_piece(piece, item=item):
                rows += 0 if piece.rows else len(batch)
                if count < SAMPLE:
                    found.append(batch.table.arrow)
                count += len(batch)
    names = [str(place).rstrip("/").rpartition("/")[2] for place in places]
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if not found:
        raise ValueError(f"{where}: no rows")
    arrow = pa.concat_tables(found, promote_options="permissive").slice(0, SAMPLE)
    return Sampled(tuple(places), Table(arrow, where, None, np.arange(len(arrow))), rows)


def attribute_kind(table: Sampled, name: str) -> tuple[str, str]:
    """The kind of an attribute, or nothing; and why."""
    types = require("pyarrow").types
    if table.is_list(name):
        if not types.is_floating(table.table.type_of(name).value_type):
            return "list", "lists"
        sizes = set(require("pyarrow.compute").list_value_length(table.table.column(name)).unique().to_pylist()) - {
            None
        }
        one = len(sizes) == 1
        return ("embedding", f"{sizes.pop()} numbers each") if one else ("", "lists of numbers of several lengths")
    kind = table.table.kind(name)
    if kind in ("other", "empty"):
        return "", "has no value" if kind == "empty" else f"type {table.table.type_of(name)}"
    distinct = table.distinct(name)
    if distinct < 2:
        return "", "the same value everywhere"
    if table.is_time(name):
        return "time", "times"
    many = f"{distinct:,} values"
    if table.is_flag(name) or kind == "bool":
        return "categorical", "yes and no"
    if table.is_numeric(name) and not (kind == "text" and _are_lists(table.table.levels(name))):
        values = table.numbers(name)
        whole = bool((values[~np.isnan(values)] == np.round(values[~np.isnan(values)])).all())
        if whole and is_id(name):
            return ("categorical" if distinct <= MANY else "hashed"), f"ids, {many}"
        return ("categorical", f"whole numbers, {many}") if whole and distinct <= _FEW else ("dense", "numbers")
    return _text_kind(table, name, distinct)


def _are_lists(levels: Sequence[str]) -> bool:
    """Do some texts have two separators, as no decimal number has?"""
    return any(re.fullmatch(r"\d{1,2}([,;|] ?\d{1,2}){2,}", level.strip()) for level in levels)


def _text_kind(table: Sampled, name: str, distinct: int) -> tuple[str, str]:
    levels = table.table.levels(name)
    words = [[word.strip() for word in re.split(r"[,;|]", level) if word.strip()] for level in levels]
    tagged = np.mean([len(parts) > 1 for parts in words])
    vocabulary = {word for parts in words for word in parts}
    if tagged > _TAGGED and len(vocabulary) < _WORDS * distinct:
        return "list", f"texts of {len(vocabulary):,} words"
    if distinct > max(0.5 * len(table.table), _FEW):
        return "", f"text of its own in most rows ({distinct:,})"
    return ("categorical" if distinct <= MANY else "hashed"), f"{distinct:,} texts"


def sentinel(table: Sampled, name: str) -> float | None:
    """The one negative number among others from 0 on, which stands for nothing."""
    if not table.is_numeric(name) or table.table.kind(name) == "bool":
        return None
    values = np.unique(table.numbers(name))
    values = values[~np.isnan(values)]
    below, others = values[values < 0], values[values >= 0]
    if len(below) != 1 or not len(others) or below[0] != np.round(below[0]):
        return None
    plain = below[0] <= _FAR_BELOW or (len(others) > 1 and others[0] == 0)  # -1 and 1 are two values
    return float(below[0]) if plain else None
