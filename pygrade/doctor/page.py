"""The sheet as one small HTML page."""

from collections.abc import Mapping
from typing import Any

from pygrade.console.html import Lead
from pygrade.console.page import page
from pygrade.doctor.words import last_lines, record_sections


def sheet_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"sheet": log_sheet(…), "contract": rows, "changed": […], "warned": […],
    "audit": …}``; all but the sheet may be left out.
    """
    sheet = record["sheet"]
    loud = [*record.get("warned", []), *sheet["sentences"]]
    can, *rest = record.get("summary") or last_lines(sheet, "pygrade train --help")
    lead = Lead("", can, beside=rest, warnings=loud)
    return page(title, lead, record_sections(record), scripted=False)
