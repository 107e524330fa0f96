"""Settings chosen by off-policy estimates on the log: the prior's weight, the KL term and the length of stage 2.

Every try is trained on the earlier part of the log and compared with the default on the later part; the winner is
trained on the whole log. The true value of each try is recorded beside its estimate and not used.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike

from bench.study.trial import ArmRanking, Options, Trial
from pygrade.evaluation.logged_rewards import LoggedRewards
from pygrade.evaluation.offpolicy import OffPolicyEstimate
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.policy.spec import fusion_formula
from pygrade.training.stages import train_stage2

_DEFAULT = "default"


def chosen(trial: Trial, options: Options) -> ArmRanking:
    """GRADE under the chosen settings; its figures are each try's estimated and true lift over the default, in %."""
    early, late = trial.logs.split(1 - options["judging"])
    tries = {_DEFAULT: trial.config({})} | {name: trial.config(changes) for name, changes in options["tries"].items()}
    policies = {name: trial.trained(config, early) for name, config in tries.items()}
    slots = trial.world.config.page_size
    curve = trial.data.propensity.curve(slots)
    name, lifts = choose_policy(policies, late, curve)
    true = {name: _value(trial, policy) for name, policy in policies.items()}
    figures: dict[str, float] = {}
    for place, (key, lift) in enumerate(lifts.items()):
        figures |= {
            f"estimated {key}": 100 * lift.value,
            f"half {key}": 50 * (lift.high - lift.low),
            f"true {key}": 100 * (true[key] / true[_DEFAULT] - 1),
        }
        if key == name:
            figures["chosen"] = float(place + 1)  # 0: the default
    config = tries[name]
    policy = trial.stage1(config)
    train_stage2(trial.training_data(config), policy, config.stage2, seed=trial.seed, engine=config.engine)
    return trial.serve(policy, figures={"chosen": 0.0} | figures)


def choose_policy(
    policies: Mapping[str, FusionPolicy], logs: Logs, propensity: ArrayLike
) -> tuple[str, dict[str, OffPolicyEstimate]]:
    """The policy to prefer by a log that none was trained on, and the relative lift of each over the first (the
    default), see `LoggedRewards.lifts`; propensity: of the slots that count.

    The best one is chosen if its 95 % interval is above 0, else the default: noise alone rarely changes a setting,
    and small gains go unseen. The interval is not widened for the number of policies.
    """
    targets = {name: ranks(policy_scores(policy, logs), logs.offsets) for name, policy in policies.items()}
    default, base = next(iter(targets.items()))
    formula = fusion_formula(policies[default].config)
    rewards = LoggedRewards.of(logs, np.asarray(propensity, np.float64), formula)
    lifts = rewards.lifts({name: target for name, target in targets.items() if name != default}, base)
    sure = {name: lift.value for name, lift in lifts.items() if lift.low > 0}
    return max(sure, key=lambda name: sure[name], default=default), lifts


def _value(trial: Trial, policy: FusionPolicy) -> float:
    requests = trial.requests
    with torch.no_grad():
        weights = policy.serve(policy.request_inputs(requests.context, requests.p_hat), requests.scenario)
    return trial.value(requests, weights.numpy())
