"""The directory of a run: whether a command may write there, and the options of the run, which it keeps.

``options.toml`` can be given back as --config, and two runs are compared by it.
"""

import dataclasses
import logging
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pygrade._util.files import owner_of
from pygrade._util.optional_imports import require
from pygrade._util.serialization import write_bytes
from pygrade.cli.file_paths import written_paths
from pygrade.cli.option_list import fields_of
from pygrade.config.option import default_of
from pygrade.storage import Folder, Place, is_url
from pygrade.stores import without_secret

RECORD = "options.toml"
_OUTPUT = ("json", "quiet", "traceback")  # how a command prints, not what it does
_PLACE = ("out", "resume", "track", "cluster")  # differ between two runs with the same results

logger = logging.getLogger("pygrade")
Table = dict[str, Any]


def check_output(out: Place, command: str, data: Place | None = None) -> None:
    """``ValueError`` if ``out`` is a file, inside the data that is read, or has the results of another command.

    StorageError if it is at a URL whose store refuses or can't be reached.
    """
    if is_url(out):
        inside = data is not None and is_url(data) and f"{out}/".startswith(f"{str(data).rstrip('/')}/")
    else:
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise ValueError(f"out is {out}, a file; expected a directory")
        inside = data is not None and not is_url(data) and out.resolve().is_relative_to(Path(data).resolve())
    if inside:
        raise ValueError(f"out is {out}, inside the data {data}; expected a place of its own")
    owner = owner_of(out) if isinstance(out, Path) else Folder.at(out).owner()
    if owner not in ("", command):
        raise ValueError(f"out is {out}, which holds the results of pygrade {owner}; expected another for {command}")


def to_table(options: Any, folder: Path | None = None, prefix: str = "") -> Table:
    """The options of a run as a table of TOML. It has no null: none is left out if it is the default, else "none".

    folder: of a file, to which paths are relative; None: they stay as they are.
    """
    table = Table()
    for field, hint in fields_of(type(options)):
        value, name = getattr(options, field.name), prefix + field.name
        if field.metadata.get("unless") and value == field.default:
            continue  # another option stood in its place
        if value == {} == default_of(field):
            continue  # else an empty table
        if dataclasses.is_dataclass(value):
            table[field.name] = to_table(value, folder, f"{name}.")
        elif value is not None or field.default is not None:
            plain = "none" if value is None else _plain(value)
            table[field.name] = plain if folder is None else written_paths(plain, name, hint, folder)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return without_secret(value)
    return str(value) if isinstance(value, Path) else value


def write_options(options: Any, command: str, out: Path) -> None:
    """The file with the options of a run in its directory."""
    write_bytes(out / RECORD, to_toml(options, command, _folder(options, out)).encode())


def _folder(options: Any, out: Path) -> Path | None:
    """The folder of a run's file; None if it will be at a URL."""
    return None if is_url(getattr(options, "out", out)) else out


def to_toml(options: Any, command: str, folder: Path | None, **tables: Table) -> str:
    """The options of a command as a TOML file in a folder (`to_table`), after other tables."""
    own = {key: value for key, value in to_table(options, folder).items() if key not in _OUTPUT}
    text: str = require("tomli_w").dumps({**tables, command: own}, indent=2)
    return text


def to_words(options: Any, command: str) -> str:
    """The options of a command that are not the default, as a line that a shell takes."""
    words, first = [], list[str]()
    for field, _ in fields_of(type(options)):
        value = getattr(options, field.name)
        if value == default_of(field) or field.name in _OUTPUT:
            continue
        made = [f"{key}={item:g}" for key, item in value.items()] if isinstance(value, Mapping) else value
        made = list(map(str, made)) if isinstance(made, tuple | list) else [str(made)]
        if field.metadata.get("positional"):
            first = made
        else:
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else made)]
    return shlex.join(["pygrade", *command.split(), *first, *words])


@contextmanager
def record_options(options: Any, command: str, out: Path) -> Iterator[None]:
    """Writes the options of a run into its directory; says first which ones differ from those of the run there."""
    path = out / RECORD
    if path.is_file():
        for name, new, old in differences(to_table(options, _folder(options, out)), stored_options(path)[1]):
            logger.info(f"--{name.replace('_', '-')} is {format_value(new)}; the run in {out} has {format_value(old)}")
    else:
        write_options(options, command, out)
    yield
    write_options(options, command, out)


def stored_options(path: Path) -> tuple[str, Table]:
    """The command and the options that `record_options` wrote."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if len(tables) != 1 or not isinstance(next(iter(tables.values())), dict):
        raise ValueError(f"{path} has {len(tables)} tables; expected the one of the command that wrote it")
    return next(iter(tables.items()))


def differences(left: Table, right: Table, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, left and right value of each option that differs; None where one has none."""
    for key in dict.fromkeys([*left, *right]):
        a, b = left.get(key), right.get(key)
        if dict in (kinds := {type(a), type(b)}) and kinds <= {dict, type(None)}:  # an empty one may be left out
            yield from differences(a or {}, b or {}, f"{prefix}{key}.")
        elif a != b and prefix + key not in (*_OUTPUT, *_PLACE):
            yield prefix + key, a, b


def flat(table: Table, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its whole name: ``stage2.steps``."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif prefix + name not in _OUTPUT:
            yield prefix + name, format_value(value)


def format_value(value: Any) -> str:
    """A value in a sentence."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "empty"
    return "none" if value is None else str(value)
