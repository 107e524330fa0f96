"""pygrade train"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.files import directory_lock
from pygrade.cli import terminal
from pygrade.cli.options import log_directory, open_log, sub_config, workers_of
from pygrade.cli.run_directory import check_output, record_options
from pygrade.cli.run_metrics import report_run
from pygrade.cli.verdict import print_verdict
from pygrade.config.ignored import refuse_in_training
from pygrade.config.training import TrainConfig, TrainOptions
from pygrade.console.sections import brief_section, guardrail_section
from pygrade.correction.prior import load_prior
from pygrade.evaluation.verdict import stored_verdict
from pygrade.logs import Logs
from pygrade.logs.log_parts import LogParts
from pygrade.runs.fit import evaluate_fit, fit
from pygrade.runs.train import split_holdout
from pygrade.storage import join_path, working_directory
from pygrade.training.mlflow_run import MlflowRun
from pygrade.workers import Workers

UNPUBLISHED = ("checkpoints",)  # of a run at a URL: an interrupted one goes on from the local ones


def run(options: TrainOptions) -> dict[str, Any]:
    config = sub_config(TrainConfig, options)
    if options.prior is not None:
        if config.correction.prior:
            raise ValueError("--prior and --correction.prior both name a policy; expected --prior alone")
        config = replace(config, correction=replace(config.correction, prior=str(options.prior)))
    if (options.values or options.value_tasks) and (config.reward.task_values or config.reward.value_tasks):
        raise ValueError("--values and --reward.task-values both say what events are worth; expected --values alone")
    refuse_in_training(config)
    directory = log_directory(options)
    check_output(options.out, "train", directory)
    tracked = None if options.track is None else MlflowRun(options.track)
    logs = open_log(options, config.history.enabled)
    if config.correction.prior:
        load_prior(config.correction.prior, logs.tasks)
    early, late = split_holdout(logs, options.holdout, config.sample_requests)
    with (
        working_directory(options.out, "train", UNPUBLISHED) as out,
        workers_of(options.cluster, out, directory) as workers,
        directory_lock(out, "train"),
        record_options(options, "train", out),
    ):
        record = _train_and_judge(options, config, early, late, out, workers)
    if tracked is not None:
        version = record["train"]["version"]
        report_run(tracked, "train", options, out, out / "policy", version, out / "metrics.jsonl")
    if not options.json:
        summary, evaluation = record["train"], record.get("evaluation")
        terminal.sections(brief_section(summary["cross_fit"]))
        if "guardrails" in summary:
            terminal.sections([guardrail_section(summary["guardrails"])])
        print_verdict(record["verdict"], evaluation and evaluation["later"], record["warnings"])
        terminal.text(f"policy: {record['policy']}    report: {record['report']}")
    return record


def _train_and_judge(
    options: TrainOptions, config: TrainConfig, early: Logs | LogParts, late: Logs | None, out: Path, workers: Workers
) -> dict[str, Any]:
    trained = evaluate_fit(fit(early, config, out, options.resume, None, late, workers, options.data))
    record: dict[str, Any] = {
        "data": options.data,
        "out": str(options.out),
        "policy": join_path(options.out, "policy"),
        "train": trained.summary,
        "verdict": stored_verdict(trained.policy.mixture),
        "warnings": trained.warnings,
    }
    if trained.evaluation is not None:
        record["evaluation"] = trained.evaluation
    return record | {"report": join_path(options.out, trained.report().name)}
