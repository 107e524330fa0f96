"""Small HTML tables for notebooks."""

import html
from collections.abc import Mapping, Sequence


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """A table of names and facts under a title; everything is escaped.

    >>> facts_table("a < b", {"rows": "2"})
    '<table><caption>a &lt; b</caption><tbody><tr><th>rows</th><td>2</td></tr></tbody></table>'
    """
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items())
    return f"<table><caption>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"


def rows_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of rows under a title, whose first ``texts`` columns are text and the others numbers; all is escaped.

    >>> rows_table("<", ["", "n"], [["a", "1"]])[:44]
    '<table><caption>&lt;</caption><thead><tr><th'
    """

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ("left" if place < texts else "right" for place in range(len(cells)))
        parts = (
            f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    caption = f"<caption>{html.escape(title)}</caption>"
    return f"<table>{caption}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
