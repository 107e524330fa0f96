"""From the words of a command line to the options of a command."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from pygrade.cli import config_file
from pygrade.cli.config_file import Table, Word
from pygrade.cli.option_list import Option, is_mapping, options_class, options_of

_USUAL = "pygrade.toml"  # the usual name of the file


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ").replace(": expected one argument", " wants one value")
        raise ValueError(f"{text.replace(': expected 1 argument', ' wants one value')} (see {self.prog} --help)")


def parse(command: str, arguments: Sequence[str]) -> Any:
    """The options of a command: those of the command line, else those of --config, else the defaults.

    ``ValueError`` for a word that is no option, a value of another type, and a required option that is absent.
    """
    options, kind = options_of(command), options_class(command)
    given = _given(command, options, arguments)
    path, *others = given.pop("config file", [None])
    if others:
        raise ValueError("config is given twice; want one file")
    table: Table = {}
    for option in options:
        if option.name in given:
            *groups, name = option.name.split(".")
            inner = table
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[name] = given[option.name] if option.hint is bool else from_words(given[option.name], option.hint)
    table = config_file.typed(kind, table, lambda groups, text: f"--{'.'.join((*groups, text)).replace('_', '-')}")
    if path is not None:
        table = config_file.merged(config_file.read_options(Path(path), command), table)
    elif "config" in table:  # the command reads its table itself, but for what is required
        read = config_file.read_table(table["config"], command)
        label = config_file.label(table["config"], command)
        required = {option.name: read[option.name] for option in options if option.required and option.name in read}
        table = config_file.typed(kind, required, label) | table
    if absent := [option for option in options if option.required and option.name not in table]:
        wanted = ", ".join(f"{option.flag} {option.kind}" for option in absent)
        here = path is None and "config" not in table and Path(_USUAL).is_file()
        hint = f"; {_USUAL} is here: it is read if it is named, --config {_USUAL}" if here else ""
        raise ValueError(f"{command} wants {wanted} (see pygrade {command} --help){hint}")
    return config_file.build(kind, table)


def _given(command: str, options: Sequence[Option], arguments: Sequence[str]) -> dict[str, Any]:
    """Name → words of each option that is given; of flags, whether they are on."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = [*(option.flag for option in options if option.positional), *words]
    parser = _Parser(f"pygrade {command}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    if not config_file.reads_itself(command):
        parser.add_argument("--config", dest="config file", metavar="FILE", action="append")
    for option in options:
        names = [option.flag, *([option.alias] if option.alias else [])]
        if option.hint is bool:
            parser.add_argument(*names, dest=option.name, action="store_true")
            parser.add_argument(option.negative, dest=option.name, action="store_false")
        else:
            parser.add_argument(*names, dest=option.name, nargs="*" if _is_list(option.hint) else 1)
    parsed, rest = parser.parse_known_args([_spelled(word) for word in words])
    given = vars(parsed)
    positional = next((option.name for option in options if option.positional), None)
    if positional and positional not in given and not any(word.startswith("-") for word in rest):
        given |= {positional: rest} if rest else {}
        rest = []
    if rest:
        flags = [flag for option in options for flag in (option.flag, option.negative) if flag]
        wanted = config_file.near(rest[0].partition("=")[0], flags)
        raise ValueError(f"{command} has no option {rest[0]}; {wanted or f'see pygrade {command} --help-all'}")
    return given


def _spelled(word: str) -> str:
    """An option with dashes for underscores."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _is_list(hint: Any) -> bool:
    return any(is_mapping(part) or get_origin(part) is tuple for part in (hint, *get_args(hint)))


def from_words(words: Sequence[str], hint: Any) -> Any:
    """The words of an option as a file would have them, in lists and tables; what they are is read later.

    >>> from_words(["app.click=2,web.click=1"], dict[str, dict[str, float]])
    {'app': {'click': '2'}, 'web': {'click': '1'}}
    """
    kinds = (hint, *get_args(hint)) if get_origin(hint) not in (tuple, dict) else (hint,)
    for kind in kinds:
        if is_mapping(kind):
            return _pairs(words, get_args(kind)[1])
        if get_origin(kind) is tuple and (len(words) != 1 or kind is hint):
            return _entries(words, get_args(kind)[0])
    return Word(words[0]) if words else []


def _entries(words: Sequence[str], part: Any) -> list[Any]:
    """The words as entries of a tuple, which may be tuples."""
    if get_origin(part) is not tuple:
        return list(map(Word, words))
    size, inner = len(get_args(part)), get_args(part)[0]
    return [_entries(words[at : at + size], inner) for at in range(0, len(words), size)]


def _pairs(words: Sequence[str], kind: Any) -> Table:
    """``click=1,buy=2`` of numbers, ``name=text`` of text, ``app.click=2`` of tables."""
    result: Table = {}
    for entry in words if kind is str else [entry for word in words for entry in word.split(",") if entry]:
        key, equals, value = entry.partition("=")
        table = result
        if is_mapping(kind):
            outer, dot, key = key.partition(".")
            equals, table = equals and dot, result.setdefault(outer, {})
        if not equals or not key:
            wanted = "KEY.KEY=NUMBER" if is_mapping(kind) else "KEY=TEXT" if kind is str else "KEY=NUMBER"
            raise ValueError(f"{entry!r} is not {wanted}")
        table[key] = Word(value)
    return result
