"""One contender of `bench.cluster.throughput`: main(JOB.json), in a process of its own.

The job: ``data`` (SCHEME:PATH), ``out`` (an empty directory), ``cluster`` (null, local:1 …), ``model`` (a multi-task
model, or null: one is trained, which no stage counts). Writes ``out/stages.json``: of each stage the seconds and a hash
of what it wrote.
"""

import hashlib
import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pygrade import mtl
from pygrade._util.files import atomic_file
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog, import_events
from pygrade.features import FeatureSet, default_schema, materialize
from pygrade.mtl import Timeline
from pygrade.pipeline.mtl import fit_mtl
from pygrade.workers import LocalWorkers, Workers, wait_for_all

STAGES = ("events", "features", "predictions")
TRAIN_SHARE = 0.5  # of the time; its requests fit the features


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    out, seconds = Path(job["out"]), {}
    with workers_of(job["cluster"]) as workers:
        wait_for_all(workers.map(import_all, range(4 * workers.count), "start"))
        given = {} if job["cluster"] is None else {"workers": workers}  # else the defaults, as a user's
        for name in STAGES:
            if name == "predictions" and job["model"] is None:
                train(out, out / "model")
            started = time.perf_counter()
            if name == "events":
                import_events(job["data"], out / "events")
            elif name == "features":
                log = EventLog.open(out / "events")
                materialize(log, default_schema(log), out / "features", window(log), **given)
            else:
                predict(out / "features", Path(job["model"] or out / "model"), out / "predictions", workers)
            seconds[name] = time.perf_counter() - started
    stages = {name: {"seconds": value, "hash": content_hash(out / name)} for name, value in seconds.items()}
    (out / "stages.json").write_text(json.dumps({"stages": stages}))


def import_all(_: int) -> None:
    """Loads in a worker what the stages import, so that no stage pays for it, and makes each worker get a job."""
    time.sleep(0.2)


def workers_of(cluster: str | None) -> AbstractContextManager[Workers]:
    if cluster is None:
        return nullcontext(LocalWorkers())
    from pygrade.cluster import connect

    return connect(cluster, object_store_mib=200)


def window(log: EventLog) -> tuple[int, int]:
    first, last = int(log.source["first_time"]), int(log.source["last_time"])
    return first, first + int(TRAIN_SHARE * (last - first))


def train(out: Path, to: Path) -> None:
    """A multi-task model of the pipeline's default shape, from the first part of the features."""
    features = FeatureSet.open(out / "features")
    index = json.loads((features.path / "index.json").read_text())
    first = FeatureSet(features.path, features.schema, features.fitted, index | {"parts": index["parts"][:1]})
    times = first.part(0).timestamp
    ends = (int(times[int(share * (len(times) - 1))]) for share in (0.6, 0.8, 0.9))
    config = PipelineConfig(min_events=1, allow_unproven=True, mtl=MtlConfig(epochs=1, refit=False))
    fit_mtl(first, EventLog.open(out / "events"), Timeline(*ends), config, to)


@dataclass(frozen=True)
class Part:
    """A part of a feature set, to be predicted."""

    features: Path
    model: Path
    out: Path
    number: int

    def __str__(self) -> str:
        return f"part {self.number} of {self.features}"


def predict(features: Path, model: Path, out: Path, workers: Workers) -> int:
    """Predictions of every row, in a file a part; returns the rows."""
    out.mkdir()
    parts = range(FeatureSet.open(features).num_parts)
    return sum(workers.map(predict_part, [Part(features, model, out, number) for number in parts], "predictions"))


def predict_part(job: Part) -> int:
    torch.set_num_threads(1)
    features, model = _opened(job.features, job.model)
    batch = features.part(job.number)
    values = mtl.predict(model, *batch.model_inputs())
    with atomic_file(job.out / f"part-{job.number:05d}.npy") as partial, partial.open("wb") as file:
        np.save(file, values)
    return len(values)


@lru_cache(1)
def _opened(features: Path, model: Path) -> tuple[FeatureSet, mtl.MtlModel]:
    return FeatureSet.open(features), mtl.load(model / "mtl")


def content_hash(folder: Path) -> str:
    """Of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
