"""A schema of raw events (`pygrade.data.event_schema`) that tables of users, items and events suggest.

Names of columns, in some languages, come first, then values: what an id of another table is, what is the same for all
rows of an item, a request or a user's visit. Every guess is listed, and the file can be edited.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.data.event_schema import EVERY
from pygrade.doctor.table_columns import Sampled, attribute_kind, sentinel
from pygrade.logs.column_names import event_of, exposure_rank, is_prediction, names_event, names_harm, words
from pygrade.logs.conversion import NEVER, ImportNotes, row_times

_KINDS, _NAMED = 50, 0.5  # kinds of events, at most; share of them that a name of an event must have
_OVERLAP = 0.3  # of the ids of one table that another one has
_SLOTS_TWICE = 0.01  # of the exposures that share a slot of their request: it covers several pages
_RATINGS, _LIKED = 25, 0.8  # values of ratings, at most; of the highest, from which on an item is liked
_EXPLORED = {"rand", "random", "randomized", "explore", "exploration", "shuffled"}
_EXPORTED = {"loaded", "exported", "snapshot", "extracted", "imported", "ingested"}
_SINCE = {"since", "valid", "effective", "updated", "changed", "gueltig", "stand", "depuis", "desde"}
_PROPERTIES = {"property", "attribute", "feature", "field"}
_OF_USERS = {
    "user",
    "users",
    "customer",
    "customers",
    "kunden",
    "nutzer",
    "clients",
    "utilisateurs",
    "people",
    "members",
}
_OF_ITEMS = {
    "item",
    "items",
    "product",
    "products",
    "articles",
    "artikel",
    "produkte",
    "produits",
    "catalog",
    "catalogue",
}
_OF_ITEMS |= {"movies", "videos", "songs", "books", "goods", "katalog"}


@dataclass
class TableProposal:
    """What a table is, as keys of its table in the schema."""

    table: Sampled
    entity: str  # events, users or items
    keys: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)  # key, or "group name" → column and reason
    left_out: dict[str, str] = field(default_factory=dict)  # column → reason

    def take(self, key: str, column: str, why: str) -> None:
        self.keys[key] = column
        self.why[key] = f"{column} ({why})"

    def enter(self, group: str, name: str, value: Any, column: str, why: str) -> None:
        """An entry of a group of the table: tasks, measures, attributes, context, item_attributes."""
        self.keys.setdefault(group, {})[name] = value
        self.why[f"{group} {name}"] = f"{column} ({why})"
        self.columns.add(column)

    def __post_init__(self) -> None:
        self.columns: set[str] = set()  # that entries of groups read

    def free(self) -> list[str]:
        taken = {*self.columns, *self.left_out, *(v for v in self.keys.values() if isinstance(v, str))}
        return [name for name in self.table.names if name not in taken]


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
    tables: Sequence[Sampled], given: Mapping[str, str], values: Mapping[str, float], value_tasks: Sequence[str] = ()
) -> SchemaProposal:
    """Args: given: role → column(s), as `parse_map` reads them; values: worth of the tasks; value_tasks: those that the
    price multiplies.
    """
    _check_given(tables, given)
    ids = _find_ids(tables, given)
    problems = [
        f"{table.where} has no column known for ids of users or items; it has {', '.join(table.names)}"
        for table, found in zip(tables, ids, strict=True)
        if not any(found)
    ]
    if problems:
        raise ValueError(f"{'; '.join(problems)}; name them, --map user=COLUMN,item=COLUMN, or leave the table out")
    proposals = []
    for table, (user, item) in zip(tables, ids, strict=True):
        if user and item:
            proposals.append(_events(table, user, item, given))
        else:
            proposals.append(_attributes(table, "users" if user else "items", user or item))
    events = [proposal for proposal in proposals if proposal.entity == "events"]
    if not events:
        raise ValueError(
            "no table has users and items, so none is of events; want one with a user, an item and a time in each row: "
            "--map user=COLUMN,item=COLUMN"
        )
    notes, unknown = list[str](), list[str]()
    _choose_exposures(events, unknown)
    top: dict[str, Any] = {"name": "events", "requests": _requests(events, notes)}
    tasks = list(dict.fromkeys(task for proposal in events for task in proposal.keys.get("tasks", {})))
    if missing := [task for task in (*values, *value_tasks) if task not in tasks]:
        raise ValueError(f"values or value_tasks name {missing[0]!r}; want some of the tasks {', '.join(tasks)}")
    top["values"] = {task: float(values.get(task, -1.0 if names_harm(task) else 1.0)) for task in tasks}
    harm = [task for task in tasks if names_harm(task) and task not in values]
    notes += [f"{task!r} is harm, by its name: worth -1 (key values)" for task in harm]
    _rename_twins(proposals)
    if category := _category(proposals):
        top["category"] = category
    if price := _price(proposals):
        top["price"] = price
    if value_tasks:
        if not price:
            raise ValueError(f"value_tasks is {tuple(value_tasks)}, and no item attribute is named like a price")
        top["value_tasks"] = list(value_tasks)
    if not tasks:
        unknown.append('no column is known for feedback: write tasks = { NAME = "COLUMN" }, or --map NAME=COLUMN')
    order = {"events": 0, "users": 1, "items": 2}
    proposals.sort(key=lambda proposal: order[proposal.entity])
    return SchemaProposal(top, proposals, [*_ratings(events), *notes], unknown)


# ---- users and items -------------------------------------------------------------------------------------------------
def _check_given(tables: Sequence[Sampled], given: Mapping[str, str]) -> None:
    """ValueError names a column or kind that no table has."""
    names = {name for table in tables for name in table.names}
    for role, column in given.items():
        parts, wanted = [column] if column in names else column.split("+"), names
        if role.startswith("y_"):
            texts = {
                level for table in tables for n in table.names if _are_kinds(table, n) for level in table.levels(n)
            }
            wanted = names | texts
            bad = [part for part in parts if part not in wanted and not any(name in part for name in names)]
            what = "kind or column"
        else:
            bad = [part for part in parts if part not in names and part not in ("none", "")]
            what = "column"
        if bad:
            near = difflib.get_close_matches(bad[0], sorted(wanted), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"map names {bad[0]!r}, and no table has such a {what}{hint}")


def _find_ids(tables: Sequence[Sampled], given: Mapping[str, str]) -> list[tuple[str, str]]:
    """The columns of users and items of each table, empty where it has none."""
    roles = ("user_id", "item_id")
    found = [{role: _named_id(table, role, given) for role in roles} for table in tables]
    for table, mine in zip(tables, found, strict=True):  # what a file's name says of a column named id
        own = set(words(table.where.partition(".")[0]))
        key = next((n for n in table.names if words(n) == ["id"] or table.is_key(n)), "")
        for role, known in zip(roles, (_OF_USERS, _OF_ITEMS), strict=True):
            if key and not any(mine.values()) and own & known:
                mine[role] = key
    known_ids = [(t, role, mine[role]) for t, mine in zip(tables, found, strict=True) for role in roles if mine[role]]
    for table, mine in zip(tables, found, strict=True):  # ids that other tables have
        attributes = any(name and table.is_key(name) for name in mine.values())  # whose numbers are no ids
        for other, role, column in known_ids if not attributes else ():
            if other is not table and not mine[role] and "+" not in column:
                free = [n for n in table.names if n not in mine.values()]
                mine[role] = next((n for n in free if _overlap(table, n, other, column)), "")
        by_values = all(mine[role] and not _named_id(table, role, given) for role in roles)
        if by_values and not any(table.is_time(name) for name in table.names):  # two numbers, such as a tree
            mine.update(dict.fromkeys(roles, ""))
    return [(mine["user_id"], mine["item_id"]) for mine in found]


def _named_id(table: Sampled, role: str, given: Mapping[str, str]) -> str:
    column = given.get(role, "")
    if column and all(part in table.names for part in column.split("+")):
        return column
    fits = [
        n for n in table.named(role) if not table.is_list(n) and table.table.kind(n) in ("integer", "text", "number")
    ]
    return fits[0] if fits and not column else ""


def _overlap(table: Sampled, name: str, other: Sampled, key: str) -> bool:
    if table.is_list(name) or table.table.kind(name) != other.table.kind(key) or table.distinct(name) < 2:
        return False
    mine, others = set(table.table.texts(name).tolist()), set(other.table.texts(key).tolist())
    share = len(mine & others) / max(len(mine), 1)
    return share >= _OVERLAP and (table.table.kind(name) == "text" or len(mine) > 0.05 * len(others))


def _attributes(table: Sampled, entity: str, key: str) -> TableProposal:
    proposal = TableProposal(table, entity, {"files": list(table.places)})
    proposal.take("id", key, "its rows" if table.is_key(key) else "by its name")
    times = [name for name in proposal.free() if table.is_time(name)]
    times.sort(key=lambda name: not set(words(name)) & _SINCE)
    if not table.is_key(key) and times and table.distinct(key) < len(table.table):
        proposal.take("time", times[0], "several rows an id: since when each is so")
    unknown = set[float]()
    names = {word for name in table.names for word in words(name)}
    if names & _PROPERTIES and "value" in names:
        why = "a row a property: make it a table with a column for each property"
        proposal.left_out |= dict.fromkeys(proposal.free(), why)
    for name in proposal.free():
        if set(words(name)) & _EXPORTED and table.is_time(name):
            proposal.left_out[name] = "when the table was written"
            continue
        kind, why = attribute_kind(table, name)
        dated = "time" in proposal.keys and kind in ("time", "list", "embedding") and entity == "users"
        if not kind or dated:
            proposal.left_out[name] = f"{kind} of users that changes over time: no feature" if dated else why
            continue
        if (nothing := sentinel(table, name)) is not None:
            unknown.add(nothing)
        _enter_attribute(proposal, "attributes", name, kind, why)
    if unknown:
        proposal.keys["unknown"] = sorted(int(value) for value in unknown)
        proposal.why["unknown"] = "the one number below 0 in some columns"
    return proposal


def _enter_attribute(proposal: TableProposal, group: str, name: str, kind: str, why: str) -> None:
    label = slug(name)
    value: Any = kind if label == name else {"column": name, "kind": kind}
    proposal.enter(group, label, value, name, why)


def _rename_twins(proposals: Sequence[TableProposal]) -> None:
    """Attributes of one name in several tables of an entity get the table's name in front."""
    for entity, groups in (("users", ("attributes",)), ("items", ("attributes", "item_attributes"))):
        seen = set[str]()
        for proposal in proposals:
            for group in groups if proposal.entity in (entity, "events") else ():
                if proposal.entity == "events" and group == "attributes":
                    continue
                entries = proposal.keys.get(group, {})
                for name in [name for name in entries if name in seen]:
                    column = entries[name]["column"] if isinstance(entries[name], dict) else name
                    kind = entries[name]["kind"] if isinstance(entries[name], dict) else entries[name]
                    label = f"{slug(proposal.table.where.partition('.')[0])}_{name}"
                    del entries[name]
                    entries[label] = {"column": column, "kind": kind}
                    proposal.why[f"{group} {label}"] = proposal.why.pop(f"{group} {name}")
                seen |= set(entries)


def _category(proposals: Sequence[TableProposal]) -> str:
    """The item attribute to count over: the one with a name for that, else the first with few values."""
    found: list[tuple[bool, bool, bool, int, str]] = []
    for proposal in proposals:
        for name, entry in proposal.keys.get("attributes", {}).items() if proposal.entity == "items" else ():
            column, kind = (entry["column"], entry["kind"]) if isinstance(entry, dict) else (name, entry)
            if kind in ("categorical", "hashed") and proposal.table.distinct(column) > 1:
                named = column in proposal.table.named("group")
                found.append((not named, kind == "hashed", proposal.table.is_flag(column), len(found), name))
    return min(found)[-1] if found else ""


def _price(proposals: Sequence[TableProposal]) -> str:
    """The item attribute with a name of a price; of the items' tables first."""
    for proposal in proposals:
        for name, entry in proposal.keys.get("attributes", {}).items() if proposal.entity == "items" else ():
            column, kind = (entry["column"], entry["kind"]) if isinstance(entry, dict) else (name, entry)
            if kind == "dense" and column in proposal.table.named("price"):
                return str(name)
    return "price" if any("price" in proposal.keys for proposal in proposals if proposal.entity == "events") else ""


# ---- events ----------------------------------------------------------------------------------------------------------
def _events(table: Sampled, user: str, item: str, given: Mapping[str, str]) -> TableProposal:
    proposal = TableProposal(table, "events", {"files": list(table.places), "form": "wide"})
    proposal.take("user", user, "given" if "user_id" in given else "id")
    proposal.take("item", item, "given" if "item_id" in given else "id")
    for name in given.get("skip", "").split("+"):
        if name in table.names:
            proposal.left_out[name] = "as you say"
    time = given.get("timestamp", "")
    fits = [
        name for name in [*table.named("timestamp"), *table.names] if name in proposal.free() and table.is_time(name)
    ]
    if time not in table.names and not fits:
        raise ValueError(f"{table.where} has no column known for the time; want one: --map time=COLUMN")
    column = time if time in table.names else fits[0]
    proposal.take("time", column, "given" if column == time else "times")
    millis = row_times(table.table, column, ImportNotes())
    for key, role, why in (("request", "request_id", "requests of one user"), ("slot", "position", "by its name")):
        names = [given[role]] if given.get(role) in table.names else table.named(role, sorted(proposal.columns))
        names = [name for name in names if name in proposal.free() and _fits(table, key, name, user)]
        if names and given.get(role) != "none":
            proposal.take(key, names[0], "given" if names[0] == given.get(role) else why)
    group = table.codes(proposal.keys["request"]) if "request" in proposal.keys else table.runs(user, millis)
    _feedback(proposal, given)
    _rest(proposal, group, millis)
    return proposal


def _fits(table: Sampled, key: str, name: str, user: str) -> bool:
    if table.is_list(name):
        return False
    if key == "slot":
        values = table.numbers(name) if table.is_numeric(name) else np.full(1, np.nan)
        known = values[~np.isnan(values)]
        return bool(len(known)) and bool((known == np.round(known)).all()) and float(known.max()) < 100_000
    codes = table.codes(name)
    known_rows = int((codes >= 0).sum())
    return table.distinct(name) < 0.95 * known_rows and _of_one(codes, table.codes(user.split("+")[0]))


def _of_one(code: NDArray[np.int64], user: NDArray[np.int64]) -> bool:
    """Has nearly each code one user?"""
    pairs = np.unique(np.stack([code, user], 1)[code >= 0], axis=0)
    return len(pairs) <= 1.001 * len(np.unique(pairs[:, 0]))


def _feedback(proposal: TableProposal, given: Mapping[str, str]) -> None:
    """Kinds of long events; else the flags of wide ones, or a rating."""
    table = proposal.table
    stated = {role[2:]: column for role, column in given.items() if role.startswith("y_")}
    exposure, kind = stated.pop("exposure", ""), stated.pop("kind", "")
    kinds = [kind] if kind in table.names else [n for n in table.named("kind") if _are_kinds(table, n)]
    kinds += [name for name in table.names if _are_kinds(table, name, sure=True)]
    kinds = [name for name in kinds if name in proposal.free()]
    if kinds:
        proposal.keys["form"] = "long"
        proposal.take("kind", kinds[0], "given" if kinds[0] == kind else "kinds of events")
        levels = table.levels(kinds[0])
        best = max(map(exposure_rank, levels))
        shown = (
            exposure.split("+") if exposure else [level for level in levels if best and exposure_rank(level) == best]
        )
        proposal.keys["exposure"] = [level for level in shown if level in levels]
        tasks = {task: kinds.split("+") for task, kinds in stated.items()}
        tasks = {task: kinds for task, kinds in tasks.items() if set(kinds) & set(levels)}
        for level in levels if not tasks else ():
            if level not in shown:
                tasks.setdefault(slug(level), []).append(level)
        for task, found in tasks.items():
            proposal.enter("tasks", task, found if len(found) > 1 else found[0], kinds[0], "a kind of event")
        return
    for task, column in stated.items():
        if column in table.names or any(name in column for name in table.names):
            proposal.enter("tasks", task, column, column, "given")
    flags = [name for name in proposal.free() if table.is_flag(name) and not set(words(name)) & _EXPLORED]
    shown_flags = [name for name in table.named("shown") if name in flags]
    proposal.keys["exposure"] = exposure or (shown_flags[0] if shown_flags else "")
    for name in flags if not stated else ():
        if name not in shown_flags and not is_prediction(name) and (names_event(name) or words(name)[0] in _PREFIXES):
            proposal.enter("tasks", slug(event_of(name)), name, name, "0 and 1")
    ratings = [name for name in table.named("rating") if name in proposal.free() and _are_ratings(table, name)]
    if ratings and not proposal.keys.get("tasks"):
        highest = float(np.nanmax(table.numbers(ratings[0])))
        proposal.enter("tasks", "liked", f'"{ratings[0]}" >= {_LIKED * highest:g}', ratings[0], "a rating, and high")
        proposal.enter("measures", slug(ratings[0]), ratings[0], ratings[0], "a rating")
        proposal.keys["exposure"] = EVERY
    elif proposal.keys.get("tasks") and not proposal.keys["exposure"]:
        proposal.keys["exposure"] = EVERY
    if proposal.keys["exposure"]:
        proposal.why["exposure"] = f"{proposal.keys['exposure']}"


_PREFIXES = {"is", "has", "did", "was", "y", "label"}


def _are_kinds(table: Sampled, name: str, sure: bool = False) -> bool:
    if table.is_list(name) or table.table.kind(name) != "text" or table.is_numeric(name):
        return False
    if not 1 <= table.distinct(name) <= _KINDS:
        return False
    levels = table.levels(name)
    named = [level for level in levels if names_event(level) or exposure_rank(level)]
    return len(named) >= (_NAMED * len(levels) if sure else 1)


def _are_ratings(table: Sampled, name: str) -> bool:
    return (
        table.is_numeric(name) and 2 < table.distinct(name) <= _RATINGS and float(np.nanmin(table.numbers(name))) >= 0
    )


def _rest(proposal: TableProposal, group: NDArray[np.int64], millis: NDArray[np.int64]) -> None:
    """The columns that are left: scenario, price, amounts, attributes of the item, context of the request."""
    table = proposal.table
    users = table.codes(proposal.keys["user"].split("+")[0])
    for name in sorted(proposal.free(), key=lambda name: name not in table.named("scenario")):
        why = _unfit(table, name, millis)
        if why == "known":
            proposal.take("event_time", name, "never before the event")
        elif why:
            proposal.left_out[name] = why
        elif "scenario" not in proposal.keys and _is_scenario(
            table, name, group, users, "request" not in proposal.keys
        ):
            proposal.take("scenario", name, f"{table.distinct(name)} values, one a request")
        elif "price" not in proposal.keys and name in table.named("price") and table.is_numeric(name):
            proposal.take("price", name, "by its name")
        elif table.steady(name, table.codes(proposal.keys["item"].split("+")[0])):
            kind, why = attribute_kind(table, name)
            if kind:
                _enter_attribute(proposal, "item_attributes", name, kind, f"one value an item, {why}")
            else:
                proposal.left_out[name] = why
        elif table.is_numeric(name) and (name in table.named("amount") or names_event(name)):
            proposal.enter("measures", slug(name), name, name, "an amount")
        elif not table.is_list(name) and table.steady(name, group):
            kind, why = attribute_kind(table, name)
            if kind in ("dense", "categorical", "hashed"):
                _enter_attribute(proposal, "context", name, kind, f"one value a request, {why}")
            else:
                proposal.left_out[name] = why or kind
        else:
            proposal.left_out[name] = "differs within a request: nobody knows whether it is known before the page"


def _unfit(table: Sampled, name: str, millis: NDArray[np.int64]) -> str:
    if set(words(name)) & _EXPLORED:
        return "exploration: events know no use for it"
    if is_prediction(name) and table.is_numeric(name):
        return "a prediction: the pipeline trains a model of its own"
    if table.is_time(name):
        later = row_times(table.table, name, ImportNotes())
        late = bool((later >= millis).all()) and bool((later[later != NEVER] > millis[later != NEVER]).any())
        return "known" if late and name in table.named("known") else "a time"
    if name in table.named("timestamp"):
        return "a time, by its name"
    return "" if table.is_list(name) or table.distinct(name) > 1 else "the same value everywhere"


def _is_scenario(table: Sampled, name: str, group: NDArray[np.int64], users: NDArray[np.int64], of_runs: bool) -> bool:
    """Is it a column of few values, one a request, with a name for that, or a text that is not of the user?"""
    if table.is_list(name) or not 1 < table.distinct(name) <= _KINDS:
        return False
    kind, steady = table.table.kind(name), table.steady(name, group)
    if name in table.named("scenario"):
        return kind in ("text", "integer") and (steady or of_runs)  # sessions end where it changes
    return steady and kind == "text" and not table.is_numeric(name) and not table.steady(name, users)


# ---- exposures and requests ------------------------------------------------------------------------------------------
def _choose_exposures(events: Sequence[TableProposal], unknown: list[str]) -> None:
    """Tables of one kind of event: the one of what was shown, and feedback of the name of its file."""
    plain = [p for p in events if not p.keys.get("tasks") and p.keys["form"] == "wide"]
    shown = [p for p in events if p.keys.get("exposure")]
    ranks = {id(p): (exposure_rank(p.table.where), "slot" in p.keys, p.table.rows) for p in plain}
    if plain and not shown and len(events) > 1:
        best = max(plain, key=lambda p: ranks[id(p)])
        if ranks[id(best)][0] or "slot" in best.keys:
            best.keys["exposure"] = EVERY
            best.why["exposure"] = f"{EVERY} (by the file's name, or its slots)"
    for proposal in plain:
        proposal.keys["form"] = "long"
        if proposal.keys.get("exposure"):
            continue
        proposal.keys["exposure"] = []
        name = slug(event_of(proposal.table.where.partition(".")[0]))
        proposal.enter("tasks", name, EVERY, "every row", "by the file's name")
    if not any(p.keys.get("exposure") for p in events):
        kinds = sorted({task for p in events for task in p.keys.get("tasks", {})})
        unknown.append(
            f"no kind of event is an exposure ({', '.join(kinds)}): nobody knows what users saw and passed over, so "
            "nothing can be learned of an order; add a table of what was shown, or say which kind counts as shown: "
            'exposure = ["KIND"], or --map exposure=KIND'
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
        if "slot" not in proposal.keys:
            continue
        request, slot = table.codes(proposal.keys["request"]), table.numbers(proposal.keys["slot"])
        known = ~np.isnan(slot) & (request >= 0)
        pairs = np.stack([request[known], slot[known].astype(np.int64)], 1)
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
