"""The page is one file that needs no other, and what data says cannot become markup."""

import re

import pytest

from pygrade.cli.main import main
from pygrade.console import page
from pygrade.console.html import Lead
from pygrade.console.run_console import write_console
from tests.console.conftest import CONFIG
from tests.console.node import SOURCES
from tests.refusals import refuses

TOP_LEVEL = re.compile(r"^(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def text(run, tmp_path_factory):
    return write_console(
        run, tmp_path_factory.mktemp("page") / "page.html", f"logs:{run.parent / 'logs'}", CONFIG
    ).read_text(encoding="utf-8")


def test_the_page_asks_no_other_host(text):
    outside = re.sub(r'http://www\.w3\.org/2000/svg|xmlns="[^"]*"', "", text)
    assert not re.search(r"https?://", outside)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", outside)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules.pop("style-src-attr") == "'unsafe-inline'"  # places of marks
    assert not re.search(
        "unsafe-inline|unsafe-eval|[*]|https?:", " ".join(rules.values()).replace("'wasm-unsafe-eval'", "")
    )


def test_equal_runs_are_equal_pages(run, text, tmp_path):
    again = write_console(run, tmp_path / "page.html", f"logs:{run.parent / 'logs'}", CONFIG)
    assert again.read_text(encoding="utf-8") == text


def test_what_data_says_enters_as_base64_alone(text, tmp_path):
    assert "onerror" not in text and "item 1" not in text
    for name in ("core", "data"):
        content = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', text)
        assert content is not None and re.fullmatch(r"[A-Za-z0-9+/=]+", content[1])
    made = page.page("</title><script>alert(1)</script>", Lead(), [])
    assert "&lt;/title&gt;&lt;script&gt;" in made and made.count("<script") == text.count("<script")


def test_modules_share_no_name_and_use_those_before_them_alone():
    every = TOP_LEVEL.findall(page.script_text())
    assert len(set(every)) == len(every) > 60
    places = [
        page.script_text().index(f"\n{line}\n")
        for line in ("class Replay {", "class Model {", "start().catch((error) => {")
    ]
    assert places == sorted(places)
    assert {path.stem for path in SOURCES.glob("*.css")} == set(page.STYLES)
    assert not re.search(r"^(import|export)", page.script_text(), re.MULTILINE)


def test_no_module_writes_markup():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page.script_text()
    )


def test_the_command_writes_the_file(run, capsys, tmp_path):
    options = ["--data", f"logs:{run.parent / 'logs'}", "--requests", "5", "--k", "3", "--quiet"]
    assert main(["report", str(run), *options, "--json"]) == 0
    written = (run / "console.html").read_bytes()
    assert written.startswith(b"<!doctype html>") and f'"bytes": {len(written)}' in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(tmp_path / "x.html"), *options]) == 0
    assert (tmp_path / "x.html").read_bytes() == written


def test_errors_name_the_argument(run, tmp_path):
    refuses(ValueError, r"out is .*, a directory", write_console, run, tmp_path, f"logs:{run.parent / 'logs'}")
    refuses(FileNotFoundError, r"run is .*nowhere", write_console, tmp_path / "nowhere", tmp_path / "page.html")
    refuses(ValueError, "expected --data logs:DIR", write_console, run, tmp_path / "page.html")
