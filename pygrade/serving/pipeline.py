"""Serves the trained system: store → features → candidates → predictions → fusion weights → page.

>>> system = Pipeline.load("runs/kuairand")  # doctest: +SKIP
>>> system.rank(user_id=7, k=10).items  # doctest: +SKIP
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade import mtl
from pygrade._util.serialization import ArtifactError, read_json
from pygrade.features import FeatureBatch, FeatureCenter, FeatureSchema, Fitted
from pygrade.mtl import MtlModel
from pygrade.policy import FusionPolicy
from pygrade.prerank import Catalog, Prerank
from pygrade.prerank.index import Eligible
from pygrade.serving.artifact import Artifact, open_artifact
from pygrade.serving.page import Page
from pygrade.serving.ranker import BlendedRanker
from pygrade.stores import Store, StoreError, open_store

STEPS = ("features of the user", "prerank", "features of the items", "predictions", "policy and ranking")
STORE = "store.json"  # in the run: which store was filled
EVIDENCE = "user_count"  # the feature that says how much is known of a user, if the schema has it
_READ_ITEMS = 20_000  # items whose features are read at once


@dataclass(frozen=True)
class ServedPage:
    """One page and how it was made."""

    items: NDArray[np.int64]  # [≤ k] best first
    scores: NDArray[np.float32]  # [≤ k]
    page: Page = field(repr=False)  # of one request: weights, contributions, log rows
    features: FeatureBatch = field(repr=False)  # of the candidates
    predictions: NDArray[np.float32] = field(repr=False)  # [n, T]
    seconds: dict[str, float] = field(repr=False)  # by step, see STEPS
    degraded: bool  # the store failed: features are defaults, weights the static ones
    history: float  # known events of the user; NaN if the schema has no `EVIDENCE`


@dataclass(frozen=True)
class Models:
    """The parts of an artifact, loaded and checked against each other."""

    schema: FeatureSchema
    fitted: Fitted
    prerank: Prerank
    mtl: MtlModel
    policy: FusionPolicy


def load_models(artifact: Artifact) -> Models:
    """`ArtifactError` if a part is damaged, or if parts are of different schemas or tasks."""
    try:
        schema = FeatureSchema.load(artifact.part("features") / "schema.json")
        fitted = Fitted.load(artifact.part("features") / "fitted.safetensors", schema)
        prerank = Prerank.load(artifact.part("prerank"), schema.hash)
        model, policy = mtl.load(artifact.part("mtl")), FusionPolicy.load(artifact.part("policy"))
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    for name, stated, wanted in (
        ("the manifest was written for schema", artifact.schema_hash, schema.hash),
        ("mtl was trained on schema", model.columns.features, schema.hash),
        ("policy fuses tasks", policy.tasks, model.tasks),
        ("policy reads features", policy.features, schema.request_features),
    ):
        if stated != wanted:
            raise ArtifactError(f"{artifact.path}: {name} {_text(stated)}; want {_text(wanted)}")
    return Models(schema, fitted, prerank, model, policy)


class Pipeline:
    """Ranks for users by the models of an artifact and the features of a store. Many threads may call `rank`."""

    def __init__(self, models: Models, store: Store, version: str, seed: int | None = None) -> None:
        """version: of the artifact, "" for none; seed: starts the exploration, see `BlendedRanker`."""
        self.models, self.store, self.version = models, store, version
        self.center = FeatureCenter(models.schema, models.fitted, store)
        self.ranker = BlendedRanker(models.policy, seed, impute=True)
        names = models.schema.request_features
        self._evidence = names.index(EVIDENCE) if EVIDENCE in names else None
        self._lock, self._updating = Lock(), Lock()
        self._degraded = 0

    @classmethod
    def load(cls, run: str | Path, store: str | None = None, seed: int | None = None) -> "Pipeline":
        """The system that ``pygrade pipeline`` wrote to directory ``run``.

        store: its address; None: the one that was filled. Raises FileNotFoundError, `ArtifactError` for parts that are
        damaged or do not belong together, or a store that was filled for another artifact, `StoreError` if there is no
        store.
        """
        folder = Path(run)
        artifact = open_artifact(folder / "artifact")
        opened = open_store(store_address(folder, store))
        try:
            current = opened.current()
            if current != artifact.version:
                raise ArtifactError(
                    f"{opened.url} serves version {current!r}; the artifact in {folder} is {artifact.version!r}: "
                    "publish again"
                )
            return cls(load_models(artifact), opened, artifact.version, seed)
        except BaseException:
            opened.close()
            raise

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: those of the feature center and of the ranker, and ``degraded`` pages."""
        return {**vars(self.center.counters), **self.ranker.counters, "degraded": self._degraded}

    def rank(
        self,
        user_id: int,
        *,
        k: int = 10,
        candidates: int = 500,
        item_ids: ArrayLike | None = None,
        context: Mapping[str, float | str | None] | None = None,
        scenario: str | None = None,
        timestamp: int | None = None,
        seen: Sequence[int] | NDArray[np.int64] | None = None,
        eligible: Eligible | None = None,
        explore: bool = False,
        values: Mapping[str, float] | None = None,
        request_id: int = 0,
    ) -> ServedPage:
        """The best k items for a user.

        candidates: how many prerank finds among all items, or the ``eligible`` ones (ids, or a test, see
        `ItemIndex.search`), without those ``seen``; or give the candidates as item_ids [n]. context: ``c_`` columns of
        the schema; timestamp: ms since 1970, default now. An unknown user has default features. If the store fails,
        the page is made of default features and the static weights of the scenario, and it is counted. ``explore``,
        ``values`` (multipliers of the tasks' values): see `BlendedRanker.rank`. ValueError for k or candidates below 1,
        for item_ids that are no distinct numbers from 0 on, and if no candidate is left.
        """
        if k < 1 or candidates < 1:
            raise ValueError(f"k is {k} and candidates is {candidates}; want at least 1")
        now = int(time.time() * 1000) if timestamp is None else timestamp
        clock = _Clock()
        rest = context, now, scenario, request_id
        if item_ids is None:
            request = self.center.request(user_id, *rest)
            clock.lap(STEPS[0])
            drop = None if seen is None else [np.asarray(seen, np.int64)]
            items = self.models.prerank.candidates(request.features, candidates, drop, eligible)[0]
            items = items[items >= 0]
            clock.lap(STEPS[1])
        else:
            items = _candidates(item_ids)
        if not len(items):
            raise ValueError("no candidate is left: item_ids is empty, or every eligible item is among those seen")
        batch = request.with_items(items) if item_ids is None else self.center.read(user_id, items, *rest)
        clock.lap(STEPS[2])
        predictions = mtl.predict(self.models.mtl, *batch.model_inputs())
        clock.lap(STEPS[3])
        page = fuse(self.ranker, batch, predictions, k, static=batch.defaults, explore=explore, values=values)
        clock.lap(STEPS[4])
        with self._lock:
            self._degraded += batch.defaults
        places = page.indices[0][page.indices[0] >= 0]
        history = float(batch.request_dense[0, self._evidence]) if self._evidence is not None else float("nan")
        return ServedPage(
            items=items[places],
            scores=page.values[0, : len(places)],
            page=page,
            features=batch,
            predictions=predictions,
            seconds=clock.seconds,
            degraded=batch.defaults,
            history=history,
        )

    def update(self, events: Any) -> int:
        """Feedback events for the features of later requests, see `FeatureCenter.update`."""
        return self.center.update(events)

    def update_items(
        self,
        items: Any = None,
        *,
        prerank: Prerank | None = None,
        remove: ArrayLike = (),
        rebuild: bool = False,
        timestamp: int | None = None,
    ) -> int:
        """Changes the items that can be retrieved, while pages are made: each uses the old index or the new one.

        items: new or changed items with their attributes, see `FeatureCenter.update_items`; new ones are added to the
        index. prerank: newly trained towers with their index, of the same schema, served from now on. remove: ids that
        are retrieved no more. rebuild: index every item again, by its features at ``timestamp`` (ms, default now);
        ``remove`` does so too. Returns how many items can be retrieved.

        Raises the errors of `FeatureCenter.update_items` and `Prerank.swap`, ValueError if no item is left, and
        `StoreError` if the store fails; the index then stays as it was.
        """
        now = int(time.time() * 1000) if timestamp is None else timestamp
        served = self.models.prerank
        with self._updating:
            new = np.zeros(0, np.int64) if items is None else self.center.update_items(items)
            if prerank is not None:
                served.swap(prerank)
            gone = np.asarray(remove, np.int64).reshape(-1)
            if rebuild or len(gone):
                index = served.index
                known = np.setdiff1d(np.concatenate([index.item_id, index.extra_id, new]), gone)
                if not len(known):
                    raise ValueError(f"remove names all {len(index)} items; want some to be left")
                served.rebuild(self._catalog(known, now))
            elif len(new):
                served.add_items(self._catalog(new, now))
            return len(served.index)

    def _catalog(self, item_ids: NDArray[np.int64], timestamp: int) -> Catalog:
        """The inputs of the item tower; `StoreError` if the store does not give them."""
        parts = []
        for start in range(0, len(item_ids), _READ_ITEMS):
            batch = self.center.read(0, item_ids[start : start + _READ_ITEMS], None, timestamp)
            if batch.defaults:
                raise StoreError(f"{self.store.url} does not give the features of the items; the index is as it was")
            parts.append(Catalog(batch.item_id, batch.item_dense, batch.item_ids))
        return Catalog.joined(parts)

    def close(self) -> None:
        """Closes the store."""
        self.store.close()


def fuse(
    ranker: BlendedRanker,
    batch: FeatureBatch,
    predictions: NDArray[np.float32],
    k: int,
    static: bool = False,
    explore: bool = False,
    values: Mapping[str, float] | None = None,
) -> Page:
    """The pages of a batch's requests; static: by the static weights of their scenarios."""
    return ranker.rank(
        None if static else batch.request_dense,
        predictions,
        k,
        offsets=batch.offsets,
        scenario=None if batch.scenario is None else batch.scenario.tolist(),
        explore=explore,
        values=values,
        request_id=batch.request_id,
        user_id=batch.user_id,
        item_id=batch.item_id,
    )


def _candidates(item_ids: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(item_ids)
    if given.size and (given.ndim != 1 or given.dtype.kind not in "iu"):
        raise ValueError(f"item_ids has shape {given.shape} and dtype {given.dtype}; want integers [n]")
    items: NDArray[np.int64] = given.astype(np.int64).reshape(-1)
    values, counts = np.unique(items, return_counts=True)
    wrong = values[(counts > 1) | (values < 0)]
    if len(wrong):
        raise ValueError(f"item_ids holds {wrong[0]} {items.tolist().count(wrong[0])} times; want ids ≥ 0, each once")
    return items


def store_address(run: Path, store: str | None) -> str:
    """The address given, or that of the store that the run filled, with the directory in place of ``{run}``."""
    if store is not None:
        return store
    path = run / STORE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; want a run that has published, or the store's address")
    return str(read_json(path)["store"]).replace("{run}", str(run))


class _Clock:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] += now - self._last
        self._last = now


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


__all__ = ["STEPS", "Models", "Pipeline", "ServedPage", "StoreError", "fuse", "load_models", "store_address"]
