"""The options of every command, read from the source of their dataclasses without importing it.

Help, completion and the check of a config file need names, defaults and comments alone; importing a command imports
torch, which takes seconds. A test compares this list with the dataclasses themselves.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = Path(__file__).resolve().parent.parent
_TYPES = {"int": "INT", "float": "NUMBER", "str": "TEXT", "Path": "PATH", "Place": "PATH|URL"}
_TYPES |= {"Values": "TASK=VALUE,…", "Any": "VALUE"}


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    name: str  # as the field: k, or stage2.group_size if nested
    kind: str  # what its value looks like: INT, PATH, {a,b}; "": a flag
    default: str | None  # as text; None: required
    text: str  # its comment
    choices: tuple[str, ...] = ()
    positional: bool = False  # given without its name

    @property
    def flag(self) -> str:
        """As on the command line: ``--stage2.group-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def negative(self) -> str:
        """What turns a flag off: ``--stage2.no-leave-one-out``."""
        groups, _, name = self.flag[2:].rpartition(".")
        return f"--{groups}.no-{name}" if groups else f"--no-{name}"


@dataclass(frozen=True)
class CommandOptions:
    """What a command's ``Options`` say."""

    text: str  # its docstring
    options: tuple[Option, ...]  # its own first, then inherited ones, then nested ones
    groups: dict[str, str]  # prefix of nested options → what they are about
    essential: tuple[str, ...]  # names that the short help shows, if the module has ESSENTIAL

    def __getitem__(self, name: str) -> Option:
        return next(option for option in self.options if option.name == name)


class _Class(NamedTuple):
    module: str
    node: ast.ClassDef


@cache
def commands() -> tuple[str, ...]:
    """The name of every command: that of its module, with dashes."""
    files = (_PACKAGE / "cli" / "commands").glob("[a-z]*.py")
    return tuple(sorted(path.stem.replace("_", "-") for path in files))


@cache
def options_of(command: str) -> CommandOptions:
    """The options of a command of ``pygrade.cli.commands``."""
    module = f"cli.commands.{command.replace('-', '_')}"
    node = _resolve(module, "Options").node
    assert isinstance(node, ast.ClassDef)
    fields = _fields(_Class(module, node))
    groups = {name: entry for name, entry in fields.items() if isinstance(entry, _Group)}
    flat = [entry for entry in fields.values() if isinstance(entry, Option)]
    nested = [option for name, group in groups.items() for option in _nested(name, group)]
    essential = _constant(module, "ESSENTIAL")
    texts = {name: group.text for name, group in groups.items()}
    return CommandOptions(ast.get_docstring(node) or "", (*flat, *nested), texts, tuple(essential or ()))


class _Group(NamedTuple):
    kind: _Class
    text: str


def _nested(prefix: str, group: _Group) -> Iterator[Option]:
    for name, entry in _fields(group.kind).items():
        if isinstance(entry, _Group):
            yield from _nested(f"{prefix}.{name}", entry)
        else:
            yield replace(entry, name=f"{prefix}.{name}")


def _fields(kind: _Class) -> dict[str, "Option | _Group"]:
    """The fields of a dataclass, its own before those of its bases, which it overrides."""
    fields: dict[str, Option | _Group] = {}
    lines = _source(kind.module).splitlines()
    for statement in kind.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            entry = _field(kind, statement, lines)
            if entry is not None:
                fields[statement.target.id] = entry
    for base in kind.node.bases:
        if isinstance(base, ast.Name):
            found = _resolve(kind.module, base.id)
            if isinstance(found.node, ast.ClassDef):
                inherited = _fields(_Class(found.module, found.node))
                fields |= {name: entry for name, entry in inherited.items() if name not in fields}
    return fields


def _field(kind: _Class, statement: ast.AnnAssign, lines: list[str]) -> "Option | _Group | None":
    assert isinstance(statement.target, ast.Name)
    name, text = statement.target.id, comment_of(statement, lines)
    markers, annotation = _unwrapped(statement.annotation)
    if {"Suppress", "Fixed", "ClassVar"} & markers:
        return None
    if isinstance(annotation, ast.Name):
        found = _resolve(kind.module, annotation.id)
        if isinstance(found.node, ast.ClassDef) and annotation.id not in _TYPES:
            about = text or (ast.get_docstring(found.node) or "").split("\n")[0]
            return _Group(_Class(found.module, found.node), about)
    value_kind, choices = _kind(kind.module, annotation)
    default = None if statement.value is None else _default(kind.module, statement.value)
    return Option(name, value_kind, default, text, choices, bool({"positional", "Positional"} & markers))


def _unwrapped(node: ast.expr) -> tuple[set[str], ast.expr]:
    """The annotation inside ``Annotated[…]`` and tyro's like, and the names of such markers."""
    markers = set()
    while isinstance(node, ast.Subscript):
        name = _last(node.value)
        if name not in ("Annotated", "Suppress", "Fixed", "ClassVar"):
            break
        markers.add(name)
        if name == "Annotated" and isinstance(node.slice, ast.Tuple):
            markers |= {_last(extra) for extra in node.slice.elts[1:]}
            node = node.slice.elts[0]
        else:
            node = node.slice
    return markers, node


def _last(node: ast.expr) -> str:
    """c of ``a.b.c``, and the text of a constant."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _kind(module: str, node: ast.expr) -> tuple[str, tuple[str, ...]]:
    """What values of an annotation look like, and the choices if there are only some."""
    if isinstance(node, ast.Name):
        if node.id == "bool":
            return "", ()
        if node.id in _TYPES:
            return _TYPES[node.id], ()
        found = _resolve(module, node.id)
        if isinstance(found.node, ast.expr):
            return _kind(found.module, found.node)
    if isinstance(node, ast.BinOp):
        parts = [_kind(module, part) for part in (node.left, node.right) if not _is_none(part)]
        return "|".join(text for text, _ in parts), tuple(c for _, choices in parts for c in choices)
    if isinstance(node, ast.Subscript):
        name, inner = _last(node.value), node.slice
        entries = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if name == "Literal":
            choices = tuple(str(entry.value) for entry in entries if isinstance(entry, ast.Constant))
            return "{" + ",".join(choices) + "}", choices
        if name in ("tuple", "list"):
            if len(entries) == 2 and isinstance(entries[1], ast.Constant):
                text, choices = _kind(module, entries[0])
                return f"{text} …", choices
            words = [_kind(module, entry)[0] for entry in entries]
            same = len(words) > 2 and len(set(words)) == 1
            return f"{words[0]} × {len(words)}" if same else " ".join(words), ()
        if name in ("dict", "Mapping"):
            value = _kind(module, entries[1])[0]
            return f"KEY.{value}" if value.startswith("KEY") else f"KEY={value},…", ()
    return "VALUE", ()


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _default(module: str, node: ast.expr) -> str:
    """A default as a reader wants it: numbers and words, not code."""
    if isinstance(node, ast.Call):
        name = _last(node.func)
        if name == "field":
            inner = {keyword.arg: keyword.value for keyword in node.keywords}
            if "default" in inner:
                return _default(module, inner["default"])
            factory = inner.get("default_factory")
            return _default(module, factory.body) if isinstance(factory, ast.Lambda) else ""
        if name == "Path" and len(node.args) == 1:
            return _default(module, node.args[0])
    if isinstance(node, ast.Name):
        found = _resolve(module, node.id)
        return _default(found.module, found.node) if isinstance(found.node, ast.expr) else node.id
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):  # 1 << 20, which no reader wants to compute
        return str(ast.literal_eval(node.left) << ast.literal_eval(node.right))
    try:
        return _words(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(_words(entry) for entry in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_words(entry)}" for key, entry in value.items())
    return str(value)


def comment_of(statement: ast.AnnAssign, lines: list[str]) -> str:
    """The comment at the end of one of the field's lines, else the one above it, which may cover several fields."""
    assert statement.end_lineno is not None
    for line in lines[statement.lineno - 1 : statement.end_lineno]:
        if "  # " in line:
            return line.partition("  # ")[2].strip()
    above: list[str] = []
    for line in reversed(lines[: statement.lineno - 1]):
        text = line.strip()
        if text.startswith("#"):
            above.insert(0, text.lstrip("# "))
        elif above or not text or "#" in text or text.endswith('"""'):
            break
    return " ".join(above)


class _Found(NamedTuple):
    module: str
    node: ast.ClassDef | ast.expr | None


@cache
def _source(module: str) -> str:
    path = _PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@cache
def _names(module: str) -> dict[str, ast.stmt]:
    """The classes, constants and imports at the top of a module, by name."""
    names: dict[str, ast.stmt] = {}
    for statement in ast.parse(_source(module)).body:
        if isinstance(statement, ast.ClassDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names[statement.target.id] = statement
        elif isinstance(statement, ast.ImportFrom):
            names |= {alias.asname or alias.name: statement for alias in statement.names}
    return names


def _resolve(module: str, name: str) -> _Found:
    """The class or constant that a name in a module of this package means; no node if it is another package's."""
    statement = _names(module).get(name)
    if isinstance(statement, ast.ClassDef):
        return _Found(module, statement)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return _Found(module, statement.value)
    if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("pygrade."):
        alias = next(alias for alias in statement.names if name in (alias.asname, alias.name))
        return _resolve((statement.module or "").removeprefix("pygrade."), alias.name)
    return _Found(module, None)


def _constant(module: str, name: str) -> Any:
    found = _resolve(module, name).node
    return None if found is None or isinstance(found, ast.ClassDef) else ast.literal_eval(found)
