import json
from dataclasses import replace

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from pygrade.logs import Logs  # noqa: E402
from pygrade.logs.import_table import import_table  # noqa: E402
from pygrade.logs.nested import unnested  # noqa: E402
from tests.logs.shop import CANDIDATES, shop  # noqa: E402
from tests.logs.test_logs import assert_same, assert_same_rows  # noqa: E402

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
    table, notes, parents = unnested(pa.Table.from_pylist(lines), "file")
    assert parents.tolist() == [0, 0, 1, 1]
    assert table.to_pydict() == {"request": [0, 0, 1, 1], "item": [1, 2, 1, 2], "slot": [0, None, 0, None]}
    assert notes == ["'item', 'slot': lists of candidates, now a row each"]
    lines[1]["slot"] = [0]
    with pytest.raises(ValueError, match="'item' and 'slot' have 2 and 1 entries in row 1"):
        unnested(pa.Table.from_pylist(lines), "file")


def test_a_field_whose_name_is_taken_keeps_its_columns_name():
    table = pa.Table.from_pylist(
        [{"id": 1, "user": {"id": 2, "age": 3}, "none": []}, {"id": 1, "user": None, "none": None}]
    )
    flat, *_ = unnested(table.drop_columns("none"), "file")
    assert flat.to_pydict() == {"id": [1, 1], "user_id": [2, None], "age": [3, None]}


def test_a_flat_table_stays_as_it_is():
    table = pa.table({"a": [1]})
    assert unnested(table, "file") == (table, [], None)


OF_REQUESTS = ("session_id", "customer", "device", "at", "buyer_score", "hour")


def by_request(write=lambda values: values):
    """A row a request, with what is of candidates written as lists."""
    starts = range(0, len(SHOP["rank"]), CANDIDATES)
    table = {name: [SHOP[name][start] for start in starts] for name in OF_REQUESTS}
    return table | {name: [write(SHOP[name][start : start + CANDIDATES]) for start in starts] for name in OF_ITEMS}


@pytest.mark.parametrize(
    ("write", "note"),
    [(lambda values: values, "'product_id', 'rank', "), (json.dumps, "'product_id': JSON in text, now lists")],
    ids=["lists", "json"],
)
def test_lists_in_the_cells_of_a_request_however_they_are_written(write, note):
    found = import_table(by_request(write))
    assert any(text.startswith(note) for text in found.notes.changed)
    logs, clean = Logs.from_imported(found), Logs.from_table(SHOP)
    assert logs.item_id.astype(str).tolist() == clean.item_id.astype(str).tolist()
    for field in ("position", "predictions", "feedback", "timestamp", "value", "context"):
        np.testing.assert_allclose(getattr(logs, field), getattr(clean, field), rtol=1e-6)


def test_json_of_candidates_in_text():
    table = by_request()
    lines = [dict(zip(OF_ITEMS, row, strict=True)) for row in zip(*(SHOP[name] for name in OF_ITEMS), strict=True)]
    candidates = [json.dumps(lines[start : start + CANDIDATES]) for start in range(0, len(lines), CANDIDATES)]
    table = {name: table[name] for name in OF_REQUESTS} | {"candidates": candidates}
    assert_same(Logs.from_table(table), Logs.from_table(SHOP))
    table["candidates"][3] = '[{"product_id": 7'
    with pytest.raises(ValueError, match=r"'candidates' is .* in row 3 of the table"):
        import_table(table)


def test_a_list_of_the_items_that_were_clicked_is_a_flag_of_each():
    table = by_request()
    table["clicked"] = [
        [item for item, event in zip(items, events, strict=True) if event]
        for items, events in zip(table["product_id"], table["clicked"], strict=True)
    ]
    found = import_table(table)
    assert found.notes.changed[0] == "'clicked': lists of some of 'product_id', now a flag of each"
    assert_same(Logs.from_imported(found), Logs.from_table(SHOP))
    interests = {**table, "interests": [["shoes"]] * 20}
    with pytest.raises(
        ValueError, match=r"'product_id' and 'interests' have 10 and 1 entries in row 0; .*skip=interests"
    ):
        import_table(interests)
    assert_same(Logs.from_table(interests, "skip=interests"), Logs.from_table(SHOP))


def test_a_problem_names_the_row_and_the_candidate():
    table = by_request()
    table["pred_buy"] = [[*values] for values in table["pred_buy"]]
    table["pred_buy"][7][2] = None
    with pytest.raises(ValueError, match=r"'pred_buy' .* is empty or NaN in row 7 \(candidate 2\) of the table"):
        import_table(table)


def test_lists_of_attributes_leave_the_rows_of_candidates_as_they_are():
    found = import_table({**SHOP, "tags": [["new", "blue"]] * len(SHOP["rank"])})
    assert found.mapping.left_out["tags"] == "type list<item: string>"
    assert_same(Logs.from_imported(found), Logs.from_table(SHOP))


def test_lists_of_events_are_a_flag_of_each_kind():
    lines = nested()
    for line in lines:
        for item in line["items"]:
            kinds = [kind for kind, column in (("click", "clicked"), ("purchase", "bought")) if item.pop(column)]
            item["events"] = [{"name": kind, "micros": 5} for kind in kinds]
            item["purchase"] = item.pop("pred_buy")
    table = pa.Table.from_pylist(lines)
    for columns in ("click=events,buy=events,p_buy=purchase", "click=events_click,buy=events_purchase,p_buy=purchase"):
        found = import_table(table, columns)
        assert (
            "'events': lists of events, now a column of 0 and 1 for each kind: events_click" in found.notes.changed[1]
        )
        logs, clean = Logs.from_imported(found), Logs.from_table(SHOP)
        logs = replace(logs, scales=clean.scales)
        assert_same_rows(logs.arranged(clean.tasks, clean.features, clean.items), clean)
    with pytest.raises(ValueError, match="none of name 'buy'; expected buy=events_click or buy=events_purchase"):
        import_table(table, "click=events,buy=events")
