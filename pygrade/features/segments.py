"""Materialization by two or three workers: each writes a part of the log, after it has read the feedback before it.

This needs no files between the jobs, but each worker holds all records, and all but the first read feedback that others
read, too. Reading the feedback costs `HISTORY` of the time of writing the features, so that later segments are shorter.
For more workers `sharded` is faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade.features.aggregates import State
from pygrade.features.chunks import feedback_columns, feedback_of
from pygrade.features.schema import SplitEvents
from pygrade.features.sharded import Made, Plan, SpanJob, gathered, once, write_span
from pygrade.features.stream import Stream
from pygrade.workers import Workers

MOST = 3  # workers
HISTORY = 0.3
_STATE = "state.safetensors"


@dataclass(frozen=True)
class SegmentJob:
    """A span and what comes before it."""

    span: SpanJob
    log: SplitEvents
    before: tuple[Any, ...]  # places of the chunks

    @property
    def rows(self) -> int:
        """For the progress."""
        return self.span.rows

    def __str__(self) -> str:
        return str(self.span)


def segments_of(places: Sequence[Any], workers: int) -> list[list[Any]]:
    """The places of the log's chunks in as many runs as there are workers, which take equally long."""
    shares = [(1.0 - HISTORY) ** number for number in range(workers)]
    total, cuts, done = sum(place.rows for place in places), [0], 0.0
    for share in shares[:-1]:
        done += share / sum(shares) * total
        rows, cut = 0, 0
        while cut < len(places) and rows + places[cut].rows / 2 <= done:
            rows += places[cut].rows
            cut += 1
        cuts.append(cut)
    runs = [list(places[start:stop]) for start, stop in zip(cuts, [*cuts[1:], len(places)], strict=True)]
    return [run for run in runs if run]


def materialize_segments(plan: Plan, jobs: Sequence[SpanJob], log: SplitEvents, workers: Workers) -> Made:
    """Writes the parts into the plan's folder. What an earlier call of the same plan and jobs left there is used."""
    places = [place for job in jobs for place in job.places]
    works = []
    for job in jobs:
        everything = log.between(places[0].first, job.places[-1].last)
        works.append(SegmentJob(job, everything, tuple(places[: job.first_part])))
    made = gathered(jobs, workers.map(_segment, works, "features: rows"))

    def save_state(path: Path) -> None:
        (plan.folder / _STATE).rename(path)

    return *made, save_state


def _segment(job: SegmentJob) -> tuple[list[dict[str, Any]], int]:
    entries, inside = once(job.span.plan, f"segment-{job.span.number:05d}", _write_segment, job)
    return entries, inside


def _write_segment(job: SegmentJob) -> tuple[list[dict[str, Any]], int]:
    plan, number = job.span.plan, job.span.number
    stream = Stream(plan.schema, *plan.attributes(), State(plan.schema))
    if number:
        stream.latest = plan.ends[number - 1]
        for frame in job.log.read(job.before, feedback_columns(plan.schema)):
            stream.skip(feedback_of(plan.schema, stream.users, stream.items, frame))
    made = write_span(stream, job.span)
    if number == len(plan.ends) - 1:
        stream.finish().save(plan.folder / _STATE)
    return made
