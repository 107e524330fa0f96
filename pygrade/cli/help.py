"""The texts of ``pygrade COMMAND --help`` and ``--help-all``."""

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from pygrade.cli.option_list import Option, in_words, is_options, options_class, options_of, table_of, typed

MAX_LINES = 40  # of the short help at 80 columns
COMMON = ("json", "quiet", "traceback")  # in one line instead of one each
_INDENT = 28  # column of the options' texts
_DOZEN = 14  # options of the short help if the command names none
_FOOTER = (
    "Every command: --config FILE (options from a TOML file), --json (one JSON object instead of tables), --quiet, "
    "--traceback, --help, --help-all"
)


def help_text(command: str, full: bool = False, width: int | None = None) -> str:
    """A command, its required options and the dozen that decide most, with the beginnings of their texts.

    full: everything about it and each of its options. width: in columns; None: of the terminal.
    """
    width = min(max(shutil.get_terminal_size().columns if width is None else width, 60), 100)
    kind, options = options_class(command), options_of(command)
    own = [option for option in options if not option.group and option.name not in COMMON]
    rank = {name: number for number, name in enumerate(() if full else getattr(kind, "ESSENTIAL", ()))}
    own.sort(key=lambda o: (not o.needed, not o.positional and o.needed, rank.get(o.name, len(rank))))
    needed = [o.kind if o.positional else f"{o.flag} {o.kind}" for o in own if o.needed]
    lines = [*_wrapped(" ".join([f"usage: pygrade {typed(command)}", *needed, "[options]"]), width, 7), ""]
    text = inspect.cleandoc(kind.__doc__ or "").replace("\nExample:", "\n\nExample:")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    examples = [paragraph for paragraph in paragraphs if paragraph.startswith("Example:")]
    about = [paragraph for paragraph in paragraphs if paragraph not in examples]
    groups = [option for option in table_of(command) if is_options(option.hint)]
    if full:
        lines += [line for text in (*about, *examples) for line in (*_wrapped(text, width), "")]
        lines += [*_all_lines(own, groups, options, width), "", *_wrapped(_FOOTER, width, 2)]
        return "\n".join(lines)
    lines += [*_wrapped(about[0], width, most=4), ""]
    footer = ["", *(line for text in (*examples[:2], _FOOTER) for line in _wrapped(text, width, 2))]
    shown = [_lines(option, width, 2) for option in own[: max(_DOZEN, len(rank))]]
    while len(lines) + sum(map(len, shown)) + len(footer) + 3 > MAX_LINES:
        shown.pop()
    lines += [line for option_lines in shown for line in option_lines]
    if left := len(options) - len(COMMON) - len(shown):
        also = ", ".join(f"{group.flag}.…" for group in groups if not group.group)
        more = f"  {left} more{also and f', also {also}'}: pygrade {typed(command)} --help-all"
        lines += _wrapped(more, width, 2)
    return "\n".join(lines + footer)


def _all_lines(own: Sequence[Option], groups: Sequence[Option], options: Sequence[Option], width: int) -> Iterator[str]:
    """A command's own options, then those of each group after its title."""
    for option in own:
        yield from _lines(option, width)
    for group in groups:
        nested = [option for option in options if option.group == group.name]
        if nested or not group.group:
            title = group.text or (group.hint.__doc__ or "").splitlines()[0]
            yield from ("", *_wrapped(f"{group.name}: {title}", width))
        for option in nested:
            yield from _lines(option, width)


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
