"""Context features and item columns of a table: numbers as they are, text as 0/1 columns of its levels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pygrade.logs import conversion
from pygrade.logs.categories import OTHER, frequent_levels, indicators, is_frequent, levels_of
from pygrade.logs.column_map import ColumnMap
from pygrade.logs.conversion import ImportNotes
from pygrade.logs.problems import Problems
from pygrade.logs.table import Table

Names = tuple[str, ...]


def drop_outcomes(table: Table, mapping: ColumnMap, shown: NDArray[np.bool_], taken: Sequence[str]) -> None:
    """Takes the role from proposed item columns that turn out to be none, and says why.

    Args:
        shown: [M]; a column that is empty or 0 wherever a row was not shown is feedback.
        taken: names of tasks and features.
    """
    for role in [role for role in mapping.roles if role.startswith("i_") and mapping.why[role] != "given"]:
        if _is_outcome(table, mapping.roles[role], shown):
            mapping.drop(role, "empty or 0 wherever the row was not shown: it became known after the page")
        elif role[2:] in taken:
            mapping.drop(role, "a task or feature has its name")


def _is_outcome(table: Table, column: str, shown: NDArray[np.bool_]) -> bool:
    """Return whether the column became known only after the page."""
    if shown.all():
        return False
    if table.is_numeric(column):
        filled = np.nan_to_num(table.numbers(column)) != 0
    elif table.kind(column) == "text":
        filled = np.array([bool(level.strip()) for level in table.levels(column)] + [False])[table.codes(column)]
    else:
        filled = ~table.nulls(column)
    return bool(filled.any() and not filled[~shown].any())


def read_columns(
    table: Table, mapping: ColumnMap, prefix: str, levels: Sequence[str], notes: ImportNotes, problems: Problems
) -> tuple[Names, NDArray[np.float32]]:
    """The context features (x_) and their values [R, F], or the item columns (i_) and theirs [M, I].

    levels: ``column=level`` of a policy: the 0/1 columns that text gets; of other texts, the frequent levels. A column
    of digits that is named without a level stays a number.
    """
    of_request = prefix == "x_"
    rows = table.starts if of_request else np.arange(len(table))
    names: list[str] = []
    arrays: list[NDArray[np.float32]] = []
    texts = levels_of(levels)
    for role in [role for role in mapping.roles if role.startswith(prefix)]:
        with problems.collect():
            is_text = role[2:] in texts or table.has_levels(mapping.roles[role])  # digits may be levels
            if role[2:] in levels or not is_text:
                own, block = [role[2:]], _number(table, mapping.roles[role], of_request, notes)
            else:
                own, block = _text(table, mapping, role, texts.get(role[2:]), notes)
            names += own
            arrays.append(block)
    block = np.concatenate(arrays, 1) if arrays else np.empty((len(rows), 0), np.float32)
    return tuple(names), block


def _number(table: Table, column: str, of_request: bool, notes: ImportNotes) -> NDArray[np.float32]:
    """Return the values as a column [n, 1]."""
    kind = "feature" if of_request else "item column"
    values = conversion.numbers(table, column, kind, notes)
    values = conversion.of_request(table, column, values) if of_request else values
    if bool(np.isnan(values).all()):
        notes.warned.append(f"{column!r} ({kind}) has no value: the policy cannot use it")
    return values.astype(np.float32)[:, None]


def _text(
    table: Table, mapping: ColumnMap, role: str, wanted: Sequence[str] | None, notes: ImportNotes
) -> tuple[list[str], NDArray[np.float32]]:
    """Names ``name=level`` and their 0/1 columns [n, L]: of the levels wanted, or else of the frequent ones."""
    column, name, of_request = mapping.roles[role], role[2:], role.startswith("x_")
    kind, unit = ("feature", "requests") if of_request else ("item column", "rows")
    codes, texts = table.codes(column), table.levels(column)
    if of_request and table.varies(column).any():
        conversion.of_request(table, column, table.texts(column))  # the error has the values
    codes = codes[table.starts] if of_request else codes
    if wanted is None:
        chosen = frequent_levels(codes, texts)
        wanted = [texts[code] for code in chosen]
        pooled = None
    else:
        places = {text: code for code, text in enumerate(texts)}
        pooled, wanted = OTHER in wanted, [text for text in wanted if text != OTHER]
        chosen = [places.get(text, len(texts)) for text in wanted]
    if not chosen:
        mapping.drop(role, f"text without a value that 1 % of the {unit}, and 20, have")
        return [], np.empty((len(codes), 0), np.float32)
    block = indicators(codes, chosen)
    rest = np.array([bool(text.strip()) for text in texts] + [False])[codes] & (block.sum(1) == 0)
    if pooled or (pooled is None and is_frequent(int(rest.sum()), len(codes))):
        wanted, block = [*wanted, OTHER], np.append(block, rest[:, None].astype(np.float32), axis=1)
    said = f"{column!r} ({kind}): text, now a 0/1 column for each of {', '.join(wanted)}"
    if rest.any():
        is_what = OTHER if wanted[-1] == OTHER else "0 in all of them"
        said += f"; {len(np.unique(codes[rest])):,} rarer values in {rest.mean():.1%} of the {unit} are {is_what}"
    notes.changed.append(said)
    if pooled is False and rest.any():
        strange = sorted({texts[code] for code in codes[rest]})
        more = f" and {len(strange) - 3:,} more" if len(strange) > 3 else ""
        listed = ", ".join(map(repr, strange[:3]))
        notes.warned.append(
            f"{column!r} ({kind}): the policy knows no {listed}{more}, in {rest.mean():.1%} of the {unit}; "
            f"it knows {', '.join(wanted)}"
        )
    return [f"{name}={level}" for level in wanted], block
