"""Prices that hold the feedback: left out or refused if they were proposed, named if they were given."""

import datetime

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.leaks import absurd_price, leak_strength, price_leak
from tests.logs.shop import shop

SHOP = shop(400)


def with_price(values):
    return SHOP | {"price": values}


def amounts():
    """What was paid: 0 unless the item was bought."""
    return [price * bought for price, bought in zip(SHOP["price"], SHOP["bought"], strict=True)]


def test_a_price_that_is_0_unless_bought_is_no_price(caplog):
    found = import_table(with_price(amounts()))
    assert "value" not in found.mapping.roles and "value" not in found.fields
    why = found.mapping.left_out["price"]
    assert why == "no price: follows the feedback of buy: it is 0 in 100 % of the shown rows without"
    assert any("'price' is no price, by its values" in note for note in found.notes.warned)
    assert not any("price" in role for role in found.mapping.roles)  # nor an item column
    assert any("price" in row[3] and "no price" in row[2] for row in found.contract)
    with pytest.raises(ValueError, match=r"value_tasks is \('buy',\), and 'price' is no price: follows.*value=COLUMN"):
        Logs.from_table(with_price(amounts()), value_tasks=["buy"])


def test_a_price_that_was_given_is_taken_and_named():
    found = import_table(with_price(amounts()), "value=price")
    assert Logs.from_imported(found, value_tasks=["buy"]).value_tasks == ("buy",)
    assert any("'price' (price) follows the feedback of buy" in note for note in found.notes.warned)
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
    found = import_table({**SHOP, "published": loaded, "opened": per_request})
    for name in ("published", "opened"):
        assert found.mapping.left_out[name] == "times: nothing to learn from"
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
    assert absurd_price((p, y), np.full(3200, 7.0), position, offsets) == ""
    for spread in (0.5, 1, 2):
        assert absurd_price((p, y), rng.lognormal(3, spread, 3200), position, offsets) == ""
    assert absurd_price((p, y), rng.random(3200) ** (-1 / 1.1), position, offsets) == ""
    for decoys in (0, 0.05):
        paid = np.where((y > 0) | (rng.random(3200) < decoys), rng.lognormal(3, 0.5, 3200), 0.1)
        gain = absurd_price((p, y), paid, position, offsets)
        assert gain.startswith("earns") and gain.endswith("of what knowing the feedback adds")
    assert absurd_price((p, 0 * y), np.ones(3200), position, offsets) == ""


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
