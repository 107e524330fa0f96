"""The sheet as one small HTML page."""

from collections.abc import Mapping
from typing import Any

from pygrade._util.html_table import escape
from pygrade.console.html import Lead, Section, table
from pygrade.console.page import page
from pygrade.doctor.words import WORTH_TEXT, sheet_tables, support_sentences


def sheet_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"sheet": log_sheet(…), "contract": rows, "changed": […], "warned": […]}``; all but the sheet may
    be left out.
    """
    sheet = record["sheet"]
    sections = [
        Section(t.title, escape(t.text), table(t.head, t.rows, texts=len(t.head) if t.is_text else 1))
        for t in sheet_tables(sheet)
    ]
    if record.get("contract"):
        rows = [(name, column, what) for name, _, what, column in record["contract"]]
        text = "<br>".join(escape(note) for note in record.get("changed", [])) or "Nothing was changed."
        sections.append(Section("What each column was taken for", text, table(("", "column", ""), rows, texts=3)))
    loud = [*record.get("warned", []), *sheet["sentences"]]
    lead = Lead(escape(WORTH_TEXT), sheet["headline"], beside=support_sentences(sheet), warnings=loud)
    return page(title, lead, sections, scripted=False)
