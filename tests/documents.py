"""The code that README and docs show, for the tests that run it."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from pygrade.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SMALL = {  # options that make the documented commands small
    "make_shop.py": "300",
    "doctor": "--quiet",
    "train": "--stage1.steps 3 --stage2.steps 3 --static.iterations 2 --trust.folds 2 --no-tensorboard --quiet",
}
_BLOCK = re.compile(r"^([ ]*)```(\w+)\n(.*?)^\1```", re.S | re.M)


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page, also those of its tabs, which are indented."""
    text = path.read_text(encoding="utf-8")
    return [textwrap.dedent(code) for _, name, code in _BLOCK.findall(text) if name == language]


def commands(path: Path) -> list[list[str]]:
    """The words of every ``pygrade COMMAND …`` line of a page's shell blocks, without ``pygrade``."""
    lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["pygrade"]]


def run(code: str, name: str) -> None:
    """Run a Python block as a program of its own."""
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


def run_shell(block: str) -> None:
    """Run each line of a shell block, smaller: ``pygrade`` in this process, examples in one of their own."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["pygrade"]:
            assert cli.main([*words[1:], *SMALL.get(words[1], "").split()]) == 0, line
        elif words[:1] == ["python"]:
            small = SMALL.get(words[1].rpartition("/")[2], "").split()
            subprocess.run([sys.executable, str(ROOT / words[1]), *words[2:], *small], check=True)
        else:
            assert words[:2] in ([], ["pip", "install"]), line
