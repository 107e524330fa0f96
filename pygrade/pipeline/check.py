"""Ranks the same requests offline, from materialized features as in training, and online, from a store as in serving.

Offline: the materialized features of the user at the request → prerank → the candidates' features, materialized by the
log's code → multi-task model → ranker. Without such a model (--mtl own) the candidates and predictions are those of
the log. Online: a store with the events before the first request; then, request by request, the events since as
real-time updates, and `serving.Pipeline.rank`, which is that of the C++ library. The pages must be equal bit for bit.
Columns of history, which no store of features has, are those of users who saw nothing, on both sides.
"""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade import mtl
from pygrade._typing import Floats32, Ints
from pygrade._util.files import directory_lock
from pygrade._util.optional_imports import require
from pygrade._util.progress import track
from pygrade._util.serialization import read_json, write_json
from pygrade.config.pipeline import CheckConfig, PipelineConfig
from pygrade.console.pipeline import CHECK, write_pipeline_report
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureCenter, FeatureSet, state_before
from pygrade.features.train_serve_skew import Skew
from pygrade.logs import evenly_spaced
from pygrade.pipeline.candidates import materialize_copies, write_candidates
from pygrade.pipeline.mtl import OwnPredictions
from pygrade.serving.artifact import open_artifact
from pygrade.serving.pipeline import STEPS, Models, Pipeline, ServedPage, fuse, load_models
from pygrade.serving.ranker import BlendedRanker
from pygrade.stores import Store, open_store

if TYPE_CHECKING:
    import polars as pl


logger = logging.getLogger("pygrade")

_VERSIONS = ("serve-check", "serve-check.2")  # in turn: the store serves one of them at any moment
_UPDATE = 20_000  # events written at once
_NAMED = 20  # requests with different pages that the record names


class PagesDifferError(ValueError):
    """Offline and online pages differ."""


@dataclass(frozen=True)
class Offline:
    """One request, ranked offline."""

    features: FeatureBatch
    predictions: NDArray[np.float32]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    weights: NDArray[np.float32]


def compare(offline: list[Offline], online: list[tuple[ServedPage, FeatureBatch]]) -> dict[str, Any]:
    """The record of `serve_check`: which pages are equal, where the features differ, the times."""
    skew, equal, different = Skew(), 0, []
    same = {"candidates": 0, "predictions": 0}
    for one, (other, features) in zip(offline, online, strict=True):
        skew.add(one.features, features)
        if features is other.features:
            same["candidates"] += 1
            same["predictions"] += one.predictions.tobytes() == other.predictions.tobytes()
        pages = ((one.items, other.items), (one.scores, other.scores), (one.weights, other.page.weights[0]))
        if all(a.tobytes() == b.tobytes() for a, b in pages) and not other.degraded:
            equal += 1
        else:
            different.append({"user": int(other.features.user_id[0]), "timestamp": int(other.features.timestamp[0])})
    steps: dict[str, list[float]] = {name: [page.seconds[name] for page, _ in online] for name in STEPS}
    steps["in all"] = [sum(page.seconds.values()) for page, _ in online]
    return {
        "requests": len(online),
        "equal_pages": equal,
        "equal_candidates": same["candidates"],
        "equal_predictions": same["predictions"],
        "different": different[:_NAMED],
        "skew": {
            difference.feature: {
                "values": difference.values,
                "equal": difference.equal,
                "max_difference": difference.max_difference if np.isfinite(difference.max_difference) else None,
            }
            for difference in skew.features()
        },
        "latency": {
            name: {"p50_ms": 1e3 * float(np.percentile(times, 50)), "p99_ms": 1e3 * float(np.percentile(times, 99))}
            for name, times in steps.items()
        },
    }


def serve_check(run: str | Path, config: CheckConfig | None = None, store: str | None = None) -> dict[str, Any]:
    """Ranks requests of a finished run offline and online; writes ``serve-check.json`` and the report.

    store: address of an empty store for the test; None: an LMDB store that is removed afterwards. `PagesDifferError`
    if a page differs, after the files are written; ValueError if a pipeline runs in the directory.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; expected the directory of a finished pipeline")
    with directory_lock(folder, "pipeline"):
        return _check(folder, config or CheckConfig(), store)


def _check(folder: Path, config: CheckConfig, store: str | None) -> dict[str, Any]:
    artifact = open_artifact(folder / "artifact")
    models = load_models(artifact)
    summary = read_json(folder / "summary.json")
    if "options" not in summary:  # nor what else the report shows
        raise ValueError(f"{folder / 'summary.json'} is of an older pygrade; run pygrade pipeline again")
    stages = summary["stages"]
    stated = stages["publish"]["version"]
    if stated != artifact.version:
        raise ValueError(f"{folder / 'artifact'} is version {artifact.version}; summary.json is of {stated}")
    log = EventLog.open(folder / f"events-{stages['events']['key']}" / "log")
    features = FeatureSet.open(folder / f"features-{stages['features']['key']}" / "set")
    with tempfile.TemporaryDirectory() as scratch:
        address = f"lmdb:{scratch}/store" if store is None else store
        with open_store(address, create=True) as opened:
            version = _free_version(opened)
            chosen = _choose(features, int(stages["features"]["policy_end"]), config.requests)
            logger.info("check: %d requests, offline", len(chosen))
            offline = _offline(log, features, models, chosen, config)
            state = state_before(log, models.schema, int(chosen[0].timestamp[0]))
            center = FeatureCenter(models.schema, models.fitted, opened)
            center.publish(state, log.users(), log.items(), version, keep=0)
            online = _online(log, models, opened, chosen, offline, config)
    record = compare(offline, online) | {
        "version": artifact.version,
        "history": models.policy.history is not None,
        "store": address.partition(":")[0],
        "candidates": max(len(page.predictions) for page, _ in online) if models.mtl is None else config.candidates,
        "k": config.k,
    }
    write_json(folder / CHECK, record)
    write_pipeline_report(folder, summary, PipelineConfig())
    if record["equal_pages"] < record["requests"]:
        first = record["different"][0]
        raise PagesDifferError(
            f"{record['requests'] - record['equal_pages']} of {record['requests']} pages differ between materialized "
            f"features and the store, that of user {first['user']} at {first['timestamp']} first; see {folder / CHECK}"
        )
    return record


def _choose(features: FeatureSet, start: int, count: int) -> list[FeatureBatch]:
    """``count`` requests from ``start`` on, evenly spaced in order of time, each as a batch of one."""
    total = sum(len(batch) for batch in features.batches(start))
    wanted = evenly_spaced(total, count)
    chosen, at = [], 0
    for batch in features.batches(start):
        inside = wanted[(wanted >= at) & (wanted < at + len(batch))] - at
        chosen += [batch.take(np.array([row])) for row in inside]
        at += len(batch)
    return chosen


def _offline(
    log: EventLog, features: FeatureSet, models: Models, chosen: list[FeatureBatch], config: CheckConfig
) -> list[Offline]:
    own, candidates, logged = OwnPredictions(log, models.policy.tasks), list[Ints](), list[Floats32 | None]()
    for request in chosen:
        if models.mtl is None:
            items, first = np.unique(request.item_id, return_index=True)
            logged.append(own(request)[first])
        else:
            items = models.prerank.candidates(request, config.candidates)[0]
            logged.append(None)
        candidates.append(items[items >= 0])
    request_id, timestamp = (np.concatenate([getattr(r, name) for r in chosen]) for name in ("request_id", "timestamp"))
    sizes = np.array([len(items) for items in candidates])
    ranker = BlendedRanker(models.policy, seed=0)
    ranked: dict[int, Offline] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "candidates.npz"
        file = write_candidates(path, request_id, timestamp, sizes, np.concatenate(candidates))
        made, copies = materialize_copies(log, features, [file], Path(scratch) / "set")
        numbers = copies.copy_id(np.arange(len(chosen))).tolist()
        predicted = dict(zip(numbers, logged, strict=True))
        for batch in made.batches(file.first):
            for row in np.flatnonzero(copies.is_copy(batch.request_id)):
                one = batch.take(np.array([row]))
                predictions = predicted[int(one.request_id[0])]
                if models.mtl is not None:
                    predictions = mtl.predict(models.mtl, *one.model_inputs())
                assert predictions is not None
                page = fuse(ranker, one, predictions, config.k, history=models.unseen)
                places = page.indices[0][page.indices[0] >= 0]
                ranked[int(one.request_id[0])] = Offline(
                    one, predictions, one.item_id[places], page.values[0, : len(places)], page.weights[0]
                )
    return [ranked[number] for number in numbers]


def _free_version(store: Store) -> str:
    """The version to fill, not that of an earlier check; ValueError for a store of anything else."""
    current = store.current()
    if current not in (None, *_VERSIONS):
        raise ValueError(f"{store.url} serves version {current!r}; expected an empty store for the check")
    version = _VERSIONS[current == _VERSIONS[0]]
    if store.versions().get(version) == "ready":
        store.drop(version)
    return version


def _online(
    log: EventLog, models: Models, store: Store, chosen: list[FeatureBatch], offline: list[Offline], config: CheckConfig
) -> list[tuple[ServedPage, FeatureBatch]]:
    """Each request's page, and the features of the offline candidates."""
    first, served = int(chosen[0].timestamp[0]), []
    own = models.mtl is None
    system = Pipeline(models, store, "", seed=0)
    with track("check: online", total=len(chosen)) as bar:
        for request, ranked, (events, raw) in zip(chosen, offline, _moments(log, chosen, first), strict=True):
            for start in range(0, len(events), _UPDATE):
                system.update(events.slice(start, _UPDATE))
            user, now = int(request.user_id[0]), int(request.timestamp[0])
            context = {name: raw[name] for name in models.schema.context}
            scenario = None if request.scenario is None else str(request.scenario[0])
            page = system.rank(
                user,
                k=config.k,
                candidates=config.candidates,
                item_ids=ranked.features.item_id if own else None,
                predictions=ranked.predictions if own else None,
                context=context,
                scenario=scenario,
                timestamp=now,
                history=models.unseen,
            )
            features = page.features
            if own or not np.array_equal(features.item_id, ranked.features.item_id):
                features = system.center.read(user, ranked.features.item_id, context, now, scenario)
            served.append((page, features))
            bar.advance(1)
    return served


def _moments(log: EventLog, chosen: list[FeatureBatch], first: int) -> "Iterator[tuple[pl.DataFrame, dict[str, Any]]]":
    """Yields for each request the feedback since the one before it (or since ``first``), and its raw columns."""
    polars = require("polars", "pipeline")
    chunks = log.chunks(stop=int(chosen[-1].timestamp[0]) + 1)
    waiting: pl.DataFrame | None = None
    heads: dict[int, dict[str, Any]] = {}
    wanted = [int(request.request_id[0]) for request in chosen]
    for request, number in zip(chosen, wanted, strict=True):
        now = int(request.timestamp[0])
        while number not in heads:
            frame = next(chunks)
            rows = frame.filter(polars.col("request_id").is_in(wanted)).unique("request_id", keep="first")
            heads |= {int(row["request_id"]): row for row in rows.iter_rows(named=True)}
            shown = frame.filter((polars.col("event_time") >= first) & polars.col("position").is_not_null())
            waiting = shown if waiting is None else polars.concat([waiting, shown])
        assert waiting is not None
        yield waiting.filter(polars.col("event_time") < now), heads[number]
        waiting = waiting.filter(polars.col("event_time") >= now)
