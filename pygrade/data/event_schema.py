"""The schema of raw events of one's own: which tables are users, items and events, and what their columns are.

A TOML file, which `pygrade doctor` proposes; `KEYS` has its keys. Where a column is wanted, a number may be an
expression of SQL over the table's columns, such as ``rating >= 4`` or ``"play ms" / 1000``.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pygrade.data.event_log import KINDS, EventSource
from pygrade.storage import Place, is_url, join_path

EVERY = "every row"
REQUESTS = ("column", "session", "day")
CONTEXT_KINDS = ("dense", "categorical", "hashed")
FORMS = ("wide", "long")


@dataclass(frozen=True)
class Key:
    """A key of a table of the schema."""

    kind: str  # text, number, texts (one text or a list of them), names (name → text or texts), numbers, attributes
    text: str
    required: bool = False
    default: Any = None


def _key(kind: str, text: str, default: Any = MISSING) -> Any:
    """A field that a key of the file fills; without a default it is required."""
    key = Key(kind, text, default is MISSING, None if default is MISSING else default)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"key": key})
    return field(default=default, metadata={"key": key})


_FILES = "files or directories of one table, relative to this file, or URLs"
_UNKNOWN = 'values that stand for nothing, such as [-1, "unknown"]'
_ATTRIBUTES = f"kinds are {', '.join(KINDS)}"
ATTRIBUTE_FORM = "NAME = { column = COLUMN, kind = KIND }; first = true takes the first entry of a list"


@dataclass(frozen=True)
class Attribute:
    """A column of users, items or the context."""

    name: str
    column: str  # or an expression
    kind: str  # one of `event_log.KINDS`
    first: bool = False  # of a list its first entry


@dataclass(frozen=True)
class EventTable:
    """A table of events."""

    files: tuple[str, ...] = _key("texts", _FILES)
    form: str = _key("text", "wide: a row is an exposure, tasks are columns; long: a row is an event")
    user: str = _key("text", "id, a number or text")
    item: str = _key("text", "id, a number or text")
    time: str = _key("text", "dates, or seconds, milli-, micro- or nanoseconds since 1970")
    kind: str | None = _key("text", "long: the column that says what happened; none: the same in all rows", None)
    exposure: tuple[str, ...] = _key("texts", '"every row"; or wide: a column that is 1 where shown; long: kinds', ())
    tasks: Mapping[str, tuple[str, ...]] = _key(
        "names", 'wide: TASK = column or condition; long: TASK = kinds, or "every row"', {}
    )
    request: str | None = _key("text", "id of the page, feed or search", None)
    slot: str | None = _key("text", "place on the page; none: the order in time", None)
    scenario: str | None = _key("text", "where it was shown: home, search …; a number n becomes COLUMNn", None)
    price: str | None = _key("text", "of the item: an item attribute, as at its first exposure", None)
    event_time: str | None = _key("text", "when the row's feedback was known; none: at its time", None)
    measures: Mapping[str, tuple[str, ...]] = _key(
        "names", "amounts of feedback: NAME = column, such as seconds or revenue", {}
    )
    context: tuple[Attribute, ...] = _key("attributes", f"of the request, {_ATTRIBUTES}", ())
    item_attributes: tuple[Attribute, ...] = _key(
        "attributes", f"of the item, as at its first exposure, {_ATTRIBUTES}", ()
    )
    unknown: tuple[Any, ...] = _key("values", _UNKNOWN, ())

    @property
    def has_exposures(self) -> bool:
        return bool(self.exposure)

    @property
    def dated(self) -> "AttributeTable | None":
        """The attributes of items that the events carry, as a table of items."""
        price = (Attribute("price", self.price, "dense"),) if self.price else ()
        attributes = (*price, *self.item_attributes)
        return AttributeTable(self.files, self.item, attributes, self.time, self.unknown) if attributes else None


@dataclass(frozen=True)
class AttributeTable:
    """A table of users or items."""

    files: tuple[str, ...] = _key("texts", _FILES)
    id: str = _key("text", "ids, as in the events")
    attributes: tuple[Attribute, ...] = _key("attributes", _ATTRIBUTES)
    time: str | None = _key(
        "text", "since when the row is so: of users the latest before a request counts, of items before the first", None
    )
    unknown: tuple[Any, ...] = _key("values", _UNKNOWN, ())


@dataclass(frozen=True)
class EventSchema:
    """A schema that was read."""

    where: Place  # the directory that names of files are relative to
    events: tuple[EventTable, ...]
    users: tuple[AttributeTable, ...]
    items: tuple[AttributeTable, ...]
    requests: str = _key("text", "column: exposures name theirs; session: to a gap of gap_minutes; day")
    name: str = _key("text", "of the data", "events")
    license: str = _key("text", "of the data", "the owner decides")
    utc_offset_hours: float = _key("number", "of the clocks of times that name no zone, and of days", 0.0)
    gap_minutes: float = _key("number", "minutes without an exposure that end a session", 30.0)
    max_rows: int = _key("number", "longer sessions and days are cut into requests of so many exposures", 100)
    window_hours: float = _key("number", "feedback belongs to the latest exposure, at most so long before", 24.0)
    values: Mapping[str, float] = _key("numbers", "worth of one event of a task; not given: 1", {})
    funnel: tuple[tuple[str, ...], ...] = _key(
        "chains", "chains of tasks, each possible only after the one before it", ()
    )
    category: str | None = _key("text", "the item attribute to count over", None)
    price: str | None = _key(
        "text", "the item attribute, a number, that is an item's price; none: one of that name", None
    )
    value_tasks: tuple[str, ...] = _key("texts", "tasks of which an event is worth its value times the price", ())

    @property
    def tasks(self) -> tuple[str, ...]:
        """All kinds of feedback, in the order of the tables."""
        return tuple(dict.fromkeys(task for table in self.events for task in table.tasks))

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for table in self.events for name in table.measures))

    @property
    def dated_items(self) -> tuple[AttributeTable, ...]:
        """The attributes of items that tables of events carry."""
        return tuple(table.dated for table in self.events if table.dated is not None)

    @property
    def context(self) -> dict[str, str]:
        """Name → kind of context: columns of events, and attributes of users that have a time."""
        kinds = {a.name: a.kind for table in self.events for a in table.context}
        return kinds | kinds_of([table for table in self.users if table.time])

    def source(self, notes: Sequence[str] = ()) -> EventSource:
        """The description of the log of events. ValueError names a key that contradicts others."""
        return EventSource(
            name=self.name,
            license=self.license,
            tasks=self.tasks,
            task_values=tuple(float(self.values.get(task, 1.0)) for task in self.tasks),
            funnel=self.funnel,
            users=kinds_of([table for table in self.users if not table.time]),
            items=kinds_of([*self.items, *self.dated_items]),
            context=self.context,
            measures=self.measures,
            category=self.category,
            price=self.price,
            value_tasks=self.value_tasks,
            utc_offset_hours=self.utc_offset_hours,
            notes=tuple(notes),
        )

    @property
    def places(self) -> list[Place]:
        """All files and directories that the schema names, each once."""
        files = [table.files for table in self.events] + [table.files for table in (*self.users, *self.items)]
        return list(dict.fromkeys(self.place(name) for names in files for name in names))

    def place(self, name: str) -> Place:
        """The file of a name in the schema."""
        if is_url(name):
            return name
        return join_path(self.where, name) if is_url(self.where) else Path(self.where) / name


def _keys(table: type) -> dict[str, Key]:
    return {option.name: option.metadata["key"] for option in fields(table) if "key" in option.metadata}


KEYS = {"": _keys(EventSchema), "events": _keys(EventTable)} | dict.fromkeys(("users", "items"), _keys(AttributeTable))
"""Table of the file → its keys."""


def read_schema(path: Path, where: Place | None = None) -> EventSchema:
    """Reads a schema file; ``where``: the directory of its names, default: its own.

    ValueError names the file and every problem in it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    problems: list[str] = []
    tables = {name: _tables(content.pop(name, []), name, problems) for name in ("events", "users", "items")}
    top = _checked(content, "", "", problems)
    if not tables["events"] and not problems:
        problems.append("there is no [[events]]: expected at least one table of events")
    if problems:
        raise _refusal(path, problems)
    schema = EventSchema(
        path.parent if where is None else where,
        tuple(EventTable(**table) for table in tables["events"]),
        tuple(AttributeTable(**table) for table in tables["users"]),
        tuple(AttributeTable(**table) for table in tables["items"]),
        **{**top, "max_rows": int(top["max_rows"])},
    )
    if schema.price is None and kinds_of((*schema.items, *schema.dated_items)).get("price") == "dense":
        schema = replace(schema, price="price")
    if problems := list(_contradictions(schema)):
        raise _refusal(path, problems)
    return schema


def _refusal(path: Path, problems: Sequence[str]) -> ValueError:
    listed = "; ".join(f"({number}) {text}" for number, text in enumerate(problems, 1))
    return ValueError(f"{path}: {problems[0] if len(problems) == 1 else listed}")


def _tables(value: Any, name: str, problems: list[str]) -> list[dict[str, Any]]:
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list) or not all(isinstance(table, dict) for table in listed):
        problems.append(f"{name} is {value!r}; expected [[{name}]]")
        return []
    header = "[[{}]]" if len(listed) == 1 else "[[{}]] {}"
    return [_checked(dict(t), name, header.format(name, n), problems) for n, t in enumerate(listed, 1)]


def _checked(table: dict[str, Any], name: str, where: str, problems: list[str]) -> dict[str, Any]:
    keys = KEYS[name]
    at = f"{where} " if where else ""
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected some of {', '.join(keys)}"
            problems.append(f"{at}has an unknown key {key!r}{hint}")
    result = {}
    for key, spec in keys.items():
        if key not in table:
            if spec.required:
                problems.append(f"{at}lacks {key}: {spec.text}")
            result[key] = spec.default
            continue
        try:
            result[key] = _READERS[spec.kind](table[key])
        except ValueError as error:
            problems.append(f"{at}{key} is {table[key]!r}; expected {error}: {spec.text}")
    return result


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(text, str) and text for text in listed):
        raise ValueError("a text or a list of texts")
    return tuple(listed)


def _names(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("{NAME = …}")
    return {name: _texts(columns) for name, columns in value.items()}


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError("{TASK = number}")
    return {name: _number(number) for name, number in value.items()}


def _chains(value: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise ValueError('a list of lists, such as [["click", "order"]]')
    return tuple(_texts(chain) for chain in value)


def _values(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise ValueError("a list of numbers and texts")
    return tuple(value)


def _attributes(value: Any) -> tuple[Attribute, ...]:
    if not isinstance(value, dict):
        raise ValueError("{NAME = kind}")
    result = []
    for name, description in value.items():
        spec = {"kind": description} if isinstance(description, str) else description
        if not isinstance(spec, dict) or spec.get("kind") not in KINDS or set(spec) - {"column", "kind", "first"}:
            raise ValueError(f"a kind of {name!r}, one of {', '.join(KINDS)}")
        result.append(Attribute(name, _text(spec.get("column", name)), spec["kind"], bool(spec.get("first", False))))
    return tuple(result)


_READERS = {
    "text": _text,
    "number": _number,
    "texts": _texts,
    "names": _names,
    "numbers": _numbers,
    "chains": _chains,
    "values": _values,
    "attributes": _attributes,
}


def _contradictions(schema: EventSchema) -> list[str]:
    """Contradictions between keys, in sentences."""
    problems = []
    if schema.requests not in REQUESTS:
        problems.append(f"requests is {schema.requests!r}; expected one of {', '.join(REQUESTS)}")
    if schema.max_rows < 1 or schema.gap_minutes < 0 or schema.window_hours <= 0:
        problems.append("expected max_rows from 1, gap_minutes from 0 and window_hours above 0 on")
    names = [*schema.tasks, *schema.measures, *(a.name for t in (*schema.users, *schema.items) for a in t.attributes)]
    names += [a.name for table in schema.events for a in (*table.context, *table.item_attributes)]
    problems += [
        f"{name!r} is no name; expected letters, digits and _" for name in names if not re.fullmatch(r"\w+", name)
    ]
    kinds = {name: kind for name, kind in schema.context.items() if kind not in CONTEXT_KINDS}
    problems += [
        f"{name!r} is context (of an event, or of users with a time), and {kind}; expected {', '.join(CONTEXT_KINDS)}"
        for name, kind in kinds.items()
    ]
    for number, table in enumerate(schema.events, 1):
        at = "[[events]]" if len(schema.events) == 1 else f"[[events]] {number}"
        problems += [f"{at} {text}" for text in _contradictions_of(table, schema.requests)]
    if not any(table.has_exposures for table in schema.events):
        problems.append(
            "no table of events has exposures, so nobody knows what users passed over: name the kinds of events that "
            f'are (exposure = ["view"]), or say that each row counts as one (exposure = "{EVERY}"), if feedback tells '
            "them apart, such as ratings"
        )
    if unknown := sorted(set(schema.values) - set(schema.tasks)):
        problems.append(f"values names {unknown[0]!r}; expected some of the tasks {', '.join(schema.tasks)}")
    if not kinds:
        try:
            schema.source()
        except ValueError as error:
            problems.append(str(error))
    for entity, tables in (("users", schema.users), ("items", (*schema.items, *schema.dated_items))):
        names = [attribute.name for table in tables for attribute in table.attributes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            problems.append(
                f'two tables of {entity} have an attribute {twice[0]!r}; rename one: {{column = "{twice[0]}"}}'
            )
    return problems


def kinds_of(tables: Sequence[AttributeTable]) -> dict[str, str]:
    """Attribute → kind."""
    return {attribute.name: attribute.kind for table in tables for attribute in table.attributes}


def column_uses(table: EventTable | AttributeTable) -> Iterator[tuple[str, str]]:
    """(key, column or expression) of all that is read of a table's rows."""
    if isinstance(table, AttributeTable):
        yield from [("id", table.id), *([("time", table.time)] if table.time else [])]
        yield from ((f"attributes {a.name}", a.column) for a in table.attributes)
        return
    for key in ("user", "item", "time", "kind", "request", "slot", "scenario", "price", "event_time"):
        if getattr(table, key):
            yield key, getattr(table, key)
    if table.form == "wide":
        yield from (("exposure", column) for column in table.exposure if column != EVERY)
        yield from ((f"tasks {task}", columns[0]) for task, columns in table.tasks.items())
    yield from ((f"measures {name}", columns[0]) for name, columns in table.measures.items())
    yield from ((f"context {a.name}", a.column) for a in table.context)
    yield from ((f"item_attributes {a.name}", a.column) for a in table.item_attributes)


def _contradictions_of(table: EventTable, requests: str) -> list[str]:
    problems = []
    if table.form not in FORMS:
        return [f"form is {table.form!r}; expected one of {', '.join(FORMS)}"]
    if table.form == "wide":
        if table.kind:
            problems.append('is wide and has a kind; expected form = "long", or no kind')
        if len(table.exposure) != 1:
            problems.append(f'lacks exposure: "{EVERY}" if each row was shown, or the column that is 1 where it was')
        if several := [task for task, names in table.tasks.items() if len(names) != 1]:
            problems.append(f"tasks has {several[0]!r} with several columns; expected one column or condition")
    elif not table.kind:
        kinds = [table.exposure, *table.tasks.values()]
        if any(kind not in ((), (EVERY,)) for kind in kinds) or not any(kinds):
            problems.append(
                f'lacks kind, the column that says what happened; without one want exposure or one task = "{EVERY}"'
            )
    elif EVERY in table.exposure or any(EVERY in kinds for kinds in table.tasks.values()):
        problems.append(f'has the kind {table.kind!r} and "{EVERY}"; expected kinds')
    if several := [name for name, columns in table.measures.items() if len(columns) != 1]:
        problems.append(f"measures has {several[0]!r} with several columns; expected one")
    if table.has_exposures and requests == "column" and not table.request:
        problems.append('lacks request, the column of its requests; or set requests = "session"')
    return problems
