"""Tables of other programs as they really look: each becomes the log of the clean shop, every change is said, and what
could mean two things is refused with its column and row.
"""

import datetime
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pygrade.logs import LogContractError, Logs, encode
from pygrade.logs.import_table import import_table
from pygrade.logs.problems import TableProblems
from tests.logs.shop import CANDIDATES, PAGE, shop
from tests.logs.test_logs import assert_same, assert_same_rows, make_logs
from tests.refusals import refuses

SHOP = shop(200)
ROWS, AT = len(SHOP["rank"]), SHOP["at"]
SHOWN = np.array([slot is not None for slot in SHOP["rank"]])
HOURS = {"Z": 0, "+01:00": 1, "-05": -5, "+0530": 5.5, " UTC": 0, "": 0}
SECONDS = [int(t.replace(tzinfo=datetime.UTC).timestamp()) for t in AT]


def changed(**columns):
    """The shop with other columns."""
    return {**SHOP, **columns}


def with_first(name, *values):
    """A column whose first values are others."""
    return [*values, *SHOP[name][len(values) :]]


def in_zones(*zones):
    """The same times, as clocks of several places show them."""
    places = [zones[row // CANDIDATES % len(zones)] for row in range(ROWS)]
    return [f"{t + datetime.timedelta(hours=HOURS[zone])}{zone}" for t, zone in zip(AT, places, strict=True)]


def per_request(values):
    return np.repeat(np.array(values, object), CANDIDATES).tolist()


def holes(name, rows, blank=None):
    """A column of text with blanks."""
    return [blank if row in rows else str(value) for row, value in enumerate(SHOP[name])]


def imported(table, columns=None, **options):
    """The log, and all that was said about it."""
    found = import_table(table, columns, **options)
    return Logs.from_imported(found), " | ".join([*found.notes.changed, *found.notes.warned])


CLEAN = Logs.from_table(SHOP)
EVENTS = ("clicked", "bought")
NO_EVENT = int((SHOWN & ~np.array(SHOP["clicked"])).sum())
# each is the clean shop, written otherwise: the columns that are, and what is said of it
CONVERTED = {
    "times of several zones": ({"at": in_zones("Z", "+01:00", "-05", "+0530", " UTC")}, "'at' (time): dates, now mi"),
    "some times without a zone": ({"at": in_zones("+01:00", "")}, "1,000 of 2,000 rows name no zone: taken as UTC"),
    "days before months": ({"at": [t.strftime("%d.%m.%Y %H:%M") for t in AT]}, "(time): dates (day.month.year)"),
    "seconds as text, some missing": (
        {"at": ["-" if row % 3 == 1 else str(t) for row, t in enumerate(SECONDS)]},
        "'at' (time): seconds since 1970",
    ),
    "microseconds with holes": (
        {"at": [None if row % 3 == 1 else t * 10**6 for row, t in enumerate(SECONDS)]},
        "'at' (time): microseconds since 1970",
    ),
    "nanoseconds": ({"at": [t * 10**9 for t in SECONDS]}, "(time): nanoseconds"),
    "times with holes": ({"at": holes("at", range(1, 2000, 3), "n/a")}, "'at' (time): dates"),
    "several times in a request": (
        {"at": [t + datetime.timedelta(seconds=row % 2) for row, t in enumerate(AT)]},
        "'at' (time) has several times in 200 requests: the earliest",
    ),
    "t and f": ({"clicked": ["t" if c else "f" for c in SHOP["clicked"]]}, "'clicked': text, now numbers; '"),
    "percentages": ({"pred_buy": [f"{100 * p:.9f} %" for p in SHOP["pred_buy"]]}, "'pred_buy': text, now numbers; '"),
    "commas and words for nothing": (
        {"buyer_score": [str(p).replace(".", ",") for p in SHOP["buyer_score"]], "rank": holes("rank", (), "-")},
        "'buyer_score': text, now numbers; '",
    ),
    "prices with their sign": ({"price": [f"€ {p}" for p in SHOP["price"]]}, "'price': text, now numbers; '€ "),
    "slots where 0 is not shown": (
        {"rank": [slot or 0 for slot in SHOP["rank"]]},
        "0 stands in several rows of a request: 1,000 rows not shown",
    ),
    "slots where -1 is not shown": (
        {"rank": [-1 if slot is None else slot for slot in SHOP["rank"]]},
        "1,000 rows below 0 were not shown",
    ),
    "a flag of what was shown": (
        {"rank": [n % CANDIDATES + 1 if s is None else s for n, s in enumerate(SHOP["rank"])], "visible": SHOWN},
        "'visible' (shown): 1,000 rows with a slot were not shown",
    ),
    "events joined from the left": (
        {"clicked": [True if c else None for c in SHOP["clicked"]]},
        f"empty in {NO_EVENT:,} shown rows and never 0: taken as no event",
    ),
    "users who are not known": (
        {"customer": with_first("customer", *[None] * CANDIDATES)},
        "'customer' (user) is empty in 1 requests: each is a user of its own",
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_the_same_shop_however_it_is_written(name):
    columns, note = CONVERTED[name]
    logs, said = imported(changed(**columns), scale={"click": "probability", "buy": "probability"})
    assert note in said
    assert logs.timestamp.tolist() == CLEAN.timestamp.tolist()
    for field in ("predictions", "feedback", "value", "context", "position"):
        np.testing.assert_allclose(getattr(logs, field), getattr(CLEAN, field), rtol=1e-6)
    assert (logs.features, logs.scenario.tolist()) == (CLEAN.features, CLEAN.scenario.tolist())


def test_rows_that_are_apart_and_infinite_features():
    logs, said = imported({name: values[::2] + values[1::2] for name, values in SHOP.items()})
    assert "'session_id' (request): the rows of a request were apart" in said
    order = np.argsort([SHOP["session_id"].index(request) for request in logs.request_id])
    for field in ("predictions", "feedback", "position"):
        values = getattr(logs.select(order), field)
        np.testing.assert_allclose(np.sort(values, 0), np.sort(getattr(CLEAN, field), 0), rtol=1e-6)
    logs, said = imported(changed(buyer_score=with_first("buyer_score", *[math.inf] * CANDIDATES)))
    assert "10 infinite values, now missing" in said and np.isnan(logs.context).sum() == 1


def test_months_before_days_where_only_that_is_possible():
    later = [t + datetime.timedelta(days=20) for t in AT]
    logs, said = imported(changed(at=[t.strftime("%m/%d/%Y %I:%M:%S %p") for t in later]))
    assert logs.timestamp.tolist() == Logs.from_table(changed(at=later)).timestamp.tolist()
    assert "dates (month/day/year)" in said


def test_every_column_of_a_shop_is_proposed():
    found = import_table(SHOP)
    assert found.mapping.roles == {
        "request_id": "session_id",
        "user_id": "customer",
        "item_id": "product_id",
        "position": "rank",
        "timestamp": "at",
        "scenario": "device",
        "value": "price",
        "y_click": "clicked",
        "y_buy": "bought",
        "p_click": "pred_click",
        "p_buy": "pred_buy",
        "x_device": "device",
        "x_buyer_score": "buyer_score",
        "x_hour": "hour",
    }
    logs = Logs.from_imported(found)
    assert logs.tasks == ("click", "buy") and logs.features == ("device=app", "device=web", "buyer_score", "hour")
    assert logs.num_requests == ROWS // CANDIDATES and logs.shown.sum() == PAGE * logs.num_requests
    assert logs.position[:CANDIDATES].tolist() == [-1 if s is None else s - 1 for s in SHOP["rank"][:CANDIDATES]]
    np.testing.assert_array_equal(logs.feedback[:, 0], SHOP["clicked"])
    np.testing.assert_allclose(logs.predictions[:, 1], SHOP["pred_buy"], rtol=1e-6)
    assert logs.timestamp[1] - logs.timestamp[0] == 11 * 60_000
    assert logs.context[:, 3].tolist() == SHOP["hour"][::CANDIDATES]
    assert (logs.context[:, 1] == (logs.scenario == "web")).all() and found.mapping.left_out == {}
    assert len(found.notes.changed) == 7 and not found.notes.warned


def test_frames_of_every_library_give_the_same_log(caplog):
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    first = Logs.from_table(SHOP)
    assert "'rank' (slot): counted from 1" in caplog.text
    frame = polars.DataFrame(SHOP)
    encoded = frame.with_columns(polars.col("session_id", "device").cast(polars.Categorical))
    tables = [frame, frame.lazy(), encoded, pandas.DataFrame(SHOP), pandas.DataFrame(SHOP).iloc[::1], pa.table(SHOP)]
    tables += [pa.table(SHOP).to_reader(), {name: np.array(values) for name, values in SHOP.items()}]
    tables[-1]["rank"] = np.array([math.nan if s is None else s for s in SHOP["rank"]])
    for table in tables:
        assert_same(Logs.from_table(table), first)


def test_a_log_of_pygrades_own_is_read_as_it_is(tmp_path):
    import pyarrow.parquet as parquet

    from pygrade.logs import write_logs

    logs = make_logs()
    write_logs(logs, tmp_path / "log")
    again = Logs.from_table(parquet.read_table(tmp_path / "log" / "part-00000.parquet"))
    assert_same(again, logs)


@pytest.mark.parametrize("text", ["request=session_id, item=product_id", ["request=session_id", "item=product_id"]])
def test_the_map_as_text_and_as_a_dict(text):
    given = import_table(SHOP, text).mapping
    assert given.why["request_id"] == "given" and given.why["position"] == "by its name"
    assert given.roles == import_table(SHOP, {"request": "session_id", "item_id": "product_id"}).mapping.roles
    again = import_table(SHOP, [f"{role}={column}" for role, column in given.words().items()]).mapping
    assert again.roles == given.roles and set(again.why.values()) == {"given"}


def test_columns_may_be_joined_skipped_and_left_out():
    table = changed(session_id=[f"s{int(s[1:]) % 50}" for s in SHOP["session_id"]], colour=["red", "blue"] * 1000)
    table["app_version"] = [f"v{number}" for number in range(2000)]
    found = import_table(table, "request=session_id+at,skip=hour+price")
    assert len(found.fields["request_id"]) == 200 and found.fields["request_id"][0].startswith("s0+2026")
    assert "hour" not in found.fields["features"] and "value" not in found.fields
    assert found.mapping.left_out["hour"] == "as you say" and found.mapping.roles["i_colour"] == "colour"
    assert found.mapping.left_out["app_version"] == "text with 2,000 values"


def test_the_score_that_production_ranked_by_is_named_or_has_the_name_of_a_log():
    scores = (2 * np.array(SHOP["pred_click"]) - 1).tolist()
    logs, _ = imported(changed(rank_score=scores), "production=rank_score")
    np.testing.assert_allclose(logs.production_score, scores, rtol=1e-6)
    own, _ = imported(changed(production_score=scores))
    np.testing.assert_array_equal(own.production_score, logs.production_score)


def test_of_an_item_listed_again_the_shown_row_is_kept():
    """Each third request lists its first shown item again, as a candidate that was not shown."""
    first = [next(r for r in range(row, row + CANDIDATES) if SHOWN[r]) for row in range(0, ROWS, 3 * CANDIDATES)]
    table = {name: values + [values[row] for row in first] for name, values in SHOP.items()}
    table |= {name: [*SHOP[name], *[None] * len(first)] for name in ("rank", "clicked", "bought")}
    logs, said = imported(table)
    assert f"'product_id' lists an item again within a request ({len(first)} rows in {len(first)} requests)" in said
    assert_same(logs, CLEAN)


def test_visits_of_several_pages_are_named_and_joined_with_their_time():
    table = changed(session_id=[f"v{int(s[1:]) // 4}" for s in SHOP["session_id"]])
    table["customer"] = [f"c{s}" for s in table["session_id"]]
    for name in ("device", "buyer_score", "hour"):
        del table[name]
    refuses(ValueError, r"twice in 50 requests, .*join columns: request=session_id\+at\)", import_table, table)
    assert len(import_table(table, "request=session_id+at").fields["request_id"]) == 200


PAGES = np.array(["none", "shuffle"], object)[np.arange(2000) // CANDIDATES % 4 // 3]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (PAGES, ""),
        (PAGES == "shuffle", "50 requests were shuffled, the others not explored"),
        (np.where(PAGES == "shuffle", "Random", "control"), "'control' is none, 'Random' is shuffle"),
        (np.where(PAGES == "shuffle", "shuffle", None), "'' is none"),
        ([7] * 2000, ValueError),
        (["abc"] * 2000, ValueError),
    ],
)
def test_shuffled_pages_by_values_flags_and_words(values, note):
    table = changed(how=list(values))
    if note is ValueError:
        refuses(ValueError, r"'how' \(exploration\)", imported, table, "exploration=how")
        return
    logs, said = imported(table, "exploration=how")
    assert logs.exploration.tolist() == PAGES[::CANDIDATES].tolist() and note in said


def shuffled_shop(share=0.2, seed=3):
    """The shop with some pages in random order, and which they are."""
    rng = np.random.default_rng(seed)
    rank, random = np.array(SHOP["rank"], object).reshape(-1, CANDIDATES), rng.random(200) < share
    for page in np.flatnonzero(random):
        shown = np.flatnonzero([slot is not None for slot in rank[page]])
        rank[page, shown] = rng.permutation(rank[page, shown])
    return rank.ravel().tolist(), random


@pytest.mark.parametrize(("name", "yes", "no"), [("is_random", 1, 0), ("randomized", True, None)])
def test_a_flag_of_random_pages_is_exploration(name, yes, no):
    rank, random = shuffled_shop()
    found = import_table(changed(rank=rank, **{name: per_request([yes if r else no for r in random])}))
    assert (found.fields["exploration"] == np.where(random, "shuffle", "none")).all()
    assert f"exploration={name} (by its name)" in found.notes.guessed and name not in found.fields["features"]


def test_a_flag_of_pages_in_the_usual_order_is_no_exploration():
    flag = per_request([int(r) for r in shuffled_shop()[1]])
    found = import_table(changed(is_random=flag))
    assert "exploration" not in found.fields and "is_random" not in found.fields["features"]
    why = found.mapping.left_out["is_random"]
    assert why.startswith("no exploration: its 34 pages are ordered by the prediction of click (-0."), why
    given = import_table(changed(is_random=flag), "exploration=is_random")
    assert (given.fields["exploration"] == "shuffle").sum() == 34
    assert any("are ordered by the prediction of click" in note for note in given.notes.warned)


def of_shown(values):
    return [value if seen else None for value, seen in zip(values, SHOWN, strict=True)]


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
    assert logs.tasks == ("click", "buy", "watch_seconds", "returned") and logs.task_values == (1.0, 1.0, 0.05, -1.0)
    assert [note.partition(" ")[0] for note in found.notes.guessed[-2:]] == ["watch_seconds=0.05", "returned=-1"]
    assert f">{seconds[SHOWN].mean():.4g} a shown row, predicted 8, worth 0.05<" in logs._repr_html_()
    stated = import_table(table)
    assert Logs.from_imported(stated, {"watch_seconds": 1, "returned": -3}).task_values[2:] == (1.0, -3.0)
    assert not any("--values" in note for note in stated.notes.guessed)


def test_values_of_events():
    logs = Logs.from_table(SHOP, values={"buy": 20}, value_tasks=["buy"])
    assert logs.task_values == (1.0, 20.0) and logs.value_tasks == ("buy",)
    refuses(ValueError, "values names task 'wish'", Logs.from_table, SHOP, values={"wish": 2})


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


HIDDEN = int(np.argmin(SHOWN))
UNSURE = int(np.flatnonzero(SHOWN & (np.arange(ROWS) % 7 == 0))[0])
FIRST_SHOWN = int(np.argmax(SHOP["clicked"]))
TWICE = int(np.flatnonzero(np.array(SHOP["rank"]) == 5)[0])
GAP, OUT = "gap", "left out"
# column, first row, and what a fix does with the first request
REFUSED = {
    "a word among times": ({"at": ["soon", *map(str, AT[1:])]}, "at", 0, OUT),
    "a month 13": ({"at": ["2026-13-01", *map(str, AT[1:])]}, "at", 0, OUT),
    "days or months first": ({"at": [f"0{1 + r // CANDIDATES % 9}/02/2026" for r in range(2000)]}, "at", 0, None),
    "a request without a time": ({"at": [None] * CANDIDATES + AT[CANDIDATES:]}, "at", 0, OUT),
    "milliseconds among seconds": ({"at": [SECONDS[0] * 1000, *SECONDS[1:]]}, "at", 0, OUT),
    "a date of another kind": ({"at": [20260301] * 2000}, "at", None, None),
    "a word among predictions": ({"pred_click": ["#REF!", *map(str, SHOP["pred_click"][1:])]}, "pred_click", 0, OUT),
    "a word among yes and no": ({"clicked": ["maybe", *map(str, SHOP["clicked"][1:])]}, "clicked", 0, OUT),
    "a word among numbers of requests": (
        {"buyer_score": per_request(["error", *map(str, SHOP["buyer_score"][CANDIDATES::CANDIDATES])])},
        "buyer_score",
        0,
        GAP,
    ),
    "negative feedback": ({"clicked": [-float(c) for c in SHOP["clicked"]]}, "clicked", FIRST_SHOWN, None),
    "feedback of an unseen row": (
        {"clicked": [row == HIDDEN or c for row, c in enumerate(SHOP["clicked"])]},
        "clicked",
        HIDDEN,
        OUT,
    ),
    "feedback that is not known yet": (
        {"clicked": [None if row % 7 == 0 else event for row, event in enumerate(SHOP["clicked"])]},
        "clicked",
        UNSURE,
        None,
    ),
    "no prediction": ({"pred_click": with_first("pred_click", None, 0.5, None)}, "pred_click", 0, OUT),
    "an infinite prediction": ({"pred_click": with_first("pred_click", math.inf)}, "pred_click", 0, OUT),
    "no price": ({"price": with_first("price", None, 0.5, None)}, "price", 0, OUT),
    "a price below 0": ({"price": with_first("price", -1.0)}, "price", 0, OUT),
    "fractions of slots": ({"rank": with_first("rank", 0.5)}, "rank", 0, OUT),
    "a slot twice": ({"rank": [slot and min(slot, 4) for slot in SHOP["rank"]]}, "rank", None, None),
    "nothing shown": ({"rank": pa.nulls(2000, pa.int64())}, "rank", None, None),
    "an empty request id": ({"session_id": with_first("session_id", None)}, "session_id", 0, OUT),
    "an item without an id": ({"product_id": with_first("product_id", None)}, "product_id", 0, OUT),
    "two users of a request": ({"customer": with_first("customer", "nobody")}, "customer", 1, OUT),
    "columns of different length": ({"rank": SHOP["rank"][1:]}, "rank", None, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_column_and_row_and_a_fix_solves_it(name):
    columns, column, row, cure = REFUSED[name]
    words = "user=customer,slot=rank,time=at,value=price"
    where = "" if row is None else rf".* in row {row} of t\.csv"
    with pytest.raises(ValueError, match=f"{re.escape(repr(column))}{where}") as caught:
        import_table(changed(**columns), words, where="t.csv")
    assert hasattr(caught.value, "__notes__") == (cure is not None)
    if cure is None:
        return
    found = import_table(changed(**columns), words, where="t.csv", fix=True)
    assert found.notes.changed[0] == f"fixed: {str(caught.value).removeprefix('t.csv: ')}"
    logs = Logs.from_imported(found)
    if cure == GAP:
        assert np.isnan(logs.context[0, CLEAN.features.index(column)]) and logs.num_requests == 200
    else:
        assert logs.timestamp.tolist() == CLEAN.timestamp[1:].tolist()


def several_faults():
    return changed(
        rank=with_first("rank", 0.5),
        pred_click=with_first("pred_click", None),
        clicked=with_first("clicked", -1.0),
        hour=with_first("hour", 25),
        session_id=[None if row == 29 else name for row, name in enumerate(SHOP["session_id"])],
        product_id=[None if row == 47 else item for row, item in enumerate(SHOP["product_id"])],
    )


def test_one_run_shows_every_problem_with_its_row_and_a_fix_leaves_their_requests_out():
    with pytest.raises(TableProblems) as caught:
        import_table(several_faults(), where="shop.csv")
    rows = {"session_id": 29, "rank": 0, "hour": 1, "product_id": 47, "clicked": 0, "pred_click": 0}
    assert len(caught.value.problems) == len(rows)
    for (column, row), problem in zip(rows.items(), caught.value.problems, strict=True):
        assert problem.startswith(repr(column)) and f" in row {row} of shop.csv; expected " in problem
    assert caught.value.__notes__ == ["--fix leaves out 5 of 201 requests (40 rows)"]
    logs, said = imported(several_faults(), fix=True)
    kept = [r for r in range(200) if r not in (0, 2, 3, 4)]  # row 29 may be of the request before or after
    assert_same(logs, CLEAN.select(kept))
    assert said.count("fixed: left out") == 1 and "fixed: left out 5 of 201 requests (40 rows)" in said


def test_a_map_is_proposed_where_names_are_strange():
    strange = {"rank": "rank_shown", "clicked": "went_there", "bought": "till", "price": "expected_margin"}
    table = {strange.get(name, name): values for name, values in SHOP.items()}
    table |= {"shuffle": [row // CANDIDATES % 20 == 0 for row in range(ROWS)]}
    with pytest.raises(LogContractError) as caught:
        import_table(table)
    words = "slot=rank_shown,value=expected_margin,exploration=shuffle,click=went_there,buy=till"
    assert caught.value.summary.endswith(f". Is it --map {words}?") and "teach nothing" not in caught.value.summary
    found = import_table(table, words)  # as it is printed
    assert found.fields["tasks"] == CLEAN.tasks and (found.fields["exploration"] == "shuffle").sum() == 10
    np.testing.assert_array_equal(found.fields["feedback"], CLEAN.feedback)
    del table["till"]  # nothing shows which prediction the other one goes with
    with pytest.raises(LogContractError, match=r"slot=rank_shown,value=expected_margin,exploration=shuffle\?"):
        import_table(table)


@pytest.mark.parametrize("empty", [[0], [0, 45, 700]])
def test_an_almost_whole_id_stays_the_request_and_its_empty_rows_are_named(empty):
    """Else another column, such as the user's, is taken as the only one left."""
    table = {{"session_id": "visit_uuid", "customer": "kunde"}.get(name, name): values for name, values in SHOP.items()}
    whole = import_table(table)
    table["visit_uuid"] = [None if row in empty else name for row, name in enumerate(table["visit_uuid"])]
    more = f" \\({len(empty)} such rows\\)" if len(empty) > 1 else ""
    refuses(
        ValueError, rf"'visit_uuid' \(request\) is empty in row 0 of the table{more}; expected ids", import_table, table
    )
    assert import_table(table, fix=True).mapping.roles == whole.mapping.roles
    table["visit_uuid"] = [None if row % 40 == 0 else name for row, name in enumerate(table["visit_uuid"])]  # no id
    with pytest.raises(LogContractError, match="no column is known for"):
        import_table(table)


def test_a_fix_never_leaves_out_much():
    table = changed(pred_click=[None if row % 70 == 0 else p for row, p in enumerate(SHOP["pred_click"])])
    refuses(TableProblems, r"29 of 200 requests \(290 rows\)", import_table, table, fix=True)
    with pytest.raises(ValueError, match="no column is known for user"):  # nor is a fix tried without what a log needs
        import_table({name: values for name, values in table.items() if name != "customer"}, fix=True)


def test_one_message_holds_the_contract_beside_the_table():
    table = {name: values for name, values in SHOP.items() if name not in ("session_id", "pred_buy", "rank")}
    with pytest.raises(LogContractError) as caught:
        import_table(table, where="shop.csv")
    assert "no column is known for request, slot; say which by --map request=COLUMN,slot=COLUMN" in caught.value.summary
    assert caught.value.problems[0].startswith("'bought' looks like feedback, but no prediction goes with it")
    assert str(caught.value).splitlines()[1].split() == ["column", "required", "shop.csv", "what", "it", "is"]
    rows = {row[0]: row for row in caught.value.rows}
    assert rows["request"][1] == rows["slot"][1] == "yes" and rows["request"][3] == rows["slot"][3] == "missing"
    assert rows["user"][3] == "customer (by its name)" and rows["click"][3].startswith("clicked")
    refuses(LogContractError, "known for request, user, item, slot, <task>, p_<task>", import_table, {"a": [1, 2]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("request=sesion_id", "no column 'sesion_id'; did you mean 'session_id'"),
        ("request", "expected ROLE=COLUMN"),
        ("requets=session_id", "'requets'; did you mean 'request'. A task of this name is y_requets=COLUMN"),
        ("request=session_id,request=at", "'request' twice"),
        ({"wish": "hour"}, "known for p_wish"),
        ("x_rank=price", "'price' has several values"),
    ],
)
def test_a_wrong_map_is_named(columns, message):
    refuses(ValueError, message, import_table, SHOP, columns)


@pytest.mark.parametrize(("table", "error"), [([1, 2], TypeError), ({}, ValueError), ({"a": [[1], [[2]]]}, ValueError)])
def test_what_is_no_table(table, error):
    with pytest.raises(error):
        import_table(table)


def test_an_expression_is_a_column_and_what_it_reads_is_none():
    import polars as pl

    from pygrade.logs.expressions import with_expressions

    table = pl.DataFrame({"cents": ["150", None], "action": ["tap", "none"], "other": [1, 2]}).to_arrow()
    roles = {"value": "cents / 100", "y_click": "action == 'tap'", "request_id": "other"}
    result, sources = with_expressions(table, "t", roles)
    assert result.column("cents / 100").to_pylist() == [1.5, None] and sources == ["cents", "action"]
    assert result.column("action == 'tap'").to_pylist() == [True, False]
    with pytest.raises(ValueError, match="t has no column 'cent'; did you mean 'cents'"):
        with_expressions(table, "t", {"value": "cent / 100"})


def renamed(**names):
    """The shop with other names of columns."""
    return {names.get(name, name): values for name, values in SHOP.items()}


def test_the_only_columns_of_ids_that_fit_are_proposed():
    """Request, item and user of names that say nothing, beside a query of the request and a title of the item."""
    table = renamed(session_id="suche", product_id="product_uid", customer="shopper")
    table["query"] = [f"red shoe {request % 150}" for request in per_request(range(200))]
    table["title"] = [f"item {item % 7} of a brand" for item in table["product_uid"]]
    logs, said = imported(table)
    assert_same_rows(logs.arranged(CLEAN.tasks, CLEAN.features, ()), CLEAN.arranged(CLEAN.tasks, CLEAN.features, ()))
    guesses = import_table(table).notes.guessed
    for guess in ("request=suche", "item=product_uid", "user=shopper"):
        assert f"{guess} (the only one left)" in guesses
    assert said


def test_a_column_is_never_called_an_id_and_missing_at_once():
    table = renamed(product_id="old_id") | {"new_id": [item + 1 for item in SHOP["product_id"]]}
    with pytest.raises(LogContractError) as caught:
        import_table(table)
    reasons = {column: why for name, _, why, column in caught.value.rows if name == "left out"}
    assert reasons == {name: f"an id, by its name: is it item={name}?" for name in ("old_id", "new_id")}


def test_none_is_none_of_every_role():
    logs, _ = imported(SHOP, "exploration=none,scenario=none,value=none,time=none,user=none,x_hour=none,buy=none")
    assert (logs.value, logs.timestamp, logs.scenario, logs.exploration) == (None, None, None, None)
    assert logs.tasks == ("click",) and "hour" not in logs.features
    assert logs.user_id.tolist() == logs.request_id.tolist()
    refuses(ValueError, "item=none; expected the column of it", import_table, SHOP, "item=none")
    assert Logs.from_table({**SHOP, "none": SHOP["price"]}, "value=none").value.tolist() == CLEAN.value.tolist()


def test_requests_that_a_condition_chooses_are_read():
    """Feedback that is lost from a day on; candidates that were not shown are read with their requests."""
    kept = [request < 120 for request in per_request(range(200))]
    lost = {name: [v if k and s else None for v, k, s in zip(SHOP[name], kept, SHOWN, strict=True)] for name in EVENTS}
    lost = changed(**lost)
    refuses(ValueError, r"'clicked' .*left out: --map where=clicked is not null", import_table, lost)
    logs, said = imported(lost, "where=clicked is not null")
    assert_same_rows(replace(logs, scales=CLEAN.scales), CLEAN.select(slice(0, 120)))
    assert "where=clicked is not null: 1,200 of 2,000 rows are read" in said
    empty = [math.nan if row == 15 else value for row, value in enumerate(SHOP["pred_buy"])]
    found = lost | {"pred_buy": empty, "hour": per_request(range(200))}
    refuses(ValueError, "'pred_buy' .* in row 15 ", import_table, found, "where=hour >= 1 and clicked is not null")
    refuses(ValueError, "where=hour is no condition", import_table, SHOP, "where=hour")
    refuses(ValueError, "holds for no row", import_table, SHOP, "where=hour > 99")
