"""Cross-fitting: a training without the users of each fold, whose pages its rankings are judged by (`cross_fit`)."""

import contextlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pygrade._typing import Ints
from pygrade._util.files import directory_lock
from pygrade._util.progress import progress_disabled
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import Fitted, correct, fit_correction, later_requests
from pygrade.correction.prior import load_prior
from pygrade.evaluation.arms import ALONE, FOLDERS, GRADE
from pygrade.evaluation.cautions import winsorized
from pygrade.evaluation.label_leaks import leaks_of
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Mixture
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores, corrected_expected_value, fit_baselines, standardized
from pygrade.training.cross_fit import (
    FoldRankings,
    LaterRankings,
    Trust,
    choose_mixture,
    fold_of_requests,
    fold_workers,
    too_little,
    undecidable,
)
from pygrade.training.data import TrainingData
from pygrade.training.fit import fit_policies, with_propensity
from pygrade.training.license import (
    LicensedCorrection,
    TriedCorrection,
    license_correction,
    license_pages,
    licensed_by_chance,
    reasons_of,
)
from pygrade.training.page_replay import PageReplay
from pygrade.training.prepare import prepare_data
from pygrade.training.production import Production, find_production
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.shards import Fold
from pygrade.training.training_record import TrainingRecord
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")


class LogSplit(NamedTuple):
    """The folds of a log, and what it shows before any policy is trained."""

    fold: Ints  # [R]
    cluster: Ints  # [R]
    production: Production
    reason: str = ""  # why nothing can be decided
    corrected: LicensedCorrection | None = None
    tried: tuple[TriedCorrection, ...] = ()


class FoldJob(NamedTuple):
    """A fold's work, for a process of its own."""

    learn: Logs | TrainingData  # in files
    judge: Logs
    config: TrainConfig
    directory: Path
    resume: bool
    correction: Correction | None  # of the log without the fold
    production: Baseline | None

    def __str__(self) -> str:
        return f"fold {self.directory.name}"


def split_log(data: TrainingData, config: TrainConfig) -> LogSplit:
    """The folds of the log, production's ranking, and the correction that its likelihood licenses."""
    folds, logs, propensity = config.trust.folds, data.sample, data.tensors.propensity
    cluster, fold, production = clusters_of(logs), np.zeros(0, np.int64), find_production(logs, config)
    if folds:
        in_memory, seed = data.in_memory, config.seed
        fold = fold_of_requests(cluster, folds, seed) if in_memory else data.fold_of_sample(folds, seed)
    reason = ""
    if not folds:
        reason = "trust.folds is 0"
    elif propensity.source == "none":
        reason = f"slot propensities are unknown; {propensity.needed.partition(':')[0]}"
    elif shortage := too_little(logs, fold, cluster):
        reason = f"too little data: {shortage}"
    elif leaks := leaks_of(logs):
        reason = f"a column holds the feedback and must be left out: {leaks[0].rpartition(': ')[0]}"
    if reason or not config.correction.on:
        return LogSplit(fold, cluster, production, reason)
    prior = load_prior(config.correction.prior, logs.tasks) if config.correction.prior else None

    def fit(some: Logs, fold: Ints, cluster: Ints) -> Fitted:
        theta = propensity.examine(some)[some.shown]
        return fit_correction(some, theta, fold, cluster, config.correction, prior)

    fitted, pages = fit(logs, fold, cluster), PageReplay(logs, config.reward, winsorized(logs, cluster))
    licensed, tried = license_correction(logs, fitted, fold, cluster, pages, propensity)
    if licensed is not None and (chance := licensed_by_chance(logs, fold, cluster, fit, config.seed)) is not None:
        reason = (
            f"the same log with its feedback dealt to other pages supports a correction, too ({chance.gain.text}), so "
            "that something else than what the columns tell makes it pass"
        )
        return LogSplit(fold, cluster, production, reason, None, tried)
    if config.correction.pages:
        curve, size = propensity.curve(max(logs.num_slots, config.reward.page_size)), config.reward.page_size
        licensed = license_pages(logs, licensed, fitted.scaling, curve, fold, cluster, size)
    return LogSplit(fold, cluster, production, "", licensed, tried)


def train_folds(
    data: TrainingData, config: TrainConfig, directory: Path, resume: bool, workers: Workers, split: LogSplit
) -> Trust | None:
    """Cross-fit, and judge; None if it is switched off."""
    folds, logs, propensity = config.trust.folds, data.sample, data.tensors.propensity
    if not folds:
        logger.warning("trust.folds is 0: nothing says whether the policy is better than sorting by expected value")
        return None
    if split.reason:
        options = propensity, split.production, config.reward.page_size
        name = GRADE if config.grade == "on" else ALONE
        trust = undecidable(split.reason, name, folds, logs, split.cluster, *options)
        return replace(trust, tried=split.tried)
    # The folds take the slot propensities of the whole log, which cost no user's feedback much.
    reward, fold = with_propensity(config.reward, data), split.fold
    fold_config = replace(config, reward=reward, tensorboard=False)
    fold_logs: list[Logs | TrainingData] = [
        logs.select(fold != n) if data.in_memory else data.without(Fold(n, folds, config.seed), reward)
        for n in range(folds)
    ]
    if data.in_memory:
        fold_config = replace(fold_config, shard_requests=logs.num_requests)  # in memory as the whole log is
    licensed, is_later = split.corrected, later_requests(logs)
    jobs = [
        FoldJob(
            fold_logs[n],
            logs.select(fold == n),
            fold_config,
            _fold_directory(directory, n, folds),
            resume,
            None if licensed is None else licensed.of_fold(n),
            split.production.baseline,
        )
        for n in range(folds)
    ]
    jobs.append(
        FoldJob(
            logs.select(~is_later),
            logs.select(is_later),
            replace(fold_config, shard_requests=logs.num_requests),  # of the sample, which is in memory
            directory / "folds" / "later",
            resume,
            None if licensed is None else replace(licensed.candidate.later, page_terms=licensed.page_terms),
            split.production.baseline,
        )
    )
    *rankings, later = list(fold_workers(config.trust, logs, workers).map(run_fold, jobs, "cross-fitting"))
    trust = choose_mixture(
        logs if licensed is None else licensed.without_page_effects(logs),
        fold,
        split.cluster,
        rankings,
        LaterRankings(is_later, *later),
        config.trust,
        config.reward,
        propensity,
        split.production,
        license=None if licensed is None else licensed.license,
        reasons=() if licensed is None else _reasons(logs, licensed),
        requests=data.num_requests,
    )
    return replace(trust, tried=split.tried)


def _reasons(logs: Logs, licensed: LicensedCorrection) -> tuple[str, ...]:
    """Sentences on the changes by the correction: its page terms first."""
    line = licensed.license.page_line
    return (*([line] if line else []), *reasons_of(logs, licensed.predictions))


def run_fold(fold: FoldJob) -> FoldRankings:
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
            learned = prepare_data(logs, config, fold.directory, LOCAL)
        static, policies, _ = fit_policies(learned, config, fold.directory, fold.resume, stack, LOCAL)
    own_logs = learned.sample if isinstance(fold.learn, TrainingData) else fold.learn
    tensors = learned.tensors.to("cpu")
    *_, last = policies.values()
    for arm, policy in policies.items():
        policy.cpu().correction = correction
        policy.save(fold.directory / _folder_of(arm))
        learned.record(policy.version).save(fold.directory / _folder_of(arm))
    baselines = simple_baselines(own_logs, last.spec, tensors, config, static, correction, fold.production)
    log, formula = fold.judge, fusion_formula(config.policy)
    return FoldRankings(
        {b.name: standardized(baseline_scores(b, log, formula, correction), log) for b in baselines},
        {arm: standardized(policy_scores(policy, log), log) for arm, policy in policies.items() if arm in FOLDERS},
    )


def simple_baselines(
    logs: Logs,
    spec: PolicySpec,
    tensors: RequestTensors,
    config: TrainConfig,
    static: Tensor,
    correction: Correction | None,
    production: Baseline | None,
) -> tuple[Baseline, ...]:
    """`fit_baselines`, and expected value of corrected predictions if there are any."""
    weights = None if config.policy.corrected else static
    simple = fit_baselines(logs, spec, tensors, config.static, config.reward.propensity_floor, weights, production)
    return simple if correction is None else (*simple, corrected_expected_value(logs, correction))


def _folder_of(arm: str) -> str:
    """A fold's directory of a policy; without GRADE of the start."""
    return FOLDERS.get(arm, "start")


def _fold_directory(directory: Path, number: int, folds: int) -> Path:
    """Another number of folds splits the users anew, so that its checkpoints are of other logs."""
    return directory / "folds" / f"{number + 1}-of-{folds}"


def mix_folds(directory: Path, trust: Trust, mixture: Mixture) -> None:
    """In each fold's directory, the policy that is served as learned from the other folds: its requests are fresh."""
    for old in (directory / "folds").glob("*/policy"):  # of an earlier training, maybe with another number of folds
        shutil.rmtree(old)
    for number in range(trust.folds if trust.mixtures else 0):  # none were trained if nothing could be decided
        folder = _fold_directory(directory, number, trust.folds)
        source = folder / _folder_of(trust.policy)
        policy = FusionPolicy.load(source)
        record = TrainingRecord.load(source, policy.version)
        policy.mixture = mixture
        policy.save(folder / "policy")
        if record is not None:
            replace(record, policy_version=policy.version).save(folder / "policy")
