"""The scale of a column of predictions: what its name and the events beside it say, and what must be asked."""

import numpy as np
import pytest

from pygrade.logs import Logs
from pygrade.logs.find_scale import fit_map
from pygrade.logs.import_table import import_table

REQUESTS, SIZE = 1500, 8


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def logit(p):
    return np.log(p / (1 - p))


def shop(level=2.0, bought_level=1.0, seed=0):
    """A table whose orders follow clicks, and P(click), P(order | click) [M]."""
    rng, rows = np.random.default_rng(seed), REQUESTS * SIZE
    click, bought = (sigmoid(rng.normal(0, 1, rows) - shift) for shift in (level, bought_level))
    clicked = rng.random(rows) < click
    ordered = clicked & (rng.random(rows) < bought)
    table = {
        "request_id": np.repeat(np.arange(REQUESTS), SIZE),
        "user_id": np.repeat(np.arange(REQUESTS) % 100, SIZE),
        "item_id": np.arange(rows),
        "position": np.argsort(rng.random((REQUESTS, SIZE)), 1).ravel(),
        "x_hour": np.repeat(rng.random(REQUESTS), SIZE),
        "y_click": clicked * 1.0,
        "y_order": ordered * 1.0,
        "p_click": click,
    }
    return table, click, bought


def imported(table, columns="", **scale):
    result = import_table(table, columns, scale=scale)
    return result.fields, "; ".join(result.notes.changed)


def test_a_conversion_rate_of_clicks_is_found_where_both_tests_agree():
    table, click, bought = shop()
    fields, said = imported(table | {"p_order": bought})
    assert fields["scales"]["order"].given == "click"
    np.testing.assert_allclose(fields["predictions"][:, 1], click * bought, rtol=1e-5)
    assert "times the events of all rows" in said and "scale order=probability takes it as it is" in said
    fields, said = imported(table | {"p_order": bought}, order="probability")
    np.testing.assert_allclose(fields["predictions"][:, 1], bought, rtol=1e-6)
    fields, said = imported(table | {"p_order": 100 * bought})
    assert (fields["scales"]["order"].kind, fields["scales"]["order"].given) == ("percent", "click")
    np.testing.assert_allclose(fields["predictions"][:, 1], click * bought, rtol=1e-5)
    fields, said = imported(table | {"p_order": click * bought})
    assert fields["scales"]["order"].given is None and "order" not in said


def test_a_rate_that_only_one_test_takes_for_conditional_is_asked_for():
    """P(order | click) beside clicks that are predicted three times too high: 8 times too many orders as it is, as many
    as there are in the rows with a click, and three times as many times P(click)."""
    table, click, bought = shop()
    wanted = r"P\(order \| click\)\? Say scale order=given:click, or order=probability"
    with pytest.raises(ValueError, match=wanted):
        import_table(table | {"p_click": np.minimum(3 * click, 1.0), "p_order": bought})
    low, click, bought = shop(level=0.5, bought_level=4.0)  # never above P(click): a joint probability could be so
    with pytest.raises(ValueError, match=wanted):
        import_table(low | {"p_order": bought})


@pytest.mark.parametrize("column", ["purchase_logit", "orderLogit"])
def test_a_name_tells_what_rates_cannot(column):
    """A logit and a logarithm of a small probability are almost equal."""
    table, click, bought = shop(level=3.0, bought_level=3.0)
    table[column] = logit(click * bought)
    fields, said = imported(table, f"p_order={column}")
    assert fields["scales"]["order"].kind == "logit" and "logits, now probabilities" in said
    np.testing.assert_allclose(fields["predictions"][:, fields["tasks"].index("order")], click * bought, rtol=1e-4)
    table["order_model"] = table.pop(column)
    with pytest.raises(ValueError, match=r"not clear .*as logit: .*log: .*e.g. order=logit, or order=score"):
        import_table(table, "p_order=order_model")


def test_percentages_that_are_high_are_no_logits():
    table, click, _ = shop()
    fields, said = imported(table | {"p_click": np.minimum(250 * click, 100.0), "p_order": click * 0.2})
    assert fields["scales"]["click"].kind == "percent" and "percentages, now" in said


def test_a_margin_of_no_unit_gets_a_rising_map():
    table, click, bought = shop()
    margin = 3 * logit(click * bought) + 20
    fields, said = imported(table | {"p_order": margin}, order="score")
    found, p = fields["predictions"][:, 1].astype(np.float64), click * bought
    assert "scores, now probabilities by a rising map" in said
    order = np.argsort(margin)
    assert (np.diff(found[order][margin[order].astype(np.float32).searchsorted(np.unique(margin))[1:-1]]) >= 0).all()
    assert abs(np.log(found.mean() / table["y_order"].mean())) < 0.1
    assert np.abs(np.log(found / p)).mean() < 0.35
    with pytest.raises(ValueError, match="events of 'order' do not rise with it"):
        import_table(table | {"p_order": -margin}, scale={"order": "score"})


def test_a_map_is_of_what_is_looked_at():
    """Ten slots, of which the last is looked at a tenth as often; half of the pages in the order of the score."""
    rng, requests = np.random.default_rng(0), 8_000
    score = rng.normal(size=(requests, 10))
    sort = np.argsort(np.where(rng.random((requests, 1)) < 0.5, -score, rng.random(score.shape)), 1)
    slot = np.argsort(sort, 1).ravel()
    look, score = (1 / (1 + slot)), score.ravel()
    events = (rng.random(len(score)) < look * sigmoid(score - 2)).astype(np.float64)
    seen = look.mean() * sigmoid(np.array([-1.0, 1.0]) - 2)  # on a slot that is looked at as all are on average
    slopes = [np.diff(logit(seen))[0] / 2]
    for slots in (slot, np.zeros_like(slot)):
        x, y = fit_map(score, events, slots, False)
        at = np.interp([-1.0, 1.0], x, y)
        slopes.append((at[1] - at[0]) / 2)
    assert abs(slopes[1] - slopes[0]) < 0.05 and slopes[2] - slopes[0] > 0.3, slopes


def test_amounts_have_scores_and_logarithms():
    table, click, bought = shop()
    rng = np.random.default_rng(1)
    table |= {"y_dwell": table["y_click"] * rng.exponential(30, len(click)), "p_order": click * bought}
    fields, _ = imported(table | {"p_dwell": np.log(30 * click)}, dwell="log")
    assert fields["scales"]["dwell"].amount
    np.testing.assert_allclose(fields["predictions"][:, 2], 30 * click, rtol=1e-5)
    fields, _ = imported(table | {"p_dwell": 10 * click - 4}, dwell="score")
    assert abs(np.log(fields["predictions"][:, 2].mean() / table["y_dwell"].mean())) < 0.2
    with pytest.raises(ValueError, match="dwell=log if these are logarithms, dwell=score if they have no unit"):
        import_table(table | {"p_dwell": 10 * click - 4})


def test_another_table_is_read_as_the_first():
    table, click, bought = shop()
    table |= {"p_order": 3 * logit(click * bought) + 20}
    logs = Logs.from_table(table, scale={"order": "score"})
    rows = slice(0, 50 * SIZE)
    later = Logs.from_table({name: column[rows] for name, column in table.items()}, scale=logs.scales)
    np.testing.assert_array_equal(later.predictions, logs.predictions[rows])
    assert later.scales == logs.scales


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"order": "given:cart"}, "given 'cart'; want another one of click, order"),
        ({"order": "given:order"}, "given 'order'; want another"),
        ({"order": "percent:"}, "'percent:'; want one of probability, .*score, or given:TASK"),
        ({"order": "given:click", "click": "given:order"}, "in a circle"),
    ],
)
def test_scales_that_are_none_are_named(scale, message):
    table, _, bought = shop()
    with pytest.raises(ValueError, match=message):
        import_table(table | {"p_order": bought}, scale=scale)
