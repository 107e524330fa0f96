"""Every snippet of the README runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {  # what makes each documented command small
    "simulate": ["--num-requests", "2000"],
    "train": ["--stage1.steps", "3", "--stage2.steps", "3"],
    "rank": [],
}
README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"python-{i}" for i in range(len(SNIPPETS))])
def test_python_snippet_runs(snippet, tmp_path):
    result = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_commands_from_logs_to_a_page_run(tmp_path):
    text = README.read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M) if "pygrade simulate" in b)
    commands = [line.split("#")[0].split() for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["pygrade", name] for name in COMMANDS]
    for _, name, *arguments in commands:
        command = [sys.executable, "-m", "pygrade", name, *arguments, *COMMANDS[name], "--quiet"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
