"""Names and messages made fit for a terminal or a picture."""

import re
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""The text with its control characters as escapes: a name cannot steer the terminal.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str, size: int = 40) -> str:
    """A printable text of at most ``size`` characters."""
    shown = printable(text)
    return shown if len(shown) <= size else shown[: size - 1] + "…"


def distinct(sentences: Iterable[str]) -> list[str]:
    """The sentences without repeats; of those that differ by their figures alone, the first.

    >>> distinct(["8.4 % lack a feature", "7 % lack a feature", "no slots"])
    ['8.4 % lack a feature', 'no slots']
    """
    said: dict[str, str] = {}
    for sentence in sentences:
        said.setdefault(re.sub(r"[\d.,]+", "0", sentence.partition("(")[0]), sentence)
    return list(said.values())


def one_line(error: BaseException, size: int = 200) -> str:
    """The message of an error in one line of at most ``size`` characters; the error's type if it has none."""
    return " ".join(str(error).split())[:size] or type(error).__name__
