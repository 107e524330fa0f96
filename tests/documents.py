"""The code that README and docs show, for the tests that run it."""

import re
import shlex
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
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
