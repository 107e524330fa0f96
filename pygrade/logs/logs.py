"""Logged requests: the typed record that every stage reads, and its Parquet form.

One Parquet row is one candidate of a request; the rows of a request are contiguous. Its columns are the fields of
`Logs` by the names in `columns.COLUMNS`: matrices as a column for each label (`p_click`), position and feedback null
where the row was not shown. If slots are unknown, `listed` stands in the place of `position`: the place among the
request's shown rows as they were listed. A server's log may list all candidates of a sample of its requests
(`candidates`: how many the request had), and the shown ones alone of the others.

Values that another convention explains are refused, with the row: slots from 1 (no row has slot 0), timestamps in
seconds, microseconds or nanoseconds, predictions above 1 of a task whose feedback is only 0 and 1 (percentages), an
item twice in a request (unless each time in a slot), negative feedback or value. What is unusual but has one meaning is
accepted and logged as a warning: columns that are not read, no feature column, a feature without a value, feedback 0
where not shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.html_table import html_table
from pygrade._util.memo import cached_by_object
from pygrade.logs import parquet as logs_parquet
from pygrade.logs.arrays import count_distinct, numbered
from pygrade.logs.categories import levels_of
from pygrade.logs.column_map import parse_map
from pygrade.logs.columns import COLUMNS, MAX_AMOUNT, MAX_SLOT, PER_REQUEST, PER_ROW, PER_TASK
from pygrade.logs.embeddings import MOST_NUMBERS
from pygrade.logs.import_table import Columns, ImportedTable, check_priced, default_event_values, import_table
from pygrade.logs.prediction_scale import MARGIN, PredictionScale
from pygrade.metrics.texts import rate_text

_Refuse = Callable[..., None]  # see `validate`

logger = logging.getLogger("pygrade")

EXPLORATIONS = ("none", "dirichlet", "shuffle")
SECONDS = (10**9, 10**11)  # 2001 … as seconds, January 1970 … 1973 as milliseconds


@dataclass(frozen=True, eq=False)
class Logs:
    """R requests with M candidate rows in all, T tasks, F context features, I item columns. `context` and
    `item_features` may hold NaN (missing).

    Text is a numpy str array or an object array of str: as `read_logs` gives it, one long id costs no other row memory.
    Construction checks types and shapes; `validate` checks the values.
    """

    tasks: tuple[str, ...]  # T names in the order of predictions and feedback
    features: tuple[str, ...]  # without the x_ prefix
    request_id: Array  # [R] int64 or str, unique
    user_id: Array  # [R] int64 or str
    offsets: NDArray[np.int64]  # [R + 1]: the rows of request r are offsets[r] … offsets[r + 1] - 1
    context: NDArray[np.float32]  # [R, F]
    item_id: Array  # [M] int64 or str
    position: NDArray[np.int32]  # [M], 0-based slot on the page, -1: not shown; see `slots_known`
    predictions: NDArray[np.float32]  # [M, T], ≥ 0
    feedback: NDArray[np.float32]  # [M, T], 0 where not shown
    task_values: tuple[float, ...] = ()  # business value of one event of each task; left out: 1 each
    value_tasks: tuple[str, ...] = ()  # tasks whose events are worth their value times the item's `value` (its price)
    scenario: Array | None = None  # [R] str
    value: NDArray[np.float32] | None = None  # [M], price or other value of the item
    production_score: NDArray[np.float32] | None = None  # [M] that production ranked by, the higher the better
    weights: NDArray[np.float32] | None = None  # [R, T] that made the page; NaN: unknown
    concentration: NDArray[np.float32] | None = None  # [R, T] that the weights were drawn from; NaN: not drawn
    seed: NDArray[np.uint64] | None = None  # [R] of the draw: the sampler's seed in the upper 32 bits, then its offset
    policy_version: Array | None = None  # [R] str
    exploration: Array | None = None  # [R] str, how the page was made: one of EXPLORATIONS
    timestamp: NDArray[np.int64] | None = None  # [R] milliseconds since 1970
    mixture_weight: NDArray[np.float32] | None = (
        None  # [R] share of the policy in the scores, 1: no baseline; NaN: unknown
    )
    baseline: Array | None = None  # [R] str, name of the baseline in the scores; "": none
    verdict: Array | None = None  # [R] str, what a log said of the policy against the baseline
    request_values: NDArray[np.float32] | None = None  # [R, T] of the tasks in the request; NaN: unknown
    candidates: NDArray[np.int64] | None = None  # [R] that the request had; None: those that are listed
    arm: Array | None = None  # [R] str, of a service that served several policies
    items: tuple[str, ...] = ()  # item columns, without the i_ prefix; no task or feature has one of these names
    item_features: NDArray[np.float32] | None = None  # [M, I], None if there are no item columns; NaN: unknown
    arms: tuple[str, ...] = ()  # of a test, whose pages `slots` has; without the slot_ prefix
    slots: NDArray[np.int32] | None = None  # [M, A] on each arm's page, -1: not on it
    arm_shares: NDArray[np.float32] | None = None  # [R, A] of the traffic; NaN: the arm could not rank the request
    category: Array | None = None  # [M] str, of the item; "": unknown
    embedding: NDArray[np.int32] | None = None  # [M] place of the item's vector in `embeddings`, -1: unknown
    embeddings: NDArray[np.float32] | None = None  # [E, d] distinct vectors, d ≤ 256, none of length 0
    slots_known: bool = True  # else `position` tells what was shown, and counts it as it was listed: not where
    feedback_delays: tuple[int, ...] = ()  # ms after its page in which feedback was joined; none: unknown
    scales: Mapping[str, PredictionScale] = field(default_factory=dict)  # task → how its table's column was read
    columns: Mapping[str, str] = field(default_factory=dict)  # role → column of that table, see `ColumnMap`

    def __post_init__(self) -> None:
        values = map(float, self.task_values)  # numbers of Python, as JSON holds them
        object.__setattr__(self, "task_values", tuple(values) or (1.0,) * len(self.tasks))
        labeled = (("tasks", self.tasks), ("features", self.features), ("items", self.items), ("arms", self.arms))
        for name, labels in labeled:
            if len(set(labels)) != len(labels):
                raise ValueError(f"{name} are {labels}; expected distinct names")
        if taken := [name for name in self.items if name in (*self.tasks, *self.features)]:
            raise ValueError(f"items has {taken[0]!r}, which is the name of a task or feature; expected another name")
        if (self.item_features is None) != (not self.items):
            shape = "None" if self.item_features is None else f"of shape {self.item_features.shape}"
            raise ValueError(f"items are {self.items}, item_features is {shape}; expected both or none of them")
        if (self.slots is None) != (not self.arms):
            raise ValueError(f"arms are {self.arms}; expected slots of each arm, and slots of arms alone")
        if not self.tasks:
            raise ValueError("tasks is empty; expected at least one task")
        if (self.embedding is None) != (self.embeddings is None):
            have = "embeddings" if self.embedding is None else "embedding"
            raise ValueError(
                f"the log has {have} alone; expected embedding (of each row) and embeddings, or none of them"
            )
        if len(self.task_values) != len(self.tasks):
            raise ValueError(
                f"task_values has {len(self.task_values)} entries; expected {len(self.tasks)}: {', '.join(self.tasks)}"
            )
        if not np.isfinite(self.task_values).all():
            raise ValueError(f"task_values is {self.task_values}; expected finite numbers")
        unknown = [task for task in self.value_tasks if task not in self.tasks]
        if unknown or (self.value_tasks and self.value is None):
            wanted = f"tasks of {', '.join(self.tasks)}, and a log with a value column"
            raise ValueError(f"value_tasks is {self.value_tasks}; expected {wanted}")
        requests, rows = len(self.offsets) - 1, int(self.offsets[-1]) if len(self.offsets) else -1
        if requests < 0:
            raise ValueError("offsets is empty; expected R + 1 entries")
        _check("offsets", self.offsets, (requests + 1,), "int64")
        sizes = np.diff(self.offsets)
        if self.offsets[0] != 0:
            raise ValueError(f"offsets start at {self.offsets[0]}; expected 0")
        if bool((sizes <= 0).any()):
            empty = int(np.argmax(sizes <= 0))
            raise ValueError(f"offsets give request {empty} {sizes[empty]} rows; expected at least one row a request")
        for name, column in COLUMNS.items():
            if not column.optional or getattr(self, name) is not None:
                width = (len(getattr(self, column.labels)),) if column.labels else ()
                _check(name, getattr(self, name), (requests if column.by_request else rows, *width), column.kind)

        if self.embeddings is not None:
            size = self.embeddings.shape[1] if np.ndim(self.embeddings) == 2 else 0
            if not 1 <= size <= MOST_NUMBERS:
                raise ValueError(
                    f"embeddings has shape {np.shape(self.embeddings)}; expected (E, d) with d of 1 to {MOST_NUMBERS}"
                )
            _check("embeddings", self.embeddings, (len(self.embeddings), size), "float32")

    @property
    def num_requests(self) -> int:
        """R."""
        return len(self.offsets) - 1

    @property
    def num_rows(self) -> int:
        """M: the candidates of all requests."""
        return int(self.offsets[-1])

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Return whether the candidate was on the page, bool, of shape [M]."""
        return self.position >= 0

    @property
    def num_slots(self) -> int:
        """The last slot that an item was shown in, plus 1; at least 1."""
        return int(self.position.max(initial=0)) + 1

    @property
    def item_columns(self) -> NDArray[np.float32]:
        """Return the item columns [M, I], also where there are none."""
        none = np.empty((self.num_rows, 0), np.float32)
        return none if self.item_features is None else self.item_features

    @property
    def user_number(self) -> NDArray[np.int64]:
        """Return the place of the user among the distinct ones, of shape [R]."""
        return _numbers(self).user

    @property
    def item_number(self) -> NDArray[np.int64]:
        """Return the place of the item among the distinct ones, of shape [M]."""
        return _numbers(self).item

    @property
    def row_request(self) -> NDArray[np.int64]:
        """Return the request that each row belongs to, of shape [M]."""
        return np.repeat(np.arange(self.num_requests), np.diff(self.offsets))

    @property
    def event_values(self) -> NDArray[np.float32]:
        """Return what one event of each task is worth, on each row if items have prices, of shape [M or 1, T]."""
        table = np.asarray([self.task_values], np.float32)
        if not self.value_tasks or self.value is None:
            return table
        priced = np.isin(self.tasks, self.value_tasks)
        return np.where(priced, table * self.value[:, None], table).astype(np.float32)

    def value_of(self, amounts: Array) -> NDArray[np.float64]:
        """Return what amounts [M, T] of events are worth, such as `feedback` or `predictions`, of shape [M]."""
        if not self.value_tasks:
            return np.asarray(amounts @ np.array(self.task_values))
        return np.asarray((amounts * self.event_values.astype(np.float64)).sum(1))

    def with_values(self, task_values: Sequence[float] | None = None, value_tasks: Sequence[str] | None = None) -> Logs:
        """Return the log with other values of events; None or none: as they are."""
        values, priced = tuple(task_values or self.task_values), tuple(value_tasks or self.value_tasks)
        return replace(self, task_values=values, value_tasks=priced)

    @classmethod
    def from_table(
        cls,
        table: Any,
        columns: Columns | None = None,
        *,
        values: Mapping[str, float] | None = None,
        value_tasks: str | Sequence[str] = (),
        scale: Mapping[str, str | PredictionScale] | None = None,
        levels: Sequence[str] = (),
        like: Any = None,
        fix: bool = False,
        where: str = "the table",
    ) -> Logs:
        """A log of a table with a row per candidate and any names: pandas, polars, Arrow, a DuckDB relation, a
        `datasets.Dataset` or a dict of columns; or of a dict of tables: what was shown, with predictions, and its
        feedback (`feedback_tables`).

        Args:
            columns: what the columns are, as a dict or as text: ``"request=session_id,item=product_id,slot=rank,
                user=customer,time=at,click=clicked,p_click=pred_click,x_hour=hour,i_brand=brand"``; also scenario,
                value (price) and shown. What is not given is known by its exact name or type, or as the only one left;
                ``skip=a+b`` leaves columns out.
            values: task → worth of one event, or of one unit of an amount. Not given: the values of a log that pygrade
                wrote; else 1 an event, -1 if its name says harm (hide, return), and for large amounts 1 on average.
            value_tasks: the task, or those, worth that times the price.
            scale: task → what its predictions are: probability, percent, logit, log, score (of no unit: a rising map is
                fitted), ``given:click`` or ``percent:given:click`` (of an event that presumes a click), or what another
                log or a policy has in ``scales``. Not given: probabilities, or amounts.
            levels: 0/1 columns ``name=level`` of a policy or another log, which text columns get instead of those of
                their frequent levels.
            like: another log, a policy or a model, whose columns, scales and levels this table has, too.
            fix: leave out requests whose rows are refused, at most 10 % of all, and read numbers with gaps where a text
                among them is none.
            where: name of the table in messages.

        Slots from 1, dates and seconds, booleans, percentages, rows out of order are converted, and of an item listed
        twice in a request the row that was shown is kept; each change is logged as a warning. ValueError: the whole
        contract beside what the table has, or all that is refused and why.
        """
        if like is not None:
            like = getattr(like, "policy", like)
            columns = {**getattr(like, "columns", {}), **parse_map(columns)}
            scale = {**getattr(like, "scales", {}), **(scale or {})}
            levels = (*like.features, *like.items, *levels)
        value_tasks = (value_tasks,) if isinstance(value_tasks, str) else value_tasks
        imported = import_table(table, columns, scale=scale, levels=levels, fix=fix, where=where)
        logs = cls.from_imported(imported, values, value_tasks)
        for note in [*imported.notes.changed, *imported.notes.warned]:
            logger.warning("%s: %s", where, note)
        if imported.notes.guessed:
            logger.warning("%s: guessed: %s", where, ", ".join(imported.notes.guessed))
        left_out = ", ".join(f"{name} ({why})" for name, why in imported.mapping.left_out.items())
        if left_out:
            logger.warning("%s: left out: %s", where, left_out)
        return logs

    @classmethod
    def from_imported(
        cls, imported: ImportedTable, values: Mapping[str, float] | None = None, value_tasks: Sequence[str] = ()
    ) -> Logs:
        """The checked log of an imported table."""
        tasks = imported.fields["tasks"]
        for name, named_tasks in (("values", values or ()), ("value_tasks", value_tasks)):
            if unknown := [task for task in named_tasks if task not in tasks]:
                raise ValueError(f"{name} names task {unknown[0]!r}; expected one of {', '.join(tasks)}")
        worth = {**default_event_values(imported, values or {}), **imported.values, **(values or {})}
        priced = tuple(value_tasks) or imported.value_tasks
        check_priced(imported, priced)
        logs = cls(**imported.fields, task_values=tuple(map(float, worth.values())), value_tasks=priced)
        validate(logs, imported.where, imported.row_name)
        return logs

    def select(self, index: Array | slice | Sequence[int]) -> Logs:
        """The requests of an index array, a boolean mask or a slice, in that order; select each at most once."""
        chosen = np.arange(self.num_requests)[np.asarray(index) if not isinstance(index, slice) else index]
        sizes = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], sizes)
        changes: dict[str, Any] = {"offsets": offsets}
        for names, pick in ((PER_REQUEST, chosen), (PER_ROW, rows)):
            changes |= {name: getattr(self, name)[pick] for name in names if getattr(self, name) is not None}
        return replace(self, **changes)

    def arranged(self, tasks: Sequence[str], features: Sequence[str], items: Sequence[str] | None = None) -> Logs:
        """Return the log with these tasks, features and item columns (None: all) in this order; others are left out.

        A 0/1 column ``name=level`` that is missing is 0 if the log has columns of other levels: of a text, each table
        has the frequent levels. ValueError names what else is missing.
        """
        items = [name for name in self.items if name not in (*tasks, *features)] if items is None else items
        changes: dict[str, Any] = {"tasks": tuple(tasks), "features": tuple(features), "items": tuple(items)}
        log = self._with_levels("features", features)._with_levels("items", items)
        if log is not self:
            return log.arranged(tasks, features, items)
        kinds = (("tasks", self.tasks, tasks), ("features", self.features, features), ("items", self.items, items))
        for kind, own, wanted in kinds:
            if missing := [name for name in wanted if name not in own]:
                raise ValueError(f"the log has no {kind} {', '.join(missing)}; it has {', '.join(own) or 'none'}")
        task_numbers, feature_numbers = [self.tasks.index(t) for t in tasks], [self.features.index(f) for f in features]
        for name in ("predictions", "feedback", *PER_TASK):
            if getattr(self, name) is not None:
                changes[name] = np.ascontiguousarray(getattr(self, name)[:, task_numbers])
        changes["context"] = np.ascontiguousarray(self.context[:, feature_numbers])
        if self.item_features is not None and tuple(items) != self.items:
            column = [self.items.index(name) for name in items]
            changes["item_features"] = np.ascontiguousarray(self.item_features[:, column]) if column else None
        changes["task_values"] = tuple(self.task_values[t] for t in task_numbers)
        changes["value_tasks"] = tuple(task for task in self.value_tasks if task in tasks)
        changes["scales"] = {task: scale for task, scale in self.scales.items() if task in tasks}
        return replace(self, **changes)

    def with_items(self, items: Sequence[str]) -> Logs:
        """Return the log with these item columns in this order: NaN of those that it lacks, 0 of a further level of a
        text that it has.
        """
        if tuple(items) == self.items:
            return self
        log = self._with_levels("items", items)
        width = len(log.items)
        columns = np.concatenate([log.item_columns, np.full((log.num_rows, 1), np.nan, np.float32)], 1)
        place = [log.items.index(name) if name in log.items else width for name in items]
        features = np.ascontiguousarray(columns[:, place]) if place else None
        return replace(log, items=tuple(items), item_features=features)

    def with_arms(self, arms: Sequence[str]) -> Logs:
        """Return the log with these arms of a test in this order: those that it lacks ranked no request."""
        if tuple(arms) == self.arms:
            return self
        changes: dict[str, Any] = {"arms": tuple(arms), "slots": None, "arm_shares": None}
        place = [self.arms.index(name) if name in self.arms else len(self.arms) for name in arms]
        for name, count, fill in (
            ("slots", self.num_rows, np.int32(-1)),
            ("arm_shares", self.num_requests, np.float32("nan")),
        ):
            own = getattr(self, name)
            if arms and (own is not None or not self.arms):
                own = np.empty((count, 0), fill.dtype) if own is None else own
                changes[name] = np.concatenate([own, np.full((count, 1), fill)], 1)[:, place]
        return replace(self, **changes)

    def _with_levels(self, kind: Literal["features", "items"], wanted: Sequence[str]) -> Logs:
        """The log with columns of 0 for levels of a text that it does not have."""
        own = self.features if kind == "features" else self.items
        texts = levels_of(own)
        rare = tuple(name for name in wanted if name not in own and "=" in name and name.partition("=")[0] in texts)
        if not rare:
            return self
        logger.warning("the log has no %s %s: taken as 0, as it has other values of the text", kind, ", ".join(rare))
        columns = self.context if kind == "features" else self.item_columns
        wider = np.concatenate([columns, np.zeros((len(columns), len(rare)), np.float32)], 1)
        if kind == "features":
            return replace(self, features=(*own, *rare), context=wider)
        return replace(self, items=(*own, *rare), item_features=wider)

    def __repr__(self) -> str:
        parts = [f"{self.num_requests:,} requests", f"{self.num_rows:,} candidates"]
        for kind, names in (("tasks", self.tasks), ("features", self.features), ("items", self.items)):
            parts += [f"{kind} {_some(names)}"] if names else []
        parts += [] if self.slots_known else ["slots unknown"]
        return f"<Logs: {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """The log in one small table, for notebooks."""
        shown = self.shown
        per_request = np.bincount(self.row_request, shown, self.num_requests)
        facts = {
            "requests": f"{self.num_requests:,} of {count_distinct(self.user_number):,} users",
            "candidates": f"{self.num_rows:,} of {count_distinct(self.item_number):,} items",
            "shown": f"{shown.sum():,}, {per_request.mean():.1f} a request, in "
            + (f"{self.num_slots} slots" if self.slots_known else "unknown slots"),
        }
        if self.timestamp is not None and len(self.timestamp):
            ends = np.array([self.timestamp.min(), self.timestamp.max()], "datetime64[ms]").astype("datetime64[m]")
            facts["time"] = f"{ends[0]} to {ends[1]}".replace("T", " ")
        for t, (task, worth) in enumerate(zip(self.tasks, self.task_values, strict=True)):
            rate = float(self.feedback[shown, t].mean()) if shown.any() else 0.0
            price = " times the price" if task in self.value_tasks else ""
            mean = float(self.predictions[shown, t].mean()) if shown.any() else 0.0
            amount = bool((self.feedback[shown, t] % 1).any() or (self.feedback[shown, t] > 1).any())
            said = f"{rate_text(rate, amount)} {'a shown row' if amount else 'of shown rows'}"
            facts[f"task {task}"] = f"{said}, predicted {rate_text(mean, amount)}, worth {worth:g}{price}"
        for f, feature in enumerate(self.features):
            facts[f"feature {feature}"] = _span(self.context[:, f])
        for i, item in enumerate(self.items):
            facts[f"item column {item}"] = _span(self.item_columns[:, i])
        if self.category is not None:
            facts["categories of items"] = _some([name for name in np.unique(self.category.astype(str)) if name])
        if self.embedding is not None and self.embeddings is not None:
            facts["embeddings"] = f"{self.embeddings.shape[1]} numbers, of {(self.embedding >= 0).mean():.0%} of rows"
        if self.scenario is not None:
            names = np.unique(self.scenario.astype(str)).tolist()
            facts["scenarios"] = _some(names)
        return html_table([], list(facts.items()), "pygrade log", texts=2)

    @property
    def num_incomplete(self) -> int:
        """Number of requests that list only a part of their candidates."""
        return 0 if self.candidates is None else int((np.diff(self.offsets) < self.candidates).sum())

    def complete(self) -> Logs:
        """The requests that list all of their candidates, on which the policy's inputs depend. A server's log has them
        as a fair sample; the others are for counting what was shown.
        """
        if self.candidates is None or not self.num_incomplete:
            return self
        if self.num_incomplete == self.num_requests:
            raise ValueError(
                "no request lists all of its candidates; expected a log with a larger share of such requests"
            )
        logger.warning(
            "%d of %d requests list only a part of their candidates: left out", self.num_incomplete, self.num_requests
        )
        return self.select(np.diff(self.offsets) >= self.candidates)

    def shown_only(self) -> Logs:
        """The shown rows alone, of the requests that have some; ``candidates`` stays as it is."""
        sizes = np.bincount(self.row_request[self.shown], minlength=self.num_requests)
        some = self.select(np.flatnonzero(sizes))
        rows = {name: getattr(some, name)[some.shown] for name in PER_ROW if getattr(some, name) is not None}
        return replace(some, offsets=np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64), **rows)

    def split(self, fraction: float | None = None, *, time: int | None = None) -> tuple[Logs, Logs]:
        """Earlier and later requests: the first `fraction` of them (by timestamp if the log has one, else in the order
        of the log), or those before `time` (milliseconds) and the rest.
        """
        if (fraction is None) == (time is None):
            raise ValueError(f"split got fraction={fraction} and time={time}; expected exactly one of them")
        if fraction is not None:
            if not 0.0 <= fraction <= 1.0:
                raise ValueError(f"fraction is {fraction}; expected 0 to 1")
            stamps = self.timestamp
            order = np.arange(self.num_requests) if stamps is None else np.argsort(stamps, kind="stable")
            cut = round(fraction * self.num_requests)
            return self.select(np.sort(order[:cut])), self.select(np.sort(order[cut:]))
        if self.timestamp is None:
            raise ValueError("time splits by timestamp, and this log has none; use fraction")
        early = self.timestamp < np.int64(time or 0)
        return self.select(np.flatnonzero(early)), self.select(np.flatnonzero(~early))


class _Numbers(NamedTuple):
    """Ids as numbers, see `numbered`."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]


@cached_by_object
def _numbers(logs: Logs) -> _Numbers:
    return _Numbers(numbered(logs.user_id), numbered(logs.item_id))


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _span(column: NDArray[np.float32]) -> str:
    """Least and greatest value, and the share that is missing."""
    present = column[~np.isnan(column)]
    span = f"{present.min():g} to {present.max():g}" if len(present) else "no value"
    return span + (f", {np.isnan(column).mean():.0%} missing" if len(present) < len(column) else "")


def _check(name: str, array: Any, shape: tuple[int, ...], kind: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}; expected a numpy array")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    text = array.dtype.kind == "U" or (array.dtype == object and set(map(type, array.tolist())) <= {str})
    kinds = {"id": array.dtype == np.int64 or text, "str": text}
    if not kinds.get(kind, array.dtype == kind):
        wanted = {"id": "int64 or str", "str": "str"}.get(kind, kind)
        raise TypeError(f"{name} has dtype {array.dtype}; expected {wanted}")


def check_amounts(logs: Logs) -> None:
    """ValueError that names column and row of the first feedback or price that is not finite, or above `MAX_AMOUNT`."""
    columns = {f"y_{task}": logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    for name, values in (columns if logs.value is None else columns | {"value": logs.value}).items():
        _refusal(logs, "logs", str)(
            ~(np.abs(values) <= MAX_AMOUNT), name, values, f"a finite amount up to {MAX_AMOUNT:g}"
        )


def validate(logs: Logs, where: str = "logs", row_name: logs_parquet.RowName = str) -> None:
    """Raises ValueError that names the column, the row and the reason of the first bad value.

    `where` and `row_name` name the log and its rows in the message.
    """
    refuse = _refusal(logs, where, row_name)
    _validate_values(logs, refuse)
    _validate_places(logs, refuse)
    for t, task in enumerate(logs.tasks):
        column, feedback = logs.predictions[:, t], logs.feedback[:, t]
        wanted = "null where position is null, as nobody saw the item"
        refuse(~logs.shown & (feedback != 0), f"y_{task}", feedback, wanted)
        if set(np.unique(feedback)) == {0.0, 1.0}:
            wanted = "a probability, as feedback is 0 or 1 (of a percentage, take a hundredth)"
            refuse(column > 1 + MARGIN, f"p_{task}", column, wanted)
    if logs.embedding is not None and logs.embeddings is not None:
        count = len(logs.embeddings)
        wrong = (logs.embedding < -1) | (logs.embedding >= count)
        refuse(wrong, "embedding", logs.embedding, f"a place in embeddings, below {count}, or -1 where unknown")
        bad = np.append(~np.isfinite(logs.embeddings).all(1) | ~logs.embeddings.any(1), False)[logs.embedding]
        refuse(bad, "embedding", logs.embedding, "a vector of finite numbers that are not all 0")
    times = logs.timestamp
    if times is not None and len(times):
        every = bool(((times >= SECONDS[0]) & (times < SECONDS[1])).all())
        wanted = "milliseconds since 1970 (these look like seconds)"
        refuse(np.full(len(times), every), "timestamp", times, wanted, by_request=True)
    if logs.candidates is not None:
        wanted = "at least as many as the request has rows"
        refuse(logs.candidates < np.diff(logs.offsets), "candidates", logs.candidates, wanted, by_request=True)
    if logs.exploration is not None:
        unknown = ~np.isin(logs.exploration, EXPLORATIONS)
        refuse(unknown, "exploration", logs.exploration, "one of " + ", ".join(EXPLORATIONS), by_request=True)


def _refusal(logs: Logs, where: str, row_name: logs_parquet.RowName) -> _Refuse:
    def refuse(bad: Array, column: str, values: Array, want: str, by_request: bool = False) -> None:
        if bool(bad.any()):
            at = int(np.argmax(bad))
            row = int(logs.offsets[at]) if by_request else at
            raise ValueError(f"{where}: column '{column}', row {row_name(row)}: {values[at]}; expected {want}")

    return refuse


def _validate_values(logs: Logs, refuse: _Refuse) -> None:
    """The numbers of each column are in its range."""
    for name, column in COLUMNS.items():
        array, wanted = getattr(logs, name), column.values
        if array is None or wanted is None:
            continue
        labels = getattr(logs, column.labels) if column.labels else ("",)
        for number, label in enumerate(labels):
            values = array[:, number] if column.labels else array
            bad = ~((values >= wanted.low) & (values <= wanted.high))
            bad &= ~np.isnan(values) if wanted.missing else True
            refuse(bad, column.prefix + label or name, values, wanted.wanted, column.by_request)


def _validate_places(logs: Logs, refuse: _Refuse) -> None:
    """Requests, slots and items occur once."""
    requests = numbered(logs.request_id)
    if count_distinct(requests) != logs.num_requests:
        repeated = np.ones(logs.num_requests, bool)
        repeated[np.unique(requests, return_index=True)[1]] = False
        wanted = "the rows of a request next to each other (pygrade doctor sorts them)"
        refuse(repeated, "request_id", logs.request_id, wanted, by_request=True)
    shown = np.flatnonzero(logs.shown)
    if len(shown) and logs.position[shown].min() > 0:
        refuse(logs.shown, "position", logs.position, "slots from 0 (no row has slot 0; counted from 1? subtract 1)")
    columns = {"position": logs.position}
    columns |= {} if logs.slots is None else dict(zip([f"slot_{arm}" for arm in logs.arms], logs.slots.T, strict=True))
    for name, column in columns.items():
        placed = np.flatnonzero(column >= 0)
        cells = logs.row_request[placed] * MAX_SLOT + column[placed]
        if count_distinct(cells) != len(cells):
            first, twice = np.unique(cells, return_index=True)[1], np.zeros(logs.num_rows, bool)
            twice[np.delete(placed, first)] = True
            refuse(twice, name, column, "each slot once in a request")
    numbers = logs.item_number
    items = logs.row_request * (int(numbers.max(initial=0)) + 1) + numbers
    if count_distinct(items) != len(items):
        _, first, number = np.unique(items, return_index=True, return_inverse=True)
        twice = (np.bincount(number, ~logs.shown) > 0)[number]  # feeds do show an item in two slots
        twice[first] = False
        refuse(twice, "item_id", logs.item_id, "each item once in a request, or each time in a slot")
