"""Every snippet of the README runs, on what its commands make."""

import re
import shlex
from pathlib import Path

import pytest

from pygrade.cli import main as cli

SMALL = {  # options that make the documented commands small
    "simulate": "--requests 300 --world.log-users 100 --world.test-users 60 --world.items 200",
    "train": "--stage1.steps 3 --stage2.steps 3 --static.iterations 2 --trust.folds 2 --no-tensorboard",
    "rank": "",
}
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
OF_PIPELINE = [snippet for snippet in SNIPPETS if "Pipeline.load" in snippet]  # run in tests/pipeline
OTHERS = [snippet for snippet in SNIPPETS if snippet not in OF_PIPELINE]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which the commands from logs to a page ran."""
    path = tmp_path_factory.mktemp("readme")
    block = next(b for b in re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M) if "pygrade simulate" in b)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["pygrade", name] for name in SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for _, name, *arguments in commands:
            assert cli.main([name, *arguments, *SMALL[name].split(), "--quiet"]) == 0
    return path


@pytest.mark.parametrize("snippet", OTHERS, ids=[f"python-{i}" for i in range(len(OTHERS))])
def test_python_snippet_runs(snippet, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() and "__doc__" not in snippet


def test_the_readme_calls_ranker_pipeline_and_learner():
    for call in ("BlendedRanker.load", "Pipeline.load", "OnlineLearner("):
        assert sum(call in snippet for snippet in SNIPPETS) == 1
