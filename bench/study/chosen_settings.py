"""Settings chosen by off-policy estimates on the log: the prior's weight, the KL term and the length of stage 2.

Every try is trained on the earlier part of the log and compared with the default on the later part; the winner is
trained on the whole log. The true value of each try is recorded beside its estimate and not used.
"""

import torch

from bench.study.trial import ArmRanking, Options, Trial
from pygrade.evaluation.policy_estimates import choose_policy
from pygrade.policy import FusionPolicy
from pygrade.training.stage2 import train_stage2

_DEFAULT = "default"


def chosen(trial: Trial, options: Options) -> ArmRanking:
    """GRADE under the chosen settings; its figures are each try's estimated and true lift over the default, in %."""
    early, late = trial.logs.split(1 - options["judging"])
    tries = {_DEFAULT: trial.config({})} | {name: trial.config(changes) for name, changes in options["tries"].items()}
    policies = {name: trial.trained(config, early) for name, config in tries.items()}
    slots = trial.world.config.page_size
    curve = trial.data.propensity.curve(slots)
    name, lifts = choose_policy(policies, late, curve, slots)
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


def _value(trial: Trial, policy: FusionPolicy) -> float:
    requests = trial.requests
    with torch.no_grad():
        weights = policy.serve(policy.request_inputs(requests.context, requests.p_hat), requests.scenario)
    return trial.value(requests, weights.numpy())
