"""The Python examples and the notebooks run as they are."""

import importlib
import json
import shutil
import subprocess
import sys

import pytest
from scipy import stats

from pygrade.metrics.intervals import student_t
from tests.documents import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = {  # what each prints when it works
    "torch_ranker.py": "page:",
    "trade_offs.py": "events per page",
    "pipeline.py": "known events of the user",
    "mmoe_to_page.py 900": "page: mmoe.html",
    "lightgbm_to_page.py 900": "page: lightgbm.html",
    "search_hits_to_page.py 600": "page: search.html",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name, tmp_path):
    if name.startswith("lightgbm"):
        pytest.importorskip("lightgbm", reason="lightgbm is not installed; it is in the extra study")
    script, *arguments = name.split()
    run = subprocess.run(
        [sys.executable, EXAMPLES / "python" / script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert SCRIPTS[name] in run.stdout
    for page in tmp_path.glob("*.html"):
        assert page.stat().st_size > 100_000 and b"sliders" in page.read_bytes()


def test_grade_in_one_file_beats_the_weights_that_it_began_with(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "python")
    lifts = importlib.import_module("grade_minimal").run(4000, 0, library=False)
    assert lifts.keys() == {"stage 1", "stage 2"} and min(lifts.values()) > 1
    assert len((EXAMPLES / "python" / "grade_minimal.py").read_text().splitlines()) <= 150


@pytest.mark.slow
def test_grade_in_one_file_beside_the_library_writes_what_it_prints(tmp_path):
    script, path = EXAMPLES / "python" / "grade_minimal.py", tmp_path / "result.json"
    small = [sys.executable, script, "--requests", "600", "--seeds", "0", "1", "--json", path]
    output = subprocess.run(small, capture_output=True, text=True, timeout=300, check=True).stdout
    assert printed(json.loads(path.read_text())) == output.splitlines()


def test_the_guide_to_grade_in_one_file_shows_the_committed_result():
    record = json.loads((ROOT / "bench/results/grade_minimal.json").read_text())
    guide = (ROOT / "docs/guides/grade-in-one-file.md").read_text()
    assert "\n".join(["```", *printed(record), "```"]) in guide


def printed(record):
    """What the script prints of a result, computed here."""
    lifts = {name: [lift[name] for lift in record["lifts"]] for name in record["lifts"][0]}
    shops = len(record["seeds"])

    def words(values, sign="+"):
        half = student_t(shops - 1) * stats.sem(values)
        return f"{sum(values) / shops:{sign}.2f} ± {half:.2f} %"

    head = f"True value over hand-tuned weights, {record['requests']:,} logged requests, {shops} shops:"
    rows = [f"  {name:8} {words(values)}" for name, values in lifts.items()]
    shares = [100 * ours / theirs for ours, theirs in zip(lifts["stage 2"], lifts["library"], strict=True)]
    return [head, *rows, f"  this file earns {words(shares, '')} of the library's gain"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((EXAMPLES / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for folder in ("notebooks", "python"):
        shutil.copytree(EXAMPLES / folder, tmp_path / folder)
    code = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3').execute()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path.name], cwd=tmp_path / "notebooks", capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_notebooks_are_committed_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebooks = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 3
    for path in notebooks:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert cells and not any(cell.outputs or cell.execution_count for cell in cells), path.name
