"""Nested tables, as logs in JSON lines are: a request with a list of its candidates becomes a row for each of them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line, shortened
from pygrade.logs.problems import row_of
from pygrade.logs.roles import KINDS, ROLES, SKIP, is_feedback, named, normal
from pygrade.logs.table_formats import kind_of

_LISTS = ("list", "vector")
_KIND = (*KINDS, "type", "name")  # of an event in a list
_LOOK = 100  # rows that decide what a column of text is


def unnested(
    arrow: Any, where: str, stated_roles: Mapping[str, str] | None = None
) -> tuple[Any, list[str], NDArray[np.int64] | None]:
    """The table with a row a candidate, without structures; what was done, for people; and the row [M] of the table
    given that each row comes from, None if they are the same.

    JSON in text is read. Lists of one length a row are laid out, the other columns repeated; a list of some of the
    items, such as those clicked, becomes a flag of each. Fields of a structure become columns of their own names, or
    ``column_field`` if the name is taken. Lists in rows of one item each stay as they are. ``stated_roles``: role →
    column. ValueError if two lists of a row differ in length.
    """
    stated_roles, notes, parents = stated_roles or {}, list[str](), None
    skipped = {*stated_roles.get(SKIP, "").split("+"), stated_roles.get(SKIP, "")}
    items = {normal(stated_roles["item_id"])} if "item_id" in stated_roles else set(map(normal, ROLES["item_id"].names))
    nested = [name for name in _columns(arrow, *_LISTS, "struct") if name in skipped]
    arrow = flat(parse_json(arrow.drop_columns(nested), skipped, where, notes))
    while lists := _columns(arrow, *_LISTS):
        if any(normal(name) in items for name in arrow.column_names if name not in lists):
            break
        arrow, parent = _laid_out(arrow, lists, items, where, notes, stated_roles.get("position", ""))
        arrow, parents = flat(arrow), parent if parents is None else parents[parent]
    return arrow, notes, parents


def flag_events(arrow: Any, where: str, stated_roles: dict[str, str], notes: list[str]) -> Any:
    """The table with a 0/1 column ``column_kind`` of each kind in lists of structures that name one, such as the events
    of a candidate; roles of feedback that name the list get the column of their task or of its prediction.
    """
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    for name in _columns(arrow, "list"):
        of_event = arrow.schema.field(name).type.value_type
        fields = [field.name for field in of_event] if pa.types.is_struct(of_event) else []
        key = next((field for field in named(fields, _KIND) if kind_of(of_event.field(field).type) == "text"), "")
        if not key:
            continue
        lists = arrow.column(name).combine_chunks()
        words = pc.struct_field(pc.list_flatten(lists), key).dictionary_encode()
        levels, parents = words.dictionary.to_pylist(), np.asarray(pc.list_parent_indices(lists))
        codes = np.asarray(pc.fill_null(words.indices, -1))
        columns = {level: re.sub(r"\W+", "_", f"{name}_{level}") for level in levels}
        for code, level in enumerate(levels):
            flags = np.zeros(len(arrow), np.int8)
            flags[parents[codes == code]] = 1
            arrow = arrow.append_column(columns[level], pa.array(flags, mask=np.asarray(lists.is_null())))
        arrow = arrow.drop_columns(name)
        notes.append(f"{name!r}: lists of events, now a column of 0 and 1 for each kind: {', '.join(columns.values())}")
        roles = [role for role, column in stated_roles.items() if role.startswith("y_") and column == name]
        for role in roles:
            words_of = (role[2:], stated_roles.get(f"p_{role[2:]}", role[2:]))
            level = next((level for level in columns for word in words_of if is_feedback(level, word)), "")
            if not level:
                has = " or ".join(f"{role[2:]}={column}" for column in columns.values())
                raise ValueError(
                    f"{where}: {name!r} lists events of several kinds, none of name {role[2:]!r}; expected {has}"
                )
            stated_roles[role] = columns[level]
    return arrow


def _columns(arrow: Any, *kinds: str) -> list[str]:
    """The columns of some kinds."""
    return [field.name for field in arrow.schema if kind_of(field.type) in kinds]


def parse_json(arrow: Any, skipped: set[str], where: str, notes: list[str]) -> Any:
    """JSON in place of its text."""
    pa = require("pyarrow")
    for name in [name for name in _columns(arrow, "text") if name not in skipped]:
        head = _head(arrow, name)
        if head and all(text[:1] in "[{" for text in head) and _value(head[0]) is not None:
            values = [_checked(text, name, row, where) for row, text in enumerate(arrow.column(name).to_pylist())]
            try:
                array = pa.array(values)
            except pa.ArrowException as error:
                raise ValueError(f"{where}: {name!r} is JSON of different types: {one_line(error)}") from error
            arrow = arrow.set_column(arrow.column_names.index(name), name, array)
            notes.append(f"{name!r}: JSON in text, now {'structures' if pa.types.is_struct(array.type) else 'lists'}")
    return arrow


def _names_items(name: str, items: set[str]) -> bool:
    return bool({normal(name), normal(name).removesuffix("s")} & items)


def _head(arrow: Any, name: str) -> list[str]:
    return [str(text).strip() for text in arrow.column(name).slice(0, _LOOK).to_pylist() if text]


def _value(text: str) -> Any:
    """A list or a dict, or None if the text is neither in JSON."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, list | dict) else None


def _checked(text: str | None, name: str, row: int, where: str) -> Any:
    if text is None or not text.strip():
        return None
    value = _value(text)
    if value is None:
        raise ValueError(
            f"{where}: {name!r} is {shortened(text)!r} in row {row_of(where, row)}; expected JSON, as in other rows"
        )
    return value


def flat(arrow: Any) -> Any:
    """Structures as columns."""
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    while any(pa.types.is_struct(kind) for kind in arrow.schema.types):
        taken, columns = set(arrow.column_names), {}
        for name in arrow.column_names:
            column = arrow.column(name)
            if not pa.types.is_struct(column.type):
                columns[name] = column
                continue
            for field in column.type:
                label = field.name if field.name not in taken | set(columns) else f"{name}_{field.name}"
                columns[label] = pc.struct_field(column, field.name)
        arrow = pa.table(columns)
    return arrow


def _laid_out(
    arrow: Any, lists: list[str], items: set[str], where: str, notes: list[str], slot: str = ""
) -> tuple[Any, NDArray[np.int64]]:
    """A row for each entry of the lists, and the row that it comes from."""
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    arrow = arrow.combine_chunks()
    sizes = {name: np.asarray(pc.fill_null(pc.list_value_length(arrow.column(name)), 0).to_numpy()) for name in lists}
    named = [name for name in lists if _names_items(name, items)]
    first = max(named or lists, key=lambda name: int(sizes[name].sum()))
    for name in lists:
        words = name == slot and kind_of(arrow.column(name).type.value_type) == "text"  # numbers are slots
        if not bool((differs := sizes[name] != sizes[first]).any()) and not words:
            continue
        flags = _flags(arrow.column(first), arrow.column(name), name == slot)
        if flags is None:
            row = int(np.argmax(differs))
            place = row_of(where, row).removesuffix(f" of {where}")
            raise ValueError(
                f"{where}: {first!r} and {name!r} have {sizes[first][row]} and {sizes[name][row]} entries in row "
                f"{place}; expected as many in each, or some of the {first!r}, or skip={name}"
            )
        arrow = arrow.set_column(arrow.column_names.index(name), name, flags)
        what = "its place in the list" if name == slot else "a flag"
        notes.append(f"{name!r}: lists of some of {first!r}, now {what} of each")
    notes.append(f"{', '.join(map(repr, lists))}: lists of candidates, now a row each")
    parent = np.repeat(np.arange(len(arrow)), sizes[first])
    return pa.table(
        {
            name: pc.list_flatten(arrow.column(name)) if name in lists else arrow.column(name).take(pa.array(parent))
            for name in arrow.column_names
        }
    ), parent


def _flags(items: Any, some: Any, places: bool) -> Any | None:
    """Lists of which items are in other lists, or at which ``places`` (null: not there); None if these have others than
    items, or are no ids.
    """
    if kind_of(some.type) not in _LISTS or some.type.value_type != items.type.value_type:
        return None
    rows = []
    for own, chosen in zip(items.to_pylist(), some.to_pylist(), strict=True):
        try:
            chosen_items = {item: place for place, item in enumerate(chosen or ())}
        except TypeError:
            return None
        if not chosen_items.keys() <= set(own or ()):
            return None
        rows.append([chosen_items.get(item) if places else item in chosen_items for item in own or ()])
    return require("pyarrow").array(rows)
