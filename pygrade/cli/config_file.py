"""Options in a TOML file: a table per command, ``[train]``, nested ones below it, ``[train.reward]``.

``[defaults]`` holds options of all commands that have them. Names may have dashes or underscores. ``pygrade COMMAND
--config FILE`` reads its table, and the command line wins over it; no file is read unless it is named. A run writes all
of its options as ``options.toml`` into its directory, from where they can be given back.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pygrade.cli.file_paths import read_paths
from pygrade.cli.option_list import COMMANDS, Option, fields_of, is_mapping, is_options, table_of
from pygrade.config.option import Options, default_of

_OF_FOLDER = ("run", "token_file", "tls_cert", "tls_key")  # paths of a service
DEFAULTS = "defaults"  # the table of options of several commands
Table = dict[str, Any]


class Word(str):
    """A value of the command line, where numbers are text."""


class Setting(NamedTuple):
    """The value of an option, and where it stands, as errors begin: "config FILE: [train] ", or "--stage2."."""

    value: Any
    where: str


_SOURCES: dict[Any, tuple[type, ...]] = {  # what options of a type are made from
    **{int: (int, Word), float: (int, float, Word), bool: (bool,)},
    **{str: (str, Word), Path: (str, Word)},
}
_NAMES = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false", Path: "a path"}


def read_options(path: Path, command: str) -> dict[str, Setting]:
    """The options that a file has for a command, by their whole names. ``ValueError`` names table and key of unknown
    ones.
    """
    stated: dict[str, dict[str, Setting]] = {DEFAULTS: {}, command: {}}
    for key, table in read_tables(path).items():
        name = key.replace("_", "-")
        if name not in (DEFAULTS, *COMMANDS):
            wanted = near(key, [*COMMANDS, DEFAULTS]) or f"expected a command or {DEFAULTS}"
            raise ValueError(f"config {path}: [{key}] is not a command; {wanted}")
        if name == DEFAULTS:  # those that this command has, if the others are of another one
            own, every = _names(command), set().union(*map(_names, COMMANDS))
            table = {key: value for key, value in table.items() if key.replace("-", "_") not in every - own}
        if name in (DEFAULTS, command) or not reads_own_table(name):
            options = table_of(command if name == DEFAULTS else name)
            stated[name] = dict(_options_in(options, table, path, f"[{key}"))
    return stated[DEFAULTS] | stated[command]


def _names(command: str) -> set[str]:
    return {option.name for option in table_of(command)}


def _options_in(
    options: Sequence[Option], table: Table, file: Path, title: str, group: str = ""
) -> Iterator[tuple[str, Setting]]:
    """The options of a group's table ``[title`` and of those nested in it, with their whole names."""
    where = f"config {file}: {title}"
    own = {option.name.rpartition(".")[2]: option for option in options if option.group == group}
    own.pop("traceback", None)  # decided before
    for key, value in table.items():
        option = own.get(name := key.replace("-", "_"))
        if option is None or (is_options(option.hint) and not isinstance(value, dict)):
            raise ValueError(f"{where}] {key} is not an option; {near(name, own) or 'see --help-all'}")
        if is_options(option.hint):
            yield from _options_in(options, value, file, f"{title}.{key}", option.name)
        else:
            yield option.name, Setting(read_paths(value, option.name, option.hint, file.parent), f"{where}] ")


def read_tables(path: Path) -> dict[str, Table]:
    """The tables of a file; ``ValueError`` if it is not TOML or has other keys, ``FileNotFoundError`` if it is not
    there.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path}: {error}") from error
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"config {path}: {key} is {table!r}; expected a table [{key}]")
    return tables


def read_table(path: Path, command: str) -> Table:
    """A command's table as it is, names as fields; {} if the file has none. Runs and keys are relative to the folder of
    the file, logs and stores to their run.
    """
    table = {key.replace("-", "_"): value for key, value in read_tables(path).get(command, {}).items()}
    runs = table.get("runs")
    for own in (table, *(filter(_is_table, runs.values()) if isinstance(runs, dict) else ())):
        own |= {name: read_paths(own[name], name, Path, path.parent) for name in _OF_FOLDER if name in own}
    return table


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def reads_own_table(command: str) -> bool:
    """Return whether a command reads its table by itself, as it may hold more than the command line can say."""
    return "config" in _names(command)


def near(name: str, names: Iterable[str]) -> str:
    """The names that one may have been meant for, as a question; "" if there are none."""
    close = difflib.get_close_matches(name, sorted(names), 3, 0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


def build(kind: type[Options], stated: Mapping[str, Setting], default: Options | None = None, prefix: str = "") -> Any:
    """An instance of a dataclass from options by their whole names, which begin with ``prefix``, else of its defaults.
    A mapping that has a default, such as the values of a data set's tasks, keeps the entries that are not given.
    """
    values: Table = {}
    for field, hint in fields_of(kind):
        own = default_of(field) if default is None else getattr(default, field.name)
        name = prefix + field.name
        if is_options(hint) and any(other.startswith(f"{name}.") for other in stated):
            values[field.name] = build(hint, stated, own, f"{name}.")
        elif name in stated:
            value = _value(stated[name].value, hint, stated[name].where + field.name)
            values[field.name] = {**own, **value} if isinstance(own, Mapping) and value is not None else value
    try:
        return kind(**values) if default is None else replace(default, **values)
    except ValueError as error:
        named = stated.get(prefix + str(error).partition(" ")[0])
        raise ValueError(f"{named.where if named else ''}{error}") from error


def _value(value: Any, kind: Any, where: str) -> Any:
    """A value of the file as its option's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] in ((), (Ellipsis,)) else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; expected {len(kinds)}")
        pairs = enumerate(zip(value, kinds, strict=True))
        return tuple(_value(word, kind, f"{where}[{i}]") for i, (word, kind) in pairs)
    if is_mapping(kind) and isinstance(value, dict):
        return {key: _value(word, inner[1], f"{where}.{key}") for key, word in value.items()}
    if inner and origin not in (tuple, Literal) and not is_mapping(kind):
        return _choice(value, inner, where)
    if origin is Literal and value in inner:
        return str(value)
    if type(value) in _SOURCES.get(kind, ()):
        with suppress(ValueError):
            return kind(value)
    raise ValueError(f"{where} is {value!r}; expected {_name(kind)}")


def _choice(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """A value of one of several types; text is what nothing else is, and "none" is None unless it is a choice."""
    if any(get_origin(kind) is Literal and value in get_args(kind) for kind in kinds):
        return value
    if value in ("none", "None") and NoneType in kinds:
        return None
    if {str, Path} <= set(kinds) and isinstance(value, str):
        return str(value) if "://" in value else Path(value)
    for kind in sorted(kinds, key=lambda kind: kind is str):
        with suppress(ValueError):
            return _value(value, kind, where)
    names = " or ".join(_name(kind) for kind in kinds if kind is not NoneType)
    raise ValueError(f"{where} is {value!r}; expected {names}")


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return _NAMES.get(kind, "a table" if is_mapping(kind) else "a list" if get_origin(kind) is tuple else "none")
