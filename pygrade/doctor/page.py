"""The profile as one small HTML page."""

from collections.abc import Mapping
from typing import Any

from pygrade.console.html import Lead
from pygrade.console.page import page
from pygrade.doctor.words import last_lines, record_sections


def profile_page(record: Mapping[str, Any], title: str) -> str:
    """The page of ``{"profile": profile_log(…), "contract": rows, "changed": […], "warned": […],
    "audit": …}``; all but the profile may be left out.
    """
    profile = record["profile"]
    loud = [*record.get("warned", []), *profile["sentences"]]
    can, *rest = record.get("summary") or last_lines(profile, "pygrade train --help")
    lead = Lead("", can, beside=rest, warnings=loud)
    return page(title, lead, record_sections(record), scripted=False)
