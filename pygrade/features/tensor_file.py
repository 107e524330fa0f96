"""Safetensors files that belong to a schema."""

from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from pygrade.features.feature import SchemaError


def read_tensors(path: Path, schema_hash: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file that was written for this schema. `SchemaError` if it is damaged or of another one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            stated = (file.metadata() or {}).get("schema")
            if stated != schema_hash:
                raise SchemaError(f"{path} is of schema {stated}; want {schema_hash}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise SchemaError(f"{path} is truncated or corrupt: {error}") from error
