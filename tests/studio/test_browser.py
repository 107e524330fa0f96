"""The page in Chromium: every control, both themes, three widths, accessibility, the saved policy."""

import zipfile

import numpy as np
import pytest

from pygrade.serving.ranker import BlendedRanker
from pygrade.studio import write_console
from tests.studio.browser import browser, needs_browser, opened
from tests.studio.conftest import CONFIG, HOSTILE

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "studio.html"
    return write_console(run, out, f"logs:{run.parent / 'logs'}", CONFIG).as_uri()


@pytest.fixture(scope="module")
def engine():
    with browser() as started:
        yield started


@pytest.fixture
def page(engine, address):
    made = opened(engine, address)
    yield made
    assert made.faults == []
    assert made.asked == [address]  # nothing from elsewhere, not even from a disk
    made.close()


def items(page, arm=-1):
    """The items on the page of one arm; the last is that of the sliders."""
    return page.locator("#pages article").nth(arm).locator(".item").all_inner_texts()


def drag(page, number, value):
    page.locator(f"#slider-{number}").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_timeout(100)


def numbers(page, selector):
    return [
        float(text.replace("−", "-").replace(" %", "").replace("×", ""))
        for text in page.locator(selector).all_inner_texts()
    ]


def test_the_page_starts_and_ranks_as_the_core(page, record):
    assert page.locator("html").get_attribute("data-state") == "ready"
    assert "exactly as the C++ core does" in page.locator("#check").inner_text()
    assert page.locator("#verdict").inner_text().endswith(record["evaluation"]["verdict"]["sentence"])
    headings = page.locator("#pages h3").all_inner_texts()
    assert headings == ["production", "expected value", "best static", "GRADE", "served", "your sliders"]
    assert page.title() == "run: pygrade console"


def test_names_from_data_stay_text(page):
    assert HOSTILE in items(page)[0]
    assert page.locator("img").count() == 0 and page.title() != "1"


def test_weights_move_together_and_rank_at_once(page, found, record):
    before = items(page)
    drag(page, 0, 90)
    assert numbers(page, ".slider output") == [90.0, 10.0]
    drag(page, 1, 75)
    assert numbers(page, ".slider output") == [25.0, 75.0]
    drag(page, 0, 0)
    after = items(page)
    chosen = found.held_out.select([0])
    order = np.argsort(-chosen.predictions[:, 1], kind="stable")[: CONFIG.k]
    assert after == [str(chosen.item_id[row]) for row in order]
    drag(page, 0, 100)
    assert items(page) != after and len(before) == CONFIG.k
    assert page.locator(".worth .number").first.inner_text() == page.locator("#your-card .number").inner_text()


def test_a_held_weight_stays(page):
    page.get_by_label("Hold click").check()
    drag(page, 1, 100)
    assert numbers(page, ".slider output") == [40.0, 60.0]
    page.get_by_label("Hold click").uncheck()
    drag(page, 1, 100)
    assert numbers(page, ".slider output") == [0.0, 100.0]


def test_presets_are_the_static_rankings(page, record):
    for name, expected in (("production", [50.0, 50.0]), ("best static", [40.0, 60.0]), ("equal", [50.0, 50.0])):
        page.locator(".presets button", has_text=name).click()
        page.wait_for_timeout(100)
        assert numbers(page, ".slider output") == expected
        if name == "best static":
            assert items(page) == items(page, 2)
    page.locator(".presets button", has_text="mean").click()
    mean = record["weights"]["GRADE"].mean(0)
    assert numbers(page, ".slider output") == pytest.approx(100 * mean, abs=0.1)


def test_trade_offs_turn_the_policy(page):
    page.locator("label", has_text="Trade-offs").click()
    assert numbers(page, ".slider output") == [1.0, 1.0]
    page.wait_for_timeout(100)
    assert items(page) == items(page, 4)
    drag(page, 0, 3)
    assert numbers(page, ".slider output") == [8.0, 1.0]
    page.locator("#next").click()
    assert "40 held-out requests" in page.locator(".worth").inner_text()
    page.get_by_role("button", name="all × 1").click()
    page.wait_for_timeout(100)
    assert items(page) == items(page, 4)


def test_a_point_of_the_front_sets_the_multipliers(page):
    points = page.locator("#front .point[role=button]")
    assert points.count() > 8 and page.locator("#front .point").count() == points.count() + 2
    page.locator("#front .point.knob").first.focus()
    page.keyboard.press("Enter")
    assert numbers(page, ".slider output") == [4.0, 1.0]
    assert page.locator("input[value=tradeoffs]").is_checked()
    page.locator("#front-y").select_option("value")
    assert page.locator("#front .name").all_text_contents()[:2] == ["click →", "↑ value"]


def test_requests_are_walked_through(page, record):
    requests = record["browsed"]["requests"]
    for control, expected in (("#next", 1), ("#next", 2), ("#previous", 1)):
        page.locator(control).click()
        assert page.locator("#request").input_value() == str(expected)
    page.locator("#request").select_option(f"request {requests[5]}")
    assert record["browsed"]["users"][5] in page.locator("#facts").inner_text()
    drag(page, 0, 100)
    page.locator("#most-changed").click()
    assert page.locator("#moves tbody tr").count() > 0


def test_moves_are_against_the_reference(page):
    drag(page, 0, 100)
    page.locator("#reference").select_option("GRADE")
    assert page.locator("#pages article").nth(3).locator("small").inner_text() == "reference"
    assert "from GRADE" in page.locator("#moves h3").inner_text()
    places = {name: rank for rank, name in enumerate(items(page, 3))}
    for rank, row in enumerate(page.locator("#pages article").nth(-1).locator("li").all()):
        before = places.get(row.locator(".item").inner_text())
        by = None if before is None else before - rank
        mark = row.locator(".move").inner_text()
        assert mark == ("new" if by is None else "=" if by == 0 else f"{'▲' if by > 0 else '▼'}{abs(by)}")


def test_caps_and_boosts(page, record):
    page.locator(".rules summary").click()
    page.locator("#boost-add").fill("100")
    page.wait_for_timeout(100)
    codes, offsets = record["browsed"]["groups"][0]["codes"], record["browsed"]["offsets"]
    names = record["browsed"]["item_names"]
    group = {names[item]: code for item, code in zip(record["browsed"]["items"], codes, strict=True)}
    cheap = int((codes[: offsets[1]] == 0).sum())
    assert sum(group[name] == 0 for name in items(page)) == min(CONFIG.k, cheap) > 0
    page.locator("#boost-add").fill("0")
    page.locator("#boost-multiply").fill("0")
    page.locator("#cap").fill("1")
    page.wait_for_timeout(100)
    capped = [group[name] for name in items(page)]
    assert len(set(capped)) == len(capped)
    page.locator(".rules select").nth(1).select_option("1")
    page.locator(".rules select").nth(2).select_option("0")
    page.locator("#cap").fill("")
    page.locator("#boost-multiply").fill("1")
    page.wait_for_timeout(100)
    assert items(page) == items(page, 2)


def test_saved_weights_serve_the_page_that_is_shown(page, found, record, tmp_path):
    drag(page, 0, 12.3)
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "static-policy.zip"
    download.value.save_as(tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as file:
        file.extractall(tmp_path / "policy")
    chosen = found.held_out.select(record["browsed"]["judged"])
    served = BlendedRanker.load(tmp_path / "policy").rank(None, chosen.predictions, CONFIG.k, offsets=chosen.offsets)
    for request in (0, 7):
        page.locator("#request").select_option(str(request))
        first = chosen.offsets[request]
        assert items(page) == [str(chosen.item_id[first + row]) for row in served.indices[request]]
    assert "static-policy.zip" in page.locator("#saved").inner_text()


def test_columns_and_details(page, record):
    for number, column in enumerate(record["columns"]):
        page.locator("#column").select_option(str(number))
        shown = page.locator("#columns tbody th").all_inner_texts()
        assert shown == [label for code, label in enumerate(column["labels"]) if code in column["codes"]]
    page.locator("#replay summary").click()
    assert page.locator("#replay details tbody tr").count() == 2
    page.locator(".worth summary").click()
    drag(page, 0, 20)
    assert not page.locator(".worth .small").first.is_visible()


def test_the_keyboard_reaches_every_control(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#theme").focus()
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = {
        "slider-0",
        "slider-1",
        "save",
        "previous",
        "request",
        "next",
        "most-changed",
        "reference",
        "front-x",
        "front-y",
        "column",
    }
    assert wanted <= reached
    page.locator("#slider-0").focus()
    before = numbers(page, ".slider output")[0]
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert numbers(page, ".slider output")[0] == pytest.approx(before + 0.1, abs=0.03)


def test_the_theme_follows_the_system_or_the_button(engine, address):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = (opened(engine, address, theme=theme) for theme in ("light", "dark"))
    grounds = ground(light), ground(dark)
    assert grounds[0] != grounds[1]
    for expected in (grounds[0], grounds[1], grounds[0]):  # light, dark, system
        light.locator("#theme").click()
        assert ground(light) == expected
    assert light.locator("#theme").inner_text() == "system theme"
    light.close()
    dark.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_no_width_overflows_and_axe_finds_nothing_serious(engine, address, width, theme):
    page = opened(engine, address, width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach((entry) => { entry.open = true; })")
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    found = axe.Axe().run(page)
    serious = [
        (entry["id"], [node["html"][:120] for node in entry["nodes"]][:3])
        for entry in found["violations"]
        if entry["impact"] in ("serious", "critical")
    ]
    assert serious == [] and len(found["passes"]) > 15
    assert page.faults == []
    page.close()
