"""The code that README and docs show, for the tests that run it."""

import contextlib
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pygrade.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SMALL = {  # options that make the documented commands small
    "make_shop.py": "300",
    "doctor": "--quiet",
    "train": "--stage1.steps 3 --stage2.steps 3 --static.iterations 2 --cross-fit.folds 2 --no-tensorboard --quiet",
    "pipeline": "--min-events 1 --leak-checks 0 --prerank.epochs 1 --mtl.epochs 1 --candidates 5 --quiet "
    "--train.stage1.steps 3 --train.stage2.steps 3 --train.static.iterations 2 --train.cross-fit.folds 2 "
    "--allow-unproven",
    "rank": "--allow-unproven",  # of a policy that learned from few requests
}
_BLOCK = re.compile(r"^([ ]*)```(\w+)\n(.*?)^\1```", re.S | re.M)


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page, also those of its tabs, which are indented."""
    text = path.read_text(encoding="utf-8")
    return [textwrap.dedent(code) for _, name, code in _BLOCK.findall(text) if name == language]


def commands(path: Path) -> list[list[str]]:
    """The words of every ``pygrade COMMAND …`` line of a page's shell blocks, without ``pygrade``."""
    lines = [line for block in blocks(path, "sh") for line in lines_of(block)]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["pygrade"]]


def lines_of(block: str) -> Iterator[str]:
    """The lines of a shell block, those joined that a backslash or an open quote joins."""
    waiting = ""
    for line in block.replace("\\\n", " ").splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        with contextlib.suppress(ValueError):  # a quote is open
            shlex.split(waiting, comments=True)
            yield waiting
            waiting = ""
    assert not waiting, waiting


def run(code: str, name: str) -> None:
    """Run a Python block as a program of its own."""
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


class Shell:
    """Runs shell blocks line by line, smaller: ``pygrade`` in this process, examples and the service in their own."""

    def __init__(self) -> None:
        self.address = ""  # of the service
        self._service: subprocess.Popen[str] | None = None

    def run(self, block: str) -> None:
        """Run the lines of a block; AssertionError names one that fails."""
        for line in lines_of(block):
            words = shlex.split(line, comments=True)
            if words[:2] == ["pygrade", "serve"]:
                self._serve(words[1:])
            elif words[:1] == ["pygrade"]:
                assert cli.main([*words[1:], *SMALL.get(words[1], "").split()]) == 0, line
            elif words[:1] == ["python"]:
                small = SMALL.get(words[1].rpartition("/")[2], "").split()
                given = [word.replace("http://localhost:8080", self.address) for word in words[2:]]
                subprocess.run([sys.executable, str(ROOT / words[1]), *given, *small], check=True)
            elif words[:1] == ["curl"]:
                self._ask(words[1:])
            else:
                assert words[:2] in ([], ["pip", "install"]), line

    def close(self) -> None:
        """End the service."""
        if self._service is not None:
            self._service.terminate()
            self._service.communicate(timeout=30)
            assert self._service.returncode == 0
            self._service = None

    def _serve(self, words: list[str]) -> None:
        self.close()
        command = [sys.executable, "-m", "pygrade", *words, "--port", "0", "--drain-seconds", "0", "--log", "none"]
        command.append("--allow-unproven")  # of a policy that learned from few requests
        self._service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._service.stderr is not None
        line = self._service.stderr.readline()  # after it has loaded its models
        if line.startswith("warning: "):
            line = self._service.stderr.readline()
        found = re.search(r"(http://\S+) serves", line)
        assert found, line
        self.address = found[1]

    def _ask(self, words: list[str]) -> None:
        """The request of a curl command: its answer is printed."""
        (url,) = [word for word in words if "localhost" in word]
        body = words[words.index("-d") + 1].encode() if "-d" in words else None
        with urllib.request.urlopen(self.address + "/" + url.partition("/")[2], body, timeout=30) as answer:
            print(answer.read().decode())
