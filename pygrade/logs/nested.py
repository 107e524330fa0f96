"""Nested tables, as logs in JSON lines are: a request with a list of its candidates becomes a row for each of them."""

from typing import Any

import numpy as np

from pygrade._util.optional_imports import require


def unnested(arrow: Any, where: str) -> tuple[Any, list[str]]:
    """The table without lists and structures, and what was done, for people.

    Lists of one length a row are laid out, the other columns repeated; fields of a structure become columns of their
    own names, or ``column_field`` if the name is taken. ValueError if two lists of a row differ in length.
    """
    notes = []
    while any(_is_nested(kind) for kind in arrow.schema.types):
        arrow = _flat(arrow)
        lists = [name for name in arrow.column_names if _is_list(arrow.schema.field(name).type)]
        if lists:
            arrow = _laid_out(arrow, lists, where)
            notes.append(f"{', '.join(map(repr, lists))}: lists of candidates, now a row each")
    return arrow, notes


def _is_list(kind: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_nested(kind: Any) -> bool:
    return _is_list(kind) or bool(require("pyarrow").types.is_struct(kind))


def _flat(arrow: Any) -> Any:
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


def _laid_out(arrow: Any, lists: list[str], where: str) -> Any:
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    arrow = arrow.combine_chunks()
    sizes = {name: np.asarray(pc.fill_null(pc.list_value_length(arrow.column(name)), 0).to_numpy()) for name in lists}
    first = sizes[lists[0]]
    for name in lists[1:]:
        if bool((differs := sizes[name] != first).any()):
            row = int(np.argmax(differs))
            raise ValueError(
                f"{where}: {lists[0]!r} and {name!r} have {first[row]} and {sizes[name][row]} entries in row {row}; "
                "want as many in each list"
            )
    parent = pa.array(np.repeat(np.arange(len(arrow)), first))
    return pa.table(
        {
            name: pc.list_flatten(arrow.column(name)) if name in lists else arrow.column(name).take(parent)
            for name in arrow.column_names
        }
    )
