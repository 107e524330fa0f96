"""Completion of commands and options: the shell asks ``pygrade`` at each Tab by bash's protocol (`complete -C`)."""

from collections.abc import Iterable, Sequence

from pygrade.cli.option_list import COMMANDS, Option, options_of

ASK = "--complete"  # hidden: with COMP_LINE and COMP_POINT set, prints what the last word of the line may become
_BASH = f"complete -o nospace -o default -C 'pygrade {ASK}' pygrade"
SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": f"complete -c pygrade -a '(COMP_LINE=(commandline -cp) pygrade {ASK} | string trim)'",
}
_EVERY = ("--config", "--help", "--help-all")
_ALONE = ("--help", "--version", "--cmake-dir", "--print-completion")


def script(shell: str) -> str:
    """The text that a shell evaluates to complete; ``ValueError`` if the shell is unknown."""
    if shell not in SCRIPTS:
        raise ValueError(f"print-completion is {shell!r}; expected one of {', '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def complete_line(line: str, current: str | None) -> list[str]:
    """Endings of a line, with a blank after whole words. Bash ends words at = and :, pygrade at blanks:
    ``current`` is bash's last word, of which alone it replaces the text; None: the shell has pygrade's words.
    """
    words = [*line.split()[1:], *([""] if line[-1:].isspace() else [])]
    before = 0 if current is None or not words else len(words[-1]) - len(current.removeprefix("="))
    return [f"{word[before:]}{'' if word.endswith('.') else ' '}" for word in complete(words)]


def complete(words: Sequence[str]) -> list[str]:
    """Completions of the last of the words after ``pygrade``; none where the shell is to complete files.

    Options of nested groups are offered once their prefix is typed, ``--stage2.``, else the prefix alone.
    """
    *before, last = words or [""]
    if not before:
        return _starting(last, (*COMMANDS, *_ALONE) if last.startswith("-") else COMMANDS)
    if before[0] == "--print-completion":
        return _starting(last, SCRIPTS)
    if before[0] not in COMMANDS:
        return []
    options = options_of(before[0])
    name, equals, value = last.partition("=")
    if equals and last.startswith("-"):
        return [f"{name}={choice}" for choice in _starting(value, _choices(options, name))]
    if not last.startswith("-"):
        return _starting(last, _choices(options, before[-1]))
    offered = [o for o in options if not o.positional]
    off = [o.negative for o in offered if o.name not in ("json", "quiet", "traceback")]
    flags = [*(flag for o in offered for flag in (o.flag, o.alias)), *off, *_EVERY]
    groups = (flag[: flag.find(".", len(last)) + 1] or flag for flag in _starting(last, filter(None, flags)))
    return list(dict.fromkeys(groups))


def _choices(options: Sequence[Option], flag: str) -> tuple[str, ...]:
    return next((o.choices for o in options if flag.replace("_", "-") in (o.flag, o.alias)), ())


def _starting(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]
