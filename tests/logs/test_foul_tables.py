"""Tables as they really look: each becomes the log of the clean shop, or one message names every problem."""

import pytest

from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.problems import TableProblems
from tests.logs.shop import shop
from tests.logs.test_logs import assert_same

pytest.importorskip("pyarrow")
SHOP = shop(200)


def changed(**columns):
    """The shop with other columns."""
    return {**SHOP, **columns}


def with_first(name, *values):
    """A column whose first values are others."""
    return [*values, *SHOP[name][len(values) :]]


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
