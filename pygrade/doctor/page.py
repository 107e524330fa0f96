"""The sheet as one small HTML page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade.doctor.words import (
    TASK_TEXT,
    WORTH_TEXT,
    estimate_rows,
    plan_rows,
    size_sentence,
    task_rows,
    user_sentence,
    worth_rows,
    worth_text,
)
from pygrade.reports.html import Section, document


def sheet_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"sheet": log_sheet(…), "contract": rows, "changed": […], "warned": […]}``; all but the sheet may
    be left out.
    """
    sheet = record["sheet"]
    loud = [*sheet["sentences"], *record.get("warned", [])]
    sections = []
    if loud:
        sections.append(Section("Look at these first", "", table=_list(loud)))
    sections += [
        Section("What this log can tell", html.escape(size_sentence(sheet)), table=table(*estimate_rows(sheet))),
        Section(
            "Predictions beside feedback",
            html.escape(TASK_TEXT),
            table=table(*task_rows(sheet)),
        ),
        Section("What exploration would buy", html.escape(worth_text(sheet)), table=table(*worth_rows(sheet))),
        Section("A/B test for 1 %", html.escape(user_sentence(sheet)), table=table(*plan_rows(sheet))),
    ]
    if record.get("contract"):
        rows = [(name, column, what) for name, _, what, column in record["contract"]]
        text = "<br>".join(html.escape(note) for note in record.get("changed", [])) or "Nothing was changed."
        sections.append(Section("What each column was taken for", text, table=table(("", "column", ""), rows)))
    return document(title, f"<p class=lead>{html.escape(WORTH_TEXT)}</p>", sections, {})


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table whose first column is text."""
    cells = "".join(f"<th style=text-align:left>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr><th>{html.escape(row[0])}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return f"<td style=text-align:left;white-space:normal>{html.escape(text)}</td>"


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"
