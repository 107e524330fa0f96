"""From the words of a command line to the options of a command."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pygrade._util.optional_imports import require
from pygrade.cli.config_file import build, has_own_config, is_mapping, read_config, read_table
from pygrade.cli.option_list import options_of
from pygrade.cli.options import Values, parse_values
from pygrade.storage import Place, place_of

_CONFIG = "--config"
_USUAL = "pygrade.toml"  # the usual name of the file


def parse(command: str, kind: Any, arguments: Sequence[str]) -> Any:
    """The options of a command: those of the command line, else those of --config, else the defaults."""
    path, words = _without_config(arguments)
    words = _with_names(command, words)
    if path is not None and has_own_config(command):
        words, path = _own_words(command, path, words), None
    try:
        tyro = require("tyro")
    except ImportError:  # a command of flags alone works on a base install, too
        if any(option.type is not bool for option in dataclasses.fields(kind)):
            raise
        parser = argparse.ArgumentParser(prog=f"pygrade {command}", add_help=False)
        for option in dataclasses.fields(kind):
            parser.add_argument(f"--{option.name}", action="store_true")
        return kind(**vars(parser.parse_args(words)))
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: _pairs(tyro, info.type))
    registry.primitive_rule(lambda info: _places(tyro, info.type))
    default = {}
    if path is not None:
        default["default"] = build(kind, read_config(path, command), path, command, tyro.MISSING)
    try:
        parsed = tyro.cli(kind, args=words, prog=f"pygrade {command}", registry=registry, add_help=False, **default)
    except SystemExit:
        if path is None and Path(_USUAL).is_file():
            print(f"({_USUAL} is here; it is read if it is named: --config {_USUAL})", file=sys.stderr)
        raise
    return _with_defaults(parsed)


def _without_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that --config names, and the other words."""
    words, path = list(arguments), None
    for at in reversed(range(len(words))):
        name, equals, value = words[at].partition("=")
        if name != _CONFIG:
            continue
        if path is not None:
            raise ValueError("config is given twice; want one file")
        if not equals and at + 1 == len(words):
            raise ValueError("config names no file; want --config FILE")
        path = Path(value if equals else words[at + 1])
        del words[at : at + (1 if equals else 2)]
    return path, words


def _with_names(command: str, words: list[str]) -> list[str]:
    """The words before the first option get the name of the option that may be given without."""
    flag = next((option.flag for option in options_of(command).options if option.positional), None)
    if flag is None or not words or words[0].startswith("-"):
        return words
    return [flag, *words]


def _own_words(command: str, path: Path, words: list[str]) -> list[str]:
    """For a command that reads the file itself: the file, and the required options that are in it."""
    table = read_table(path, command)
    for option in options_of(command).options:
        if option.default is None and option.name in table and option.flag not in words:
            words = [option.flag, str(table[option.name]), *words]
    return ["--config", str(path), *words]


def _pairs(tyro: Any, kind: Any) -> Any:
    """How to read options such as ``--values click=1,buy=20``; None if the type is another one."""
    choices = [entry for entry in (get_args(kind) or (kind,)) if is_mapping(entry)]
    if not is_mapping(kind) and not (choices and type(None) in get_args(kind)):
        return None
    mapping = kind if is_mapping(kind) else choices[0]

    def read(words: list[str]) -> Any:
        return parse_values(words) if mapping is Values else parse_pairs(words, get_args(mapping)[1])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE,…",
        instance_from_str=read,
        is_instance=lambda instance: instance is None or isinstance(instance, Mapping),
        str_from_instance=lambda instance: [f"{key}={entry}" for key, entry in (instance or {}).items()],
    )


def _places(tyro: Any, kind: Any) -> Any:
    """How to read options that name a path or a URL (`Place`); None if the type is another one."""
    choices = set(get_args(kind))
    if not {str, Path} <= choices:
        return None

    def read(words: list[str]) -> Place | None:
        return None if type(None) in choices and words[0] in ("none", "None") else place_of(words[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=read,
        is_instance=lambda instance: isinstance(instance, str | Path | type(None)),
        str_from_instance=lambda instance: [str(instance)],
    )


def parse_pairs(words: Sequence[str], kind: Any) -> dict[str, Any]:
    """``click=1,buy=2`` of numbers, ``name=text`` of text, ``app.click=2`` of tables; also KEY VALUE KEY VALUE.

    >>> parse_pairs(["app.click=2,web.click=1"], dict[str, float])
    {'app': {'click': 2.0}, 'web': {'click': 1.0}}
    """
    if not any("=" in word for word in words) and len(words) % 2 == 0:
        words = [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]
    entries = list(words) if kind is str else [entry for word in words for entry in word.split(",") if entry]
    result: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        table, inner = result, kind
        if is_mapping(kind):
            outer, _, key = key.partition(".")
            table, inner = result.setdefault(outer, {}), get_args(kind)[1]
        try:
            table[key] = inner(value)
        except ValueError:
            equals = ""
        if not equals or not key:
            wanted = "KEY.KEY=NUMBER" if is_mapping(kind) else "KEY=TEXT" if kind is str else "KEY=NUMBER"
            raise ValueError(f"{entry!r} is not {wanted}")
    return result


def _with_defaults(options: Any) -> Any:
    """Options whose mappings with a default (values of a data set's tasks) keep the entries that were not given."""
    changes = dict[str, Any]()
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _with_defaults(value)
        elif isinstance(value, Mapping) and value and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
            changes[field.name] = {**default, **value} if default else value
    return dataclasses.replace(options, **changes)
