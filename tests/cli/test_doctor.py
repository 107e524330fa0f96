"""`pygrade doctor` on a shop's files, whole and foul: each fault is named, and fixed or refused."""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.cli.parse import parse
from pygrade.logs import LogContractError, Logs, read_logs
from tests.cli.test_cli import TINY, result
from tests.logs.shop import CANDIDATES, shop

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
SHOP = shop(150)
ROWS = len(SHOP["rank"])


def examined(capsys, path, *options):
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.main(["doctor", str(path), "--quiet", *options])
    found = capsys.readouterr()
    sys.stderr.write(found.err)  # shown where the test fails
    return code, *found


def write(path, **columns):
    parquet.write_table(pa.table({**SHOP, **columns}), path)
    return path


@pytest.fixture
def shop_file(tmp_path):
    return write(tmp_path / "shop.parquet")


def test_a_file_that_is_not_there_is_named_before_anything_is_imported(tmp_path):
    program = f"""
import sys
from pygrade.cli.main import main
code = main(["doctor", {str(tmp_path / "absent.csv")!r}])
print(code, "numpy" in sys.modules, "pygrade.cli.commands.doctor" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "2 False False\n"
    assert (
        found.stderr == f"pygrade: {tmp_path / 'absent.csv'} does not exist; expected a file or a directory of files\n"
    )


def test_train_on_a_table_that_is_no_log_yet_names_doctor(capsys, shop_file, tmp_path):
    assert cli.main(["train", "--data", f"logs:{shop_file}", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert f"no log yet: pygrade doctor {shop_file} --out DIR makes one of it" in capsys.readouterr().err


def test_a_shops_table_becomes_a_log_that_train_takes(capsys, shop_file, tmp_path):
    out = tmp_path / "shop"
    code, text, _ = examined(capsys, shop_file, "--values", "buy=20", "--out", str(out))
    assert code == 0
    for part in (
        "What the columns of shop.parquet are",
        "changed: 'rank' (slot): counted from 1, now from 0",
        "! 150 requests: below 5,000",
        "What exploration would buy",
        f"Next command: pygrade train --data logs:{out / 'logs'} --out {out}-run\n",
    ):
        assert part in text
    logs = read_logs(out / "logs")
    assert logs.tasks == ("click", "buy") and logs.task_values == (1.0, 20.0) and logs.num_requests == 150
    arguments = ["train", "--data", f"logs:{out / 'logs'}", "--out", str(tmp_path / "run"), "--quiet", "--json", *TINY]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["train"]["requests"] == 120
    assert cli.main(["train", "--data", f"logs:{out / 'logs'}", "--out", str(out), "--quiet", *TINY]) == 2
    assert "pygrade doctor" in capsys.readouterr().err


def test_the_config_that_it_writes_makes_the_same_log_again(capsys, shop_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert examined(capsys, shop_file, "--values", "buy=20", "--out", str(first), "--value-tasks", "buy")[0] == 0
    config = tomllib.loads((first / "pygrade.toml").read_text())
    assert "rates" not in config["doctor"]  # no empty table
    assert config["defaults"]["data"] == "logs:logs"  # relative to the file
    table = config["doctor"]
    assert table["files"] == [str(shop_file)] and "request=session_id" in table["map"]
    values = [f"{task}={value}" for task, value in table["values"].items()]
    words = ["--map", *table["map"], "--values", *values, "--value-tasks", *table["value_tasks"], "--out", str(second)]
    assert examined(capsys, shop_file, *words)[0] == 0
    files = [path.read_bytes() for path in sorted((first / "logs").iterdir())]
    assert files == [path.read_bytes() for path in sorted((second / "logs").iterdir())]
    record = json.loads((second / "doctor.json").read_text())
    assert record["map"]["request"] == "session_id" and record["profile"]["size"]["requests"] == 150
    assert (second / "doctor.html").read_text().startswith("<!doctype html>")


def test_the_ranking_in_use_is_taken_apart_by_weights_or_by_the_column_of_its_score(capsys, tmp_path):
    score = np.array(SHOP["pred_click"], float) + 20 * np.array(SHOP["pred_buy"], float)
    path = write(tmp_path / "shop.parquet", ordering=score)
    code, text, _ = examined(capsys, path, "--production", "ordering", "--out", str(tmp_path / "first"))
    assert code == 0 and "formula: 1 click + 20 buy; weights fitted to the score, which explain 100 %" in text
    assert "The ranking in use" in (tmp_path / "first/doctor.html").read_text()
    first, again = tmp_path / "first/pygrade.toml", ("--json", "--out", str(tmp_path / "second"))
    assert cli.main(["doctor", "--config", str(first), *again]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["heads"][1]["weight"] == pytest.approx(20)
    code, text, _ = examined(capsys, path, "--production", "click=0.3,buy=7")
    assert code == 0 and "formula: 0.3 click + 7 buy; weights as given" in text
    code, _, err = examined(capsys, path, "--production", "click=much")
    assert code == 2 and "production has 'click=much'; expected TASK=WEIGHT, COLUMN=xMULTIPLIER" in err


def test_without_a_directory_nothing_is_written(capsys, shop_file, tmp_path):
    code, text, _ = examined(capsys, shop_file, "--json")
    assert code == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["shop.parquet"]
    assert set(json.loads(text)) == {
        *("map", "left_out", "changed", "warned", "contract", "values", "profile", "guessed", "summary")
    }


def test_the_last_line_is_a_command_that_works(capsys, shop_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = shop_file.rename(tmp_path / "my shop.parquet")
    _, text, _ = examined(capsys, path.name, "--values", "click=1,buy=20", "--map", "x_clock=hour")
    *_, can, limit, command = text.splitlines()
    assert can == "You can train: yes." and limit.startswith("What limits it: nothing shows how often")
    program, *words = shlex.split(command.removeprefix("Next command: "))
    assert program == "pygrade" and cli.main(words) == 0
    written = capsys.readouterr().out.splitlines()[-1]
    assert written == "Next command: pygrade train --data logs:runs/log/logs --out runs/log-run"
    assert parse("train", shlex.split(written)[4:]).out == Path("runs/log-run")
    positive = write(tmp_path / "positive.parquet", clicked=[slot is not None for slot in SHOP["rank"]])
    _, text, _ = examined(capsys, positive, "--out", "all", "--values", "buy=20")
    assert "\nYou can train: not yet (POSITIVES ONLY: each of the " in text
    assert cli.main(shlex.split(text.splitlines()[-1].removeprefix("Next command: "))[1:]) == 0
    assert (tmp_path / "all-run" / "policy").is_dir()


def test_a_foreign_directory_and_a_log_are_refused(capsys, shop_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "logs").mkdir()
    (tmp_path / "mine" / "logs" / "notes.txt").write_text("mine")
    code, _, err = examined(capsys, shop_file, "--out", str(tmp_path / "mine"))
    assert code == 2 and "notes.txt, which is not part of a log" in err
    code, _, err = examined(capsys, shop_file, "--out", str(shop_file))
    assert code == 2 and "a file; expected a directory" in err


def test_foul_file_without_what_a_log_needs_gets_the_contract(capsys, tmp_path):
    table = {name: values for name, values in SHOP.items() if name not in ("session_id", "rank", "pred_click")}
    parquet.write_table(pa.table({**table, "\x1b[31mred": SHOP["rank"]}), tmp_path / "bare.parquet")
    code, text, err = examined(capsys, tmp_path / "bare.parquet", "--json")
    assert code == 2 and not text
    lines = err.splitlines()
    assert lines[0].split()[:3] == ["column", "required", "bare.parquet"]
    assert lines[-1].startswith(
        "pygrade: bare.parquet: no column is known for request, slot, <task>, p_<task>; say which by --map request=COL"
    )
    assert any(line.split()[:3] == ["request", "yes", "missing"] for line in lines)
    assert "'pred_buy' looks like a prediction" in err and "\x1b" not in err
    assert (
        examined(capsys, tmp_path / "bare.parquet", "--map", "request=customer+at,slot=\x1b[31mred,skip=clicked")[0]
        == 0
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--map", "request=nothing"], "no column 'nothing'"),
        (["--scale", "click"], "expected TASK=SCALE"),
        (["--values", "like=2"], "values names task 'like'; expected one of click, buy"),
        (["--value-tasks", "like"], "value_tasks names task 'like'"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, shop_file, tmp_path, words, message):
    code, _, err = examined(capsys, shop_file, *words, "--out", str(tmp_path / "out"))
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out" / "logs").exists()


def test_evaluate_and_rank_match_columns_by_name(capsys, shop_file, tmp_path, monkeypatch):
    """A policy of yesterday judges a log with its features in another order and one more."""
    monkeypatch.setenv("PYGRADE_TRACEBACK", "1")
    out = tmp_path / "first"
    assert examined(capsys, shop_file, "--out", str(out))[0] == 0
    run = tmp_path / "run"
    assert cli.main(["train", "--data", f"logs:{out / 'logs'}", "--out", str(run), "--quiet", "--json", *TINY]) == 0
    columns = {name: SHOP[name] for name in reversed(SHOP)}
    columns["weather"] = np.repeat(np.arange(ROWS // CANDIDATES) % 5, CANDIDATES).tolist()
    columns["pred_like"], columns["liked"] = SHOP["pred_click"], SHOP["clicked"]
    parquet.write_table(pa.table(columns), tmp_path / "later.parquet")
    assert examined(capsys, tmp_path / "later.parquet", "--out", str(tmp_path / "later"))[0] == 0
    later = read_logs(tmp_path / "later" / "logs")
    assert later.features == ("hour", "buyer_score", "device=app", "device=web", "weather")
    assert later.tasks == ("buy", "click", "like")

    def judged(path):
        found = result(capsys, "evaluate", "--data", f"logs:{path / 'logs'}", "--policy", str(run / "policy"))
        return found["rankers"]["GRADE"]

    assert judged(out) == judged(tmp_path / "later")
    arguments = ["--data", f"logs:{tmp_path / 'later' / 'logs'}", "--policy", str(run / "policy")]
    assert cli.main(["evaluate", *arguments]) == 0
    noted = capsys.readouterr().err
    assert "the policy does not know tasks like of the log: left out" in noted and "features weather" in noted
    assert result(capsys, "rank", *arguments, "--allow-unproven")["pages"][0]["tasks"] == ["click", "buy"]
    lacking = {name: values for name, values in SHOP.items() if name != "hour"}
    parquet.write_table(pa.table(lacking), tmp_path / "lacking.parquet")
    assert examined(capsys, tmp_path / "lacking.parquet", "--out", str(tmp_path / "lacking"))[0] == 0
    arguments = ["evaluate", "--data", f"logs:{tmp_path / 'lacking' / 'logs'}", "--policy", str(run / "policy")]
    assert cli.main(arguments) == 2
    assert (
        "the policy does not fit: the log has no features hour; it has device=app, device=web, buyer_score"
        in capsys.readouterr().err
    )


PREDICTIONS, FEEDBACK = ("pred_click", "pred_buy"), ("clicked", "bought")


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (PREDICTIONS, "Without predictions there is nothing to weigh: .* by pygrade pipeline"),
        (FEEDBACK, "Predictions without feedback teach nothing yet: .* or start by .* --cold-start"),
        (
            (*PREDICTIONS, *FEEDBACK, "session_id", "rank", "price"),
            "Events alone .* passed over: .*doctor FILES --events",
        ),
    ],
)
def test_half_a_log_is_recognized(lacking, said):
    table = {name: values for name, values in shop(20).items() if name not in lacking}
    with pytest.raises(LogContractError, match=said) as caught:
        Logs.from_table(table)
    assert caught.value.summary.count("slot=none") == 0


def foul_csv(path):
    """A shop's table as text, with a hole in a prediction, a word among slots, and a request of two users."""
    table = {name: [*values] for name, values in SHOP.items()}
    table["pred_buy"] = [f"{100 * p:.4f}%" for p in table["pred_buy"]]
    table["pred_click"][12], table["rank"][23], table["customer"][35] = None, "top", "nobody"
    table["hide"] = ["no" if slot else None for slot in SHOP["rank"]]
    table["p_hide"] = [0.01] * ROWS
    lines = [
        ",".join("" if value is None else str(value) for value in row) for row in zip(*table.values(), strict=True)
    ]
    path.write_text("\n".join([",".join(table), *lines]) + "\n")
    return path


def test_every_problem_of_a_foul_file_in_one_run_and_a_fix(capsys, tmp_path):
    path, out = foul_csv(tmp_path / "foul.csv"), tmp_path / "out"
    code, text, err = examined(capsys, path, "--out", str(out))
    assert code == 2 and not text and not (out / "logs").exists()
    *problems, last = err.splitlines()
    for (column, row), problem in zip({"rank": 23, "customer": 35, "pred_click": 12}.items(), problems, strict=True):
        assert problem.startswith(f"- {column!r}") and f" in row {row} of foul.csv" in problem
    assert last == "pygrade: foul.csv has 3 problems (--fix leaves out 3 of 150 requests (30 rows))"
    code, text, _ = examined(capsys, path, "--out", str(out), "--fix")
    assert code == 0 and "\nfixed: left out 3 of 150 requests (30 rows)\n" in text
    assert "guessed: slot=rank (by its name)" in text and "hide=-1 in --values (harm, by its name)" in text
    logs = read_logs(out / "logs")
    assert logs.num_requests == 147 and logs.task_values[logs.tasks.index("hide")] == -1
    assert "fix = true" in (out / "pygrade.toml").read_text()
