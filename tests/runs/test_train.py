"""`pygrade.train`: whatever a log is in, in scripts without a guard, and what it returns."""

import html
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import pygrade
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CemConfig, CrossFitConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.console.run_files import find_run
from pygrade.evaluation.arms import ALONE, FOLDERS
from pygrade.logs import write_logs
from pygrade.serving.ranker import BlendedRanker
from tests.documents import ROOT
from tests.learning import tiny_logs
from tests.refusals import refuses

FAST = TrainConfig(
    policy=PolicyConfig(hidden=(4,)),
    reward=RewardConfig(propensity=0.5),
    static=CemConfig(iterations=1, population=4, elite=2),
    stage1=Stage1Config(steps=4, batch_size=32),
    stage2=Stage2Config(steps=2, batch_size=32),
    cross_fit=CrossFitConfig(folds=2, processes=2),
    tensorboard=False,
)


def table(requests=200):
    """A log with names of its own, as a dict of columns; orders are predicted in per cent."""
    logs = tiny_logs(requests)
    row, shown = logs.row_request, logs.shown
    columns = {
        "session": logs.request_id[row],
        "customer": logs.user_id[row],
        "product": logs.item_id,
        "rank": np.where(shown, logs.position + 1.0, np.nan),
        "mode": logs.context[row, 0],
        "page_order": logs.exploration[row],
    }
    for t, task in enumerate(logs.tasks):
        columns |= {f"p_{task}": logs.predictions[:, t], f"y_{task}": np.where(shown, logs.feedback[:, t], np.nan)}
    columns["p_order"] = 100 * columns["p_order"]
    return pyarrow.table(columns, metadata=None)


def raw_of(logs):
    """[2, N, T] predictions of two requests as the table has them."""
    columns = table()
    return np.stack([columns[f"p_{task}"].to_numpy()[logs.item_id] for task in logs.tasks], -1).reshape(2, -1, 2)


MAP = "request=session,user=customer,item=product,slot=rank,exploration=page_order,x_mode=mode"
SCALE = {"order": "percent"}


@pytest.fixture(scope="module")
def trained():
    return pygrade.train(table(), FAST, map=MAP, values={"order": 2}, scale=SCALE)


def test_a_table_becomes_a_ranker_with_a_verdict_and_a_page(trained, tmp_path):
    assert trained.source == "the table" and trained.summary["task_values"] == {"click": 1.0, "order": 2.0}
    assert trained.learned_from.num_requests == 160 and trained.heldout.num_requests == 40
    assert trained.evaluation["num_requests"] == 40
    verdict = trained.policy.mixture.sentence
    assert (
        str(trained.verdict) == verdict and verdict in repr(trained) and verdict in html.unescape(trained._repr_html_())
    )
    assert len(repr(trained)) < 400
    page = trained.report(tmp_path / "page.html").read_text()
    assert verdict.rstrip(".") in html.unescape(page)


def test_without_grade_a_run_is_judged_and_shown(tmp_path):
    off = replace(FAST, grade=False, stage1=Stage1Config(), stage2=Stage2Config())
    found = pygrade.train(table(), off, tmp_path / "run", map=MAP, scale=SCALE)
    assert next(iter(found.evaluation["weights"])) == ALONE and not FOLDERS.keys() & found.evaluation["lifts"].keys()
    assert "reinforcement" not in found.evaluation and found.rank(found.heldout, k=3).indices.shape == (40, 3)
    page = found.report().read_text()
    assert "<h2>Learning curves" not in page and "Reward on the training log" not in page and "policy alone" in page


def test_it_ranks_logs_and_arrays_alike(trained):
    logs = trained.heldout.select([0, 1])
    by_log = trained.rank(logs, k=3)
    plain = trained.rank(raw_of(logs), logs.context, k=3)
    assert by_log.indices.tolist() == plain.indices.tolist() and by_log.indices.shape == (2, 3)
    assert trained.rank(logs).indices.shape == (2, 10)
    raw = trained.rank(raw_of(logs), [{"mode": float(x)} for x in logs.context[:, 0]], k=3)
    assert raw.indices.tolist() == by_log.indices.tolist() and (raw.weights == by_log.weights).all()
    with pytest.raises(ValueError, match="context has 'mood'"):
        trained.rank(logs.predictions.reshape(2, -1, 2)[:1], {"mood": 1.0})
    refuses(ValueError, "context is given beside a log", trained.rank, logs, logs.context)


def test_a_path_a_log_and_a_log_in_files_give_the_same_policy(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pyarrow.parquet.write_table(table(), "shop.parquet")
    by_path = pygrade.train("shop.parquet", FAST, "run", map=MAP, values={"order": 2}, scale=SCALE)
    logs = pygrade.Logs.from_table(table(), MAP, scale=SCALE)
    write_logs(logs, "logs")
    in_files = pygrade.train("logs", FAST, holdout=0.2, values={"order": 2})
    in_memory = pygrade.train(logs, FAST, values={"order": 2})
    versions = {result.policy.version for result in (trained, by_path, in_files, in_memory)}
    assert len(versions) == 1
    assert by_path.source == "shop.parquet" and in_files.source == "logs"
    assert BlendedRanker.load("run/policy").version in versions
    assert json.loads(Path("run/evaluation.json").read_text())["num_requests"] == 40


def test_prices_and_item_columns_come_with_a_log():
    columns = table()
    price = np.random.default_rng(0).uniform(5, 50, len(columns)).round(2)
    priced = columns.append_column("cost", [price]).append_column("age", [np.arange(len(columns)) % 7.0])
    given = f"{MAP},value=cost,i_age=age"
    trained = pygrade.train(priced, FAST, map=given, value_tasks=["order"], holdout=0.4, scale=SCALE)
    logs = trained.heldout.select([0, 1])
    page = trained.rank(logs, k=3)
    refuses(ValueError, "item_values is missing", lambda: trained.rank(raw_of(logs), logs.context, k=3))
    own = {"item_values": logs.value.reshape(2, -1)}
    if trained.policy.correction is not None:
        own["items"] = logs.item_columns.reshape(2, -1, 1)
    plain = trained.rank(raw_of(logs), logs.context, k=3, **own)
    assert plain.indices.tolist() == page.indices.tolist()


def test_predictions_without_events_or_without_feedback_stay_inputs():
    columns = table()
    given = dict(zip(columns.column_names, columns.columns, strict=True))
    rng = np.random.default_rng(0)
    given |= {"p_hide": rng.uniform(0, 0.01, len(columns)), "y_hide": np.zeros(len(columns))}
    given |= {"p_share": rng.uniform(0, 0.01, len(columns))}
    trained = pygrade.train(given, FAST, map=MAP, values={"order": 2}, scale=SCALE, holdout=0.4)
    assert trained.policy.tasks == ("click", "order", "hide") and trained.heldout.items == ("p_share",)
    page = trained.rank(trained.heldout.select([0, 1]), k=3)
    assert page.indices.shape == (2, 3) and np.isfinite(page.values).all()


def test_a_long_log_is_read_part_by_part(tmp_path):
    logs = pygrade.Logs.from_table(table(), MAP, scale=SCALE)
    write_logs(logs, tmp_path / "logs", rows_per_file=600)
    config = replace(FAST, sample_requests=100)
    trained = pygrade.train(tmp_path / "logs", config, tmp_path / "run")
    assert trained.learned_from.is_mapped and trained.heldout.num_requests == 40
    assert trained.report().is_file() and trained.summary["sample"]["requests"] == 100
    assert trained.policy.scales == logs.scales and logs.scales["order"].kind == "percent"


def test_the_page_of_a_run_judges_as_its_training_did(tmp_path):
    write_logs(tiny_logs(600, exponent=1.0), tmp_path / "logs")
    config = replace(FAST, reward=RewardConfig())
    trained = pygrade.train(tmp_path / "logs", config, tmp_path / "run")
    again = find_run(tmp_path / "run", f"logs:{tmp_path / 'logs'}")
    assert again.propensity == trained.propensity and trained.propensity.standard_error > 0
    assert again.evaluation["lifts"] == trained.evaluation["lifts"]


def test_a_log_may_judge_and_none_need(trained):
    early, late = tiny_logs(160), tiny_logs(60, seed=5)
    assert pygrade.train(early, FAST, holdout=late).heldout.num_requests == 60
    alone = pygrade.train(early, FAST, holdout=0)
    assert alone.heldout is None and alone.evaluation is None
    assert alone.report().read_text().startswith("<!doctype html>")


def test_a_temporary_directory_lasts_as_long_as_the_result_and_can_be_kept(tmp_path):
    result = pygrade.train(tiny_logs(120), FAST)
    directory = result.directory
    assert (directory / "policy").is_dir()
    result.save(tmp_path / "kept")
    refuses(FileExistsError, "kept, which exists", result.save, tmp_path / "kept")
    version = result.policy.version
    del result
    assert not directory.exists()
    assert BlendedRanker.load(tmp_path / "kept" / "policy").version == version
    assert not (tmp_path / "kept" / "checkpoints").exists() and (tmp_path / "kept" / "train.json").exists()


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    logs, out, no_task = tiny_logs(60), tmp_path / "run", "values names task 'buy'; expected one of click, order"
    priced = replace(FAST, reward=replace(FAST.reward, task_values=(1.0, 3.0)))
    sloped = replace(FAST, policy=replace(FAST.policy, slope=3.0))
    wrong = [
        (lambda: pygrade.train(logs, FAST, out, map="request=session"), "map is of tables, and logs is a log"),
        (lambda: pygrade.train(logs, FAST, out, fix=True), "fix is of tables, and logs is a log"),
        (lambda: pygrade.train(table(), FAST, out, map=MAP, fx=True), "train has no option 'fx'; did you mean fix?"),
        (lambda: pygrade.train(table(), FAST, out, map=MAP, value={}), "no option 'value'; did you mean values?"),
        (
            lambda: pygrade.train(table(), FAST, out, columns=MAP),
            "no option 'columns'; expected some of config, out_dir",
        ),
        (lambda: pygrade.train(logs, FAST, out, values={"buy": 2}), no_task),
        (lambda: pygrade.train(logs, FAST, out, values={"order": float("nan")}), "values has order=nan"),
        (lambda: pygrade.train(logs, priced, out, values={"order": 2}), "values and config.reward both"),
        (lambda: pygrade.train(logs, FAST, out, holdout=1.0), "holdout is 1.0; expected a share"),
        (lambda: pygrade.train(logs.select([0]), FAST, out, holdout=0.9), "nothing to train on"),
        (lambda: pygrade.train(replace(logs, feedback=0 * logs.feedback), FAST, out), "no shown row has feedback"),
        (lambda: pygrade.train(str(tmp_path / "absent.parquet"), FAST, out), "absent.parquet does not exist"),
        (lambda: pygrade.train([], FAST, out), "logs is an empty list"),
        (
            lambda: pygrade.train(logs, sloped, out),
            "policy.slope is 3.0; expected it with --policy.transform log1p alone",
        ),
        (lambda: pygrade.train(logs, "runs/x"), "config is 'runs/x'; expected a TrainConfig; the directory is out_dir"),
        (lambda: pygrade.train(logs, FAST, out, values=[1, 2]), r"values is \[1, 2\]; expected task → number"),
        (
            lambda: pygrade.train(logs, FAST, out, value_tasks=3),
            "value_tasks is 3; expected a task, or a list of tasks",
        ),
        (lambda: pygrade.train(logs, FAST, out, holdout="0.2"), "holdout is '0.2'; expected a share"),
        (lambda: pygrade.train(3, FAST, out), "table is a int; expected"),
    ]
    for call, message in wrong:
        refuses((ValueError, TypeError, FileNotFoundError), message, call)
    assert not out.exists()


SCRIPT = """
print("script", flush=True)
import pygrade
from pygrade.training import cross_fit
from tests.runs.test_train import FAST, tiny_logs
cross_fit._POOL_REQUESTS = 1
result = pygrade.train(tiny_logs(200), FAST)
assert result.summary["cross_fit"]["mixtures"], "no folds were trained"
print(result.policy.version)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_trains_in_processes_and_gets_the_same_policy(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["script", pygrade.train(tiny_logs(200), FAST).policy.version]


def test_signatures_are_for_people():
    """Aliases by their names, not what they stand for; of the ops the types of numpy."""
    kinds = [getattr(pygrade, name) for name in set(pygrade.__all__) - {"__version__", "Rollout"}]
    kinds = [kind for kind in kinds if "ops" not in kind.__module__]
    methods = [m for kind in kinds for name, m in vars(kind).items() if name[0] != "_" and inspect.isfunction(m)]
    texts = [str(inspect.signature(function)) for function in (*kinds, *methods)]
    assert len(texts) > 60 and not [text for text in texts if re.search(r"numpy\.|collections\.abc|0x", text)]
    assert len(str(inspect.signature(pygrade.train))) < 500


def test_one_task_is_no_list_and_a_later_frame_judges(capsys):
    priced = table().append_column("cost", [np.ones(2400)])
    calls, words = [], {"map": f"{MAP},value=cost", "value_tasks": "order", "scale": SCALE, "values": {"order": 3}}
    late = priced.slice(1920).to_pandas()
    found = pygrade.train(priced.slice(0, 1920), FAST, holdout=late, on_step=lambda *call: calls.append(call), **words)
    learned, held = found.learned_from.logs, found.heldout
    assert held.num_requests == 40 and held.scales == learned.scales and held.columns == learned.columns
    assert held.value_tasks == ("order",) == learned.value_tasks and held.task_values == (1.0, 3.0)
    assert [name for name, done in calls if not done] == ["reading", "learning", "cross-fitting", "judging"]
    assert ("stage1", 4) in calls and ("stage2", 2) in calls
    assert capsys.readouterr().err.startswith("pygrade: 1 of 4, reading\n")
