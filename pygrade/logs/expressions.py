"""Expressions of SQL over columns: what a map or a schema names in place of a column."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.logs.roles import READING, SKIP
from pygrade.logs.table import Table


def parse_expression(text: str, names: Sequence[str], where: str) -> tuple[Any, list[str]]:
    """The expression, and the columns that it reads. ValueError if it is none, or some are not among ``names``."""
    polars = require("polars")
    try:
        expression = polars.sql_expr(text)
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{text!r} is neither a column nor an expression: {one_line(error)}") from error
    columns = list(dict.fromkeys(expression.meta.root_names()))
    if missing := [name for name in columns if name not in names]:
        raise missing_column(missing[0], names, where)
    return expression, columns


def missing_column(column: str, names: Sequence[str], where: str) -> ValueError:
    near = difflib.get_close_matches(column, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}"
    return ValueError(f"{where} has no column {column!r}{hint}")


def with_expressions(arrow: Any, where: str, stated_roles: Mapping[str, str]) -> tuple[Any, list[str]]:
    """The table with a column of the name of each expression that a role has, and the columns that these read which
    have no role: an expression is wherever there is an operator other than the + that joins columns.
    """
    used = list[str]()
    texts = dict.fromkeys(text for role, text in stated_roles.items() if role not in (SKIP, *READING))
    for text in (text for text in texts if text not in arrow.column_names and any(sign in text for sign in "=<>/*(")):
        values, columns = _evaluate(arrow, text, where)
        arrow, used = arrow.append_column(text, values.to_arrow()), [*used, *columns]
    return arrow, [name for name in dict.fromkeys(used) if name not in texts]


def where_true(arrow: Any, condition: str, where: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where [M] a condition over columns holds; ValueError if it is none."""
    values, _ = _evaluate(arrow, condition, where)
    if values.dtype != require("polars").Boolean:
        raise ValueError(f"{where}: where={condition} is no condition; expected one, such as where=clicked is not null")
    return np.asarray(values.fill_null(False).to_numpy(), bool)


def _evaluate(arrow: Any, text: str, where: str) -> tuple[Any, list[str]]:
    """The polars series of an expression, and the columns that it reads."""
    polars = require("polars")
    expression, columns = parse_expression(text, arrow.column_names, where)
    table = Table(arrow.select(columns), where)
    numeric = [name for name in columns if table.is_numeric(name) and not table.has_levels(name)]
    operands = {name: table.numbers(name) if name in numeric else table.texts(name) for name in columns}
    frame = polars.DataFrame(
        {n: polars.Series(v.tolist()).fill_nan(None) if n in numeric else _texts(v) for n, v in operands.items()}
    )
    try:
        return frame.select(expression.alias(text)).to_series(), columns
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{where}: {text!r}: {one_line(error)}") from error


def _texts(values: np.ndarray[Any, Any]) -> Any:
    return require("polars").Series([value or None for value in values.tolist()])
