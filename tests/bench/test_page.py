"""The bench of a page runs, and compares programs without Python with it."""

import json

import pytest

from bench.report import results
from bench.system import page
from pygrade.serving.pipeline import STEPS
from tests.pipeline.world import copy

_PROGRAM = """#!/usr/bin/env python3
import json, sys
artifact, store, asked, calls = sys.argv[1:]
pages = json.load(open({answers!r}))
assert artifact.endswith("artifact") and store.startswith("lmdb:") and int(calls) == 100
assert len(json.load(open(asked))["requests"]) == len(pages)
row = dict(op="page", cpu_p50_us=2.0, cpu_p99_us=3.0, wall_p50_us=2.5, calls=90)
print(json.dumps(dict(items=pages, rows=[row], allocations=0, pages_per_second={{"1": 2.0}})))
"""


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    return copy(trained_run.parent, tmp_path_factory.mktemp("page") / "own") / "run"


@pytest.fixture(autouse=True)
def small(run, monkeypatch):
    monkeypatch.setattr(page, "trained", lambda: (run, "a small log"))
    for name, value in {"CANDIDATES": 30, "SEEN": 5, "REQUESTS": 8, "K": 4}.items():
        monkeypatch.setattr(page, name, value)
    monkeypatch.setattr(page, "WITHOUT_PYTHON", {})


def fake(monkeypatch, tmp_path, pages):
    """A program that answers with these pages."""
    (tmp_path / "answers.json").write_text(json.dumps(pages))
    program = tmp_path / "page_bench"
    program.write_text(_PROGRAM.format(answers=str(tmp_path / "answers.json")))
    program.chmod(0o755)
    monkeypatch.setattr(page, "WITHOUT_PYTHON", {"C++": program})


def pages_of(run):
    system = page.Pipeline.load(run, seed=1)
    found = [page.rank(system, request).items.tolist() for request in page.requests_of(run, system)]
    system.close()
    return found


def test_every_path_and_step_is_timed(run, tmp_path, monkeypatch, capsys):
    fake(monkeypatch, tmp_path, pages_of(run))
    assert page.main(quick=True, out=tmp_path / "results") == 0
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    assert path.name == f"page-{record['machine']['isa']}.json"
    assert [(row["op"], row["path"]) for row in record["rows"]] == [
        *((op, "Python") for op in ("page", *STEPS)),
        ("page", "C++"),
    ]
    assert all(0.0 < row["cpu_p50_us"] <= row["cpu_p99_us"] for row in record["rows"])
    assert record["system"]["data"] == "a small log" and record["system"]["candidates"] == 30
    assert results.read_all(tmp_path / "results") == {}  # the report of the ops leaves it alone
    assert "page" in capsys.readouterr().out


def test_a_program_with_other_pages_is_not_timed(run, tmp_path, monkeypatch):
    pages = pages_of(run)
    fake(monkeypatch, tmp_path, [*pages[:-1], pages[-1][::-1]])
    with pytest.raises(SystemExit, match="page_bench has other pages"):
        page.main(quick=True, out=None)
