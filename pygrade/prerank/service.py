"""Candidates for requests: the towers and an index of items, saved and loaded."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open

from pygrade import _core
from pygrade._util.files import atomic_directory
from pygrade._util.serialization import ArtifactError, read_json, to_json, to_safetensors
from pygrade._util.threads import torch_threads
from pygrade.config.prerank import PrerankConfig
from pygrade.features import FeatureBatch, SchemaError
from pygrade.prerank.batches import Catalog, Ids, TowerInputs
from pygrade.prerank.index import Floats, ItemIndex
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.prerank.training import FittedTowers

FORMAT, FORMAT_VERSION = "pygrade.Prerank", 1
_TENSORS = "prerank.safetensors"
_ALIGNMENT = 64  # of the vectors in the file, bytes: they are searched where they lie


class Prerank:
    """The first stage of ranking: some hundred candidates out of all items. Immutable: many threads may use one."""

    def __init__(
        self, towers: TwoTower, index: ItemIndex, task_weights: Sequence[float], schema_hash: str = ""
    ) -> None:
        """task_weights: those that the towers were trained with; schema_hash: of the feature schema, "" if none."""
        if index.width != towers.config.width:
            raise ValueError(
                f"index has vectors of width {index.width}; expected that of the towers, {towers.config.width}"
            )
        self.towers, self.index, self.schema_hash = towers, index, schema_hash
        self.task_weights = tuple(float(weight) for weight in task_weights)

    @classmethod
    def build(cls, fitted: FittedTowers, catalog: Catalog, schema_hash: str = "") -> "Prerank":
        """Towers that `fit` trained and an index of the catalog."""
        with torch_threads(1):
            vectors = fitted.towers.item_vectors(catalog)
        return cls(fitted.towers, ItemIndex.build(catalog.item_id, vectors), fitted.task_weights, schema_hash)

    @cached_property
    def core(self) -> _core.Prerank:
        """Towers and index in the C++ core."""
        return _core.Prerank(*self.files())

    def user_vectors(self, requests: TowerInputs) -> Floats:
        """Vectors of requests [R, width]; SchemaError for a `FeatureBatch` of another schema."""
        if self.schema_hash and isinstance(requests, FeatureBatch):
            schema_hash = requests.fitted.schema.hash
            if schema_hash != self.schema_hash:
                raise SchemaError(f"requests are of schema {schema_hash!r}; expected {self.schema_hash!r}")
        self.towers.check_requests(requests)
        result = np.empty((len(requests.user_id), self.towers.config.width), np.float32)
        self.core.tower.user_vectors(
            np.ascontiguousarray(requests.request_dense, np.float32),
            np.ascontiguousarray(requests.request_ids, np.int64),
            np.ascontiguousarray(requests.sequences, np.int64),
            result,
        )
        return result

    def candidates(
        self,
        requests: TowerInputs,
        n: int,
        seen: ArrayLike | Sequence[ArrayLike] | None = None,
        eligible: ArrayLike | None = None,
    ) -> Ids:
        """The n best items of each request, int64 [R, n], best first, ties by id, padded with -1.

        ``requests``: anything with `user_id`, `request_dense`, `request_ids` and `sequences` of R requests, such as a
        `FeatureBatch`. ``seen``, ``eligible``: see `ItemIndex.search`; a request gets n items whenever n pass. A
        request's answer does not depend on the requests beside it. SchemaError for a `FeatureBatch` of another schema.
        """
        return self.index.search(self.user_vectors(requests), n, seen, eligible)[0]

    def files(self) -> tuple[bytes, bytes]:
        """The content of prerank.json and prerank.safetensors."""
        tensors = {f"towers.{name}": value for name, value in self.towers.state_dict().items()}
        inputs = {item.name: getattr(self.towers.inputs, item.name) for item in fields(Inputs)}
        tensors |= {f"inputs.{name}": torch.from_numpy(np.atleast_1d(value)) for name, value in inputs.items()}
        tensors |= {f"index.{name}": torch.from_numpy(value) for name, value in self.index.core.layout().items()}
        content = _aligned(to_safetensors(tensors), "index.vectors")
        record: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "schema_hash": self.schema_hash,
            "config": asdict(self.towers.config),
            "task_weights": self.task_weights,
            "items": len(self.index),
            "sha256": {_TENSORS: hashlib.sha256(content).hexdigest()},
        }
        record["record_sha256"] = hashlib.sha256(to_json(record)).hexdigest()
        return to_json(record), content

    def save(self, directory: str | Path) -> Path:
        """Writes ``prerank.json`` and ``prerank.safetensors`` into a directory that appears complete."""
        record, tensors = self.files()
        with atomic_directory(Path(directory)) as partial:
            (partial / _TENSORS).write_bytes(tensors)
            (partial / "prerank.json").write_bytes(record)
        return Path(directory)

    @classmethod
    def load(cls, directory: str | Path, schema_hash: str | None = None) -> "Prerank":
        """Reads what `save` wrote.

        FileNotFoundError if there is none, ArtifactError naming a file that is truncated, corrupt or of another save,
        SchemaError if ``schema_hash`` is given and the artifact was made for another schema.
        """
        folder = Path(directory)
        path = folder / "prerank.json"
        try:
            core = _core.Prerank.load(str(folder))  # checks the record and the hash of the tensors
            record = read_json(path)
            if schema_hash is not None and record.get("schema_hash") != schema_hash:
                raise SchemaError(
                    f"{path} was made for schema {record.get('schema_hash')!r}; in use is {schema_hash!r}"
                )
            config = PrerankConfig(**{item.name: record["config"][item.name] for item in fields(PrerankConfig)})
            towers = _towers(config, folder / _TENSORS)
        except SchemaError:
            raise
        except FileNotFoundError as error:
            raise error if not path.is_file() else ArtifactError(str(error)) from error
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{path} does not fit the files beside it: {error}") from error
        except ValueError as error:
            raise ArtifactError(str(error)) from error
        prerank = cls(towers, ItemIndex(core.index), tuple(record["task_weights"]), str(record.get("schema_hash", "")))
        vars(prerank)["core"] = core
        return prerank


def _aligned(content: bytes, name: str) -> bytes:
    """The safetensors file with spaces after its header, so that a tensor starts at a multiple of _ALIGNMENT."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    start = 8 + length + int(json.loads(header)[name]["data_offsets"][0])
    header += b" " * (-start % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _towers(config: PrerankConfig, path: Path) -> TwoTower:
    """The towers of a file of tensors."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not name.startswith("index.")]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    arrays: dict[str, Any] = {item.name: tensors[f"inputs.{item.name}"].numpy() for item in fields(Inputs)}
    arrays |= {name: int(arrays[name][0]) for name in ("length", "others")}
    with torch.random.fork_rng(devices=[]):
        towers = TwoTower(config, Inputs(**arrays))
    prefix = "towers."
    towers.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return towers.eval()
