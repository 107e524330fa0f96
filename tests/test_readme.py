"""README: its commands and Python run, its figures are those of the study, and it stays short."""

import json
import re
import shlex

import pytest

from pygrade import _core
from tests import documents
from tests.documents import ROOT, Shell, blocks, lines_of, run

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
JOURNEY = next(block for block in blocks(README, "sh") if "pygrade doctor" in block)  # from a log to a verdict
PYTHON = blocks(README, "python")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which the commands from a log to a verdict ran."""
    path = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        Shell().run(JOURNEY)
    return path


@pytest.mark.parametrize("code", PYTHON, ids=[f"python-{i}" for i in range(len(PYTHON))])
def test_its_python_runs(code, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    run(code, "README.md")
    assert capsys.readouterr().out.strip()


def test_its_request_is_answered_as_it_says(place):
    (served,) = [block for block in blocks(README, "sh") if "pygrade serve" in block]
    (curl,) = [shlex.split(line) for line in lines_of(served) if line.startswith("curl")]
    service = _core.Service(str(place / "runs/mine"), '{"allow_unproven": true}')  # its log is a small one
    status, _, answer, _ = service.handle("POST", "/v1/rank", curl[-1].encode())
    shown = set(re.findall(r'[{,]\s*"(\w+)":', "".join(blocks(README, "json"))))
    assert status == 200 and len(shown) > 8 and shown <= {*json.loads(answer)}
    assert json.loads(answer)["user"] == "known"  # the request has the columns of the log


@pytest.mark.slow
def test_its_verdict_is_what_the_journey_prints(tmp_path, monkeypatch, capsys):
    shown = next(block for block in TEXT.split("```\n") if block.startswith("Test the new ranking"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(documents, "SMALL", {})
    Shell().run(JOURNEY)
    printed = " ".join(capsys.readouterr().out.split())  # lines may be wrapped
    assert len(shown.splitlines()) == 2
    for line in shown.splitlines():  # figures up to a unit of their last digit: sums differ with BLAS and threads
        words = re.sub(r"\d+(\\\.\d+)?", r"([\\d.]+)", re.escape(" ".join(line.split())))
        found, wanted = re.search(words, printed), re.findall(r"\d+(?:\.\d+)?", line)
        assert found, words
        for figure, own in zip(wanted, found.groups(), strict=True):
            assert abs(float(own.rstrip(".")) - float(figure)) < 1.01 * 10.0 ** -len(figure.partition(".")[2])
    assert shown.splitlines()[0] in (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").splitlines()


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130
    page = next(code for code in PYTHON if "BlendedRanker.load" in code)
    assert len([line for line in (JOURNEY + page).splitlines() if line.strip()]) <= 15
    ops = next(code for code in PYTHON if "fuse_topk" in code)
    assert len([line for line in ops.splitlines() if line.strip()]) <= 6


def test_its_figures_are_those_of_the_study():
    """Each row of "Does it help?" against the committed results."""
    study = json.loads((ROOT / "bench/results/study.json").read_text(encoding="utf-8"))["tables"][0]["rows"]
    rows = {(row[0], row[1]): row for row in study}
    worlds = {"the model overrates hyped items": "hyped", "the model is accurate": "accurate"}
    shown = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (.+) \|$", TEXT, re.M)
    assert len(shown) >= 4
    for world, requests, cells in shown:
        _, _, _, static, _, trees, gated, served, *_ = (
            c.replace(" %", "") for c in rows[worlds.get(world, world), requests]
        )
        assert [figure(cell) for cell in cells.split(" | ")] == [static, trees, served or gated]
    *_, lists = json.loads((ROOT / "bench/results/kuairand.json").read_text(encoding="utf-8"))["lists"]
    lift = "{:+.2f} ({:+.2f} to {:+.2f})".format(*lists["lifts"]["served by default"])
    assert f"(KuaiRand-Pure, lists of three days): {lift} %" in TEXT


def figure(cell: str) -> str:
    """``+1.26 ± 0.28`` of ``**+1.26 ± 0.28**, what it is``."""
    found = re.match(r"[*]*([+-]?[\d.]+(?: ± [\d.]+)?)", cell)
    assert found
    return found[1]
