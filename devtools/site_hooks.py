"""Hooks of the site (mkdocs.yml): pages of options, a report, links into the repository, nothing of other hosts."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from devtools.option_pages import options_page, service_page
from devtools.pictures import STYLE
from pygrade import _core
from pygrade._util.json_text import json_text

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#]+)\)")
_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_LOADED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "prefetch", "modulepreload"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of options, the service's interface, and the files of the repository that pages link to as text."""
    files.append(File.generated(config, "options.md", content=options_page()))
    files.append(File.generated(config, "service-tables.md", content=service_page()))
    files.append(File.generated(config, "openapi.json", content=json_text(json.loads(_core.Service.openapi()))))
    files.append(File.generated(config, "demo-report.html", content=demo_report()))
    linked = {path for file in files.documentation_pages() for _, path in outside_links(file.content_string, file)}
    for path in sorted(linked):
        if not (ROOT / path).exists():
            raise PluginError(f"a page links to {path}, which does not exist")
        if (ROOT / path).is_file():
            content = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, f"source/{path}.txt", content=content))
    return files


def demo_report() -> str:
    """The console of a small demo, made once in build/demo by the command that docs/demo.md prints."""
    report = ROOT / "build/demo/report.html"
    if not report.is_file():
        sizes = ["--requests", "5000", "--test-requests", "2000"]
        subprocess.run(
            [sys.executable, "-m", "pygrade", "demo", "--out", report.parent, *sizes, "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    content = report.read_text(encoding="utf-8")
    if found := loaded(content):
        raise PluginError(f"the demo's report loads {found[0]} from another host")
    return content


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links into the repository at the copies; folders have none and keep their text alone."""
    for link, path in outside_links(markdown, page.file):
        text = link[1]
        if (ROOT / path).is_file():
            copy = os.path.relpath(f"source/{path}.txt", PurePosixPath(page.file.src_uri).parent)
            text = f"[{text}]({copy})"
        markdown = markdown.replace(link[0], text)
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Put pictures.py's pictures into the page, so that they have its colors; narrow screens scroll them."""

    def inline(image: re.Match[str]) -> str:
        svg = (ROOT / "docs/assets" / image[2]).read_text(encoding="utf-8").replace(STYLE, "").strip()
        named = svg.replace("<svg ", f'<svg aria-label="{image[1]}" ', 1).replace(
            'style="', 'style="min-width:36em;', 1
        )
        return f'<div style="overflow-x:auto">{named}</div>' if 'class="picture"' in svg else image[0]

    return re.sub(r'<img alt="([^"]*)" src="[^"]*assets/([\w-]+\.svg)" ?/?>', inline, html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that loads something from another host."""
    if found := loaded(output):
        raise PluginError(f"{page.file.src_uri} loads {found[0]} from another host")
    return output


def outside_links(markdown: str, file: Any) -> list[tuple[re.Match[str], str]]:
    """The links that leave docs/, with their paths in the repository."""
    folder = PurePosixPath("docs") / PurePosixPath(file.src_uri).parent
    links = [(link, os.path.normpath(folder / link[2])) for link in _LINK.finditer(markdown)]
    return [(link, path) for link, path in links if not path.startswith("docs/")]


def loaded(page: str) -> list[str]:
    """URLs that a page loads from other hosts by itself; links that a reader follows don't count."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = {name: value or "" for name, value in attrs}
            url = given.get(_LOADING.get(tag, ""), "")
            if tag == "link" and _LOADED_LINKS & set(given.get("rel", "").split()):
                url = given.get("href", "")
            if re.match(r"(?:https?:)?//", url):
                found.append(url)

    Parser().feed(page)
    return found
