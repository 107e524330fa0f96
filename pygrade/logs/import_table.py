"""Tables of other programs as logs: what each column is, what is changed on the way, and the fields of the log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.logs import attributes, contract, conversion, leaks
from pygrade.logs.arrays import numbered
from pygrade.logs.column_map import ONLY, PREFIXES, ColumnMap, find_request, parse_map, propose
from pygrade.logs.columns import PER_TASK
from pygrade.logs.conversion import ImportNotes
from pygrade.logs.expressions import where_true, with_expressions
from pygrade.logs.feedback_tables import join_feedback, unpack_messages
from pygrade.logs.nested import flag_events, unnested
from pygrade.logs.parquet import LISTED, METADATA_KEY, header_of
from pygrade.logs.prediction_scale import PredictionScale, from_records, parse_scales, read_predictions
from pygrade.logs.problems import MOST_LEFT_OUT, Problems
from pygrade.logs.read_scales import RawPredictions, ScaleReader
from pygrade.logs.roles import READING, SKIP, WHERE, is_harm, short_name
from pygrade.logs.table import Table, check_names, is_tables, to_arrow
from pygrade.logs.task_parents import given_parents

Columns = Mapping[str, str | Iterable[str]] | Sequence[str] | str
_LARGE = 3.0  # mean of the amounts that are not taken for counts
_DECISIVE = ("position", "timestamp", "scenario", "value", "exploration")
_NUMBERS = ("position", "value", "production_score", "shown", "mixture_weight")


@dataclass(frozen=True)
class ImportedTable:
    """The fields of a log that was made of a table, and how."""

    fields: dict[str, Any]  # the arguments of `Logs`
    mapping: ColumnMap
    notes: ImportNotes
    contract: list[tuple[str, str, str, str]]  # see `contract.contract_rows`
    where: str
    row_name: Callable[[int], str]
    values: dict[str, float]  # of one event, if the table is a log of pygrade's own
    value_tasks: tuple[str, ...]
    own: bool  # the table is a log of pygrade's own


@dataclass(frozen=True)
class _Options:
    """Options of reading a table."""

    scale: Mapping[str, str | PredictionScale]
    levels: Sequence[str]
    logged: Mapping[str, PredictionScale] | None  # scales of a log of pygrade's own, whose predictions were read


@dataclass
class Attempt:
    """A table on its way to a log: problems do not end it, so that one run finds all of them."""

    table: Table  # grouped by request
    mapping: ColumnMap = field(default_factory=ColumnMap)
    notes: ImportNotes = field(default_factory=ImportNotes)
    problems: Problems = field(default_factory=Problems)
    fields: dict[str, Any] = field(default_factory=dict)


def import_table(
    table: Any,
    columns: Columns | None = None,
    *,
    scale: Mapping[str, str | PredictionScale] | None = None,
    levels: Sequence[str] = (),
    fix: bool = False,
    where: str = "the table",
) -> ImportedTable:
    """The fields of a log made of a table; see `Logs.from_table`. `where` names the table in messages.

    ValueError says what is missing (`LogContractError`) or refused; of several problems, `TableProblems` has all.
    """
    stated_roles = parse_map(columns)
    said = list[str]()
    arrow, numbers, header = _one_table(table, stated_roles, where, said)
    own_list = bool(header) and stated_roles.get("position", LISTED) == LISTED and LISTED in arrow.column_names
    if own_list:  # a log of pygrade's own without slots
        stated_roles["position"] = LISTED
    arrow, of_lists, parents = unnested(arrow, where, stated_roles)
    said += of_lists
    arrow = flag_events(arrow, where, stated_roles, said)
    arrow, sources = with_expressions(arrow, where, stated_roles)
    arrow, numbers = _chosen_requests(arrow, numbers, stated_roles, where, said)
    if sources:
        stated_roles[SKIP] = "+".join(filter(None, [stated_roles.get(SKIP), *sources]))
    stated_roles = {role: column for role, column in stated_roles.items() if role not in READING}
    grouped, requests = Table(arrow, where, numbers, parents=parents), 0
    options = _Options(scale or {}, levels, from_records(header.get("scales", {})) if header else None)
    while True:
        attempt = _attempt(grouped, stated_roles, options)
        requests = requests or len(attempt.table.starts)
        bad, gaps, left_out = _cure(grouped, attempt, requests, fix)
        if not (fix and (left_out or gaps)):
            break
        said += [f"fixed: {text}" for text in attempt.problems.texts(where)]
        said += [f"fixed: what is no number in {name!r} is missing" for name in sorted(gaps)]
        said += [f"fixed: left out {left_out}"] if left_out else []
        grouped = grouped.mended(~bad, gaps)
    if not fix and (left_out or gaps):
        attempt.problems.hint = f"--fix {f'leaves out {left_out}' if left_out else 'takes them as missing'}"
    contract.check(attempt.table, attempt.mapping, attempt.problems.texts(where))
    attempt.problems.check(where)
    fields, mapping, notes = attempt.fields, attempt.mapping, attempt.notes
    fields["slots_known"] = not (own_list or mapping.no_slots)
    fields["feedback_delays"] = tuple(header.get("feedback_delays", ()))
    notes.changed[:0] = [*getattr(where, "notes", ()), *said]
    if "value" in fields:
        _check_price(fields, mapping, notes, conversion.item_codes(attempt.table, mapping), own=bool(header))
    _check_exploration(fields, mapping, notes)
    fields["columns"] = header.get("columns", {}) if header else dict(sorted(mapping.roles.items()))
    notes.guessed += [] if header else _guesses(mapping)
    notes.warned += mapping.odd
    if not fields["features"]:
        notes.warned.append("no feature of the request: the policy will see the predictions alone")
    rows = contract.contract_rows(mapping)
    values = dict(zip(header.get("tasks", ()), header.get("task_values", ()), strict=True))
    values = {task: float(value) for task, value in values.items() if task in mapping.tasks}
    priced = tuple(task for task in header.get("value_tasks", ()) if task in mapping.tasks and "value" in fields)
    return ImportedTable(fields, mapping, notes, rows, where, attempt.table.row_name, values, priced, bool(header))


def _one_table(
    table: Any, stated_roles: dict[str, str], where: str, said: list[str]
) -> tuple[Any, NDArray[np.int64] | None, dict[str, Any]]:
    """The Arrow table of one or several tables, the numbers of its rows (None: all), and its header if pygrade wrote
    it.
    """
    if is_tables(table):
        arrow, numbers = join_feedback({name: to_arrow(t) for name, t in table.items()}, stated_roles, where, said)
        check_names(arrow, where)
        return arrow, numbers, {}
    arrow = to_arrow(table)
    check_names(arrow, where)
    header = header_of((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"), Path(where))
    if header:
        return arrow, None, header
    joined, numbers = join_feedback(unpack_messages(arrow, where, said), stated_roles, where, said)
    if numbers is not None:
        stated_roles.pop("y_kind", None)
    return joined, numbers, header


def _chosen_requests(
    arrow: Any, numbers: NDArray[np.int64] | None, stated_roles: Mapping[str, str], where: str, said: list[str]
) -> tuple[Any, NDArray[np.int64] | None]:
    """The rows of requests in which the map's condition ``where`` holds for a row, and their numbers."""
    if (condition := stated_roles.get(WHERE)) is None:
        return arrow, numbers
    keep, mapping = where_true(arrow, condition, where), ColumnMap()
    find_request(table := Table(arrow, where), stated_roles, mapping)
    if "request_id" in mapping.roles:
        code = _request_codes(table, mapping.roles["request_id"])
        keep = np.bincount(code + 1, keep)[code + 1] > 0
    if not keep.any():
        raise ValueError(f"{where}: where={condition} holds for no row; expected a condition that some rows fulfil")
    said.append(f"where={condition}: {keep.sum():,} of {len(keep):,} rows are read, of the requests in which it holds")
    return arrow.filter(require("pyarrow").array(keep)), (np.arange(len(keep)) if numbers is None else numbers)[keep]


def _attempt(table: Table, stated_roles: Mapping[str, str], options: _Options) -> Attempt:
    """The fields of a log, as far as they can be made."""
    result = Attempt(table)
    mapping, notes, problems = result.mapping, result.notes, result.problems
    find_request(table, stated_roles, mapping)
    if "request_id" in mapping.roles:
        with problems.collect():
            conversion.ids(table, mapping.roles["request_id"], "request")
        table = _grouped(table, mapping.roles["request_id"], notes)
    else:  # nothing can be said of what differs within a request
        table = table.grouped(np.arange(len(table)))[0]
    result.table = table
    propose(table, stated_roles, mapping)
    slot: NDArray[np.int32] | None = None
    if "position" in mapping.roles:
        with problems.collect():
            slot = conversion.slots(table, mapping, notes)
    if slot is not None and {"request_id", "item_id"} <= set(mapping.roles):
        with problems.collect():
            keep = conversion.without_copies(table, mapping, slot, notes)
            if not keep.all():
                result.table, slot = table.kept(keep), slot[keep]
        with problems.collect():
            if mapping.no_slots:
                slot = conversion.count_listed(result.table, mapping, slot >= 0, notes)
            conversion.check_slots(result.table, mapping, slot)
    result.fields = _fields(result, slot, options)
    return result


def _cure(table: Table, attempt: Attempt, requests: int, fix: bool) -> tuple[NDArray[np.bool_], set[str], str]:
    """Find the cure of all problems of a table without a guess: rows [M] to leave out, columns to read with gaps, and
    the number of rows left out in words. Empty if there are no problems, or not all can be solved.
    """
    bad, cures = np.zeros(len(table), bool), attempt.problems.cures()
    if cures is None or contract.missing_roles(attempt.mapping):
        return bad, set(), ""
    rows, gaps = cures
    number = np.full(int(table.rows.max()) + 1, -1)  # of the request of each row
    number[attempt.table.rows] = attempt.table.group
    gone = np.unique(number[rows])
    if not len(gone):
        return bad, gaps, ""
    bad = np.isin(number, gone)[table.rows]
    left_out = requests - len(attempt.table.starts) + len(gone)
    words = f"{left_out:,} of {requests:,} requests ({bad.sum():,} rows)"
    if left_out > MOST_LEFT_OUT * requests:
        if fix:
            text = f"a fix would leave out {words}: too many, it may leave out {MOST_LEFT_OUT:.0%}"
            attempt.problems.errors.append(ValueError(text))
        return np.zeros(len(table), bool), set(), ""
    return bad, gaps, words


def default_event_values(imported: ImportedTable, stated: Mapping[str, float]) -> dict[str, float]:
    """Default worth of one event of each task: 1, -1 of harm, of large amounts 1 on average. A worth other than 1 is
    added to the notes.
    """
    worth = dict.fromkeys(imported.fields["tasks"], 1.0)
    for t, task in enumerate(worth):
        if imported.own or task in {**imported.values, **stated}:
            continue
        events = imported.fields["feedback"][:, t]
        mean = float(events[events > 0].mean()) if (events > 0).any() else 1.0
        size = 1.0 if mean < _LARGE else float(f"{1 / mean:.3g}")
        worth[task] = -size if is_harm(task) else size
        why = ["harm, by its name"] if is_harm(task) else []
        why += [f"an amount of {mean:.3g} on average"] if size != 1.0 else []
        if why:
            imported.notes.guessed.append(f"{task}={worth[task]:g} in --values ({', '.join(why)})")
    return worth


def check_priced(imported: ImportedTable, priced: Sequence[str]) -> None:
    """ValueError if tasks are to have prices, and the proposed one was left out."""
    reasons = [f"{name!r} is {why}" for name, why in imported.mapping.left_out.items() if why.startswith("no price: ")]
    if priced and "value" not in imported.fields and reasons:
        wanted = "a price that is known before the page is shown, named by value=COLUMN"
        raise ValueError(f"value_tasks is {tuple(priced)}, and {reasons[0]}; expected {wanted}")


def _grouped(table: Table, column: str, notes: ImportNotes) -> Table:
    """The rows of a request next to each other."""
    table, apart = table.grouped(_request_codes(table, column))
    if apart:
        notes.changed.append(f"{column!r} (request): the rows of a request were apart; now sorted by request")
    return table


def _request_codes(table: Table, column: str) -> NDArray[np.int64]:
    """Return numbers [M] of the distinct ids in the order of their first rows; each empty one gets its own."""
    if column in table.names:
        code = table.codes(column)
        return np.where(code < 0, code.max(initial=0) + 1 + np.arange(len(code)), code)
    places: dict[Any, int] = {}
    rows = zip(*(table.codes(name).tolist() for name in column.split("+")), strict=True)
    return np.array([places.setdefault(row, len(places)) for row in rows])


def _fields(attempt: Attempt, slot: NDArray[np.int32] | None, options: _Options) -> dict[str, Any]:
    """The arguments of `Logs`, as far as they can be made."""
    table, mapping, notes, collect = attempt.table, attempt.mapping, attempt.notes, attempt.problems.collect
    roles, starts, tasks = mapping.roles, table.starts, mapping.tasks
    result: dict[str, Any] = {"tasks": tasks, "offsets": np.append(starts, len(table)).astype(np.int64)}
    with collect():
        result["features"], result["context"] = attributes.read_columns(
            table, mapping, "x_", options.levels, notes, attempt.problems
        )
    with collect():
        shown = np.ones(len(table), bool) if slot is None else slot >= 0
        attributes.drop_outcomes(table, mapping, shown, (*tasks, *result.get("features", ())))
        result["items"], of_items = attributes.read_columns(
            table, mapping, "i_", options.levels, notes, attempt.problems
        )
        result["item_features"] = of_items if result["items"] else None
    with collect():
        of_numbers = [column for role, column in roles.items() if role in _NUMBERS or role.startswith(PREFIXES)]
        conversion.note_texts(table, of_numbers, notes)
    if slot is not None:
        result["position"] = slot
    read_roles(attempt, result, ("request_id", "user_id", "item_id"))
    with collect():
        _events(attempt, result, slot, parse_scales(options.scale, tasks), options.logged)
    read_roles(attempt, result, roles.keys() - result.keys())
    if "scored_at" in roles and "timestamp" in result:
        with collect():
            conversion.check_scored(table, roles["scored_at"], result["timestamp"], notes)
    if "embedding" in roles and "item_id" in result:
        with collect():
            result["embedding"], result["embeddings"] = conversion.embeddings(
                table, roles["embedding"], numbered(result["item_id"])
            )
    for name, prefix in PER_TASK.items():
        if any(role.startswith(prefix) for role in roles):
            with collect():
                result[name] = _task_matrix(table, mapping, prefix, notes)
    if arms := tuple(role.removeprefix("slot_") for role in roles if role.startswith("slot_")):
        slots, shares = (
            np.stack([conversion.numbers(table, prefix + arm, "", notes) for arm in arms], 1)
            for prefix in ("slot_", "share_")
        )
        result["arms"], result["slots"] = arms, np.nan_to_num(slots, nan=-1).astype(np.int32)
        result["arm_shares"] = shares[table.starts].astype(np.float32)
    return result


def read_roles(attempt: Attempt, result: dict[str, Any], names: Iterable[str]) -> None:
    """Adds the fields that are one column."""
    table, notes = attempt.table, attempt.notes

    def whole(dtype: Any) -> Callable[[str], Any]:
        return lambda column: conversion.of_request(table, column, table.whole(column, dtype))

    def text(column: str) -> Any:
        return conversion.of_request(table, column, table.texts(column))

    def number(column: str) -> Any:
        return conversion.numbers(table, column, "", notes).astype(np.float32)

    def user(column: str) -> Any:
        request = result.get("request_id", np.arange(len(table.starts)))
        return conversion.users(table, column, request, notes)

    readers: dict[str, Callable[[str], Any]] = {
        "request_id": lambda column: conversion.ids(table, column, "request")[table.starts],
        "user_id": user,
        "item_id": lambda column: conversion.ids(table, column, "item"),
        "timestamp": lambda column: conversion.times(table, column, notes),
        "value": lambda column: conversion.prices(table, column, notes),
        "production_score": number,
        "category": table.texts,
        **dict.fromkeys(("scenario", "policy_version", "baseline", "verdict"), text),
        "exploration": lambda column: conversion.exploration(table, column, notes),
        "mixture_weight": lambda column: conversion.of_request(table, column, table.numbers(column)).astype(np.float32),
        "seed": whole(np.uint64),
        "candidates": whole(np.int64),
    }
    for name, read in readers.items():
        if name in names and name in attempt.mapping.roles:
            with attempt.problems.collect():
                result[name] = read(attempt.mapping.roles[name])


def _events(
    attempt: Attempt,
    result: dict[str, Any],
    slot: NDArray[np.int32] | None,
    stated: Mapping[str, PredictionScale],
    logged: Mapping[str, PredictionScale] | None,
) -> None:
    """Feedback and predictions [M, T]; without slots, they are only checked, as if rows with feedback were shown."""
    table, roles, notes, tasks = attempt.table, attempt.mapping.roles, attempt.notes, attempt.mapping.tasks
    feedback: list[NDArray[np.float32]] = []
    raw_predictions: list[RawPredictions] = []
    for task in tasks:
        column, events = roles.get(f"y_{task}"), None
        if column is not None:
            with attempt.problems.collect():
                values = table.numbers(column)
                seen = ~np.isnan(values) if slot is None else slot >= 0
                events = np.where(seen, np.maximum(np.nan_to_num(values), 0), 0).astype(np.float32)  # if it fails
                events = conversion.feedback(table, column, task, seen, notes)
                feedback.append(events)
        if events is not None:
            with attempt.problems.collect():
                raw_predictions.append(RawPredictions.of(table, roles[f"p_{task}"], task, events, seen))
    finder = ScaleReader(table, None if attempt.mapping.no_slots else slot, notes)
    for raw in sorted(raw_predictions, key=lambda raw: -int((raw.events > 0).sum())):  # parents first
        with attempt.problems.collect():
            finder.read(raw, stated.get(raw.task, None if logged is None else PredictionScale()))
    if feedback:
        result["feedback"] = np.stack(feedback, 1)
    scales = finder.scales
    if tasks and len(scales) == len(tasks):
        values = np.stack([raw.values for raw in raw_predictions], 1, dtype=np.float32)
        result["predictions"] = read_predictions(scales, [raw.task for raw in raw_predictions], values)
        if logged is not None:
            kept = {task: scale for task, scale in logged.items() if task in tasks}
            scales = kept | {task: scales[task] for task in stated}
        result["scales"] = scales
        if logged is None and slot is not None and len(feedback) == len(tasks):
            with attempt.problems.collect():
                _check_parents(attempt, result, slot >= 0, stated)


def _check_parents(
    attempt: Attempt, result: Mapping[str, Any], shown: NDArray[np.bool_], stated: Mapping[str, PredictionScale]
) -> None:
    """ValueError if predictions are given the event of another task, by the events, and no scale is stated."""
    tasks, where = attempt.mapping.tasks, attempt.table.where
    amounts = tuple(result["scales"][task].amount for task in tasks)
    pairs = given_parents(result["feedback"][shown], result["predictions"][shown], amounts)
    for task, parent in ((tasks[t], tasks[p]) for t, p in pairs.items() if tasks[t] not in stated):
        raise ValueError(
            f"{where}: {attempt.mapping.roles[f'p_{task}']!r} is the probability of {task!r} given {parent!r}, by its "
            f"events: right where {parent} happened, far too high elsewhere; --scale {task}=given:{parent} multiplies "
            f"it by the prediction of {parent}, --scale {task}=probability takes it as it is"
        )


def _check_price(
    fields: dict[str, Any], mapping: ColumnMap, notes: ImportNotes, item: NDArray[np.int64], own: bool
) -> None:
    """A price that leaks is left out if it was proposed, and named if it was given or the log is pygrade's own."""
    sizes = np.diff(fields["offsets"])
    time = fields.get("timestamp", np.arange(len(sizes)))
    rows = fields["value"], fields["feedback"], fields["tasks"], fields["position"] >= 0
    why = leaks.price_leak(*rows, item, np.repeat(time, sizes))
    column = mapping.roles["value"]
    if why and (own or mapping.why["value"] == "given"):
        notes.warned.append(f"{column!r} (price) {why}: is it known before the page is shown?")
    elif why:
        del fields["value"]
        mapping.drop("value", f"no price: {why}")
        notes.warned.append(f"{column!r} is no price, by its values: it {why}; if it is one, name it: value={column}")


def _check_exploration(fields: dict[str, Any], mapping: ColumnMap, notes: ImportNotes) -> None:
    """Names a flag of shuffled pages that are ordered by a prediction, and leaves it out unless it was given."""
    if "exploration" not in fields or not bool((pages := fields["exploration"] == "shuffle").any()):
        return
    why = leaks.ordered_pages(fields["predictions"], fields["tasks"], fields["position"], fields["offsets"], pages)
    column = mapping.roles["exploration"]
    if why and mapping.why["exploration"] == "given":
        notes.warned.append(f"{column!r} (exploration): {why}: are they shuffled?")
    elif why:
        del fields["exploration"]
        mapping.drop("exploration", f"no exploration: {why}")
        notes.warned.append(
            f"{column!r} is no exploration, by its values: {why}; if it is, name it: exploration={column}; "
            f"x_{column}={column} takes it as a feature"
        )


def _guesses(mapping: ColumnMap) -> list[str]:
    """The roles that decide figures and were not given."""
    roles = [role for role in _DECISIVE if role in mapping.roles and mapping.why[role] != "given"]
    roles += [role for role, why in mapping.why.items() if why == ONLY]
    return [f"{short_name(role)}={mapping.roles[role]} ({mapping.why[role]})" for role in roles]


def _task_matrix(table: Table, mapping: ColumnMap, prefix: str, notes: ImportNotes) -> NDArray[np.float32]:
    """Return values [R, T]; NaN where there is no column."""
    block = np.full((len(table.starts), len(mapping.tasks)), np.nan, np.float32)
    for i, task in enumerate(mapping.tasks):
        column = mapping.roles.get(prefix + task)
        if column is not None:
            block[:, i] = conversion.of_request(table, column, conversion.numbers(table, column, "", notes))
    return block
