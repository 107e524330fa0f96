"""The log by which `pygrade evaluate` judges a policy, for its replay and for its trade-offs."""

import logging
from typing import Any

from pygrade.cli.options import read_log
from pygrade.config.logs import EvaluateOptions
from pygrade.config.shared import LogOptions
from pygrade.console.run_files import unseen
from pygrade.evaluation.policy_estimates import match_policy
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.runs.source import with_values
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")


def evaluation_facts(
    options: EvaluateOptions, policy: FusionPolicy, in_sample: bool | None, left_out: int
) -> dict[str, Any]:
    """Names of what was judged; left_out: requests of the training."""
    judged = {"data": options.data, "policy": str(options.policy), "policy_version": policy.version}
    return judged | {"in_sample": in_sample, "left_out": left_out}


def with_logged_values(options: LogOptions, trained: TrainingRecord | None, policy: FusionPolicy) -> Logs:
    """The log with the policy's tasks and features, matched by name, and with the values of events that judge: given,
    else those that the policy was trained for, else its own.
    """
    logs = match_policy(policy, read_log(options))
    if trained is not None and trained.tasks == logs.tasks:
        if logs.task_values != (1.0,) * len(logs.tasks) and logs.task_values != trained.task_values:
            logger.warning(
                "the log says that events are worth %s; judged by %s, which the policy was trained for",
                logs.task_values,
                trained.task_values,
            )
        logs = logs.with_values(trained.task_values, trained.value_tasks)
    return with_values(logs, options.values, options.value_tasks)


def evaluation_requests(logs: Logs, trained: TrainingRecord | None) -> tuple[Logs, bool | None]:
    """`unseen` of the requests, which the log tells."""
    fresh, in_sample = unseen(logs, trained)
    if in_sample is None:
        logger.warning("nothing records what the policy was trained on: requests of its training cannot be left out")
    elif in_sample:
        logger.warning("the policy was trained on all of these requests")
    elif left := logs.num_requests - fresh.num_requests:
        logger.info(f"left out {left:,} requests that the policy was trained on; {fresh.num_requests:,} judge it")
    return fresh, in_sample
