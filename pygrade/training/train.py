"""Training: logged requests → a fusion policy, in two stages (`stage1`, `stage2`).

A run that was killed and resumed ends with the same policy, bit for bit, on one machine with one thread count. A
training ends with the question whether the policy is better than a simple baseline (`trust`).
"""

import contextlib
import copy
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._util.files import directory_lock
from pygrade._util.progress import progress_disabled
from pygrade._util.threads import torch_threads
from pygrade.config.training import (
    RewardConfig,
    TrainConfig,
)
from pygrade.correction.fit import Candidate, correct, fit_correction
from pygrade.correction.parts import continue_fit
from pygrade.correction.prior import load_prior
from pygrade.evaluation.arms import GRADE, STAGE1
from pygrade.evaluation.cautions import caution_of_robots, cautions_of_log, limit_amounts, robots, winsorized
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.log_parts import LogParts
from pygrade.logs.logs import check_amounts
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Mixture
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores, corrected_expected_value, fit_baselines
from pygrade.training.cross_fit import (
    FoldRankings,
    Trust,
    choose_mixture,
    fold_of_requests,
    fold_workers,
    standardized,
    too_little,
    undecidable,
)
from pygrade.training.data import LogSource, TrainingData, open_log
from pygrade.training.heldout import HeldOut
from pygrade.training.license import License, license_correction, reasons_of
from pygrade.training.page_replay import PageReplay
from pygrade.training.prepare import prepare_data
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from pygrade.training.run import Run
from pygrade.training.shards import Fold
from pygrade.training.stage1 import train_stage1
from pygrade.training.stage2 import train_stage2
from pygrade.training.static_weights import best_static_weights
from pygrade.training.summary import scenario_weights, summary_of
from pygrade.training.training_record import TrainingRecord
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")
OnStep = Callable[[str, int], None]
SHARDS = "shards"  # folder of a log that is prepared on disk, while it is learned from
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


class _Fitted(NamedTuple):
    """What both stages leave."""

    static: Tensor
    first: FusionPolicy
    last: FusionPolicy
    run: Run


class _Corrected(NamedTuple):
    """What the likelihood licenses."""

    candidate: Candidate
    predictions: NDArray[np.float32]  # [M, T] of the log, cross-fitted
    license: License
    reasons: tuple[str, ...]


class _Judged(NamedTuple):
    """How the log is split, and what it shows before any policy is trained."""

    fold: NDArray[np.int64]  # [R]
    cluster: NDArray[np.int64]  # [R]
    reason: str  # why nothing can be decided
    corrected: _Corrected | None


class _Fold(NamedTuple):
    """A fold's work, for a process of its own."""

    learn: Logs | TrainingData  # in files
    judge: Logs
    config: TrainConfig
    directory: Path
    resume: bool
    correction: Correction | None  # of the log without the fold

    def __str__(self) -> str:
        return f"fold {self.directory.name}"


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
    directory = Path(out_dir)
    started = time.perf_counter()
    log = open_log(logs, config.shard_requests)
    if isinstance(log, Logs) and log.incomplete:
        wanted = "requests list only a part of their candidates; want logs.complete()"
        raise ValueError(f"{log.incomplete} of {log.num_requests} {wanted}")
    log = log.valued(config.reward.task_values, config.reward.value_tasks)
    with torch_threads(config.threads), contextlib.ExitStack() as stack:
        stack.enter_context(directory_lock(directory / "checkpoints", "train"))
        given, left_out = log, []
        if isinstance(log, Logs):
            check_amounts(log)
            cluster = clusters_of(log)
            found = robots(log, cluster)
            left_out, log = caution_of_robots(log, found), log.select(~found) if found.any() else log
            log = limit_amounts(log, cluster[~found])
        config = _completed(config, log)
        data = _prepare(log, config, directory, workers)
        logs = data.sample
        judged = _judged(data, config)
        cautions = [*cautions_of_log(given if isinstance(given, Logs) else logs), *left_out]
        for sentence in cautions:
            logger.warning(sentence)
        learned, used, correction = _corrected(data, config, judged.corrected, workers)
        if heldout is not None and used.policy.corrected and correction is not None:
            heldout = replace(heldout, predictions=correct(correction, heldout))
        static, first, last, run = _fit(learned, used, directory, resume, on_step, stack, workers, heldout)
        for trained in (first, last):
            trained.correction = correction
            trained.set_static_weights(static, scenario_weights(logs, learned.tensors, trained, static))
        steps = config.stage1.steps, config.stage2.steps
        summary = summary_of(learned.tensors, steps, run, static, first, last, logs.scenario)
        summary["requests"] = log.num_requests
        if not data.in_memory:
            summary["shards"] = len(data.shards)
            summary["sample"] = {"requests": logs.num_requests, "for": SAMPLED}
        summary["task_values"] = dict(zip(logs.tasks, logs.task_values, strict=True))
        summary["value_tasks"] = list(logs.value_tasks)
        summary["warnings"] = cautions
        summary["seconds"] = time.perf_counter() - started
        own = None if used.policy.corrected else static
        tensors = learned.tensors.to("cpu")
        baselines = fit_baselines(logs, last.spec, tensors, config.static, config.reward.propensity_floor, own)
        if correction is not None:
            baselines = (*baselines, corrected_expected_value(logs))
        trust = _trust(data, used, directory, resume, workers, judged)
        policies = {STAGE1: first.cpu().eval(), GRADE: last.cpu().eval()}
        served = last
        if trust is not None:
            served = copy.deepcopy(policies[trust.policy])
            served.mixture = trust.mixture(baselines)
            _mix_folds(directory, trust, served.mixture)
            summary["trust"] = trust.to_dict()
            logger.info(trust.sentence)
            if trust.better_form is not None and trust.license is None:  # else the form hardly matters
                summary["warnings"].append(f"FORM: {trust.better_form.sentence(config.policy.transform)}")
                logger.warning(summary["warnings"][-1])
        else:
            summary["trust"] = None
        summary["trust_seconds"] = time.perf_counter() - started - summary["seconds"]
        for trained, name in ((first, "stage1"), (last, "stage2"), (served, "policy")):
            extra = {"trained_on": log.num_requests, "seed": config.seed, "stage": name}
            trained.save(directory / name, extra=extra)
            data.record(trained.version).save(directory / name)
        summary["version"] = served.version
        run.write_summary(summary)
        shutil.rmtree(directory / SHARDS, ignore_errors=True)
    return TrainResult(served, first, last, static.cpu(), baselines, data.tensors.propensity, summary)


def _completed(config: TrainConfig, log: Logs | LogParts) -> TrainConfig:
    """The config with what follows from the log: features that may be missing, prices, the prior's weight."""
    logs = log if isinstance(log, Logs) else log.read(0, min(log.num_requests, config.sample_requests))
    missing = np.isnan(logs.context).any(0) & ~np.isnan(logs.context).all(0)
    indicators = config.policy.indicators or tuple(np.array(logs.features, object)[missing].tolist())
    priced = config.policy.value_tasks or logs.value_tasks
    policy = replace(config.policy, indicators=indicators, value_tasks=priced)
    return replace(config, policy=policy, reward=config.reward.sized(log.num_requests))


def _judged(data: TrainingData, config: TrainConfig) -> _Judged:
    """The folds of the log, and the correction that its likelihood licenses."""
    folds, logs, propensity = config.trust.folds, data.sample, data.tensors.propensity
    cluster, fold = clusters_of(logs), np.zeros(0, np.int64)
    if folds:
        in_memory, seed = data.in_memory, config.seed
        fold = fold_of_requests(cluster, folds, seed) if in_memory else data.fold_of_sample(folds, seed)
    reason = ""
    if not folds:
        reason = "trust.folds is 0"
    elif propensity.source == "none":
        reason = f"slot propensities are unknown; {propensity.needed.partition(':')[0]}"
    elif few := too_little(logs, fold, cluster):
        reason = f"too little data: {few}"
    if reason or not config.correction.on:
        return _Judged(fold, cluster, reason, None)
    slots = max(logs.num_slots, config.reward.page_size)
    prior = load_prior(config.correction.prior, logs.tasks) if config.correction.prior else None
    fitted = fit_correction(logs, propensity.curve(slots), fold, cluster, config.correction, prior)
    pages = PageReplay(logs, config.reward, winsorized(logs, cluster))
    found = license_correction(logs, fitted, fold, cluster, pages, propensity)
    if found is None:
        return _Judged(fold, cluster, "", None)
    candidate, predictions, license = found
    return _Judged(fold, cluster, "", _Corrected(candidate, predictions, license, reasons_of(logs, predictions)))


def _corrected(
    data: TrainingData, config: TrainConfig, found: _Corrected | None, workers: Workers
) -> tuple[TrainingData, TrainConfig, Correction | None]:
    """The log that policies learn from, with their config: of corrected predictions where they are licensed."""
    if found is None:
        return data, config, None
    correction, state = found.candidate.correction, found.candidate.state
    if not data.in_memory and state is not None:
        correction = continue_fit(state, data.ranges, data.tensors.propensity.curve, workers).correction()
        levels = found.candidate.levels
        correction = correction if levels is None else correction.with_levels(levels)
    if not data.in_memory or not config.correction.policy:
        return data, config, correction
    config = replace(config, policy=replace(config.policy, corrected=True))
    logs, propensity = replace(data.sample, predictions=found.predictions), data.tensors.propensity
    spec = PolicySpec(logs.tasks, logs.features, config.policy)
    tensors = CompositeReward(_with_propensity(config.reward, data)).build(logs, spec).to(config.device)
    return TrainingData.of(replace(tensors, propensity=propensity), logs), config, correction


def _with_propensity(reward: RewardConfig, data: TrainingData) -> RewardConfig:
    """The reward under the slot propensities of the whole log."""
    return replace(reward, propensity=data.tensors.propensity.exponent)


def _prepare(log: Logs | LogParts, config: TrainConfig, directory: Path, workers: Workers) -> TrainingData:
    """The log ready for training; in shards below the directory if it is longer than one."""
    spec = PolicySpec(log.tasks, log.features, config.policy)
    sizes = config.shard_requests, config.sample_requests
    return prepare_data(log, spec, config.reward, directory / SHARDS, *sizes, workers, config.device)


def _fit(
    data: TrainingData,
    config: TrainConfig,
    directory: Path,
    resume: bool,
    on_step: OnStep | None,
    stack: contextlib.ExitStack,
    workers: Workers,
    heldout: Logs | None = None,
) -> _Fitted:
    """Static weights and both stages; the stack holds the run's files."""
    spec = PolicySpec(data.sample.tasks, data.sample.features, config.policy)
    run = stack.enter_context(contextlib.closing(Run(directory, config, data.fingerprint(), resume, on_step)))
    static = run.static_weights
    if static is None:
        static = best_static_weights(data.for_search(config.static), config.static, bounds=spec.bounds)
    policy = FusionPolicy(spec, static.cpu(), config.seed)
    data.fit_normalization(policy, config.seed, workers)
    policy.to(config.device)
    if heldout is not None:
        propensity = data.tensors.propensity
        run.heldout = HeldOut(heldout, spec, static, config.reward, propensity, config.device)
    run.begin(policy, static)
    with contextlib.closing(data.learners(policy, config.engine, workers, config.threads)) as learners:
        train_stage1(data, policy, config.stage1, run, config.seed, config.engine, learners)
        first = copy.deepcopy(policy)
        train_stage2(data, policy, config.stage2, run, config.seed, config.engine, learners)
    return _Fitted(static, first, policy, run)


def _trust(
    data: TrainingData, config: TrainConfig, directory: Path, resume: bool, workers: Workers, judged: _Judged
) -> Trust | None:
    """Cross-fit, and judge; None if it is switched off."""
    folds, logs, propensity = config.trust.folds, data.sample, data.tensors.propensity
    if not folds:
        logger.warning("trust.folds is 0: nothing says whether the policy is better than sorting by expected value")
        return None
    if judged.reason:
        return undecidable(judged.reason, GRADE, folds, logs, propensity)
    # The folds take the slot propensities of the whole log, which cost no user's feedback much.
    reward, fold = _with_propensity(config.reward, data), judged.fold
    part = replace(config, reward=reward, tensorboard=False)
    learn: list[Logs | TrainingData] = [
        logs.select(fold != n) if data.in_memory else data.without(Fold(n, folds, config.seed), reward)
        for n in range(folds)
    ]
    if data.in_memory:
        part = replace(part, shard_requests=logs.num_requests)  # in memory as the whole log is
    found = judged.corrected
    jobs = [
        _Fold(
            learn[n],
            logs.select(fold == n),
            part,
            _fold_directory(directory, n, folds),
            resume,
            None if found is None else found.candidate.folds[n],
        )
        for n in range(folds)
    ]
    rankings = list(fold_workers(config.trust, logs, workers).map(_run_fold, jobs, "cross-fitting"))
    license, reasons = (None, ()) if found is None else (found.license, found.reasons)
    return choose_mixture(
        logs,
        fold,
        judged.cluster,
        rankings,
        config.trust,
        config.reward,
        propensity,
        license=license,
        reasons=reasons,
        requests=data.num_requests,
    )


def _run_fold(fold: _Fold) -> FoldRankings:
    """Learn from the other folds and rank this one's pages."""
    config, correction = fold.config, fold.correction
    with progress_disabled(), torch_threads(config.threads), contextlib.ExitStack() as stack:
        stack.enter_context(directory_lock(fold.directory / "checkpoints", "train"))
        if isinstance(fold.learn, TrainingData):
            learned = fold.learn
        else:
            logs = fold.learn
            if correction is not None and config.policy.corrected:
                logs = replace(logs, predictions=correct(correction, logs))
            learned = _prepare(logs, config, fold.directory, LOCAL)
        static, first, last, _ = _fit(learned, config, fold.directory, fold.resume, None, stack, LOCAL)
    plain = learned.sample if isinstance(fold.learn, TrainingData) else fold.learn
    tensors, first, last = learned.tensors.to("cpu"), first.cpu(), last.cpu()
    for policy, name in ((first, "stage1"), (last, "stage2")):
        policy.correction = correction
        policy.save(fold.directory / name)
        learned.record(policy.version).save(fold.directory / name)
    own = None if config.policy.corrected else static
    baselines = fit_baselines(plain, last.spec, tensors, config.static, config.reward.propensity_floor, own)
    if correction is not None:
        baselines = (*baselines, corrected_expected_value(plain))
    log, formula = fold.judge, fusion_formula(config.policy)
    return FoldRankings(
        {entry.name: standardized(baseline_scores(entry, log, formula, correction), log) for entry in baselines},
        {name: standardized(policy_scores(policy, log), log) for name, policy in ((STAGE1, first), (GRADE, last))},
    )


def _fold_directory(directory: Path, number: int, folds: int) -> Path:
    """Another number of folds splits the users anew, so that its checkpoints are of other logs."""
    return directory / "folds" / f"{number + 1}-of-{folds}"


def _mix_folds(directory: Path, trust: Trust, mixture: Mixture) -> None:
    """In each fold's directory, the policy that is served as learned from the other folds: its requests are fresh."""
    for old in (directory / "folds").glob("*/policy"):  # of an earlier training, maybe with another number of folds
        shutil.rmtree(old)
    for number in range(trust.folds if trust.mixtures else 0):  # none were trained if nothing could be decided
        folder = _fold_directory(directory, number, trust.folds)
        source = folder / ("stage1" if trust.policy == STAGE1 else "stage2")
        policy = FusionPolicy.load(source)
        record = TrainingRecord.load(source, policy.version)
        policy.mixture = mixture
        policy.save(folder / "policy")
        if record is not None:
            replace(record, policy_version=policy.version).save(folder / "policy")


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; want cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"device is {name!r}; want cpu" + (" or cuda" if torch.cuda.is_available() else ", no GPU here")
        )
