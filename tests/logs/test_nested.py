import pytest

pa = pytest.importorskip("pyarrow")

from pygrade.logs import Logs  # noqa: E402
from pygrade.logs.import_table import import_table  # noqa: E402
from pygrade.logs.nested import unnested  # noqa: E402
from tests.logs.shop import CANDIDATES, shop  # noqa: E402
from tests.logs.test_logs import assert_same  # noqa: E402

SHOP = shop(20)
OF_ITEMS = ("product_id", "rank", "price", "pred_click", "pred_buy", "clicked", "bought")


def nested():
    """A line per request, as a service writes it."""
    lines = []
    for start in range(0, len(SHOP["rank"]), CANDIDATES):
        items = [{name: SHOP[name][row] for name in OF_ITEMS} for row in range(start, start + CANDIDATES)]
        context = {name: SHOP[name][start] for name in ("buyer_score", "hour")}
        ids = {name: SHOP[name][start] for name in ("session_id", "customer", "device", "at")}
        lines.append({**ids, "context": context, "items": items})
    return lines


def test_a_list_of_candidates_is_a_row_each():
    table = pa.Table.from_pylist(nested())
    found = import_table(table)
    assert found.notes.changed[0] == "'items': lists of candidates, now a row each"
    assert_same(Logs.from_imported(found), Logs.from_table(SHOP))


def test_lists_side_by_side_are_laid_out_together():
    lines = [{"request": n, "item": [1, 2], "slot": [0, None]} for n in range(2)]
    table, notes = unnested(pa.Table.from_pylist(lines), "file")
    assert table.to_pydict() == {"request": [0, 0, 1, 1], "item": [1, 2, 1, 2], "slot": [0, None, 0, None]}
    assert notes == ["'item', 'slot': lists of candidates, now a row each"]
    lines[1]["slot"] = [0]
    with pytest.raises(ValueError, match="'item' and 'slot' have 2 and 1 entries in row 1"):
        unnested(pa.Table.from_pylist(lines), "file")


def test_a_field_whose_name_is_taken_keeps_its_columns_name():
    table = pa.Table.from_pylist(
        [{"id": 1, "user": {"id": 2, "age": 3}, "none": []}, {"id": 1, "user": None, "none": None}]
    )
    flat, _ = unnested(table.drop_columns("none"), "file")
    assert flat.to_pydict() == {"id": [1, 1], "user_id": [2, None], "age": [3, None]}


def test_a_flat_table_stays_as_it_is():
    table = pa.table({"a": [1]})
    assert unnested(table, "file") == (table, [])
