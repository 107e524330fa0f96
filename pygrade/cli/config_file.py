"""Options in a TOML file: a table per command, ``[train]``, nested ones below it, ``[train.reward]``.

``[defaults]`` holds options of all commands that have them. Names may have dashes or underscores. ``pygrade COMMAND
--config FILE`` reads its table, and the command line wins over it; no file is read unless it is named. A run writes all
of its options as ``options.toml`` into its directory, from where they can be given back.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pygrade.cli.option_list import COMMANDS, default_of, fields_of, is_mapping, is_options, options_class, options_of
from pygrade.config.option import Options

DEFAULTS = "defaults"  # the table of options of several commands
_UNREAD = {"traceback"}  # decides what happens before the file is read

Table = dict[str, Any]


class Word(str):
    """A value of the command line, where numbers are text."""


_SOURCES: dict[Any, tuple[type, ...]] = {  # what options of a type are made from
    **{int: (int, Word), float: (int, float, Word), bool: (bool,)},
    **{str: (str, Word), Path: (str, Word)},
}
Label = Callable[[tuple[str, ...], str], str]  # groups of options, and an option or what is said of it → text


def read_options(path: Path, command: str) -> Table:
    """The options that a file has for a command, nested, with the types of their fields.

    ``ValueError`` names the file's table and key if a name is unknown, in any command's table; or, in this one's, if a
    value has another type, or one that the dataclass refuses.
    """
    found: dict[str, Table] = {}
    for key, table in read_tables(path).items():
        name = key.replace("_", "-")
        if name not in (DEFAULTS, *COMMANDS):
            wanted = near(key, [*COMMANDS, DEFAULTS]) or f"want a command or {DEFAULTS}"
            raise ValueError(f"config {path}: [{key}] is not a command; {wanted}")
        if not isinstance(table, dict):
            raise ValueError(f"config {path}: {key} is {table!r}; want a table [{key}]")
        if name not in (DEFAULTS, command) and reads_itself(name):
            continue  # it checks its table itself
        readers = COMMANDS if name == DEFAULTS else (name,)
        unknown = [_unknown(options_class(reader), table) for reader in readers]
        for place, names in unknown[0].items():
            if all(place in others for others in unknown[1:]):
                wanted = near(place[-1].replace("-", "_"), names) or "see --help-all"
                where = ".".join((key, *place[:-1]))
                raise ValueError(f"config {path}: [{where}] {place[-1]} is not an option; {wanted}")
        if name in (DEFAULTS, command):
            found[name] = typed(options_class(command), table, label(path, name))
    table = merged(found.get(DEFAULTS, {}), found.get(command, {}))
    build(options_class(command), table, label(path, command))
    return table


def _unknown(kind: type[Options], table: Table, groups: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[str]]:
    """The places of keys that are no options, each with the options that there are."""
    hints = {entry.name: hint for entry, hint in fields_of(kind) if entry.name not in _UNREAD}
    found: dict[tuple[str, ...], list[str]] = {}
    for key, value in table.items():
        hint = hints.get(key.replace("-", "_"))
        if hint is not None and is_options(hint) and isinstance(value, dict):
            found |= _unknown(hint, value, (*groups, key))
        elif hint is None or is_options(hint):
            found[*groups, key] = list(hints)
    return found


def label(path: Path, table: str) -> Label:
    """How errors name what is in a table of a file."""
    return lambda groups, text: f"config {path}: [{'.'.join((table, *groups))}] {text}"


def read_tables(path: Path) -> Table:
    """The whole file; ``ValueError`` if it is not TOML, ``FileNotFoundError`` if it is not there."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path}: {error}") from error


def read_table(path: Path, command: str) -> Table:
    """A command's table as it is, names as fields; {} if the file has none."""
    table = read_tables(path).get(command, {})
    if not isinstance(table, dict):
        raise ValueError(f"config {path}: {command} is {table!r}; want a table [{command}]")
    return {key.replace("-", "_"): value for key, value in table.items()}


def reads_itself(command: str) -> bool:
    """Whether a command reads its table by itself, for it may hold more than the command line can say."""
    return any(option.name == "config" for option in options_of(command))


def near(name: str, names: Iterable[str]) -> str:
    """The names that one may have been meant for, as a question; "" if there are none."""
    close = difflib.get_close_matches(name, sorted(names), 3, 0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


def merged(below: Table, above: Table) -> Table:
    """Both tables; where both have an option, that of the one above."""
    both = {
        key: merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | both


def typed(kind: type[Options], table: Table, label: Label, groups: tuple[str, ...] = ()) -> Table:
    """A table of options with values of their fields' types; ``ValueError`` names one that is of another type."""
    result: Table = {}
    table = {key.replace("-", "_"): value for key, value in table.items()}
    for name, hint in ((entry.name, hint) for entry, hint in fields_of(kind) if entry.name in table):
        if is_options(hint):
            result[name] = typed(hint, table[name], label, (*groups, name))
        else:
            result[name] = _value(table[name], hint, label(groups, name))
    return result


def build(
    kind: type[Options],
    table: Table,
    label: Label | None = None,
    default: Options | None = None,
    groups: tuple[str, ...] = (),
) -> Any:
    """An instance of a dataclass from a table of typed options, else of its defaults. A mapping that has a default,
    such as the values of a data set's tasks, keeps the entries that are not given.

    label: the table is only a part of the options, to be checked: a required one may be absent, and errors say where.
    """
    values: Table = {}
    for entry, hint in fields_of(kind):
        own = default_of(entry) if default is None else getattr(default, entry.name)
        if entry.name in table:
            value = table[entry.name]
            if is_options(hint):
                values[entry.name] = build(hint, value, label, own, (*groups, entry.name))
            else:
                values[entry.name] = {**own, **value} if isinstance(own, Mapping) and value is not None else value
        elif own is MISSING and label is not None:
            values[entry.name] = None
    try:
        return kind(**values) if default is None else replace(default, **values)
    except ValueError as error:
        text = str(error)
        if label is not None:
            raise ValueError(label(groups, text)) from error
        names_option = text.partition(" ")[0] in values
        raise ValueError(".".join((*groups, text)) if names_option else text) from error


def _value(value: Any, kind: Any, where: str) -> Any:
    """A value of the file as its option's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] in ((), (Ellipsis,)) else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries; want {len(kinds)}")
        pairs = enumerate(zip(value, kinds, strict=True))
        return tuple(_value(entry, part, f"{where}[{i}]") for i, (entry, part) in pairs)
    if is_mapping(kind) and isinstance(value, dict):
        return {key: _value(entry, inner[1], f"{where}.{key}") for key, entry in value.items()}
    if inner and origin not in (tuple, Literal) and not is_mapping(kind):
        return _choice(value, inner, where)
    if origin is Literal and value in inner:
        return str(value)
    if type(value) in _SOURCES.get(kind, ()):
        with suppress(ValueError):
            return kind(value)
    raise ValueError(f"{where} is {value!r}; want {_name(kind)}")


def _choice(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """A value of one of several types; text is what everything else is not, and "none" is None."""
    if value in ("none", "None") and NoneType in kinds:
        return None
    if {str, Path} <= set(kinds) and isinstance(value, str):
        return str(value) if "://" in value else Path(value)
    for kind in sorted(kinds, key=lambda entry: entry is str):
        with suppress(ValueError):
            return _value(value, kind, where)
    names = " or ".join(_name(kind) for kind in kinds if kind is not NoneType)
    raise ValueError(f"{where} is {value!r}; want {names}")


def _name(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false", Path: "a path"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return words.get(kind, "a table" if is_mapping(kind) else "a list" if get_origin(kind) is tuple else "none")
