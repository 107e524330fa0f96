"""pygrade docs"""

import webbrowser
from pathlib import Path
from typing import Any

from pygrade.cli import terminal
from pygrade.config.export import DocsOptions

ROOT = Path(__file__).resolve().parents[3]  # of a clone
INSTALLED = (
    "the documentation is in docs/ of a clone of the repository, and `make docs` there makes its site; what is "
    "installed here does not hold it. `pygrade COMMAND --help-all` explains every option"
)


def run(options: DocsOptions) -> dict[str, Any]:
    pages, site = ROOT / "docs" / "index.md", ROOT / "build" / "site" / "index.html"
    opened = False
    if not (ROOT / "mkdocs.yml").is_file():
        page, text = None, INSTALLED
    elif not site.is_file():
        page, text = pages, f"documentation: {pages}; `make docs` makes a site of it, which this command opens"
    else:
        page, text = site, f"documentation: {site}"
        opened = not options.json and webbrowser.open(site.as_uri())
    if not options.json:
        terminal.text(text)
    return {"documentation": page and str(page), "opened": opened}
