"""Options in a TOML file: a table per command, ``[train]``, nested ones below it, ``[train.reward]``.

``[defaults]`` holds options of all commands that have them. Names may have dashes or underscores. ``pygrade COMMAND
--config FILE`` reads its table, and the command line wins over it; no file is read unless it is named. A run writes all
of its options as ``options.toml`` into its directory, from where they can be given back.
"""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pygrade.cli.option_list import commands, options_of
from pygrade.cli.options import Values
from pygrade.storage import place_of

DEFAULTS = "defaults"  # the table of options of several commands
_UNREAD = {"traceback"}  # decides what happens before the file is read

Table = dict[str, Any]


def read_config(path: Path, command: str) -> Table:
    """The options for a command, nested as in the file, names as fields; ``ValueError`` for any unknown name in it."""
    tables = read_tables(path)
    known = {name.replace("-", "_"): name for name in commands()}
    found: dict[str, Table] = {}
    for key, table in tables.items():
        name = known.get(key.replace("-", "_"), key)
        if name != DEFAULTS and name not in known.values():
            wanted = _near(name, [*known.values(), DEFAULTS]) or f"want a command or {DEFAULTS}"
            raise ValueError(f"config {path}: [{key}] is not a command; {wanted}")
        if not isinstance(table, dict):
            raise ValueError(f"config {path}: {key} is {table!r}; want a table [{key}]")
        if name != command and name in commands() and has_own_config(name):
            continue  # it checks its table itself
        read_by = commands() if name == DEFAULTS else (name,)
        names = {option.name for entry in read_by for option in options_of(entry).options}
        found[name] = _named(table, names - _UNREAD, path, key)
    mine = {option.name for option in options_of(command).options}
    return _merged(_only(found.get(DEFAULTS, {}), mine), found.get(command, {}))


def read_tables(path: Path) -> Table:
    """The whole file; ``ValueError`` if it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path}: {error}") from error


def read_table(path: Path, command: str) -> Table:
    """A command's table as it is, names as fields; {} if the file has none."""
    table = read_tables(path).get(command, {})
    if not isinstance(table, dict):
        raise ValueError(f"config {path}: {command} is {table!r}; want a table [{command}]")
    return {key.replace("-", "_"): value for key, value in table.items()}


def has_own_config(command: str) -> bool:
    """Whether a command reads its table by itself, for it may hold more than the command line can say."""
    return any(option.name == "config" for option in options_of(command).options)


def _named(table: Table, names: set[str], path: Path, where: str, prefix: str = "") -> Table:
    """The table with its keys as fields; every one must be an option, or the prefix of nested ones."""
    result: Table = {}
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        if name in names:
            result[key.replace("-", "_")] = value
        elif isinstance(value, dict) and any(entry.startswith(f"{name}.") for entry in names):
            result[key.replace("-", "_")] = _named(value, names, path, f"{where}.{key}", f"{name}.")
        else:
            here = {entry.removeprefix(prefix) for entry in names if entry.startswith(prefix)}
            near = _near(name.removeprefix(prefix), here | {entry.partition(".")[0] for entry in here})
            raise ValueError(f"config {path}: [{where}] {key} is not an option; {near or 'see --help-all'}")
    return result


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(names), 3, 0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _only(table: Table, names: set[str], prefix: str = "") -> Table:
    """The part of a table whose options are among the names."""
    result = {}
    for key, value in table.items():
        if prefix + key in names:
            result[key] = value
        elif isinstance(value, dict) and (part := _only(value, names, f"{prefix}{key}.")):
            result[key] = part
    return result


def _merged(below: Table, above: Table) -> Table:
    both = {
        key: _merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | both


def build(kind: type, table: Table, path: Path, section: str, missing: Any = None) -> Any:
    """An instance of a dataclass from a table of its options; ``missing`` where a required one is not in it.

    ``ValueError`` names the file's table and key if a value has another type, or one that the dataclass refuses.
    """
    hints, values = get_type_hints(kind), dict[str, Any]()
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name not in table:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                values[field.name] = missing
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            values[field.name] = build(hint, table[field.name], path, f"{section}.{field.name}", missing)
        else:
            values[field.name] = _value(table[field.name], hint, f"config {path}: [{section}] {field.name}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"config {path}: [{section}] {error}") from error


def _value(value: Any, kind: Any, where: str) -> Any:
    """A value of the file as its option's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if str in inner and Path in inner and isinstance(value, str) and value != "none":
            return place_of(value)
        for choice in sorted(inner, key=lambda entry: entry is str):  # text is what everything else is not
            try:
                return _value(value, choice, where)
            except ValueError:
                continue
        if value == "none" and type(None) in inner:
            return None
        names = " or ".join(_name(choice) for choice in inner if choice is not type(None))
        raise ValueError(f"{where} is {value!r}; want {names}")
    if origin is Literal and value in inner:
        return value
    if origin in (tuple, list) and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] in ((), (Ellipsis,)) else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; want {len(kinds)}")
        pairs = enumerate(zip(value, kinds, strict=True))
        return tuple(_value(entry, part, f"{where}[{i}]") for i, (entry, part) in pairs)
    if is_mapping(kind) and isinstance(value, dict):
        part = float if kind is Values else inner[1]
        made = {key: _value(entry, part, f"{where}.{key}") for key, entry in value.items()}
        return Values(made) if kind is Values else made
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise ValueError(f"{where} is {value!r}; want {_name(kind)}")


def is_mapping(kind: Any) -> bool:
    """Whether values of a type are given as KEY=VALUE, and in the file as a table."""
    return kind is Values or (isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping))


def _name(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false", Path: "a path"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return words.get(kind, "a table" if is_mapping(kind) else "a list" if get_origin(kind) in (tuple, list) else "none")
