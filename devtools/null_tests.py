"""Rate of false calls by `test read`: A/B tests of equal arms in worlds that are hard on intervals.

    python -m devtools.null_tests [TESTS]

prints a table in Markdown and exits with 1 if more than 2.5 % of the tests of a world call one, by Wilson's interval.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Ints
from pygrade.evaluation.abtest import ArmLift, UserMetric, covariates, read_test

WANTED = 0.025  # share of the tests, on each side
Rng = np.random.Generator
Draw = Callable[[Rng, Ints], UserMetric]  # arm [U] → the metric of these users


@dataclass(frozen=True)
class World:
    """A test whose arms earn alike."""

    name: str
    sizes: tuple[int, ...]  # users of each arm, the control first
    draws: tuple[Draw, ...]  # of each metric
    looks: int = 1  # after equal parts of the users; with more than one, at the anytime-valid intervals
    holds: bool = True  # False: no interval can hold, since the small arm has not shown its rare users


def _amounts(draw: Callable[[Rng, int], Array]) -> Draw:
    return lambda rng, arm: UserMetric(np.asarray(draw(rng, len(arm)), np.float64), np.ones(len(arm)))


def _money(sigma: float, dearer: float = 0.0) -> Draw:
    """5 % of the users pay a lognormal amount; dearer: its σ is so much larger in the new arm, with the same mean."""

    def draw(rng: Rng, arm: Ints) -> UserMetric:
        own = sigma + dearer * (arm > 0)
        paid = rng.lognormal(3 - own**2 / 2, own)
        return UserMetric((rng.random(len(arm)) < 0.05) * paid, np.ones(len(arm)))

    return draw


def _baskets(rng: Rng, arm: Ints) -> UserMetric:
    """Half as many orders in the new arm, twice as dear."""
    share, price = 0.04 / (1 + (arm > 0)), 5.0 * (1 + (arm > 0))
    return UserMetric((rng.random(len(arm)) < share) * rng.gamma(4.0, price), np.ones(len(arm)))


def _pages(sessions: float) -> Draw:
    """Value per page of users of whom the active ones like more of what they see."""

    def draw(rng: Rng, arm: Ints) -> UserMetric:
        activity = rng.gamma(2.0, 0.5, len(arm))
        pages = 1.0 + rng.poisson(sessions * activity)
        return UserMetric(rng.poisson(0.1 * pages * activity) * rng.lognormal(0, 0.5, len(arm)), pages)

    return draw


def _with_history(rng: Rng, arm: Ints) -> UserMetric:
    taste, known = rng.lognormal(0, 1.2, len(arm)), (rng.random(len(arm)) < 0.8).astype(np.float64)
    before, value = (rng.poisson(taste) * rng.lognormal(0, 0.8, len(arm)) for _ in range(2))
    return UserMetric(value, np.ones(len(arm)), covariates(before * known, known))


_CLICKS = _amounts(lambda rng, n: rng.poisson(2.0, n))
_RARE = _amounts(lambda rng, n: rng.random(n) < 0.02)
_PARETO = _amounts(lambda rng, n: (rng.random(n) < 0.05) * rng.random(n) ** (-1 / 1.5))
_COUNTS = _amounts(lambda rng, n: (rng.random(n) < 0.1) * rng.negative_binomial(0.5, 0.1, n))
_WHALES = _amounts(lambda rng, n: rng.exponential(1.0, n) * np.where(rng.random(n) < 0.001, 300.0, 1.0))

WORLDS = (
    World("money: 5 % pay, lognormal σ 2", (1000, 10_000), (_money(2.0),)),
    World("money: 5 % pay, lognormal σ 2", (9000, 1000), (_money(2.0),)),
    World("money: 5 % pay, lognormal σ 2", (90_000, 10_000), (_money(2.0),)),
    World("money: 5 % pay, lognormal σ 2", (1000, 1000), (_money(2.0),)),
    World("money: 5 % pay, lognormal σ 1", (1000, 10_000), (_money(1.0),)),
    World("money: 5 % pay, lognormal σ 1", (9000, 1000), (_money(1.0),)),
    World("money: 5 % pay, Pareto 1.5", (9000, 1000), (_PARETO,)),
    World("rare: 2 % of the users", (1000, 10_000), (_RARE,)),
    World("rare: 2 % of the users", (3000, 300), (_RARE,)),
    World("Poisson of mean 2", (1000, 10_000), (_CLICKS,)),
    World("counts, 90 % of them 0", (3000, 300), (_COUNTS,)),
    World("whales: 1 of 1,000 spends × 300", (9000, 1000), (_WHALES,)),
    World("value per page, ten pages a user", (1000, 10_000), (_pages(10.0),)),
    World("value per page, two pages a user", (3000, 300), (_pages(1.0),)),
    World("CUPED with a skewed history", (10_000, 1000), (_with_history,)),
    World("small arms, counts, 90 % of them 0", (100, 100), (_COUNTS,)),
    World("half as many orders, twice as dear", (10_000, 1000), (_baskets,)),
    World("three arms, clicks and money", (1000, 5000, 5000), (_CLICKS, _money(1.0))),
    World("ten looks, rare", (600, 6000), (_RARE,), looks=10),
    World("ten looks, money σ 1", (2500, 2500), (_money(1.0),), looks=10),
    World("money: σ 1.4 in the new arm, 1 in the other", (10_000, 1000), (_money(1.0, 0.4),), holds=False),
)


@dataclass
class Calls:
    """Tests, those that call an arm better or worse at any look, and those that end with a lift not decidable."""

    tests: int = 0
    better: int = 0
    worse: int = 0
    undecidable: int = 0


def run_world(world: World, tests: int, seed: int = 0) -> Calls:
    calls = Calls(tests)
    for test in range(tests):
        looks = list(_readings(world, np.random.default_rng([seed, test, *world.sizes])))
        ends = [lift.anytime or lift.corrected for lifts in looks for lift in lifts]
        calls.better += any(end.low > 0 for end in ends)
        calls.worse += any(end.high < 0 for end in ends)
        calls.undecidable += any(lift.undecidable is not None for lift in looks[-1])
    return calls


def _readings(world: World, rng: Rng) -> Iterator[list[ArmLift]]:
    """The lifts at each look of one test; a metric of which an arm has nothing has none."""
    arm = rng.permutation(np.repeat(np.arange(len(world.sizes)), world.sizes))
    metrics = {str(place): draw(rng, arm) for place, draw in enumerate(world.draws)}
    planned = len(arm) if world.looks > 1 else None
    for look in range(1, world.looks + 1):
        seen = slice(len(arm) * look // world.looks)
        known = {
            name: UserMetric(m.numerator[seen], m.denominator[seen], None if (x := m.covariates) is None else x[seen])
            for name, m in metrics.items()
            if np.bincount(arm[seen], m.numerator[seen]).all()
        }
        lifts = read_test(arm[seen], list(map(str, range(len(world.sizes)))), known, planned) if known else {}
        yield [lift for entry in lifts.values() for lift in entry.values()]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z2 = 1.96**2
    center, half = hits + z2 / 2, 1.96 * math.sqrt(hits * (count - hits) / count + z2 / 4)
    return max(center - half, 0.0) / (count + z2), (center + half) / (count + z2)


def main(tests: int = 1000) -> int:
    print("| no effect in | users of the arms | tests | *better* | *worse* | not decidable |")
    print("|---|--:|--:|--:|--:|--:|")
    failed = False
    for world in WORLDS:
        calls = run_world(world, tests * 30_000 // max(30_000, sum(world.sizes)))
        cells = [world.name, " : ".join(f"{size:,}" for size in world.sizes), f"{calls.tests:,}"]
        for hits in (calls.better, calls.worse):
            low, high = wilson(hits, calls.tests)
            failed |= world.holds and low > WANTED
            cells.append(f"{100 * hits / calls.tests:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        print("|", " | ".join([*cells, f"{100 * calls.undecidable / calls.tests:.0f} %"]), "|", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
