"""The Python examples and the notebooks run as they are."""

import importlib
import shutil
import subprocess
import sys

import pytest

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
    first, second = importlib.import_module("grade_minimal").main(4000)
    assert first > 1 and second > 1
    assert len((EXAMPLES / "python" / "grade_minimal.py").read_text().splitlines()) <= 200


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
