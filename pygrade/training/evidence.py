"""The stages before any policy: a log is cleaned; then come folds, slot propensities, production's ranking, and the
correction that is accepted.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pygrade._typing import Ints
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import CorrectionCandidate, FittedCorrections, continue_fit, correct_by_fold, fit_correction
from pygrade.correction.prior import load_prior
from pygrade.evaluation.cautions import (
    caution_of_heavy_users,
    caution_of_robots,
    limit_amounts,
    overrepresented,
    robots,
    winsor_factors,
)
from pygrade.evaluation.label_leaks import find_label_leaks
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.dataset import Dataset, map_column
from pygrade.logs.history import History, without_columns
from pygrade.logs.logs import check_amounts
from pygrade.metrics import intervals
from pygrade.metrics.intervals import numbers_of
from pygrade.training.correction_proof import (
    AcceptedCorrection,
    TriedCorrection,
    accept_correction,
    accept_pages,
    misses_of,
    passing_permuted_control,
)
from pygrade.training.cross_fit import fold_of_requests, fold_workers, insufficient_data
from pygrade.training.data import Corrected, estimate_propensity
from pygrade.training.log_findings import headline, log_findings, positives_sentence
from pygrade.training.page_replay import PageReplay
from pygrade.training.production import Production, find_production
from pygrade.training.propensity import SlotPropensity
from pygrade.training.trees import TREE_ARRAYS, accept_trees
from pygrade.workers import Workers

logger = logging.getLogger("pygrade")


def clean(dataset: Dataset, limit: int, folder: Path, history: History | None = None) -> tuple[Dataset, list[str]]:
    """The dataset without robots and with limited amounts, and what a reader must know of it, by a sample of ``limit``
    requests; folder: of a mapped one; history: whose columns it has, of which nobody has to be warned.
    """
    logs = dataset.read()
    if logs.num_incomplete:
        explanation = "requests list only a part of their candidates; expected logs.complete()"
        raise ValueError(f"{logs.num_incomplete} of {logs.num_requests} {explanation}")
    check_amounts(logs)
    cluster = clusters_of(logs)
    is_robot = robots(logs, cluster)
    without_bots = dataset.without(is_robot).contiguous(folder / "people")
    cluster = cluster[~is_robot]
    heavy_requests = overrepresented(without_bots.read(), cluster)
    findings = log_findings(without_columns(dataset.sample(limit).read(), history))
    logger.info(headline(findings))
    for finding in findings:
        if finding.keeps:  # else said at the end, beside the verdict
            logger.warning("%s", finding)
    warnings = [*map(str, findings), *caution_of_robots(logs, is_robot)]
    warnings += caution_of_heavy_users(without_bots.read(), heavy_requests)
    without_heavy_users = without_bots.without(heavy_requests).contiguous(folder / "kept")
    logs = limit_amounts(without_heavy_users.read(), cluster[~heavy_requests])
    if without_heavy_users.is_mapped and logs is not without_heavy_users.logs:
        logs = replace(logs, feedback=map_column(logs.feedback, folder / "limited"))
    return Dataset(logs), warnings


def refuse_positives(log: Logs) -> None:
    """ValueError if the log has events alone, and not what was shown without one."""
    if sentence := positives_sentence(log):
        raise ValueError(f"not an exposure log: {sentence}; to start without one, run pygrade doctor --cold-start")


class PreparedLog(NamedTuple):
    """A log with a sample of n requests, which judges; it is the log itself if that has no more."""

    dataset: Dataset
    sample: Dataset
    fold: Ints  # [R]; 0 where nothing is cross-fitted
    sample_fold: Ints  # [n]
    cluster: Ints  # [n] of dependent requests
    propensity: SlotPropensity
    production: Production
    reason: str = ""  # why nothing can be decided
    accepted: AcceptedCorrection | None = None
    tried: tuple[TriedCorrection, ...] = ()
    history: History | None = None  # whose columns the log has
    misses: tuple[str, ...] = ()  # what the likelihood proves of the predictions where no correction is accepted


def prepare_log(dataset: Dataset, sample: Dataset, config: TrainConfig, history: History | None = None) -> PreparedLog:
    """Accepts a correction by the sample's likelihood. The dataset has no requests that are left out, and the columns
    of the history.
    """
    folds, logs, cluster = config.cross_fit.folds, sample.read(), clusters_of(dataset.logs)
    fold = fold_of_requests(cluster, folds, config.seed) if folds else np.zeros(dataset.num_requests, np.int64)
    drawn = dataset.draw(sample.num_requests)
    propensity = estimate_propensity(dataset, sample, config.reward)
    fold_and_cluster = fold[drawn], numbers_of(cluster[drawn])
    production = find_production(logs, config)
    evidence = PreparedLog(dataset, sample, fold, *fold_and_cluster, propensity, production, history=history)
    reason = ""
    if not folds:
        reason = "cross_fit.folds is 0"
    elif propensity.source == "none":
        reason = f"slot propensities are unknown; {propensity.needed.partition(':')[0]}"
    elif shortage := insufficient_data(logs, *fold_and_cluster):
        reason = f"too little data: {shortage}"
    elif leaks := [leak.text for leak in find_label_leaks(without_columns(logs, history)) if leak.kind == "LEAK"]:
        reason = f"a column holds the feedback and must be left out: {leaks[0].rpartition(': ')[0]}"
    if reason or not config.correction.enabled:
        return evidence._replace(reason=reason)
    prior = load_prior(config.correction.prior, logs.tasks) if config.correction.prior else None

    def fit_requests(some: Logs, some_fold: Ints, some_cluster: Ints) -> FittedCorrections:
        theta = propensity.examine(some)[some.shown]
        return fit_correction(some, theta, some_fold, some_cluster, config.correction, prior, history=history)

    fitted = fit_requests(logs, *fold_and_cluster)
    pages = PageReplay(logs, config.reward, winsor_factors(logs, evidence.cluster))
    accepted, tried = accept_correction(logs, fitted, *fold_and_cluster, pages, propensity)
    if accepted and (control := passing_permuted_control(logs, *fold_and_cluster, fit_requests, config.seed)):
        reason = (
            f"the same log with its feedback dealt to other pages supports a correction, too ({control.gain.text}), so "
            "that something else than what the columns tell makes it pass"
        )
        return evidence._replace(reason=reason, tried=tried)
    if accepted and config.correction.trees:
        accepted = add_trees(logs, accepted, *fold_and_cluster, pages, config, fit_requests, propensity)
    if config.correction.page_terms:
        curve, size = propensity.curve(max(logs.num_slots, config.reward.page_size)), config.reward.page_size
        accepted = accept_pages(logs, accepted, fitted.scaling, curve, *fold_and_cluster, size)
    misses = () if accepted else misses_of(logs, fitted, *fold_and_cluster, fit_requests, config.seed, history)
    return evidence._replace(accepted=accepted, tried=tried, misses=misses)


def add_trees(
    logs: Logs,
    accepted: AcceptedCorrection,
    fold: Ints,
    cluster: Ints,
    pages: PageReplay,
    config: TrainConfig,
    fit: Callable[[Logs, Ints, Ints], FittedCorrections],
    propensity: SlotPropensity,
) -> AcceptedCorrection:
    """The accepted correction, with trees on top where whole pages are better by them."""

    def refit(some: Logs, some_fold: Ints, some_cluster: Ints) -> CorrectionCandidate | None:
        found, _ = accept_correction(
            some,
            fit(some, some_fold, some_cluster),
            some_fold,
            some_cluster,
            PageReplay(some, config.reward),
            propensity,
        )
        return found and found.candidate

    found = accept_trees(logs, accepted.candidate, fold, cluster, propensity, config.reward, refit)
    if found is None:
        return accepted
    candidate, _ = found
    corrected = correct_by_fold(candidate.folds, logs, fold)
    value, plain = (
        pages.values(pages.ranks(logs.value_of(p)[logs.shown]), propensity) for p in (corrected, logs.predictions)
    )
    estimate = intervals.mean_lift(value, plain)
    replay = intervals.interval(estimate.value, estimate.influence, cluster)
    return accepted._replace(
        candidate=candidate, predictions=corrected, proof=replace(accepted.proof, name=candidate.name, replay=replay)
    )


def reads_history(evidence: PreparedLog) -> bool:
    """Return whether the accepted correction reads columns of the log's history."""
    return evidence.accepted is not None and evidence.accepted.candidate.reads_history


def drop_history(evidence: PreparedLog, history: History, folder: Path) -> PreparedLog:
    """The evidence without the columns of a history that nothing reads; folder: of a mapped dataset."""

    def drop(logs: Logs) -> Logs:
        return without_columns(logs, history)

    dataset = evidence.dataset.mapped(drop, folder)
    is_whole = evidence.sample is evidence.dataset
    sample = dataset if is_whole else evidence.sample.mapped(drop, folder)
    return evidence._replace(dataset=dataset, sample=sample, history=None)


def correct_log(evidence: PreparedLog, config: TrainConfig, workers: Workers) -> Corrected | None:
    """The accepted correction, fitted to all requests, which run as jobs of the workers; None if none is accepted."""
    if evidence.accepted is None:
        return None
    candidate, dataset, sample = evidence.accepted.candidate, evidence.dataset, evidence.sample
    correction = candidate.correction
    if sample is not dataset and candidate.state is not None:
        some = fold_workers(config.cross_fit, sample.read(), workers)
        correction = continue_fit(candidate.state, dataset, evidence.propensity.examine, some).correction()
        if candidate.item_effects is not None:
            correction = correction.with_item_effects(candidate.item_effects)
    if candidate.correction.trees:
        correction = replace(correction, **{name: getattr(candidate.correction, name) for name in TREE_ARRAYS})
    correction = replace(correction, page_terms=evidence.accepted.page_terms)
    learns = config.correction.policy and config.grade
    return Corrected(correction, candidate.folds, evidence.fold if learns else None)
