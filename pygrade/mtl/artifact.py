"""Saved models: a directory with ``mtl.safetensors`` and ``mtl.json``, complete or absent."""

from pathlib import Path
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors
from pygrade.config.mtl import MtlConfig
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.columns import Columns
from pygrade.mtl.model import MtlModel
from pygrade.mtl.network import Network

RECORD, TENSORS = "mtl.json", "mtl.safetensors"


def save(model: MtlModel, directory: str | Path) -> Path:
    """Write a directory with the model; an earlier one is replaced in one step."""
    json, tensors = model.files()
    with atomic_directory(Path(directory)) as partial:
        (partial / TENSORS).write_bytes(tensors)
        (partial / RECORD).write_bytes(json)
    return Path(directory)


def load(directory: str | Path, schema_hash: str | None = None) -> MtlModel:
    """Read what `save` wrote.

    FileNotFoundError if there is none; ValueError that names the file and the fault if it is truncated, corrupt, of
    another format version, or of another schema than its own hash or ``schema_hash`` states.
    """
    folder = Path(directory)
    core = _core.MultiTaskModel.load(folder)  # checks the record, the tensors and that they fit
    if schema_hash is not None and schema_hash != core.schema_hash:
        raise ValueError(
            f"{folder / RECORD} has schema_hash {core.schema_hash}; want {schema_hash} (other inputs or tasks)"
        )
    record = read_json(folder / RECORD)
    try:
        model = _untrained(record)
        model.module.load_state_dict(read_safetensors(folder / TENSORS, record["sha256"]))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder / RECORD} lacks a field or has a wrong one: {error}") from error
    vars(model)["core"] = core
    return model


def _untrained(record: dict[str, Any]) -> MtlModel:
    options = dict(record["config"])
    options["funnel"] = tuple((parent, child) for parent, child in options.get("funnel", ()))
    config = MtlConfig(**options)
    of = record["schema"]
    tasks = tuple(of["tasks"])
    columns = Columns(
        tuple(of["dense"]),
        tuple(of["ids"]),
        tuple(of["vocabulary"]),
        str(of["features"]),
        request_dense=int(of["request_dense"]),
        request_ids=int(of["request_ids"]),
    )
    calibration = record["calibration"] and Calibration(np.asarray(record["calibration"], np.float64))
    return MtlModel(
        module=Network(config, columns, tasks).eval(),
        config=config,
        tasks=tasks,
        columns=columns,
        best_epoch=int(record["best_epoch"]),
        validation_auc=tuple(record["validation_auc"]),
        validation_loss=tuple(record["validation_loss"]),
        calibration=calibration,
    )
