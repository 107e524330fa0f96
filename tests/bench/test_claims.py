"""The page of claims is what the results say, names every result and every figure of README, and hides no failure."""

import copy
import importlib.util
import re
import shlex
from xml.etree import ElementTree

import pytest

from bench.report import claims
from bench.report.claims import PAGE, badge, badges, dates_of, page_text, read_sources
from pygrade.cli.main import COMMANDS
from tests.documents import ROOT

SOURCES = read_sources()
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
# Figures of README that claim nothing: an example of a limit, a share to shuffle, widths and sizes in advice.
NO_CLAIM = {"98 %", "2 %", "±1 %"}
FIGURE = re.compile(
    r"(?:[-+±]?\d[\d,.–]*(?: ± [\d.]+| \([-+\d. to]+\))? [%×](?! of a)|\d+ of \d+|[\d.,]+ µs|[-+][\d.]+ ± [\d.]+)"
)


def test_the_page_and_its_badges_are_those_of_the_results():
    again = "run `python -m bench claims`, and read what changed"
    assert page_text(SOURCES, dates_of(SOURCES, TEXT)) == TEXT, again
    for name, words in badges(SOURCES).items():
        image = (ROOT / claims.ASSETS / name).read_text(encoding="utf-8")
        assert image == badge(*words), again
        assert [element.text for element in ElementTree.fromstring(image).iter() if element.text] == list(words)
        assert f"![{': '.join(words)}](assets/{name})" in TEXT


def test_a_result_that_changed_gets_another_row_and_another_date():
    changed = copy.deepcopy(SOURCES)
    (null,) = [row for row in changed["foreign.jsonl"] if row["family"] == "null-plain"]
    null["better"] += 1
    dates = dates_of(changed, TEXT)
    assert dates["study.json"] == dates_of(SOURCES, TEXT)["study.json"] and dates["study.json"][1] in TEXT
    page = page_text(changed, dates)
    assert "1 of 720" in page and "0 of 720" not in page and page != TEXT


def test_a_result_without_a_claim_is_refused():
    with pytest.raises(ValueError, match=r"^luck\.json stands behind no claim"):
        page_text({**SOURCES, "luck.json": {}}, {**dates_of(SOURCES, TEXT), "luck.json": ("2026-01-01", "abc")})


def test_the_row_and_the_badge_of_coverage_are_those_of_its_result():
    ran = {"cpp": {"percent": 88.0, "lines": 1_234}, "python": {"percent": 77.0, "lines": 9}}
    sources = {**SOURCES, "coverage.json": ran}
    page = page_text(sources, dates_of(SOURCES, TEXT) | {"coverage.json": ("2026-01-01", "c0ffee00")})
    assert "88.0 % of 1,234; Python: 77.0 % of 9 |" in page
    assert badges(sources)["badge-coverage.svg"][1] == "C++ 88 %, Python 77 %"


def missing(readme: str, page: str) -> list[str]:
    """Figures of a text, its code left out, that the page has not."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", " ", readme, flags=re.S | re.M).replace("*", "")
    prose = re.sub(r"<!-- bench:begin.*?\n", "", prose)
    return [figure for figure in FIGURE.findall(prose) if figure.strip() not in NO_CLAIM and figure not in page]


def test_every_figure_of_the_readme_has_a_row():
    readme, page = (ROOT / "README.md").read_text(encoding="utf-8"), TEXT.replace("*", "")
    assert missing(readme, page) == [], "expected a row of each in bench/report/claims.md"
    found = FIGURE.findall(readme.replace("*", ""))
    assert len(found) > 40 and {"+3.89 ± 0.13", "+3.63 (+3.12 to +4.14) %", "3.1–7.3 ×", "9.7 µs"} <= {*found}
    assert missing("It is **17.3 ×** as fast, in 9 of 10 shops `5 %`, +4.44 ± 0.10 | earns", page) == [
        "17.3 ×",
        "9 of 10",
        "+4.44 ± 0.10",
    ]


def test_every_row_has_its_limits_and_a_command_that_is_there():
    rows = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ") and "| evidence |" not in line]
    assert len(rows) > 30
    for sentence, found, limits, evidence in rows:
        assert re.search(r"\d", found) and len(limits) > 8, sentence
        assert re.search(r"\[[\w.-]+\]\([\w./-]+\), \d{4}-\d\d-\d\d, [0-9a-f]{7,8}\+?[;:]", evidence), sentence
        first, *words = shlex.split(re.search(r"`([^`]+)`", evidence)[1])
        if first == "python":
            assert importlib.util.find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file(), sentence
        else:
            assert first == "make" or words[0] in {*COMMANDS, "reproduce"}, sentence


def test_what_failed_is_said():
    missed = [name for name, _, _, met in claims.Figures(SOURCES, {}).found if met != "met"]
    assert len(missed) >= 4 and all(f"**Missed**: {name}" in TEXT for name in missed)
    slow = {target.name for _, target, met in claims.judged(SOURCES) if not met}
    assert len(slow) > 10 and all(name in TEXT for name in slow)
    assert "11 of 34" in TEXT and "not reproduced" in TEXT
