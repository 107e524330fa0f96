"""Clicks and orders in tables of their own: joined to what was shown, with what is lost on the way."""

import datetime
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import polars as pl  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from pygrade.cli import main as cli  # noqa: E402
from pygrade.logs import Logs, read_logs  # noqa: E402
from pygrade.logs.import_table import import_table  # noqa: E402
from pygrade.logs.table_files import read_pages  # noqa: E402
from pygrade.runs.source import open_source  # noqa: E402
from tests.logs.shop import shop  # noqa: E402
from tests.logs.test_logs import assert_same_rows  # noqa: E402

SHOP = shop(60)
KEY = ("session_id", "product_id")
FEEDBACK = ("clicked", "bought")
SHOWN = {name: values for name, values in SHOP.items() if name not in FEEDBACK}
WHOLE = Logs.from_table(SHOP)


def events(column, seconds=20, **more):
    """A table of the rows with an event of a column."""
    rows = [row for row, event in enumerate(SHOP[column]) if event]
    late = datetime.timedelta(seconds=seconds)
    of_key = {name: [SHOP[name][row] for row in rows] for name in KEY}
    return of_key | {"happened": [SHOP["at"][row] + late for row in rows], **more}


CLICKS, BUYS = events("clicked"), events("bought", 900)


def changed(tables, columns=None):
    """The log of some tables, and what was done to them."""
    found = import_table(tables, columns)
    return Logs.from_imported(found), found.notes.changed


def longer(table, count=1, **columns):
    """The table with some of its rows again, and other values in these."""
    return {name: [*values, *(columns.get(name, values)[:count])] for name, values in table.items()}


def test_clicks_and_orders_apart_make_the_log_of_one_table():
    logs, notes = changed({"impressions": SHOWN, "clicks": CLICKS, "buys": BUYS})
    assert_same_rows(logs, WHOLE)
    assert notes[0] == (
        f"'clicks' ({len(CLICKS['happened'])} rows) is joined to 'impressions' by session_id+product_id, as feedback "
        "'y_click': half of them within 20 s, 99 % within 20 s"
    )
    assert "within 15 min" in notes[1] and "'y_buy'" in notes[1]


def test_frames_are_tables_too_and_the_log_says_how_they_were_joined(caplog):
    caplog.set_level(logging.WARNING, "pygrade")
    frames = {"seen": pl.DataFrame(SHOWN), "clicks": pl.DataFrame(CLICKS), "buys": pl.DataFrame(BUYS)}
    assert_same_rows(Logs.from_table(frames), WHOLE)
    assert "'clicks'" in caplog.text and "is joined to 'seen' by session_id+product_id" in caplog.text


def test_an_event_counts_once_and_in_its_window_alone():
    at = [moment + datetime.timedelta(hours=30) for moment in CLICKS["happened"]]
    tables = {"impressions": SHOWN, "buys": BUYS}
    logs, notes = changed({**tables, "clicks": longer(CLICKS, 3)})
    assert_same_rows(logs, WHOLE)
    assert "3 repeat another one, and count once" in notes[1]
    logs, notes = changed({**tables, "clicks": {**CLICKS, "happened": [*CLICKS["happened"][:-2], *at[-2:]]}})
    assert logs.feedback[:, 0].sum() == WHOLE.feedback[:, 0].sum() - 2
    assert "2 more than 24 hours after it do not count (window=24)" in notes[1]
    logs, notes = changed({**tables, "clicks": {**CLICKS, "happened": at}}, "window=48")
    assert_same_rows(logs, WHOLE)
    with pytest.raises(ValueError, match="window is 'soon'; expected hours after its showing"):
        changed({**tables, "clicks": CLICKS}, "window=soon")


def test_events_without_a_showing_are_counted_and_too_many_refused():
    tables = {"impressions": SHOWN, "buys": BUYS}
    _, notes = changed({**tables, "clicks": longer(CLICKS, 4, session_id=["other"] * 4)})
    assert "4 meet none" in notes[1]
    foreign = {**CLICKS, "session_id": [f"x{name}" for name in CLICKS["session_id"]]}
    with pytest.raises(ValueError, match=r"rows of 'clicks' meet no row of 'impressions' by session_id\+product_id"):
        changed({**tables, "clicks": foreign})
    assert changed({**tables, "clicks": foreign}, "skip=clicks")[0].tasks == ("buy",)


def test_early_events_are_said_and_ids_may_be_text_in_one_of_the_tables():
    early = {**CLICKS, "happened": [moment - datetime.timedelta(hours=1) for moment in CLICKS["happened"]]}
    early["product_id"] = [str(number) for number in early["product_id"]]
    logs, notes = changed({"impressions": SHOWN, "clicks": early, "buys": BUYS})
    assert_same_rows(logs, WHOLE)
    assert "come before it: do the clocks of the two tables differ?" in notes[0]


def test_the_map_names_the_task_of_a_table():
    shown = {name.replace("pred_", "score of "): values for name, values in SHOWN.items()}
    tables = {"impressions": shown, "taps": CLICKS, "basket-orders-0001": BUYS}
    columns = "click=taps,p_click=score of click,buy=basket-orders-0001,p_buy=score of buy"
    assert_same_rows(replace(changed(tables, columns)[0], scales=WHOLE.scales), WHOLE)


def test_kinds_of_one_table_are_feedback_each():
    both = {name: [*CLICKS[name], *BUYS[name]] for name in CLICKS}
    both["event_type"] = ["click"] * len(CLICKS["happened"]) + ["buy"] * len(BUYS["happened"])
    assert_same_rows(changed({"impressions": SHOWN, "actions": both})[0], WHOLE)


def test_tables_that_are_no_feedback_are_refused_with_what_they_have():
    with pytest.raises(ValueError, match=r"one has to have predictions, and all its request and item: .*items has sku"):
        changed({"impressions": SHOWN, "items": {"sku": [1], "brand": ["a"]}})
    with pytest.raises(ValueError, match="the table 'clicks' and the column 'clicked' are both feedback"):
        changed({"impressions": {**SHOWN, "clicked": SHOP["clicked"]}, "clicks": CLICKS})


def messages():
    """The shop as messages of Kafka, some of which come twice, in any order."""
    lines = []
    for row in range(len(SHOP["rank"])):
        line, at = (
            {name: SHOWN[name][row] for name in SHOWN if name != "at"},
            SHOP["at"][row].replace(tzinfo=datetime.UTC),
        )
        lines.append({"type": "impression", **line, "ts": at.timestamp()})
        for task, column in (("click", "clicked"), ("buy", "bought")):
            if SHOP[column][row]:
                key = {name: SHOP[name][row] for name in KEY}
                lines.append({"type": task, **key, "ts": at.timestamp() + 60})
    rng = np.random.default_rng(0)
    lines += [lines[place] for place in rng.integers(0, len(lines), 20)]
    return [
        {"topic": "shop", "partition": n % 3, "offset": n, "timestamp": 1.8e12 + n, "key": "k", "value": lines[place]}
        for n, place in enumerate(rng.permutation(len(lines)))
    ]


@pytest.mark.parametrize("text", [True, False])
def test_messages_of_several_kinds_are_showings_and_their_feedback(text):
    lines = [{**line, "value": json.dumps(line["value"])} if text else line for line in messages()]
    logs, notes = changed(pa.Table.from_pylist(lines))
    order = np.lexsort((WHOLE.item_id, WHOLE.request_id[WHOLE.row_request]))
    own = np.lexsort((logs.item_id, logs.request_id[logs.row_request]))
    for name in ("item_id", "position", "feedback", "predictions", "value"):
        np.testing.assert_allclose(getattr(logs, name)[own], getattr(WHOLE, name)[order])
    assert sorted(logs.timestamp) == sorted(WHOLE.timestamp) and logs.num_requests == WHOLE.num_requests
    assert notes[0].startswith("messages of Kafka: their values are the rows; left out: key, offset, partition")
    assert any("rows of kind 'impression' were shown" in note for note in notes)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, table in (("impressions", SHOWN), ("clicks", CLICKS), ("buys", BUYS)):
        parquet.write_table(pa.table(table), folder / f"{name}.parquet")
    return folder


def test_files_and_their_folder_are_one_log_for_doctor_and_train(folder, tmp_path, capsys):
    files = [folder / f"{name}.parquet" for name in ("clicks", "impressions", "buys")]
    for places in (files, [folder]):
        assert_same_rows(open_source(places, None, {}, ())[0], WHOLE)
        assert cli.main(["doctor", *map(str, places), "--out", str(tmp_path / "out"), "--quiet"]) == 0
        printed = capsys.readouterr().out
        assert "changed: 'clicks'" in printed and "is joined to 'impressions' by session_id+product_id" in printed
        assert_same_rows(read_logs(tmp_path / "out" / "logs"), WHOLE)
    again = ["doctor", "--config", str(tmp_path / "out" / "pygrade.toml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert cli.main(again) == 0
    assert_same_rows(read_logs(tmp_path / "again" / "logs"), WHOLE)


def test_folders_of_the_tables_parts_are_tables_too(folder, tmp_path):
    for name in ("impressions", "clicks", "buys"):
        table = parquet.read_table(folder / f"{name}.parquet")
        for part in (0, 1):
            place = tmp_path / "lake" / name / f"part-{part}.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table.slice(part * 300, 300 if part == 0 else None), place)
    assert_same_rows(open_source(tmp_path / "lake", None, {}, ())[0], WHOLE)
    tables, where = read_pages([tmp_path / "lake"])
    assert sorted(tables) == ["buys", "clicks", "impressions"] and where.startswith("impressions in lake")
