"""The options of every command, as help, completion and the config file need them: from the dataclasses alone.

`pygrade.config` has them and imports the standard library only, so that nothing here waits for torch.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pygrade.config.option import Options, choices_of, default_of, field_types

COMMANDS = {  # the module of pygrade.config that has the options, and what the command is for
    "demo": ("simulation", "the whole job on a simulated marketplace: logs, training, A/B test, report, ranked pages"),
    "simulate": ("simulation", "write the log of a simulated marketplace, or A/B test policies in it"),
    "doctor": ("logs", "your own table as a log, checked; a profile of what it supports; --cold-start: no log yet"),
    "train": ("training", "train a policy on logged requests, with a verdict against the strongest simple baseline"),
    "evaluate": ("logs", "a policy on logged requests: replay, estimate, --trade-offs; or two runs side by side"),
    "rank": ("logs", "rank logged requests with a policy, or for a user with a pipeline; print pages and why"),
    "test-plan": ("abtest", "users and days that an A/B test of your own needs, from the variances in your log"),
    "test-read": ("abtest", "an A/B test, from its log or a table per arm: the check of its split, lifts, a decision"),
    "pipeline": ("pipeline", "the whole system from raw events; --check: its pages offline and online, bit for bit"),
    "report": ("console", "one HTML file to look at a policy on held-out requests and move its weights; no server"),
    "serve": ("service", "the system as a service: HTTP, arms, exploration, metrics, exposures and feedback logged"),
    "join": ("service", "exposures of a service and their feedback, as the log that train reads"),
    "online": ("service", "learn from a service's exposures and feedback while it serves; lifts of its arms"),
    "export": ("export", "a policy or a multi-task model as a .pt2 or ONNX file, for programs without Python"),
    "docs": ("export", "the documentation in a browser, or where it is"),
}
_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


class Option(NamedTuple):
    """An option of a command, or a group of options."""

    name: str  # as the field: k, or stage2.group_size if nested
    hint: Any  # its type
    default: Any  # dataclasses.MISSING: required
    text: str = ""
    positional: bool = False  # may come first, without its name
    alias: str = ""  # another name: --mtl
    unless: str = ""  # required, too, but where the option of this name is given
    file_only: bool = False  # too rare for the command line

    @property
    def group(self) -> str:
        """The name of its group; "": it is the command's own."""
        return self.name.rpartition(".")[0]

    @property
    def flag(self) -> str:
        """The option as on the command line: ``--stage2.group-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def negative(self) -> str:
        """The word that turns a flag off: ``--no-correction.enabled``; "" for other options."""
        return f"--no-{self.flag.removeprefix('--')}" if self.hint is bool else ""

    @property
    def required(self) -> bool:
        """True without a default."""
        return self.default is dataclasses.MISSING

    @property
    def needed(self) -> bool:
        """Return whether a command line without it lacks something, at least if another option is not given."""
        return self.required or bool(self.unless)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes, if there are only some."""
        return tuple(map(str, choices_of(self.hint)))

    @property
    def kind(self) -> str:
        """The look of its value: INT, PATH, {a,b}; "": a flag."""
        return "" if self.hint is bool else _kind(self.hint)


def typed(command: str) -> str:
    """A command as it is typed: two words if its name has a dash."""
    return command.replace("-", " ")


@cache
def options_class(command: str) -> type[Options]:
    """The dataclass of a command's options."""
    module = importlib.import_module(f"pygrade.config.{COMMANDS[command][0]}")
    kind: type[Options] = getattr(module, "".join(map(str.capitalize, command.split("-"))) + "Options")
    return kind


@cache
def table_of(command: str) -> tuple[Option, ...]:
    """Every option of a command, those of a file alone and the groups included: its own before inherited ones."""
    return tuple(_walk(options_class(command)))


@cache
def options_of(command: str) -> tuple[Option, ...]:
    """The options that the command line takes; nested ones last."""
    taken = [option for option in table_of(command) if not option.file_only and not is_options(option.hint)]
    return tuple(sorted(taken, key=lambda option: bool(option.group)))


def _walk(kind: type[Options], prefix: str = "", owner: Options | None = None) -> Iterator[Option]:
    """The options of a dataclass, each group before its own; of a group that ``FLAGS`` has, the others are file_only.

    owner: the instance that has their defaults.
    """
    for field, hint in fields_of(kind):
        name, default = prefix + field.name, default_of(field) if owner is None else getattr(owner, field.name)
        yield Option(name, hint, default, **{k: v for k, v in field.metadata.items() if k in Option._fields})
        if is_options(hint):
            flags = getattr(kind, "FLAGS", {}).get(field.name)
            for option in _walk(hint, f"{name}.", default):
                hidden = flags is not None and option.name.removeprefix(f"{name}.") not in flags
                yield option._replace(file_only=hidden or option.file_only)


def fields_of(kind: type[Options]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass with their types, its own before those of its bases; without those of Python alone."""
    hidden = getattr(kind, "PYTHON_ONLY", ())
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in hidden}
    for name in dict.fromkeys(name for base in kind.__mro__ for name in inspect.get_annotations(base)):
        if name in fields:
            yield fields[name], field_types(kind)[name]


def is_options(hint: Any) -> bool:
    """True of a nested group of options."""
    return isinstance(hint, type) and issubclass(hint, Options)


def is_mapping(hint: Any) -> bool:
    """Return whether values of a type are given as KEY=VALUE, and in a file as a table."""
    return isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping)


def in_words(value: Any) -> str:
    """A default as a reader needs it: numbers and words, not code."""
    if value is None or value is dataclasses.MISSING:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(in_words, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={in_words(number)}" for key, number in value.items())
    return str(value)


def _kind(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if is_mapping(hint):
        value = _kind(inner[1])
        return f"KEY.{value}" if value.startswith("KEY") else f"KEY={value},…"
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"{_kind(inner[0])} …"
        words = [_kind(kind) for kind in inner]
        return f"{words[0]} × {len(words)}" if len(words) > 2 and len(set(words)) == 1 else " ".join(words)
    if inner:
        kinds = [kind for kind in inner if kind is not NoneType]
        return "PATH|URL" if {str, Path} <= set(kinds) else "|".join(map(_kind, kinds))
    return _KINDS.get(hint, "VALUE")
