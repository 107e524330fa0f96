"""The page: one HTML file of a report, the sources in ``web/``, the core in WebAssembly, and a run's record."""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Any

from pygrade._util.html_table import escape
from pygrade._util.serialization import write_bytes
from pygrade.console.blob import pack
from pygrade.console.html import Lead, Section

STYLES = ("base", "tables", "run")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_SCRIPTS = """<noscript><p class="lead">Pages side by side, and the sliders, need JavaScript.</p></noscript>
<script type="text/plain" id="core">{core}</script>
<script type="text/plain" id="data">{data}</script>
<script>{script}</script>"""


def write_page(
    out: Path, title: str, lead: Lead, sections: Sequence[Section], record: dict[str, Any] | None = None
) -> None:
    """Write the page as a whole or not at all; ValueError if ``out`` is a directory."""
    if out.is_dir():
        raise ValueError(f"out is {out}, a directory; expected an HTML file")
    write_bytes(out, page(title, lead, sections, record).encode())


def page(
    title: str, lead: Lead, sections: Sequence[Section], record: dict[str, Any] | None = None, scripted: bool = True
) -> str:
    """The HTML. What data says enters as escaped text, and as base64.

    record: of `collect.collect`, for sliders and pages side by side; None: the page has none. scripted: whether it may
    show these and the state of a service; without, it has no script.
    """
    script, style = script_text(), "".join(_source(f"{name}.css") for name in STYLES)
    data = "" if record is None else pack(record)
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    filled = {
        "policy": _content_policy(script, style),
        "title": html.escape(title),
        "style": style,
        "lead": lead.html(),
        "nav": f'<nav aria-label="Sections">{links}</nav>' if len(sections) > 1 else "",
        "sections": "".join(section.html(f"s{i}") for i, section in enumerate(sections)),
        "scripts": _SCRIPTS.format(core=_source("core.txt").strip(), data=data, script=script) if scripted else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _source("console.html"))


def _content_policy(script: str, style: str) -> str:
    """Only this script, this style and attributes of style, WebAssembly, and requests to the page's own host."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    rules = {
        "default-src": "'none'",
        "script-src": f"{digest(script)} 'wasm-unsafe-eval'",
        "style-src": digest(style),
        "style-src-attr": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@cache
def script_text() -> str:
    """The modules as one script, each after those that it imports: imports and the word export left out, in a function
    of their own.
    """
    folder = files("pygrade.console") / "web"
    names = sorted(path.name.removesuffix(".js") for path in folder.iterdir() if path.name.endswith(".js"))
    order = TopologicalSorter({name: sorted(_IMPORT.findall(_source(f"{name}.js"))) for name in names}).static_order()
    parts = [_EXPORT.sub("", _IMPORT.sub("", _source(f"{name}.js"))) for name in order]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@cache
def _source(name: str) -> str:
    return (files("pygrade.console") / "web" / name).read_text(encoding="utf-8")
