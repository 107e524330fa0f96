"""The command line, end to end on a tiny world."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import Baseline, Mixture
from tests.evaluation.test_readings import make_test
from tests.html_page import HtmlPage

WORLD = shlex.split("--world.log-users 100 --world.test-users 60 --world.items 200")
TINY = shlex.split(
    "--stage1.steps 4 --stage2.steps 6 --stage1.batch-size 16 --stage2.batch-size 16 --stage2.group-size 4 "
    "--static.iterations 2 --cross-fit.folds 2 --no-tensorboard --checkpoint-every 2"
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    assert cli.main(["simulate", "--out", str(path / "logs"), "--requests", "400", "--quiet", *WORLD]) == 0
    data = f"logs:{path / 'logs'}"
    assert cli.main(["train", "--data", data, "--out", str(path / "run"), "--quiet", "--json", *TINY]) == 0
    return path


def result(capsys, *arguments):
    """The JSON object that a command prints; nothing else may stand on standard output."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


BASE_INSTALL = """
import importlib.abc, sys

class Extras(importlib.abc.MetaPathFinder):  # the packages of the extras, as if they were not there
    names = sys.argv[1].split(",")

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Extras())
import pygrade
from pygrade.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
MODULES = {"faiss-cpu": "faiss", "mlflow-skinny": "mlflow", "scikit-learn": "sklearn"}


def base_install(*arguments):
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    packages = {re.split(r"[^\w-]", line)[0] for part in project["optional-dependencies"].values() for line in part}
    extras = {MODULES.get(name, name) for name in packages} - {"pygrade", "cmake", "clang-format", "mpmath"}
    code = [sys.executable, "-c", BASE_INSTALL, ",".join(sorted(extras)), *arguments]
    return subprocess.run(code, capture_output=True, text=True)


def test_the_verbose_version_works_on_a_base_install_and_other_commands_say_what_they_need(tmp_path):
    for flags in ([], ["--json"]):
        run = base_install("--version", "--verbose", *flags)
        assert run.returncode == 0, run.stderr
        assert "instruction" in run.stdout
    record = json.loads(run.stdout)
    assert record["backends"]["cpu"] == "works" and record["packages"]["torch"]
    assert record["cpu"]["instruction_set"] in record["cpu"]["instruction_sets_available"]
    run = base_install("docs", "--fast")
    assert run.returncode == 2 and "--fast" in run.stderr
    run = base_install("test", "plan", "--data", f"logs:{tmp_path}")
    assert run.returncode == 2 and "pip install 'pygrade-ranking[train]'" in run.stderr


def test_train_judges_on_the_held_out_requests(capsys, workplace):
    arguments = ["train", "--data", f"logs:{workplace / 'logs'}", "--out", str(workplace / "run"), "--quiet", *TINY]
    record = result(capsys, *arguments)
    assert record["train"]["requests"] == 320 and record["evaluation"]["num_requests"] == 80
    arms = {"expected value, calibrated", "best static", "production", "logged order", "stage 1", "GRADE"}
    assert arms <= set(record["evaluation"]["rankers"])
    assert record["evaluation"]["baseline"] == next(iter(record["evaluation"]["rankers"])) == "production"
    kept = FusionPolicy.load(workplace / "run" / "policy").mixture
    assert record["verdict"] == record["evaluation"]["verdict"]
    assert kept.sentence == record["verdict"]["sentence"] == record["train"]["cross_fit"]["sentence"]
    assert record["evaluation"]["later"]["text"].startswith("later requests: ")
    report = (workplace / "run" / "report.html").read_text(encoding="utf-8")
    assert escape(kept.sentence) in report and escape(record["evaluation"]["later"]["text"]) in report
    for interval in record["evaluation"]["lifts"]["GRADE"].values():
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert (workplace / "run" / "report.html").exists()
    assert json.loads((workplace / "run" / "evaluation.json").read_text()) == record["evaluation"]
    arguments.remove("--quiet")
    assert cli.main(arguments) == 0  # goes on where it has ended
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(kept.sentence) == 1
    assert all((printed.out + printed.err).count(sentence) == 1 for sentence in record["warnings"])
    assert "what you have (logged order)" in printed.out and "stage 1" not in printed.out.partition(kept.sentence)[0]


def test_evaluate_estimates_the_policy_off_policy(capsys, workplace):
    data, policy = f"logs:{workplace / 'logs'}", str(workplace / "run" / "stage2")
    record = result(capsys, "evaluate", "--data", data, "--policy", policy, "--quiet")
    found = record["off_policy"]
    by_position = {"value", "lift", "position", "position, model", "cascade", "page"}
    assert set(found) == by_position | {"logged", "ips", "snips", "clipped", "dr"}
    logs = read_logs(workplace / "logs").split(0.8)[1]
    drawn = logs.exploration == "dirichlet"
    pages = np.add.reduceat(logs.feedback @ np.array(logs.task_values), logs.offsets[:-1])
    assert found["logged"]["value"] == pytest.approx(pages[drawn].mean())
    assert found["logged"]["effective_sample_size"] == pytest.approx(drawn.sum())
    assert found["snips"]["effective_sample_size"] < drawn.sum()
    trained = json.loads((workplace / "run" / "evaluation.json").read_text())
    assert (record["num_requests"], record["left_out"]) == (80, 320)  # the same requests as in the training
    ndcg = trained["rankers"]["GRADE"]["ndcg"]["value"]
    assert record["rankers"]["GRADE"]["ndcg"]["value"] == pytest.approx(ndcg, abs=0.05)
    assert "never shown" in found["position"]["warning"]  # 10 of 40 were
    assert cli.main(["evaluate", "--data", data, "--policy", policy, "--quiet"]) == 0
    assert "effective sample" in capsys.readouterr().out


def test_simulated_test_widens_intervals_for_peeking(capsys, workplace):
    arms = [str(workplace / "run" / name) for name in ("policy", "stage1")]
    record = result(capsys, "simulate", "--ab", *arms, "--requests", "60", "--quiet", *WORLD)
    assert record["num_requests"] == 60 and set(arms) <= set(record["expected"])
    assert record["expected"]["production"]["lifts"] == {}
    arguments = ["simulate", "--ab", arms[0], "--requests", "60", "--quiet", *WORLD]
    record = result(capsys, *arguments, "--baseline", "best static")
    narrow, wide = record["sampled"]["served"]["lifts"]["ctr"], record["sequential"]["served"]["ctr"]
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    assert record["baseline"] == "best static" and record["sampled"]["best static"]["lifts"] == {}


def test_simulated_test_ranks_by_the_mixture_that_is_served(capsys, workplace, monkeypatch):
    policy = FusionPolicy.load(workplace / "run" / "policy")
    policy.mixture = Mixture(0.0, Baseline("equal", "zlog", (1 / 6,) * 6), "worse", "")
    monkeypatch.setattr(FusionPolicy, "load", lambda path: policy)
    record = result(capsys, "simulate", "--ab", "policy", "--requests", "60", "--quiet", *WORLD)
    assert record["expected"]["served"] == record["expected"]["equal weights"] != record["expected"]["best static"]


def test_a_test_plan_reads_the_variances_from_the_log(capsys, workplace):
    arguments = ["test", "plan", "--data", f"logs:{workplace / 'logs'}", "--quiet"]
    record = result(capsys, *arguments, "--effect", "0.1")
    logs = read_logs(workplace / "logs")
    clicks = np.add.reduceat(logs.feedback[:, 0], logs.offsets[:-1])
    plan, users = record["metrics"][logs.tasks[0]], len(np.unique(logs.user_id))
    assert (record["num_users"], record["num_days"]) == (users, 14)
    assert plan["baseline"]["value"] == pytest.approx(clicks.mean())
    assert plan["users"] == pytest.approx(users * (plan["detectable_lift"] / 0.1) ** 2, rel=0.01)
    assert 0 <= plan["cuped_gain"] < 1 and plan["cuped_users"] <= plan["users"]
    half = result(capsys, *arguments, "--effect", "0.05")["metrics"][logs.tasks[0]]
    assert half["users"] == pytest.approx(4 * plan["users"], rel=0.01)
    coarse = result(capsys, *arguments, "--effect", str(1.1 * plan["detectable_lift"]), "--arms", "2")
    assert coarse["metrics"][logs.tasks[0]]["days"] <= 14
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "finds 1 %" in printed and "users over all arms" in printed and "CUPED" in printed and "> 140" in printed


def tables_of(path: Path, users: int = 300) -> list[str]:
    """Two arms whose second has 50 % more value; before_value explains most of it. The first is CSV."""
    polars = pytest.importorskip("polars")
    rng = np.random.default_rng(0)
    before = rng.gamma(2, 1, 2 * users)
    value = before + rng.exponential(0.2, 2 * users)
    value[users:] *= 1.5
    columns = {"user_id": np.arange(2 * users), "value": value, "views": rng.poisson(9, 2 * users) + 1}
    frame = polars.DataFrame(columns | {"clicks": rng.binomial(columns["views"], 0.3), "before_value": before})
    frame[:users].write_csv(path / "old.csv")
    frame[users:].write_parquet(path / "new.parquet")
    return [f"control={path / 'old.csv'}", f"new={path / 'new.parquet'}"]


def test_a_test_read_reports_lifts_of_tables_of_users(capsys, tmp_path):
    arms = tables_of(tmp_path)
    arguments = ["test", "read", "--arms", *arms, "--metrics", "value", "ctr=clicks/views"]
    record = result(capsys, *arguments, "--planned-users", "1000")
    assert record["users"] == {"control": 300, "new": 300} and not record["sample_ratio"]["mismatch"]
    value, ctr = record["lifts"]["new"]["value"], record["lifts"]["new"]["ctr"]
    assert value["alone"]["low"] < 0.5 < value["alone"]["high"] and value["cuped_gain"] > 0.8
    assert value["anytime"]["low"] < value["corrected"]["low"] < value["alone"]["low"]
    assert ctr["corrected"]["low"] < 0 < ctr["corrected"]["high"] and ctr["cuped_gain"] is None
    assert record["values"]["new"]["ctr"]["value"] == pytest.approx(0.3, abs=0.02)
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "corrected for 2 lifts (max-t)" in printed and "higher" in printed and "undecided" in printed
    assert set(result(capsys, "test", "read", "--arms", *arms)["lifts"]["new"]) == {"value", "views", "clicks"}


def test_a_test_is_read_and_planned_from_a_log_with_slots_or_scores(capsys, tmp_path):
    logs = make_test(3000, lift=1.0)
    write_logs(logs, tmp_path / "slots")
    log = str(tmp_path / "slots")
    record = result(capsys, "test", "read", log, "--planned-users", "3000")
    assert record["action"] == "ship" and record["arm"] == "new" and record["competition"]["task"] == "b"
    assert cli.main(["test", "read", log]) == 0
    printed = capsys.readouterr().out
    assert "item weights" in printed and "Ship. Ship new" in printed and "harvested from" in printed
    scores = np.where(logs.slots < 0, -9, -logs.slots).astype(np.float32)
    columns = {"items": ("s_old", "s_new"), "item_features": scores, "arms": (), "slots": None, "arm_shares": None}
    write_logs(replace(logs, **columns), tmp_path / "scores")
    words = [
        "test",
        "read",
        str(tmp_path / "scores"),
        "--scores",
        "old=i_s_old",
        "new=i_s_new",
        "--planned-users",
        "3000",
    ]
    assert result(capsys, *words)["arms"] == record["arms"]
    assert cli.main([*words[:4], "old=i_x", "new=i_s_new"]) == 2
    assert (
        "scores has 'old=i_x'; expected ARM=COLUMN of distinct arms, one of i_s_old, i_s_new" in capsys.readouterr().err
    )
    plan = result(capsys, "test", "plan", "--data", f"logs:{log}", "--effect", "0.05")["readings"]["new"]
    assert plan["item weights"]["requests"] < plan["whole pages"]["requests"]
    assert cli.main(["test", "plan", "--data", f"logs:{log}"]) == 0
    assert "The same effect in value by each estimator" in capsys.readouterr().out


def test_a_test_read_says_where_users_are_too_few_for_the_skew(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for name, users in (("old", 6000), ("new", 200)):
        money = (rng.random(users) < 0.05) * rng.lognormal(3, 2, users)
        rows = "".join(f"{name}{user},{value:.2f}\n" for user, value in enumerate(money))
        (tmp_path / f"{name}.csv").write_text(f"user_id,money\n{rows}")
    arms = [str(tmp_path / f"{name}.csv") for name in ("old", "new")]
    arguments = ["test", "read", "--arms", *arms, "--shares", "30", "1"]
    lift = result(capsys, *arguments)["lifts"]["new"]["money"]
    assert lift["corrected"]["low"] is lift["corrected"]["high"] is None
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"money of new is not decidable: {lift['undecidable']}" in printed.replace("\n", " ")
    assert not re.search("higher|lower|undecided", printed)


def test_a_test_read_prints_a_mismatch_instead_of_lifts(capsys, tmp_path):
    arguments = ["test", "read", "--arms", *tables_of(tmp_path), "--shares", "0.8", "0.2"]
    record = result(capsys, *arguments)
    assert record["sample_ratio"]["mismatch"] and record["lifts"] is record["values"] is None
    for words in (arguments, ["test", "read", "--counts", "5000", "5400"]):
        assert cli.main(words) == 0
        printed = capsys.readouterr().out
        assert "MISMATCH" in printed and printed.count("\n") == 1
    for words, mismatch in (("5000 5400", True), ("5000 5010", False), ("500 5000 --shares 0.1 1", False)):
        assert result(capsys, "test", "read", "--counts", *words.split())["sample_ratio"]["mismatch"] is mismatch


def test_rank_prints_pages_and_logs_what_it_served(capsys, workplace):
    arguments = ["rank", "--policy", str(workplace / "run" / "policy"), "--data", f"logs:{workplace / 'logs'}"]
    record = result(capsys, *arguments, "--requests", "2", "5", "--k", "3")
    assert [len(page["items"]) for page in record["pages"]] == [3, 3]
    assert record["counters"]["requests"] == 2 and record["counters"]["explored"] == 0
    drawn = result(
        capsys, *arguments, "--requests", "2", "--explore", "--seed", "4", "--log", str(workplace / "served")
    )
    served = read_logs(workplace / "served")
    assert served.request_id.tolist() == [2] and served.exploration.tolist() == ["dirichlet"]
    assert served.weights[0].tolist() == pytest.approx(drawn["pages"][0]["weights"], rel=1e-6)
    assert served.policy_version.tolist() == [drawn["policy_version"]]
    assert cli.main([*arguments, "--k", "2"]) == 0
    printed = capsys.readouterr().out
    assert "request 0, user" in printed and (" weight " in printed) == record["pages"][0]["weighs"]
    assert cli.main([*arguments, "--requests", "s-9"]) == 2
    assert "'s-9'" in capsys.readouterr().err
    logs = read_logs(workplace / "logs").select(slice(5))
    write_logs(replace(logs, request_id=np.array([f"s-{i}" for i in range(5)])), workplace / "named")
    arguments[-1] = f"logs:{workplace / 'named'}"
    titles = [page["title"] for page in result(capsys, *arguments, "--requests", "s-3", "s-1")["pages"]]
    assert [title.split(",")[0] for title in titles] == ["request s-3", "request s-1"]


def test_train_refuses_a_log_without_feedback(capsys, workplace, tmp_path):
    logs = read_logs(workplace / "logs").select(slice(50))
    write_logs(replace(logs, feedback=0 * logs.feedback), tmp_path / "logs")
    assert cli.main(["train", "--data", f"logs:{tmp_path / 'logs'}", "--out", str(tmp_path / "run"), *TINY]) == 2
    assert "no shown row has feedback" in capsys.readouterr().err and not (tmp_path / "run").exists()


NAMES = ("[/x]", "[bold red]", "\x1b[31mred\x1b[0m", "$5_to_$10", "a/b", "\u202e", "x" * 300)


def test_names_steer_neither_the_terminal_nor_the_pictures(capsys, workplace, tmp_path):
    logs = read_logs(workplace / "logs").select(slice(120))
    tasks, features = (NAMES + getattr(logs, kind)[len(NAMES) :] for kind in ("tasks", "features"))
    tasks = tasks[: len(logs.tasks)]
    scenario = np.array(NAMES, object)[np.arange(120) % len(NAMES)]
    write_logs(replace(logs, tasks=tasks, features=features, scenario=scenario), tmp_path / "logs")
    data, run = f"logs:{tmp_path / 'logs'}", str(tmp_path / "run")
    assert cli.main(["train", "--data", data, "--out", run, "--quiet", *TINY]) == 0
    assert cli.main(["rank", "--data", data, "--policy", f"{run}/policy", "--k", "2"]) == 0
    printed = capsys.readouterr()
    for name in ("[/x]", "[bold red]", "\\x1b[31mred", "$5_to_$10"):
        assert name in printed.out
    assert "\x1b" not in printed.out + printed.err and "\u202e" not in printed.out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Weights served" in HtmlPage(page).headings and "$5_to_$10" in page
    assert "\x1b" not in page and "\u202e" not in page


def test_tracebacks_are_shown_on_request_only(capsys, monkeypatch):
    def broken(command, arguments):
        raise KeyError("inner")

    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(["docs"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["docs", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PYGRADE_TRACEBACK", "1")
    assert cli.main(["docs"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def heeded_ctrl_c():
    """Children take Ctrl-C even where the tests run in the background, where it starts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(workplace, tmp_path):
    command = [sys.executable, "-m", "pygrade", "train", "--data", f"logs:{workplace / 'logs'}"]
    command += ["--out", str(tmp_path / "run"), *TINY, "--stage2.steps", "100000", "--checkpoint-every", "5"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, **pipes)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run" / "checkpoints").glob("stage2-*")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err and err.rstrip().splitlines()[-1].startswith("pygrade: interrupted")
    assert not list((tmp_path / "run").rglob("*partial*"))
    child = subprocess.Popen(command, **pipes)
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith("stage 2: started at"):
            break
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert re.match(r"stage 2: started at \d+ of 100000", lines[-1]), lines


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc to see what the child loads")
@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_while_torch_is_imported_is_one_line():
    child = subprocess.Popen(
        [sys.executable, "-m", "pygrade", "--version", "--verbose"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == b"" and err.startswith(b"pygrade: interrupted") and err.count(b"\n") == 1, err
