"""HTML tables, of notebooks and of the console."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pygrade._util.text import printable


@dataclass(frozen=True)
class Html:
    """A cell that is HTML; others are text."""

    code: str


Cell = str | Html


class Table(NamedTuple):
    """A table, of a page and of the terminal: its first ``texts`` columns are text, the others numbers; the row that
    begins with ``strong`` stands out.
    """

    head: Sequence[str]  # empty: it has none
    rows: Sequence[Sequence[Cell]]
    strong: str = ""
    texts: int = 1


def escape(text: str) -> str:
    """The text for a page: neither markup nor control characters of a name have an effect."""
    return html.escape(printable(text))


def html_table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], title: str = "", texts: int = 1, strong: str = ""
) -> str:
    """A table under a title, whose first ``texts`` columns are text and the others numbers; `Html` alone is markup.

    head: names of the columns; empty: the table has none. The row that begins with ``strong`` stands out.

    >>> html_table([], [["<"]])
    '<table><tbody><tr><th scope="row" style="text-align:left">&lt;</th></tr></tbody></table>'
    """

    def cell(place: int, content: Cell, tag: str) -> str:
        if isinstance(content, Html):
            return f'<{tag} class="wide">{content.code}</{tag}>'
        kind = ' style="text-align:left"' if place < texts else ' class="number" style="text-align:right"'
        scope = {"th": ' scope="col"', "td": "" if place else ' scope="row"'}[tag]
        tag = tag if place else "th"  # names the row
        return f"<{tag}{scope}{kind}>{escape(content)}</{tag}>"

    body = []
    for row in rows:
        if head and len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells; expected {len(head)}, one under each head")
        own = ' class="own"' if strong and row[0] == strong else ""
        cells = "".join(cell(place, entry, "td") for place, entry in enumerate(row))
        body.append(f"<tr{own}>{cells}</tr>")
    heads = "".join(cell(place, name, "th") for place, name in enumerate(head))
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}{top}<tbody>{''.join(body)}</tbody></table>"
