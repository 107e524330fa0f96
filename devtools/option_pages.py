"""The page of all options, made from the dataclasses that the commands parse and from the comments beside their fields.

A class that several commands share has one section, to which they link: an option is described once.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pygrade.cli.main import COMMANDS
from pygrade.cli.option_list import comment_of
from pygrade.cli.options import Output, Source

SHARED = {Output: ("every-command", "Every command"), Source: ("data", "Commands that read a log")}
INTRODUCTION = """\
This page is made from the dataclasses that the command line parses; in Python they take the same arguments. The table
of a class leaves out the prefix that a command puts before it: `page-size` of [RewardConfig](#rewardconfig) is
`--reward.page-size` of `pygrade train` and `--train.reward.page-size` of `pygrade pipeline`. `--no-NAME` switches off
what is on by default.
"""


def options_page() -> str:
    """The whole page, as Markdown."""
    parts = ["# Options\n", INTRODUCTION]
    parts += [f"## {title} {{#{place}}}\n\n{_table(kind)}" for kind, (place, title) in SHARED.items()]
    shared: dict[type, None] = {}
    for command in COMMANDS:
        kind = options_of(command)
        groups = [(prefix, group) for prefix, group in groups_of(kind)]
        shared |= dict.fromkeys(group for _, group in groups if group not in SHARED)
        parts += [f"## pygrade {command} {{#{command}}}\n\n{_description(kind)}\n", _table(kind)]
        links = [f"[{_title(group)}](#{_place(group)})" + f" as `--{p}…`" * bool(p) for p, group in groups]
        parts.append(f"Also: {'; '.join(links)}.\n")
    parts += [f"## {kind.__name__} {{#{_place(kind)}}}\n\n{_description(kind)}\n\n{_table(kind)}" for kind in shared]
    return "\n".join(parts)


def options_of(command: str) -> type:
    """The class of a command's options."""
    kind: type = importlib.import_module(f"pygrade.cli.commands.{command.replace('-', '_')}").Options
    return kind


def groups_of(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The classes besides this one that define its options, each with what a command puts before them."""
    yield from ((prefix, base) for base in kind.__mro__[1:] if dataclasses.is_dataclass(base))
    hints = get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[entry.name]):
            inner = f"{prefix}{_option(entry.name)}."
            yield inner, hints[entry.name]
            yield from groups_of(hints[entry.name], inner)


def own_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """The fields that this very class defines and that are no group of options."""
    hints = get_type_hints(kind)
    bases = (base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base))
    inherited = {entry.name for base in bases for entry in dataclasses.fields(base)} - set(
        inspect.get_annotations(kind)
    )
    return [
        entry
        for entry in dataclasses.fields(kind)
        if entry.init and entry.name not in inherited and not dataclasses.is_dataclass(hints[entry.name])
    ]


def comments_of(source: str) -> dict[str, str]:
    """Field of a class → what the comment beside or above it says."""
    source = textwrap.dedent(source)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    lines = source.splitlines()
    return {
        node.target.id: comment_of(node, lines)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _title(kind: type) -> str:
    return SHARED[kind][1].lower() if kind in SHARED else kind.__name__


def _place(kind: type) -> str:
    return SHARED[kind][0] if kind in SHARED else kind.__name__.lower()


def _description(kind: type) -> str:
    """The docstring, with its examples as code."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    text = re.sub(r"^Example: (.+)$", r"```sh\n\1\n```", text, flags=re.M)
    return re.sub(r"\n```\s+```sh\n", "\n", text)


def _table(kind: type) -> str:
    comments, hints = comments_of(inspect.getsource(kind)), get_type_hints(kind)
    marked = get_type_hints(kind, include_extras=True)
    rows = []
    for entry in own_fields(kind):
        text = comments.get(entry.name, "")
        if "positional" in getattr(marked[entry.name], "__metadata__", ()):
            text += "; may come first, without its name"
        if choices := [str(choice) for part in _parts(hints[entry.name]) for choice in get_args(part)]:
            text += f" ({', '.join(choices)})"
        rows.append(f"| `--{_option(entry.name)}` | {_default(entry)} | {_cell(text)} |\n")
    return "| option | default | |\n| --- | --- | --- |\n" + "".join(rows) if rows else ""


def _parts(hint: Any) -> list[Any]:
    """The Literals of a type."""
    return [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]


def _option(name: str) -> str:
    return name.replace("_", "-")


def _default(entry: dataclasses.Field[Any]) -> str:
    if entry.default is entry.default_factory is dataclasses.MISSING:
        return "**required**"
    value = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "" or (isinstance(value, tuple | dict) and not value):
        return "none"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _cell(text: str) -> str:
    return re.sub(r"([|<\[*$])", r"\\\1", text)
