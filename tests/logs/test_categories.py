"""Text and item columns of a table: 0/1 columns of levels, yes and no, and the same from raw values at serving."""

from collections import Counter

import numpy as np
import pytest

from pygrade.doctor.event_proposal import attribute_kind
from pygrade.logs import Logs, encode
from pygrade.logs.categories import frequent_levels
from pygrade.logs.import_table import import_table
from pygrade.logs.table import Table, to_arrow
from pygrade.logs.text_numbers import parse_number, read_numbers
from tests.logs.shop import CANDIDATES, shop
from tests.refusals import refuses

pytest.importorskip("pyarrow")
REQUESTS = 1000
SHOP = shop(REQUESTS)
ROWS = len(SHOP["rank"])
RNG = np.random.default_rng(1)
SHOWN = np.array([slot is not None for slot in SHOP["rank"]])
HIDDEN = ~SHOWN


def of_request(values):
    return np.repeat(np.array(values, object), CANDIDATES).tolist()


def imported(**columns):
    """The import of the shop with further columns, its log, and all that was said."""
    found = import_table({**SHOP, **columns})
    return found, Logs.from_imported(found), " | ".join([*found.notes.changed, *found.notes.warned])


# 0.5 % of the requests have a level of their own, 1 % no plan at all.
PLANS = np.array(["basic"] * 600 + ["family"] * 300 + ["student"] * 85 + ["staff"] * 5 + [None] * 10, object)
PLAN = RNG.permutation(PLANS)


def test_text_of_the_request_becomes_a_column_per_frequent_level():
    found, logs, said = imported(plan=of_request(PLAN))
    assert found.mapping.roles["x_plan"] == "plan" and found.mapping.roles["scenario"] == "device"
    assert logs.features[-3:] == ("plan=basic", "plan=family", "plan=student")
    for f, level in enumerate(("basic", "family", "student")):
        np.testing.assert_array_equal(logs.context[:, f - 3], level == PLAN)
    assert "'plan' (feature): text, now a 0/1 column for each of basic, family, student" in said
    assert "; 1 rarer values in 0.5% of the requests are 0 in all of them" in said
    columns = {name: SHOP[name][::CANDIDATES] for name in ("hour", "buyer_score", "device")} | {"plan": PLAN}
    rows = [{name: values[r] for name, values in columns.items()} for r in range(REQUESTS)]
    np.testing.assert_array_equal(encode(logs.features, rows), logs.context)


def test_the_scenario_is_a_feature_too_unless_the_log_is_of_pygrades_own():
    found, logs, _ = imported()
    assert found.mapping.why["x_device"] == "the scenario as a feature" and "device=app" in logs.features
    np.testing.assert_array_equal(logs.context[:, logs.features.index("device=app")], logs.scenario == "app")
    named = {("scenario" if name == "device" else name): values for name, values in SHOP.items()}
    assert import_table(named).fields["features"] == ("buyer_score", "hour")
    first = import_table({**named, "surface": named["scenario"]}, "skip=scenario")
    assert first.mapping.roles["scenario"] == first.mapping.roles["x_surface"] == "surface"
    words = [f"{role}={column}" for role, column in first.mapping.words().items()]
    assert (
        import_table({**named, "surface": named["scenario"]}, [*words, "skip=scenario"]).mapping.roles
        == first.mapping.roles
    )


def test_at_most_twenty_levels_the_most_frequent_ones():
    counts = [60, *range(59, 20, -2), 30, 20, 19]  # the last but one is frequent enough, and the 23rd
    plan = [f"p{level}" for level, count in enumerate(counts) for _ in range(count)]
    plan += [f"q{number}" for number in range(REQUESTS - len(plan))]
    _, logs, said = imported(plan=of_request(plan))
    levels = [name for name in logs.features if name.startswith("plan=")]
    frequent = sorted(f"plan=p{level}" for level in np.argsort(np.negative(counts))[:20])
    assert levels == [*frequent, "plan=(other)"] and "of the requests are (other)" in said


def test_a_level_has_twenty_values_and_one_per_cent():
    codes = np.repeat([0, 1, 2, -1], [20, 19, 21, 40])
    assert frequent_levels(codes, ["b", "c", "a"]) == [2, 0] and frequent_levels(codes, ["b", "c", " "]) == [0]
    assert frequent_levels(np.repeat([0, 1], [29, 2971]), ["a", "b"]) == [1]
    assert frequent_levels(np.repeat([0, 1], [30, 2970]), ["a", "b"]) == [0, 1]


def test_text_without_a_frequent_level_or_of_too_many_is_left_out():
    query = [f"q{number}" for number in range(REQUESTS)]
    found, logs, _ = imported(query=of_request(query), few=of_request([text[:3] for text in query]))
    for name in ("query", "few"):
        assert found.mapping.left_out[name] == "text without a value that 1 % of the requests, and 20, have"
    assert {name.partition("=")[0] for name in logs.features} == {"device", "buyer_score", "hour"}
    days = [f"2026-03-{1 + row % 28:02} 10:00" for row in range(ROWS)]
    assert imported(published=days)[0].mapping.left_out["published"] == "times: nothing to learn from"
    items = [f"title {number % 1001}" for number in range(ROWS)]
    assert imported(title=items)[0].mapping.left_out["title"] == "text with 1,001 values"


@pytest.mark.parametrize("words", [("Y", "N"), ("yes", "no"), ("True", "false")])
def test_yes_and_no_are_one_column(words):
    answers = RNG.choice([*words, None], REQUESTS)
    found, logs, said = imported(returning=of_request(answers))
    assert logs.features[-1] == "returning" and found.mapping.roles["scenario"] == "device"
    expected = [{words[0]: 1.0, words[1]: 0.0}.get(answer, np.nan) for answer in answers]
    np.testing.assert_array_equal(logs.context[:, -1], np.array(expected, np.float32))
    assert "'returning': text, now numbers; '" in said
    np.testing.assert_array_equal(
        encode(logs.features, [{"returning": answer} for answer in answers])[:, -1], logs.context[:, -1]
    )


def test_numbers_and_text_of_items_become_item_columns():
    margin = RNG.random(ROWS)
    margin[3] = np.nan
    brand = RNG.choice(["acme", "zig", "rare"], ROWS, p=[0.6, 0.396, 0.004]).astype(object)
    brand[5] = None
    found, logs, said = imported(margin=margin, brand=brand, sponsored=(margin > 0.5).tolist())
    assert logs.items == ("margin", "brand=acme", "brand=zig", "sponsored")
    assert found.mapping.why["i_brand"] == "text of the candidate" and found.mapping.roles["i_margin"] == "margin"
    assert logs.item_features.dtype == np.float32
    np.testing.assert_array_equal(logs.item_features[:, 0], margin.astype(np.float32))
    np.testing.assert_array_equal(logs.item_features[:, 1], brand == "acme")
    np.testing.assert_array_equal(logs.item_features[:, 3], margin > 0.5)
    assert "'brand' (item column): text, now a 0/1 column for each of acme, zig; 1 rarer values in 0." in said
    columns = {"margin": margin, "brand": brand, "sponsored": margin > 0.5}
    rows = [{name: values[row] for name, values in columns.items()} for row in range(ROWS)]
    np.testing.assert_array_equal(encode(logs.items, rows), logs.item_features)
    assert ("i_margin", "no", "numbers or text of the candidate, such as its brand or margin") in [
        row[:3] for row in found.contract
    ]
    given = import_table({**SHOP, "m": margin}, "i_gain=m,value=price,i_price=price").fields
    assert given["items"] == ("gain", "price") and given["item_features"].shape == (ROWS, 2)
    np.testing.assert_array_equal(given["item_features"][:, 1], given["value"])
    assert import_table(SHOP).fields["item_features"] is None


def test_text_codes_of_a_category_are_levels_and_numbers_stay_numbers():
    codes = RNG.choice(["18", "43", "7"], ROWS).astype(object)
    columns = {
        "item_class": codes,
        "size": codes,
        "brand": codes.astype(int),
        "genre": np.where(codes == "7", "Y", "N"),
    }
    _, logs, said = imported(**{name: values.tolist() for name, values in columns.items()})
    assert logs.items == ("item_class=18", "item_class=43", "item_class=7", "size", "brand", "genre")
    np.testing.assert_array_equal(logs.item_features[:, 0], codes == "18")
    np.testing.assert_array_equal(logs.item_features[:, 4], codes.astype(int))
    assert "'size': text, now numbers" in said and "'item_class': text" not in said
    rows = [{name: values[row] for name, values in columns.items()} for row in range(ROWS)]
    np.testing.assert_array_equal(encode(logs.items, rows), logs.item_features)
    old = import_table({**SHOP, "item_class": codes.tolist()}, levels=("item_class",))  # of a policy that took numbers
    assert old.fields["items"] == ("item_class",)
    table = Table(to_arrow(columns), "items")
    kinds = [attribute_kind(table, name)[0] for name in columns]
    assert kinds == ["categorical", "dense", "dense", "categorical"]


def test_what_is_known_only_after_the_page_is_no_item_column():
    seconds = np.where(SHOWN, RNG.integers(0, 60, ROWS), 0)
    note = np.where(SHOWN, "fine", None)
    note[:50] = np.where(SHOWN[:50], "bad", None)
    found, logs, _ = imported(seconds=seconds, seconds_or_null=np.where(SHOWN, seconds, np.nan), note=note)
    assert logs.items == ()
    assert {found.mapping.left_out[name] for name in ("seconds", "seconds_or_null", "note")} == {
        "empty or 0 wherever the row was not shown: it became known after the page"
    }


def test_item_columns_have_names_of_their_own_and_are_at_most_twenty():
    found, logs, _ = imported(**{f"n{n}": RNG.random(ROWS) for n in range(22)}, i_hour=RNG.random(ROWS))
    assert logs.items == tuple(f"n{n}" for n in range(20))
    assert found.mapping.left_out["n21"] == "more than 20 item columns; i_n21=n21 takes it"
    found, logs, _ = imported(i_hour=RNG.random(ROWS), i_color=RNG.random(ROWS))
    assert logs.items == ("color",) and found.mapping.left_out["i_hour"] == "a task or feature has its name"
    with pytest.raises(ValueError, match="items has 'click', which is the name of a task"):
        Logs.from_table({**SHOP, "c": RNG.random(ROWS)}, "i_click=c")


def test_the_levels_of_a_policy_apply_to_another_table(caplog):
    levels = ("plan=family", "plan=gone")
    found = import_table({**SHOP, "plan": of_request(PLAN)}, levels=levels)
    assert found.fields["features"][-2:] == levels
    np.testing.assert_array_equal(found.fields["context"][:, -2], PLAN == "family")
    assert not found.fields["context"][:, -1].any()
    logs = Logs.from_table({**SHOP, "plan": of_request(PLAN), "brand": ["a", "b"] * (ROWS // 2)})
    other = logs.arranged(logs.tasks, ("hour", *levels), ("brand=b", "brand=c"))
    assert other.features == ("hour", *levels) and other.items == ("brand=b", "brand=c")
    np.testing.assert_array_equal(other.context[:, 1], PLAN == "family")
    assert not other.context[:, 2].any() and not other.item_features[:, 1].any() and other.item_features[:, 0].any()
    assert "no features plan=gone: taken as 0" in caplog.text and "no items brand=c" in caplog.text
    for features, items in ((("city=x",), ()), ((), ("city=x",)), (("plan",), ())):
        refuses(ValueError, "the log has no", logs.arranged, logs.tasks, features, items)


def test_a_log_with_such_columns_is_read_again(tmp_path):
    logs = Logs.from_table({**SHOP, "plan": of_request(PLAN), "brand": ["a", "b"] * (ROWS // 2)})
    columns = {"x_plan=family": np.repeat(PLAN == "family", CANDIDATES), **SHOP}
    found = import_table(columns)
    words = [f"{role}={column}" for role, column in found.mapping.words().items()]
    assert "x_plan=family=x_plan=family" in words
    assert import_table(columns, words).mapping.roles == found.mapping.roles
    assert "plan=family" in found.fields["features"] and "plan=family" in logs.features


def test_raw_values_of_requests():
    names = ("hour", "plan=a", "rate", "plan=b=c")
    unseen: Counter[str] = Counter()
    rows = [
        {"hour": "7", "plan": "b=c", "rate": "12,5 %", "other": object()},
        {"hour": True, "plan": "new", "rate": float("inf")},
        {"hour": np.float32(2), "plan": None},
        {"hour": "yes", "plan": float("nan"), "rate": " "},
    ]
    nan = np.nan
    expected = [[7, 0, 0.125, 1], [1, 0, nan, 0], [2, 0, nan, 0], [1, 0, nan, 0]]
    np.testing.assert_array_equal(encode(names, rows, unseen), np.array(expected, np.float32))
    assert unseen == {"plan": 1} and encode(names, []).shape == (0, 4) and encode((), rows).shape == (4, 0)
    for value in ("soon", [1], object()):
        refuses(ValueError, r"rows\[1\]\['hour'\] is .*expected a number", encode, names, [{}, {"hour": value}])


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1", " 2.5", "-3e2"], [1, 2.5, -300]),
        (["3.5%", "0 %", ""], [0.035, 0, np.nan]),
        (["1,5", "1,125"], [1.5, 1.125]),
        (["1,5 %"], [0.015]),
        (["1,125", "2,250"], None),  # thousands, or not
        (["1,125.5", "-2,000"], [1125.5, -2000]),
        (["€ 3,50", "12 €", "-"], [3.5, 12, np.nan]),
        (["t", "f", "n/a"], [1, 0, np.nan]),
        (["1_000"], None),
        (["Y", "n", "NA"], [1, 0, np.nan]),
        (["Y", "maybe"], None),
        (["1", "yes"], None),
        (["", "null"], None),
        (["5%", "5"], None),
    ],
)
def test_texts_that_are_numbers(texts, numbers):
    found = read_numbers(texts)
    if numbers is None:
        assert found is None or any(found[1])
    else:
        np.testing.assert_allclose(found[0], numbers)


def test_one_text_is_a_number():
    assert parse_number("1,125") == 1.125 and parse_number("no") == 0 and np.isnan(parse_number(" "))
    refuses(ValueError, "'x' is no number", parse_number, "x")
