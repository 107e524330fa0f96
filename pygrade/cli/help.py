"""What ``pygrade COMMAND --help`` and ``--help-all`` print, without importing the command."""

import shutil
import textwrap
from collections.abc import Iterable

from pygrade.cli.option_list import CommandOptions, Option, options_of

MAX_LINES = 40  # of the short help at 80 columns
COMMON = ("json", "quiet", "traceback")  # in one line instead of one each
_NARROW, _WIDE = 60, 100
_INDENT = 28  # column of the options' texts
_ABOUT = 4  # lines of what the command does, in the short help
_TEXT = 2  # lines of an option's text, in the short help
_DOZEN = 14  # options of the short help if the command names none


def short_help(command: str, width: int | None = None) -> str:
    """A command's required options and the dozen that decide most."""
    width = _width(width)
    found = options_of(command)
    about, examples = _about(found)
    head = [*_usage(command, found, width), "", *_fitted(about.split("\n\n")[0], width, _ABOUT), ""]
    tail = ["", *(line for example in examples[:2] for line in _wrapped(example, width, 2)), *_footer(found, width)]
    shown: list[str] = []
    hidden = len(found.options)
    for option in _essential(found):
        lines = _option(option, width, _TEXT)
        if len(head) + len(shown) + len(lines) + len(tail) + 3 > MAX_LINES:
            break
        shown += lines
        hidden -= 1
    hidden -= len(_common(found))
    more = _more(command, found, hidden, width) if hidden else []
    return "\n".join([*head, *shown, *more, *tail])


def full_help(command: str, width: int | None = None) -> str:
    """Everything about a command and each of its options."""
    width = _width(width)
    found = options_of(command)
    about, examples = _about(found)
    lines = _usage(command, found, width)
    for paragraph in [*about.split("\n\n"), *examples]:
        lines += ["", *_wrapped(paragraph, width)]
    flat = [option for option in found.options if "." not in option.name and option.name not in _common(found)]
    lines += ["", *(line for option in _required_first(flat) for line in _option(option, width))]
    for prefix, text in found.groups.items():
        nested = [option for option in found.options if option.name.startswith(f"{prefix}.")]
        lines += ["", *_wrapped(f"{prefix}: {text}", width)]
        lines += [line for option in nested for line in _option(option, width)]
    return "\n".join([*lines, "", *_footer(found, width)])


def _width(width: int | None) -> int:
    return min(max(shutil.get_terminal_size().columns if width is None else width, _NARROW), _WIDE)


def _about(found: CommandOptions) -> tuple[str, list[str]]:
    """The docstring without its examples, and these."""
    paragraphs = [" ".join(part.split()) for part in found.text.replace("\nExample:", "\n\nExample:").split("\n\n")]
    examples = [part for part in paragraphs if part.startswith("Example:")]
    return "\n\n".join(part for part in paragraphs if part not in examples), examples


def _usage(command: str, found: CommandOptions, width: int) -> list[str]:
    required = [
        (option.kind if option.positional else f"{option.flag} {option.kind}")
        for option in _essential(found)
        if option.default is None or option.positional
    ]
    return _wrapped(" ".join([f"usage: pygrade {command}", *required, "[options]"]), width, 7)


def _common(found: CommandOptions) -> list[str]:
    """The names of options that all commands have, if this one has no other option of the name."""
    return [option.name for option in found.options if option.name in COMMON and not option.kind]


def _essential(found: CommandOptions) -> list[Option]:
    """Required options, those that the command calls essential, and others as long as there are few."""
    flat = [option for option in found.options if "." not in option.name and option.name not in _common(found)]
    named = [found[name] for name in found.essential]
    return _required_first([*named, *(option for option in flat if option not in named)])[: max(_DOZEN, len(named))]


def _required_first(options: Iterable[Option]) -> list[Option]:
    return sorted(options, key=lambda option: (not option.positional, option.default is not None))


def _option(option: Option, width: int, most: int | None = None) -> list[str]:
    """An option's name, what its value looks like, its text in at most so many lines, and its default."""
    name = option.flag
    if option.positional:
        name = option.kind
    elif option.kind:
        name += f" {option.kind}"
    elif option.default == "yes":
        name = option.negative.replace("no-", "[no-]", 1)
    default = {None: "required", "yes": "default: on", "no": "", "none": "", "": ""}
    note = default.get(option.default, f"default: {option.default}")
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


def _more(command: str, found: CommandOptions, hidden: int, width: int) -> list[str]:
    groups = ", ".join(f"--{name}.…" for name in found.groups)
    text = f"{hidden} more{f', also {groups}' if groups else ''}: pygrade {command} --help-all"
    return _wrapped(text, width, 2, first=2)


def _footer(found: CommandOptions, width: int) -> list[str]:
    texts = {"json": "--json (one JSON object instead of tables)", "quiet": "--quiet", "traceback": "--traceback"}
    common = [texts[name] for name in _common(found)]
    text = ", ".join(["--config FILE (options from a TOML file)", *common, "--help, --help-all"])
    return _wrapped(f"Every command: {text}", width, 2)


def _wrapped(text: str, width: int, indent: int = 0, first: int = 0) -> list[str]:
    """Lines of a text; names of options and files are not broken at their dashes."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
