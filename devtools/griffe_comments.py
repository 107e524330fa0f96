"""Extension of mkdocstrings: a comment beside a field is the field's documentation."""

from typing import Any

from griffe import Class, Docstring, Extension

from devtools.option_pages import comments_of


class Comments(Extension):
    """Called for each class that is read."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Give its fields the texts of their comments."""
        if not cls.has_labels("dataclass") and not any("NamedTuple" in str(base) for base in cls.bases):
            return
        for name, text in comments_of(cls.source).items():
            if text and name in cls.members and cls.members[name].docstring is None:
                cls.members[name].docstring = Docstring(text)
