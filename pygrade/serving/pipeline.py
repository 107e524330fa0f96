"""Serves the trained system: store → features → candidates → predictions → fusion weights → page.

>>> system = Pipeline.load("runs/kuairand")  # doctest: +SKIP
>>> system.rank(user_id=7, k=10).items  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade import _core, mtl
from pygrade._typing import Floats32, Ints
from pygrade._util.html_table import html_table
from pygrade._util.serialization import ArtifactError, read_json
from pygrade.features import FeatureBatch, FeatureCenter, FeatureEncoder, FeatureSchema, SchemaError
from pygrade.features.batch import FEATURE_ARRAYS
from pygrade.features.center import check_request
from pygrade.features.defaults import PRICE
from pygrade.mtl import MtlModel
from pygrade.ops.checks import integer
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import request_values
from pygrade.prerank import Prerank
from pygrade.serving.artifact import Artifact, open_artifact
from pygrade.serving.callbacks import ItemValues, Predict, Rows, checked_items, predicted, prices_of
from pygrade.serving.page import Ids, Page
from pygrade.serving.ranker import BlendedRanker
from pygrade.serving.run_copy import ARTIFACT, local_run
from pygrade.storage import Place
from pygrade.stores import Store, StoreError, open_store

STEPS = ("features of the user", "prerank", "features of the items", "predictions", "policy and ranking")
STORE = "store.json"  # in the run: which store was filled
EVIDENCE = "user_count"  # the feature that says how much is known of a user, if the schema has it
_DEGRADED = ("", "store", "deadline", "version", "history")  # by Degraded of <pygrade/pipeline.hpp>
_MAX_SEED = (1 << 31) - 1
_PAGE = (  # what of a Page the core makes, as it is
    *("values", "indices", "weights", "concentration", "policy_version", "predictions"),
    *("request_values", "item_values", "item_columns"),
)

Past = Callable[[Ints], tuple[Floats32, Floats32]]
"""Columns of history of candidates: ids [n] → its context [C] and item columns [n, I], see `History`."""

Eligible = NDArray[np.int64] | Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""The only items of a page: their ids, or a function of ids [n] that says which of them."""


@dataclass(frozen=True)
class ServedPage:
    """One page and how it was made."""

    items: NDArray[np.int64]  # [≤ k] best first
    scores: NDArray[np.float32]  # [≤ k]
    page: Page = field(repr=False)  # of one request: weights, contributions, log rows
    features: FeatureBatch = field(repr=False)  # of the candidates; items: no columns if unread
    predictions: NDArray[np.float32] = field(repr=False)  # [n, T]
    seconds: dict[str, float] = field(repr=False)  # by step, see STEPS
    # "": not degraded; "store" failed or "deadline" passed: features are defaults, weights the static ones; "version":
    # the store lost that of the artifact, so the features are those of its current one
    degraded: str
    history: float  # known events of the user; NaN if no feature says so (user_count)

    def _repr_html_(self) -> str:
        """The page and where its time went, for notebooks."""
        facts = {name: f"{1e3 * seconds:.2f} ms" for name, seconds in self.seconds.items()}
        facts["candidates"] = f"{len(self.predictions):,}"
        facts["degraded"] = self.degraded or "no"
        return self.page._repr_html_() + html_table([], list(facts.items()), "how it was made", texts=2)


@dataclass(frozen=True)
class Models:
    """The parts of an artifact, loaded and checked against each other."""

    schema: FeatureSchema
    fitted: FeatureEncoder
    prerank: Prerank
    mtl: MtlModel | None  # None: the policy fuses predictions of the user's own model
    policy: FusionPolicy

    @property
    def unseen(self) -> Past | None:
        """Columns of history as if nothing was ever shown; None: nothing reads any."""
        if (history := self.policy.history) is None:
            return None
        width, columns = len(history.features), len(history.items)
        return lambda items: (np.zeros(width, np.float32), np.zeros((len(items), columns), np.float32))


def load_models(artifact: Artifact) -> Models:
    """`ArtifactError` if a part is damaged, or if parts are of different schemas or tasks."""
    try:
        schema = FeatureSchema.load(artifact.part("features") / "schema.json")
        fitted = FeatureEncoder.load(artifact.part("features") / "fitted.safetensors", schema)
        prerank = Prerank.load(artifact.part("prerank"), schema.hash)
        model = None if artifact.own_predictions else mtl.load(artifact.part("mtl"))
        policy = FusionPolicy.load(artifact.part("policy"))
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    checks: list[tuple[str, Any, Any]] = [("the manifest was written for schema", artifact.schema_hash, schema.hash)]
    try:
        empty = np.zeros((0, len(schema.request_features)), np.float32)
        made = () if policy.history is None else policy.history.features
        names = [name for name in policy.features if name not in made]
        fitted.core.inputs(names, True, empty, np.zeros((0, len(schema.request_id_features)), np.int64))
    except SchemaError as error:
        raise ArtifactError(f"{artifact.path}: policy reads other features than the schema has: {error}") from error
    if model is not None:
        checks.append(("mtl was trained on schema", model.columns.features, schema.hash))
        checks.append(("policy fuses tasks", policy.tasks, model.tasks))
    for name, stated, wanted in checks:
        if stated != wanted:
            raise ArtifactError(f"{artifact.path}: {name} {_text(stated)}; expected {_text(wanted)}")
    return Models(schema, fitted, prerank, model, policy)


class Pipeline:
    """Ranks for users by the models of an artifact and the features of a store. Many threads may call `rank`.

    The C++ core makes the page (Pipeline of <pygrade/pipeline.hpp>): servers that link it get the same pages.
    """

    def __init__(
        self, models: Models, store: Store, version: str, seed: int | None = None, predict: Predict | None = None
    ) -> None:
        """version: of the artifact, which the store is read in; "": the store's current one, whatever it is. seed:
        starts the exploration, see `BlendedRanker`. predict: see `load`."""
        if models.mtl is not None and predict is not None:
            raise ValueError("predict is given, and the artifact has a multi-task model; expected one of them")
        self.models, self.store, self.version = models, store, version
        self.center = FeatureCenter(models.schema, models.fitted, store, version=version or None)
        start = None if seed is None else integer("seed", seed, 0, _MAX_SEED)
        own = None if predict is None else partial(predicted, predict, len(models.policy.tasks))
        model = None if models.mtl is None else models.mtl.core
        policy = _core.Policy(*models.policy.artifact())
        parts = version, models.fitted.core, models.prerank.core, model, policy
        self._core = _core.Pipeline(*parts, self.center.core, start, own)

    @classmethod
    def load(
        cls, run: Place, store: str | None = None, seed: int | None = None, predict: Predict | None = None
    ) -> Pipeline:
        """The system that ``pygrade pipeline`` wrote to directory ``run``, local or at a URL.

        store: its address; None: the one that was filled. predict: your own model, for a run with ``--mtl own`` whose
        requests bring no predictions: `Rows` → probabilities [n, T], called by many threads, and once here for an
        unknown user. Raises ValueError if it is not needed, FileNotFoundError, `ArtifactError` for parts that are
        damaged or do not belong together, or a store that was filled for another artifact, `StoreError` if there is no
        store.
        """
        folder = local_run(run)
        artifact = open_artifact(folder / ARTIFACT)
        opened = open_store(store_address(folder, store))
        try:
            current = opened.current()
            if current != artifact.version:
                raise ArtifactError(
                    f"{opened.url} serves version {current!r}; the artifact in {folder} is {artifact.version!r}: "
                    "publish again"
                )
            return cls(load_models(artifact), opened, artifact.version, seed, predict)
        except BaseException:
            opened.close()
            raise

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: those of the feature center and of the ranker, and ``degraded_store``,
        ``degraded_deadline`` and ``degraded_version`` pages."""
        return self._core.counters

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
        item_values: ItemValues | None = None,
        request_id: int = 0,
        deadline: float | None = None,
        predictions: ArrayLike | None = None,
        item_features: Mapping[str, ArrayLike] | None = None,
        history: Past | None = None,
        user_data: Any = None,
    ) -> ServedPage:
        """The best k items for a user.

        candidates: how many prerank finds among all items, or the ``eligible`` ones, without those ``seen``; or give
        the candidates as item_ids [n]. context: ``c_`` columns of the schema; timestamp: ms since 1970, default now. An
        unknown user has default features. If the store fails, the page is made of default features and the static
        weights of the scenario, and it is counted. ``explore`` and ``values`` (of the tasks): see
        `BlendedRanker.rank`. ``item_values``: prices of the candidates, which a policy needs that was trained with
        ``value_tasks``: a mapping id → price, a function ids [n] → prices [n], or an array beside item_ids; None: the
        feature ``item_value``, if the schema has it.
        ``deadline``: seconds from now on, after which the page is made of what an unknown user would get, or of the
        predictions given, by the static weights, and counted. ``predictions`` [n, T] of item_ids in place of a model's,
        NaN: unknown, ranks last; features of items are then read only for a correction that has columns of them, and
        for prices. ``item_features``: columns [n] of item_ids by name, in place of what the store has: features of
        items in their units (after the transform), and item columns of the policy's correction. ``history``: gives
        the columns to a policy that reads history (``pygraded`` makes them itself). ``user_data``: for ``predict``, see
        `Rows`. ValueError for k or candidates below 1, for item_ids that are no distinct numbers from 0 on, for an item
        without a price, without a model and predictions, without history for a policy that reads it (also where the
        store fails), and if no candidate is left.
        """
        if k < 1 or candidates < 1:
            raise ValueError(f"k is {k} and candidates is {candidates}; expected at least 1")
        policy = self.models.policy
        task_values = request_values(values, policy.tasks, 1)
        now = int(time.time() * 1000) if timestamp is None else timestamp
        context_values = check_request(user_id, context or {}, now, scenario, request_id)
        asked = None if item_ids is None else checked_items(item_ids)
        made = self._core.rank(
            user_id=int(user_id),
            timestamp=int(now),
            scenario=scenario,
            context=context_values,
            k=k,
            candidates=candidates,
            item_ids=asked,
            seen=None if seen is None else np.ascontiguousarray(seen, np.int64).reshape(-1),
            eligible=None if eligible is None else self._eligible(eligible),
            explore=explore,
            values=None if task_values is None else task_values[0],
            deadline=None if deadline is None else max(0, round(deadline * 1e6)),
            item_values=None if item_values is None else prices_of(item_values, asked),
            predictions=None if predictions is None else self._predictions(predictions, asked),
            item_features={
                name: np.ascontiguousarray(column, np.float32) for name, column in (item_features or {}).items()
            },
            history=None if history is None else partial(_made, history),
            user_data=user_data,
        )
        return self._page(made, user_id, now, scenario, request_id)

    def _predictions(self, predictions: ArrayLike, item_ids: NDArray[np.int64] | None) -> NDArray[np.float32]:
        values = np.ascontiguousarray(predictions, np.float32)
        wanted = (-1 if item_ids is None else len(item_ids), len(self.models.policy.tasks))
        if item_ids is None or values.shape != wanted:
            raise ValueError(f"predictions has shape {values.shape}; expected [n, T] of item_ids, {wanted}")
        return values

    def _eligible(self, eligible: Eligible) -> NDArray[np.int64]:
        """The ids of eligible items."""
        if not callable(eligible):
            return np.ascontiguousarray(eligible, np.int64).reshape(-1)
        catalog = self.models.prerank.index.item_id
        return catalog[eligible(catalog)]

    def _page(
        self, made: Mapping[str, Any], user_id: int, timestamp: int, scenario: str | None, request_id: int
    ) -> ServedPage:
        """The page that the core made, with what it was made from."""
        degraded = _DEGRADED[made["degraded"]]
        unread = degraded in ("store", "deadline")
        named = {name: made["item_id_features" if name == "item_ids" else name] for name in FEATURE_ARRAYS}
        batch = FeatureBatch.of_request(
            self.models.fitted, user_id, timestamp, scenario, request_id, made["item_ids"], named, unread
        )
        page = Page(
            **{name: made[name] for name in _PAGE},
            fallback=np.array([made["fallback"]]),
            explored=np.array([made["explored"]]),
            seed=np.array([made["seed"]], np.uint64),
            policy=self.models.policy,
            context=np.full((1, len(self.models.policy.features)), np.nan, np.float32) if unread else made["context"],
            bounds=batch.offsets,
            scenario=None if scenario is None else [scenario],
            first_number=0,
            as_logged=True,
            ids=Ids(batch.request_id, batch.user_id, batch.item_id),
        )
        return ServedPage(
            items=made["items"],
            scores=page.values[0, : len(made["items"])],
            page=page,
            features=batch,
            predictions=made["predictions"],
            seconds=dict(zip(STEPS, made["seconds"], strict=True)),
            degraded=degraded,
            history=made["history"],
        )

    def update(self, events: Any) -> int:
        """Feedback events for the features of later requests, see `FeatureCenter.update`."""
        return self.center.update(events)

    def close(self) -> None:
        """Lets go of the store; it closes when nobody reads it any more."""
        self.store.close()


def fuse(
    ranker: BlendedRanker,
    batch: FeatureBatch,
    predictions: NDArray[np.float32],
    k: int,
    static: bool = False,
    explore: bool = False,
    values: Mapping[str, float] | None = None,
    history: Past | None = None,
) -> Page:
    """The pages of a batch's requests; static: by the static weights of their scenarios; history: of one request."""
    policy = ranker.policy
    names = () if policy.correction is None else policy.correction.own_items
    made: dict[str, Floats32] = {}
    if policy.history is not None and history is not None:
        of_request, of_items = history(batch.item_id)
        made = dict(zip(policy.history.features, of_request[:, None], strict=True))
        made |= zip(policy.history.items, of_items.T, strict=True)
    return ranker.rank(
        None if static else _inputs(policy.features, batch.request_inputs, made),
        predictions,
        k,
        offsets=batch.offsets,
        scenario=None if batch.scenario is None else batch.scenario.tolist(),
        explore=explore,
        values=values,
        items=_inputs(names, batch.item_inputs, made) if names else None,
        item_values=prices_in(batch),
        as_logged=True,
        request_id=batch.request_id,
        user_id=batch.user_id,
        item_id=batch.item_id,
    )


def _made(history: Past, items: Ints) -> tuple[Floats32, Floats32]:
    context, columns = history(items)
    return np.ascontiguousarray(context, np.float32), np.ascontiguousarray(columns, np.float32)


def _inputs(names: Sequence[str], read: Callable[[Sequence[str]], Floats32], made: Mapping[str, Floats32]) -> Floats32:
    """Return the columns that are made, and the others as they are read, of shape [rows, names]."""
    own = iter(read([name for name in names if name not in made]).T)
    return np.stack([made[name] if name in made else next(own) for name in names], 1) if made else read(names)


def prices_in(batch: FeatureBatch) -> NDArray[np.float32] | None:
    """Return prices [n] of the candidates by the feature `PRICE`, 0 if unknown; None if the schema does not have it."""
    if PRICE not in batch.names["item_dense"]:
        return None
    price = batch.column(PRICE)
    return np.where(np.isfinite(price) & (price > 0.0), price, np.float32(0.0))


def store_address(run: Path, store: str | None) -> str:
    """The address given, or that of the store that the run filled, with the directory in place of ``{run}``."""
    if store is not None:
        return store
    path = run / STORE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a run that has published, or the store's address")
    return str(read_json(path)["store"]).replace("{run}", str(run))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


__all__ = ["STEPS", "Models", "Pipeline", "Rows", "ServedPage", "StoreError", "fuse", "load_models", "store_address"]
