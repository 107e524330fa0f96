"""The sheet as one small HTML page."""

from collections.abc import Mapping
from typing import Any

from pygrade._util.html_table import Table, escape
from pygrade.console.html import Lead, Section
from pygrade.console.page import page
from pygrade.doctor.autopsy_words import autopsy_section
from pygrade.doctor.words import WORTH_TEXT, sheet_sections, support_sentences


def sheet_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"sheet": log_sheet(…), "contract": rows, "changed": […], "warned": […],
    "autopsy": …}``; all but the sheet may be left out.
    """
    sheet = record["sheet"]
    sections = [autopsy_section(record["autopsy"])] if "autopsy" in record else []
    sections += sheet_sections(sheet)
    if record.get("contract"):
        rows = [(name, column, what) for name, _, what, column in record["contract"]]
        changed = record.get("changed") or ["Nothing was changed."]
        columns = Table(("", "column", ""), rows, texts=3)
        sections.append(Section("What each column was taken for", tables=[columns], notes=changed))
    loud = [*record.get("warned", []), *sheet["sentences"]]
    lead = Lead(escape(WORTH_TEXT), sheet["headline"], beside=support_sentences(sheet), warnings=loud)
    return page(title, lead, sections, scripted=False)
