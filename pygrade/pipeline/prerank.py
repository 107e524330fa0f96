"""The stage of prerank: the two towers and an index of every item, or the most popular items where these are better."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pygrade import prerank
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.features import FeatureSet
from pygrade.mtl import TimeSplit
from pygrade.pipeline.parts import CHECKPOINTS, features_between
from pygrade.workers import LOCAL, Workers
from pygrade.workers.group import Group

TOWERS, POPULAR = "two towers", "most popular items"  # what a prerank may be
KNOWN = "known_items.npy"  # in the stage: the items of the time before the policy's part
RECALL_AT = (50, 100, 500)  # lengths of the lists whose recall is reported
_RECALL_REQUESTS = 2_000


@dataclass(frozen=True)
class TowersJob:
    """The training of the two towers."""

    features: Path
    timeline: TimeSplit
    values: tuple[float, ...]
    options: PrerankConfig

    def __str__(self) -> str:
        return "two towers"


def train_towers(group: Group, job: TowersJob) -> prerank.FittedTowers:
    """The loop of one rank."""
    features = FeatureSet.open(job.features)
    train, stop, *_ = (
        features_between(features, *span, group.rank, group.size) for span in job.timeline.parts.values()
    )
    return prerank.fit(train, job.values, job.options, stop, group)


def fit_prerank(
    features: FeatureSet,
    timeline: TimeSplit,
    values: tuple[float, ...],
    config: PipelineConfig,
    out: Path,
    workers: Workers = LOCAL,
) -> dict[str, Any]:
    """Trains the towers, judges them on later requests, and saves them with an index of every item."""
    later = features_between(features, *timeline.parts["predict"])
    job = TowersJob(features.path, timeline, values, replace(config.prerank, seed=config.seed))
    fitted = workers.train(train_towers, job, config.ranks, out / CHECKPOINTS, "prerank")
    catalog = prerank.Catalog.from_batches(features_between(features, None, timeline.calibrate_end))
    judged = prerank.Prerank.build(fitted, catalog)
    popular = prerank.Popularity.fit(features_between(features, None, timeline.stop_end), values)
    recalls = [prerank.evaluate(judged, later, popular, n, max_requests=_RECALL_REQUESTS).to_dict() for n in RECALL_AT]
    every = prerank.Catalog.from_batches(features.batches)
    replaced = loses(recalls) and not config.keep_prerank
    chosen = prerank.popularity_towers(popular, fitted) if replaced else fitted
    served = prerank.Prerank.build(chosen, every, features.schema.hash)
    served.save(out / "prerank")
    np.save(out / KNOWN, catalog.item_id)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return {
        "items": len(every),
        "best_epoch": fitted.best_epoch,
        "recall": recalls,
        "published": POPULAR if replaced else TOWERS,
    }


def loses(recalls: Sequence[Mapping[str, Any]]) -> bool:
    """The two towers find less than the most popular items in the longest list, beyond the 95 % interval."""
    longest = max(recalls, key=lambda cutoff: int(cutoff["n"]))
    high = longest["difference"]["high"]
    return high is not None and bool(high < 0.0)
