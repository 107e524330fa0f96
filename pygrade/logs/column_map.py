"""The role of each column of a table in a log: given, or proposed from names, types and values."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pygrade.logs.arrays import count_distinct
from pygrade.logs.categories import MANY, frequent_levels
from pygrade.logs.column_names import (
    NATIVE,
    ROLES,
    SHORT,
    SKIP,
    base_name,
    event_of,
    is_id,
    is_prediction,
    likeness,
    names_event,
    names_exploration,
    names_place,
    names_slot,
    normal,
    role_names,
)
from pygrade.logs.leaks import are_times
from pygrade.logs.parquet import METADATA_KEY
from pygrade.logs.table import Table
from pygrade.logs.text_times import are_time_texts

REQUIRED = ("request_id", "user_id", "item_id", "position")
BY_NAME_AND_VALUES = "by its name and values"
EXPLORED = {  # words for how a page was made
    **dict.fromkeys(("shuffle", "shuffled", "random", "randomized"), "shuffle"),
    **dict.fromkeys(("dirichlet", "drawn"), "dirichlet"),
    **dict.fromkeys(("none", "", "production", "control", "normal", "ranked"), "none"),
}
NO_SLOTS = "none"  # in place of the column of the slots: what was shown where is unknown
PREFIXES = ("p_", "y_", "x_", "i_", "w_", "a_", "u_")
_MAX_SCENARIOS = 50
_ALL_PAGES, _MOST_PAGES = (
    0.99,
    0.9,
)  # of the requests whose slots are complete, where a name does not and does say slots
_FREQUENT = 0.2  # of the rows, by levels with a column, of a text with many others
_MOST_EXPLORED = 0.5  # of the requests
_FAULTY, _CHANGES = 0.01, 0.1  # of the requests with several values of a column that differs between so many requests
_MAX_ITEM_COLUMNS = 20  # that are proposed
_IDS, _NUMBERS = ("integer", "text"), ("integer", "number", "bool")
_KINDS = {
    "request_id": _IDS,
    "user_id": _IDS,
    "item_id": _IDS,
    "position": ("integer", "number"),
    "timestamp": ("time", "integer", "number", "text"),
    "scored_at": ("time", "integer", "number", "text"),
    "scenario": ("text",),
    "value": ("integer", "number"),
    "production_score": ("integer", "number"),
    "category": _IDS,
    "embedding": ("vector",),
    "shown": _NUMBERS,
    "seed": ("integer",),
    "candidates": ("integer",),
    "trust": ("integer", "number"),
}


@dataclass
class ColumnMap:
    """Role in the log (`request_id`, `y_click`, `x_hour` …) → column of the table, and why; what is left out, and why.

    Several columns joined by + make one id.
    """

    roles: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # what a reader should know, such as feedback without a prediction
    alone: set[str] = field(default_factory=set)  # p_, y_: there are predictions without feedback, or the contrary
    no_slots: bool = False  # they are unknown

    def take(self, role: str, column: str, why: str) -> None:
        self.roles[role], self.why[role] = column, why

    def drop(self, role: str, why: str) -> None:
        """Takes a role from its column after all, and leaves the column out if that was its only role."""
        column = self.roles.pop(role)
        del self.why[role]
        if column not in self.used:
            self.left_out[column] = why

    @property
    def used(self) -> set[str]:
        """Columns that have a role of their own; one that is joined to an id may have another role, too."""
        return set(self.roles.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the predictions."""
        return tuple(role[2:] for role in self.roles if role.startswith("p_"))

    def words(self) -> dict[str, str]:
        """The map as people write it: ``request=…,click=…,p_click=…``."""
        names = {role: short for short, role in SHORT.items()}
        reserved = {*SHORT, *SHORT.values(), *ROLES, *NATIVE, SKIP}
        result = {}
        for role, column in self.roles.items():
            task = role[2:] if role.startswith("y_") else ""
            result[task if task and task not in reserved else names.get(role, role)] = column
        return result


def parse_map(columns: Mapping[str, str | Iterable[str]] | Sequence[str] | str | None) -> dict[str, str]:
    """Role → column(s) of ``"request=session_id,click=clicked"``, of several such words, or of a dict.

    A name that is no role is a task: its feedback.
    """
    if columns is None:
        return {}
    if isinstance(columns, Mapping):
        pairs = [(key, value if isinstance(value, str) else "+".join(value)) for key, value in columns.items()]
    else:
        pairs = []
        for text in [columns] if isinstance(columns, str) else columns:
            for entry in filter(str.strip, re.split(r",(?=[^,]*=)", text)):  # a column's own name may hold a comma
                key, equals, value = _split(entry)
                if not (equals and key.strip() and value.strip(" ,")):
                    raise ValueError(f"columns has {entry!r}; want ROLE=COLUMN, e.g. request=session_id,click=clicked")
                pairs.append((key.strip(), value.strip(" ,")))
    result: dict[str, str] = {}
    for key, value in pairs:
        role = SHORT.get(key, key)
        if role not in {*ROLES, *NATIVE, SKIP} and not role.startswith(PREFIXES):
            if near := difflib.get_close_matches(role, [*SHORT, *ROLES], 1, 0.8):
                raise ValueError(
                    f"columns has {key!r}; did you mean {near[0]!r}? A task of this name is y_{key}=COLUMN"
                )
            role = f"y_{role}"
        if role in result:
            raise ValueError(f"columns names {key!r} twice; want it once")
        result[role] = value
    return result


def _split(entry: str) -> tuple[str, str, str]:
    """Role, "=" and column; at the middle "=" for a 0/1 column of a log of pygrade's own, ``x_a=b=x_a=b``."""
    parts = entry.split("=")
    middle = len(parts) // 2 if parts[0][:2] in ("x_", "i_") and len(parts) % 2 == 0 else 1
    return "=".join(parts[:middle]), "=" * (len(parts) > 1), "=".join(parts[middle:])


def find_request(table: Table, given: Mapping[str, str], result: ColumnMap) -> None:
    """The column whose rows make a request: needed before anything else can be said."""
    _given(table, given, result, ["request_id"])
    skipped = given.get(SKIP, "").split("+")
    named = [] if "request_id" in result.roles else _named(table, "request_id", {*given.values(), *skipped})
    named = [name for name in named if _fits(table, "request_id", name)]
    if not named:
        return
    sizes = [len(table) / table.distinct(name) for name in named]
    several = [name for name, size in zip(named, sizes, strict=True) if size > 1]
    result.take("request_id", (several or named)[0], "by its name")


def propose(table: Table, given: Mapping[str, str], result: ColumnMap) -> None:
    """Fills in the map: what is given, then what names, types and values suggest. The table is grouped by request."""
    _given(table, given, result, [role for role in given if role not in (SKIP, "request_id")])
    for name in [given[SKIP]] if given.get(SKIP) in table.names else given.get(SKIP, "").split("+"):
        if name in table.names:
            result.left_out[name] = "as you say"
    for name in _named(table, "position", _taken(result)) if result.no_slots else ():
        result.left_out[name] = "named like a slot, and slot=none"  # what was shown where is no attribute of an item
    for role in ROLES:
        if role not in result.roles:
            free = [name for name in _named(table, role, _taken(result)) if _fits(table, role, name)]
            if free:
                result.take(role, free[0], "by its name")
    _by_value(table, result)
    for name in table.names:  # a log of pygrade's own has these
        if name in NATIVE and name not in _taken(result) and table.kind(name) in _KINDS.get(name, ("text", "empty")):
            result.take(name, name, "by its name")
    _pair_tasks(table, result)
    for prefix in ("w_", "a_", "u_"):
        for task in result.tasks:
            if prefix + task in table.names and prefix + task not in _taken(result):
                result.take(prefix + task, prefix + task, "by its name")
    _rest(table, result)


def _taken(result: ColumnMap) -> set[str]:
    return result.used | set(result.left_out)


def _check_column(table: Table, name: str) -> None:
    if name not in table.names:
        near = difflib.get_close_matches(name, table.names, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{table.where} has no column {name!r}{hint} It has {', '.join(table.names)}")


def _given(table: Table, given: Mapping[str, str], result: ColumnMap, roles: Iterable[str]) -> None:
    for role in roles:
        if role not in given:
            continue
        column = given[role]
        if role == "position" and column == NO_SLOTS and column not in table.names:
            result.take(role, column, "given")
            result.no_slots = True
            continue
        for name in [column] if column in table.names else column.split("+"):
            _check_column(table, name)
        result.take(role, column, "given")


def _named(table: Table, role: str, taken: set[str]) -> list[str]:
    """Free columns with a name of this role and a type that fits, the surest name first."""
    by_name = {normal(name): name for name in reversed(table.names) if name not in taken}
    exact = [role] if role in table.names and role not in taken else []
    found = [by_name[name] for name in role_names(role) if name in by_name]
    if role.endswith("_id"):
        bases = list(dict.fromkeys(base_name(name, role) for name in ROLES[role]))
        ids = [name for name in reversed(table.names) if name not in taken and base_name(name, role) != normal(name)]
        by_base = {base_name(name, role): name for name in ids}  # device is no user, device_no may be
        found += [by_base[base] for base in bases if base in by_base]
    if role == "scenario":  # a part of the shop before a device or a country
        places = [name for name in table.names if name not in taken and names_place(name)]
        found = sorted([*found, *places], key=lambda name: not names_place(name))
    return [name for name in dict.fromkeys(exact + found) if _has_kind(table, name, _KINDS[role])]


def _has_kind(table: Table, name: str, kinds: Sequence[str]) -> bool:
    return table.kind(name) in kinds or ("number" in kinds and table.is_numeric(name))


def _fits(table: Table, role: str, name: str) -> bool:
    """Do the values allow the role?"""
    kind = table.kind(name)
    if role == "request_id":
        return not _tells_shown(table, name)  # an impression may be an id or a flag
    if role == "scenario":
        return not _differs(table, name) and table.distinct(name) <= _MAX_SCENARIOS
    if role == "user_id":
        return not _differs(table, name)
    if role == "category":
        return bool(table.varies(name).any())  # else it is of the request
    if role == "value":
        return bool((table.numbers(name, gaps=True) >= 0).all())
    if role in ("timestamp", "scored_at") and kind == "text" and not table.is_numeric(name):
        return _is_time_text(table, name)
    if role in ("timestamp", "scored_at") and kind in ("integer", "number", "text"):
        return bool(np.nanmin(table.numbers(name, gaps=True), initial=np.inf) >= 1e9)  # 2001 in seconds
    return True


def _differs(table: Table, name: str) -> bool:
    """Does the column differ within requests? Not if it does so in a few only, and is clearly of the request in all
    others: then these few are refused.
    """
    inside = table.varies(name)
    share = count_distinct(table.group[inside]) / len(table.starts)
    if not 0 < share <= _FAULTY:
        return share > 0
    first = table.codes(name)[table.starts]
    return bool((np.diff(first) != 0).mean() < _CHANGES)


def _is_time_text(table: Table, name: str) -> bool:
    """Does a text column begin with times?"""
    texts = table.column(name).slice(0, 100).drop_null().combine_chunks()
    return bool(len(texts)) and are_time_texts(texts)


def _by_value(table: Table, result: ColumnMap) -> None:
    """Slots, times and exploration that no name tells, or a name along with the values."""
    for named in (True, False):
        for name in table.names:
            if "position" in result.roles or name in _taken(result) or not table.is_numeric(name):
                continue
            if named == names_slot(name) and _counts_slots(table, name, _MOST_PAGES if named else _ALL_PAGES):
                result.take("position", name, "its values count the rows of a request")
    for name in table.names:
        if name in _taken(result):
            continue
        if "timestamp" not in result.roles and table.kind(name) == "time":
            result.take("timestamp", name, "by its type")
        elif "timestamp" not in result.roles and table.is_numeric(name) and _counts_seconds(table, name):
            result.take("timestamp", name, "its values are times since 1970")
        elif "exploration" not in result.roles and _explores(table, name):
            result.take("exploration", name, BY_NAME_AND_VALUES if names_exploration(name) else "by its values")


def _counts_seconds(table: Table, name: str) -> bool:
    """Are the values times since 1970 of this century, not all the same, and those of a request within an hour?"""
    values = table.numbers(name, gaps=True)
    known = values[~np.isnan(values)]
    if not (len(known) and known.min() < known.max() and are_times(known)) or is_id(name):
        return False
    hour = 3600.0 * 10.0 ** (3 * ((np.log10(known.max()) - 8.5) // 3))  # in the unit of the values
    low = np.minimum.reduceat(np.where(np.isnan(values), np.inf, values), table.starts)
    high = np.maximum.reduceat(np.where(np.isnan(values), -np.inf, values), table.starts)
    return bool((high - low <= hour).all())


def _explores(table: Table, name: str) -> bool:
    """Are the values none, shuffle and dirichlet? Or, if the name says so, other words for them, or a flag that at
    most half of the requests have?
    """
    named = names_exploration(name)
    if len(table.starts) == len(table):
        return False
    if named and table.is_numeric(name):
        values = np.nan_to_num(table.numbers(name, gaps=True)[table.starts])
        fits = set(values) == {0.0, 1.0} and bool(values.mean() <= _MOST_EXPLORED)
    else:
        few = table.kind(name) == "text" and table.codes(name).max() < len(EXPLORED)
        words = {word.strip().lower() for word in table.levels(name)} if few else set()
        fits = len(words) > 1 and words <= (set(EXPLORED) if named else set(EXPLORED.values()))
    return fits and not _differs(table, name)


def _counts_slots(table: Table, name: str, least: float) -> bool:
    """Are the values of so many of the requests k, k + 1, … in some order, k = 0 or 1, with null at most?"""
    values, group = table.numbers(name, gaps=True), table.group
    some = ~np.isnan(values)
    if len(table.starts) == len(table) or not some.any():
        return False
    values, group = values[some], group[some]
    low = values.min()
    if low not in (0, 1) or bool((values != np.round(values)).any()):
        return False
    order = np.lexsort((values, group))
    first = np.append(True, np.diff(group[order]) != 0)
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    broken = group[order][values[order] - low != place]
    return bool(count_distinct(broken) <= (1 - least) * count_distinct(group))


def _pair_tasks(table: Table, result: ColumnMap) -> None:
    """Feedback and predictions of one event, by their names."""
    taken = _taken(result)
    free = [name for name in table.names if name not in taken and _has_kind(table, name, (*_NUMBERS, "empty"))]
    of_rows = {name: bool(table.varies(name).any()) for name in free}  # else it may as well be of the request
    varied = of_rows if len(table.starts) < len(table) else dict.fromkeys(free, True)  # requests of one row say nothing
    predictions = [name for name in free if is_prediction(name) or name.startswith("p_")]
    feedback = [name for name in free if name not in predictions and not is_id(name)]
    events = {name: event_of(name) for name in free}
    for task in dict.fromkeys(role[2:] for role in result.roles if role[:2] in ("p_", "y_")):
        for role, other, columns in (("p_", "y_", predictions), ("y_", "p_", feedback)):
            if role + task not in result.roles:
                names = (task, event_of(result.roles[other + task]))
                scores = {n: (max(likeness(word, events[n]) for word in names), of_rows[n]) for n in columns}
                best = max(scores, key=lambda name: scores[name], default="")
                if best and scores[best][0]:
                    result.take(role + task, best, "by its name")
                    columns.remove(best)
    pairs = [(likeness(events[y], events[p]), of_rows[y], of_rows[p], y, p) for p in predictions for y in feedback]
    for score, _, _, y, p in sorted(pairs, key=lambda pair: pair[:3], reverse=True):
        if not score or y in result.used or p in result.used:
            continue
        task = events[p] if f"p_{events[p]}" not in result.roles else f"{events[p]}_{events[y]}"
        how = {3: "one name", 2: "one word", 1: "two words for one event"}[score]
        result.take(f"y_{task}", y, f"{how} with {p}")
        result.take(f"p_{task}", p, f"{how} with {y}")
    _order_tasks(table, result)
    for name in predictions:
        if name not in result.used and (of_rows[name] or name.startswith("p_")):
            said = f"{name!r} looks like a prediction, but no feedback goes with it: name it by TASK=COLUMN"
            result.odd.append(said)
            result.alone.add("p_")
            if name.startswith("p_"):
                result.left_out[name] = "a prediction without feedback"
    for name in feedback:
        if name not in result.used and (
            name.startswith("y_") or (varied[name] and names_event(name) and _is_flag(table, name))
        ):
            result.left_out[name] = "feedback without a prediction"
            result.alone.add("y_")
            result.odd.append(f"{name!r} looks like feedback, but no prediction goes with it: name it by p_TASK=COLUMN")


def _order_tasks(table: Table, result: ColumnMap) -> None:
    """Tasks in the order of their predictions in the table; given ones in the order given."""
    given = [r for r in result.roles if r[:2] == "p_" and result.why[r] == "given"]
    found = [r for r in result.roles if r[:2] == "p_" and r not in given]
    ordered = given + sorted(found, key=lambda role: table.names.index(result.roles[role]))
    others = {role: column for role, column in result.roles.items() if role[:2] != "p_"}
    result.roles = others | {role: result.roles[role] for role in ordered}


def _rest(table: Table, result: ColumnMap) -> None:
    """The columns that are left: features and the scenario if they are of the request, else item columns. A scenario is
    a feature, and a category an item column, too, but in a log of pygrade's own.
    """
    joined = {part for column in result.roles.values() for part in column.split("+")}
    native = METADATA_KEY in (table.arrow.schema.metadata or {})
    for name in table.names:
        if name == result.roles.get("scenario") and name != "scenario" and f"x_{name}" not in result.roles:
            result.take(f"x_{name}", name, "the scenario as a feature")
        category = name == result.roles.get("category") and f"i_{name}" not in result.roles and not native
        if (name in _taken(result) or name in joined) and not category:
            continue
        kind, own = table.kind(name), name[:2] in ("x_", "i_") and len(name) > 2
        if kind in ("other", "vector"):  # such as lists
            result.left_out[name] = f"type {table.type_of(name)}"
            continue
        distinct = table.distinct(name)
        varies = _differs(table, name)
        if why := _unfit(table, name, own, distinct):
            result.left_out |= {} if category else {name: why}
        elif own and name.startswith("x_") and varies:
            result.left_out[name] = "differs within a request"
        elif varies or (own and name.startswith("i_")):
            if sum(role.startswith("i_") for role in result.roles) < _MAX_ITEM_COLUMNS:
                what = "number" if table.is_numeric(name) else "text"
                result.take(name if own else f"i_{name}", name, f"{what} of the candidate")
            else:
                result.left_out[name] = f"more than {_MAX_ITEM_COLUMNS} item columns; i_{name}={name} takes it"
        elif kind != "text" or own or table.is_numeric(name):
            result.take(name if own else f"x_{name}", name, "number of the request")
        elif "scenario" not in result.roles and distinct <= _MAX_SCENARIOS:
            result.take("scenario", name, f"text of the request with {distinct} values")
            result.take(f"x_{name}", name, "the scenario as a feature")
        else:
            result.take(f"x_{name}", name, f"text of the request with {distinct:,} values")


def _unfit(table: Table, name: str, own: bool, distinct: int) -> str:
    """Why a column is no number or category, or nothing."""
    kind = table.kind(name)
    if kind == "empty" and not own:
        return "has no value"
    if kind not in (*_NUMBERS, "text", "empty"):
        return f"type {table.type_of(name)}"
    if not own and is_id(name):
        return "an id, by its name"
    if not own and distinct < 2:
        return "the same value everywhere"
    if not own and kind != "bool" and table.is_numeric(name) and are_times(table.numbers(name, gaps=True)):
        return "times since 1970: no number to learn from"
    if kind == "text" and not own and not table.is_numeric(name) and _is_time_text(table, name):
        return "dates: no category to learn from"
    if kind == "text" and distinct > MANY and not table.is_numeric(name) and _frequent_share(table, name) < _FREQUENT:
        return f"text with {distinct:,} values"
    return ""


def _tells_shown(table: Table, name: str) -> bool:
    """Is it named as what was shown is, and has only yes and no, or 1 and 0?"""
    named = normal(name) in role_names("shown") and table.is_numeric(name)
    return named and set(np.unique(np.nan_to_num(table.numbers(name)))) <= {0.0, 1.0}


def _frequent_share(table: Table, name: str) -> float:
    """The share of the rows whose text is one of the levels that get a column."""
    codes = table.codes(name)
    return float(np.isin(codes, frequent_levels(codes, table.levels(name))).mean())


def _is_flag(table: Table, name: str) -> bool:
    """Is it a column of true and false, or of words for them?"""
    return table.kind(name) == "bool" or (table.kind(name) == "text" and table.is_numeric(name))
