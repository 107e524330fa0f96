"""pygrade abtest"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pygrade.cli import console
from pygrade.cli.options import Output
from pygrade.evaluation.abtest import sequential_lifts
from pygrade.evaluation.arms import EQUAL, GRADE, PRODUCTION, STATIC
from pygrade.policy import FusionPolicy
from pygrade.simulation.marketplace import FEATURES, PRODUCTION_WEIGHTS, TASKS, Marketplace
from pygrade.simulation.marketplace_config import MarketplaceConfig
from pygrade.simulation.simulate import ab_test
from pygrade.training.static_weights import equal_weights

logger = logging.getLogger("pygrade")


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Paired A/B test in the simulated marketplace: each arm ranks the same requests of users that are in no log.

    For tests of your own see abtest-plan and abtest-check.

    Example: pygrade abtest --policy runs/demo/policy
    """

    policy: tuple[Path, ...]  # directories of saved policies, an arm each
    requests: int = 12_000  # of the test
    seed: int = 0  # of the world, as in the log that the policies learned from
    baseline: str = PRODUCTION  # arm that lifts refer to: production, equal weights or best static
    world: MarketplaceConfig = field(default_factory=MarketplaceConfig)


def run(options: Options) -> dict[str, Any]:
    if len({path.resolve() for path in options.policy}) < len(options.policy):
        raise ValueError(f"policy names a directory twice: {', '.join(map(str, options.policy))}; want each once")
    policies = [FusionPolicy.load(path) for path in options.policy]
    world = Marketplace(options.world, options.seed)
    requests = world.requests(options.requests, options.seed, "test")
    first = policies[0]
    arms: dict[str, Any] = {
        EQUAL: equal_weights(len(first.tasks)).numpy(),
        PRODUCTION: np.array(PRODUCTION_WEIGHTS, np.float32),
        STATIC: first.static_weights.numpy(),
    }
    transforms: dict[str, Any] = dict.fromkeys(arms, "zlog") | {STATIC: first.config.formula}
    for path, policy in zip(options.policy, policies, strict=True):
        if policy.tasks != TASKS or policy.features != FEATURES:
            raise ValueError(f"the policy in {path} has other tasks or features than the simulated marketplace")
        name = GRADE if len(policies) == 1 else str(path)
        arms[name] = policy.serve(policy.request_inputs(requests.context, requests.p_hat), requests.scenario).numpy()
        transforms[name] = policy.config.formula
    logger.info(f"{len(arms)} arms rank {options.requests:,} requests …")
    record = ab_test(world, requests, arms, options.baseline, transform=transforms, seed=options.seed).to_dict()
    users = record["num_users"]
    record["sequential"] = {
        arm: sequential_lifts(entry["lifts"], users, users) for arm, entry in record["sampled"].items()
    }
    if not options.json:
        for kind, title in (("sampled", "Sampled users"), ("expected", "Closed form")):
            entries = {arm: entry["lifts"] for arm, entry in record[kind].items()}
            console.lifts(f"{title}: lift over {options.baseline}, ± 95 %", entries, strong=GRADE)
        title = "Sampled users, anytime-valid intervals (a test may be stopped after any user)"
        console.lifts(title, record["sequential"], strong=GRADE)
    return {"seed": options.seed, **record}
