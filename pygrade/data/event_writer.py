"""Writes a log of events from rows in any order, in jobs that each hold a bounded number of rows.

The stages of an import: jobs read pieces of the source into shards by day (`import_shards`); jobs sort and check a span
of time each (`event_buckets`); the requests' sizes decide where row groups and parts begin; jobs write a part or a
table each (`event_files`). Stages hand files to one another, so that no job holds more than its rows, whatever runs it.
(A streaming sort of polars runs in one process; Ray Data's shuffle has an order of rows that depends on its blocks.)

**The log depends on the rows alone**, not on the files that hold them, their order, the jobs or the workers:

- Events are in order of timestamp, request_id, position and item_id; rows that are equal in these follow in order of
  their other columns. Rows that are equal in every column are one event.
- Of several rows of attributes of an id, the earliest counts, then the smallest by content, nulls last.
- Rows of one request in several files, and days that appear again in a later file, meet here.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pygrade.data.event_buckets import Arrange, Bucket, Summary, consuming, make_spans, sort_bucket
from pygrade.data.event_files import write_parts, write_tables
from pygrade.data.event_log import FORMAT_VERSION, EventSource
from pygrade.data.import_shards import ImportShard, ShardWriter, write_shard
from pygrade.workers import LocalWorkers, Workers

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger("pygrade")

Job = TypeVar("Job")
PIECE = 4
"""A job reads about so many times the rows that are sorted at a time."""


class EventWriter:
    """Collects the events and attributes of one log and writes them into ``directory``, which exists and is empty.

    Memory of a job grows with ``rows``, the number of rows that are sorted at a time, not with the length of the log.
    It also grows with the number of distinct users and items (a 64th of their attributes), and of rows within one
    second if that is larger. Disk: ``scratch`` in the directory holds the rows once, and twice those of the jobs that
    run and of the long days that they are of; it is removed at the end. Every worker must see the directory.
    """

    def __init__(self, directory: Path, rows: int = 500_000, workers: Workers | None = None) -> None:
        if rows < 1:
            raise ValueError(f"rows is {rows}; want at least 1")
        self.directory, self.rows, self.workers = directory, rows, workers or LocalWorkers()
        self.scratch = directory / "scratch"
        self.scratch.mkdir(parents=True)
        self.shards: list[ImportShard] = []
        self._own: ShardWriter | None = None
        self._stages = 0

    # ---- what importers call -----------------------------------------------------------------------------------------
    def read(self, work: "Callable[[Job, ShardWriter], Any]", jobs: Sequence[Job], name: str) -> list[Any]:
        """Runs ``work(job, shard)`` of every job in the workers: it adds a piece of the source to the shard.

        Returns the results, facts about the pieces, in the order of the jobs. Files in ``job.consumes``, if it has
        that, are removed when the job is done.
        """
        self._stages += 1
        readings = [
            _Reading(number, len(jobs), job, work, self.rows, self.scratch / f"read{self._stages}-{number:05d}")
            for number, job in enumerate(jobs)
        ]
        facts = []
        for shards, fact in consuming(self.workers, _read, readings, name):
            self.shards.append(shards)
            facts.append(fact)
        return facts

    def number_requests(self, counts: Sequence[int]) -> None:
        """The requests of the last jobs, numbered from 0 on in each (``counts`` of them), are numbered one job after
        another."""
        first = list(accumulate(counts, initial=0))[:-1]
        last = self.shards[-len(counts) :]
        self.shards[-len(counts) :] = [replace(s, first_request=n) for s, n in zip(last, first, strict=True)]

    def add_events(self, frame: "pl.DataFrame") -> None:
        """See `ShardWriter.add_events`."""
        self._spill().add_events(frame)

    def add_attributes(self, table: str, frame: "pl.DataFrame", since: "pl.Series | None" = None) -> None:
        """See `ShardWriter.add_attributes`."""
        self._spill().add_attributes(table, frame, since)

    def number(self, kind: str, names: "pl.Series") -> "pl.Series":
        """See `ShardWriter.number`."""
        return self._spill().number(kind, names)

    def _spill(self) -> ShardWriter:
        if self._own is None:
            self._own = ShardWriter(self.scratch / "own", self.rows, "this process")
        return self._own

    # ---- the log -----------------------------------------------------------------------------------------------------
    def finish(self, source: EventSource, arrange: Arrange | None = None) -> None:
        """Sorts and writes everything. ``arrange`` gets frames of whole requests and may set their positions."""
        shards = [*self.shards, *([] if self._own is None else [self._own.close()])]
        if not any(shard.held.get("events") for shard in shards):
            raise ValueError("the source holds no events; want at least one")
        _check_columns(shards, source)
        sorted_rows = self.scratch / "sorted"
        sorted_rows.mkdir()
        spans = make_spans(shards, self.rows, self.workers)
        chains = tuple((a, b) for chain in source.funnel for a, b in pairwise(chain))
        buckets = [
            Bucket(n, len(spans), span, sorted_rows / f"{n:06d}.arrow", source.tasks, chains, arrange)
            for n, span in enumerate(spans)
        ]
        done: list[Summary] = list(consuming(self.workers, sort_bucket, buckets, "events: sort"))
        if repeated := sum(summary.repeated for summary in done):
            logger.warning("%d rows repeat others in every column: each is counted once", repeated)
        parts = write_parts(self.directory / "events", done, self.workers)
        write_tables(self.directory, shards, self.workers)
        shutil.rmtree(self.scratch)
        described = {"format_version": FORMAT_VERSION, **asdict(source), "parts": parts, **_totals(done, source)}
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        (self.directory / "source.json").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Reading:
    """A job: an importer's own job, and where its rows go."""

    number: int
    count: int
    job: Any
    work: Callable[[Any, ShardWriter], Any]
    limit: int  # rows that wait in memory
    directory: Path

    @property
    def rows(self) -> int:
        return int(getattr(self.job, "rows", 0))

    @property
    def consumes(self) -> tuple[Path, ...]:
        return tuple(getattr(self.job, "consumes", ()))

    def __str__(self) -> str:
        return f"job {self.number + 1} of {self.count}, {self.job}"


def _read(reading: _Reading) -> tuple[ImportShard, Any]:
    def work(shard: ShardWriter) -> Any:
        return reading.work(reading.job, shard)

    return write_shard(work, reading.directory, reading.limit, str(reading.job))


def _check_columns(shards: Sequence[ImportShard], source: EventSource) -> None:
    stated = [f"c_{n}" for n in source.context] + [f"m_{n}" for n in source.measures]
    stated += [f"p_{task}" for task in source.predictions] + [f"y_{task}" for task in source.tasks]
    schema = next(shard.schema for shard in shards if shard.schema)
    have = [name for name in schema if name[:2] in ("c_", "m_", "p_", "y_")]
    if sorted(have) != sorted(stated):
        raise ValueError(f"the events have the columns {', '.join(have)}; the source states {', '.join(stated)}")
    for shard in shards:
        if shard.schema and list(shard.schema.items()) != list(schema.items()):
            raise ValueError(
                f"{shard.origin} has the columns {', '.join(shard.schema)}; others have {', '.join(schema)}"
            )


def _totals(buckets: Sequence[Summary], source: EventSource) -> dict[str, Any]:
    """The part of source.json that counts the events."""
    positives = np.sum([bucket.positives for bucket in buckets], axis=0)
    return {
        "num_rows": sum(bucket.rows for bucket in buckets),
        "num_requests": sum(bucket.requests for bucket in buckets),
        "num_shown": sum(bucket.shown for bucket in buckets),
        "positives": dict(zip(source.tasks, positives.tolist(), strict=True)),
        "funnel_violations": sum(bucket.violations for bucket in buckets),
        "first_time": buckets[0].first,
        "last_time": buckets[-1].last,
        "scenarios": sorted({scenario for bucket in buckets for scenario in bucket.scenarios}),
    }
