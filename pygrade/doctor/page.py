"""The sheet as one small HTML page."""

from collections.abc import Mapping
from typing import Any

from pygrade._util.html_table import Table, escape
from pygrade.console.html import Lead, Section
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
    sections = sheet_sections(sheet)
    if record.get("contract"):
        rows = [(name, column, what) for name, _, what, column in record["contract"]]
        changed = record.get("changed") or ["Nothing was changed."]
        columns = Table(("", "column", ""), rows, texts=3)
        sections.append(Section("What each column was taken for", tables=[columns], notes=changed))
    loud = [*record.get("warned", []), *sheet["sentences"]]
    lead = Lead(escape(WORTH_TEXT), sheet["headline"], beside=support_sentences(sheet), warnings=loud)
    return page(title, lead, sections, scripted=False)


def sheet_sections(sheet: Mapping[str, Any]) -> list[Section]:
    """The figures of a sheet, for its page and for the terminal."""
    head, rows = estimate_rows(sheet)
    return [
        Section("What this log can tell", size_sentence(sheet), [Table(head, rows, texts=len(head))]),
        Section("Predictions beside feedback", TASK_TEXT, [Table(*task_rows(sheet))]),
        Section("What exploration would buy", worth_text(sheet), [Table(*worth_rows(sheet))]),
        Section("A/B test for 1 %", user_sentence(sheet), [Table(*plan_rows(sheet))]),
    ]
