"""The estimate from a whole log: exact where every page can be listed, and its intervals on a small market."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from pygrade.config.simulation import SimulateConfig
from pygrade.evaluation.logged_rewards import CLIPS, LoggedRewards, choose
from pygrade.evaluation.logging_policy import LoggingPolicy, drawn_components, logging_policy
from pygrade.evaluation.position import slot_discount
from pygrade.evaluation.reward_model import fit_events
from pygrade.simulation.marketplace import TASK_VALUES, Marketplace, MarketplaceConfig
from pygrade.simulation.simulate import rank_pages, simulate_logs
from pygrade.training.propensity import propensity_curve
from tests.learning import logs_of, slots_of, tiny_logs

ZLOG = {"transform": "zlog"}
CURVE = np.array([1.0, 0.6, 0.4])
WORTH = np.array([3.0, 1.0, 2.0, 0.5, 4.0])  # of a look at each of five candidates
# Production's page, four equally likely draws, and what the logging policy serves instead: 20 % shuffled, 30 % drawn.
PRODUCTION, DRAWS, SHUFFLED, DRAWN = (0, 1, 2), ((0, 1, 3), (4, 2, 0), (3, 1, 2), (0, 1, 3)), 0.2, 0.3
WORLD = MarketplaceConfig(log_users=500, test_users=300, items=400, pool=50, candidates=15, page_size=5)


def every_page() -> tuple[np.ndarray, np.ndarray]:
    """Pages [P, 3] that the logging policy may serve, with their probabilities."""
    pages = [(PRODUCTION, 1 - SHUFFLED - DRAWN), *((page, DRAWN / len(DRAWS)) for page in DRAWS)]
    pages += [(page, SHUFFLED / 6) for page in permutations(PRODUCTION)]
    return np.array([page for page, _ in pages]), np.array([chance for _, chance in pages])


def enumerated() -> tuple[LoggedRewards, np.ndarray]:
    """One request, logged once for every page that it could have got, with expected feedback; their probabilities."""
    pages, chance = every_page()
    count = len(pages)
    position = slots_of(pages, 5)
    feedback = slot_discount(position, CURVE) * WORTH
    logs = logs_of(np.full((count, 5, 1), 0.5), position, feedback, item_id=np.tile(np.arange(5), count))
    policy = LoggingPolicy(
        np.tile(np.array(PRODUCTION, np.int32), (count, 1)),
        np.tile(np.array(DRAWS, np.int32), (count, 1, 1)),
        SHUFFLED,
        DRAWN,
    )
    return LoggedRewards(logs, CURVE, policy), chance


def test_the_mean_discount_and_prefix_probabilities_are_exact():
    found, chance = enumerated()
    logged = slot_discount(found.logs.position, CURVE).reshape(-1, 5)
    np.testing.assert_allclose(found.expected(CURVE).reshape(-1, 5)[0], chance @ logged, rtol=1e-12)
    pages, _ = every_page()
    for target in pages:
        given = np.tile(target.astype(np.int32), (len(pages), 1))
        prefix = np.cumprod(pages == target, 1)
        np.testing.assert_allclose(found.policy.prefix_probability(given)[0], chance @ prefix, rtol=1e-12)


@pytest.mark.parametrize("target", [PRODUCTION, (3, 4, 0), (1, 3, 2)])
def test_the_estimate_is_unbiased_whatever_the_model(target):
    found, chance = enumerated()
    found.__dict__["model"] = np.tile([9.0, 0.0, 1.0, 2.0, 5.0], len(chance))  # wrong; in the place of the cached one
    rank = np.full(5, -1)
    rank[list(target)] = np.arange(3)
    discount = slot_discount(rank, CURVE)
    values = found.values(np.tile(rank, len(chance)))
    assert (discount / found.expected(CURVE)[:5]).max() < CLIPS[0]
    assert chance @ values[0] == pytest.approx(discount @ WORTH, rel=1e-6)


def test_the_page_of_a_target_that_is_served_is_estimated_without_a_curve():
    found, chance = enumerated()
    found.__dict__["model"] = np.zeros(5 * len(chance))
    rank = np.tile([0, 1, -1, 2, -1], len(chance))
    cascade, page = (found.cascades(rank)[name] for name in ("cascade", "page"))
    pages, reward = every_page()[0], CURVE * WORTH[[0, 1, 3]]
    prefix = np.cumprod(pages == [0, 1, 3], 1)
    ratio = prefix / (chance @ prefix)  # below the clip; the log has each page once instead of in its share
    assert cascade.value == pytest.approx((ratio @ reward).mean())
    assert page.value == pytest.approx((ratio[:, 2] * reward.sum()).mean())


@pytest.fixture(scope="module")
def world():
    return Marketplace(WORLD, 4)


@pytest.fixture(scope="module")
def mixed(world):
    """A log with draws from two Dirichlets."""
    uniform = (1.0,) * 6
    around = tuple(15 * w for w in SimulateConfig().weights)
    return simulate_logs(SimulateConfig(1500, seed=4, concentrations=(uniform, around), world=WORLD), world=world)


def test_the_log_tells_its_components(mixed):
    components, component = drawn_components(mixed)
    drawn = mixed.exploration == "dirichlet"
    assert len(components) == 2 and (component[~drawn] == -1).all() and min(np.bincount(component[drawn])) > 40
    np.testing.assert_array_equal(components[component[drawn]], mixed.concentration[drawn])
    found = logging_policy(mixed, ZLOG)
    assert found.draws.shape == (1500, 16, 5)
    assert (found.draw_share, found.shuffle_share) == (drawn.mean(), (mixed.exploration == "shuffle").mean())
    expected = LoggedRewards(mixed, CURVE, found).expected(propensity_curve(0.7, 5))
    assert (expected[mixed.shown] > 0).all()
    total = np.add.reduceat(expected, mixed.offsets[:-1])
    np.testing.assert_allclose(total, propensity_curve(0.7, 5).sum())  # every page has all slots


def test_a_log_that_does_not_explain_its_pages_is_taken_as_given(mixed):
    assert logging_policy(mixed, {"transform": "identity"}) is None
    assert logging_policy(replace(mixed, weights=None), ZLOG) is None
    personal = np.where((mixed.exploration == "none")[:, None], mixed.weights[:, ::-1], mixed.weights)
    assert logging_policy(replace(mixed, weights=personal), ZLOG) is None
    drawn = np.where(np.isnan(mixed.concentration), np.nan, np.arange(1500)[:, None] + 1).astype(np.float32)
    assert drawn_components(replace(mixed, concentration=drawn)) is None  # a personal policy's
    logged = slot_discount(mixed.position, CURVE)
    expected = LoggedRewards.of(replace(mixed, weights=None), CURVE, ZLOG).expected(CURVE)
    shuffled = np.repeat(mixed.exploration == "shuffle", 15) & (logged > 0)
    np.testing.assert_allclose(expected[shuffled], CURVE.mean())
    np.testing.assert_array_equal(expected[~shuffled], logged[~shuffled])


def test_an_uncertain_curve_widens_the_interval(mixed, monkeypatch):
    monkeypatch.setattr(LoggedRewards, "browsed", lambda self, rank: np.ones(mixed.num_rows))
    curve = propensity_curve(0.7, 5)
    known, unsure = (LoggedRewards.of(mixed, curve, ZLOG, error) for error in (0.0, 0.5))
    rank = np.where(mixed.position >= 0, 4 - mixed.position, -1)  # the other way round
    one, other = (found.lifts({"reversed": rank}, found.production)["reversed"] for found in (known, unsure))
    steeper = LoggedRewards.of(mixed, propensity_curve(1.2, 5), ZLOG)
    steeper.__dict__["model"] = known.model * unsure.views[1].scale
    changed = steeper.values(rank).mean(1) / steeper.values(steeper.production).mean(1) - 1
    assert (known.values(rank).mean(1) == unsure.values(rank).mean(1)).all()
    shift = abs(changed - (unsure.values(rank, 1).mean(1) / unsure.values(unsure.production, 1).mean(1) - 1))
    assert shift.max() < 1e-12 and other.standard_error > one.standard_error


def test_a_page_that_satisfies_early_is_not_blamed_for_what_is_below():
    """Users stop at a click; a look at any item is worth as much. By slots alone the orders would be worth the same."""
    rng, count, page = np.random.default_rng(0), 8_000, 5
    clicks = rng.permuted(np.tile([0.5, 0.3, 0.1, 0.1, 0.05], (count, 1)), axis=1)  # of a look, by slot
    clicked, liked = rng.random((count, page)) < clicks, rng.random((count, page)) < 0.45
    looked = np.cumsum(clicked, 1) - clicked == 0
    position = np.broadcast_to(np.arange(page, dtype=np.int32), (count, page))
    predictions = np.stack([clicks, np.full(clicks.shape, 0.45)], 2)
    logs = logs_of(predictions, position, np.stack([clicked & looked, liked & looked], 2), task_values=(0.0, 1.0))
    found = LoggedRewards.of(logs, (1 - clicks.mean()) ** np.arange(page), ZLOG)
    for order, truth in ((np.argsort(clicks, 1), 4.114), (np.argsort(-clicks, 1), 2.449)):
        alive = np.cumprod(1 - np.take_along_axis(clicks, order, 1), 1)[:, :-1]
        assert 1 + alive.sum(1).mean() == pytest.approx(truth, abs=2e-3)  # looks a page
        estimate = found.estimate(np.argsort(order, 1).ravel())
        assert estimate.value == pytest.approx(0.45 * truth, rel=0.06)
    own = found.estimate(logs.position)
    assert own.value == pytest.approx(float(logs.value_of(logs.feedback).sum()) / count, rel=1e-6)


def test_the_model_of_a_request_learns_from_the_feedback_of_others_alone():
    logs = tiny_logs(300)
    discount = slot_discount(logs.position, np.arange(1, 6) ** -0.5)
    mine = np.repeat(logs.user_id == 7, 12) & logs.shown
    feedback = np.where(mine[:, None], 1.0, logs.feedback).astype(np.float32)
    logs, changed = (replace(logs, feedback=part) for part in (logs.feedback, feedback))
    before, after = (part.value_of(fit_events(part, part.predictions, discount)) for part in (logs, changed))
    # only the factors that make the predictions right on average know all users
    ratio = after[mine] / before[mine]
    assert ratio.std() < 0.02 and (after[~mine] != before[~mine]).any()
    logs = tiny_logs(2000)  # it learns whose events are likely
    q = logs.value_of(fit_events(logs, logs.predictions, slot_discount(logs.position, np.arange(1, 6) ** -0.5)))
    mode = np.repeat(logs.scenario == "buy", 12)
    truth = np.where(mode, 2.0 * 0.6 * logs.predictions[:, 1], 0.9 * logs.predictions[:, 0])
    plain = logs.predictions @ np.array(logs.task_values)
    error = [np.sqrt(np.square(x / x.mean() - truth / truth.mean()).mean()) for x in (q, plain)]
    assert error[0] < 0.6 * error[1]


def test_the_clip_with_the_least_error_is_chosen_and_its_distance_counts_as_error():
    values, errors = np.array([1.0, 1.2, 1.9]), np.array([0.5, 0.2, 0.1])
    place, error = choose(values, np.diag(errors**2))
    assert place == 1 and error == pytest.approx(np.hypot(0.2, 0.2))  # 0.2 apart may be noise, 0.9 is not
    place, error = choose(values, np.outer(errors, errors), np.array([0.0, 0.16, 0.16]))
    assert place == 1 and error == pytest.approx(np.sqrt(0.04 + 0.16 + 0.04))
    assert choose(np.array([1.0, 1.0, 1.0]), np.diag(errors**2)) == (2, 0.1)


def test_intervals_of_lifts_cover_the_truth():
    hits, pairs = [], []
    for seed in range(4):
        world = Marketplace(WORLD, seed)
        config = SimulateConfig(2000, seed, dirichlet_share=0.05, concentrations=((1.0,) * 6,), world=WORLD)
        logs = simulate_logs(config, world=world)
        found = LoggedRewards.of(logs, propensity_curve(0.7, 5), ZLOG)
        requests = world.requests(2000, seed, "log")
        weights = {"value": (TASK_VALUES, "identity"), "equal": (np.full(6, 1 / 6),), "clicks": ([1.0, 0, 0, 0, 0, 0],)}
        pages = {name: rank_pages(requests.p_hat, own[0], 5, *own[1:]) for name, own in weights.items()}
        production = rank_pages(requests.p_hat, config.weights, 5)
        base = world.expected(requests, production).value.mean()
        lifts = found.lifts({name: ranked(page) for name, page in pages.items()}, ranked(production))
        for name, lift in lifts.items():
            truth = world.expected(requests, pages[name]).value.mean() / base - 1
            hits.append(lift.low <= truth <= lift.high)
            pairs.append((lift.value, truth))
    assert np.mean(hits) >= 0.8
    assert np.corrcoef(np.transpose(pairs))[0, 1] > 0.85


def ranked(page: np.ndarray) -> np.ndarray:
    rank = np.full((len(page), 15), -1)
    np.put_along_axis(rank, page, np.arange(5)[None], 1)
    return rank.ravel()
