"""Small HTML tables for notebooks."""

import html
from collections.abc import Mapping


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """A table of names and facts under a title; everything is escaped.

    >>> facts_table("a < b", {"rows": "2"})
    '<table><caption>a &lt; b</caption><tbody><tr><th>rows</th><td>2</td></tr></tbody></table>'
    """
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items())
    return f"<table><caption>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"
