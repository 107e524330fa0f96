"""Cross-fitting: a fit without the users of each fold, whose pages its rankings are judged by (`cross_fit`)."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pygrade._util.files import directory_lock
from pygrade._util.progress import progress_disabled
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import later_requests
from pygrade.evaluation.arms import ALONE, FOLDERS, GRADE
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset
from pygrade.logs.history import History
from pygrade.policy import Baseline, FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Mixture
from pygrade.training.baselines import baseline_scores
from pygrade.training.correction_proof import AcceptedCorrection, reasons_of
from pygrade.training.cross_fit import CrossFitResult, FoldRankings, choose_mixture, fold_workers, undecidable
from pygrade.training.data import Corrected
from pygrade.training.evidence import PreparedLog
from pygrade.training.fit import fit_policy
from pygrade.training.propensity import SlotPropensity
from pygrade.training.training_record import TrainingRecord
from pygrade.workers import Workers

logger = logging.getLogger("pygrade")


class FoldJob(NamedTuple):
    """A fold's work, for a process of its own."""

    learn: Dataset
    heldout: Logs
    config: TrainConfig
    directory: Path
    resume: bool
    correction: Correction | None  # of the log without the fold
    production: Baseline | None
    propensity: SlotPropensity  # of the whole log, which costs no user's feedback much

    def __str__(self) -> str:
        return f"fold {self.directory.name}"


def cross_fit(
    evidence: PreparedLog, config: TrainConfig, directory: Path, resume: bool, workers: Workers
) -> CrossFitResult | None:
    """Fit without each fold, and judge; None if it is switched off."""
    folds, logs, accepted = config.cross_fit.folds, evidence.sample.read(), evidence.accepted
    if not folds:
        logger.warning("cross_fit.folds is 0: nothing says whether the policy is better than sorting by expected value")
        return None
    if evidence.reason:
        options = evidence.propensity, evidence.production, config.reward.page_size
        name = GRADE if config.grade else ALONE
        result = undecidable(evidence.reason, name, folds, logs, evidence.cluster, *options)
        return replace(result, tried=evidence.tried)
    is_later, fold_config = later_requests(logs), replace(config, tensorboard=False)

    def job(learn: Dataset, heldout: Logs, folder: Path, correction: Correction | None) -> FoldJob:
        facts = evidence.production.baseline, evidence.propensity
        return FoldJob(learn, heldout, fold_config, folder, resume, correction, *facts)

    jobs = [
        job(
            evidence.dataset.without(evidence.fold == n),
            logs.select(evidence.sample_fold == n),
            _fold_directory(directory, n, folds),
            None if accepted is None else accepted.of_fold(n),
        )
        for n in range(folds)
    ]
    of_earlier = None if accepted is None else replace(accepted.candidate.later, page_terms=accepted.page_terms)
    earlier = evidence.sample.without(is_later)
    jobs.append(job(earlier, logs.select(is_later), directory / "folds" / "later", of_earlier))
    *rankings, later = list(fold_workers(config.cross_fit, logs, workers).map(run_fold, jobs, "cross-fitting"))
    result = choose_mixture(
        logs if accepted is None else accepted.without_page_effects(logs),
        evidence.sample_fold,
        evidence.cluster,
        rankings,
        later,
        config.cross_fit,
        config.reward,
        evidence.propensity,
        evidence.production,
        proof=None if accepted is None else accepted.proof,
        reasons=evidence.misses if accepted is None else _reasons(logs, accepted, evidence.history),
        requests=evidence.dataset.num_requests,
    )
    return replace(result, tried=evidence.tried)


def _reasons(logs: Logs, accepted: AcceptedCorrection, history: History | None) -> tuple[str, ...]:
    """Sentences on the changes by the correction: its page terms first."""
    line = accepted.proof.page_line
    return (*([line] if line else []), *reasons_of(logs, accepted.predictions, history))


def run_fold(job: FoldJob) -> FoldRankings:
    """Learn from the other folds and rank this one's pages."""
    config, corrected, log = job.config, None, job.heldout
    if job.correction is not None:
        one = np.zeros(job.learn.num_requests, np.int64) if config.policy.corrected else None
        corrected = Corrected(job.correction, (job.correction,), one)
    with progress_disabled(), torch_threads(config.threads), directory_lock(job.directory / "checkpoints", "train"):
        sample = job.learn.sample(config.sample_requests)
        facts = job.propensity, job.production, corrected
        learned = fit_policy(job.learn, sample, config, job.directory, *facts, job.resume)
    record = TrainingRecord.of(job.learn)
    for arm, policy in learned.policies.items():
        policy.cpu().save(job.directory / _folder_of(arm))
        replace(record, policy_version=policy.version).save(job.directory / _folder_of(arm))
    return FoldRankings(
        {b.name: baseline_scores(b, log, config.policy, job.correction) for b in learned.baselines},
        {arm: policy_scores(policy, log) for arm, policy in learned.policies.items() if arm in FOLDERS},
    )


def _folder_of(arm: str) -> str:
    """A fold's directory of a policy; without GRADE of the start."""
    return FOLDERS.get(arm, "start")


def _fold_directory(directory: Path, number: int, folds: int) -> Path:
    """Another number of folds splits the users anew, so that its checkpoints are of other logs."""
    return directory / "folds" / f"{number + 1}-of-{folds}"


def mix_folds(directory: Path, result: CrossFitResult, mixture: Mixture) -> None:
    """Writes to each fold's directory the policy that the other folds taught: its requests are fresh."""
    for old in (directory / "folds").glob("*/policy"):  # of an earlier training, maybe with another number of folds
        shutil.rmtree(old)
    for number in range(result.folds if result.mixtures else 0):  # none were trained if nothing could be decided
        folder = _fold_directory(directory, number, result.folds)
        source = folder / _folder_of(result.policy)
        policy = FusionPolicy.load(source)
        record = TrainingRecord.load(source, policy.version)
        policy.mixture = mixture
        policy.save(folder / "policy")
        if record is not None:
            replace(record, policy_version=policy.version).save(folder / "policy")
