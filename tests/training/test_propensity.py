"""Slot propensities: one rule, for training and judging."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.training import RewardConfig
from pygrade.logs import Logs
from pygrade.policy import PolicySpec
from pygrade.training.propensity import SlotPropensity, propensity_curve, slot_propensity
from pygrade.training.reward import CompositeReward
from tests.learning import logs_of, slots_of, tiny_logs

FIVE = RewardConfig(page_size=5)


def test_the_exponent_is_recovered_from_shuffled_pages_only() -> None:
    logs = tiny_logs(6000, seed=3, shuffled=0.5, exponent=0.7)
    exponent = slot_propensity(logs, FIVE).exponent
    np.testing.assert_allclose(propensity_curve(exponent, 5), propensity_curve(0.7, 5), rtol=0.12)
    untouched = logs.exploration != "shuffle"
    feedback = logs.feedback.copy()
    feedback[untouched[logs.row_request]] = 0
    alone = slot_propensity(replace(logs, feedback=feedback), FIVE)
    assert alone.source == "shuffled pages" and alone.exponent == pytest.approx(exponent, abs=0.1)


def test_the_source_is_stated() -> None:
    logs = tiny_logs(1500, shuffled=0.5)
    given = slot_propensity(logs, RewardConfig(propensity=1.0, page_size=4))
    assert (
        given == SlotPropensity(1.0, "given")
        and given.bounds() == ()
        and given.known(4).tolist() == [1.0, 0.5, 1 / 3, 0.25]
    )
    fitted = slot_propensity(logs, FIVE)
    assert fitted.source in ("shuffled pages", "all pages") and len(fitted.known(12)) == 12
    spec = PolicySpec(logs.tasks, logs.features)
    assert CompositeReward(FIVE).build(logs, spec).propensity == fitted


def production_logs(
    seed: int = 0,
    requests: int = 3000,
    exponent: float = 0.7,
    shuffled: float = 0.0,
    items: int | None = 300,
    hidden: float = 0.0,
    said: str = "all",
    slots: int = 10,
) -> Logs:
    """Pages in the order of the sum of two log predictions and ``hidden`` times the quality of the item, which no
    prediction has; users differ in how often they act. items: of the catalog; None: every item occurs once. said: what
    the predictions tell of the events: "all", "nothing", or "slot" (on every page the same of a slot).
    """
    rng = np.random.default_rng(seed)
    candidates = slots + 3
    user = rng.integers(0, 400, requests)
    item = np.arange(requests * candidates).reshape(requests, candidates)
    quality = rng.normal(size=item.size if items is None else items)
    if items is not None:
        item = (rng.integers(0, items, (requests, 1)) + 7 * np.arange(candidates)) % items
    appeal = rng.normal(size=(requests, candidates, 2))
    if said == "slot":
        appeal = np.broadcast_to(np.linspace(2, -2, candidates)[:, None], appeal.shape)
    order = np.argsort(-appeal.sum(2) - hidden * quality[item], 1, kind="stable")[:, :slots]
    exploration = np.where(rng.random(requests) < shuffled, "shuffle", "none")
    order = np.where((exploration == "shuffle")[:, None], rng.permuted(order, axis=1), order)
    position = slots_of(order, candidates)
    examined = (rng.random(item.shape) < (np.maximum(position, 0) + 1.0) ** -exponent) & (position >= 0)
    merit = 0.6 * (hidden * quality[item][..., None] + (said != "nothing") * appeal) - 2.2
    chance = np.exp(merit + rng.normal(size=400)[user][:, None, None] * 0.7)
    feedback = examined[..., None] & (rng.random(chance.shape) < chance)
    columns = {"user_id": user, "item_id": item.ravel(), "exploration": exploration}
    return logs_of(np.exp(0.6 * appeal - 2.5), position, feedback, **columns)


@pytest.mark.parametrize(("items", "source"), [(None, "regression EM"), (300, "harvested")])
def test_the_exponent_is_recovered_from_productions_pages_alone(items: int | None, source: str) -> None:
    logs = production_logs(items=items)
    fitted = slot_propensity(logs, RewardConfig())
    assert fitted.source == source and fitted.low < 0.7 < fitted.high and abs(fitted.exponent - 0.7) < 0.07
    assert 0.02 < fitted.standard_error < 0.07
    assert [end.exponent for end in fitted.bounds()] == [fitted.low, fitted.high]
    distorted = replace(logs, predictions=(1 / (1 + (0.1 / logs.predictions) ** 3)).astype(np.float32))
    again = slot_propensity(distorted, RewardConfig())
    assert again.exponent == pytest.approx(fitted.exponent, abs=0.02)  # predictions are calibrated first


def test_intervals_cover_the_truth() -> None:
    fits = [slot_propensity(production_logs(seed, 1200, slots=6), RewardConfig()) for seed in range(16)]
    assert sum(fit.low <= 0.7 <= fit.high for fit in fits) >= 14
    spread = np.std([fit.exponent for fit in fits])
    assert 0.6 < np.mean([fit.standard_error for fit in fits]) / spread < 1.7


def test_the_interval_of_shuffled_pages_is_that_of_a_bootstrap_by_user() -> None:
    logs = production_logs(shuffled=1.0)
    fitted = slot_propensity(logs, RewardConfig())
    counts = np.zeros((400, 10))
    np.add.at(counts, (logs.user_id[logs.row_request], logs.position), (logs.feedback > 0).any(1))
    draws = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), 300) @ counts
    x = np.log(np.arange(1, 11))
    slopes = [np.polyfit(x, np.log(draw), 1, w=np.sqrt(draw))[0] for draw in draws]
    assert fitted.standard_error == pytest.approx(np.std(slopes), rel=0.15)


def test_shuffled_pages_are_in_force_and_a_disagreement_is_told(caplog) -> None:
    for hidden, told in ((0.0, False), (1.0, True)):  # production knows more than the predictions
        logs = production_logs(shuffled=0.3, items=None, hidden=hidden)
        fitted = slot_propensity(logs, RewardConfig())
        assert fitted.source == ("shuffled pages" if told else "all pages")
        assert ("disagree" in caplog.text) == told
    shuffled, production = (float(number) for number in re.findall(r"exponent ([\d.]+)", caplog.text))
    assert shuffled == round(fitted.exponent, 2) and production > shuffled + 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"said": "nothing"}, "predictions do not tell"),
        ({"said": "slot"}, "predictions do not tell"),
        ({"requests": 100}, "expected at least 100 in 3"),
        ({"requests": 300}, "cannot be separated from the items"),
        ({"hidden": 1.0}, "cannot be separated .*harvested and exponent .*EM|cannot be separated .*EM and exponent"),
    ],
)
def test_what_production_cannot_tell_is_none_and_says_what_is_needed(options, message: str) -> None:
    unknown = slot_propensity(production_logs(**options), RewardConfig())
    assert unknown.source == "none" and unknown.known(3) is None and (unknown.low, unknown.high) == (0.0, 3.0)
    assert re.search(message, unknown.reason) and " shuffled pages (" in unknown.needed


def test_two_estimates_near_zero_are_an_answer() -> None:
    flat = slot_propensity(production_logs(exponent=0.0), RewardConfig())
    assert flat.exponent == 0.0 and flat.source in ("regression EM", "harvested") and 0.0 < flat.high < 0.2
    assert flat.known(3).tolist() == [1.0, 1.0, 1.0]


def test_one_estimate_whose_interval_begins_at_zero_is_an_answer() -> None:
    shop = production_logs(requests=900, exponent=0.0, items=None, slots=6)
    found = slot_propensity(shop, RewardConfig())
    assert found.source == "regression EM" and found.low == 0.0 < found.high < 0.3
    assert [end.exponent for end in found.bounds()] == [0.0, found.high]


def test_few_shuffled_pages_do_not_outvote_all_others() -> None:
    logs = production_logs(shuffled=0.03)
    few = slot_propensity(logs.select(logs.exploration == "shuffle"), RewardConfig())
    rest = slot_propensity(logs.select(logs.exploration != "shuffle"), RewardConfig())
    both = slot_propensity(logs, RewardConfig())
    assert both.source == "all pages" and both.standard_error < rest.standard_error < few.standard_error
    weight = few.standard_error**-2 / (few.standard_error**-2 + rest.standard_error**-2)
    assert both.exponent == pytest.approx(weight * few.exponent + (1 - weight) * rest.exponent, abs=1e-6)


def test_as_many_shuffled_pages_as_needed_do_decide() -> None:
    needed = slot_propensity(production_logs(said="nothing"), RewardConfig()).needed
    pages = int(needed.split()[0].replace(",", ""))
    fitted = slot_propensity(production_logs(1, pages, said="nothing", shuffled=1.0), RewardConfig())
    assert f"({100 * pages / 3000:.2g} % of the requests) would decide" in needed
    assert 1.96 * fitted.standard_error == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(("shuffled", "message"), [(0.0, "no request with exploration"), (1.0, "expected at least 30")])
def test_too_little_to_fit_is_no_propensity(shuffled: float, message: str, caplog) -> None:
    unknown = slot_propensity(tiny_logs(5, shuffled=shuffled), RewardConfig())
    assert (unknown.exponent, unknown.source, unknown.known(3)) == (0.0, "none", None)
    assert unknown.curve(3).tolist() == [1.0, 1.0, 1.0] and message in unknown.note and message in caplog.text
