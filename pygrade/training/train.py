"""Training: logged requests → a fusion policy, in two stages (`stages`) unless GRADE is off.

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

from pygrade._typing import Bools, Ints
from pygrade._util.files import directory_lock
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import correct
from pygrade.correction.parts import continue_fit
from pygrade.evaluation.arms import FOLDERS
from pygrade.evaluation.cautions import (
    beyond_share,
    caution_of_heavy_users,
    caution_of_robots,
    caution_of_value,
    limit_amounts,
    robots,
)
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.log_parts import LogParts
from pygrade.logs.logs import check_amounts
from pygrade.logs.prediction_scale import complete_scales
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.correction import Correction
from pygrade.training.cross_fit import Trust
from pygrade.training.data import LogSource, TrainingData, open_log
from pygrade.training.fit import OnStep, fit_policies, with_propensity
from pygrade.training.folds import mix_folds, simple_baselines, split_log, train_folds
from pygrade.training.license import LicensedCorrection
from pygrade.training.looks_wrong import headline, looks_wrong, positives_sentence
from pygrade.training.prepare import SHARDS, prepare_data
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from pygrade.training.summary import scenario_weights, summary_of
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")
_LARGE = 1_000  # requests of a sample that tells whether users are heavy
_HEAVY = 0.05  # share of a sample's requests that users have beyond what counts, which is no accident
SAMPLED = "simple baselines, trust, weights for missing features, rewards of the summary"


@dataclass(frozen=True)
class TrainResult:
    """Result of `train` in memory; the policies are in ``policy/``, ``stage1/`` and ``stage2/`` of its directory."""

    policy: FusionPolicy  # to be served: a policy mixed with the baseline, as far as the log proves it
    policies: dict[str, FusionPolicy]  # not mixed, by arm: `stage 1` and `GRADE`, without GRADE `policy alone`
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

    ``out_dir`` also gets ``stage1/`` and ``stage2/`` (unless GRADE is off; the policy after each stage, not mixed),
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
        warnings: list[str] = []
        if isinstance(log, Logs):
            log, warnings = _clean(log)
        config = _complete(config, log)
        data = prepare_data(log, config, directory, workers)
        refuse_positives(data.sample)
        if isinstance(log, LogParts):
            warnings = _first_screen(data.sample, _unlike_memory(data.sample, config))
        split = split_log(data, config)
        for sentence in (production_warnings := [split.production.caution] if split.production.caution else []):
            logger.warning(sentence)
        warnings += production_warnings
        fit_data, fit_config, correction = _correct(data, config, split.corrected, workers)
        if heldout is not None and fit_config.policy.corrected and correction is not None:
            heldout = replace(heldout, predictions=correct(correction, heldout))
        static, policies, run = fit_policies(fit_data, fit_config, directory, resume, stack, workers, on_step, heldout)
        *_, last = policies.values()
        sample = data.sample
        scales = complete_scales(sample.scales, sample.tasks, sample.predictions, sample.feedback)
        for policy in policies.values():
            policy.correction, policy.scales = correction, scales
            policy.set_static_weights(static, scenario_weights(data.sample, fit_data.tensors, policy, static))
        summary = summary_of(fit_data.tensors, config, run, static, policies, data.sample.scenario)
        summary |= _facts(data, warnings) | {"seconds": time.perf_counter() - started}
        tensors = fit_data.tensors.to("cpu")
        production = split.production.baseline
        baselines = simple_baselines(data.sample, last.spec, tensors, fit_config, static, correction, production)
        trust = train_folds(data, fit_config, directory, resume, workers, split)
        policies = {name: policy.cpu().eval() for name, policy in policies.items()}
        served, summary["trust"] = last, None
        if trust is not None:
            served = copy.deepcopy(policies[trust.policy])
            served.mixture = trust.mixture(baselines)
            mix_folds(directory, trust, served.mixture)
            summary["trust"] = trust.to_dict()
            summary["warnings"] += _report(trust, config)
        summary["trust_seconds"] = time.perf_counter() - started - summary["seconds"]
        for arm in FOLDERS.keys() - policies.keys():  # of an earlier training
            shutil.rmtree(directory / FOLDERS[arm], ignore_errors=True)
        stages = {FOLDERS[arm]: policy for arm, policy in policies.items() if arm in FOLDERS}
        for name, policy in {**stages, "policy": served}.items():
            extra = {"trained_on": log.num_requests, "seed": config.seed, "stage": name}
            policy.save(directory / name, extra=extra)
            data.record(policy.version).save(directory / name)
        summary["version"] = served.version
        run.write_summary(summary)
        shutil.rmtree(directory / SHARDS, ignore_errors=True)
    return TrainResult(served, policies, static.cpu(), baselines, data.tensors.propensity, summary)


def _clean(log: Logs) -> tuple[Logs, list[str]]:
    """The log without robots and with limited amounts, and what a reader must know of it."""
    if log.incomplete:
        explanation = "requests list only a part of their candidates; want logs.complete()"
        raise ValueError(f"{log.incomplete} of {log.num_requests} {explanation}")
    check_amounts(log)
    cluster = clusters_of(log)
    is_robot = robots(log, cluster)
    human_log, human_cluster = _without(log, cluster, is_robot)
    beyond_use = beyond_share(human_log, human_cluster)
    warnings = _first_screen(log, [*caution_of_robots(log, is_robot), *caution_of_heavy_users(human_log, beyond_use)])
    return limit_amounts(*_without(human_log, human_cluster, beyond_use)), warnings


def _unlike_memory(sample: Logs, config: TrainConfig) -> list[str]:
    """Sentences on the differences between learning from a log in shards and in memory, by its sample; ``ValueError``
    names facts that need another log: robots, users and amounts that a log in memory does without.
    """
    cluster, large = clusters_of(sample), sample.num_requests >= _LARGE
    wrong = {
        "robots": robots(sample, cluster).any(),
        "users who make more than 2 % of the requests": large and beyond_share(sample, cluster).mean() > _HEAVY,
        "a tenth of the value in one place": large and bool(caution_of_value(sample, cluster)),
    }
    if names := [name for name, is_found in wrong.items() if is_found]:
        raise ValueError(
            f"logs of more than shard_requests = {config.shard_requests:,} requests may not hold {' or '.join(names)}: "
            "want a log without them, or a larger --shard-requests, with which they are left out in memory"
        )
    if config.grade == "off" or not (config.correction.on and config.correction.policy):
        return []
    return [
        f"SHARDS: the log has more than {config.shard_requests:,} requests, so that GRADE learns from predictions as "
        "they are, not from corrected ones; --shard-requests takes more into memory."
    ]


def _without(log: Logs, cluster: Ints, left_out: Bools) -> tuple[Logs, Ints]:
    return (log.select(~left_out), cluster[~left_out]) if left_out.any() else (log, cluster)


def _first_screen(log: Logs, more_warnings: list[str] | None = None) -> list[str]:
    """Log the suspicious facts before there is any result, and more sentences; returns them all."""
    findings = looks_wrong(log)
    logger.info(headline(findings))
    for sentence in (sentences := [*map(str, findings), *(more_warnings or [])]):
        logger.warning(sentence)
    return sentences


def refuse_positives(log: Logs) -> None:
    """ValueError if the log has events alone, and not what was shown without one."""
    if sentence := positives_sentence(log):
        raise ValueError(f"this is no log of exposures: {sentence}; pygrade doctor --day0 starts without one")


def _report(trust: Trust, config: TrainConfig) -> list[str]:
    """Logs the verdict; returns what else a reader must not miss."""
    logger.info(trust.sentence)
    if trust.better_form is None or trust.license is not None:  # with a license the form hardly matters
        return []
    logger.warning(sentence := f"FORM: {trust.better_form.sentence(config.policy.transform)}")
    return [sentence]


def _facts(data: TrainingData, warnings: list[str]) -> dict[str, Any]:
    """The log's entries of the summary."""
    logs, facts = data.sample, dict[str, Any](requests=data.num_requests)
    if not data.in_memory:
        facts["shards"] = len(data.shards)
        facts["sample"] = {"requests": logs.num_requests, "for": SAMPLED}
    facts["task_values"] = dict(zip(logs.tasks, logs.task_values, strict=True))
    return facts | {"value_tasks": list(logs.value_tasks), "warnings": warnings}


def _complete(config: TrainConfig, log: Logs | LogParts) -> TrainConfig:
    """The config with what follows from the log: features that may be missing, prices, the prior's weight."""
    logs = log if isinstance(log, Logs) else log.read(0, min(log.num_requests, config.sample_requests))
    missing = np.isnan(logs.context).any(0) & ~np.isnan(logs.context).all(0)
    indicators = config.policy.indicators or tuple(np.array(logs.features, object)[missing].tolist())
    value_tasks = config.policy.value_tasks or logs.value_tasks
    values = log.task_values if config.policy.trade_offs else ()
    policy = replace(config.policy, indicators=indicators, value_tasks=value_tasks, task_values=values)
    return replace(config, policy=policy, reward=config.reward.sized(log.num_requests))


def _correct(
    data: TrainingData, config: TrainConfig, licensed: LicensedCorrection | None, workers: Workers
) -> tuple[TrainingData, TrainConfig, Correction | None]:
    """The log that policies learn from, with their config: of corrected predictions where they are licensed."""
    if licensed is None:
        return data, config, None
    correction, state = licensed.candidate.correction, licensed.candidate.state
    if not data.in_memory and state is not None:
        correction = continue_fit(state, data.ranges, data.tensors.propensity.examine, workers).correction()
        effects = licensed.candidate.item_effects
        correction = correction if effects is None else correction.with_item_effects(effects)
    correction = replace(correction, page_terms=licensed.page_terms)
    if not data.in_memory or not config.correction.policy or config.grade == "off":
        return data, config, correction
    config = replace(config, policy=replace(config.policy, corrected=True))
    logs, propensity = replace(data.sample, predictions=licensed.predictions), data.tensors.propensity
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
