"""The judge of a policy's trade-offs, for `pygrade evaluate --trade-offs`."""

import numpy as np

from pygrade.evaluation.pareto_front import RankingEvaluator
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.training.baselines import production_scores
from pygrade.training.propensity import SlotPropensity

_TURNED = 4  # tasks whose values turn by default


def ranking_evaluator(
    policy: FusionPolicy, logs: Logs, propensity: SlotPropensity, k: int, floor: float
) -> RankingEvaluator:
    """Production is the logged weights under the policy's formula, or the logged order if no weights are logged.

    floor: the smallest propensity that a label is divided by.
    """
    curve, error = propensity.known(max(logs.num_slots, k)), propensity.standard_error
    return RankingEvaluator(policy, logs, production_scores(logs, policy), curve, k, floor, exponent_error=error)


def most_valuable(logs: Logs) -> tuple[str, ...]:
    """The tasks of most predicted value, or harm, in the log's order."""
    worth = np.abs(logs.predictions * logs.event_values).sum(0)
    return tuple(logs.tasks[t] for t in sorted(np.argsort(-worth, kind="stable")[:_TURNED]))
