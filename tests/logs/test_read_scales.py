"""The scale of a column of predictions: what is stated, and what must be asked."""

import numpy as np
import pytest

from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.read_scales import fit_map

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


def test_a_scale_that_is_stated_is_read_and_another_one_asked_for():
    table, click, bought = shop()
    joint = click * bought
    for scale, values in {
        "percent": 100 * joint,
        "logit": logit(joint),
        "log": np.log(joint),
        "given:click": bought,
        "percent:given:click": 100 * bought,
    }.items():
        fields, _ = imported(table | {"p_order": values}, order=scale)
        np.testing.assert_allclose(fields["predictions"][:, 1], joint, rtol=1e-4)
        if values.min() < 0 or values.max() > 1.001:
            with pytest.raises(
                ValueError, match=r"expected probabilities, .*order=percent, order=logit, .*order=score"
            ):
                import_table(table | {"p_order": values})


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
    with pytest.raises(
        ValueError, match=r"expected predictions ≥ 0 of an amount, .*dwell=log of logarithms, or dwell=score"
    ):
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
        ({"order": "given:cart"}, "given 'cart'; expected another one of click, order"),
        ({"order": "given:order"}, "given 'order'; expected another"),
        ({"order": "percent:"}, "'percent:'; expected one of probability, .*score, or given:TASK"),
        ({"order": "given:click", "click": "given:order"}, "in a circle"),
    ],
)
def test_scales_that_are_none_are_named(scale, message):
    table, _, bought = shop()
    with pytest.raises(ValueError, match=message):
        import_table(table | {"p_order": bought}, scale=scale)


def test_a_name_says_the_scale_where_the_values_allow_it():
    table, click, bought = shop()
    made = {"p_click": None, "click_pct": 100 * click, "order_logit": logit(click * bought)}
    table = {name: values for name, values in (table | made).items() if values is not None}
    imported = import_table(table, {"p_click": "click_pct"})
    scales = imported.fields["scales"]
    assert (scales["click"].kind, scales["order"].kind) == ("percent", "logit")
    for task, kind, name in (("click", "percent", "click_pct"), ("order", "logit", "order_logit")):
        assert f"{task}={kind} in --scale (by the name and the values of {name!r})" in imported.notes.guessed
    np.testing.assert_allclose(imported.fields["predictions"], np.stack([click, click * bought], 1), rtol=1e-5)
    # a percentile is no percentage, and probabilities stay some under any name
    rank = np.sqrt(np.argsort(np.argsort(bought)) / len(bought))
    with pytest.raises(ValueError, match="order=percent"):
        import_table(table | {"order_pct": 100 * rank}, {"p_click": "click_pct", "p_order": "order_pct"})
    plain = import_table(table | {"order_logit": click * bought})
    assert plain.fields["scales"]["order"].kind == "probability"


def test_several_rankers_score_a_task_and_one_score_is_of_two_tasks():
    table, click, bought = shop()
    score = 3 * logit(click * bought) + 20
    scores = {"order_gbm_score": score, "order_net_score": bought}
    imported = import_table(table | scores, {"click": "y_click", "p_click": "p_click"}, scale={"order": "score"})
    assert imported.fields["tasks"] == ("click", "order")
    assert imported.fields["scales"]["order"].column == "order_gbm_score"
    assert "order_net_score" in imported.fields["items"]
    assert any("'order_net_score' is another prediction of 'order': an input alone" in w for w in imported.notes.warned)
    both = {"click": "y_click", "p_click": "relevance", "order": "y_order", "p_order": "relevance"}
    table = {name: values for name, values in table.items() if not name.startswith("p_")} | {"relevance": score}
    fields = import_table(table, both, scale={"click": "score", "order": "score"}).fields
    assert fields["scales"]["click"].y != fields["scales"]["order"].y
    rates, shown = fields["feedback"].sum(0), fields["position"] >= 0
    np.testing.assert_allclose(fields["predictions"][shown].sum(0), rates, rtol=0.35)


def test_a_name_and_the_values_say_a_scale():
    table, click, bought = shop()
    joint = click * bought
    for name, values, kind in (
        ("kaufwahrscheinlichkeit", 100 * joint, "percent"),
        ("order_logit", logit(joint), "logit"),
    ):
        found = import_table(table | {name: values}, f"p_order={name}")
        np.testing.assert_allclose(found.fields["predictions"][:, 0], joint, rtol=1e-4)
        assert f"order={kind} in --scale (by the name and the values of {name!r})" in found.notes.guessed
    for name, values in (("order_prob", 400 * joint), ("bm25", 100 * joint), ("order_logit", logit(joint) + 5)):
        with pytest.raises(ValueError, match=r"expected probabilities, .*order=percent"):
            import_table(table | {name: values}, f"p_order={name}")


def test_a_prediction_given_its_parent_is_refused_wherever_a_table_is_read():
    table, click, bought = shop()
    table["pcvr"] = bought
    message = r"'pcvr' is the probability of 'order' given 'click', .*--scale order=given:click multiplies"
    with pytest.raises(ValueError, match=message):
        Logs.from_table(table, "p_order=pcvr")
    for scale, wanted in (("given:click", click * bought), ("probability", bought)):
        logs = Logs.from_table(table, "p_order=pcvr", scale={"order": scale})
        np.testing.assert_allclose(logs.predictions[:, 0], wanted, rtol=1e-4)
