"""`pygrade doctor` on raw tables of warehouses: what it reads is compared with what they hold.

Each table is *right*, *refused rightly* (the refusal names what, where and the cure), *refused*, or *WRONG*: read, and
not as its truth has it. `truth.toml` has the truth and today's outcome, the faults that are left included.
"""

import contextlib
import io
import json
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest

from pygrade import train
from pygrade.cli import main as cli
from pygrade.config.training import TrainConfig
from pygrade.logs import read_logs
from tests.raw_tables.judge import differences, event_differences, signatures
from tests.raw_tables.tables import TABLES, write_table
from tests.raw_tables.world import true_gain

COUNTS = {"right": 16, "refused rightly": 8}


def examine(name, folder, *options):
    """The outcome of a table, and the importer's words."""
    truth, out = TABLES[name], folder / "out"
    path, rows = write_table(name, folder)
    words = ["doctor", str(path), "--out", str(out), "--json", *options]
    text, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
        code = cli.main([*words, "--map", truth["map"]] if truth.get("map") and "--map" not in options else words)
    record = json.loads(text.getvalue()) if code == 0 else {}
    headline = record.get("profile", {}).get("headline", "")
    answer = "\n".join([errors.getvalue(), headline, *record.get("profile", {}).get("sentences", ())])
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


CURES = {  # of refusals, by one line, where the truth has none
    "duplicate_names": ("--map", "click=clicked,p_click=score:1,order=ordered,p_order=score:2"),
    "lost_feedback": ("--map", "where=clicked is not null"),
}
CURES |= {name: tuple(table["cure"]) for name, table in TABLES.items() if "cure" in table}
PRICED, LISTED = {"click": 1.0, "order": 0.5}, {"click": 1.0, "order": 9.0}
PLANTED = {  # table → what events are worth; each effect (user, item, hour) is in one of them
    "separate_tables": PRICED,
    "german_nested": PRICED,
    "list_columns": PRICED,
    "snowflake_variant": PRICED,
    "kafka_dump": LISTED,
}


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


@pytest.mark.parametrize("name", CURES)
def test_the_cure_that_is_named_reads_the_table_right(name, outcome, tmp_path):
    assert outcome(name)[0] == "refused rightly"
    found, answer = examine(name, tmp_path, *CURES[name])
    assert found == "right", answer


def test_text_of_another_encoding_is_read_as_the_map_says(tmp_path):
    """The rows that it is compared with name *vêtements* otherwise, and nothing else."""
    found, answer = examine("latin1", tmp_path, "--map", "encoding=latin-1")
    assert found == "WRONG: feature category=vêtements differs", answer


def test_most_tables_are_read_right_or_refused_rightly():
    assert Counter(table["today"].split(":")[0] for table in TABLES.values()) == COUNTS
    assert COUNTS["right"] + len(CURES) >= 22


def read(name, folder, seed):
    """The log that doctor makes of a table of 8,000 requests, and its rows in the same order."""
    path, rows = write_table(name, folder, 8_000, seed)
    priced = ("--value-tasks", "order") if PLANTED[name] is PRICED else ()
    values = ",".join(f"{task}={value}" for task, value in PLANTED[name].items())
    words = ["doctor", str(path), "--out", str(folder / "out"), "--values", values, *priced, "--quiet"]
    assert cli.main([*words, "--map", TABLES[name]["map"]] if "map" in TABLES[name] else words) == 0
    logs = read_logs(folder / "out" / "logs")
    found = signatures(logs.row_request, logs.user_id.astype(str)[logs.row_request], logs.item_id.astype(str))
    wanted = signatures(rows["request"], rows["user"].cast(pl.String), rows["item"].cast(pl.String))
    return logs, rows[np.concatenate(list(wanted.values()))], np.concatenate([found[key] for key in wanted])


@pytest.mark.release
@pytest.mark.parametrize("name", PLANTED)
def test_a_training_on_a_raw_table_learns_what_is_planted_in_it(name, tmp_path):
    """85 % of what a ranking that knows the effect earns over expected value, on requests that trained nothing."""
    logs, *_ = read(name, tmp_path / "first", 1)
    later, rows, order = read(name, tmp_path / "later", 2)
    page = train(logs, TrainConfig(grade=False), tmp_path / "run").rank(later, k=64)
    place = np.full(later.num_rows, 64)
    kept = page.indices >= 0
    place[(later.offsets[:-1, None] + page.indices)[kept]] = np.nonzero(kept)[1]
    share = true_gain(rows, -place[order]) / true_gain(rows, rows["true_value"])
    assert share >= 0.85, f"{share:.1%} of the oracle"


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
