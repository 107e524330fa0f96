"""The sheet as one small HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.html_table import escape
from pygrade.console.html import Lead, Section, table
from pygrade.console.page import page
from pygrade.doctor.words import (
    TASK_TEXT,
    WORTH_TEXT,
    estimate_rows,
    plan_rows,
    size_sentence,
    support_sentences,
    task_rows,
    user_sentence,
    worth_rows,
    worth_text,
)


def sheet_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"sheet": log_sheet(…), "contract": rows, "changed": […], "warned": […]}``; all but the sheet may
    be left out.
    """
    sheet = record["sheet"]
    loud = [*record.get("warned", []), *sheet["sentences"]]
    sections = [
        Section("What this log can tell", escape(size_sentence(sheet)), _texts(*estimate_rows(sheet))),
        Section("Predictions beside feedback", escape(TASK_TEXT), table(*task_rows(sheet))),
        Section("What exploration would buy", escape(worth_text(sheet)), table(*worth_rows(sheet))),
        Section("A/B test for 1 %", escape(user_sentence(sheet)), table(*plan_rows(sheet))),
    ]
    if record.get("contract"):
        rows = [(name, column, what) for name, _, what, column in record["contract"]]
        text = "<br>".join(escape(note) for note in record.get("changed", [])) or "Nothing was changed."
        sections.append(Section("What each column was taken for", text, _texts(("", "column", ""), rows)))
    lead = Lead(escape(WORTH_TEXT), sheet["headline"], beside=support_sentences(sheet), warnings=loud)
    return page(title, lead, sections, scripted=False)


def _texts(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(head, rows, texts=len(head))
