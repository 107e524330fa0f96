"""Options of a simulated log and of the demo."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pygrade.config.marketplace import PRODUCTION_WEIGHTS, TASKS, MarketplaceConfig, PerTask
from pygrade.config.option import Options, Place, option
from pygrade.config.shared import Output
from pygrade.config.training import TrainConfig


@dataclass(frozen=True)
class SimulateConfig(Options):
    """Production ranks by hand-tuned weights and explores on a share of its requests."""

    PYTHON_ONLY: ClassVar = ("concentrations", "similarity", "missing_share")  # not on the command line

    requests: int = option(20_000, "requests of the log, or of the test", ge=1)
    seed: int = option(0, "seed of the world and of all draws", ge=0, lt=1 << 31)
    days: int = option(14, "over which the requests are spread evenly", ge=1)
    weights: tuple[float, float, float, float, float, float] = option(PRODUCTION_WEIGHTS, "production's, by task", gt=0)
    dirichlet_share: float = option(0.1, "requests with weights of Dirichlet(concentration · weights)", ge=0, le=1)
    shuffle_share: float = option(0.1, "requests with a shuffled page, for the slot propensities", ge=0, le=1)
    concentration: float = option(15.0, "concentration of the draws; higher: closer to the weights", gt=0)
    concentrations: tuple[PerTask, ...] = option(
        (),
        "Several Dirichlets to draw from, each with its concentrations by task and the same share; default: "
        "the one above.",
    )
    item_noise: float | None = option(
        None,
        "Sd of the noise in the item columns of the log (quality, hype, price, …), drawn once per item; "
        "default: there are no item columns.",
        ge=0,
    )
    similarity: bool = option(
        False, "whether the log has the items' categories and embeddings; always where pages.strength is not 0"
    )
    missing_share: float = option(0.0, "share of each context feature's values that are missing at random", ge=0, lt=1)
    world: MarketplaceConfig = option(MarketplaceConfig(), "the marketplace's constants")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dirichlet_share + self.shuffle_share > 1:
            shares = f"dirichlet_share is {self.dirichlet_share}, shuffle_share {self.shuffle_share}"
            raise ValueError(f"{shares}; expected shares that sum to at most 1")
        if any(len(row) != len(TASKS) or min(row) <= 0 for row in self.concentrations):
            raise ValueError(f"concentrations are {self.concentrations}; expected {len(TASKS)} positive numbers each")
        if self.world.dynamics.on and self.days > self.world.dynamics.days:
            limit = f"at most {self.world.dynamics.days}, which world.dynamics.days says"
            raise ValueError(f"days is {self.days}; expected {limit}")
        if self.item_noise == math.inf:
            raise ValueError("item_noise is inf; expected a standard deviation, or none")


@dataclass(frozen=True)
class DemoSize(Options):
    """Size of a demo."""

    requests: int = option(20_000, "logged requests to learn from", ge=1)
    test_requests: int = option(12_000, "requests of the A/B test, from users that are not in the log", ge=2)
    seed: int = option(0, "seed of world, training and test", ge=0)
    pages: int = option(1, "ranked pages to print", ge=0)


@dataclass(frozen=True)
class DemoConfig(DemoSize):
    """World, training and test of the demo, which is a function of these options."""

    simulate: SimulateConfig = option(SimulateConfig(), "requests and seed are taken from above")
    train: TrainConfig = option(TrainConfig(), "seed is taken from above")

    def resolved(self) -> tuple[SimulateConfig, TrainConfig]:
        """The parts' configs with the demo's size and seed."""
        world = replace(self.simulate, requests=self.requests, seed=self.seed)
        return world, replace(self.train, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class SimulateOptions(Output, SimulateConfig):
    """Write the production log of a simulated marketplace, in the Parquet layout that train and evaluate read.

    With --ab instead of --out: paired A/B test of policies, in which each arm ranks the same --requests requests of
    users that are in no log. Seed, weights and world are those of the log that the policies learned from.

    Example: pygrade simulate --out runs/logs --requests 5000

    Example: pygrade simulate --ab runs/mine/policy --requests 12000
    """

    ESSENTIAL: ClassVar = ("out", "ab", "baseline", "requests", "seed", "days", "dirichlet_share", "shuffle_share")

    out: Place | None = option(None, "directory to write; an earlier log there is replaced")
    ab: tuple[Place, ...] = option((), "directories of saved policies to test, an arm each")
    baseline: str | None = option(None, "arm that lifts refer to: equal weights or best static; default: production")


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Output, DemoSize):
    """The main job on a simulated marketplace: log, training, A/B test and its decision, report, ranked pages.

    A demo that was interrupted continues; a finished one is made anew.

    Example: pygrade demo --out runs/demo
    """

    out: Path = option(Path("runs/demo"), "directory to write")
    resume: bool = option(True, "continue an interrupted demo of the same options")
