"""Completion of commands and options in a shell: one script for all of them, which asks ``pygrade`` at each Tab."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pygrade.cli.option_list import COMMANDS, Option, options_of

SHELLS = ("bash", "zsh", "fish")
ASK = "--complete"  # hidden: pygrade --complete WORD…, the last one unfinished, prints what it may become
_EVERY = ("--config", "--help", "--help-all")
_ALONE = ("--help", "--version", "--cmake-dir", "--print-completion")


def script(shell: str) -> str:
    """The completion script of a shell; ``ValueError`` if there is none."""
    if shell not in SHELLS:
        raise ValueError(f"print-completion is {shell!r}; want one of {', '.join(SHELLS)}")
    return Path(__file__).with_name(f"completion.{shell}").read_text(encoding="utf-8")


def complete(words: Sequence[str]) -> list[str]:
    """What the last of the words after ``pygrade`` may become; nothing where the shell is to complete files.

    Options of nested groups are offered once their prefix is typed, ``--stage2.``, else the prefix alone.
    """
    *before, last = words or [""]
    if not before:
        return _starting(last, (*COMMANDS, *_ALONE) if last.startswith("-") else COMMANDS)
    if before[0] == "--print-completion":
        return _starting(last, SHELLS)
    if before[0] not in COMMANDS:
        return []
    options = options_of(before[0])
    name, equals, value = last.partition("=")
    if equals and last.startswith("-"):
        return [f"{name}={choice}" for choice in _starting(value, _choices(options, name))]
    if last.startswith("-"):
        return _starting(last, dict.fromkeys([*(flag for o in options for flag in _flags(o, last)), *_EVERY]))
    return _starting(last, _choices(options, before[-1]))


def _flags(option: Option, typed: str) -> list[str]:
    head = option.flag.split(".")
    for depth in range(1, len(head)):
        if not typed.startswith(prefix := ".".join(head[:depth]) + "."):
            return [prefix]
    negative = option.negative if option.name not in ("json", "quiet", "traceback") else ""
    return [name for name in (option.flag, negative, option.alias) if name and not option.positional]


def _choices(options: Sequence[Option], flag: str) -> tuple[str, ...]:
    return next((o.choices for o in options if flag.replace("_", "-") in (o.flag, o.alias)), ())


def _starting(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]
