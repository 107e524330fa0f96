"""The example of X's value model: what is planted in a log is named, nothing else is, and its page shows the result."""

import importlib
import json
import re

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pygrade.doctor import audit_ranking
from pygrade.logs import Logs
from tests.documents import ROOT

RESULT = ROOT / "bench/results/x_value_model.json"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples/python")
    return importlib.import_module("x_value_model")


@pytest.mark.parametrize("plant", ["mutuals", "nothing"])
def test_the_planted_error_is_named_and_nothing_else(example, plant):
    log = Logs.from_table(example.World(800, 3, plant).log(), values=example.VALUES)
    errors = audit_ranking(log, example.VALUES).errors
    assert [(error.head, error.segment) for error in errors] == [("reply", "mutual_original is 1")] * (
        plant != "nothing"
    )
    assert all(error.factor.low < 4 / 0.8 < error.factor.high for error in errors)


def test_the_formula_is_the_published_one(example):
    assert len(example.TASKS) == 26 and (example.WEIGHTS < 0).sum() == 5 and example.VALUES["report"] == -234
    world = example.World(4, 0, "nothing")
    page, score = world.page(world.predicted @ example.WEIGHTS)
    assert all(len(set(items)) == example.SLOTS for items in page) and (score > 0).all()
    ranked = np.take_along_axis(score, page, 1)
    assert (np.diff(ranked, axis=1) <= 0).all()
    same = np.full_like(score, 1.0)  # equal sums: the tax alone is left where an author has one post, else decay, too
    world.author[:] = np.arange(example.CANDIDATES)
    assert np.allclose(world.page(same)[1], 1.001 * world.tax)
    world.author[:, 1], world.tax[:] = 0, 1.0
    same[:, 0] = 2.0
    assert np.allclose(world.page(same)[1][:, 1], 1.001 * (0.75 * 0.5 + 0.25))
    assert len((ROOT / "examples/python/x_value_model.py").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.slow
def test_the_example_runs(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(example, "MOVING", 2)
    words = ["x_value_model.py", "--dir", str(tmp_path / "x"), "--requests", "800", "--save", str(tmp_path / "x.json")]
    monkeypatch.setattr("sys.argv", words)
    example.main()
    out, (run,) = capsys.readouterr().out, json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["runs"]
    assert "reply is" in out and "where mutual_original is 1" in out and run["lifts"]["+0"] == 0.0
    assert run["lifts"]["truth, sorted"] > run["lifts"]["+0, sorted"] > 0 and (tmp_path / "x/mutuals-0").is_dir()


def test_the_page_shows_the_result():
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    text = (ROOT / "docs/guides/x-value-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^ +([+-]\d+\.\d\d) ± (\d+\.\d\d) %  (.+)$", text, re.M)
    assert len(rows) == len(runs[0]["lifts"])
    for mean, _, name in rows:
        assert abs(float(mean) - np.mean([run["lifts"][name] for run in runs])) < 0.006, name
    assert all(run["verdict"].partition(".")[0] in text for run in runs[:1])
