"""Options of a simulated log and of the demo."""

import math
from dataclasses import dataclass, field, replace

from pygrade.config.marketplace import PRODUCTION_WEIGHTS, TASKS, MarketplaceConfig, PerTask
from pygrade.config.training import TrainConfig


@dataclass(frozen=True)
class SimulateConfig:
    """Production ranks by hand-tuned weights and explores on a share of its requests."""

    requests: int = 20_000  # of the log, or of the test
    seed: int = 0  # of the world and of all draws
    days: int = 14  # over which the requests are spread evenly
    weights: tuple[float, float, float, float, float, float] = PRODUCTION_WEIGHTS  # production's, by task
    dirichlet_share: float = 0.1  # requests whose weights are drawn from Dirichlet(concentration · weights)
    shuffle_share: float = 0.1  # requests whose page is shuffled, from which slot propensities are estimated
    concentration: float = 15.0  # of the draws: the higher, the closer to the weights
    # Several Dirichlets to draw from, each with its concentrations by task and the same share; none: the one above.
    concentrations: tuple[PerTask, ...] = ()
    # Sd of the noise in the item columns of the log (quality, hype, price, …), drawn once per item; none: there are no
    # item columns.
    item_noise: float | None = None
    missing_share: float = 0.0  # of the values of each context feature, missing at random
    world: MarketplaceConfig = field(default_factory=MarketplaceConfig)  # the marketplace's constants

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"seed is {self.seed}; want 0 to 2**31 - 1")
        if self.requests < 1 or self.days < 1:
            raise ValueError(f"requests is {self.requests}, days {self.days}; want at least 1 of each")
        if min(self.dirichlet_share, self.shuffle_share) < 0 or self.dirichlet_share + self.shuffle_share > 1:
            shares = f"dirichlet_share is {self.dirichlet_share}, shuffle_share {self.shuffle_share}"
            raise ValueError(f"{shares}; want shares ≥ 0 that sum to at most 1")
        if min(self.weights) <= 0 or self.concentration <= 0:
            raise ValueError(f"weights {self.weights}, concentration {self.concentration}; want positive numbers")
        if any(len(row) != len(TASKS) or min(row) <= 0 for row in self.concentrations):
            raise ValueError(f"concentrations are {self.concentrations}; want {len(TASKS)} positive numbers each")
        if self.item_noise is not None and not 0 <= self.item_noise < math.inf:
            raise ValueError(f"item_noise is {self.item_noise}; want a standard deviation ≥ 0, or none")
        if not 0 <= self.missing_share < 1:
            raise ValueError(f"missing_share is {self.missing_share}; want a share from 0 to below 1")


@dataclass(frozen=True)
class DemoConfig:
    """World, training and test of the demo, which is a function of these options."""

    requests: int = 20_000  # logged requests to learn from
    test_requests: int = 12_000  # requests of the A/B test, from users that are not in the log
    seed: int = 0  # of world, training and test
    pages: int = 3  # ranked pages to print
    simulate: SimulateConfig = field(default_factory=SimulateConfig)  # requests and seed are taken from above
    train: TrainConfig = field(default_factory=TrainConfig)  # seed is taken from above

    def __post_init__(self) -> None:
        for name, low in (("requests", 1), ("test_requests", 2), ("seed", 0), ("pages", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least {low}")

    def resolved(self) -> tuple[SimulateConfig, TrainConfig]:
        """The parts' configs with the demo's size and seed."""
        world = replace(self.simulate, requests=self.requests, seed=self.seed)
        return world, replace(self.train, seed=self.seed)
