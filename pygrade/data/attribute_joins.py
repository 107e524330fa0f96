"""Tables of users and items as one row of attributes for each id: read, and joined by DuckDB."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pygrade._util.optional_imports import require
from pygrade._util.sql import quoted
from pygrade.data.event_schema import AttributeTable, EventSchema
from pygrade.data.event_tables import Batch, Values, read_batches, whole_numbers
from pygrade.data.event_writer import EventWriter
from pygrade.data.spill import Spill, whole_runs

if TYPE_CHECKING:
    import polars as pl

_DISCRETE = ("categorical", "hashed", "list")
_EXAMPLES = 3

NO_ID = "have no id and are left out"
NO_TIME = "have no time and are left out"


@dataclass
class Attributes:
    """The rows of a table of users or items, and facts about them."""

    table: AttributeTable
    spill: Spill
    left_out: Counter[str] = field(default_factory=Counter)  # reason → rows
    whole: dict[str, bool] = field(default_factory=dict)  # attribute → all its values are whole numbers

    def add(self, batch: Batch, ids: "pl.Series", values: Values) -> None:
        """Adds the rows of a batch."""
        polars = require("polars")
        columns = [batch.attribute(attribute, values) for attribute in self.table.attributes]
        for attribute, column in zip(self.table.attributes, columns, strict=True):
            if attribute.kind in _DISCRETE:
                self.whole[attribute.name] = self.whole.get(attribute.name, True) and whole_numbers(column)
        since = [] if self.table.time is None else [polars.Series("since", batch.times(self.table.time, values))]
        self.spill.add(polars.DataFrame([ids.alias("id"), *since, *columns]).unique(maintain_order=True))


def read_attributes(into: Attributes, entity: str, schema: EventSchema, values: Values, writer: EventWriter) -> None:
    """Adds the rows of a table's files."""
    table = into.table
    for file in table.files:
        for batch in read_batches(schema.place(file)):
            there = batch.present(table.id, values)
            into.left_out[NO_ID] += int((~there).sum())
            if table.time is not None:
                timed = batch.optional_times(table.time, values).is_not_null().to_numpy()
                into.left_out[NO_TIME] += int((there & ~timed).sum())
                there &= timed
            if there.any():
                rows = batch.take(there)
                into.add(rows, rows.ids(table.id, entity, values, writer), values)


# ---- tables meet -----------------------------------------------------------------------------------------------------
@dataclass
class JoinFacts:
    """Counts of a join."""

    ids: int = 0  # of the events
    unknown: int = 0  # of them, that no table without a time has
    rows: int = 0  # events of these
    examples: Sequence[int] = ()
    several: list[int] = field(default_factory=list)  # of each table, ids with several rows that differ
    late: list[int] = field(default_factory=list)  # of each dated table, ids without a row before their first event


def join_ids(entity: str, tables: Sequence[Attributes], events: Spill, writer: EventWriter) -> JoinFacts:
    """Adds a row of attributes for each id that a table has; events: rows with ``user_id``, ``item_id`` and a time.

    Of ids with several rows the smallest by content counts; of dated rows the latest at or before the id's first event,
    of ids without events the last.
    """
    polars, facts = require("polars"), JoinFacts()
    there = [table for table in tables if table.spill.count]
    with events.connect() as connection:
        one = connection.execute
        one(
            f"create table seen as select {entity}_id as id, min(timestamp) as first, count(*) as rows "
            f"from {events.table} group by 1"
        )
        (facts.ids,) = one("select count(*) from seen").fetchone()
        for number, table in enumerate(tables):
            facts.several.append(0)
            facts.late.append(0)
            if not table.spill.count:
                continue
            names = [quoted(a.name) for a in table.table.attributes]
            columns = ", ".join(["id", *names])
            order = ", ".join(f"{name} nulls last" for name in names)
            if table.table.time is None:
                one(f"create table distinct{number} as select distinct {columns} from {table.spill.table}")
                several = f"select id from distinct{number} group by 1 having count(*) > 1"
                (facts.several[number],) = one(f"select count(*) from ({several})").fetchone()
                where = f"distinct{number}"
            else:
                last = ", ".join(f"{name} desc nulls first" for name in names)
                known = f"{table.spill.table} left join seen using (id)"
                where, order = f"{known} where first is null or since <= first", f"since desc, {last}"
                early = f"select 1 from {table.spill.table} e where e.id = seen.id and since <= first"
                held = f"id in (select id from {table.spill.table})"
                late = f"select count(*) from seen where {held} and not exists ({early})"
                (facts.late[number],) = one(late).fetchone()
            one(
                f"create table attributes{number} as select {columns} from {where} "
                f"qualify row_number() over (partition by id order by {order}) = 1"
            )
        joined = [f"select id from attributes{n}" for n, t in enumerate(tables) if t.spill.count and not t.table.time]
        if any(not table.table.time for table in tables):
            unknown = f"from seen where id not in ({' union '.join(joined)})" if joined else "from seen"
            facts.unknown, facts.rows = one(f"select count(*), coalesce(sum(rows), 0)::bigint {unknown}").fetchone()
            some = one(f"select id {unknown} order by id limit {_EXAMPLES}").fetchall()
            facts.examples = [number for (number,) in some]
        if there:
            names = [f"attributes{number}" for number, table in enumerate(tables) if table.spill.count]
            query = f"select * from {names[0]}" + "".join(f" full join {name} using (id)" for name in names[1:])
            whole = _whole(tables)
            schema = {"id": polars.Int64}
            for table in there:
                schema |= {a.name: table.spill.schema[a.name] for a in table.table.attributes}
            reader = connection.sql(f"{query} order by id").to_arrow_reader(100_000)
            for frame in whole_runs(reader, "id", writer.rows, schema):
                typed = [
                    _typed(a.name, schema, whole)
                    for table in tables
                    for a in table.table.attributes
                    if a.name in schema
                ]
                writer.add_attributes(entity, frame.select(polars.col("id").alias(f"{entity}_id"), *typed))
    return facts


def _whole(tables: Sequence[Attributes]) -> set[str]:
    found: dict[str, bool] = {}
    for table in tables:
        for name, is_whole in table.whole.items():
            found[name] = found.get(name, True) and is_whole
    return {name for name, is_whole in found.items() if is_whole}


def _typed(name: str, schema: Mapping[str, Any], whole: set[str]) -> Any:
    polars = require("polars")
    if name not in whole:
        return polars.col(name)
    return polars.col(name).cast(
        polars.List(polars.Int64) if schema[name] == polars.List(polars.String) else polars.Int64
    )
