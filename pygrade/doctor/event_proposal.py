"""A schema of raw events (`pygrade.data.event_schema`) for tables of users, items and events.

Only exact names, types, and what is the only one left decide; what else there is, the reader says in the file or by
``--map``. Every column is listed, and the file can be edited.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade.data.event_schema import EVERY
from pygrade.data.event_tables import read_batches
from pygrade.logs.categories import MANY
from pygrade.logs.conversion import ImportNotes, row_times
from pygrade.logs.roles import EXPOSURES, KINDS, NONE, ROLES, is_harm, named, normal, predicted_task
from pygrade.logs.table import Table
from pygrade.logs.table_files import joined
from pygrade.storage import Place

SAMPLE = 200_000  # rows of a table that are looked at, its first
_SINCE = ("since", "valid_from", "updated_at")
_AMOUNTS = ("amount", "revenue", "quantity", "total")
_IDS = {"users": "user_id", "customers": "user_id", "items": "item_id", "products": "item_id"}  # file → whose its id is
_SLOTS_TWICE = 0.01  # of the exposures that share a slot of their request: it covers several pages
_LIKED = 0.8  # of the highest rating, from which on an item is liked
_MOST_KINDS = 50
_COUNTED = 0.9  # of the requests, whose rows a slot counts
_ITEMLESS = 0.5  # of the rows of a kind, above which it is no act on items
_PINGS = ("ping", "heartbeat")
_ACTS = "click|tap|cart|order|buy|bought|purchase|like|share"  # in names of kinds that are never shown
_PAGE = 2.0  # least rows an hour of a user of what is shown, as a page has several
_DENSER = 1.5  # times as many rows an hour of a user as any other kind has, from which on a table is what was shown
_OWN = 0.5  # of the rows of a table with a text of their own: no category
SAY = "say what it is: measures, context or item_attributes"


class Sampled(Table):
    """The first rows of a table that has ``total`` of them at ``places``."""

    def __init__(self, arrow: Any, where: str, places: Sequence[Place], total: int) -> None:
        super().__init__(arrow, where, None, np.arange(len(arrow)))
        self.places, self.total = places, total

    @property
    def stem(self) -> str:
        """The name of its file."""
        return self.where.partition(".")[0]


def sample(places: Sequence[Place], item: str = "") -> Sampled:
    """The first rows of the files of one table; a row an item, if the column ``item`` has lists.

    ValueError names a file that cannot be read, or has no rows.
    """
    tables, rows = list[Table](), 0
    for batch in (batch for place in places for batch in read_batches(place, item)):
        if rows < SAMPLE:
            tables.append(batch.table)
        rows += len(batch)
    names = [str(place).rstrip("/").rpartition("/")[2] for place in places]
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if not tables:
        raise ValueError(f"{where}: no rows")
    arrow = joined([table.arrow for table in tables], [table.where for table in tables], []).slice(0, SAMPLE)
    return Sampled(arrow, where, places, rows)


@dataclass
class TableProposal:
    """The proposed use of a table, as keys of its table in the schema."""

    table: Sampled
    entity: str  # events, users or items
    keys: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)  # key, or "group name" → column and reason
    left_out: dict[str, str] = field(default_factory=dict)  # column → reason
    columns: set[str] = field(default_factory=set)  # that have a use

    def take(self, key: str, column: str, why: str) -> None:
        self.keys[key] = column
        self.why[key] = f"{column} ({why})"
        self.columns |= {column, *column.split("+")}

    def enter(self, group: str, name: str, value: Any, column: str, why: str) -> None:
        """An entry of a group of the table: tasks, measures, attributes."""
        self.keys.setdefault(group, {})[name] = value
        self.why[f"{group} {name}"] = f"{column} ({why})"
        self.columns.add(column)

    def free(self) -> list[str]:
        return [name for name in self.table.names if name not in self.columns and name not in self.left_out]

    def attributes(self) -> Iterator[tuple[str, str, str]]:
        """Name, column and kind of each attribute."""
        for name, description in self.keys.get("attributes", {}).items():
            yield (
                (name, description["column"], description["kind"])
                if isinstance(description, dict)
                else (name, name, description)
            )


@dataclass
class SchemaProposal:
    """A whole schema."""

    top: dict[str, Any]
    tables: list[TableProposal]
    notes: list[str]  # what a reader should know
    open: list[str]  # what the reader must say before it can be read


def slug(name: str) -> str:
    """A name with letters, digits and _ alone.

    >>> slug("Farbe (außen)"), slug("Add-to-Cart")
    ('farbe_außen', 'add_to_cart')
    """
    return re.sub(r"\W+", "_", name).strip("_").lower() or "column"


def propose_schema(
    tables: Sequence[Sampled],
    stated_roles: Mapping[str, str],
    values: Mapping[str, float],
    value_tasks: Sequence[str] = (),
) -> SchemaProposal:
    """Args: given: role → column(s), as `parse_map` reads them; values: worth of the tasks; value_tasks: those that the
    price multiplies.
    """
    _check_given(tables, stated_roles)
    ids = [[_id(table, role, stated_roles) for role in ("user_id", "item_id")] for table in tables]
    lacking = [table for table, pair in zip(tables, ids, strict=True) if not any(pair)]
    said = "{0.where} has no column known for ids of users or items; it has {1}"
    if problems := [said.format(table, ", ".join(table.names)) for table in lacking]:
        raise ValueError(f"{'; '.join(problems)}; name them, --map user=COLUMN,item=COLUMN, or leave the table out")
    proposals, stated_roles = list[TableProposal](), {**stated_roles, "y_kind": _kind_column(tables, stated_roles)}
    for table, (user, item) in zip(tables, ids, strict=True):
        entity = "users" if user else "items"
        both = user and item
        proposals.append(_events(table, user, item, stated_roles) if both else _attributes(table, entity, user or item))
    events = [proposal for proposal in proposals if proposal.entity == "events"]
    if not events:
        raise ValueError(
            "no table has users and items, so none is of events; expected one with user, item and time in each row: "
            "--map user=COLUMN,item=COLUMN"
        )
    notes, unknown = list[str](), list[str]()
    _choose_exposures(events, stated_roles, notes, unknown)
    top: dict[str, Any] = {"name": "events", "requests": _requests(events, notes)}
    tasks = list(dict.fromkeys(task for proposal in events for task in proposal.keys.get("tasks", {})))
    if missing := [task for task in (*values, *value_tasks) if task not in tasks]:
        raise ValueError(f"values or value_tasks name {missing[0]!r}; expected some of the tasks {', '.join(tasks)}")
    top["values"] = {task: float(values.get(task, -1.0 if is_harm(task) else 1.0)) for task in tasks}
    harm = [task for task in tasks if is_harm(task) and task not in values]
    notes += [f"{task!r} is harm, by its name: worth -1 (key values)" for task in harm]
    _rename_twins(proposals)
    attributes = [attribute for p in proposals if p.entity == "items" for attribute in p.attributes()]
    stated = {column: name for name, column, _ in attributes}
    categories = [name for name, _, kind in attributes if kind in ("categorical", "hashed")]
    dense = [name for name, _, kind in attributes if kind == "dense"]
    carried = ["price"] if any("price" in p.keys for p in events) else []
    only = categories if len(categories) == 1 else []
    for key, role, names, more in (("category", "category", categories, only), ("price", "value", dense, carried)):
        chosen = [stated[stated_roles[role]]] if stated_roles.get(role) in stated else []
        if chosen := [*chosen, *named(names, ROLES[role].names), *more]:
            top[key] = chosen[0]
    if value_tasks:
        if "price" not in top:
            raise ValueError(f"value_tasks is {tuple(value_tasks)}, and no item attribute is named like a price")
        top["value_tasks"] = list(value_tasks)
    if not tasks:
        unknown.append('no column is known for feedback: write tasks = { NAME = "COLUMN" }, or --map NAME=COLUMN')
    order = {"events": 0, "users": 1, "items": 2}
    proposals.sort(key=lambda proposal: order[proposal.entity])
    return SchemaProposal(top, proposals, [*_ratings(events), *notes], unknown)


# ---- users and items -------------------------------------------------------------------------------------------------
def _check_given(tables: Sequence[Sampled], stated_roles: Mapping[str, str]) -> None:
    """ValueError names a column or kind that no table has."""
    names = {name for table in tables for name in table.names}
    texts = {level for t in tables for n in t.names if t.kind(n) == "text" for level in t.levels(n)[:MANY]}
    texts |= {NONE, *(table.stem for table in tables)}
    for role, column in stated_roles.items():
        parts = [column] if column in names else column.split("+")
        wanted, what = (
            (names | texts, "kind, table or column") if role.startswith("y_") else (names | {NONE, ""}, "column")
        )
        if bad := [single for single in parts if single not in wanted]:
            near = difflib.get_close_matches(bad[0], sorted(wanted), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"map names {bad[0]!r}, and no table has such a {what}{hint}")


def _id(table: Sampled, role: str, stated_roles: Mapping[str, str]) -> str:
    """The column of ids of a table, or nothing."""
    names = table.names
    if role in stated_roles and all(name in names for name in stated_roles[role].split("+")):
        return stated_roles[role]
    aliases = (*ROLES[role].names, *(("id",) if _IDS.get(table.stem.lower()) == role else ()))
    return next((n for n in named(names, aliases) if table.kind(n) in ("integer", "text", "number")), "")


def _attributes(table: Sampled, entity: str, key: str) -> TableProposal:
    proposal = TableProposal(table, entity, {"files": list(table.places)})
    proposal.take("id", key, "by its name")
    if table.distinct(key) < len(table):
        since = (*_SINCE, *ROLES["timestamp"].names)
        if times := list(filter(table.is_time, named(proposal.free(), since))):
            proposal.take("time", times[0], "several rows an id: since when each is so")
    for name in proposal.free():
        kind, why = attribute_kind(table, name)
        if kind and "time" in proposal.keys and kind in ("time", "list", "embedding") and entity == "users":
            kind, why = "", f"{kind} of users that changes over time: no feature"
        if kind:
            label = slug(name)
            value: Any = kind if label == name else {"column": name, "kind": kind}
            proposal.enter("attributes", label, value, name, why)
        else:
            proposal.left_out[name] = why
    return proposal


def attribute_kind(table: Sampled, name: str) -> tuple[str, str]:
    """The kind of an attribute, or nothing; and why."""
    if table.kind(name) == "list":
        return "list", "lists"
    if table.kind(name) == "vector":
        lengths = require("pyarrow.compute").list_value_length(table.column(name)).unique().to_pylist()
        sizes = set(lengths) - {None}
        return ("embedding", f"{sizes.pop()} numbers each") if len(sizes) == 1 else ("", "lists of several lengths")
    kind, distinct = table.kind(name), table.distinct(name)
    if kind in ("other", "struct", "empty"):
        return "", f"type {table.type_of(name)}"
    if distinct < 2:
        return "", "the same value everywhere"
    if table.is_time(name):
        return "time", "times"
    if table.is_flag(name) or kind == "bool":
        return "categorical", "yes and no"
    if table.is_numeric(name) and not table.has_levels(name):
        if kind == "integer" and normal(name).endswith("id"):
            return ("categorical" if distinct <= MANY else "hashed"), "ids, by its name"
        return "dense", "numbers"
    if distinct > _OWN * len(table):
        return "", f"text of its own in most rows ({distinct:,})"
    return ("categorical" if distinct <= MANY else "hashed"), f"{distinct:,} texts"


def _rename_twins(proposals: Sequence[TableProposal]) -> None:
    """Attributes of one name in several tables of an entity get the table's name in front."""
    count = Counter((p.entity, name) for p in proposals for name, *_ in p.attributes())
    for proposal in proposals:
        for name, column, kind in list(proposal.attributes()):
            if count[proposal.entity, name] > 1:
                del proposal.keys["attributes"][name]
                label, why = f"{slug(proposal.table.stem)}_{name}", proposal.why.pop(f"attributes {name}")
                proposal.keys["attributes"][label] = {"column": column, "kind": kind}
                proposal.why[f"attributes {label}"] = why


# ---- events ----------------------------------------------------------------------------------------------------------
def _events(table: Sampled, user: str, item: str, stated_roles: Mapping[str, str]) -> TableProposal:
    proposal = TableProposal(table, "events", {"files": list(table.places), "form": "wide"})
    proposal.take("user", user, "given" if "user_id" in stated_roles else "by its name")
    proposal.take("item", item, "given" if "item_id" in stated_roles else "by its name")
    proposal.left_out |= {name: "as you say" for name in stated_roles.get("skip", "").split("+") if name in table.names}
    times = [name for name in named(proposal.free(), ROLES["timestamp"].names) if table.is_time(name)]
    times = times or [name for name in proposal.free() if table.is_time(name)]
    if stated_roles.get("timestamp") in table.names:
        proposal.take("time", stated_roles["timestamp"], "given")
    elif times and (len(times) == 1 or normal(times[0]) in map(normal, ROLES["timestamp"].names)):
        proposal.take("time", times[0], "times")
    else:
        raise ValueError(f"{table.where} has no column known for the time; expected one: --map time=COLUMN")
    for key, role in (("request", "request_id"), ("slot", "position"), ("scenario", "scenario"), ("price", "value")):
        if stated_roles.get(role) in table.names:
            proposal.take(key, stated_roles[role], "given")
        elif role not in stated_roles:
            kinds = (*ROLES[role].kinds, "integer")  # a scenario may have a number
            if columns := [n for n in named(proposal.free(), ROLES[role].names) if table.has_kind(n, kinds)][:1]:
                proposal.take(key, columns[0], "by its name")
    if "position" not in stated_roles and "slot" not in proposal.keys and len(counts := _counting(proposal)) == 1:
        proposal.take("slot", counts[0], "it counts the rows of a request")
    _feedback(proposal, stated_roles)
    for name in named(proposal.free(), _AMOUNTS):
        if table.is_numeric(name):
            proposal.enter("measures", slug(name), name, name, "an amount, by its name")
    for name in proposal.free():
        prediction = predicted_task(name) and table.is_numeric(name)
        proposal.left_out[name] = "a prediction: the pipeline trains a model of its own" if prediction else SAY
    return proposal


def _counting(proposal: TableProposal) -> list[str]:
    """The columns that count the rows of a request, from 0 or 1 on."""
    table, request = proposal.table, proposal.keys.get("request", "+")
    if request not in table.names:
        return []
    code, result = table.codes(request), list[str]()
    for name in (name for name in proposal.free() if table.kind(name) == "integer"):
        values = table.numbers(name)
        known = ~np.isnan(values) & (code >= 0)
        if not known.any() or (first := values[known].min()) not in (0, 1):
            continue
        pairs = np.unique(np.stack([code[known], values[known].astype(np.int64)]), axis=1)
        size, last = np.bincount(pairs[0]), np.zeros(int(code.max()) + 1, np.int64)
        np.maximum.at(last, pairs[0], pairs[1])
        whole = (last[: len(size)] - first + 1 == size)[size > 0]
        if len(pairs[0]) > _COUNTED * known.sum() and whole.mean() > _COUNTED and size.max() > 1:
            result.append(name)
    return result


def _kind_column(tables: Sequence[Sampled], stated_roles: Mapping[str, str]) -> str:
    """The column of kinds in all tables: given, or that holds the kinds of the exposure in one of them."""
    kinds = {*filter(None, stated_roles.get("y_exposure", "").split("+"))}
    named_texts = [(table, name) for table in tables if kinds for name in _texts(table, table.names)]
    holding = [name for table, name in named_texts if kinds <= {*table.levels(name)}]
    return stated_roles.get("y_kind") or next(iter(holding), "")


def _texts(table: Sampled, names: Sequence[str]) -> list[str]:
    return [name for name in names if table.kind(name) == "text" and not table.is_numeric(name)]


def _kind_of(proposal: TableProposal, stated_kind: str) -> str:
    """The column of kinds of a table, or nothing."""
    table, texts = proposal.table, _texts(proposal.table, proposal.free())
    if stated_kind in table.names:
        return stated_kind
    known = named(texts, KINDS)
    if not known and not any(table.is_flag(name) for name in proposal.free()):  # else of the item, or the page
        known = [name for name in named(texts, ("type",)) if 1 < table.distinct(name) <= _MOST_KINDS]
    return next(iter(known), "")


def _no_acts(proposal: TableProposal, kind: str) -> list[str]:
    """Kinds that are no acts on items: pings, and rows without an item."""
    table, item = proposal.table, proposal.keys["item"].split("+")[0]
    without, codes = table.nulls(item), table.codes(kind)
    if table.kind(item) == "text":
        without |= np.append([not level.strip() for level in table.levels(item)], True)[table.codes(item)]
    levels = enumerate(table.levels(kind))
    return [text for n, text in levels if slug(text).endswith(_PINGS) or without[codes == n].mean() > _ITEMLESS]


def _feedback(proposal: TableProposal, stated_roles: Mapping[str, str]) -> None:
    """Kinds of long events; else the flags of wide ones, or a rating."""
    table = proposal.table
    stated = {role[2:]: column for role, column in stated_roles.items() if role.startswith("y_")}
    exposure, kind = stated.pop("exposure", ""), stated.pop("kind", "")
    every = exposure == table.stem  # the whole table was shown
    kind = "" if every else _kind_of(proposal, kind)
    if kind:
        levels = table.levels(kind)
        proposal.keys["form"] = "long"
        proposal.take("kind", kind, "given" if kind == stated_roles["y_kind"] else "by its name")
        none = {level for level in levels if NONE in (stated.get(slug(level)), stated.get(level))}
        known = [] if exposure else [level for level in named(levels, EXPOSURES) if level not in none][:1]
        proposal.keys["exposure"] = [e for e in exposure.split("+") if e in levels] or known
        tasks = {task: column.split("+") for task, column in stated.items() if {*column.split("+")} <= {*levels}}
        told = {level for some in tasks.values() for level in some} | {*proposal.keys["exposure"]}
        told |= {*none, *_no_acts(proposal, kind)}
        tasks |= {slug(level): [level] for level in levels if level not in told}
        for task, some in tasks.items():
            proposal.enter("tasks", task, some if len(some) > 1 else some[0], kind, f"a kind of {kind}")
    else:
        shown = [exposure] if exposure in table.names else []
        shown = shown or [name for name in named(proposal.free(), ROLES["shown"].names) if table.is_flag(name)]
        proposal.keys["exposure"] = shown[0] if shown else EVERY if every else ""
        proposal.columns |= {*shown}
        for task, column in stated.items():
            if column in table.names:
                proposal.enter("tasks", task, column, column, "given")
        for name in proposal.free():
            if table.is_flag(name) and not predicted_task(name):
                label = re.sub(r"^(is|has|was|did|y)_", "", slug(name))
                if stated.get(label) != NONE:
                    proposal.enter("tasks", label, name, name, "yes and no")
        ratings = named(proposal.free(), ("rating",))
        if ratings and not proposal.keys.get("tasks") and table.is_numeric(ratings[0]):
            highest = float(np.nanmax(table.numbers(ratings[0])))
            proposal.enter(
                "tasks", "liked", f'"{ratings[0]}" >= {_LIKED * highest:g}', ratings[0], "a rating, and high"
            )
            proposal.enter("measures", slug(ratings[0]), ratings[0], ratings[0], "a rating")
        if proposal.keys.get("tasks") and not proposal.keys["exposure"]:
            proposal.keys["exposure"] = EVERY
    if proposal.keys["exposure"]:
        proposal.why["exposure"] = f"{proposal.keys['exposure']}"


# ---- exposures and requests ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Stream:
    """The rows of one kind in a table, and how many there are an hour of a user."""

    proposal: TableProposal
    kind: str  # EVERY of a table without kinds
    density: float
    alone: bool  # the only kind of its table

    @property
    def shown(self) -> bool:
        """It is an exposure."""
        exposure = self.proposal.keys["exposure"]
        return bool(exposure) and (self.kind == EVERY or self.kind in exposure)

    @property
    def name(self) -> str:
        """The value of --map exposure=."""
        return self.proposal.table.stem if self.kind == EVERY else self.kind


def _streams(events: Sequence[TableProposal]) -> list[_Stream]:
    """All kinds of events, the densest first."""
    result = []
    for proposal in events:
        table, keys, masks = proposal.table, proposal.keys, {EVERY: np.ones(len(proposal.table), bool)}
        if kind := keys.get("kind", ""):
            used = [*keys["exposure"], *(text for task in keys.get("tasks", {}).values() for text in _listed(task))]
            codes = table.codes(kind)
            masks = {text: codes == n for n, text in enumerate(table.levels(kind)) if text in used}
        hour = row_times(table, keys["time"], ImportNotes()) // 3_600_000
        users = np.stack([table.codes(name) for name in keys["user"].split("+")])
        for text, rows in masks.items():
            cells = np.unique(np.concatenate([users[:, rows], hour[None, rows]]), axis=1).shape[1]
            result.append(_Stream(proposal, text, rows.sum() / max(cells, 1), len(masks) == 1))
    return sorted(result, key=lambda stream: -stream.density)


def _listed(task: str | list[str]) -> list[str]:
    return [task] if isinstance(task, str) else task


def _show(stream: _Stream, why: str) -> None:
    """A kind of events is the exposure, and no task."""
    keys, why_of = stream.proposal.keys, stream.proposal.why
    for task in [task for task, kinds in keys.get("tasks", {}).items() if stream.kind in _listed(kinds)]:
        del keys["tasks"][task], why_of[f"tasks {task}"]
    keys["exposure"] = EVERY if stream.kind == EVERY else [stream.kind]
    why_of["exposure"] = f"{stream.kind} ({why})"


def _choose_exposures(
    events: Sequence[TableProposal], stated_roles: Mapping[str, str], notes: list[str], unknown: list[str]
) -> None:
    """Tables of one kind of event: of what was shown, by the names of their files or as none has more rows an hour of a
    user; and feedback. Where two readings remain, the question is added to ``unknown``, with a proposal.
    """
    plain = [p for p in events if p.keys["form"] == "wide" and not p.keys.get("tasks") and not p.keys["exposure"]]
    for proposal in plain:
        proposal.keys |= {"form": "long", "exposure": []}
        if normal(proposal.table.stem) in {form for word in EXPOSURES for form in (word, f"{word}s")}:
            proposal.keys["exposure"] = EVERY
            proposal.why["exposure"] = f"{EVERY} (by the file's name)"
    streams = _streams(events)
    shown = [stream for stream in streams if stream.shown]
    sure = "y_exposure" in stated_roles or any(
        stream.alone or stream.proposal.keys["form"] == "wide" for stream in shown
    )
    apart = [stream for stream in streams if stream.alone and not re.search(_ACTS, stream.name.lower())]
    if apart and not sure and len(streams) > 1:
        densest = max([0.0, *(stream.density for stream in streams if stream is not apart[0])])
        if apart[0].density > max(_PAGE, _DENSER * densest):
            for proposal in (p for p in events if p.keys.get("kind") and p.keys["exposure"]):
                (kind,) = proposal.keys["exposure"]
                proposal.keys["exposure"] = []
                proposal.enter("tasks", slug(kind), kind, proposal.keys["kind"], "not the exposure: others are denser")
            _show(apart[0], "no other has as many rows an hour of a user")
            notes.append(f"{apart[0].name} is what was shown: {apart[0].density:.2g} rows an hour of a user")
        elif shown and apart[0].density * _DENSER > densest:
            unknown.append(
                f"what was shown, {apart[0].name} ({apart[0].density:.2g} rows an hour of a user) or "
                f"{shown[0].name} ({shown[0].density:.2g})? Say --map exposure={apart[0].name}, or the other one"
            )
    for proposal in (p for p in plain if not p.keys["exposure"]):
        proposal.enter("tasks", slug(proposal.table.stem), EVERY, "every row", "by the file's name")
    if not any(p.keys.get("exposure") for p in events):
        kinds = sorted({task for p in events for task in p.keys.get("tasks", {})})
        unknown.append(
            f"no kind of event is an exposure ({', '.join(kinds)}): nobody knows what users saw and passed over, so "
            "nothing can be learned of an order; add a table of what was shown, or say which kind counts as shown: "
            f'exposure = ["KIND"], or --map exposure=KIND ({streams[0].name} has most rows an hour of a user)'
        )


def _requests(events: Sequence[TableProposal], notes: list[str]) -> str:
    shown = [p for p in events if p.keys.get("exposure")]
    if not shown or not all("request" in p.keys for p in shown):
        notes.append(
            'requests are sessions: exposures of a user to a gap of 30 minutes (key gap_minutes; or requests = "day")'
        )
        return "session"
    for proposal in shown:
        table = proposal.table
        if "slot" not in proposal.keys or "+" in proposal.keys["request"]:
            continue
        request, slot = table.codes(proposal.keys["request"]), table.numbers(proposal.keys["slot"], gaps=True)
        listed = ~np.isnan(slot) & (request >= 0)
        pairs = np.stack([request[listed], slot[listed].astype(np.int64)], 1)
        if len(pairs) and 1 - len(np.unique(pairs, axis=0)) / len(pairs) > _SLOTS_TWICE:
            notes.append(
                f"{proposal.keys['request']!r} covers several pages, as slots come again: a request ends where slots "
                'begin again (requests = "session")'
            )
            return "session"
    return "column"


def _ratings(events: Sequence[TableProposal]) -> Iterator[str]:
    for proposal in events:
        if "liked" in proposal.keys.get("tasks", {}) and proposal.keys["exposure"] == EVERY:
            yield (
                f"{proposal.table.where} holds ratings: each counts as an exposure, liked or not. That tells which of "
                "the items that users rated they like; not what they would choose, as nobody knows what they passed "
                "over, and nothing of slots"
            )
