"""The role of each column of a table in a log: given, or by its exact name, its type, or as the only one left."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pygrade.logs.arrays import count_distinct
from pygrade.logs.categories import MANY, frequent_levels
from pygrade.logs.parquet import METADATA_KEY
from pygrade.logs.roles import NONE, READING, ROLES, SHORT, SKIP, is_feedback, is_id, named, predicted_task, short_name
from pygrade.logs.table import Table

BY_NAME, ONLY = "by its name", "the only one left"
EXPLORED = {  # words for how a page was made
    **dict.fromkeys(("shuffle", "shuffled", "random", "randomized"), "shuffle"),
    **dict.fromkeys(("dirichlet", "drawn"), "dirichlet"),
    **dict.fromkeys(("none", "", "production", "control", "normal", "ranked"), "none"),
}
PREFIXES = ("p_", "y_", "x_", "i_", "w_", "a_", "v_")
_FAULTY, _CHANGES = 0.01, 0.1  # of the requests with several values of a column that differs between so many requests,
# and of the rows that break a rule of ids
_MAX_ITEM_COLUMNS = 20  # that are proposed
_NUMBERS = ("integer", "number", "bool")
_ID_ROLES = ("request_id", "user_id", "item_id")
_FEW_IDS = 20  # distinct ones, below which a column is not proposed for them
_LOOK = 100  # of them, none of which has a blank
_MOST_REQUESTS = 50  # of a user on average


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
    without: set[str] = field(default_factory=set)  # roles that no column has, as the map says

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
        """The tasks in the order of the predictions."""
        return tuple(role[2:] for role in self.roles if role.startswith("p_"))

    @property
    def tasks_alone(self) -> list[str]:
        """Those with feedback or predictions, or both."""
        return list(dict.fromkeys(role[2:] for role in self.roles if role[:2] in ("p_", "y_")))

    def words(self) -> dict[str, str]:
        """The map as people write it: ``request=…,click=…,p_click=…``."""
        tasks = {role: role[2:] for role in self.roles if role[:2] == "y_" and role[2:] not in {*SHORT, *ROLES, SKIP}}
        return {tasks.get(role, short_name(role)): column for role, column in self.roles.items()}


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
            for assignment in filter(str.strip, re.split(r",(?=[^,]*=)", text)):  # a column's own name may hold a comma
                key, equals, value = _split(assignment)
                if not (equals and key.strip() and value.strip(" ,")):
                    raise ValueError(
                        f"columns has {assignment!r}; expected ROLE=COLUMN, e.g. request=session_id,click=clicked"
                    )
                pairs.append((key.strip(), value.strip(" ,")))
    result: dict[str, str] = {}
    for key, value in pairs:
        role = SHORT.get(key, key)
        if role not in {*ROLES, SKIP, *READING} and not role.startswith(PREFIXES):
            if near := difflib.get_close_matches(role, [*SHORT, *ROLES], 1, 0.8):
                raise ValueError(
                    f"columns has {key!r}; did you mean {near[0]!r}? A task of this name is y_{key}=COLUMN"
                )
            role = f"y_{role}"
        if role in result:
            raise ValueError(f"columns names {key!r} twice; expected it once")
        result[role] = value
    return result


def _split(assignment: str) -> tuple[str, str, str]:
    """Role, "=" and column; at the middle "=" for a 0/1 column of a log of pygrade's own, ``x_a=b=x_a=b``."""
    parts = assignment.split("=")
    middle = len(parts) // 2 if parts[0][:2] in ("x_", "i_") and len(parts) % 2 == 0 else 1
    return "=".join(parts[:middle]), "=" * (len(parts) > 1), "=".join(parts[middle:])


def find_request(table: Table, stated_roles: Mapping[str, str], result: ColumnMap) -> None:
    """The column whose rows make a request: needed before anything else can be said."""
    _take_stated(table, stated_roles, result, ["request_id"])
    taken = {*stated_roles.values(), *_skipped(stated_roles)}
    if "request_id" in result.roles:
        return
    if matches := _named(table, "request_id", taken):
        result.take("request_id", matches[0], BY_NAME)
    elif only := _only(table, taken, _fits_request(table, stated_roles)):
        result.take("request_id", only, ONLY)


def propose(table: Table, stated_roles: Mapping[str, str], result: ColumnMap) -> None:
    """Fills in the map: what is given, then what names and types say, then what is left. The table is grouped by
    request.
    """
    _take_stated(table, stated_roles, result, [role for role in stated_roles if role not in (SKIP, "request_id")])
    for name in _skipped(stated_roles):
        if name in table.names:
            result.left_out[name] = "as you say"
    for name in named(table.names, ROLES["position"].names) if result.no_slots else ():
        result.left_out[name] = "named like a slot, and slot=none"  # what was shown where is no attribute of an item
    for role in (role for role in ROLES if role not in {*result.roles, *result.without}):
        if matches := _named(table, role, _taken(result)):
            result.take(role, matches[0], BY_NAME)
    times = [name for name in table.names if table.kind(name) == "time" and name not in _taken(result)]
    if "timestamp" not in {*result.roles, *result.without} and len(times) == 1:
        result.take("timestamp", times[0], "the only one of its type")
    for role, fits in (("item_id", _fits_item), ("user_id", _fits_user)):
        taken = {*_taken(result), *stated_roles.values()}
        if role not in result.roles and (only := _only(table, taken, partial(fits, table))):
            result.take(role, only, ONLY)
    _pair_tasks(table, result)
    for prefix in ("w_", "a_", "v_"):
        for task in result.tasks:
            if prefix + task in table.names and prefix + task not in _taken(result):
                result.take(prefix + task, prefix + task, BY_NAME)
    for name in (name for name in table.names if name.startswith("slot_")):
        if (share := name.replace("slot_", "share_", 1)) in table.names and not {name, share} & _taken(result):
            result.take(name, name, BY_NAME)
            result.take(share, share, BY_NAME)
    _rest(table, result)


def _skipped(stated_roles: Mapping[str, str]) -> list[str]:
    return [stated_roles[SKIP], *stated_roles[SKIP].split("+")] if SKIP in stated_roles else []


def _taken(result: ColumnMap) -> set[str]:
    return result.used | set(result.left_out)


def _check_column(table: Table, name: str) -> None:
    if name not in table.names:
        near = difflib.get_close_matches(name, table.names, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{table.where} has no column {name!r}{hint} It has {', '.join(table.names)}")


def _take_stated(table: Table, stated_roles: Mapping[str, str], result: ColumnMap, roles: Iterable[str]) -> None:
    for role in roles:
        if role not in stated_roles:
            continue
        column = stated_roles[role]
        if column == NONE and column not in table.names:
            _take_none(table, role, result)
            continue
        for name in [column] if column in table.names else column.split("+"):
            _check_column(table, name)
        result.take(role, column, "given")


def _take_none(table: Table, role: str, result: ColumnMap) -> None:
    """A role that no column has: none of slots, each request's own user, or just none."""
    if role in ("request_id", "item_id"):
        raise ValueError(f"{table.where}: {short_name(role)}=none; expected the column of it, which every log needs")
    result.no_slots = result.no_slots or role == "position"
    if role == "position":
        result.take(role, NONE, "given")
    elif role == "user_id" and "request_id" in result.roles:
        result.take(role, result.roles["request_id"], "none: each request its own user")
    elif role[:2] in ("x_", "i_") and role[2:] in table.names:
        result.left_out[role[2:]] = "as you say"
    else:
        result.without.add(role)


def _only(table: Table, taken: set[str], fits: Callable[[str], bool]) -> str:
    """The only free column of ids that fits, among those named so, else of text, else of integers; empty if there are
    none or several.
    """
    parts = {part for column in taken for part in column.split("+")}
    free = [name for name in table.names if name not in taken | parts and not predicted_task(name)]
    free = [name for name in free if table.kind(name) in ("integer", "text") and not table.is_time(name)]
    free = [name for name in free if table.distinct(name) >= _FEW_IDS]
    free = [n for n in free if table.kind(n) == "integer" or not any(" " in level for level in table.levels(n)[:_LOOK])]
    texts = [name for name in free if table.kind(name) == "text" and not table.is_numeric(name)]
    for names in ([name for name in free if is_id(name)], texts, free):
        if chosen := [name for name in names if fits(name)]:
            return chosen[0] if len(chosen) == 1 else ""
    return ""


def _fits_request(table: Table, stated_roles: Mapping[str, str]) -> Callable[[str], bool]:
    """True for a column in whose rows no item, or no slot, comes twice."""
    within = None
    for role in ("item_id", "position"):
        column = stated_roles.get(role) or next(iter(_named(table, role, set())), "")
        if within is None and column in table.names:
            within = table.codes(column), ~table.nulls(column)

    def fits(name: str) -> bool:
        if within is None or not 2 <= len(table) / table.distinct(name) <= MANY or _lacks_ids(table, name):
            return False
        code, present = within[0], within[1] & ~table.nulls(name)
        pairs = table.codes(name)[present] * (int(code.max()) + 2) + code[present]
        return len(pairs) - count_distinct(pairs) <= _FAULTY * len(pairs)

    return fits


def _fits_item(table: Table, name: str) -> bool:
    """True for ids that come once in a request, and in several."""
    code = table.codes(name)
    if not 1 < len(table.starts) < len(table):
        return False
    pairs = table.group * (int(code.max()) + 2) + code
    once = len(pairs) - count_distinct(pairs) <= _FAULTY * len(pairs)
    return once and 2 * table.distinct(name) <= len(table) and not _lacks_ids(table, name)


def _lacks_ids(table: Table, name: str) -> bool:
    """True if a column is empty in so many rows that it holds no ids; a few empty ones are a fault of their rows."""
    return bool(table.nulls(name).mean() > _FAULTY)


def _fits_user(table: Table, name: str) -> bool:
    """True for words that all rows of a request share, and several requests; numbers only if they are named as ids."""
    word = is_id(name) or table.kind(name) == "text"
    several = len(table.starts) < len(table) and 1 < len(table.starts) / table.distinct(name) <= _MOST_REQUESTS
    return bool(word and several and not table.varies(name).any())


def _named(table: Table, role: str, taken: set[str]) -> list[str]:
    """Free columns with a name of this role, and a type and values that it can have, the surest name first."""
    names = dict.fromkeys([*([role] if role in table.names else []), *named(table.names, ROLES[role].names)])
    free = [name for name in names if name not in taken and table.has_kind(name, ROLES[role].kinds)]
    return [name for name in free if _fits(table, role, name)]


def _fits(table: Table, role: str, name: str) -> bool:
    """Return whether the values allow the role."""
    if role in ("scenario", "exploration"):
        return not table.varies(name).any()
    if role == "category":
        return bool(table.varies(name).any())  # else it is of the request
    if role == "value":
        return bool((table.numbers(name, gaps=True) >= 0).all())
    if role in ("timestamp", "scored_at"):
        return table.is_time(name)
    return True


def _pair_tasks(table: Table, result: ColumnMap) -> None:
    """Feedback and predictions of one task: by their names; a single one of each that is left is a pair, too."""
    taken = _taken(result)
    free = [name for name in table.names if name not in taken and table.has_kind(name, (*_NUMBERS, "empty"))]
    predictions = {name: predicted_task(name) for name in free if predicted_task(name)}
    for name, task in predictions.items():  # order_gbm_score beside ordered: a ranker's score of order
        of_rankers = task.rpartition("_")[0]
        if of_rankers and not any(is_feedback(n, task) for n in free):
            predictions[name] = of_rankers if any(is_feedback(n, of_rankers) for n in free) else task
    stated = result.tasks_alone
    without = {role[2:] for role in result.without if role[:2] in ("p_", "y_")}
    for task in [task for task in [*stated, *dict.fromkeys(predictions.values())] if task not in without]:
        prediction_columns = [name for name, other in predictions.items() if other == task and name not in result.used]
        events = [name for name in free if name not in predictions and name not in result.used]
        events = sorted((n for n in events if is_feedback(n, task)), key=lambda name: name != f"y_{task}")
        roles = {f"p_{task}": prediction_columns, f"y_{task}": events}
        lacking = {role: names for role, names in roles.items() if role not in result.roles}
        if all(lacking.values()):
            for role, names in lacking.items():
                result.take(role, names[0], BY_NAME)
    of_rows = {name: bool(table.varies(name).any()) for name in free} if len(table.starts) < len(table) else {}
    lone = [n for n, task in predictions.items() if n not in result.used and task not in without]
    lone = [n for n in lone if of_rows.get(n) or n.startswith(("p_", "pred"))]
    hidden, others = _hidden(table, result), [n for n in free if n not in predictions and n not in result.used]
    flags = [n for n in others if _is_feedback(table, n, of_rows, hidden)]
    whole = all(role in result.roles for task in stated for role in (f"p_{task}", f"y_{task}"))
    if len(lone) == len(flags) == 1 and whole:
        task = predictions[lone[0]]
        result.take(f"y_{task}", flags.pop(), ONLY)
        result.take(f"p_{task}", lone.pop(), ONLY)
    _order_tasks(table, result)
    for name in lone:
        if f"y_{predictions[name]}" in result.roles:
            result.odd.append(f"{name!r} is another prediction of {predictions[name]!r}: an input alone")
            continue
        result.odd.append(
            f"{name!r} looks like a prediction, but no feedback goes with it: an input alone; TASK=COLUMN names its "
            "feedback"
        )
        result.alone.add("p_")
    for name in flags:
        result.left_out[name] = "feedback without a prediction"
        result.alone.add("y_")
        result.odd.append(f"{name!r} looks like feedback, but no prediction goes with it: name it by p_TASK=COLUMN")


def _hidden(table: Table, result: ColumnMap) -> NDArray[np.bool_]:
    """Return whether the row was not shown, by its slot or flag, bool, of shape [M]."""
    column = result.roles.get("shown", result.roles.get("position", "").rpartition("+")[2])
    if column not in table.names or not table.is_numeric(column):
        return np.zeros(len(table), bool)
    values = table.numbers(column, gaps=True)
    return np.asarray(~(values > 0) if "shown" in result.roles else np.isnan(values) | (values < 0))


def _is_feedback(table: Table, name: str, of_rows: Mapping[str, bool], hidden: NDArray[np.bool_]) -> bool:
    """Return whether it is named y_, or is a flag of rows, such as true and false, that no hidden row has."""
    if name.startswith("y_"):
        return True
    flag = table.kind(name) == "bool" or (table.kind(name) == "text" and table.is_numeric(name))
    return flag and of_rows.get(name, True) and not (table.numbers(name, gaps=True)[hidden] > 0).any()


def _order_tasks(table: Table, result: ColumnMap) -> None:
    """Tasks in the order of their predictions in the table; given ones in the order given."""
    stated = [r for r in result.roles if r[:2] == "p_" and result.why[r] == "given"]
    proposed = [r for r in result.roles if r[:2] == "p_" and r not in stated]
    ordered = stated + sorted(proposed, key=lambda role: table.names.index(result.roles[role]))
    others = {role: column for role, column in result.roles.items() if role[:2] != "p_"}
    result.roles = others | {role: result.roles[role] for role in ordered}


def _rest(table: Table, result: ColumnMap) -> None:
    """The columns that are left: features and the scenario if they are of the request, else item columns. A scenario is
    a feature, and a category an item column, too, but in a log of pygrade's own.
    """
    joined = {single for column in result.roles.values() for single in column.split("+")}
    native = METADATA_KEY in (table.arrow.schema.metadata or {})
    for name in table.names:
        if name == result.roles.get("scenario") and name != "scenario" and f"x_{name}" not in result.roles:
            result.take(f"x_{name}", name, "the scenario as a feature")
        category = name == result.roles.get("category") and f"i_{name}" not in result.roles and not native
        if (name in _taken(result) or name in joined) and not category:
            continue
        kind, own = table.kind(name), name[:2] in ("x_", "i_") and len(name) > 2
        if kind in ("other", "vector", "list", "struct"):
            result.left_out[name] = f"type {table.type_of(name)}"
            continue
        distinct = table.distinct(name)
        varies = _differs(table, name)
        if why := _unfit(table, name, own, distinct, [role for role in _ID_ROLES if role not in result.roles]):
            result.left_out |= {} if category else {name: why}
        elif own and name.startswith("x_") and varies:
            result.left_out[name] = "differs within a request"
        elif varies or (own and name.startswith("i_")):
            if sum(role.startswith("i_") for role in result.roles) < _MAX_ITEM_COLUMNS:
                what = "text" if table.has_levels(name) else "number"
                result.take(name if own else f"i_{name}", name, f"{what} of the candidate")
            else:
                result.left_out[name] = f"more than {_MAX_ITEM_COLUMNS} item columns; i_{name}={name} takes it"
        elif own or not table.has_levels(name):
            result.take(name if own else f"x_{name}", name, "number of the request")
        else:
            result.take(f"x_{name}", name, f"text of the request with {distinct:,} values")


def _differs(table: Table, name: str) -> bool:
    """True if the column differs within requests; not if it does so in a few only, and differs between all others: then
    these few are refused.
    """
    inside = table.varies(name)
    share = count_distinct(table.group[inside]) / len(table.starts)
    if not 0 < share <= _FAULTY:
        return share > 0
    return bool((np.diff(table.codes(name)[table.starts]) != 0).mean() < _CHANGES)


def _unfit(table: Table, name: str, own: bool, distinct: int, missing: Sequence[str]) -> str:
    """The reason why a column is no number or category; else empty."""
    kind = table.kind(name)
    if kind == "empty" and not own:
        return "has no value"
    if kind not in (*_NUMBERS, "text", "empty"):
        return f"type {table.type_of(name)}"
    if own:
        return ""
    if is_id(name) and missing:
        return f"an id, by its name: is it {' or '.join(f'{short_name(role)}={name}' for role in missing)}?"
    if is_id(name):
        return "an id, by its name"
    if distinct < 2:
        return "the same value everywhere"
    if table.is_time(name):
        return "times: nothing to learn from"
    if distinct > MANY and table.has_levels(name) and not _has_frequent_levels(table, name):
        return f"text with {distinct:,} values"
    return ""


def _has_frequent_levels(table: Table, name: str) -> bool:
    """Return whether some text has a 0/1 column."""
    return bool(frequent_levels(table.codes(name), table.levels(name)))
