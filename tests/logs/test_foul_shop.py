"""A planted shop as shops write it (text, holes, zones) is the log of the clean one: so is every verdict on it."""

import csv
import datetime
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.table_files import read_table

pytest.importorskip("pyarrow")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples/python"))
from planted_shop import COLUMNS, Shop

MAP = ",".join(f"{role}={column}" for role, column in COLUMNS.items())
OFFSETS = {"Z": 0, "+01:00": 1, "-08:00": -8}


@pytest.fixture(scope="module")
def clean():
    return Shop(effect="all").table(300)[0]


def as_text(table, seed=0):
    """The columns as text: other words, percentages, currencies, zones of several places, words for nothing."""
    rng, columns = np.random.default_rng(seed), table.to_pydict()
    session, zones = columns["session"], dict[str, str]()
    for name in dict.fromkeys(session):
        zones[name] = list(OFFSETS)[rng.integers(3)]
    start = datetime.datetime(1970, 1, 1)

    def local(at, zone):
        return f"{(start + datetime.timedelta(seconds=at, hours=OFFSETS[zone])).isoformat(' ')}{zone}"

    columns["at"] = [local(at, zones[name]) for at, name in zip(columns["at"], session, strict=True)]
    columns["returning"] = [{"yes": "Y", "no": "N", None: "n/a"}[value] for value in columns["returning"]]
    columns["device"] = [value or "" for value in columns["device"]]
    columns["tenure_days"] = ["-" if value is None else f"{value:,.1f}" for value in columns["tenure_days"]]
    columns["price_affinity"] = ["" if v is None else str(v).replace(".", ",") for v in columns["price_affinity"]]
    columns["price"] = [f"${value}" for value in columns["price"]]
    columns["buy_model"] = [f"{100 * value!r}%" for value in columns["buy_model"]]
    columns["page_kind"] = ["randomized" if value == "shuffle" else "production" for value in columns["page_kind"]]
    columns["slot"] = ["" if value is None else str(value) for value in columns["slot"]]
    for name in ("clicked", "carted", "bought"):
        columns[name] = [{True: "true", False: "false", None: "NULL"}[value] for value in columns[name]]
    return columns


def assert_alike(logs, clean):
    assert (logs.tasks, logs.features, logs.items) == (clean.tasks, clean.features, clean.items)
    for field in ("request_id", "user_id", "item_id", "exploration", "scenario"):
        assert getattr(logs, field).tolist() == getattr(clean, field).tolist()
    for field in ("position", "timestamp", "feedback", "offsets"):
        np.testing.assert_array_equal(getattr(logs, field), getattr(clean, field))
    for field in ("predictions", "value", "context", "item_features"):
        np.testing.assert_allclose(getattr(logs, field), getattr(clean, field), rtol=2e-7)


def test_a_shop_in_a_csv_file_of_text(tmp_path, clean):
    columns = as_text(clean)
    with open(tmp_path / "shop.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    table, where = read_table([tmp_path / "shop.csv"])
    found = import_table(table, MAP, where=where)
    assert_alike(Logs.from_imported(found), Logs.from_table(clean, MAP))
    said = " | ".join(found.notes.changed)
    for part in ("'randomized' is shuffle", "'price': text, now numbers; '$", "'returning': text, now numbers; 'Y"):
        assert part in said


def test_a_shop_in_json_lines_with_a_line_a_request(tmp_path, clean):
    columns, of_candidates = (
        as_text(clean),
        ("sku", "slot", "price", "price_level", "ctr_model", "cart_model", "buy_model"),
    )
    of_candidates += ("clicked", "carted", "bought")
    requests: dict[str, dict] = {}
    for row in zip(*columns.values(), strict=True):
        line = dict(zip(columns, row, strict=True))
        own = {name: value for name, value in line.items() if name not in of_candidates}
        request = requests.setdefault(line["session"], own | {"candidates": []})
        request["candidates"].append({name: line[name] for name in of_candidates})
    (tmp_path / "shop.jsonl").write_text("\n".join(map(json.dumps, requests.values())))
    table, where = read_table([tmp_path / "shop.jsonl"])
    assert_alike(Logs.from_table(table, MAP, where=where), Logs.from_table(clean, MAP))


def test_a_flag_of_the_shuffled_pages_needs_no_map(clean):
    columns = clean.to_pydict()
    columns["page_is_random"] = [int(kind == "shuffle") for kind in columns.pop("page_kind")]
    given = ",".join(f"{role}={column}" for role, column in COLUMNS.items() if role != "exploration")
    found = import_table(columns, given)
    assert "exploration=page_is_random (by its name and values)" in found.notes.guessed
    assert_alike(Logs.from_imported(found), Logs.from_table(clean, MAP))
