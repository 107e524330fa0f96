"""The texts of ``pygrade COMMAND --help`` and ``--help-all``."""

import inspect
import shutil
import textwrap
from collections.abc import Sequence

from pygrade.cli.option_list import Option, groups_of, in_words, options_class, options_of, spoken

MAX_LINES = 40  # of the short help at 80 columns
COMMON = ("json", "quiet", "traceback")  # in one line instead of one each
_INDENT = 28  # column of the options' texts
_DOZEN = 14  # options of the short help if the command names none
_FOOTER = (
    "Every command: --config FILE (options from a TOML file), --json (one JSON object instead of tables), --quiet, "
    "--traceback, --help, --help-all"
)


def short_help(command: str, width: int | None = None) -> str:
    """A command's required options and the dozen that decide most, with the beginnings of their texts."""
    head, examples, width = _head(command, width, 4)
    essential = getattr(options_class(command), "ESSENTIAL", ())
    options = _flat(command, essential)[: max(_DOZEN, len(essential))]
    tail = ["", *(line for text in (*examples[:2], _FOOTER) for line in _wrapped(text, width, 2))]
    shown: list[str] = []
    left = len(options_of(command)) - len(COMMON)
    for option in options:
        lines = _lines(option, width, 2)
        if len(head) + len(shown) + len(lines) + len(tail) + 3 > MAX_LINES:
            break
        shown += lines
        left -= 1
    groups = ", ".join(f"--{prefix}.…" for prefix, *_ in groups_of(options_class(command)) if "." not in prefix)
    more = f"  {left} more{groups and f', also {groups}'}: pygrade {spoken(command)} --help-all"
    return "\n".join([*head, *shown, *(_wrapped(more, width, 2) if left else []), *tail])


def full_help(command: str, width: int | None = None) -> str:
    """Everything about a command and each of its options."""
    lines, examples, width = _head(command, width)
    lines += [line for text in examples for line in (*_wrapped(text, width), "")]
    lines += [line for option in _flat(command) for line in _lines(option, width)]
    for prefix, _, text in groups_of(options_class(command)):
        nested = [option for option in options_of(command) if option.name.rpartition(".")[0] == prefix]
        lines += ["", *_wrapped(f"{prefix}: {text}", width)] if nested or "." not in prefix else []
        lines += [line for option in nested for line in _lines(option, width)]
    return "\n".join([*lines, "", *_wrapped(_FOOTER, width, 2)])


def _head(command: str, width: int | None, most: int | None = None) -> tuple[list[str], list[str], int]:
    """Usage and docstring without its examples (``most``: lines of its first paragraph); the examples; the width."""
    width = min(max(shutil.get_terminal_size().columns if width is None else width, 60), 100)
    text = inspect.cleandoc(options_class(command).__doc__ or "").replace("\nExample:", "\n\nExample:")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    examples = [paragraph for paragraph in paragraphs if paragraph.startswith("Example:")]
    about = [paragraph for paragraph in paragraphs if paragraph not in examples][: None if most is None else 1]
    words = [o.kind if o.positional else f"{o.flag} {o.kind}" for o in _flat(command) if o.needed]
    lines = [*_wrapped(" ".join([f"usage: pygrade {spoken(command)}", *words, "[options]"]), width, 7), ""]
    lines += [line for paragraph in about for line in (*_wrapped(paragraph, width, most=most), "")]
    return lines, examples, width


def _flat(command: str, first: Sequence[str] = ()) -> list[Option]:
    """The options of no group, required ones first, then these, without those that all commands have."""
    flat = [option for option in options_of(command) if "." not in option.name and option.name not in COMMON]
    rank = {name: number for number, name in enumerate(first)}
    return sorted(flat, key=lambda o: (not o.needed, not o.positional and o.needed, rank.get(o.name, len(rank))))


def _lines(option: Option, width: int, most: int | None = None) -> list[str]:
    """An option's name, what its value looks like, its text in at most so many lines, and its default."""
    name = option.kind if option.positional else f"{option.flag} {option.kind}".rstrip()
    if option.default is True:
        name = option.negative.replace("no-", "[no-]", 1)
    default = "" if option.default in (None, False) else "on" if option.default is True else in_words(option.default)
    note = "(required)" if option.required else default and f"(default: {default})"
    note = f"(required, or --{option.unless})" if option.unless else note
    lines = _wrapped(f"{option.text} {note}" if most is None else option.text, width - _INDENT, most=most)
    if most is not None and note:
        fits = bool(lines) and len(lines[-1]) + len(note) < width - _INDENT
        lines = [*lines[:-1], f"{lines[-1]} {note}"] if fits else [*lines, *_wrapped(note, width - _INDENT)]
    head = f"  {name}"
    if len(head) + 2 <= _INDENT and lines:
        head, lines = f"{head:<{_INDENT}}{lines[0]}", lines[1:]
    return [head, *(" " * _INDENT + line for line in lines)]


def _wrapped(text: str, width: int, indent: int = 0, most: int | None = None) -> list[str]:
    """Lines of a text, the first ``most``; names of options and files are not broken at their dashes."""
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False, break_long_words=False, placeholder=" …")
    wrapper.subsequent_indent, wrapper.max_lines = " " * indent, most
    return wrapper.wrap(text)
