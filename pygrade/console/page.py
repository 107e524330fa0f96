"""The page: one HTML file of the sources in ``web/``, the core in WebAssembly, and a run's record."""

import base64
import hashlib
import html
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from pygrade._util.serialization import write_bytes
from pygrade.config.console import ConsoleConfig
from pygrade.console.blob import compressed, pack
from pygrade.console.collect import collect
from pygrade.console.run_files import find_run
from pygrade.storage import Place

# In the order of their imports: each uses those before it alone.
MODULES = (
    *("data", "core", "replay", "model", "save"),
    *("dom", "charts", "rules", "panel", "pages"),
    *("head", "rankings", "front", "columns", "changes"),
    *("live_tables", "live", "main"),
)
STYLES = ("base", "panel", "pages", "tables", "narrow")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def write_console(run: Place, out: Path, data: str | None = None, config: ConsoleConfig | None = None) -> Path:
    """Write the console of a run, see `find_run`; returns ``out``."""
    if out.is_dir():
        raise ValueError(f"out is {out}, a directory; want an HTML file")
    write_bytes(out, console_page(run, data, config))
    return out


def console_page(run: Place | None, data: str | None = None, config: ConsoleConfig | None = None) -> bytes:
    """The HTML of a run's console; of None the state of the service alone that serves it."""
    if run is None:
        return _document("pygrade console", "")
    found = find_run(run, data)
    return _document(f"{found.title}: pygrade console", pack(collect(found, config or ConsoleConfig())))


def _document(title: str, data: str) -> bytes:
    """The template, filled. What data says enters as base64 alone, but for the title."""
    script, style = script_text(), "".join(_source(f"{name}.css") for name in STYLES)
    filled = {
        "policy": _content_policy(script, style),
        "title": html.escape(title),
        "heading": html.escape(title.removesuffix(": pygrade console")),
        "style": style,
        "core": compressed((files("pygrade.console") / "web/core.wasm").read_bytes()),
        "data": data,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], _source("console.html")).encode()


def _content_policy(script: str, style: str) -> str:
    """Only this script and this style, WebAssembly, and requests to the host that served the page."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    rules = {
        "default-src": "'none'",
        "script-src": f"{digest(script)} 'wasm-unsafe-eval'",
        "style-src": digest(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@cache
def script_text() -> str:
    """The modules as one script: imports and the word export left out, in a function of their own."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _source(f"{name}.js"))) for name in MODULES]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@cache
def _source(name: str) -> str:
    return (files("pygrade.console") / "web" / name).read_text(encoding="utf-8")
