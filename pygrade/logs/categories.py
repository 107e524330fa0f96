"""Categories as 0/1 columns ``name=level``: the levels of a text column, and raw values of requests for serving."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.logs.text_numbers import parse_number

LEVELS = 20  # 0/1 columns of a text column, at most
MANY = 1000  # levels of a text column that is not proposed
OTHER = "(other)"  # the level of rarer values, if together they are as frequent as a level must be
_SHARE, _COUNT = 0.01, 20  # of the values that a level must have


def frequent_levels(codes: NDArray[np.int64], texts: Sequence[str]) -> list[int]:
    """`most_frequent` of codes [n], places in ``texts``, -1 where a value is missing."""
    return most_frequent(np.bincount(codes[codes >= 0], minlength=len(texts)), len(codes), texts)


def most_frequent(counts: NDArray[np.int64], values: int, texts: Sequence[str]) -> list[int]:
    """The levels that get a column, in the order of their names: the LEVELS most frequent, each in at least 1 % and 20
    of the values.

    Args:
        counts: [L] occurrences of the levels ``texts``.
    """
    enough = max(_COUNT, _SHARE * values)
    order = sorted((-int(count), texts[code], code) for code, count in enumerate(counts) if count >= enough)
    chosen = [code for _, text, code in order if text.strip()][:LEVELS]
    return sorted(chosen, key=lambda code: texts[code])


def is_frequent(count: int, size: int) -> bool:
    """Return whether so many of ``size`` values are enough for a column of their own."""
    return count >= max(_COUNT, _SHARE * size)


def indicators(codes: NDArray[np.int64], levels: Sequence[int]) -> NDArray[np.float32]:
    """Return indicators [n, L]: 1.0 in the column of the value's level."""
    return np.asarray(codes[:, None] == np.array(levels, np.int64), np.float32)


def levels_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Column → its levels, of names ``column=level``; others are left out.

    >>> levels_of(["hour", "device=app", "device=web"])
    {'device': ['app', 'web']}
    """
    result: dict[str, list[str]] = {}
    for name in names:
        column, equals, level = name.partition("=")
        if equals:
            result.setdefault(column, []).append(level)
    return result


def encode(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], unseen: Counter[str] | None = None
) -> NDArray[np.float32]:
    """Raw values as the context or the item columns of a policy that learned from a table.

    Args:
        names: the policy's ``features``, or its item columns: of numbers their name, of text ``column=level``.
        rows: column → value of each request or candidate, as in the table; further columns are ignored.
        unseen: by column, how often a level has no 0/1 column (rare or unknown when the table became a log).

    Returns:
        [R, F]; NaN where a number is missing, 0 in all columns of a text that is missing, or unseen if there is no
        column ``column=(other)``.

    ValueError names the row and the column of what is no number.
    """
    column_number = {name: f for f, name in enumerate(names)}
    numbers = {name: f for name, f in column_number.items() if "=" not in name}
    texts = {column: {x: column_number[f"{column}={x}"] for x in levels} for column, levels in levels_of(names).items()}
    result = []
    for r, row in enumerate(rows):
        values = [0.0] * len(names)
        for name, f in numbers.items():
            values[f] = _number(row.get(name), name, r)
        for column, levels in texts.items():
            value = row.get(column)
            level = "" if value is None or value != value else str(value)
            if level not in levels and level.strip():
                if unseen is not None:
                    unseen[column] += 1
                level = OTHER
            if level in levels:
                values[levels[level]] = 1.0
        result.append(values)
    return np.array(result, np.float32).reshape(len(rows), len(names))


def _number(value: Any, name: str, row: int) -> float:
    if value is None:
        return math.nan
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"rows[{row}][{name!r}] is {value!r}; expected a number, or None where it is missing"
        ) from None
    return number if math.isfinite(number) else math.nan
