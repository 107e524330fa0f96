"""What the pages of docs/ say is true: their code runs, their commands parse, every option has its row."""

import dataclasses
import importlib
import re
from types import SimpleNamespace

import pytest

from devtools.option_pages import comments_of, groups_of, options_of, options_page, own_fields
from pygrade.cli import main as cli
from tests.documents import PAGES, ROOT, blocks, commands, run

DOCS = ROOT / "docs"
PYTHON = [
    pytest.param(page, code, id=f"{page.stem}-{number}")
    for page in [DOCS / "ops.md", *sorted((DOCS / "guides").glob("*.md"))]
    for number, code in enumerate(blocks(page, "python"))
    if "Pipeline.load" not in code  # run in tests/pipeline
]
COMMANDS = [pytest.param(words, id=f"{page.stem}: {' '.join(words)}") for page in PAGES for words in commands(page)]
SMALL = "--stage1.steps 3 --stage2.steps 3 --static.iterations 2 --trust.folds 2 --no-tensorboard --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory that the guides assume: a log in runs/logs, a policy with trade-offs in runs/mine."""
    path = tmp_path_factory.mktemp("docs")
    world = "--num-requests 200 --world.log-users 80 --world.test-users 40 --world.items 200 --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert cli.main(["simulate", "--out", "runs/logs", *world.split()]) == 0
        train = "train --data logs:runs/logs --out runs/mine --policy.trade-offs"
        assert cli.main([*train.split(), *SMALL.split()]) == 0
    return path


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_the_python_of_the_guides_runs(page, code, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    run(code, page.name)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", COMMANDS)
def test_the_commands_of_all_pages_are_commands(words):
    name, *arguments = words
    if not name.startswith("-"):
        assert name in cli.COMMANDS
        cli._parse(name, options_of(name), arguments)  # SystemExit: an option that does not exist


def test_every_option_of_every_command_has_one_row():
    page = options_page()
    for name in cli.COMMANDS:
        kind = options_of(name)
        assert f"## pygrade {name} {{#" in page
        shown = [entry for _, group in [("", kind), *groups_of(kind)] for entry in own_fields(group)]
        assert {entry.name for entry in dataclasses.fields(kind)} <= {entry.name for entry in shown} | {
            prefix.rstrip(".").replace("-", "_") for prefix, _ in groups_of(kind)
        }
    rows = re.findall(r"^\| `(--[\w.-]+)` \| .+ \| .+ \|$", page, re.M)
    assert len(rows) > 150 and rows.count("--page-size") == 2  # of the reward, and of the simulated world


def test_every_option_is_explained():
    page = options_page()
    bare = re.findall(r"^\| `(--[\w.-]+)` \| .+ \|  \|$", page, re.M)
    assert not bare, "an option without a comment beside its field"


def test_links_of_the_options_page_have_their_targets():
    page = options_page()
    places = set(re.findall(r"\{#([\w-]+)\}", page))
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= places


def test_comments_are_those_above_beside_and_below_a_field():
    source = '''
    class Config:
        """Text."""

        # above,
        # two lines
        first: int = 1  # beside
        second: dict[str, int] = field(
            default_factory=dict,  # inside
        )
        third: str = "#"
        """below"""

        def method(self) -> None: ...
    '''
    found = comments_of(source)
    assert found == {"first": "above, two lines beside", "second": "inside", "third": "below"}


def test_the_glossary_has_its_terms_in_order():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\S.*)\n:   ", text, re.M)
    assert len(terms) >= 40 and terms == sorted(terms, key=str.casefold)


def test_relative_links_of_readme_and_contributing_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(((?!https?:|#)[^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert links or name != "README.md"
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_site_refuses_what_comes_from_another_host():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    hooks = importlib.import_module("devtools.site_hooks")
    page = '<link rel="stylesheet" href="a.css"><a href="https://x.org">x</a><script src="//cdn.org/a.js"></script>'
    assert hooks.loaded(page) == ["//cdn.org/a.js"]
    assert hooks.loaded('<link rel="icon" href="https://x.org/i.png"><img src="p.png">') == ["https://x.org/i.png"]
    link = "[a](../../examples/c/rank.c), [b](../GPU.md), ![c](../lifts.png)"
    found = hooks.outside_links(link, SimpleNamespace(src_uri="guides/serve.md"))
    assert [path for _, path in found] == ["examples/c/rank.c"]
