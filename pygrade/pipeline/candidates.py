"""Candidates for the policy's log that were not shown: what prerank would have found at that moment."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet, materialize
from pygrade.pipeline.candidate_copies import CandidateCopies, CandidateFile, write_candidates
from pygrade.pipeline.parts import OpenPart, PartWork, RequestRange, parts_of
from pygrade.pipeline.policy_log import NO_REQUEST, Wanted
from pygrade.prerank import Prerank
from pygrade.workers import LOCAL, Workers

Items = NDArray[np.int64]
Find = Callable[[FeatureBatch], Items]  # [R, count] the items of each request, -1: none


@dataclass(frozen=True)
class Finder(OpenPart):
    """The ``count`` best items [R, count] of each request of a batch, -1: none; a saved prerank, read when needed.

    known: a file of the items that may be candidates, those of the time before.
    """

    prerank: Path
    known: Path
    schema_hash: str
    count: int

    @cached_property
    def _loaded(self) -> tuple[Prerank, Items]:
        return Prerank.load(self.prerank, self.schema_hash), np.load(self.known)

    def __call__(self, batch: FeatureBatch) -> Items:
        prerank, known = self._loaded
        return prerank.candidates(batch, self.count, np.split(batch.item_id, batch.offsets[1:-1]), known)


@dataclass(frozen=True)
class CandidateWriter(PartWork):
    """Writes what is found for the wanted requests of a part of the features; a job of `with_candidates`."""

    find: Find
    wanted: Wanted
    folder: Path

    def __call__(self, part: RequestRange) -> CandidateFile | None:
        """The part's file; None if it has none of the requests."""
        asked, found = [], []
        for batch in self.batches(part):
            chosen = batch.take(np.flatnonzero(self.wanted.among(batch)))
            if len(chosen):
                asked.append((chosen.request_id, chosen.timestamp))
                found.append(self.find(chosen))
        if not asked:
            return None
        request_id, timestamp = map(np.concatenate, zip(*asked, strict=True))
        path = self.folder / f"part-{part.number:05d}.npz"
        items = np.concatenate(found)
        return write_candidates(path, request_id, timestamp, (items >= 0).sum(1), items[items >= 0])


def with_candidates(
    log: EventLog,
    features: FeatureSet,
    find: Find,
    wanted: Sequence[Wanted],
    scratch: Path,
    workers: Workers = LOCAL,
    rows: int = 200_000,
) -> tuple[FeatureSet, int]:
    """The features of a log up to the last wanted request, each of these followed by its copy with the items that
    ``find`` gives; ids of copies are below the second result (`CandidateCopies`).

    They are materialized as the requests knew them, ``rows`` at a time, in a directory ``scratch`` that the caller
    removes. Actors hold ``find`` and answer for a part of the features at a time. ValueError if a period has no
    request.
    """
    files: list[CandidateFile] = []
    for number, requests in enumerate(wanted):
        writer = CandidateWriter(features.path, find, requests, scratch / f"candidates-{number}")
        found = list(workers.map(writer, parts_of(features, requests.period), "candidates"))
        if not any(found):
            raise ValueError(NO_REQUEST)
        files += [file for file in found if file is not None]
    copies = CandidateCopies(log, files, max(file.last for file in files) + 1)
    made = materialize(copies, features.schema, scratch / "set", features.window, rows=rows)
    # Models know the fitted values of the log, from which these, of other chunks, may differ in the last bits.
    shutil.copy(features.path / "fitted.safetensors", made.path)
    return FeatureSet.open(made.path), copies.first_id
