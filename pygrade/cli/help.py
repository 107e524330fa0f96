"""The texts of ``pygrade COMMAND --help`` and ``--help-all``."""

import inspect
import shutil
import textwrap
from collections.abc import Sequence

from pygrade.cli.option_list import Option, groups_of, in_words, options_class, options_of

MAX_LINES = 40  # of the short help at 80 columns
COMMON = ("json", "quiet", "traceback")  # in one line instead of one each
_NARROW, _WIDE = 60, 100
_INDENT = 28  # column of the options' texts
_ABOUT = 4  # lines of what the command does, in the short help
_TEXT = 2  # lines of an option's text, in the short help
_DOZEN = 14  # options of the short help if the command names none
_FOOTER = (
    "Every command: --config FILE (options from a TOML file), --json (one JSON object instead of tables), --quiet, "
    "--traceback, --help, --help-all"
)


def short_help(command: str, width: int | None = None) -> str:
    """A command's required options and the dozen that decide most."""
    width = _width(width)
    options = options_of(command)
    about, examples = _about(command)
    head = [*_usage(command, width), "", *_fitted(about.split("\n\n")[0], width, _ABOUT), ""]
    tail = ["", *(line for text in (*examples[:2], _FOOTER) for line in _wrapped(text, width, 2))]
    shown: list[str] = []
    left = len(options) - len(COMMON)
    for option in _essential(command):
        lines = _lines(option, width, _TEXT)
        if len(head) + len(shown) + len(lines) + len(tail) + 3 > MAX_LINES:
            break
        shown += lines
        left -= 1
    groups = ", ".join(f"--{prefix}.…" for prefix, *_ in groups_of(options_class(command)) if "." not in prefix)
    more = f"  {left} more{groups and f', also {groups}'}: pygrade {command} --help-all"
    return "\n".join([*head, *shown, *(_wrapped(more, width, 2) if left else []), *tail])


def full_help(command: str, width: int | None = None) -> str:
    """Everything about a command and each of its options."""
    width = _width(width)
    about, examples = _about(command)
    lines = _usage(command, width)
    for paragraph in [*about.split("\n\n"), *examples]:
        lines += ["", *_wrapped(paragraph, width)]
    lines += ["", *(line for option in _flat(command) for line in _lines(option, width))]
    for prefix, _, text in groups_of(options_class(command)):
        nested = [option for option in options_of(command) if option.name.rpartition(".")[0] == prefix]
        lines += ["", *_wrapped(f"{prefix}: {text}", width), *(line for o in nested for line in _lines(o, width))]
    return "\n".join([*lines, "", *_wrapped(_FOOTER, width, 2)])


def _width(width: int | None) -> int:
    return min(max(shutil.get_terminal_size().columns if width is None else width, _NARROW), _WIDE)


def _about(command: str) -> tuple[str, list[str]]:
    """The docstring without its examples, and these."""
    text = inspect.cleandoc(options_class(command).__doc__ or "")
    paragraphs = [" ".join(part.split()) for part in text.replace("\nExample:", "\n\nExample:").split("\n\n")]
    examples = [part for part in paragraphs if part.startswith("Example:")]
    return "\n\n".join(part for part in paragraphs if part not in examples), examples


def _usage(command: str, width: int) -> list[str]:
    words = [o.kind if o.positional else f"{o.flag} {o.kind}" for o in _flat(command) if o.required or o.positional]
    return _wrapped(" ".join([f"usage: pygrade {command}", *words, "[options]"]), width, 7)


def _flat(command: str, first: Sequence[str] = ()) -> list[Option]:
    """The options of no group, required ones first, then these, without those that all commands have."""
    flat = [option for option in options_of(command) if "." not in option.name and option.name not in COMMON]
    rank = {name: place for place, name in enumerate(first)}
    return sorted(flat, key=lambda o: (not o.positional, not o.required, rank.get(o.name, len(rank))))


def _essential(command: str) -> list[Option]:
    """Required options, those that the command calls essential, and others as long as there are few."""
    names = getattr(options_class(command), "ESSENTIAL", ())
    return _flat(command, names)[: max(_DOZEN, len(names))]


def _lines(option: Option, width: int, most: int | None = None) -> list[str]:
    """An option's name, what its value looks like, its text in at most so many lines, and its default."""
    name = option.kind if option.positional else f"{option.flag} {option.kind}".rstrip()
    if option.default is True:
        name = option.negative.replace("no-", "[no-]", 1)
    default = "" if option.default is None or option.default is False else in_words(option.default)
    note = "required" if option.required else "default: on" if default == "yes" else default and f"default: {default}"
    lines = _fitted(option.text, width - _INDENT, most, f"({note})" if note else "")
    head = f"  {name}"
    if len(head) + 2 <= _INDENT and lines:
        head, lines = f"{head:<{_INDENT}}{lines[0]}", lines[1:]
    return [head, *(" " * _INDENT + line for line in lines)]


def _fitted(text: str, width: int, most: int | None, note: str = "") -> list[str]:
    """The lines of a text and a note; the text is cut, and ends with …, if there are too many."""
    words = text.split()
    lines = _wrapped(" ".join([*words, note]), width)
    while most is not None and len(lines) > most and words:
        words.pop()
        lines = _wrapped(" ".join([*words, "…", note]), width)
    return lines


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Lines of a text; names of options and files are not broken at their dashes."""
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
