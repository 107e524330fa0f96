"""Texts of a release, the files that a public host reads, and what the checklists say of them."""

import json
import re
import shutil
import tarfile
import zipfile

import pytest

from devtools import measure_coverage, release_text, wheel_content
from tests.documents import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CHECKLISTS = (ROOT / "docs/checklists.md").read_text(encoding="utf-8")
FILLED = (*release_text.TEXTS, "CITATION.cff", "pyproject.toml", "CHANGELOG.md", "devtools/publisher.toml")


@pytest.fixture
def tree(tmp_path):
    """The files that a release reads, to be changed."""
    for name in (*FILLED, "csrc/include/pygrade/version.hpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_texts_agree_about_the_version():
    assert release_text.faults() == []


def test_a_version_that_differs_is_named(tree):
    now = release_text.version(tree)
    edit(tree / "CITATION.cff", f"version: {now}", "version: 9.9.9")
    assert release_text.faults(tree) == [f"CITATION.cff has version 9.9.9, version.hpp has {now}"]


def test_a_release_needs_its_heading_and_date(tree):
    now, first = release_text.version(tree), next(iter(release_text.changes(tree)))
    edit(tree / "CHANGELOG.md", f"## [{first}]", "## [9.9.9]")
    assert f"CHANGELOG.md begins with [9.9.9], version.hpp has {now}" in release_text.faults(tree)
    edit(tree / "CHANGELOG.md", "## [9.9.9]", f"## [{now}] - 2026-12-31\n\nNew words.\n\n## [0.0.1]")
    assert release_text.faults(tree) == [] and release_text.notes(tree) == "New words.\n"
    assert release_text.faults(tree, released=True) == ["CHANGELOG.md has the date 2026-12-31, CITATION.cff none"]
    edit(tree / "CITATION.cff", "license:", "date-released: 2026-12-31\nlicense:")
    assert release_text.faults(tree, released=True) == []


def test_the_addresses_come_from_one_file(tree):
    known = {name: f"https://{name}.example" for name in release_text.publisher()}
    known["maintainer"] = "A. Person <person@maintainer.example>"
    lines = "".join(f'{name} = "{value}"\n' for name, value in known.items())
    (tree / "devtools/publisher.toml").write_text(f"[publisher]\n{lines}", encoding="utf-8")
    assert release_text.blank(tree) == [] and any("run fill" in fault for fault in release_text.faults(tree))
    made = release_text.filled(tree)
    for name, text in made.items():
        (tree / name).write_text(text, encoding="utf-8")
        assert "not yet named" not in text
    assert release_text.faults(tree) == [] and release_text.filled(tree) == made
    assert known["security"] in made["SECURITY.md"] and known["conduct"] in made["CODE_OF_CONDUCT.md"]
    assert known["issues"] in made["SUPPORT.md"] and yaml.safe_load(made["CITATION.cff"])["repository-code"]
    project = release_text.tomllib.loads(made["pyproject.toml"])["project"]
    assert project["urls"]["Issues"] == known["issues"] and project["scripts"]
    assert project["maintainers"] == [{"name": "A. Person", "email": "person@maintainer.example"}]


def test_the_checklists_name_the_addresses_that_are_blank():
    stated = re.search(r"`devtools/publisher.toml` still lacks: ([\w, ]+)\.", CHECKLISTS)
    assert sorted(stated[1].split(", ") if stated else []) == sorted(release_text.blank())


def test_the_checklists_name_files_that_exist():
    named = set(re.findall(r"`([\w.-]*[/.][\w./-]+)`", CHECKLISTS)) - {"built-with.txt"}
    assert len(named) > 40 and [name for name in named if not (ROOT / name).exists()] == []


def test_the_checklists_have_the_measured_coverage():
    kept = json.loads(measure_coverage.RESULT.read_text(encoding="utf-8"))
    shown = [f"{kept[key]['percent']} % of {kept[key]['lines']:,} lines" for key in ("cpp", "python") if key in kept]
    assert shown and [words for words in shown if words not in CHECKLISTS] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_few_rights_and_pinned_actions(path):
    text = path.read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    events = flow[True]  # the key `on` is a truth value in YAML 1.1
    assert flow["permissions"] == {"contents": "read"} and "secrets." not in text
    assert set(events) <= {"push", "pull_request"}  # never one that gives a stranger's change more rights
    for job in flow["jobs"].values():
        assert "permissions" not in job and "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step.get("uses", f"actions/x@{'0' * 40}"))
            assert "github.event" not in step.get("run", "")  # text of a stranger in a shell
    called = re.findall(r"(?<![\w/])(\.ci/run|devtools/[\w-]+)", re.sub("#.*", "", text))
    assert called and all((ROOT / name).exists() for name in called)


def test_forms_and_hooks():
    for path in [*ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"), ROOT / ".github/dependabot.yml"]:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert source["repo"] == "local" and [hook["entry"] for hook in source["hooks"]] == ["make check"]


def test_contents_of_sdist_and_wheel(tmp_path):
    def pack(name, names):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if name == "wheel":
            with zipfile.ZipFile(folder / "pygrade_ranking-1-py3-none-any.whl", "w") as archive:
                [archive.writestr(entry, "") for entry in names]
        else:
            with tarfile.open(folder / "pygrade_ranking-1.tar.gz", "w:gz") as archive:
                [archive.addfile(tarfile.TarInfo(f"pygrade_ranking-1/{entry}")) for entry in names]
        return wheel_content.main(str(folder))

    inside = [wheel_content.normpath(f"pygrade/{name}") for name in wheel_content.EXPECTED]
    assert pack("wheel", [*inside, "pygrade_ranking-1.dist-info/METADATA"]) is None
    assert pack("sdist", wheel_content.SOURCES.split()) is None
    for entry in ("pygrade/_core.so", "build/a", ".venv/pyvenv.cfg"):
        assert entry in pack("sdist", [*wheel_content.SOURCES.split(), entry])
    assert "missing ['LICENSE']" in pack("sdist", [name for name in wheel_content.SOURCES.split() if name != "LICENSE"])


def test_coverage_joins_the_objects_of_a_line():
    def report(*counts):
        lines = [{"line_number": i, "count": count} for i, count in enumerate(counts)]
        files = [{"file": "csrc/src/util/a.cpp", "lines": lines}, {"file": "/usr/include/b.h", "lines": lines}]
        return {"current_working_directory": str(ROOT), "files": files}

    folders = measure_coverage.cpp_lines([report(0, 1, 0), report(2, 0, 0)])
    assert folders == {"csrc/src/util": [2, 3]} and measure_coverage.share(folders)["percent"] == 66.7
    file = {"summary": {"covered_lines": 1, "num_statements": 4}}
    assert measure_coverage.python_lines({"files": {"pygrade/a.py": file, "pygrade/ops/b.py": file}}) == {
        "pygrade": [1, 4],
        "pygrade/ops": [1, 4],
    }


def test_figures_of_libfuzzer():
    log = """INFO: Loaded 1 modules   (3400 inline 8-bit counters): 3400 [0x1, 0x2)
#2\tINITED cov: 300 ft: 301 corp: 1/1b exec/s: 0 rss: 90Mb
#900\tNEW    cov: 512 ft: 700 corp: 9/90b
stat::number_of_executed_units: 1000
"""
    assert measure_coverage.fuzz_figures(log) == {"executions": 1000, "branches": 512, "of": 3400}
