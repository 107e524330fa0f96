"""pygrade train"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pygrade._util.files import directory_lock
from pygrade._util.serialization import write_json
from pygrade.cli import terminal
from pygrade.cli.evaluation_tables import print_evaluation, print_verdict, print_warnings
from pygrade.cli.ignored import refuse_in_training
from pygrade.cli.options import log_directory, open_log, sub_config, workers_of
from pygrade.cli.run_directory import check_out, record_options
from pygrade.cli.run_metrics import report_run
from pygrade.config.training import TrainConfig, TrainOptions
from pygrade.console.run_files import JudgedRun
from pygrade.console.tables import trust_table
from pygrade.console.training import write_report
from pygrade.console.weights import record_weights
from pygrade.correction.prior import load_prior
from pygrade.evaluation.arms import GRADE, SERVED, STAGE1
from pygrade.evaluation.policy_estimates import log_inputs, served_weights
from pygrade.evaluation.replay import event_worth
from pygrade.evaluation.verdict import stored_verdict
from pygrade.logs import Logs
from pygrade.logs.log_parts import LogParts
from pygrade.storage import join_path, working_directory
from pygrade.training.evaluate_policy import HOLDOUT_REQUESTS, evaluate_policy, is_new
from pygrade.training.mlflow_run import MlflowRun
from pygrade.training.train import train
from pygrade.workers import Workers

UNPUBLISHED = ("checkpoints",)  # of a run at a URL: an interrupted one goes on from the local ones


def run(options: TrainOptions) -> dict[str, Any]:
    config = sub_config(TrainConfig, options)
    if options.prior is not None:
        if config.correction.prior:
            raise ValueError("--prior and --correction.prior both name a policy; want --prior alone")
        config = replace(config, correction=replace(config.correction, prior=str(options.prior)))
    if (options.values or options.value_tasks) and (config.reward.task_values or config.reward.value_tasks):
        raise ValueError("--values and --reward.task-values both say what events are worth; want --values alone")
    refuse_in_training(config)
    directory = log_directory(options)
    check_out(options.out, "train", directory)
    place = None if options.track is None else MlflowRun(options.track)
    logs = open_log(options, config.shard_requests)
    if isinstance(logs, Logs) and not bool((logs.feedback > 0).any()):
        raise ValueError(f"{options.data}: no shown row has feedback; join it to the log before training")
    if config.correction.prior:
        load_prior(config.correction.prior, logs.tasks)
    early: Logs | LogParts
    early, later = logs.split(1 - options.holdout) if options.holdout else (logs, None)
    if not early.num_requests or (later is not None and not later.num_requests):
        few = f"the log has {logs.num_requests} requests, and holdout {options.holdout} leaves nothing to "
        raise ValueError(
            few + ("train on" if not early.num_requests else "judge on; want more requests, or --holdout 0")
        )
    late = later.sample(HOLDOUT_REQUESTS) if isinstance(later, LogParts) else later
    with (
        working_directory(options.out, "train", UNPUBLISHED) as out,
        workers_of(options.cluster, out, directory) as workers,
        directory_lock(out, "train"),
        record_options(options, "train", out),
    ):
        record = _train_and_judge(options, config, early, late, out, workers)
    if place is not None:
        version = record["train"]["version"]
        report_run(place, "train", options, out, out / "policy", version, out / "metrics.jsonl")
    if not options.json:
        _print_trust(record["train"])
        if late is not None:
            print_evaluation(record["evaluation"], "later requests, which trained nothing: ")
        print_verdict(record["verdict"], record["evaluation"]["later"] if late is not None else None)
        print_warnings(record["warnings"])
        terminal.text(f"policy: {record['policy']}    report: {record['report']}")
    return record


def _print_trust(summary: Mapping[str, Any]) -> None:
    """What cross-fitting found: mixtures and baselines against the baseline."""
    trust = summary["trust"]
    head, rows = trust_table(trust)
    if rows:
        title = f"Cross-fitted value of the logged pages, lift over {trust['baseline']} (bounds two-sided 95 %)"
        caption = f"{trust['folds']} folds of {trust['users']:,} users; {event_worth(summary)}; "
        caption += f"slot propensities: {trust['propensity']}; {summary['trust_seconds']:.0f} s of cross-fitting"
        terminal.table(title, head, rows, trust["served"], caption)


def _train_and_judge(
    options: TrainOptions,
    config: TrainConfig,
    early: Logs | LogParts,
    late: Logs | None,
    out: Path,
    workers: Workers,
) -> dict[str, Any]:
    result = train(early, config, out, options.resume, heldout=late, workers=workers)
    record: dict[str, Any] = {
        "data": options.data,
        "out": str(options.out),
        "policy": join_path(options.out, "policy"),
        "train": result.summary,
        "verdict": stored_verdict(result.policy.mixture),
    }
    judged = None
    if late is not None:
        late = late.valued(config.reward.task_values, config.reward.value_tasks)
        policies = {STAGE1: result.stage1_policy, GRADE: result.stage2_policy}
        if is_new(result.policy):
            policies[SERVED] = result.policy
        evaluation = evaluate_policy(
            late, result.propensity, policies, result.policy.mixture, config.reward, config.reward.page_size
        )
        record["evaluation"] = evaluation
        write_json(out / "evaluation.json", evaluation)
        floor = config.reward.propensity_floor
        judged = JudgedRun(out / "policy", result.policy, late, False, evaluation, result.propensity, floor)
        with torch.no_grad():
            alpha = result.policy(log_inputs(result.policy, late))
        static = result.static_weights.numpy()
        groups = {} if late.scenario is None else {"scenario": late.scenario}
        weights = served_weights(result.policy, late)
        record_weights(out, late.tasks, weights, alpha.numpy(), static, groups, late.user_id)
    found = evaluation["warnings"] if late is not None else []
    record["warnings"] = list(dict.fromkeys([*result.summary["warnings"], *found]))
    data = _describe(options, early, late, result.summary)
    report = write_report(out, f"pygrade train: {options.data}", judged, data=data, options=(config, TrainConfig()))
    return record | {"report": join_path(options.out, report.name)}


def _describe(
    options: TrainOptions, early: Logs | LogParts, late: Logs | None, summary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What the data is, for the report."""
    parts = [("the policy learns from", early), *([("judged on", late)] if late is not None else [])]
    sizes = [(name, _size(logs)) for name, logs in parts]
    return [
        ("data", options.data),
        *sizes,
        ("tasks", ", ".join(early.tasks)),
        ("features", ", ".join(early.features) or "none"),
        ("values", event_worth(summary)),
        ("slot propensities", summary["propensity"]["note"]),
    ]


def _size(logs: Logs | LogParts) -> str:
    if isinstance(logs, LogParts):
        return f"{logs.num_requests:,} requests in {len(logs.parts):,} files"
    return f"{logs.num_requests:,} requests of {len(np.unique(logs.user_id)):,} users, {logs.num_rows:,} candidates"
