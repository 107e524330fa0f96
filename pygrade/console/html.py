"""The parts of a page: a lead with the verdict, and sections of text, tables and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pygrade._util.html_table import Html, Table, escape, html_table
from pygrade._util.text import distinct
from pygrade.console.marks import interval_mark
from pygrade.metrics.texts import lift_text

Json = Mapping[str, Any]
Facts = Sequence[tuple[str, str | Html]]
LIGHTS = {"green": "fine", "yellow": "look at this", "red": "in the way"}  # of a section, in words


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph that says what the reader sees, tables, and small print below them. `more` is HTML that a
    page alone has: charts, lists to unfold. With a `line` that says what it comes to, the rest is behind a line to
    click, and `light` (of `LIGHTS`) stands beside the heading.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    more: str = ""
    line: str = ""
    light: str = ""

    def html(self, name: str) -> str:
        """name: of the anchor."""
        body = notes([self.text] if self.text else []) + "".join(map(table, self.tables)) + notes(self.notes)
        light = f'<span class="badge {self.light}">{LIGHTS[self.light]}</span>' if self.light else ""
        line = f'<p class="line">{light}{escape(self.line)}</p>'
        body = line + self.more + folded("figures", body) if self.line else body + self.more
        return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(self.title)}</h2>{body}</section>'


@dataclass(frozen=True)
class Lead:
    """The top of a page."""

    text: str = ""  # HTML
    verdict: str = ""  # a sentence
    kind: str = ""  # of the verdict: better, undecided, worse …
    beside: Sequence[str] = ()  # lines in small print below it
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()  # names and values
    cards: Sequence[str] = ()  # HTML, of `card`

    def html(self) -> str:
        """The verdict first, then the warnings, then the rest."""
        badge = f'<span class="badge {self.kind}">{escape(self.kind)}</span>' if self.kind else ""
        small = "".join(f"<small>{escape(line)}</small>" for line in self.beside)
        verdict = f'<div id="verdict" class="verdict">{badge}<div><p>{escape(self.verdict)}</p>{small}</div></div>'
        loud = "".join(f"<li>{escape(sentence)}</li>" for sentence in distinct(self.warnings))
        text = f'<p class="note">{self.text}</p>' if self.text else ""
        facts = "".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in self.facts)
        parts = [
            verdict if self.verdict else "",
            f'<ul id="warnings" class="warnings">{loud}</ul>' if loud else "",
            text,
            f'<div id="about-run" class="facts">{facts}</div>' if facts else "",
            f'<div id="cards" class="cards">{"".join(self.cards)}</div>' if self.cards else "",
        ]
        return "".join(parts)


def card(name: str, lift: Json | None, reach: float, missing: str = "this ranking is the baseline") -> str:
    """A box of one lift; missing: what is said where there is none."""
    if lift is None or lift["value"] is None:
        return f'<div class="card"><small>{escape(name)}</small><b>n/a</b><p class="note">{escape(missing)}</p></div>'
    mark = interval_mark(lift, reach, name).code
    return f'<div class="card"><small>{escape(name)}</small><b class="number">{lift_text(lift)}</b>{mark}</div>'


def table(content: Table) -> str:
    """`html_table` that a narrow screen scrolls."""
    head, rows, strong, texts = content
    name = escape(head[0] if head and head[0] else "table")
    inner = html_table(head, rows, texts=texts, strong=strong)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{inner}</div>'


def facts(rows: Facts) -> str:
    """Names and texts, without a head."""
    return f'<div class="about">{html_table([], rows, texts=2)}</div>'


def folded(summary: str, inner: str) -> str:
    """A block that most readers skip, behind a line to click."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def notes(lines: Sequence[str]) -> str:
    """Paragraphs in small print."""
    return "".join(f'<p class="note">{escape(line)}</p>' for line in lines)
