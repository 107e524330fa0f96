"""What the pages of docs/ say is true: their code runs, their commands parse, every option has its row."""

import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from devtools.cited_figures import CITED
from devtools.option_pages import groups_of, options_page, own_fields, service_page
from devtools.pictures import in_file, pictures
from pygrade.cli import main as cli
from pygrade.cli.commands import docs
from pygrade.cli.option_list import fields_of, options_class, table_of, typed
from pygrade.cli.parse import parse
from pygrade.config.training import CemConfig, CrossFitConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.runs.fit import fit
from tests.console.browser import browser, needs_browser
from tests.documents import PAGES, ROOT, blocks, commands, run

DOCS = ROOT / "docs"
PYTHON = [
    pytest.param(page, code, id=f"{page.stem}-{number}")
    for page in [DOCS / "ops.md", *sorted((DOCS / "guides").glob("*.md")), *(DOCS / "reference").glob("*.md")]
    for number, code in enumerate(blocks(page, "python"))
    if "Pipeline.load" not in code  # run in tests/pipeline
]
COMMANDS = [
    pytest.param(page, words, id=f"{page.stem}: {' '.join(words)}") for page in PAGES for words in commands(page)
]
SMALL_TRAINING = TrainConfig(
    static=CemConfig(iterations=2),
    stage1=Stage1Config(steps=3),
    stage2=Stage2Config(steps=3),
    cross_fit=CrossFitConfig(folds=2),
    tensorboard=False,
)
SMALL = "--stage1.steps 3 --stage2.steps 3 --static.iterations 2 --cross-fit.folds 2 --no-tensorboard --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory of the guides: a log in runs/shop/logs, a policy with trade-offs in runs/mine, a shop's table."""
    path = tmp_path_factory.mktemp("docs")
    shop = [sys.executable, ROOT / "examples/python/make_shop.py", path / "shop.parquet", "200"]
    subprocess.run(shop, check=True, capture_output=True)
    world = "--requests 200 --world.log-users 80 --world.test-users 40 --world.items 200 --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert cli.main(["simulate", "--out", "runs/shop/logs", *world.split()]) == 0
        train = "train --data logs:runs/shop/logs --out runs/mine --policy.trade-offs"
        assert cli.main([*train.split(), *SMALL.split()]) == 0
    return path


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_the_python_of_the_guides_runs(page, code, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("pygrade.runs.train.fit", lambda log, _, *rest: fit(log, SMALL_TRAINING, *rest))
    run(code, page.name)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_the_commands_of_all_pages_are_commands(page, words, tmp_path, monkeypatch):
    if words[0].startswith("-"):
        return
    count = 2 if "-".join(words[:2]) in cli.COMMANDS else 1
    name, arguments = "-".join(words[:count]), words[count:]
    monkeypatch.chdir(tmp_path)
    if "--config" in arguments:
        path = tmp_path / arguments[arguments.index("--config") + 1]
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [table for table in blocks(page, "toml") if f"[{name}]" in table]
        path.write_text(tables[0] if tables else '[defaults]\ndata = "logs:runs/shop/logs"\n', encoding="utf-8")
    assert name in cli.COMMANDS
    parse(name, arguments)  # ValueError: an option that does not exist


def test_every_option_of_every_command_has_one_row():
    page = options_page()
    for name in cli.COMMANDS:
        kind = options_class(name)
        assert f"## pygrade {typed(name)} {{#" in page
        shown = [entry for _, group in [("", kind), *groups_of(kind)] for entry in own_fields(group)]
        assert {entry.name for entry, _ in fields_of(kind)} <= {entry.name for entry in shown} | {
            prefix.rstrip(".").replace("-", "_") for prefix, _ in groups_of(kind)
        }
    rows = re.findall(r"^\| `(--[\w.-]+)` \| .+ \| .+ \|$", page, re.M)
    assert len(rows) > 150 and rows.count("--page-size") == 2  # of the reward, and of the simulated world
    assert not re.findall(r"^\| `--[\w.-]+` \| .+ \|  \|$", page, re.M), "an option without a comment beside its field"


def test_options_that_pages_and_messages_name_exist():
    known = {flag for name in cli.COMMANDS for option in table_of(name) for flag in (option.flag, option.negative)}
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / "pygrade").rglob("*.py")]]
    assert {flag for text in texts for flag in re.findall(r"--[a-z][\w-]*\.[\w.-]*\w", text)} <= known


def test_links_of_the_options_page_have_their_targets():
    page = options_page()
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= set(re.findall(r"\{#([\w-]+)\}", page))


def test_comments_are_those_beside_a_field_or_above_it():
    source = '''
    class Config:
        """Text."""

        # above,
        # two lines
        first: int = 1
        # above
        second: dict[str, int] = field(
            default_factory=dict,
        )  # beside
        third: str = "#"

        def method(self) -> None: ...
    '''
    comments_of = pytest.importorskip("devtools.griffe_comments", reason="griffe is not installed").comments_of
    assert comments_of(source) == {"first": "above, two lines", "second": "beside", "third": ""}


@pytest.mark.parametrize("path", re.findall(r"^::: (\S+)", (DOCS / "api.md").read_text(encoding="utf-8"), re.M))
def test_every_public_name_is_documented(path):
    comments_of = pytest.importorskip("devtools.griffe_comments", reason="griffe is not installed").comments_of
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        methods = {n: m for n, m in inspect.getmembers_static(found) if n in vars(found) and n[0] != "_"}
        functions = {n: getattr(m, "fget", None) or getattr(m, "__func__", m) for n, m in methods.items()}
        bare = [n for n, function in functions.items() if inspect.isfunction(function) and not function.__doc__]
        texts = comments_of(inspect.getsource(found))
        if dataclasses.is_dataclass(found):
            texts |= {e.name: e.metadata["text"] for e in dataclasses.fields(found) if "text" in e.metadata}
        assert bare == [] and [field for field, text in texts.items() if not text] == []


def test_the_glossary_has_its_terms_in_order():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^## (.+)\n\n\S", text, re.M)
    assert 30 < len(terms) <= 40 and terms == sorted(terms, key=str.casefold)


GUIDES = sorted((DOCS / "guides").glob("*.md")) + [DOCS / f"{name}.md" for name in ("EMBEDDING", "EXPORT", "GPU")]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_is_short_begins_with_a_command_and_has_a_picture(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    begins = [number for number, line in enumerate(lines) if re.match(r"```(sh|python)$", line)]
    pictures = [line for line in lines if re.match(r"!\[.+\]\(.+\.(svg|png)\)$", line)]
    assert len(lines) <= 120 and begins[0] < 34 and len(pictures) == 1


def test_the_pictures_are_those_of_the_figures_that_the_pages_show():
    drawn = pictures()
    assert len(drawn) >= 24
    for name, svg in drawn.items():
        assert (DOCS / f"assets/{name}.svg").read_text(encoding="utf-8") == in_file(svg), "python -m devtools.pictures"


def test_the_front_page_leads_to_paths_of_at_most_five_pages():
    front = (DOCS / "index.md").read_text(encoding="utf-8")
    paths = sorted((DOCS / "paths").glob("*.md"))
    assert len(paths) == 4
    for path in paths:
        steps = re.findall(r"^\| (\d) \| \[", path.read_text(encoding="utf-8"), re.M)
        assert f"](paths/{path.name})" in front and steps == list("12345")[: len(steps)] and len(steps) >= 3


def test_the_service_reads_the_tables_that_pages_show():
    tables = [tomllib.loads(table) for page in PAGES for table in blocks(page, "toml")]
    shown = [table["serve"] for table in tables if "serve" in table]
    known = set(re.findall(r"^\| `(\w+)` \|", service_page(), re.M)) | {"online"}
    assert shown and {name for table in shown for name in table} <= known


def test_the_life_of_a_request_has_the_figures_of_the_bench():
    rows = json.loads((ROOT / "bench/results/page-avx512.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["op"]: row["cpu_p50_us"] for row in rows if row["path"] == "C++"}
    server = json.loads((ROOT / "bench/results/server.json").read_text(encoding="utf-8"))
    measured["HTTP"] = server["cpu"]["beside_us"]
    steps = {"user": "features of the user", "items": "features of the items", "ranking": "policy and ranking"}
    text = (DOCS / "guides/operate.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\w+) \| .+ \| (\d+) µs \|$", text, re.M)
    assert len(shown) == 6 and {steps.get(step, step) for step, _ in shown} <= set(measured)
    assert all(abs(int(figure) - measured[steps.get(step, step)]) < 0.51 for step, figure in shown)
    architecture = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"\| (\d+) µs", architecture) == [figure for _, figure in shown]


def test_the_architecture_names_files_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+/[\w./-]*)`", text)
    missing = [n for n in named if not any((ROOT / base / n).exists() for base in ("", "pygrade", "csrc"))]
    assert len(named) > 25 and not missing


def test_the_figures_of_single_runs_are_those_of_the_runs():
    """What the guides cite of the demo, of pipelines and of their checks against docs/figures.json."""
    kept = json.loads((DOCS / "figures.json").read_text(encoding="utf-8"))
    assert {name: tuple(figures) for name, figures in kept.items()} == CITED
    text = {page: " ".join((DOCS / page).read_text("utf-8").split()) for page in ("evidence.md", "guides/pipeline.md")}
    demo, pipeline = kept["demo"], kept["pipeline"]
    decision = f"*{demo['decision/sentence']}*; the truth is {100 * demo['decision/true_lift']:+.1f} %"
    assert demo["verdict/sentence"] in text["evidence.md"] and decision in text["evidence.md"]
    for arm, words in (("served", "The truth is"), ("GRADE", "GRADE alone earns")):
        assert f"{words} {percent(demo[f'arms/{arm}/expected/value/lift_over_baseline'])}" in text["evidence.md"]
    auc, ece, before = (pipeline[f"stages/logs/predictions/click/{name}"] for name in ("auc", "ece", "ece_before"))
    cited = [f"pipeline takes {kept['pipeline_idle']['wall_seconds']:.0f} s", f"AUC of {auc:.3f}"]
    cited += [f"ECE of {ece:.3f} instead of {before:.3f}", f"recall@{pipeline['stages/prerank/recall/2']['n']} is "]
    cited.append(f"NDCG@10 {percent(pipeline['stages/evaluate/replay/lifts/GRADE/ndcg'])}")
    assert [words for words in cited if words not in text["evidence.md"].replace("−", "-")] == []
    new = {name.removeprefix("stages/evaluate/users/new/"): n for name, n in kept["pipeline_cold_start"].items()}
    lifts = [percent(new[f"lifts/{arm}/value"], 1) for arm in ("GRADE", "GRADE, no evidence prior")]
    check, redis = kept["serve_check"], kept["serve_check_redis"]
    pages = f"{check['equal_pages']} of {check['requests']} pages are equal"
    times = [f"{run['latency/in all/p50_ms']:.1f} ms" for run in (check, redis)]
    words = [f"the {new['requests']:,} requests of new users value@10 is {lifts[0]} against", lifts[1], pages, *times]
    assert [entry for entry in words if entry not in text["guides/pipeline.md"].replace("−", "-")] == []
    assert redis["equal_pages"] == redis["requests"] and check["candidates"] == 500


def percent(interval, digits=2):
    half = 50 * (interval["high"] - interval["low"])
    return f"{100 * interval['value']:+.{digits}f} ± {half:.{digits}f} %"


def test_relative_links_of_readme_and_contributing_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(((?!https?:|#)[^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
        assert links or name != "README.md"
        assert [link for link in links if not (ROOT / link).exists()] == []


@needs_browser
@pytest.mark.slow
def test_the_site_is_searched_when_its_pages_are_opened_as_files(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    with browser() as engine:
        page = engine.new_page()
        page.goto((tmp_path / "guides/serve.html").as_uri())
        page.click("[data-md-component=search-query]", force=True)
        page.keyboard.type("propensity")
        link = page.wait_for_selector(".md-search-result__item a")
        link.click()
        assert page.url.startswith(tmp_path.as_uri()) and "serve.html" not in page.url


@pytest.mark.parametrize(
    ("built", "shown"), [("", "docs/ of a clone"), ("mkdocs.yml", "make docs"), ("site", "index.html")]
)
def test_the_command_opens_the_site_or_says_where_the_pages_are(built, shown, tmp_path, monkeypatch, capsys):
    site, opened = tmp_path / "build/site/index.html", []
    if built:
        (tmp_path / "mkdocs.yml").touch()
    if built == "site":
        site.parent.mkdir(parents=True)
        site.touch()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs.webbrowser, "open", opened.append)
    assert cli.main(["docs"]) == 0
    assert shown in capsys.readouterr().out and opened == [site.as_uri()] * (built == "site")


def test_the_site_refuses_what_comes_from_another_host():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    hooks = importlib.import_module("devtools.site_hooks")
    page = '<link rel="stylesheet" href="a.css"><a href="https://x.org">x</a><script src="//cdn.org/a.js"></script>'
    assert hooks.loaded(page) == ["//cdn.org/a.js"]
    assert hooks.loaded('<link rel="icon" href="https://x.org/i.png"><img src="p.png">') == ["https://x.org/i.png"]
    svg = hooks.on_page_content('<img alt="Steps" src="../assets/serve.svg" />', None, None, None)
    assert 'aria-label="Steps"' in svg and "<img" not in svg and "<style" not in svg
    link = "[a](../../examples/c/rank.c), [b](../GPU.md), ![c](../console.png)"
    found = hooks.outside_links(link, SimpleNamespace(src_uri="guides/serve.md"))
    assert [path for _, path in found] == ["examples/c/rank.c"]


def test_the_program_of_embedding_compiles(tmp_path):
    (program,) = [block for block in blocks(ROOT / "docs/EMBEDDING.md", "cpp") if "int main" in block]
    (tmp_path / "rank.cpp").write_text(program, encoding="utf-8")
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Werror"]
    subprocess.run(["c++", *flags, "-I", ROOT / "csrc/include", tmp_path / "rank.cpp"], check=True)
