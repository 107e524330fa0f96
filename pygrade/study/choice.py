"""Settings chosen by an off-policy estimate on the log: the prior's weight, the KL term and how long stage 2 trains.

Every try is trained on the earlier part of the log and compared with the default on the later part; what wins is
trained on the whole log. The truth of each try is noted beside its estimate, and decides nothing.
"""

import torch

from pygrade.evaluation.policy_estimates import choose_policy
from pygrade.policy import FusionPolicy
from pygrade.simulation.simulate import rank_pages
from pygrade.study.bench import Bench, Options, Served
from pygrade.training.stage2 import train_stage2

_DEFAULT = "default"


def chosen(bench: Bench, options: Options) -> Served:
    """GRADE under the chosen settings; per try its estimated and its true lift over the default, in per cent."""
    early, late = bench.logs.split(1 - options["judging"])
    tries = {_DEFAULT: bench.config({})} | {name: bench.config(changes) for name, changes in options["tries"].items()}
    policies = {name: bench.trained(config, early) for name, config in tries.items()}
    slots = bench.world.config.page_size
    curve = bench.data.propensity.curve(slots)
    name, lifts = choose_policy(policies, late, curve, slots)
    earned = {name: _value(bench, policy) for name, policy in policies.items()}
    figures: dict[str, float] = {}
    for place, (key, lift) in enumerate(lifts.items()):
        figures |= {
            f"estimated {key}": 100 * lift.value / earned[_DEFAULT],
            f"half {key}": 50 * (lift.high - lift.low) / earned[_DEFAULT],
            f"true {key}": 100 * (earned[key] / earned[_DEFAULT] - 1),
        }
        if key == name:
            figures["chosen"] = float(place + 1)  # 0: the default
    config = tries[name]
    policy = bench.stage1(config)
    train_stage2(bench.build(config), policy, config.stage2, seed=bench.seed)
    return bench.serve(policy, figures={"chosen": 0.0} | figures)


def _value(bench: Bench, policy: FusionPolicy) -> float:
    requests = bench.requests
    with torch.no_grad():
        weights = policy.serve(policy.request_inputs(requests.context, requests.p_hat), requests.scenario)
    pages = rank_pages(requests.p_hat, weights.numpy(), bench.world.config.page_size)
    return float(bench.world.expected(requests, pages).value.mean())
