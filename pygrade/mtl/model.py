"""A trained multi-task model: its files, complete or absent, and its predictions by the C++ core."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._typing import Floats32, Ints
from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors
from pygrade.config.mtl import MtlConfig
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.columns import Columns, schema, schema_hash
from pygrade.mtl.network import Network

FORMAT, FORMAT_VERSION = "pygrade.MtlModel", 1
RECORD, TENSORS = "mtl.json", "mtl.safetensors"
MIN_PREDICTION = 1e-6
"""Lower bound of a prediction, so that its logarithm is finite; the core has the same."""


@dataclass(frozen=True)
class MtlModel:
    """A trained `Network` and the meaning of its inputs and outputs. `fit_stream` makes it, `predict` uses it."""

    module: Network  # not to be changed once the model has predicted
    config: MtlConfig
    tasks: tuple[str, ...]
    columns: Columns
    best_epoch: int  # passes that were best on the early-stopping rows
    validation_auc: tuple[float, ...] = ()  # per pass: weighted mean over tasks on the early-stopping rows
    validation_loss: tuple[float, ...] = ()  # per pass: mean over tasks of log-loss / log-loss of the base rate
    calibration: Calibration | None = None

    @property
    def schema_hash(self) -> str:
        """A hash of tasks, columns and funnel."""
        return schema_hash(self.tasks, self.columns, self.config.funnel)

    def files(self) -> tuple[bytes, bytes]:
        """The content of mtl.json and mtl.safetensors, which `pygrade.mtl.save` writes."""
        tensors = to_safetensors(self.module.state_dict())
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "schema": schema(self.tasks, self.columns, self.config.funnel),
            "schema_hash": self.schema_hash,
            "sha256": hashlib.sha256(tensors).hexdigest(),
            "config": asdict(self.config),
            "best_epoch": self.best_epoch,
            "validation_auc": self.validation_auc,
            "validation_loss": self.validation_loss,
            "calibration": self.calibration and self.calibration.beta.tolist(),
        }
        return to_json(record), tensors

    @cached_property
    def core(self) -> _core.MultiTaskModel:
        """The model as the C++ core reads it, made when it is first needed."""
        return _core.MultiTaskModel(*self.files())


def predict(model: MtlModel, dense: Floats32, ids: Ints, calibrated: bool = True, num_threads: int = 1) -> Floats32:
    """Probability of each kind of feedback, [n, T] float32 in [1e-6, 1]; dense[n, D], ids[n, F] as in `fit_stream`.

    A row's predictions have the same bits whatever other rows are in the call, on every machine and with any number of
    threads. Neighboring rows with the same request columns are faster: their part is computed once.
    ``calibrated=False`` skips the calibration. ValueError and TypeError for inputs that do not fit the model.
    """
    columns = model.columns
    if dense.ndim != 2 or dense.shape[1] != len(columns.dense):
        raise ValueError(f"dense has shape {dense.shape}; expected [n, {len(columns.dense)}]")
    if ids.shape != (len(dense), len(columns.ids)):
        raise ValueError(f"ids has shape {ids.shape}; expected {(len(dense), len(columns.ids))}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; expected int64")
    result = np.empty((len(dense), len(model.tasks)), np.float32)
    model.core.predict(
        np.ascontiguousarray(dense, np.float32), np.ascontiguousarray(ids, np.int64), result, calibrated, num_threads
    )
    return result


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
            f"{folder / RECORD} has schema_hash {core.schema_hash}; expected {schema_hash} (other inputs or tasks)"
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
