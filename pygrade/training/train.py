"""Training: logged requests → a fusion policy, in two stages (`stages`).

A run that was killed and resumed ends with the same policy, bit for bit, on one machine with one thread count. A
training ends with the question whether the policy is better than a simple baseline (`cross_fit`).
"""

import contextlib
import copy
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade._util.files import directory_lock
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import correct
from pygrade.correction.parts import continue_fit
from pygrade.evaluation.arms import GRADE, STAGE1
from pygrade.evaluation.cautions import (
    caution_of_robots,
    cautions_of_log,
    limit_amounts,
    positives_sentence,
    robots,
)
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.log_parts import LogParts
from pygrade.logs.logs import check_amounts
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.correction import Correction
from pygrade.training.cross_fit import Trust
from pygrade.training.data import LogSource, TrainingData, open_log
from pygrade.training.fit import OnStep, fit_policies, with_propensity
from pygrade.training.folds import mix_folds, simple_baselines, split_log, train_folds
from pygrade.training.license import LicensedCorrection
from pygrade.training.prepare import SHARDS, prepare_data
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from pygrade.training.summary import scenario_weights, summary_of
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")
SAMPLED = "simple baselines, trust, weights for missing features, rewards of the summary"


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves in memory; the policies are in ``policy/``, ``stage1/`` and ``stage2/`` of its directory."""

    policy: FusionPolicy  # to be served: a policy mixed with the baseline, as far as the log proves it
    stage1_policy: FusionPolicy  # as stage 1 left it, the reference of stage 2
    stage2_policy: FusionPolicy  # as stage 2 left it
    static_weights: Tensor  # [T] best static weights
    baselines: tuple[Baseline, ...]
    propensity: SlotPropensity  # of the log
    summary: dict[str, Any]


def train(
    logs: LogSource,
    config: TrainConfig,
    out_dir: str | Path,
    resume: bool = True,
    on_step: OnStep | None = None,
    heldout: Logs | None = None,
    workers: Workers = LOCAL,
) -> TrainResult:
    """Train a fusion policy on logged requests and leave it in ``out_dir/policy``.

    logs: `Logs`, or the path of a log, or several, in order. A log of more than ``config.shard_requests`` requests is
    prepared in shards below ``out_dir/shards``, which every worker must see, and learned from without holding it in
    memory: by ``workers``, by default in this process. The policy has the same bits wherever it was learned.

    ``out_dir`` also gets ``stage1/`` and ``stage2/`` (the policy after each stage, not mixed with a baseline),
    ``checkpoints/``, ``folds/`` (those of cross-fitting), ``metrics.jsonl``, ``tensorboard/`` and ``train.json`` (the
    summary). With ``resume`` a run that stopped goes on from its newest whole checkpoint
    and ends with the same policy bytes as one that did not stop; a finished run is left as it is. Without it,
    checkpoints are removed first. ``ValueError`` if the checkpoints are of other logs or another config, or if another
    process trains there. ``on_step(stage, steps done)`` is called after each step. ``heldout``: other requests, for
    learning curves in ``metrics.jsonl`` that train nothing. ``workers``: where shards and folds run. The summary's
    ``warnings`` are sentences not to miss.
    """
    _check_device(config.device)
    directory, started = Path(out_dir), time.perf_counter()
    log = open_log(logs, config.shard_requests)
    log = log.valued(config.reward.task_values, config.reward.value_tasks)
    with torch_threads(config.threads), contextlib.ExitStack() as stack:
        stack.enter_context(directory_lock(directory / "checkpoints", "train"))
        cautions: list[str] = []
        if isinstance(log, Logs):
            log, cautions = _clean(log)
        config = _complete(config, log)
        data = prepare_data(log, config, directory, workers)
        refuse_positives(data.sample)
        split = split_log(data, config)
        cautions = cautions_of_log(data.sample) if isinstance(log, LogParts) else cautions
        for sentence in cautions:
            logger.warning(sentence)
        learned, used, correction = _correct(data, config, split.corrected, workers)
        if heldout is not None and used.policy.corrected and correction is not None:
            heldout = replace(heldout, predictions=correct(correction, heldout))
        static, first, last, run = fit_policies(learned, used, directory, resume, stack, workers, on_step, heldout)
        for trained in (first, last):
            trained.correction = correction
            trained.set_static_weights(static, scenario_weights(data.sample, learned.tensors, trained, static))
        steps = config.stage1.steps, config.stage2.steps
        summary = summary_of(learned.tensors, steps, run, static, first, last, data.sample.scenario)
        summary |= _facts(data, cautions) | {"seconds": time.perf_counter() - started}
        tensors = learned.tensors.to("cpu")
        baselines = simple_baselines(data.sample, last.spec, tensors, used, static, correction)
        trust = train_folds(data, used, directory, resume, workers, split)
        policies = {STAGE1: first.cpu().eval(), GRADE: last.cpu().eval()}
        served, summary["trust"] = last, None
        if trust is not None:
            served = copy.deepcopy(policies[trust.policy])
            served.mixture = trust.mixture(baselines)
            mix_folds(directory, trust, served.mixture)
            summary["trust"] = trust.to_dict()
            summary["warnings"] += _report(trust, config)
        summary["trust_seconds"] = time.perf_counter() - started - summary["seconds"]
        for trained, name in ((first, "stage1"), (last, "stage2"), (served, "policy")):
            extra = {"trained_on": log.num_requests, "seed": config.seed, "stage": name}
            trained.save(directory / name, extra=extra)
            data.record(trained.version).save(directory / name)
        summary["version"] = served.version
        run.write_summary(summary)
        shutil.rmtree(directory / SHARDS, ignore_errors=True)
    return TrainResult(served, first, last, static.cpu(), baselines, data.tensors.propensity, summary)


def _clean(log: Logs) -> tuple[Logs, list[str]]:
    """The log without robots and with limited amounts, and what a reader must know of it."""
    if log.incomplete:
        wanted = "requests list only a part of their candidates; want logs.complete()"
        raise ValueError(f"{log.incomplete} of {log.num_requests} {wanted}")
    check_amounts(log)
    cluster = clusters_of(log)
    found = robots(log, cluster)
    cautions = [*cautions_of_log(log), *caution_of_robots(log, found)]
    kept = log.select(~found) if found.any() else log
    return limit_amounts(kept, cluster[~found]), cautions


def refuse_positives(log: Logs) -> None:
    """ValueError if the log has events alone, and not what was shown without one."""
    if sentence := positives_sentence(log):
        raise ValueError(f"this is no log of exposures: {sentence}; pygrade day0 starts without one")


def _report(trust: Trust, config: TrainConfig) -> list[str]:
    """Logs the verdict; returns what else a reader must not miss."""
    logger.info(trust.sentence)
    if trust.better_form is None or trust.license is not None:  # with a license the form hardly matters
        return []
    logger.warning(sentence := f"FORM: {trust.better_form.sentence(config.policy.transform)}")
    return [sentence]


def _facts(data: TrainingData, cautions: list[str]) -> dict[str, Any]:
    """What the summary has of the log."""
    logs, facts = data.sample, dict[str, Any](requests=data.num_requests)
    if not data.in_memory:
        facts["shards"] = len(data.shards)
        facts["sample"] = {"requests": logs.num_requests, "for": SAMPLED}
    facts["task_values"] = dict(zip(logs.tasks, logs.task_values, strict=True))
    return facts | {"value_tasks": list(logs.value_tasks), "warnings": cautions}


def _complete(config: TrainConfig, log: Logs | LogParts) -> TrainConfig:
    """The config with what follows from the log: features that may be missing, prices, the prior's weight."""
    logs = log if isinstance(log, Logs) else log.read(0, min(log.num_requests, config.sample_requests))
    missing = np.isnan(logs.context).any(0) & ~np.isnan(logs.context).all(0)
    indicators = config.policy.indicators or tuple(np.array(logs.features, object)[missing].tolist())
    priced = config.policy.value_tasks or logs.value_tasks
    policy = replace(config.policy, indicators=indicators, value_tasks=priced)
    return replace(config, policy=policy, reward=config.reward.sized(log.num_requests))


def _correct(
    data: TrainingData, config: TrainConfig, found: LicensedCorrection | None, workers: Workers
) -> tuple[TrainingData, TrainConfig, Correction | None]:
    """The log that policies learn from, with their config: of corrected predictions where they are licensed."""
    if found is None:
        return data, config, None
    correction, state = found.candidate.correction, found.candidate.state
    if not data.in_memory and state is not None:
        correction = continue_fit(state, data.ranges, data.tensors.propensity.curve, workers).correction()
        levels = found.candidate.levels
        correction = correction if levels is None else correction.with_levels(levels)
    correction = replace(correction, page_terms=found.page_terms)
    if not data.in_memory or not config.correction.policy:
        return data, config, correction
    config = replace(config, policy=replace(config.policy, corrected=True))
    logs, propensity = replace(data.sample, predictions=found.predictions), data.tensors.propensity
    spec = PolicySpec(logs.tasks, logs.features, config.policy)
    tensors = CompositeReward(with_propensity(config.reward, data)).build(logs, spec).to(config.device)
    return TrainingData.of(replace(tensors, propensity=propensity), logs), config, correction


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; want cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"device is {name!r}; want cpu" + (" or cuda" if torch.cuda.is_available() else ", no GPU here")
        )
