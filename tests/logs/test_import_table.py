"""Tables of other programs as logs: every change is said, and what could mean two things is refused."""

import datetime
import math

import numpy as np
import pytest

from pygrade.logs import LogContractError, Logs
from pygrade.logs.import_table import import_table
from tests.logs.shop import CANDIDATES, PAGE, shop
from tests.logs.test_logs import assert_same, make_logs

pa = pytest.importorskip("pyarrow")
SHOP = shop()


def changed(name, *values, **columns):
    """The shop with other columns; the first values of one replaced."""
    table = {**SHOP, **columns}
    if name:
        table[name] = [*values, *table[name][len(values) :]]
    return table


def imported(table, columns=None, **options):
    """The log, and all that was said about it."""
    found = import_table(table, columns, **options)
    return Logs.from_imported(found), " | ".join([*found.notes.changed, *found.notes.warned])


def test_the_score_that_production_ranked_by_is_named_or_has_the_name_of_a_log():
    scores = {"rank_score": (2 * np.array(SHOP["pred_click"]) - 1).tolist()}
    logs, _ = imported(changed("", **scores), "production=rank_score")
    np.testing.assert_allclose(logs.production_score, scores["rank_score"], rtol=1e-6)
    own, _ = imported(changed("", production_score=scores["rank_score"]))
    np.testing.assert_array_equal(own.production_score, logs.production_score)


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
    assert logs.num_requests == len(SHOP["rank"]) // CANDIDATES and logs.shown.sum() == PAGE * logs.num_requests
    assert logs.position[:CANDIDATES].tolist() == [-1 if s is None else s - 1 for s in SHOP["rank"][:CANDIDATES]]
    np.testing.assert_array_equal(logs.feedback[:, 0], SHOP["clicked"])
    np.testing.assert_allclose(logs.predictions[:, 1], SHOP["pred_buy"], rtol=1e-6)
    assert logs.timestamp is not None and logs.timestamp[1] - logs.timestamp[0] == 11 * 60_000
    assert logs.context[:, 3].tolist() == SHOP["hour"][::CANDIDATES]
    assert (logs.context[:, 1] == (logs.scenario == "web")).all() and found.mapping.left_out == {}
    said = " | ".join(found.notes.changed)
    for part in ("'rank' (slot): counted from 1", "'clicked' (feedback 'click'): true and false", "'at' (time): dates"):
        assert part in said
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
    table = changed("", session_id=[f"s{int(s[1:]) % 50}" for s in SHOP["session_id"]], colour=["red", "blue"] * 1000)
    table["app_version"] = [f"v{number}" for number in range(2000)]
    found = import_table(table, "request=session_id+at,skip=hour+price")
    assert len(found.fields["request_id"]) == 200 and found.fields["request_id"][0].startswith("s0+2026")
    assert "hour" not in found.fields["features"] and "value" not in found.fields
    assert found.mapping.left_out["hour"] == "as you say" and found.mapping.roles["i_colour"] == "colour"
    assert found.mapping.left_out["app_version"] == "text with 2,000 values"


BETTER = dict(zip(SHOP["session_id"][::CANDIDATES], range(200), strict=True))
CLICKS = [float(c) for c in SHOP["clicked"]]
SHOWN = [slot is not None for slot in SHOP["rank"]]
HIDDEN = SHOWN.index(False)
UNSEEN_CLICK = [True if row == HIDDEN else c for row, c in enumerate(SHOP["clicked"])]

CONVERTED = {
    "slots where 0 is not shown": (
        changed("", rank=[slot or 0 for slot in SHOP["rank"]]),
        "0 stands in several rows of a request: 1,000 rows not shown",
    ),
    "slots where -1 is not shown": (
        changed("", rank=[-1 if slot is None else slot for slot in SHOP["rank"]]),
        "1,000 rows below 0 were not shown",
    ),
    "a flag of what was shown": (
        changed("", rank=[n % CANDIDATES + 1 if s is None else s for n, s in enumerate(SHOP["rank"])], visible=SHOWN),
        "'visible' (shown): 1,000 rows with a slot were not shown",
    ),
    "seconds": (changed("", at=[d.timestamp() // 1 for d in SHOP["at"]]), "'at' (time): seconds since 1970"),
    "nanoseconds": (changed("", at=[int(d.timestamp()) * 10**9 for d in SHOP["at"]]), "(time): nanoseconds"),
    "text of dates with a zone": (
        changed("", at=[f"{d + datetime.timedelta(hours=1)}+01:00" for d in SHOP["at"]]),
        "'at' (time): dates",
    ),
    "text of dates": (changed("", at=[d.isoformat() for d in SHOP["at"]]), "'at' (time): dates"),
    "percentages as text": (
        changed("", pred_buy=[f"{100 * p:.12f}%" for p in SHOP["pred_buy"]]),
        "'pred_buy': text, now numbers; '",
    ),
    "yes and no": (
        changed("", clicked=["Yes" if clicked else "No" for clicked in SHOP["clicked"]]),
        "'clicked': text, now numbers; '",
    ),
    "decimal commas": (
        changed("", pred_click=[f"{p:.9f}".replace(".", ",") for p in SHOP["pred_click"]]),
        "'pred_click': text, now numbers; '0,",
    ),
    "rows apart": (
        {name: values[::2] + values[1::2] for name, values in SHOP.items()},
        "'session_id' (request): the rows of a request were apart",
    ),
    "events joined from the left": (
        changed("", clicked=[True if c else None for c in SHOP["clicked"]]),
        "empty in {} shown rows and never 0: taken as no event",
    ),
    "users who are not known": (
        changed("customer", *[None] * CANDIDATES),
        "'customer' (user) is empty in 1 requests: each is a user of its own",
    ),
    "several times in a request": (
        changed("", at=[d + datetime.timedelta(seconds=n % 2) for n, d in enumerate(SHOP["at"])]),
        "'at' (time) has several times in 200 requests: the earliest",
    ),
    "an infinite feature": (changed("buyer_score", *[math.inf] * CANDIDATES), "10 infinite values, now missing"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_is_converted_is_said(name):
    table, note = CONVERTED[name]
    logs, said = imported(table)
    note = note.format(f"{sum(s and not c for s, c in zip(SHOWN, SHOP['clicked'], strict=True)):,}")
    assert note in said
    expected, _ = imported(SHOP)
    order = np.argsort([BETTER[request] for request in logs.request_id])
    logs = logs.select(order)
    assert logs.offsets.tolist() == expected.offsets.tolist()
    for field in ("predictions", "feedback", "position") if name != "rows apart" else ():
        np.testing.assert_allclose(getattr(logs, field), getattr(expected, field), rtol=1e-6)
    if name not in ("nanoseconds", "seconds"):  # the zone of this machine
        np.testing.assert_array_equal(logs.timestamp, expected.timestamp)
    if name == "rows apart":
        np.testing.assert_allclose(np.sort(logs.predictions, 0), np.sort(expected.predictions, 0))


def doubled():
    """Each third request lists its first shown item again, as a candidate that was not shown."""
    twice = [row for row in range(0, len(SHOWN), 3 * CANDIDATES)]
    first = [next(r for r in range(row, row + CANDIDATES) if SHOWN[r]) for row in twice]
    table = {name: values + [values[row] for row in first] for name, values in SHOP.items()}
    table["rank"][len(SHOWN) :] = [None] * len(first)
    table["clicked"][len(SHOWN) :] = [None] * len(first)
    table["bought"][len(SHOWN) :] = [None] * len(first)
    return table, len(first)


def test_of_an_item_listed_again_the_shown_row_is_kept_or_it_is_refused():
    table, count = doubled()
    logs, said = imported(table)
    assert f"'product_id' lists an item again within a request ({count} rows in {count} requests)" in said
    assert_same(logs, imported(SHOP)[0])
    with pytest.raises(ValueError, match="lists an item again within a request"):
        import_table(table, duplicates="refuse")


REFUSED = {
    "negative feedback": (changed("", clicked=[-c for c in CLICKS]), r"\(feedback 'click'\) is -1 in row .*want feed"),
    "feedback of an unseen row": (changed("", clicked=UNSEEN_CLICK), "nobody saw the item"),
    "feedback that is not known yet": (
        changed("", clicked=[None if row % 7 == 0 else event for row, event in enumerate(SHOP["clicked"])]),
        "is empty in .* shown rows, first row .*, and 0 in others",
    ),
    "no prediction": (changed("pred_click", None, 0.5, None), r"is empty or NaN in row 0 .*2 such rows"),
    "an infinite prediction": (changed("pred_click", math.inf), "want finite predictions"),
    "fractions of slots": (changed("rank", 0.5), r"is 0.5 in row 0 of the table; want whole numbers"),
    "a slot twice": (changed("", rank=[slot and min(slot, 4) for slot in SHOP["rank"]]), "each slot once in a request"),
    "nothing shown": (changed("", rank=pa.nulls(2000, pa.int64())), "shows no row"),
    "an empty request id": (changed("session_id", None), r"'session_id' \(request\) is empty in 1 rows, first row 0"),
    "an item without an id": (changed("product_id", None), r"'product_id' \(item\) is empty"),
    "two users of a request": (changed("customer", "nobody"), r"in 1 requests, .*=ITS_COLUMN\+customer"),
    "a date of another kind": (changed("", at=[20260301] * 2000), r"from 2.02603e\+07 to"),
    "columns of different length": (changed("", rank=SHOP["rank"][1:]), "want as many in each"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_two_things_is_refused(name):
    table, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        imported(table, "user=customer,slot=rank,time=at")


def test_one_message_holds_the_contract_beside_the_table():
    table = {name: values for name, values in SHOP.items() if name not in ("session_id", "pred_buy", "rank")}
    with pytest.raises(LogContractError) as caught:
        import_table(table, where="shop.csv")
    assert "no column is known for request, slot; say which by request=COLUMN, slot=COLUMN" in caught.value.summary
    assert caught.value.problems[0].startswith("'bought' looks like feedback, but no prediction goes with it")
    lines = str(caught.value).splitlines()
    assert lines[1].split() == ["column", "required", "shop.csv", "what", "it", "is"]
    rows = {row[0]: row for row in caught.value.rows}
    assert rows["request"][1] == rows["slot"][1] == "yes" and rows["request"][3] == rows["slot"][3] == "missing"
    assert rows["user"][3] == "customer (by its name)" and rows["click"][3].startswith("clicked")
    with pytest.raises(LogContractError, match="known for request, user, item, slot, <task>, p_<task>"):
        import_table({"a": [1, 2]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("request=sesion_id", "no column 'sesion_id'; did you mean 'session_id'"),
        ("request", "want ROLE=COLUMN"),
        ("requets=session_id", "'requets'; did you mean 'request'. A task of this name is y_requets=COLUMN"),
        ("request=session_id,request=at", "'request' twice"),
        ({"wish": "hour"}, "known for p_wish"),
        ("x_rank=price", "'price' has several values"),
    ],
)
def test_a_wrong_map_is_named(columns, message):
    with pytest.raises(ValueError, match=message):
        import_table(SHOP, columns)


@pytest.mark.parametrize(("table", "error"), [([1, 2], TypeError), ({}, ValueError), ({"a": [[1], [[2]]]}, ValueError)])
def test_what_is_no_table(table, error):
    with pytest.raises(error):
        import_table(table)


def test_values_of_events():
    logs = Logs.from_table(SHOP, values={"buy": 20}, value_tasks=["buy"])
    assert logs.task_values == (1.0, 20.0) and logs.value_tasks == ("buy",)
    with pytest.raises(ValueError, match="values names task 'wish'; want one of click, buy"):
        Logs.from_table(SHOP, values={"wish": 2})


PAGES = np.array(["none", "shuffle"], object)[np.arange(2000) // CANDIDATES % 4 // 3]


@pytest.mark.parametrize(
    ("values", "columns", "note"),
    [
        (PAGES, "exploration=how", ""),
        (PAGES == "shuffle", "exploration=how", "50 requests were shuffled, the others not explored"),
        (
            np.where(PAGES == "shuffle", "Random", "control"),
            "exploration=how",
            "'control' is none, 'Random' is shuffle",
        ),
        (np.where(PAGES == "shuffle", "shuffle", None), "exploration=how", "'' is none"),
    ],
)
def test_shuffled_pages_by_values_flags_and_words(values, columns, note):
    logs, said = imported({**SHOP, "how": values.tolist()}, columns)
    assert logs.exploration.tolist() == PAGES[::CANDIDATES].tolist() and note in said


def test_exploration_of_another_kind_is_refused():
    for values, message in (([7] * 2000, "is no flag"), (["abc"] * 2000, "want none, shuffle or dirichlet")):
        with pytest.raises(ValueError, match=message):
            imported({**SHOP, "how": values}, "exploration=how")


def test_visits_of_several_pages_are_named_and_joined_with_their_time():
    table = changed("", session_id=[f"v{int(s[1:]) // 4}" for s in SHOP["session_id"]])
    table["customer"] = [f"c{s}" for s in table["session_id"]]
    for name in ("device", "buyer_score", "hour"):
        del table[name]
    with pytest.raises(ValueError, match=r"twice in 50 requests, .*join columns: request=session_id\+at\)"):
        import_table(table)
    assert len(import_table(table, "request=session_id+at").fields["request_id"]) == 200
