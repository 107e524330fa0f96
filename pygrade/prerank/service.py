"""Candidates for requests: the towers and an index of items, saved, loaded, and rebuilt while it is queried."""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open

from pygrade import _core
from pygrade._util.files import atomic_directory, file_hash
from pygrade._util.serialization import ArtifactError, read_json, to_json, to_safetensors
from pygrade.config.prerank import PrerankConfig
from pygrade.features import FeatureBatch, SchemaError
from pygrade.prerank.batches import Catalog, Ids, TowerInputs
from pygrade.prerank.index import ItemIndex
from pygrade.prerank.shards import build_index
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.prerank.training import FittedTowers
from pygrade.workers import LOCAL, Workers

FORMAT, FORMAT_VERSION = "pygrade.Prerank", 1
_TENSORS = "prerank.safetensors"
_ALIGNMENT = 64  # of the vectors in the file, bytes: they are searched where they lie


@dataclass(frozen=True)
class _Served:
    """Towers and index of one query: they belong together and change together."""

    towers: TwoTower
    index: ItemIndex
    task_weights: tuple[float, ...]
    schema_hash: str
    version: int

    @cached_property
    def core(self) -> _core.Prerank:
        return _core.Prerank(self.towers.core(), self.index.core, self.schema_hash)


class Prerank:
    """The first stage of ranking: some hundred candidates out of all items.

    A query reads one immutable pair of towers and index. `rebuild`, `add_items` and `swap` make another pair and
    replace it in one assignment: queries of other threads never wait and never see a mixture.
    """

    def __init__(
        self, towers: TwoTower, index: ItemIndex, task_weights: Sequence[float], schema_hash: str = ""
    ) -> None:
        if index.width != towers.config.width:
            raise ValueError(
                f"index has vectors of width {index.width}; want that of the towers, {towers.config.width}"
            )
        self._served = _Served(towers, index, tuple(float(weight) for weight in task_weights), schema_hash, 1)
        self._writing = threading.Lock()

    @classmethod
    def build(
        cls, fitted: FittedTowers, catalog: Catalog, schema_hash: str = "", workers: Workers = LOCAL
    ) -> "Prerank":
        """Towers that `fit` trained and an index of the catalog, of the kind that their config names.

        The workers compute the vectors, each those of some items.
        """
        towers = fitted.towers
        index = build_index(towers, catalog, towers.config.index, workers)
        return cls(towers, index, fitted.task_weights, schema_hash)

    @property
    def towers(self) -> TwoTower:
        """The towers that are served now."""
        return self._served.towers

    @property
    def index(self) -> ItemIndex:
        """The index that is served now."""
        return self._served.index

    @property
    def task_weights(self) -> tuple[float, ...]:
        """Task weights that the served towers were trained with."""
        return self._served.task_weights

    @property
    def schema_hash(self) -> str:
        """Of the feature schema; "" if none was stated."""
        return self._served.schema_hash

    @property
    def core(self) -> _core.Prerank:
        """What is served now, as the C++ core serves it."""
        return self._served.core

    @property
    def version(self) -> int:
        """Rises by one with every change of towers or index."""
        return self._served.version

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
        if self.schema_hash and isinstance(requests, FeatureBatch):
            schema_hash = requests.fitted.schema.hash
            if schema_hash != self.schema_hash:
                raise SchemaError(f"requests are of schema {schema_hash!r}; want {self.schema_hash!r}")
        served = self._served
        return served.index.search(served.towers.user_vectors(requests), n, seen, eligible)[0]

    def rebuild(self, catalog: Catalog, kind: str | None = None) -> int:
        """Indexes another catalog with the current towers, beside the index in use. Returns the new version."""
        with self._writing:
            towers = self._served.towers
            index = build_index(towers, catalog, kind or towers.config.index, LOCAL)
            return self._put(index=index)

    def add_items(self, catalog: Catalog) -> int:
        """Makes new items retrievable without a rebuild; known ones keep their vectors. Returns how many are new."""
        with self._writing:
            towers, index = self._served.towers, self._served.index
            new = ~index.has(catalog.item_id)
            if new.any():
                fresh = Catalog(catalog.item_id[new], catalog.dense[new], catalog.ids[new])
                self._put(index=index.added(fresh.item_id, towers.item_vectors(fresh)))
            return int(new.sum())

    def swap(self, other: "Prerank") -> int:
        """Serves the towers and the index of another (a newly trained one); SchemaError if it is of another schema."""
        if other.schema_hash != self.schema_hash:
            raise SchemaError(f"other has schema {other.schema_hash!r}; want that of now, {self.schema_hash!r}")
        new = other._served
        with self._writing:
            return self._put(towers=new.towers, index=new.index, task_weights=new.task_weights)

    def _put(self, **changes: Any) -> int:
        self._served = replace(self._served, version=self._served.version + 1, **changes)
        return self._served.version

    def save(self, directory: str | Path) -> Path:
        """Writes ``prerank.json`` and ``prerank.safetensors`` into a directory that appears complete."""
        served, target = self._served, Path(directory)
        tensors = {f"towers.{name}": value for name, value in served.towers.state_dict().items()}
        inputs = {item.name: getattr(served.towers.inputs, item.name) for item in fields(Inputs)}
        tensors |= {f"inputs.{name}": torch.from_numpy(np.atleast_1d(value)) for name, value in inputs.items()}
        tensors |= {f"index.{name}": torch.from_numpy(value) for name, value in served.index.core.layout().items()}
        with atomic_directory(target) as partial:
            (partial / _TENSORS).write_bytes(_aligned(to_safetensors(tensors), "index.vectors"))
            record: dict[str, Any] = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "schema_hash": self.schema_hash,
                "config": asdict(served.towers.config),
                "task_weights": served.task_weights,
                "index_kind": served.index.kind,
                "items": len(served.index),
                "nprobe": served.index.core.nprobe,
                "sha256": {_TENSORS: file_hash(partial / _TENSORS)},
            }
            record["record_sha256"] = hashlib.sha256(to_json(record)).hexdigest()
            (partial / "prerank.json").write_bytes(to_json(record))
        return target

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
            config = PrerankConfig(**record["config"])
            towers = _towers(config, folder / _TENSORS)
        except SchemaError:
            raise
        except FileNotFoundError as error:
            raise error if not path.is_file() else ArtifactError(str(error)) from error
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{path} does not fit the files beside it: {error}") from error
        except ValueError as error:
            raise ArtifactError(str(error)) from error
        return cls(towers, ItemIndex(core.index), tuple(record["task_weights"]), str(record.get("schema_hash", "")))


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
