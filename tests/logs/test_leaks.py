"""Columns that hold the feedback are told by their values, those that are known before it are not."""

import datetime

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.leaks import (
    explained_shares,
    implausible_price,
    label_noise_z,
    leak_strength,
    leak_z,
    price_leak,
    split_groups,
    sum_groups,
)
from tests.logs.shop import shop

SHOP = shop(400)
ITEMS, USERS, PAGE = 400, 300, 8


def with_price(values):
    return SHOP | {"price": values}


def amounts():
    """What was paid: 0 unless the item was bought."""
    return [price * bought for price, bought in zip(SHOP["price"], SHOP["bought"], strict=True)]


def test_a_price_that_is_0_unless_bought_is_no_price(caplog):
    imported = import_table(with_price(amounts()))
    assert "value" not in imported.mapping.roles and "value" not in imported.fields
    why = imported.mapping.left_out["price"]
    assert why == "no price: follows the feedback of buy: it is 0 in 100 % of the shown rows without"
    assert any("'price' is no price, by its values" in note for note in imported.notes.warned)
    assert not any("price" in role for role in imported.mapping.roles)  # nor an item column
    assert any("price" in row[3] and "no price" in row[2] for row in imported.contract)
    with pytest.raises(ValueError, match=r"value_tasks is \('buy',\), and 'price' is no price: follows.*value=COLUMN"):
        Logs.from_table(with_price(amounts()), value_tasks=["buy"])


def test_a_price_that_was_given_is_taken_and_named():
    imported = import_table(with_price(amounts()), "value=price")
    assert Logs.from_imported(imported, value_tasks=["buy"]).value_tasks == ("buy",)
    assert any("'price' (price) follows the feedback of buy" in note for note in imported.notes.warned)
    sound = import_table(SHOP)
    assert sound.mapping.roles["value"] == "price" and not any("price" in note for note in sound.notes.warned)


def test_predictions_that_were_made_after_their_page_are_refused():
    page = [time.replace(second=5) for time in SHOP["at"]]
    assert import_table({**SHOP, "scored_at": page}).mapping.roles["scored_at"] == "scored_at"
    late = [time + datetime.timedelta(hours=row == 40) for row, time in enumerate(page)]
    with pytest.raises(
        ValueError, match=r"'predicted' \(when predictions were made\) is after the page's time in row 40"
    ):
        import_table({**SHOP, "predicted": late}, "scored_at=predicted")


def test_times_are_no_features():
    loaded = [1_700_000_000 + 60 * number for number in range(len(SHOP["price"]))]
    per_request = np.repeat(np.arange(400) * 1000 + 1_700_000_000_000, len(loaded) // 400).tolist()
    imported = import_table({**SHOP, "published": loaded, "opened": per_request})
    for name in ("published", "opened"):
        assert imported.mapping.left_out[name] == "times: nothing to learn from"
    assert import_table({**SHOP, "opened": per_request}, "x_opened=opened").mapping.roles["x_opened"] == "opened"


def world(seed=0, items=60, rows=6000):
    """Prices of items that change once, and orders."""
    rng = np.random.default_rng(seed)
    item, time = rng.integers(0, items, rows), np.sort(rng.integers(0, 10**6, rows))
    change = rng.integers(0, 10**6, items)
    price = rng.lognormal(3, 0.5, items)[item] * np.where(time > change[item], 0.8, 1.0)
    order = rng.random(rows) < 0.1
    return item, time, price, order


def leak_of(item, time, price, order):
    return price_leak(price, order[:, None].astype(float), ("order",), np.ones(len(item), bool), item, time)


def test_prices_that_change_are_no_leak():
    item, time, price, order = world()
    assert leak_of(item, time, price, order) == ""
    rng = np.random.default_rng(1)
    sale = rng.random(60)[item] * 9e5  # an hour of half the price, in which much is bought
    on = (time > sale) & (time < sale + 60_000)
    assert leak_of(item, time, np.where(on, price / 2, price), order | (on & (rng.random(len(item)) < 0.7))) == ""


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_prices_of_several_pieces_are_a_leak(share):
    item, time, price, order = world()
    several = order & (np.random.default_rng(2).random(len(item)) < share)
    why = leak_of(item, time, price * np.where(several, 2, 1), order)
    assert why.startswith("follows the feedback of order: with it, an item's differs from just before and after in")


def test_prices_that_are_hardly_ever_there():
    item, time, price, order = world()
    none = np.where(np.arange(len(item)) % 200 == 0, price, 0.0)
    assert leak_of(item, time, none, order) == "is 0 in 99.5 % of the rows"
    assert leak_of(item, time, np.where(none > 0, price, np.nan), order) == "is 0 in 99.5 % of the rows"
    assert leak_of(item, time, np.where(np.arange(len(item)) % 20 == 0, 0.0, price), order) == ""


def test_a_price_that_is_as_good_as_the_feedback():
    offsets, position = np.arange(0, 3201, 8), np.tile(np.arange(8), 400).astype(np.int32)
    rng = np.random.default_rng(3)
    p = rng.beta(2, 8, 3200)
    y = (rng.random(3200) < p).astype(float)
    assert implausible_price((p, y), np.full(3200, 7.0), position, offsets) == ""
    for spread in (0.5, 1, 2):
        assert implausible_price((p, y), rng.lognormal(3, spread, 3200), position, offsets) == ""
    assert implausible_price((p, y), rng.random(3200) ** (-1 / 1.1), position, offsets) == ""
    for decoys in (0, 0.05):
        paid = np.where((y > 0) | (rng.random(3200) < decoys), rng.lognormal(3, 0.5, 3200), 0.1)
        gain = implausible_price((p, y), paid, position, offsets)
        assert gain.startswith("earns") and gain.endswith("of what knowing the feedback adds")
    assert implausible_price((p, 0 * y), np.ones(3200), position, offsets) == ""


def test_what_tells_the_feedback():
    rng = np.random.default_rng(4)
    event = rng.random(3000) < 0.1
    noise = rng.normal(size=3000)
    assert leak_strength(noise, event) == "" and leak_strength(np.ones(3000), event) == ""
    assert leak_strength(noise - 10 * event, event) == "AUC 0.000"
    assert leak_strength(np.where(event & (noise > 0), 9.0, noise), event).endswith(
        "% of the events above all other rows"
    )
    assert leak_strength(np.where(rng.random(3000) < 0.5, np.nan, noise + 10 * event), event) == "AUC 1.000"
    assert leak_strength(noise[:100] + 10 * event[:100], event[:100]) == ""  # too few


def showings(seed: int, times: int = 24, spread: float = 0.7, stock: int = 0):
    """Items shown to users: item, user, event, and the items' true appeal; with stock, no item has more events."""
    rng = np.random.default_rng(seed)
    appeal = spread * rng.normal(size=ITEMS)
    item, user = rng.integers(0, ITEMS, ITEMS * times), rng.integers(0, USERS, ITEMS * times)
    event = rng.random(len(item)) < 0.1 * np.exp(appeal[item] - spread**2 / 2)
    left = np.full(ITEMS, stock or len(item))
    for row, wanted in enumerate(event):
        event[row] = wanted and left[item[row]] > 0
        left[item[row]] -= event[row]
    return item, user, event.astype(float), appeal, rng


def z_of(column, item, user, event) -> float:
    halves = split_groups((event - event.mean())[:, None], item, user % 2 == 1, ITEMS)
    return label_noise_z(column, halves, 0)[0]


@pytest.mark.parametrize("times", [8, 24])
def test_rates_of_this_very_log_are_found(times):
    item, user, event, _, rng = showings(0, times)
    events, shown = np.bincount(item, event, ITEMS), np.bincount(item, minlength=ITEMS)
    for column in ((events + 0.25) / (shown + 1), events, np.log(events + 1), -events):
        assert z_of(column, item, user, event) > 6
    assert z_of(np.where(rng.random(ITEMS) < 0.2, np.nan, events), item, user, event) > 6
    most = user < 0.8 * USERS
    assert z_of(np.bincount(item, event * most) / (np.bincount(item, most) + 1), item, user, event) > 4


@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("stock", [0, 1])
def test_columns_that_are_known_before_are_honest(spread, stock):
    """True appeal, rates of an earlier log, prices that follow appeal, noise; also where one sale ends the supply."""
    strengths = []
    for seed in range(8):
        item, user, event, appeal, rng = showings(seed, 12, spread, stock)
        earlier = rng.binomial(50, np.minimum(0.1 * np.exp(appeal), 1)) / 50
        price = np.exp(-appeal + rng.normal(size=ITEMS))
        strengths += [z_of(column, item, user, event) for column in (appeal, earlier, price, rng.normal(size=ITEMS))]
    assert max(strengths) < 3.5


def test_few_groups_and_constants_say_nothing():
    item, user, event, *_ = showings(0)
    assert z_of(np.ones(ITEMS), item, user, event) == 0 == z_of(np.full(ITEMS, np.nan), item, user, event)
    some = np.where(np.arange(ITEMS) < 20, np.bincount(item, event), np.nan)
    assert z_of(some, item, user, event) == 0


def test_explained_shares_is_of_what_is_left():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5000))
    usual, told = explained_shares(b, a + b + rng.normal(size=5000), a)
    assert usual == pytest.approx(1 / 3, abs=0.03) and told == pytest.approx(1 / 2, abs=0.03)


def test_sums_of_groups():
    assert sum_groups(np.arange(6.0).reshape(3, 2), np.array([1, 0, 1]), 3).tolist() == [[2, 3], [4, 6], [0, 0]]


def pages(seed: int, score, requests: int = 1000, altered: float = 0.0, informed: float = 1.0):
    """Rows of pages that ``score`` of the predictions [R, 20, 2] ordered; altered: by the feedback, afterwards."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(requests, 20, 2))
    p = 1 / (1 + np.exp(-(0.8 * z - [1.5, 2.5])))
    true = 1 / (1 + np.exp(-(0.8 * (informed * z + (1 - informed) * rng.normal(size=z.shape)) - [1.5, 2.5])))
    order = np.argsort(-score(p, rng), 1)[:, :PAGE, None]
    p, true = (np.take_along_axis(x, order, 1) for x in (p, true))
    y = rng.random(p.shape) < true * (1 + np.arange(PAGE))[:, None] ** -0.7
    p = p * np.exp(altered * (2 * y - 0.3) * rng.random(p.shape))
    p, y = p.reshape(-1, 2), y.reshape(-1, 2).astype(float)
    slot, request = np.tile(np.arange(PAGE, dtype=np.int32), requests), np.repeat(np.arange(requests), PAGE)
    shuffle = rng.permutation(len(p))
    rows = (np.hstack([p, np.log(p)])[shuffle], y[shuffle], slot[shuffle], request[shuffle])
    return leak_z(*rows)


SCORES = {
    "expected value": lambda p, rng: p @ [1.0, 5.0],
    "weights of logarithms": lambda p, rng: np.log(p) @ [0.5, 0.5],
    "clicks alone": lambda p, rng: p[:, :, 0],
    "personal weights": lambda p, rng: (np.log(p) * rng.dirichlet([5, 5], len(p))[:, None]).sum(2),
    "noise, too": lambda p, rng: p @ [1.0, 5.0] * np.exp(0.1 * rng.normal(size=p.shape[:2])),
    "something else": lambda p, rng: rng.normal(size=p.shape[:2]),
    "the worst first": lambda p, rng: -p @ [1.0, 5.0],
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("informed", [1.0, 0.0])
def test_honest_predictions(name, informed):
    assert max(z for seed in range(3) for z, _ in pages(seed, SCORES[name], informed=informed)) < 3.5


def test_an_order_that_predictions_explain_but_for_the_fit_tells_nothing_of_them():
    rng = np.random.default_rng(0)
    terms = rng.random((1000, 30, 2))  # of two retrievers, added up
    order = np.argsort(-terms.sum(2), 1)[:, :PAGE, None]
    terms = np.take_along_axis(terms, order, 1).reshape(-1, 2)
    clicks = (rng.random(len(terms)) < 0.3).astype(float)[:, None]
    slot, request = np.tile(np.arange(PAGE, dtype=np.int32), 1000), np.repeat(np.arange(1000), PAGE)
    found = [leak_z(terms + error * clicks, clicks, slot, request)[0] for error in (5e-4, 5e-2)]
    assert found[0] == (0, 1) and found[1][0] > 4


@pytest.mark.parametrize("name", ["expected value", "weights of logarithms", "clicks alone"])
@pytest.mark.parametrize("altered", [0.2, 0.05])
def test_altered_predictions(name, altered):
    z, ratio = max(pages(0, SCORES[name], altered=altered))
    assert z > 4 and ratio > 3


def test_too_few_events_and_pages_say_nothing():
    assert pages(0, SCORES["expected value"], requests=2, altered=0.2) == [(0, 1), (0, 1)]
    assert pages(0, SCORES["expected value"], requests=40, altered=0.05) == [(0, 1), (0, 1)]
