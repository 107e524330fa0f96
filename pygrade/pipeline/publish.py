"""The stage that publishes: the artifact, and what a service reads beside it: store, item names, prediction deciles.

``RUN/item_names.safetensors``: item_id [n] ascending, start [n + 1], text: the UTF-8 names, one after another.
``RUN/reference.json``: for the latest versions, and each task, the deciles of the predictions of candidates on pages of
users of the log. The service compares its own with them (``pygrade_prediction_psi``).
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.serialization import read_json, to_json, to_safetensors, write_bytes
from pygrade.data.events import EventLog
from pygrade.features import FeatureCenter, FeatureSet
from pygrade.pipeline.stages import Runner, StageResult
from pygrade.serving.artifact import open_artifact, write_artifact
from pygrade.serving.names import names_record
from pygrade.serving.pipeline import STORE, Models, Pipeline, load_models
from pygrade.stores import open_store, without_secret

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger("pygrade")

REFERENCE, ITEM_NAMES = "reference.json", "item_names.safetensors"
_PAGES = 256  # that references are measured on: the log's latest requests
_KEPT = 4  # versions in the file
_DECILES = np.arange(1, 10) / 10


def make_artifact(
    out: Path, features: FeatureSet, prerank: StageResult, model: StageResult, policy: StageResult
) -> dict[str, Any]:
    """Writes the artifact of finished stages; returns its version."""
    folder = out / "features"
    folder.mkdir()
    for name in ("schema.json", "fitted.safetensors"):
        shutil.copy(features.path / name, folder / name)
    parts = {"features": folder, "prerank": prerank.path / "prerank", "policy": policy.path / "training" / "policy"}
    if (model.path / "mtl").exists():  # else the log's own predictions are fused
        parts["mtl"] = model.path / "mtl"
    made = write_artifact(out / "artifact", parts, features.schema.hash, {"tasks": model.record["tasks"]})
    return {"version": made.version}


def publish(runner: Runner, made: StageResult, log: EventLog, features: FeatureSet, store: str) -> None:
    """Fills the store with the version of the artifact; then ``RUN/artifact`` points to it."""
    artifact = open_artifact(made.path / "artifact")
    address, models = store.replace("{run}", str(runner.out)), load_models(artifact)
    fill_store(address, models, log, features, artifact.version)
    write_reference(runner.out, log, models, address, artifact.version)
    write_item_names(runner.out, log)
    record = {"store": without_secret(store), "version": artifact.version, **names_record(log, runner.out)}
    _write_if_new(runner.out / STORE, (json.dumps(record) + "\n").encode())
    runner.show(address)
    runner.link("artifact", made.path / "artifact")


def _write_if_new(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)


def fill_store(address: str, models: Models, log: EventLog, features: FeatureSet, version: str) -> None:
    """Makes a store serve everything up to the end of the log as ``version``, unless it does already."""
    with open_store(address, create=True) as store:
        if store.current() == version:
            logger.debug("store: serves version %s already", version)
            return
        if version in store.versions() and store.versions()[version] != "filling":
            store.drop(version)  # it is of the time before another version took its place
        logger.debug("store: filling version %s", version)
        center = FeatureCenter(models.schema, models.fitted, store)
        center.publish(features.state(), log.users(), log.items(), version)


def write_item_names(run: Path, log: EventLog) -> None:
    """The names of items, if the log has some."""
    if not log.has_names("item"):
        return
    polars = require("polars", "pipeline")
    table = polars.scan_parquet(log.path / "ids.parquet").filter(polars.col("kind") == "item").sort("id").collect()
    names = [name.encode() for name in table["name"].to_list()]
    tensors = {
        "item_id": torch.from_numpy(table["id"].to_numpy().astype(np.int64)),
        "start": torch.from_numpy(np.cumsum([0, *map(len, names)])),
        "text": torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()),
    }
    _write_if_new(run / ITEM_NAMES, to_safetensors(tensors))


def write_reference(run: Path, log: EventLog, models: Models, store: str, version: str) -> None:
    """Measures the predictions of a version that the store serves, unless the file has it already."""
    path = run / REFERENCE
    versions = read_json(path)["versions"] if path.is_file() else {}
    if models.mtl is None or version in versions:  # the user's own model is not here
        return
    logger.debug("reference: predictions on %d pages of version %s", _PAGES, version)
    predictions = _predictions(log, models, store, version)
    if not len(predictions):
        return
    kept = dict(list(versions.items())[1 - _KEPT :])
    tasks = {task: deciles(predictions[:, t]) for t, task in enumerate(models.policy.tasks)}
    write_bytes(path, to_json({"versions": kept | {version: tasks}}))


def deciles(predictions: NDArray[np.float32]) -> dict[str, Any]:
    """Bounds of the deciles, and the shares of predictions p in the bins ``bounds[i - 1] <= p < bounds[i]``."""
    bounds = np.quantile(predictions, _DECILES).astype(np.float32)
    counts = np.bincount(np.searchsorted(bounds, predictions, "right"), minlength=len(bounds) + 1)
    return {"bounds": bounds.tolist(), "shares": (counts / len(predictions)).tolist()}


def _predictions(log: EventLog, models: Models, store: str, version: str) -> NDArray[np.float32]:
    """Predictions [n, T] for the candidates of the log's latest requests, searched for as in service."""
    requests: list[Mapping[str, Any]] = []
    for frame in log.chunks():
        requests = [*requests, *_heads(frame)][-_PAGES:]
    pages = []
    with open_store(store) as opened:
        system = Pipeline(models, opened, version, seed=0)
        for request in requests:
            page = system.rank(
                request["user_id"],
                k=1,
                context={name: request[name] for name in models.schema.context},
                scenario=request.get("scenario"),
                timestamp=request["timestamp"],
                history=models.unseen,
            )
            if not page.degraded:
                pages.append(page.predictions)
    width = len(models.policy.tasks)
    return np.concatenate(pages) if pages else np.zeros((0, width), np.float32)


def _heads(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """One row of each of the latest requests of a chunk."""
    unique = frame.unique("request_id", keep="first", maintain_order=True).tail(_PAGES)
    return list(unique.iter_rows(named=True))
