"""Tables as they really look: each becomes the log of the clean shop, or one message names every problem."""

import datetime
from collections import Counter

import numpy as np
import pytest

from pygrade.logs import Logs, encode
from pygrade.logs.import_table import import_table
from pygrade.logs.problems import TableProblems
from tests.logs.shop import CANDIDATES, shop
from tests.logs.test_logs import assert_same

pytest.importorskip("pyarrow")
SHOP = shop(200)
AT = SHOP["at"]
HOURS = {"Z": 0, "+01:00": 1, "-05": -5, "+0530": 5.5, " UTC": 0, "": 0}


def changed(**columns):
    """The shop with other columns."""
    return {**SHOP, **columns}


def with_first(name, *values):
    """A column whose first values are others."""
    return [*values, *SHOP[name][len(values) :]]


def in_zones(*zones):
    """The same times, as clocks of several places show them."""
    places = [zones[row // CANDIDATES % len(zones)] for row in range(len(AT))]
    return [f"{t + datetime.timedelta(hours=HOURS[zone])}{zone}" for t, zone in zip(AT, places, strict=True)]


def per_request(values):
    return np.repeat(np.array(values, object), CANDIDATES).tolist()


def holes(name, rows, blank=None):
    """A column of text with blanks."""
    return [blank if row in rows else str(value) for row, value in enumerate(SHOP[name])]


SECONDS = [int(t.replace(tzinfo=datetime.UTC).timestamp()) for t in AT]
# each is the clean shop, written otherwise: the columns that are, and what is said of it
SAME = {
    "times of several zones": (
        {"at": in_zones("Z", "+01:00", "-05", "+0530", " UTC")},
        "'at' (time): dates, now milli",
    ),
    "some times without a zone": ({"at": in_zones("+01:00", "")}, "1,000 of 2,000 rows name no zone: taken as UTC"),
    "days before months": ({"at": [t.strftime("%d.%m.%Y %H:%M") for t in AT]}, "'at' (time): dates (day.month.year)"),
    "seconds as text, some missing": (
        {"at": ["-" if row % 3 == 1 else str(t) for row, t in enumerate(SECONDS)]},
        "'at' (time): seconds since 1970",
    ),
    "microseconds with holes": (
        {"at": [None if row % 3 == 1 else t * 10**6 for row, t in enumerate(SECONDS)]},
        "'at' (time): microseconds since 1970",
    ),
    "times with holes": ({"at": holes("at", range(1, 2000, 3), "n/a")}, "'at' (time): dates"),
    "t and f": ({"clicked": ["t" if c else "f" for c in SHOP["clicked"]]}, "'clicked': text, now numbers; '"),
    "percentages": ({"pred_buy": [f"{100 * p:.9f} %" for p in SHOP["pred_buy"]]}, "'pred_buy': text, now numbers; '"),
    "commas and words for nothing": (
        {"buyer_score": [str(p).replace(".", ",") for p in SHOP["buyer_score"]], "rank": holes("rank", (), "-")},
        "'buyer_score': text, now numbers; '",
    ),
    "prices with their sign": ({"price": [f"€ {p}" for p in SHOP["price"]]}, "'price': text, now numbers; '€ "),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_shop_however_it_is_written(name):
    columns, said = SAME[name]
    found = import_table(changed(**columns), scale={"click": "probability", "buy": "probability"})
    assert any(said in note for note in found.notes.changed), found.notes
    logs, clean = Logs.from_imported(found), Logs.from_table(SHOP)
    assert logs.timestamp.tolist() == clean.timestamp.tolist()
    for field in ("predictions", "feedback", "value", "context", "position"):
        np.testing.assert_allclose(getattr(logs, field), getattr(clean, field), rtol=1e-6)
    assert (logs.features, logs.scenario.tolist()) == (clean.features, clean.scenario.tolist())


def test_months_before_days_where_only_that_is_possible():
    later = [t + datetime.timedelta(days=20) for t in AT]
    found = import_table(changed(at=[t.strftime("%m/%d/%Y %I:%M:%S %p") for t in later]))
    assert found.fields["timestamp"].tolist() == Logs.from_table(changed(at=later)).timestamp.tolist()
    assert any("dates (month/day/year)" in note for note in found.notes.changed)


def shuffled_shop(share=0.2, seed=3):
    """The shop with some pages in random order, and which they are."""
    rng = np.random.default_rng(seed)
    rank, random = np.array(SHOP["rank"], object).reshape(-1, CANDIDATES), rng.random(200) < share
    for page in np.flatnonzero(random):
        shown = np.flatnonzero([slot is not None for slot in rank[page]])
        rank[page, shown] = rng.permutation(rank[page, shown])
    return rank.ravel().tolist(), random


@pytest.mark.parametrize("name", ["is_random", "randomized"])
@pytest.mark.parametrize(("yes", "no"), [(1, 0), (True, None), ("yes", "no")])
def test_a_flag_of_random_pages_is_exploration(name, yes, no):
    rank, random = shuffled_shop()
    flag = per_request([yes if r else no for r in random])
    found = import_table(changed(rank=rank, **{name: flag}))
    assert (found.fields["exploration"] == np.where(random, "shuffle", "none")).all()
    assert f"exploration={name} (by its name)" in found.notes.guessed
    said = f"{name!r} (exploration): {random.sum()} requests were shuffled, the others not explored"
    assert any(note.startswith(said) for note in found.notes.changed)
    assert name not in found.fields["features"]


def test_a_flag_of_pages_in_the_usual_order_is_no_exploration():
    flag = per_request([int(r) for r in shuffled_shop()[1]])
    found = import_table(changed(is_random=flag))
    assert "exploration" not in found.fields and "is_random" not in found.fields["features"]
    why = found.mapping.left_out["is_random"]
    assert why.startswith("no exploration: its 34 pages are ordered by the prediction of click (-0."), why
    assert any("if it is, name it: exploration=is_random" in note for note in found.notes.warned)
    given = import_table(changed(is_random=flag), "exploration=is_random")
    assert (given.fields["exploration"] == "shuffle").sum() == 34
    assert any("are ordered by the prediction of click" in note for note in given.notes.warned)
    assert "exploration" not in import_table(changed(random_seed=per_request(range(200)))).fields


SEEN = np.array([slot is not None for slot in SHOP["rank"]])


def of_shown(values):
    return [value if seen else None for value, seen in zip(values, SEEN, strict=True)]


def test_amounts_and_harm_have_values_that_are_said():
    rng = np.random.default_rng(4)
    seconds = np.where(rng.random(2000) < 0.4, 20.0, 0.0)
    table = changed(
        watch_seconds=of_shown(seconds.tolist()),
        pred_watch_seconds=np.full(2000, 8.0).tolist(),
        returned=of_shown((rng.random(2000) < 0.02).tolist()),
        p_returned=np.full(2000, 0.02).tolist(),
    )
    found = import_table(table)
    logs = Logs.from_imported(found)
    assert dict(zip(logs.tasks, logs.task_values, strict=True)) == {
        "click": 1.0,
        "buy": 1.0,
        "watch_seconds": 0.05,
        "returned": -1.0,
    }
    assert found.notes.guessed[-2:] == [
        "watch_seconds=0.05 in --values (an amount of 20 on average)",
        "returned=-1 in --values (harm, by its name)",
    ]
    assert f">{seconds[SEEN].mean():.4g} a shown row, predicted 8, worth 0.05<" in logs._repr_html_()
    stated = import_table(table)
    assert Logs.from_imported(stated, {"watch_seconds": 1, "returned": -3}).task_values[2:] == (1.0, -3.0)
    assert not any("--values" in note for note in stated.notes.guessed)


def test_rare_values_are_pooled_and_those_of_no_table_are_counted():
    rare = import_table(changed(color=["red" if n % 40 else f"shade {n % 83}" for n in range(2000)]))
    assert rare.fields["items"] == ("color=red", "color=(other)")
    assert (rare.fields["item_features"].sum(1) == 1).all() and rare.fields["item_features"][0].tolist() == [0, 1]
    assert any("rarer values in 2.5% of the rows are (other)" in note for note in rare.notes.changed)
    unseen = Counter()
    rows = [{"color": "red"}, {"color": "mauve"}, {"color": None}]
    assert encode(rare.fields["items"], rows, unseen).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert unseen == {"color": 1}
    again = import_table(changed(color=["mauve", None] * 1000), levels=rare.fields["items"])
    assert again.fields["items"] == ("color=red", "color=(other)")
    assert again.fields["item_features"].sum(0).tolist() == [0, 1000]


REFUSED = {
    "a word among times": (
        {"at": ["soon", *map(str, AT[1:])]},
        "t.csv: 'at' (time) is 'soon' in row 0 of t.csv; want dates as in ISO 8601",
    ),
    "a month 13": (
        {"at": ["2026-13-01", *map(str, AT[1:])]},
        "t.csv: 'at' (time) is '2026-13-01' in row 0 of t.csv; want dates as in ISO 8601",
    ),
    "days or months first": (
        {"at": [f"0{1 + row // CANDIDATES % 9}/02/2026" for row in range(2000)]},
        "t.csv: 'at' (time) is '01/02/2026' in row 0 of t.csv (2,000 such rows); want dates as in ISO 8601: day or "
        "month may be first",
    ),
    "a request without a time": (
        {"at": [None] * CANDIDATES + AT[CANDIDATES:]},
        "t.csv: 'at' (time) is empty in 1 requests, first row 0 of t.csv; want a time in each, or skip=at",
    ),
    "milliseconds among seconds": (
        {"at": [SECONDS[0] * 1000, *SECONDS[1:]]},
        "t.csv: 'at' (time) is 1.77232e+12 in row 0 of t.csv; want seconds since 1970, as in most rows",
    ),
    "a word among predictions": (
        {"pred_click": ["#REF!", *map(str, SHOP["pred_click"][1:])]},
        "t.csv: 'pred_click' is '#REF!' in row 0 of t.csv; want numbers, or yes and no",
    ),
    "a word among yes and no": (
        {"clicked": ["maybe", *("yes" if c else "no" for c in SHOP["clicked"][1:])]},
        "t.csv: 'clicked' is 'maybe' in row 0 of t.csv; want numbers, or yes and no",
    ),
    "a word among numbers of requests": (
        {"buyer_score": per_request(["error", *map(str, SHOP["buyer_score"][CANDIDATES::CANDIDATES])])},
        "t.csv: 'buyer_score' is 'error' in row 0 of t.csv (10 such rows); want numbers, or yes and no",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_column_row_and_cure_and_a_fix_solves_it(name):
    columns, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        import_table(changed(**columns), "time=at", where="t.csv")
    assert str(caught.value) == message
    if name == "days or months first":
        assert not hasattr(caught.value, "__notes__")
        return
    found = import_table(changed(**columns), "time=at", where="t.csv", fix=True)
    assert found.notes.changed[0] == f"fixed: {message.removeprefix('t.csv: ')}"
    logs, clean = Logs.from_imported(found), Logs.from_table(SHOP)
    if name == "a word among numbers of requests":
        assert np.isnan(logs.context[0, clean.features.index("buyer_score")])
        assert found.notes.changed[1] == "fixed: what is no number in 'buyer_score' is missing"
    else:
        assert logs.timestamp.tolist() == clean.timestamp[1:].tolist()


def several_faults():
    return changed(
        rank=with_first("rank", 0.5),
        pred_click=with_first("pred_click", None),
        clicked=with_first("clicked", -1.0),
        hour=with_first("hour", 25),
        session_id=[None if row == 29 else name for row, name in enumerate(SHOP["session_id"])],
        product_id=[None if row == 47 else item for row, item in enumerate(SHOP["product_id"])],
    )


def test_one_run_shows_every_problem_with_its_row_and_what_to_do():
    with pytest.raises(TableProblems) as caught:
        import_table(several_faults(), where="shop.csv")
    hour = SHOP["hour"][1]
    assert str(caught.value).splitlines() == [
        "shop.csv has 6 problems",
        "- 'session_id' (request) is empty in 1 rows, first row 29 of shop.csv; want ids",
        "- 'rank' (slot) is 0.5 in row 0 of shop.csv; want whole numbers",
        f"- 'hour' has several values in 1 requests, e.g. 25.0 and {hour}.0 in row 1 of shop.csv; want one value a "
        "request (if its id is not unique, join columns: request=ITS_COLUMN+hour)",
        "- 'product_id' (item) is empty in 1 rows, first row 47 of shop.csv; want ids",
        "- 'clicked' (feedback 'click') is -1 in row 0 of shop.csv; want feedback ≥ 0 (for harm, a negative --values)",
        "- 'pred_click' (prediction of 'click') is empty or NaN in row 0 of shop.csv; want a prediction for every "
        "candidate",
    ]
    assert caught.value.__notes__ == ["--fix leaves out 5 of 201 requests (40 rows)"]


def test_a_fix_leaves_the_requests_with_problems_out_and_says_so():
    found = import_table(several_faults(), fix=True)
    clean = Logs.from_table(SHOP)
    logs = Logs.from_imported(found)
    kept = [r for r in range(200) if r not in (0, 2, 3, 4)]  # row 29 may be of the request before or after
    assert_same(logs, clean.select(kept))
    assert [note for note in found.notes.changed if note.startswith("fixed: left out")] == [
        "fixed: left out 5 of 201 requests (40 rows)"
    ]


def test_a_fix_never_leaves_out_much():
    table = changed(pred_click=[None if row % 70 == 0 else p for row, p in enumerate(SHOP["pred_click"])])
    with pytest.raises(TableProblems, match=r"a fix would leave out 29 of 200 requests \(290 rows\): too many"):
        import_table(table, fix=True)
    with pytest.raises(ValueError, match="no column is known for user"):  # nor is a fix tried without what a log needs
        import_table({name: values for name, values in table.items() if name != "customer"}, fix=True)
