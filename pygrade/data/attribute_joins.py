"""Tables of users and items as one row of attributes for each id: read, and joined by DuckDB."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pygrade._util.optional_imports import require
from pygrade._util.sql import quoted
from pygrade.data.event_schema import AttributeTable, EventSchema
from pygrade.data.event_tables import WHOLE, Batch, Values, file_names, left_out, read_batches
from pygrade.data.event_writer import EventWriter
from pygrade.data.spill import Spill, whole_runs

if TYPE_CHECKING:
    import polars as pl

_DISCRETE = ("categorical", "hashed", "list")
_EXAMPLES = 3


@dataclass
class AttributeSpill:
    """The rows of a table of users or items."""

    table: AttributeTable
    spill: Spill

    def add(self, batch: Batch, ids: "pl.Series", values: Values) -> None:
        """Adds the rows of a batch."""
        polars = require("polars")
        columns = [batch.attribute(attribute, values) for attribute in self.table.attributes]
        since = [] if self.table.time is None else [polars.Series("since", batch.times(self.table.time, values))]
        self.spill.add(polars.DataFrame([ids.alias("id"), *since, *columns]).unique(maintain_order=True))

    def read(self, entity: str, schema: EventSchema, values: Values, writer: EventWriter) -> Iterator[str]:
        """Adds the rows of the table's files; yields sentences on rows that are left out."""
        lost: dict[str, int] = {"no id": 0, "no time": 0}
        for batch in (batch for file in self.table.files for batch in read_batches(schema.place(file))):
            there = batch.present(self.table.id, values)
            lost["no id"] += int((~there).sum())
            if self.table.time is not None:
                timed = batch.optional_times(self.table.time, values).is_not_null().to_numpy()
                lost["no time"] += int((there & ~timed).sum())
                there &= timed
            if there.any():
                rows = batch.take(there)
                self.add(rows, rows.ids(self.table.id, entity, values, writer), values)
        yield from left_out(self.table, {f"have {what} and are left out": count for what, count in lost.items()})


def join_ids(entity: str, tables: Sequence[AttributeSpill], events: Spill, writer: EventWriter) -> Iterator[str]:
    """Adds a row of attributes for each id that a table has, and yields what is unknown or not clear, for people.

    events: rows with ``user_id``, ``item_id`` and a time. Of ids with several rows the smallest by content counts; of
    dated rows the latest at or before the id's first event, of ids without events the last.
    """
    filled = [table for table in tables if table.spill.count]
    with events.connect(*(table.spill for table in filled)) as connection:

        def counts(query: str) -> tuple[int, ...]:
            return tuple(connection.execute(query).fetchall()[0])

        connection.execute(
            f"create table seen as select {entity}_id as id, min(timestamp) as first, count(*) as rows "
            f"from {events.table} group by 1"
        )
        notes = list[str]()
        for number, table in enumerate(filled):
            names, rows = [quoted(a.name) for a in table.table.attributes], table.spill.table
            columns = ", ".join(["id", *names])
            order = ", ".join(f"{name} nulls last" for name in names)
            if table.table.time is None:
                connection.execute(f"create table distinct{number} as select distinct {columns} from {rows}")
                several = f"select id from distinct{number} group by 1 having count(*) > 1"
                (count,) = counts(f"select count(*) from ({several})")
                why, source = "several rows that differ, and no time: the smallest counts", f"distinct{number}"
            else:
                early = f"select 1 from {rows} e where e.id = seen.id and since <= first"
                has_rows = f"id in (select id from {rows})"
                (count,) = counts(f"select count(*) from seen where {has_rows} and not exists ({early})")
                why = "no row before their first event: unknown"
                source = f"{rows} left join seen using (id) where first is null or since <= first"
                order = ", ".join(["since desc", *(f"{name} desc nulls first" for name in names)])
            notes += [f"{file_names(table.table)}: {count:,} ids have {why}"] if count else []
            connection.execute(
                f"create table attributes{number} as select {columns} from {source} "
                f"qualify row_number() over (partition by id order by {order}) = 1"
            )
        if any(not table.table.time for table in tables):
            joined = [f"select id from attributes{n}" for n, t in enumerate(filled) if not t.table.time]
            unknown = f"from seen where id not in ({' union '.join(joined)})" if joined else "from seen"
            ids, rows_of_ids, all_ids = counts(
                f"select count(*), coalesce(sum(rows), 0)::bigint, (select count(*) from seen) {unknown}"
            )
            if ids:
                some = connection.execute(f"select id {unknown} order by id limit {_EXAMPLES}").fetchall()
                yield (
                    f"{ids:,} of {all_ids:,} {entity}s of the events ({rows_of_ids:,} rows) have no row in the tables "
                    f"of {entity}s, such as {', '.join(writer.names_of(entity, [number for (number,) in some]))}: "
                    "their attributes are unknown"
                )
        yield from notes
        if not filled:
            return
        polars = require("polars")
        schema, casts = {"id": polars.Int64}, ["id"]
        for number, table in enumerate(filled):
            for attribute in table.table.attributes:
                name, value = attribute.name, quoted(attribute.name)
                schema[name] = table.spill.schema[name]
                if attribute.kind in _DISCRETE:
                    is_list = attribute.kind == "list"
                    word = f"unnest({value})" if is_list else value
                    whole = f"select coalesce(bool_and(regexp_full_match(word, '{WHOLE}')), true)"
                    if counts(f"{whole} from (select {word} as word from attributes{number})")[0]:
                        schema[name] = polars.List(polars.Int64) if is_list else polars.Int64
                        value = f"{value}::bigint{'[]' * is_list} as {value}"
                casts.append(value)
        query = f"select {', '.join(casts)} from attributes0"
        query += "".join(f" full join attributes{number} using (id)" for number in range(1, len(filled)))
        reader = connection.sql(f"{query} order by id").to_arrow_reader(100_000)
        for frame in whole_runs(reader, "id", writer.rows, schema):
            writer.add_attributes(entity, frame.rename({"id": f"{entity}_id"}))
