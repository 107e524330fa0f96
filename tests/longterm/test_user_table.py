"""The table of an experiment: read from files, refused by file, column and user; the command and its page."""

import json

import numpy as np
import polars
import pytest

from pygrade.cli.main import main
from pygrade.longterm.user_table import load_users
from tests.longterm.users import frame_of as as_frame
from tests.longterm.users import make_plan, make_users


def write(tmp_path, frame, name="users.parquet"):
    path = tmp_path / name
    frame.write_csv(path) if name.endswith("csv") else frame.write_parquet(path)
    return path


@pytest.mark.parametrize("name", ["users.csv", "users.parquet"])
def test_reads_what_a_file_has(tmp_path, name):
    table = make_users(300, segments={"a": lambda p: p[:, 0] * 0, "b": lambda p: p[:, 0] * 0}, cohorts=2)
    table.amounts["before_money"][:7] = np.nan
    read = load_users(write(tmp_path, as_frame(table), name))
    assert read.tasks == ("click",) and read.segments == ("a", "b") and read.users == 300
    assert np.array_equal(read.points[read.setting], table.points[table.setting])
    assert np.array_equal(read.cohort, table.cohort) and np.array_equal(read.segment, table.segment)
    for column, values in table.amounts.items():
        assert np.allclose(read.amounts[column], values, equal_nan=True), column
    assert read.points[read.base].tolist() == [0.0] and read.moved == 0


def test_users_at_several_settings_are_counted_and_repeated_rows_refused(tmp_path):
    frame = as_frame(make_users(200))
    again = frame.head(20).with_columns(shift_click=polars.col("shift_click") - 100)
    assert load_users(write(tmp_path, polars.concat([frame, again]))).moved == 20
    with pytest.raises(ValueError, match="user 'u0' is there twice with the same setting; want a row per user"):
        load_users(write(tmp_path, polars.concat([frame, frame.head(1)])))
    served = frame.with_columns(
        served_click=polars.when(polars.col("user_id") == "u3").then(9.0).otherwise("shift_click")
    )
    assert load_users(write(tmp_path, served)).served_otherwise == pytest.approx(1 / 200)


def test_errors_name_what_is_wrong(tmp_path):
    frame = as_frame(make_users(200))
    with pytest.raises(ValueError, match="no column shift_<task>; want the shift"):
        load_users(write(tmp_path, frame.drop("shift_click")))
    with pytest.raises(ValueError, match="column 'money_28' is missing"):
        load_users(write(tmp_path, frame.drop("money_28")))
    with pytest.raises(ValueError, match="want the base, a shift of 0"):
        load_users(write(tmp_path, frame.filter(polars.col("shift_click") != 0)))
    two = frame.with_columns(
        experiment=polars.when(polars.col("enrolled") < 0).then(polars.lit("x")).otherwise(polars.lit("y"))
    )
    assert load_users(write(tmp_path, two), "y").users == 200
    with pytest.raises(ValueError, match=r"experiment is .z.; .* has y"):
        load_users(write(tmp_path, two), "z")
    mixed = polars.concat([two, two.with_columns(experiment=polars.lit("x"), user_id="v" + polars.col("user_id"))])
    with pytest.raises(ValueError, match="has the experiments x, y; name one with --experiment"):
        load_users(write(tmp_path, mixed))


def test_the_command_prints_the_sentence_and_writes_a_page(tmp_path, capsys):
    users = write(tmp_path, as_frame(make_users(8_000)))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(make_plan().to_dict()))
    page = tmp_path / "read.html"
    words = ["longterm", "read", str(users), "--plan", str(plan), "--report", str(page)]
    assert main([*words[:2], "--help"]) == 0 and "longterm-read" in capsys.readouterr().out
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Settings, and what they earn over the base" in shown and "not validated here" in shown
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sentence"] in " ".join(shown.split()) and record["users"] == 8_000
    text = page.read_text()
    assert "<table" in text and "The index" in text and "before_money equal over the settings" in text
    finished = tmp_path / "read.json"
    finished.write_text(json.dumps(record))
    assert main([*words, "--finished", str(finished), str(finished)]) == 0
    (tmp_path / "other.json").write_text("{}")
    assert main([*words[:3], "--plan", str(tmp_path / "other.json")]) == 2
    assert "not a plan of an experiment" in capsys.readouterr().err
