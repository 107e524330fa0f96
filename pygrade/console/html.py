"""The HTML of reports: one file that needs no other, light or dark, readable on a telephone."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pygrade._util.text import printable
from pygrade.console.style import CSS
from pygrade.serving.page_table import page_table

Json = Mapping[str, Any]


def escape(text: str) -> str:
    """The text for a page: neither markup nor control characters of a name have an effect."""
    return html.escape(printable(text))


@dataclass(frozen=True)
class Picture:
    """What matplotlib drew: one PNG for a file, and its parts as SVG for the page."""

    png: bytes
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph (HTML) that says what the reader sees, and a picture or a table (HTML)."""

    title: str
    text: str
    name: str = ""  # of the picture's file, without suffix
    picture: Picture | None = None
    table: str = ""


@dataclass(frozen=True)
class Html:
    """A cell that is HTML; others are text."""

    code: str


@dataclass(frozen=True)
class Column:
    """The head of a column; ``kind``: number (right-aligned), text, or mark (a small picture)."""

    title: str | Html
    kind: str = "number"


Cell = str | Html


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[Cell]], strong: str = "") -> str:
    """A table whose first column names the row; the row that begins with ``strong`` stands out.

    On narrow screens each row becomes a card with the heads beside its cells.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    kinds = ["text", *(head.kind for head in heads[1:])]
    names = [head.title if isinstance(head.title, str) else "" for head in heads]
    top = "".join(f'<th scope="col" class="{kind}">{_cell(h.title)}</th>' for h, kind in zip(heads, kinds, strict=True))
    body = []
    for row in rows:
        cells = "".join(
            f'<td class="{kind}" data-label="{escape(name)}">{_cell(cell)}</td>'
            for cell, kind, name in zip(row[1:], kinds[1:], names[1:], strict=True)
        )
        own = ' class="own"' if strong and row[0] == strong else ""
        body.append(f'<tr{own}><th scope="row">{_cell(row[0])}</th>{cells}</tr>')
    wide = ' class="stack"' if len(heads) > 2 else ""
    return f"<table{wide}><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def facts(rows: Sequence[tuple[str, Cell]]) -> str:
    """Names and texts, without a head."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{_cell(value)}</td></tr>' for name, value in rows
    )
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def cards(boxes: Sequence[tuple[str, str, str, bool]]) -> str:
    """Boxes of name, number, range, and whether it is the one that the text is about."""
    return "".join(
        f'<div class="card{"" if own else " other"}"><div class="name">{escape(name)}</div>'
        f'<div class="figure">{escape(number)}</div><div class="range">{escape(reach)}</div></div>'
        for name, number, reach, own in boxes
    ).join(('<div class="cards">', "</div>"))


def folded(summary: str, inner: str) -> str:
    """What most readers skip, behind a line to click."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def figures(picture: Picture) -> str:
    return f'<div class="figures">{"".join(picture.parts)}</div>'


def shaded_page(record: Json) -> str:
    """HTML of `page_table` of a record: weights on top if they rank; shades show size and sign of contributions."""
    page = page_table(record)
    reach = max((abs(part) for _, _, parts in page.rows for part in parts), default=1.0) or 1.0
    columns = [Column(name, "text") for name in page.head[:2]] + [Column(name) for name in page.head[2:]]
    bars = [Html(f'<div class="bar"><i style="width:{100 * w:.0f}%"></i></div>{100 * w:.1f} %') for w in page.weights]
    rows: list[list[Cell]] = [["", "weights", "", *bars, *[""] * (len(columns) - 3 - len(bars))]] if bars else []
    for slot, (item, score, parts) in enumerate(page.rows, 1):
        cells = [Html(f'<span class="shade" style="background:{shade(v / reach)}">{v:+.3f}</span>') for v in parts]
        rows.append([str(slot), item, f"{score:+.3f}", *cells])
    return table(columns, rows)


def shade(share: float) -> str:
    """Blue for what is above, orange for what is below; share from -1 to 1."""
    if not math.isfinite(share):
        return "none"
    return f"rgba(var(--{'lift' if share >= 0 else 'sink'}),{min(abs(share), 1.0) * 0.75:.2f})"


@dataclass(frozen=True)
class Lead:
    """The top of a report."""

    text: str = ""  # HTML
    verdict: str = ""  # a sentence
    kind: str = ""  # of the verdict: better, undecided, worse …
    beside: Sequence[str] = ()  # lines in small print below it
    warnings: Sequence[str] = field(default=())
    cards: str = ""  # HTML

    def html(self) -> str:
        small = "".join(f"<small>{escape(line)}</small>" for line in self.beside)
        said = f'<div class="verdict {self.kind}"><p>{escape(self.verdict)}</p>{small}</div>' if self.verdict else ""
        loud = "".join(
            f'<div class="warning" role="alert"><b>WARNING</b> {escape(text)}</div>' for text in self.warnings
        )
        text = f'<p class="lead">{self.text}</p>' if self.text else ""
        return f"{said}{loud}{text}{self.cards}"


def document(title: str, lead: Lead, sections: Sequence[Section], summary: Json) -> str:
    """The whole page; ``summary``: facts of the run, of which texts and numbers are shown."""
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = []
    for i, section in enumerate(sections):
        drawn = figures(section.picture) if section.picture else ""
        inner = f'{drawn}<div class="scroll">{section.table}</div>' if section.table else drawn
        body.append(f'<section id="s{i}"><h2>{escape(section.title)}</h2><p>{section.text}</p>{inner}</section>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{CSS}</style></head><body><main>'
        f"<h1>{escape(title)}</h1>{lead.html()}<nav>{links}</nav>{''.join(body)}{_run(summary)}</main></body></html>\n"
    )


def _run(summary: Json) -> str:
    known = [
        (name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    ]
    return f"<section><h2>The run</h2>{facts(known)}</section>" if known else ""


def _cell(cell: Cell) -> str:
    return cell.code if isinstance(cell, Html) else escape(cell)
