"""Saved models: a directory with ``mtl.safetensors`` and ``mtl.json``, complete or absent."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors
from pygrade.config.mtl import MtlConfig
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.columns import Columns
from pygrade.mtl.model import FORMAT, FORMAT_VERSION, MtlModel
from pygrade.mtl.network import Network


def save(model: MtlModel, directory: str | Path) -> Path:
    """Write a directory with the model; an earlier one is replaced in one step."""
    json, tensors = model.files()
    with atomic_directory(Path(directory)) as partial:
        (partial / "mtl.safetensors").write_bytes(tensors)
        (partial / "mtl.json").write_bytes(json)
    return Path(directory)


def load(directory: str | Path, schema_hash: str | None = None) -> MtlModel:
    """Read what `save` wrote.

    FileNotFoundError if there is none; ValueError that names the file and the fault if it is truncated, corrupt, of
    another format version, or of another schema than its own hash or ``schema_hash`` states.
    """
    path = Path(directory) / "mtl.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; want a directory that pygrade.mtl.save wrote")
    record = read_json(path)
    if record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} is {record.get('format')!r} version {record.get('format_version')!r}; "
            f"this pygrade reads {FORMAT} version {FORMAT_VERSION}"
        )
    try:
        model, sha256, stated = _untrained(record), str(record["sha256"]), str(record["schema_hash"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} lacks a field or has a wrong one: {error}") from error
    if model.schema_hash != stated:
        raise ValueError(f"{path} has schema_hash {stated}; its tasks, columns and funnel give {model.schema_hash}")
    if schema_hash is not None and schema_hash != stated:
        raise ValueError(f"{path} has schema_hash {stated}; want {schema_hash} (other inputs or tasks)")
    tensors = Path(directory) / "mtl.safetensors"
    if not tensors.is_file():
        raise FileNotFoundError(f"{tensors} does not exist; {path} names a tensor file of sha256 {sha256[:12]}")
    try:
        model.module.load_state_dict(read_safetensors(tensors, sha256))
    except RuntimeError as error:
        raise ValueError(f"{tensors} does not fit {path}: {error}") from error
    _ = model.core  # made now, so that no request waits for it and what it refuses is refused here
    return model


def _untrained(record: dict[str, Any]) -> MtlModel:
    known = {item.name for item in fields(MtlConfig)}
    options = {name: value for name, value in record["config"].items() if name in known}
    options["funnel"] = tuple((parent, child) for parent, child in options.get("funnel", ()))
    config = MtlConfig(**options)
    of = record["schema"]
    tasks = tuple(of["tasks"])
    columns = Columns(
        tuple(of["dense"]),
        tuple(of["ids"]),
        tuple(of["vocabulary"]),
        str(of["features"]),
        request_dense=int(of.get("request_dense", 0)),
        request_ids=int(of.get("request_ids", 0)),
    )
    calibration = record["calibration"] and Calibration.from_dict(record["calibration"], len(tasks))
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
