"""`fit`: logged requests → a ranker, with GRADE's policy in two stages (`training.stages`) unless that is off.

A run that was killed and resumed ends with the same policy, bit for bit, on one machine with one thread count. A
training ends with the question whether the policy is better than a simple baseline (`cross_fit`).
"""

import copy
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pygrade._util.files import directory_lock
from pygrade._util.optional_imports import require
from pygrade._util.progress import begin_phase
from pygrade._util.serialization import write_json
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.console.weights import record_weights
from pygrade.evaluation.arms import FOLDERS, SERVED
from pygrade.evaluation.policy_estimates import log_inputs, served_weights
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset, LogSource
from pygrade.logs.history import History, without_columns
from pygrade.logs.prediction_scale import complete_scales
from pygrade.runs.result import DATASET, TrainingResult
from pygrade.training.evaluate_policy import evaluate_policy, is_new
from pygrade.training.evidence import clean, correct_log, drop_history, prepare_log, reads_history, refuse_positives
from pygrade.training.fit import OnStep, fit_policy
from pygrade.training.folds import cross_fit, mix_folds
from pygrade.training.guardrails import check_guardrails, guard
from pygrade.training.summary import scenario_weights, summary_of
from pygrade.training.training_record import TrainingRecord
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")
SAMPLED = "all that judges, simple baselines, weights for missing features, rewards of the summary"


def fit(
    logs: LogSource | Dataset,
    config: TrainConfig,
    out_dir: str | Path,
    resume: bool = True,
    on_step: OnStep | None = None,
    heldout: Logs | None = None,
    workers: Workers = LOCAL,
    source: str = "a log",
    history: History | None = None,
) -> TrainingResult:
    """Train a fusion policy on logged requests and leave it in ``out_dir/policy``.

    logs: `Logs`, or the path of a log, or several, in order. A log of more than ``config.sample_requests`` requests is
    mapped from ``out_dir/dataset``, which every worker must see: all of it is learned from, and a sample of so many
    requests judges. The policy has the same bits on any number of workers.

    ``out_dir`` also gets ``stage1/`` and ``stage2/`` (unless GRADE is off; the policy after each stage, not mixed),
    ``checkpoints/``, ``folds/`` (those of cross-fitting), ``metrics.jsonl``, ``tensorboard/`` and ``train.json`` (the
    summary). With ``resume`` a run that stopped goes on from its newest whole checkpoint
    and ends with the same policy bytes as one that did not stop; a finished run is left as it is. Without it,
    checkpoints are removed first. ``ValueError`` if the checkpoints are of other logs or another config, or if another
    process trains there. ``on_step(stage, steps done)`` is called after each step. ``heldout``: other requests, for
    learning curves in ``metrics.jsonl`` and limits of guardrails, that train nothing. ``workers``: where folds run.
    ``source``: name of the data. ``history``: whose columns the requests have already. The summary's ``warnings`` are
    sentences not to miss.
    """
    _check_device(config.device)
    if config.correction.trees:
        require("lightgbm", "trees")
    current_policy, options = check_guardrails(config, heldout), config
    directory, started = Path(out_dir), time.perf_counter()
    begin_phase("learning")
    with torch_threads(config.threads), directory_lock(directory / "checkpoints", "train"):
        dataset = Dataset.open(logs, config.sample_requests, directory / DATASET)
        dataset = dataset.with_values(config.reward.task_values, config.reward.value_tasks)
        if config.history.enabled and history is None:
            dataset, heldout, history = _add_history(dataset, heldout, config, directory / DATASET)
        dataset, warnings = clean(dataset, config.sample_requests, directory / DATASET, history)
        sample = dataset.sample(config.sample_requests)
        config = _complete(config, sample.read(), dataset.num_requests)
        refuse_positives(sample.read())
        evidence = prepare_log(dataset, sample, config, history)
        if history is not None and not reads_history(evidence):
            evidence = drop_history(evidence, history, directory / DATASET / "without-history")
            heldout, history = heldout and without_columns(heldout, history), None
        dataset, sample = evidence.dataset, evidence.sample
        if evidence.production.caution:
            logger.warning(evidence.production.caution)
            warnings.append(evidence.production.caution)
        corrected = correct_log(evidence, config, workers)
        fit_config = config
        if corrected is not None and corrected.fold is not None:
            fit_config = replace(config, policy=replace(config.policy, corrected=True))
        facts = evidence.propensity, evidence.production.baseline, corrected
        learned = fit_policy(dataset, sample, fit_config, directory, *facts, resume, on_step, heldout)
        static, policies, tensors, sampled = learned.static, learned.policies, learned.tensors, sample.read()
        scales = complete_scales(sampled.scales, sampled.tasks, sampled.predictions, sampled.feedback)
        for policy in policies.values():
            policy.scales, policy.columns, policy.history = scales, sampled.columns, history
            policy.set_static_weights(static, scenario_weights(sampled, tensors, policy, static))
        summary = summary_of(tensors, config, learned.run, static, policies, sampled.scenario)
        summary |= _facts(dataset, sampled, warnings) | {"seconds": time.perf_counter() - started}
        begin_phase("cross-fitting")
        cross_fitted = cross_fit(evidence, fit_config, directory, resume, workers)
        policies = {name: policy.cpu().eval() for name, policy in policies.items()}
        *_, served = policies.values()
        summary["cross_fit"] = None
        if cross_fitted is not None:
            served = copy.deepcopy(policies[cross_fitted.policy])
            served.mixture = cross_fitted.mixture(learned.baselines)
            mix_folds(directory, cross_fitted, served.mixture)
            summary["cross_fit"] = cross_fitted.to_dict()
            if cross_fitted.better_transform is not None and cross_fitted.proof is None:  # else it hardly matters
                summary["warnings"].append(f"FORM: {cross_fitted.better_transform.sentence(config.policy.transform)}")
        summary["cross_fit_seconds"] = time.perf_counter() - started - summary["seconds"]
        for arm in FOLDERS.keys() - policies.keys():  # of an earlier training
            shutil.rmtree(directory / FOLDERS[arm], ignore_errors=True)
        stages = {FOLDERS[arm]: policy for arm, policy in policies.items() if arm in FOLDERS}
        record = TrainingRecord.of(dataset)
        for name, policy in {**stages, "policy": served}.items():
            extra = {"trained_on": dataset.num_requests, "seed": config.seed, "stage": name}
            policy.save(directory / name, extra=extra)
            replace(record, policy_version=policy.version).save(directory / name)
        summary["version"] = served.version
        learned.run.write_summary(summary)
        shutil.rmtree(directory / DATASET, ignore_errors=True)
    if heldout is not None:
        heldout = heldout.with_values(config.reward.task_values, config.reward.value_tasks)
        if config.guardrails.limits:
            served, summary = guard(served, summary, evidence.propensity, heldout, config, directory, current_policy)
    return TrainingResult(
        served,
        policies,
        static.cpu(),
        learned.baselines,
        evidence.propensity,
        summary,
        directory,
        options,
        dataset,
        source,
        heldout,
    )


def _add_history(
    dataset: Dataset, heldout: Logs | None, config: TrainConfig, folder: Path
) -> tuple[Dataset, Logs | None, History]:
    """The dataset and the later requests with columns of the log's history, which goes on in the later ones."""
    history = History.fit(dataset.sample(config.sample_requests).read(), config.history)
    columns = history.columns()
    dataset = dataset.mapped(columns.add, folder / "history")
    return dataset, None if heldout is None else columns.add(heldout), history


def evaluate_fit(trained: TrainingResult) -> TrainingResult:
    """The result with its evaluation on the held-out requests, if there are any; its figures go into the directory."""
    late, policy, reward = trained.heldout, trained.policy, trained.config.reward
    if late is None:
        return trained
    begin_phase("judging")
    policies = trained.policies | ({SERVED: policy} if is_new(policy) else {})
    evaluation = evaluate_policy(late, trained.propensity, policies, policy.mixture, reward, reward.page_size)
    write_json(trained.directory / "evaluation.json", evaluation)
    with torch.no_grad():
        alpha = policy(log_inputs(policy, late)).numpy()
    groups = {} if late.scenario is None else {"scenario": late.scenario}
    weights, static = served_weights(policy, late), trained.static_weights.numpy()
    record_weights(trained.directory, late.tasks, weights, alpha, static, groups, late.user_id)
    return replace(trained, evaluation=evaluation)


def _facts(dataset: Dataset, sample: Logs, warnings: list[str]) -> dict[str, Any]:
    """The log's entries of the summary."""
    facts = dict[str, Any](requests=dataset.num_requests)
    if sample.num_requests < dataset.num_requests:
        facts["sample"] = {"requests": sample.num_requests, "for": SAMPLED}
    facts["task_values"] = dict(zip(sample.tasks, sample.task_values, strict=True))
    return facts | {"value_tasks": list(sample.value_tasks), "warnings": warnings}


def _complete(config: TrainConfig, logs: Logs, requests: int) -> TrainConfig:
    """The config with what follows from a log: features that may be missing, prices, the prior's weight."""
    missing = np.isnan(logs.context).any(0) & ~np.isnan(logs.context).all(0)
    indicators = config.policy.indicators or tuple(np.array(logs.features, object)[missing].tolist())
    value_tasks = config.policy.value_tasks or logs.value_tasks
    values = logs.task_values if config.policy.trade_offs else ()
    policy = replace(config.policy, indicators=indicators, value_tasks=value_tasks, task_values=values)
    return replace(config, policy=policy, reward=config.reward.sized(requests))


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"device is {name!r}; expected cpu" + (" or cuda" if torch.cuda.is_available() else ", no GPU here")
        )
