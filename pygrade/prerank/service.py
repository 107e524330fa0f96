"""Candidates for requests: the towers and an index of items, saved, loaded, and rebuilt while it is queried."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from pygrade import _core
from pygrade._util.files import atomic_directory, file_hash
from pygrade._util.optional_imports import require
from pygrade._util.serialization import ArtifactError, read_json, read_safetensors, to_json, to_safetensors
from pygrade._util.workers import HERE, Workers
from pygrade.features import FeatureBatch, SchemaError
from pygrade.prerank.batches import Catalog, Ids, TowerInputs
from pygrade.prerank.index import Eligible, ItemIndex
from pygrade.prerank.shards import build_index
from pygrade.prerank.towers import Inputs, PrerankConfig, TwoTower
from pygrade.prerank.training import FittedTowers

FORMAT, FORMAT_VERSION = "pygrade.Prerank", 2  # version 1 kept the vectors of a flat index in items.faiss
_TENSORS, _GRAPH = "prerank.safetensors", "items.faiss"


@dataclass(frozen=True)
class _Served:
    """Towers and index of one query: they belong together and change together."""

    towers: TwoTower
    index: ItemIndex
    task_weights: tuple[float, ...]
    schema_hash: str
    version: int

    @cached_property
    def core(self) -> _core.Prerank | None:
        if self.index.kind != "flat":
            return None
        return _core.Prerank(self.towers.core(), self.index.base, self.schema_hash)


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
    def build(cls, fitted: FittedTowers, catalog: Catalog, schema_hash: str = "", workers: Workers = HERE) -> "Prerank":
        """Towers that `fit` trained and an index of the catalog, of the kind that their config names.

        The workers build the index, each some of its shards.
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
    def core(self) -> _core.Prerank | None:
        """What is served now, as the C++ core serves it; None for a graph, which it does not read."""
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
        eligible: Eligible | Sequence[Eligible | None] | None = None,
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
            index = build_index(towers, catalog, kind or towers.config.index, HERE)
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
        """Writes ``prerank.json`` and ``prerank.safetensors`` into a directory that appears complete.

        A graph goes into ``items.faiss`` beside them, several into ``items-00000.faiss`` and so on. Items added since
        the last build become part of the saved index.
        """
        served, target = self._served, Path(directory)
        index = served.index.merged()
        tensors = {f"towers.{name}": value for name, value in served.towers.state_dict().items()}
        inputs = {item.name: getattr(served.towers.inputs, item.name) for item in fields(Inputs)}
        tensors |= {f"inputs.{name}": torch.from_numpy(np.atleast_1d(value)) for name, value in inputs.items()}
        tensors["index.item_id"] = torch.from_numpy(index.item_id)
        if index.kind == "flat":
            tensors["index.vectors"] = torch.from_numpy(index.vectors)
        with atomic_directory(target) as partial:
            (partial / _TENSORS).write_bytes(to_safetensors(tensors))
            if index.kind == "hnsw":
                for name, graph in zip(_graph_names(len(index.base)), index.base, strict=True):
                    require("faiss", "pipeline").write_index(graph, str(partial / name))
            names = sorted(path.name for path in partial.iterdir())
            record: dict[str, Any] = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "schema_hash": self.schema_hash,
                "config": asdict(served.towers.config),
                "task_weights": served.task_weights,
                "index_kind": index.kind,
                "items": len(index),
                "sha256": {name: file_hash(partial / name) for name in names},
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
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; want a directory that Prerank.save wrote")
        try:
            record = read_json(path)
        except ValueError as error:
            raise ArtifactError(str(error)) from error
        if record.get("format") != FORMAT or record.get("format_version") not in (1, FORMAT_VERSION):
            raise ArtifactError(
                f"{path} is {record.get('format')!r} version {record.get('format_version')!r}; "
                f"this pygrade reads {FORMAT} version 1 and {FORMAT_VERSION}"
            )
        if schema_hash is not None and record.get("schema_hash") != schema_hash:
            raise SchemaError(f"{path} was made for schema {record.get('schema_hash')!r}; in use is {schema_hash!r}")
        stated = record.pop("record_sha256", None)
        if stated != hashlib.sha256(to_json(record)).hexdigest():
            raise ArtifactError(f"{path} was changed after it was saved, or is corrupt: its checksum disagrees")
        try:
            config = PrerankConfig(**record["config"])
            weights, sha256 = tuple(record["task_weights"]), dict(record["sha256"])
            for name in (_TENSORS, *sha256):
                if not (folder / name).is_file():
                    raise ArtifactError(f"{folder / name} does not exist; {path} beside it names its content")
            tensors = read_safetensors(folder / _TENSORS, str(sha256[_TENSORS]))
            towers = _towers(config, tensors)
            index = _read_index(folder, record, tensors, config.width)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{path} does not fit the files beside it: {error}") from error
        except ValueError as error:
            raise ArtifactError(str(error)) from error
        return cls(towers, index, weights, str(record.get("schema_hash", "")))


def _towers(config: PrerankConfig, tensors: dict[str, torch.Tensor]) -> TwoTower:
    arrays: dict[str, Any] = {item.name: tensors[f"inputs.{item.name}"].numpy() for item in fields(Inputs)}
    arrays |= {name: int(arrays[name][0]) for name in ("length", "others")}
    with torch.random.fork_rng(devices=[]):
        towers = TwoTower(config, Inputs(**arrays))
    prefix = "towers."
    towers.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return towers.eval()


def _read_index(folder: Path, record: dict[str, Any], tensors: dict[str, torch.Tensor], width: int) -> ItemIndex:
    kind, item_id = str(record["index_kind"]), tensors["index.item_id"].numpy()
    if kind == "flat":
        if record["format_version"] == 1:
            return ItemIndex.around(kind, item_id, _core.Prerank.load(str(folder)).index, width)
        vectors = tensors["index.vectors"].numpy()
        if vectors.shape[1:] != (width,):
            raise ValueError(f"{folder / _TENSORS} has vectors of shape {vectors.shape}; want [m, {width}]")
        return ItemIndex.build(item_id, vectors, kind)
    stated = {name: str(sha256) for name, sha256 in record["sha256"].items() if name != _TENSORS}
    graphs = []
    for name in _graph_names(len(stated)):
        path = folder / name
        found = file_hash(path)
        if found != stated[name]:
            raise ValueError(
                f"{path} has sha256 {found[:12]}; want {stated[name][:12]} (truncated, corrupt or of another save)"
            )
        graphs.append(require("faiss", "pipeline").read_index(str(path)))
    count = sum(graph.ntotal for graph in graphs)
    if count != len(item_id) or any(graph.d != width for graph in graphs):
        raise ValueError(
            f"{folder / _graph_names(len(graphs))[0]} holds {count} vectors of width {graphs[0].d}; "
            f"want {len(item_id)} of width {width}, as {_TENSORS}"
        )
    return ItemIndex.around(kind, item_id, tuple(graphs), width)


def _graph_names(count: int) -> list[str]:
    return [_GRAPH] if count == 1 else [f"items-{number:05d}.faiss" for number in range(count)]
