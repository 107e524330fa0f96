"""`pygrade doctor` on raw tables of warehouses: what it reads is compared with what they hold.

Each table is *right*, *refused rightly* (the refusal names what, where and the cure), *refused*, or *WRONG*: read, and
not as its truth has it. `truth.toml` has the truth and today's outcome, the faults that are left included.
"""

import contextlib
import io
import json
import re
from collections import Counter

import polars as pl
import pytest

from pygrade.cli import main as cli
from pygrade.logs import read_logs
from tests.raw_tables.judge import differences, event_differences
from tests.raw_tables.tables import TABLES, write_table
from tests.raw_tables.world import true_gain

COUNTS = {"right": 10, "refused rightly": 9, "refused": 3, "WRONG": 2}


def examine(name, folder, *options):
    """The outcome of a table, and the importer's words."""
    truth, out = TABLES[name], folder / "out"
    path, rows = write_table(name, folder)
    words = ["doctor", str(path), "--out", str(out), "--json", *options]
    text, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
        code = cli.main([*words, "--map", truth["map"]] if truth.get("map") and "--map" not in options else words)
    record = json.loads(text.getvalue()) if code == 0 else {}
    headline = record.get("sheet", {}).get("headline", "")
    answer = "\n".join([errors.getvalue(), headline, *record.get("sheet", {}).get("sentences", ())])
    if code or "LEAK" in headline:  # of a log with a leak train gives no verdict
        said = "refusal" in truth and all(re.search(part, answer) for part in truth["refusal"])
        mistaken = any(re.search(part, answer) for part in truth.get("never", ()))
        return "refused rightly" if said and not mistaken else "refused", answer
    if truth.get("events"):
        wrong = event_differences(record, rows, truth)
    elif "schema" in record:
        wrong = [f"read as events with tasks {', '.join(record['tasks'])}, without predictions"]
    else:
        wrong = differences(read_logs(out / "logs"), rows, truth)
    return f"WRONG: {'; '.join(wrong)}" if wrong else "right", answer


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    known = {}

    def find(name):
        known[name] = known.get(name) or examine(name, tmp_path_factory.mktemp(name))
        return known[name]

    return find


@pytest.mark.parametrize("name", TABLES)
def test_the_outcome_of_a_table_is_that_of_today(name, outcome):
    found, answer = outcome(name)
    assert found == TABLES[name]["today"], answer


@pytest.mark.parametrize("name", [name for name in TABLES if "cure" in TABLES[name]])
def test_the_cure_that_is_named_reads_the_table_right(name, tmp_path):
    found, answer = examine(name, tmp_path, *TABLES[name]["cure"])
    assert found == "right", answer


def test_most_tables_are_read_right_or_refused_rightly():
    assert Counter(table["today"].split(":")[0] for table in TABLES.values()) == COUNTS


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_ranking_that_knows_the_planted_effect_earns_more(name, tmp_path):
    _, rows = write_table(name, tmp_path / "first")
    tasks = [task for task in TABLES[name]["tasks"] if f"true_{task}" in rows.columns]
    task = next(task for task in tasks if (rows[f"true_{task}"] - rows[f"p_{task}"]).abs().max() > 0.01)
    shown = rows.filter(rows["slot"].is_not_null()).group_by("affected").agg(pl.col(f"y_{task}", f"p_{task}").sum())
    low, high = sorted(shown[f"y_{task}"] / shown[f"p_{task}"])
    assert high > 2 * low
    assert true_gain(rows, rows["true_value"]) > 1 > 0 > true_gain(rows, -rows["true_value"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_depends_on_its_seed_alone(name, tmp_path):
    first, again, other = (write_table(name, tmp_path / str(n), 200, seed)[1] for n, seed in enumerate((1, 1, 2)))
    assert first.equals(again) and not first.equals(other)
