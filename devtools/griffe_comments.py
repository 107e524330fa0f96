"""Extension of mkdocstrings: the text of an option, or a comment beside a field, is the field's documentation."""

import ast
import dataclasses
import importlib
import textwrap
from typing import Any

from griffe import Class, Docstring, Extension


class Comments(Extension):
    """Called for each class that is read."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Give its fields their texts."""
        texts = comments_of(cls.source)
        kind = getattr(importlib.import_module(cls.module.path), cls.name) if "pygrade.config" in cls.path else None
        if dataclasses.is_dataclass(kind):
            texts |= {entry.name: entry.metadata.get("text", "") for entry in dataclasses.fields(kind)}
        for name, text in texts.items():
            if text and name in cls.members and cls.members[name].docstring is None:
                cls.members[name].docstring = Docstring(text)


def comments_of(source: str) -> dict[str, str]:
    """Field of a class → what the comment beside or above it says."""
    source = textwrap.dedent(source)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    lines = source.splitlines()
    return {
        node.target.id: _comment_of(node, lines)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _comment_of(statement: ast.AnnAssign, lines: list[str]) -> str:
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
