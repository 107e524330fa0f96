"""README: its commands and Python run, its figures are those of the study, and it stays short."""

import re

import pytest

from tests.documents import ROOT, Shell, blocks, run

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


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130
    page = next(code for code in PYTHON if "BlendedRanker.load" in code)
    assert len([line for line in (JOURNEY + page).splitlines() if line.strip()]) <= 15
    ops = next(code for code in PYTHON if "fuse_topk" in code)
    assert len([line for line in ops.splitlines() if line.strip()]) <= 6


def test_its_figures_are_those_of_the_study():
    """Each row of "Does it help?" against the rows of docs/RESULTS.md, which are the committed results."""
    study = (ROOT / "docs/RESULTS.md").read_text(encoding="utf-8")
    rows = {
        "default": "default",
        "predictions biased by hype": "hyped predictions",
        "users with little history": "little history",
        "accurate predictions": "accurate predictions",
    }
    for shown, world in rows.items():
        (line,) = re.findall(rf"^\| {shown} \| (.+) \|$", TEXT, re.M)
        simple, trees, served = line.split(" | ")
        learned, fixed = (
            [cell.strip(" %").replace(" %", "") for cell in row.split(" | ")]
            for row in re.findall(rf"^\| {world} \| (20,000 .+?) \|$", study, re.M)
        )
        assert figure(trees) == learned[4]
        assert figure(served) == learned[9]
        # production, calibrated, and the four forms; expected value itself is 0
        best = max(fixed[2:], key=lambda cell: float(cell.split(" ± ")[0]))
        lift, half = (float(number) for number in best.split(" ± "))
        assert figure(simple) == (best if lift > half else "0")


def figure(cell: str) -> str:
    """``+1.26 ± 0.28`` of ``**+1.26 ± 0.28**, what it is``."""
    found = re.match(r"[*]*([+-]?[\d.]+(?: ± [\d.]+)?)", cell)
    assert found
    return found[1]
