"""One pass over the chunks of a log: what each request knew, and the files of a feature set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade.features.aggregates import Feedback, State
from pygrade.features.chunks import Chunk, Questions, feedback_of
from pygrade.features.compute import Attributes, Raw, compute
from pygrade.features.feature import SchemaError
from pygrade.features.fitted import DENSE, IDS, Sample
from pygrade.features.schema import FeatureSchema

PART = "part-{:05d}.safetensors"
_OF_CHUNK = ("request_id", "user_id", "timestamp", "offsets", "item_id", "position", "feedback")
_OF_RAW = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


@dataclass
class Stream:
    """The past at the end of the chunks that were read: the state, and feedback that is still to come."""

    schema: FeatureSchema
    users: Attributes
    items: Attributes
    state: State
    pending: Feedback | None = None
    latest: int | None = None  # timestamp of the last request

    def read(self, frame: Any) -> tuple[Chunk, Raw]:
        """The next chunk, not empty, and the features of its requests. `SchemaError` if it goes back in time."""
        chunk = Chunk.of(self.schema, frame)
        if self.latest is not None and chunk.timestamp[0] < self.latest:
            raise SchemaError(f"events are not in order of time: request {chunk.request_id[0]} is too late")
        self.latest = int(chunk.timestamp[-1])
        new = feedback_of(self.schema, self.users, self.items, frame)
        recent, self.pending = _split(new, self.pending, self.latest)
        questions = Questions.of(self.schema, self.users, self.items, chunk)
        views = {name: self.state.records[name].stream(*asked, recent) for name, asked in questions.tables.items()}
        return chunk, compute(self.schema, self.users, self.items, questions.answered(chunk, views))

    def skip(self, feedback: Feedback) -> None:
        """Adds feedback of requests that are not read, all up to ``latest``."""
        assert self.latest is not None
        late = feedback.time >= self.latest
        self.state.apply(feedback.take(~late) if late.any() else feedback)
        if late.any():
            later = feedback.take(late)
            self.pending = later if self.pending is None else self.pending.then(later)

    def finish(self) -> State:
        """The state after the feedback that was still to come."""
        if self.pending is not None:
            self.state.apply(self.pending)
        return self.state


def _split(new: Feedback, pending: Feedback | None, latest: int) -> tuple[Feedback, Feedback]:
    """The feedback before the moment, in order of time, and the later feedback."""
    both = new if pending is None else pending.then(new)
    late = both.time >= latest
    return both.take(~late).by_time(), both.take(late)


@dataclass(frozen=True)
class Part:
    """A written part: its entry in the index, and what it tells about the training window."""

    entry: dict[str, Any]
    fitted_requests: int
    sample: Sample


def write_parts(
    stream: Stream, frames: Iterable[Any], folder: Path, window: tuple[int, int] | None, number: int = 0
) -> Iterator[Part]:
    """Writes a part of each chunk, from ``number`` on, into the folder."""
    low, high = window or (-(2**63), 2**63 - 1)
    for frame in frames:
        if not len(frame):
            continue
        chunk, raw = stream.read(frame)
        inside = (chunk.timestamp >= low) & (chunk.timestamp < high)
        names = _write(folder / PART.format(number), stream.schema, chunk, raw)
        number += 1
        entry = {
            "requests": len(chunk.request_id),
            "rows": len(chunk.item_id),
            "first": int(chunk.timestamp[0]),
            "last": int(chunk.timestamp[-1]),
            "scenarios": names,
        }
        yield Part(entry, int(inside.sum()), _sample(stream.schema, chunk, raw, inside))


def _sample(schema: FeatureSchema, chunk: Chunk, raw: Raw, inside: NDArray[np.bool_]) -> Sample:
    arrays: dict[str, NDArray[Any]] = {name: getattr(raw, name) for name in (*DENSE, *IDS)}
    if not inside.all():
        rows = np.repeat(inside, np.diff(chunk.offsets))
        arrays = {name: values[inside if name.startswith("request") else rows] for name, values in arrays.items()}
    return Sample.of(schema, arrays)


def _write(path: Path, schema: FeatureSchema, chunk: Chunk, raw: Raw) -> list[str]:
    """Writes one part; returns the names of its numbered scenarios."""
    tensors = {name: getattr(chunk, name) for name in _OF_CHUNK} | {name: getattr(raw, name) for name in _OF_RAW}
    names: list[str] = []
    if chunk.scenario is not None:
        unique, place = np.unique(chunk.scenario, return_inverse=True)
        tensors["scenario"], names = place.astype(np.int32), unique.tolist()
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    partial = path.with_name(f".{path.name}.partial")
    safetensors.numpy.save_file(contiguous, partial, {"schema": schema.hash})
    partial.replace(path)
    return names
