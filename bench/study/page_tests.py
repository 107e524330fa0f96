"""python -m bench.study.page_tests PART … --seeds A:B: what the readings of a test say in worlds whose truth is known.

Worlds: a cascade with heavy prices, one whose items act on each other's clicks, one of users who return and differ
for good, and visits that buy one thing at most (of which 4, 23 or 68 % buy). A world's pool of requests has a closed
form of what each page earns, so that the true lift of a ranking is exact. Parts: `null`, `anytime`, `power`, `signs`,
`bend`, `five`, `gate`; `clickbait`, 60,000 users of whom some stay away; `shop`, which trains on README's shop;
`draw`, the guide's picture. Seeds 0 to 19 are for development.
"""

import argparse
import re
import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import pygrade
from pygrade._typing import Array, Floats
from pygrade.console.charts import Chart, picture
from pygrade.evaluation.abtest import sequential_interval
from pygrade.evaluation.decision import MARGIN, decide
from pygrade.evaluation.plan_readings import items_compete, plan_readings
from pygrade.evaluation.readings import DIFFER, ESTIMATORS, ITEMS, PREDICTED, VALUE, PageTest, read_pages, read_returns
from pygrade.logs import Logs
from pygrade.simulation.marketplace import FEATURES, Marketplace, MarketplaceConfig

SLOTS, CANDIDATES, PRICE = 10, 30, 20.0
Z = 1.959964 + 0.841621
WORLDS = ("prices", "effects", "returning", "buy4", "buy23", "buy68")
_INTERCEPT = {"buy4": -6.6, "buy23": -4.55, "buy68": -2.1}
_ROOT = Path(__file__).parents[2]
_MAKE_SHOP = _ROOT / "examples/python/make_shop.py"
RESULTS, PICTURE = _ROOT / "bench/results/page_tests.txt", _ROOT / "docs/assets/requests.svg"
_GO_ON = 0.85  # chance to look at one more slot, where a visit buys one thing


@dataclass(frozen=True)
class Pool:
    """Requests of a world, and what each candidate is worth if it is looked at."""

    world: str
    user: Array  # [n]
    worth: Floats  # [n, C] true
    guess: Floats  # [n, C] as the predictions have it
    price: Floats  # [n, C]
    click: Floats  # [n, C] true chance; of choice worlds the utility's exponential
    order: Floats  # [n, C]
    kind: Array  # [n, C] category
    leave: Floats  # [n, C]
    hype: Floats  # [n, C]


def make_pool(world: str, n: int, seed: int) -> Pool:
    rng = np.random.default_rng([seed, WORLDS.index(world)])
    users = 1_500 if world == "returning" else n // 2
    frequency = rng.lognormal(0.0, 1.0, users)
    user = np.sort(rng.choice(users, n, p=frequency / frequency.sum()))

    def normal(*shape: int) -> Floats:
        return rng.standard_normal(shape or (n, CANDIDATES))

    lasting = normal(users) * (0.8 if world in ("returning", *_INTERCEPT) else 0.3)
    mood, quality, hype = lasting[user, None] + 0.4 * normal(n, 1), normal(), normal()
    kind = rng.integers(0, 6, (n, CANDIDATES))
    price = np.exp((1.2 if world == "prices" else 0.8) * (z := normal()) - (0.72 if world == "prices" else 0.32))
    seen = 0.6 * quality + 0.35 * hype + 0.4 * normal()  # what a model believes of quality
    if world in _INTERCEPT:
        click = np.exp(_INTERCEPT[world] + mood + quality - 0.9 * np.log(price))
        order = click
        worth, guess = price * click, price * np.exp(_INTERCEPT[world] + seen - 0.9 * np.log(price) + 0.3)
    else:
        click = np.minimum(np.exp(-2.2 + mood + 0.8 * quality), 0.9)
        buys = np.minimum(np.exp(-2.0 - 0.4 * z + 0.5 * quality), 0.9)
        order = click * buys
        worth = click + PRICE * price * order
        guess = np.exp(-2.2 + 0.8 * seen) * (1 + PRICE * price * np.exp(-2.0 - 0.4 * z + 0.5 * seen))
    leave = rng.uniform(0.02, 0.15, (n, CANDIDATES))
    return Pool(world, user, worth, guess, price, click, order, kind, leave, hype)


def take(values: Array, page: Array) -> Array:
    return np.take_along_axis(values, page, 1)


def rank(score: Floats) -> Array:
    return np.argsort(-score, 1)[:, :SLOTS]


def _factors(pool: Pool, page: Array) -> Floats:
    """[n, K]: on clicks, by the other items of the page: those alike lower them, those of the next kind raise them."""
    kind = take(pool.kind, page)
    above = np.tril(np.ones((SLOTS, SLOTS)), -1)
    alike = ((kind[:, :, None] == kind[:, None, :]) * above).sum(2)
    helps = ((kind[:, :, None] == (kind[:, None, :] + 1) % 6) * above).sum(2)
    return np.asarray(np.exp(-0.3 * alike + 0.1 * helps))


def expected(pool: Pool, page: Array) -> Floats:
    """[n, K] what each slot earns."""
    if pool.world in _INTERCEPT:
        u = take(pool.click, page)
        depth = _GO_ON ** np.arange(SLOTS) * np.r_[np.full(SLOTS - 1, 1 - _GO_ON), 1.0]
        share = np.cumsum((depth / (1 + np.cumsum(u, 1)))[:, ::-1], 1)[:, ::-1]
        return np.asarray(u * take(pool.price, page) * share)
    stay = np.cumprod(1 - take(pool.leave, page), 1)
    looked = np.concatenate([np.ones((len(page), 1)), stay[:, :-1]], 1) * np.arange(1, SLOTS + 1) ** -0.5
    looked = looked * _factors(pool, page) if pool.world == "effects" else looked
    return np.asarray(looked * take(pool.worth, page))


def sample(pool: Pool, page: Array, rng: np.random.Generator) -> Floats:
    """[n, K, 2] clicks and orders of one draw."""
    n, u = len(page), rng.random((3, *page.shape))
    if pool.world in _INTERCEPT:
        utility = take(pool.click, page)
        depth = np.minimum(rng.geometric(1 - _GO_ON, n) - 1, SLOTS - 1)
        total = np.cumsum(utility, 1)
        drawn = rng.random(n) * (1 + total[np.arange(n), depth])
        slot = (total <= drawn[:, None]).sum(1)
        order = (np.arange(SLOTS) == slot[:, None]) & (slot <= depth)[:, None]
        seen = np.arange(SLOTS) <= depth[:, None]
        return np.stack([order | (seen & (u[0] < 4 * utility / (1 + 4 * utility))), order], 2)
    left = u[0] < take(pool.leave, page)
    looked = ((np.cumsum(left, 1) - left) == 0) & (u[1] < np.arange(1, SLOTS + 1) ** -0.5)
    chance = take(pool.click, page)
    buys = take(pool.order, page) / chance
    chance = chance * _factors(pool, page) if pool.world == "effects" else chance
    click = looked & (u[2] < np.minimum(chance, 1.0))
    return np.stack([click, click & (rng.random(page.shape) < buys)], 2)


def lift_of(pool: Pool, control: Array, new: Array) -> float:
    return float(expected(pool, new).sum() / expected(pool, control).sum() - 1)


def tune(pool: Pool, lift: float, seed: int, **bends: float) -> tuple[Array, Array]:
    """Pages of the control, and of a re-ranking with this true lift: by how much of the truth it knows."""
    rng, base = np.random.default_rng([seed, 7]), np.log(pool.guess)
    control = rank(base)
    bent = base + 0.25 * rng.standard_normal(base.shape)
    for name, size in bends.items():
        bent = bent + size * (np.log(getattr(pool, name)) if name != "hype" else pool.hype)
    low, high = -0.6, 2.0
    for _ in range(18):
        middle = (low + high) / 2
        new = rank(bent + middle * (np.log(pool.worth) - base))
        low, high = (middle, high) if lift_of(pool, control, new) < lift else (low, middle)
    return control, new


def log_of(pool: Pool, pages: list[Array], arm: Array, rng: np.random.Generator) -> Logs:
    """The joined log of a test."""
    orders = np.minimum(pool.guess / pool.price / (1 if pool.world in _INTERCEPT else PRICE), 1.0)
    predictions = np.stack([np.minimum(4 * orders, 1.0), orders], 2)
    events = sample(pool, np.stack(pages, 1)[np.arange(len(arm)), arm], rng)
    values = (0.0, 1.0) if pool.world in _INTERCEPT else (1.0, PRICE)
    logs = join(pool.user, pages, arm, events, predictions, rng, tasks=("click", "order"), task_values=values)
    assert logs.slots is not None
    price = pool.price[np.repeat(np.arange(len(arm)), np.diff(logs.offsets)), logs.item_id]
    return replace(logs, value=price.astype(np.float32), value_tasks=("order",))


def join(
    user: Array,
    pages: list[Array],
    arm: Array,
    events: Array,
    predictions: Array,
    rng: np.random.Generator,
    **facts: Any,
) -> Logs:
    """The log of pages of arms, each [n, K] of C candidates, by the arm of each request: its events [n, K, T]."""
    (n, candidates, tasks), count = predictions.shape, len(pages)
    slots = np.full((n, candidates, count), -1, np.int32)
    for a, page in enumerate(pages):
        np.put_along_axis(slots[..., a], page, np.arange(SLOTS, dtype=np.int32)[None], 1)
    feedback = np.zeros((n, candidates, tasks), np.float32)
    shown = np.stack(pages, 1)[np.arange(n), arm]
    np.put_along_axis(feedback, shown[:, :, None], events.astype(np.float32), 1)
    rows = (slots >= 0).any(2)
    names = tuple("abcdefgh"[:count])
    return Logs(
        features=(),
        request_id=np.arange(n),
        user_id=user.astype(np.int64),
        offsets=np.append(0, np.cumsum(rows.sum(1))).astype(np.int64),
        context=np.empty((n, 0), np.float32),
        item_id=np.broadcast_to(np.arange(candidates), rows.shape)[rows],
        position=np.take_along_axis(slots, arm[:, None, None], 2)[..., 0][rows],
        predictions=predictions[rows].astype(np.float32),
        feedback=feedback[rows],
        arm=np.array(names)[arm],
        arms=names,
        slots=slots[rows],
        arm_shares=np.full((n, count), 1 / count, np.float32),
        timestamp=1_700_000_000_000 + (rng.permutation(n) * (14 * 86_400_000 // n)).astype(np.int64),
        **facts,
    )


def deal(pool: Pool, count: int, rng: np.random.Generator) -> Array:
    """Return the arm of each request's user, of shape [n]."""
    return rng.integers(0, count, int(pool.user.max()) + 1)[pool.user]


def replay(
    world: str, lift: float, seed: int, n: int, count: int = 2, **bends: float
) -> tuple[Logs, Pool, list[Array]]:
    pool, rng = make_pool(world, n, seed), np.random.default_rng([seed, 8])
    pages = list(tune(pool, lift, seed, **bends))
    pages += [tune(pool, 0.0, seed + 1000 * a)[1] for a in range(1, count - 1)]
    return log_of(pool, pages, deal(pool, count, rng), rng), pool, pages


def wilson(hits: int, tries: int) -> str:
    p, z = hits / max(tries, 1), 1.96
    middle, reach = p + z * z / 2 / tries, z * np.sqrt(p * (1 - p) / tries + z * z / 4 / tries**2)
    low, high = ((middle + s * reach) / (1 + z * z / tries) for s in (-1, 1))
    return f"{hits} of {tries}, {100 * p:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def null(world: str, seeds: range) -> str:
    """Fixed intervals of 20,000 requests without 0, at lift 0."""
    found = {estimator: 0 for estimator in ESTIMATORS}
    for seed in seeds:
        arm = read_pages(replay(world, 0.0, seed, 20_000)[0]).arms["b"]
        for estimator in ESTIMATORS:
            interval = arm.readings[estimator][VALUE].fixed
            found[estimator] += not interval.low <= 0 <= interval.high
    return "; ".join(f"{estimator} {wilson(hits, len(seeds))}" for estimator, hits in found.items())


def _influence(logs: Logs) -> tuple[Array, Floats, Floats]:
    """Users, the lift by item weights plus its influence [R], and the harvested e(slot)."""
    test = PageTest.of(logs, logs.arms)
    e = test.exposures(None)[0]
    table = np.append(e, 0.0)[test.slots]
    value = logs.value_of(logs.feedback)
    guess = logs.value_of(logs.predictions)
    gain = test.differences(1, value, guess, table, test.served_exposure(table))[ITEMS]
    base = test.mean_of(test.sums(value), 0)
    lift = gain.value / base.value
    return test.user, lift + (gain.influence - lift * base.influence) / base.value, e


def anytime(world: str, seeds: range, lift: float = 0.0, tests: int = 20) -> str:
    """Tests that daily looks of 26 weeks of 20,000 requests ever end, or ship: a pool's users drawn with replacement,
    around what item weights read there without noise, their bias with it.
    """
    ended, shipped, at, biases = 0, 0, list[int](), list[float]()
    for seed in seeds:
        logs, pool, pages = replay(world, lift, seed, 20_000)
        user, psi, e = _influence(logs)
        reads = closed_form(pool, pages[0], pages[1], e)[1] / float(expected(pool, pages[0]).sum())
        biases.append(reads - lift)
        psi = psi - psi.mean() + reads  # so that the reading's bias stays, and the chance of this draw goes
        sums, counts = np.bincount(user, psi), np.bincount(user)
        keep = counts > 0
        sums, counts = sums[keep], counts[keep]
        rng = np.random.default_rng([seed, 9])
        for _ in range(tests):
            drawn = rng.integers(0, len(sums), int(520_000 / counts.mean()))
            s, n = np.cumsum(sums[drawn]), np.cumsum(counts[drawn])
            squares, both, whole = (
                np.cumsum(sums[drawn] ** 2),
                np.cumsum(sums[drawn] * counts[drawn]),
                np.cumsum(counts[drawn] ** 2),
            )
            first, ships = 0, False
            for stop in np.searchsorted(n, np.arange(1, 183) * 20_000 / 7) - 1:
                mean = s[stop] / n[stop]
                error = np.sqrt(squares[stop] - 2 * mean * both[stop] + mean**2 * whole[stop]) / n[stop]
                found = sequential_interval(mean, error, int(n[stop]))
                first = first or (0 if found.low <= 0 <= found.high else int(n[stop]))
                ships |= found.low > MARGIN
            ended, shipped, at = ended + (first > 0), shipped + ships, [*at, *([first] if first else [])]
    total = len(seeds) * tests
    bias = f"bias {100 * np.mean(biases):+.2f} ({100 * min(biases):+.2f} to {100 * max(biases):+.2f}) %"
    median = f"median {np.median(at) if at else 0:,.0f} requests"
    return f"ended {wilson(ended, total)}, {median}, above {100 * MARGIN:g} % {wilson(shipped, total)}; {bias}"


def power(world: str, seeds: range, lift: float = 0.025) -> str:
    """Requests to 80 % power at a true lift, by each estimator's standard error; the plan of the control's log."""
    needed: dict[str, list[float]] = {estimator: [] for estimator in ESTIMATORS}
    planned: dict[str, list[float]] = {estimator: [] for estimator in ESTIMATORS}
    reads = []
    for seed in seeds:
        logs, pool, pages = replay(world, lift, seed, 20_000)
        arm = read_pages(logs).arms["b"]
        rng = np.random.default_rng([seed, 10])
        before = log_of(pool, pages, np.zeros(len(pool.user), int), rng)
        assert before.slots is not None
        plan = plan_readings(before, before.slots[:, 0], before.slots[:, 1], lift)
        reads.append(arm.readings[ITEMS][VALUE].fixed.value)
        for estimator in ESTIMATORS:
            error = arm.readings[estimator][VALUE].fixed.standard_error
            needed[estimator].append((Z * error / lift) ** 2 * 20_000)
            planned[estimator].append(plan[estimator]["requests"] or np.nan)
    mean = {estimator: float(np.mean(x)) for estimator, x in needed.items()}
    spread = {estimator: 1.96 * float(np.std(x)) / np.sqrt(len(seeds)) for estimator, x in needed.items()}
    reach = 196 * np.std(reads) / np.sqrt(len(reads))
    return (
        "; ".join(
            f"{r} {mean[r]:,.0f} ± {spread[r]:,.0f}, planned {np.mean(planned[r]) / mean[r]:.2f} ×" for r in ESTIMATORS
        )
        + f"; item weights read {100 * np.mean(reads):+.2f} ± {reach:.2f}"
    )


def shop(seeds: range) -> str:
    """README's shop: requests to 80 % power of its trained policy over expected value, at its true lift."""
    lines, make_shop = [], runpy.run_path(str(_MAKE_SHOP))
    for seed in seeds:
        columns: dict[str, Any] = {"map": {"exploration": "page_order"}, "values": {"order": PRICE}, "fix": True}
        ranker = pygrade.train(make_shop["shop"](seed=seed), **columns).ranker
        world = Marketplace(MarketplaceConfig(log_users=20_000 // 3, items=2_000), seed)
        requests = world.requests(20_000, 990_000 + seed, "log")
        known = dict(zip(FEATURES, requests.context.T, strict=True))
        known |= {f"surface={name}": requests.scenario == name for name in np.unique(requests.scenario)}
        context = np.stack([known[name] for name in ranker.policy.spec.features], 1).astype(np.float32)
        predictions = np.ascontiguousarray(requests.p_hat[..., :3])
        offsets = np.arange(len(requests) + 1) * predictions.shape[1]
        ids = np.char.add("p", requests.item_id.ravel().astype(str))
        new = ranker.rank(context, predictions.reshape(-1, 3), SLOTS, offsets=offsets, item_id=ids).indices
        values = np.array([1.0, 1.0, PRICE])
        pages = [rank(predictions @ values), new.astype(np.int64)]
        worth = [float((world.expected(requests, page).events[:, :3] @ values).sum()) for page in pages]
        lift = worth[1] / worth[0] - 1
        user, rng = np.unique(requests.user_id, return_inverse=True)[1], np.random.default_rng([seed, 12])
        arm = rng.integers(0, 2, user.max() + 1)[user]
        events = world.sample(requests, np.stack(pages, 1)[np.arange(len(arm)), arm], 77 + seed)[1][..., :3]
        facts = {"tasks": make_shop["TASKS"], "task_values": tuple(values)}
        reading = read_pages(join(user, pages, arm, events, predictions, rng, **facts)).arms["b"].readings
        needed = [
            (Z * reading[estimator][VALUE].fixed.standard_error / lift) ** 2 * len(arm)
            for estimator in (PREDICTED, ITEMS)
        ]
        whole, items = (f"{requests:,.0f}" for requests in needed)
        read, wanted = 100 * reading[ITEMS][VALUE].fixed.value, 8000 * (0.0345 / lift) ** 2
        lines.append(
            f"seed {seed}: true {100 * lift:+.2f} %, whole pages with predictions {whole}, item weights {items} (wanted"
            f" {wanted:,.0f}), which read {read:+.2f} %"
        )
    return "; ".join(lines)


def clickbait(seeds: range, users: int = 60_000, weeks: int = 8) -> str:
    """Tests whose new ranking earns 2.4 % more a request, and whose users come .9 % less often each week: after how
    many weeks the alarm on returns is there. Beside them the same tests in which nobody stays away.
    """
    at, calm = list[int](), 0
    for seed in seeds:
        rng = np.random.default_rng([seed, 13])
        rate, arm = 0.5 * rng.lognormal(0.0, 0.5, users), rng.integers(0, 2, users)
        visits = rng.poisson(rate[:, None], (users, weeks))
        user, week = (np.repeat(place, visits.ravel()) for place in np.divmod(np.arange(users * weeks), weeks))
        of_request, n = arm[user], len(user)
        logs = Logs(
            tasks=("order",),
            features=(),
            request_id=np.arange(n),
            user_id=user.astype(np.int64),
            offsets=np.arange(n + 1),
            context=np.empty((n, 0), np.float32),
            item_id=np.zeros(n, np.int64),
            position=np.zeros(n, np.int32),
            predictions=np.full((n, 1), 0.05, np.float32),
            feedback=(rng.random((n, 1)) < 0.05 * np.where(of_request, 1.024, 1.0)[:, None]).astype(np.float32),
            arm=np.array(["a", "b"])[of_request],
            arms=("a", "b"),
            slots=np.zeros((n, 2), np.int32),
            timestamp=(1_700_000_000_000 + 604_800_000 * (week + rng.random(n))).astype(np.int64),
        )
        calm += bool(read_returns(logs, gains=["b"]).alarm)
        kept = rng.random(n) < np.where(of_request, np.exp(-0.009 * week), 1.0)
        alarms = (w for w in range(2, weeks + 1) if read_returns(logs.select(kept & (week < w)), gains=["b"]).alarm)
        at += [w] if (w := next(alarms, 0)) else []
    loss = 102.4 * np.exp(-0.009 * (weeks - 1)) - 100
    return (
        f"{loss:+.1f} % a user in week {weeks} where a request earns +2.4 %: alarm {wilson(len(at), len(seeds))}, "
        f"after {np.median(at) if at else 0:g} weeks (median); where nobody stays away {wilson(calm, len(seeds))}"
    )


def needed_requests() -> dict[str, int]:
    """Requests by estimator in the committed results, for 80 % power at +2.5 % in the world of heavy prices."""
    found = re.search(r"^power, prices: (.*)$", RESULTS.read_text(encoding="utf-8"), re.M)
    assert found is not None
    return {
        estimator.strip(): int(count.replace(",", ""))
        for estimator, count in re.findall(r"([a-z ,]+) ([\d,]+) ± [^;]*, planned", found[1])
    }


def draw_needed() -> None:
    """A picture of the requests that the estimators need against the lift: by its inverse square."""
    lifts = np.linspace(0.5, 5.0, 46)
    needed = needed_requests()  # below the first difference as many as by slots, of whole pages as with predictions
    lines = {
        estimator: (lifts.tolist(), np.log10(needed[estimator] * (2.5 / lifts) ** 2).tolist())
        for estimator in (PREDICTED, DIFFER, ITEMS)
    }
    points = {estimator: (line[0][16 * k], line[1][16 * k]) for k, (estimator, line) in enumerate(lines.items())}
    title, label = "Requests for 80 % power", "requests, as a power of ten"
    PICTURE.write_text(picture([Chart(title, label, lines, points=points, across="lift, %")]), encoding="utf-8")


def signs(world: str, seeds: range, rankings: int = 96) -> str:
    """Rankings with |lift| > .3 % whose sign a reading has right, in closed form; the gate's answer."""
    right = {estimator: 0 for estimator in (DIFFER, ITEMS)}
    total = 0
    for number in range(rankings):
        seed = seeds.start + number % len(seeds)
        pool, rng = make_pool(world, 4_000, seed), np.random.default_rng([seed, number, 11])
        base = np.log(pool.guess)
        control = rank(base)
        bends = [
            pool.hype,
            np.log(pool.price),
            np.log(pool.click),
            np.log(pool.worth) - base,
            rng.standard_normal(base.shape),
        ]
        new = rank(base + rng.normal(0.0, 0.35) * bends[number % 5] + 0.1 * bends[4])
        truth = lift_of(pool, control, new)
        if abs(truth) <= 0.003:
            continue
        total += 1
        for estimator, reading in zip(right, closed_form(pool, control, new), strict=True):
            right[estimator] += reading * truth > 0
    return "; ".join(f"{estimator} {wilson(hits, total)}" for estimator, hits in right.items())


def closed_form(pool: Pool, control: Array, new: Array, e: Floats | None = None) -> tuple[float, float]:
    """The gains that slots that differ and item weights read without noise; e(slot), None: the control's true one."""
    earned = [expected(pool, page) for page in (control, new)]
    differ = control != new
    e = np.mean(earned[0] / np.maximum(take(pool.worth, control), 1e-9), 0) if e is None else e
    slots = np.full((2, len(control), CANDIDATES), SLOTS)
    for a, page in enumerate((control, new)):
        np.put_along_axis(slots[a], page, np.arange(SLOTS)[None], 1)
    x = np.append(e, 0.0)[slots]
    weight = np.divide(x[1] - x[0], x.mean(0), out=np.zeros_like(x[0]), where=x.mean(0) > 0)
    psi = sum((take(weight, page) * y).sum() / 2 for page, y in zip((control, new), earned, strict=True))
    return (earned[1] * differ).sum() - (earned[0] * differ).sum(), float(psi)


def bend(world: str, seeds: range) -> str:
    """A bend by price that loses 5 % by a ranking that knows more: decisions after 20,000 and 60,000 requests, by the
    gate of 2,000.
    """
    shipped = readings = 0
    lifts = []
    for seed in seeds:
        pool, rng = make_pool(world, 60_000, seed), np.random.default_rng([seed, 8])
        base = np.log(pool.guess)
        control, low, high = rank(base), 0.0, 3.0
        side = min((1.0, -1.0), key=lambda side: lift_of(pool, control, rank(base + side * np.log(pool.price))))
        for _ in range(14):
            middle = (low + high) / 2
            new = rank(base + 0.5 * (np.log(pool.worth) - base) + side * middle * np.log(pool.price))
            low, high = (middle, high) if lift_of(pool, control, new) > -0.05 else (low, middle)
        lifts.append(lift_of(pool, control, new))
        logs = log_of(pool, [control, new], deal(pool, 2, rng), rng)
        order = rng.permutation(60_000)
        gate = items_compete(logs.select(np.sort(order[:2_000])))
        for size in (20_000, 60_000):
            test = read_pages(logs.select(np.sort(order[:size])))
            shipped += decide(test, gate.compete).action == "ship"
            readings += test.arms["b"].readings[ITEMS][VALUE].anytime.low > 0
    tries = 2 * len(seeds)
    alone = f"item weights alone would {wilson(readings, tries)}"
    return f"true {100 * np.mean(lifts):.1f} %, shipped {wilson(shipped, tries)}; {alone}"


def five(world: str, seeds: range) -> str:
    """Requests of five arms against two, each for power by the reach of its own interval."""
    ratio = []
    for seed in seeds:
        two, many = (read_pages(replay(world, 0.025, seed, 20_000, count)[0]).arms["b"] for count in (2, 5))
        one, other = (arm.readings[ITEMS][VALUE].fixed for arm in (two, many))
        need = [i.high - i.value + 0.841621 * i.standard_error for i in (one, other)]
        ratio.append((need[1] / need[0]) ** 2)
    return f"{np.mean(ratio):.2f} × ± {1.96 * np.std(ratio) / np.sqrt(len(ratio)):.2f}"


def gate(world: str, seeds: range) -> str:
    """Logs of 2,000 requests of the control that the gate calls competing."""
    hits, lost, orders = 0, list[float](), list[float]()
    for seed in seeds:
        pool, rng = make_pool(world, 2_000, seed), np.random.default_rng([seed, 12])
        page = rank(np.log(pool.guess))
        found = items_compete(log_of(pool, [page, page], np.zeros(2_000, int), rng))
        hits, lost, orders = hits + found.compete, [*lost, found.lost], [*orders, found.events / 2_000]
    rate = f"{100 * np.mean(orders):.0f} orders per 100"
    return f"competes {wilson(hits, len(seeds))}, lost {100 * np.mean(lost):.1f} %, {rate}"


PARTS: dict[str, Any] = {f.__name__: f for f in (null, anytime, power, signs, bend, five, gate)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.page_tests", description=__doc__)
    parser.add_argument("part", nargs="+", choices=[*PARTS, "clickbait", "shop", "draw"])
    parser.add_argument("--worlds", nargs="+", default=WORLDS, choices=WORLDS)
    parser.add_argument("--seeds", default="0:4", help="A:B, without B")
    options = parser.parse_args()
    seeds = range(*map(int, options.seeds.split(":")))
    for part in options.part:
        if part == "draw":
            draw_needed()
            continue
        if part == "clickbait":
            print(f"clickbait: {clickbait(seeds)}")
            continue
        if part == "shop":
            print(f"shop, README: {shop(seeds)}")
            continue
        for world in options.worlds:
            print(f"{part}, {world}: {PARTS[part](world, seeds)}", flush=True)


if __name__ == "__main__":
    main()
