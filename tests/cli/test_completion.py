"""Completion: the words that `pygrade` offers, and the scripts in the shells themselves."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from pygrade.cli import main as cli
from pygrade.cli.completion import SCRIPTS, complete, complete_line, script
from pygrade.cli.option_list import COMMANDS, options_of


def test_commands_then_options_then_choices():
    assert complete([""]) == list(COMMANDS) and complete(["tra"]) == ["train"]
    assert complete(["--ver"]) == ["--version"] and complete(["--print-completion", "z"]) == ["zsh"]
    assert complete(["train", "--resu"]) == ["--resume"]
    assert complete(["train", "--no-r"]) == ["--no-resume"]
    assert complete(["train", "--engine", ""]) == ["auto", "fused", "torch"]
    assert complete(["train", "--engine=t"]) == ["--engine=torch"]
    assert complete(["train", "--out", "ru"]) == complete(["nonsense", "--"]) == []  # files, the shell's work


def test_nested_options_are_offered_by_their_prefix():
    assert "--stage2." in complete(["train", "--"]) and "--stage2.steps" not in complete(["train", "--"])
    assert complete(["train", "--stage2.no"]) == ["--stage2.normalize"]
    assert complete(["pipeline", "--train.stage"]) == ["--train.stage1.", "--train.stage2."]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_can_be_completed(command):
    for option in options_of(command):
        if not option.positional:
            assert option.flag in complete([command, option.flag]), option.name


def test_the_scripts_are_printed(capsys):
    for shell in SCRIPTS:
        assert cli.main(["--print-completion", shell]) == 0
        assert capsys.readouterr().out.strip() == script(shell).strip()


# How a shell is started, and what is typed with what appears; the line is completed in place, then echoed.
STARTS = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(pygrade --print-completion bash)"'),
    "zsh": (["-f", "-i"], 'autoload -U compinit; compinit -u; eval "$(pygrade --print-completion zsh)"'),
    "fish": (["--no-config", "-i"], "pygrade --print-completion fish | source"),
}
TYPED = {
    "pygrade trai\t": "n",
    "--stage2.gr\t": "oup-size",
    "8 --engine fu\t": "sed",
    "--po\t": "licy.",
    "hid\t": "den",
}
WANTED = "pygrade train --stage2.group-size 8 --engine fused --policy.hidden"


@pytest.mark.parametrize("shell", [pytest.param(s, marks=[] if s == "bash" else pytest.mark.slow) for s in SCRIPTS])
def test_the_script_completes_in_the_shell(shell, tmp_path):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    arguments, load = STARTS[shell]
    (tmp_path / "pygrade").write_text(f'#!/bin/sh\nexec {sys.executable} -m pygrade "$@"\n')
    (tmp_path / "pygrade").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TERM": "dumb", "PS1": "$ ", "COLUMNS": "200", "HOME": str(tmp_path)}
    terminal, inner = pty.openpty()
    name = os.ttyname(inner)  # becomes the terminal of the new session, as the first one that it opens
    command = f"exec {program} {' '.join(arguments)} <{name} >{name} 2>&1"
    child = subprocess.Popen(["sh", "-c", command], env=environment, cwd=tmp_path, start_new_session=True)
    try:
        typed = Terminal(terminal)
        typed.send(load + "\n", "")
        typed.send("echo rea''dy\n", "ready")
        for text, completed in TYPED.items():
            typed.send(text, completed)
        typed.send("\x01echo \n", WANTED + "\r")
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
        os.close(inner)


class Terminal:
    """The terminal of a child process: what is typed, and what it prints until something appears."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, text: str, until: str) -> None:
        os.write(self.descriptor, text.encode())
        printed, deadline = b"", time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([self.descriptor], [], [], 0.3)[0]:
                printed += os.read(self.descriptor, 65536)
            elif until in printed.decode(errors="replace"):
                return
        raise AssertionError(
            f"typed {text!r}, expected {until!r}; the shell printed {printed.decode(errors='replace')!r}"
        )


def test_words_that_bash_splits_are_completed():
    line = "pygrade train --data logs:x --engine=f"
    assert complete_line(line, "f") == ["fused "] and complete_line(line, None) == ["--engine=fused "]
    assert complete_line("pygrade train --engine=", "=") == ["auto ", "fused ", "torch "]
    assert complete_line("pygrade train --po", "--po") == ["--policy."]
    assert "train " in complete_line("pygrade ", "")
