"""A map that may be meant where exact names and types leave roles open: for people to check, never taken by itself."""

import re

import numpy as np

from pygrade._typing import Bools, Floats
from pygrade.logs.column_map import ColumnMap
from pygrade.logs.roles import predicted_task, short_name
from pygrade.logs.table import Table

_WORDS = {  # in the name of a column
    "position": {"position", "slot", "rank"},
    "value": {"price", "margin", "revenue"},
    "exploration": {"shuffle", "shuffled", "random", "randomized"},
}


def propose_map(table: Table, mapping: ColumnMap) -> dict[str, str]:
    """Role or task → column. Slot, price and flag of shuffled pages by a word in their names; feedback by its values,
    0 and 1 and no 1 where not shown, a column for each prediction: the more frequent one for the larger one.
    """
    taken = {column for role, column in mapping.roles.items() if role[:2] not in ("x_", "i_")}
    numbers = {
        name: table.numbers(name)
        for name in table.names
        if name not in taken and table.kind(name) in ("integer", "number", "bool")
    }
    varying = {name for name in numbers if table.varies(name).any()}
    predictions = {task: numbers.pop(name) for name in [*numbers] if (task := predicted_task(name)) and name in varying}
    result, flags = dict[str, str](), {name for name, values in numbers.items() if _is_flag(values)}
    for role, words in _WORDS.items():
        of_kind = flags - varying if role == "exploration" else varying - flags
        named = [name for name in numbers if name in of_kind and words & {*re.split(r"[\W_]", name.lower())}]
        if role not in mapping.roles and len(named) == 1:
            result[short_name(role)] = named[0]
    slot = result.get("slot", mapping.roles.get("position", ""))
    shown = table.numbers(slot) >= 0 if slot in table.names else np.ones(len(table), bool)
    events = [name for name in numbers if name in flags & varying and not _total(numbers[name], ~shown)]
    if len(events) == len(predictions):
        by_rate = sorted(events, key=lambda name: -_total(numbers[name], shown))
        by_size = sorted(predictions, key=lambda task: -_total(predictions[task], shown))
        pairs = dict(zip(by_size, by_rate, strict=True))
        result |= {task: pairs[task] for task in predictions}
    return result


def _is_flag(values: Floats) -> bool:
    return {*np.unique(values[~np.isnan(values)])} == {0.0, 1.0}


def _total(values: Floats, shown: Bools) -> float:
    return float(np.nansum(values[shown]))
