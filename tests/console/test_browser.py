"""The page in Chromium: every control, both themes, three widths, accessibility, the saved policy."""

import dataclasses
import re
import zipfile

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.console.run_console import write_console
from pygrade.evaluation.verdict import arm_name
from pygrade.logs import write_logs
from pygrade.policy import FusionPolicy, PolicySpec
from tests.console.browser import CUT, needs_browser, opened, serious_faults, updated
from tests.console.conftest import CONFIG, DETAILS, HOSTILE, VERDICT
from tests.learning import tiny_logs

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture
def page(engine, address):
    made = opened(engine, address)
    yield made
    assert made.faults == []
    assert made.asked == [address]  # nothing from elsewhere, not even from a disk
    made.close()


def items(page, arm="your sliders"):
    """The items on the page of one ranking."""
    return page_of(page, arm).locator(".item").all_inner_texts()


def page_of(page, arm):
    headings = page.locator("#pages h3").all_inner_texts()
    return page.locator("#pages article").nth(headings.index(arm))


def drag(page, number, value):
    with updated(page):
        page.locator(f"#slider-{number}").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
        )


def numbers(page, selector):
    return [
        float(text.replace("−", "-").replace(" %", "").replace("×", ""))
        for text in page.locator(selector).all_inner_texts()
    ]


def test_the_page_starts_and_ranks_as_the_core(page, found):
    assert page.locator("html").get_attribute("data-state") == "ready"
    assert "exactly as the C++ core does" in page.locator("#check").inner_text()
    later = found.evaluation["later"]["text"]
    said = [*VERDICT, *DETAILS["reasons"], f"how it was judged: {DETAILS['detail']}", later]
    assert page.locator("#verdict").locator(".badge, p, small").all_text_contents() == said
    headings = page.locator("#pages h3").all_inner_texts()
    assert headings == ["production", "served", "your sliders", "expected value", "best static", "GRADE"]
    assert "0.6 GRADE + 0.4 expected value" in page.locator("#about-run").inner_text()
    assert page.title() == page.locator("h1").inner_text() == "run"
    assert HOSTILE in items(page)[0] and page.locator("img").count() == 0  # names from data stay text


def test_the_sliders_start_with_what_is_served(page, record):
    assert items(page) == items(page, "served") and "as served" in page.locator(".worth").inner_text()
    lift = record["evaluation"]["lifts"]["served"]["value"]
    assert numbers(page, ".worth .number")[0] == pytest.approx(100 * lift["value"], abs=0.051)
    shown = page.locator(".worth .lift small").first.inner_text().replace("\u2212", "-")
    ends = [float(end) for end in re.findall(r"-?\d+\.\d+", shown)]
    assert ends == pytest.approx([100 * lift["low"], 100 * lift["high"]], abs=0.051)  # by Python and by the page
    cards = page.locator("#cards .card .number").all_inner_texts()
    assert len(cards) == 3 and page.locator("#your-card").count() == 0  # one size of one ranking
    page.locator("#save").click()
    assert "is served already" in page.locator("#saved").inner_text()
    drag(page, 0, 100)
    assert items(page) != items(page, "served") and "your sliders" in page.locator(".worth").inner_text()
    with updated(page):
        page.locator(".presets button", has_text="as served").click()
    assert items(page) == items(page, "served") and page.locator("#your-card").count() == 0


def test_weights_move_together_and_rank_at_once(page, found, record):
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
    assert items(page) != after
    (own,) = page.locator("#your-card .number").all_inner_texts()
    assert numbers(page, ".worth .number")[0] == pytest.approx(float(own.split(" ")[0]), abs=0.051)


def test_a_held_weight_stays(page):
    with updated(page):
        page.locator(".presets button", has_text="best static").click()
    page.get_by_label("Hold click").check()
    drag(page, 1, 100)
    assert numbers(page, ".slider output") == [40.0, 60.0]
    page.get_by_label("Hold click").uncheck()
    drag(page, 1, 100)
    assert numbers(page, ".slider output") == [0.0, 100.0]


def test_presets_are_the_static_rankings(page, record):
    for name, expected in (("production", [50.0, 50.0]), ("best static", [40.0, 60.0]), ("equal", [50.0, 50.0])):
        with updated(page):
            page.locator(".presets button", has_text=name).click()
        assert numbers(page, ".slider output") == expected
        if name == "best static":
            assert items(page) == items(page, "best static")
    page.locator(".presets button", has_text="mean").click()
    assert numbers(page, ".slider output") == pytest.approx(100 * record["presets"]["mean of GRADE"], abs=0.1)


def test_trade_offs_turn_the_policy(page):
    with updated(page):
        page.locator("label", has_text="Trade-offs").click()
    assert numbers(page, ".slider output") == [1.0, 1.0]
    assert items(page) == items(page, "served")
    drag(page, 0, 3)
    assert numbers(page, ".slider output") == [8.0, 1.0]
    page.locator("#next").click()
    assert "40 held-out requests" in page.locator(".worth").inner_text()
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "trade-off-policy.zip"
    with updated(page):
        page.get_by_role("button", name="all × 1").click()
    assert items(page) == items(page, "served")


def test_requests_are_walked_through(page, record):
    requests = record["requests"]["names"]
    for control, expected in (("#next", 1), ("#next", 2), ("#previous", 1)):
        page.locator(control).click()
        assert page.locator("#request").input_value() == str(expected)
    page.locator("#request").select_option(f"request {requests[5]}")
    assert record["requests"]["users"][5] in page.locator("#facts").inner_text()
    drag(page, 0, 100)
    page.locator("#most-changed").click()
    assert page_of(page, "your sliders").locator(".move.new").count() > 0


def test_moves_are_against_the_reference(page):
    drag(page, 0, 100)
    page.locator("#reference").select_option("GRADE")
    assert page_of(page, "GRADE").locator("small").inner_text() == "reference"
    places = {name: rank for rank, name in enumerate(items(page, "GRADE"))}
    for rank, row in enumerate(page_of(page, "your sliders").locator("li").all()):
        before = places.get(row.locator(".item").inner_text())
        by = None if before is None else before - rank
        mark = row.locator(".move").inner_text()
        assert mark == ("new" if by is None else "=" if by == 0 else f"{'▲' if by > 0 else '▼'}{abs(by)}")
    page.locator("#pages li").first.hover()
    assert page.locator("#pages li.same-item").count() > 1
    stacks = page_of(page, "your sliders").locator(".stack .task-0")
    assert stacks.count() > 0 and page_of(page, "your sliders").locator(".stack .task-1").count() == 0
    assert page_of(page, "served").locator(".stack").count() > 0  # of the share of the policy in a mixture


def test_the_keyboard_reaches_every_control(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = {"slider-0", "slider-1", "save", "previous", "request", "next", "most-changed", "reference"}
    assert wanted <= reached
    page.locator("#slider-0").focus()
    before = numbers(page, ".slider output")[0]
    with updated(page):
        page.keyboard.press("ArrowRight")
    assert numbers(page, ".slider output")[0] == pytest.approx(before + 0.1, abs=0.03)


def test_without_javascript_the_verdict_and_the_tables_are_read(engine, address, found):
    context = engine.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert VERDICT[1] in page.locator("#verdict").inner_text()
    assert page.locator("#cards .card").count() == 3  # of the verdict, and of later requests
    rankings = page.locator(".report section").first.locator("tbody th")
    served = found.evaluation["later"]["served"]
    names = {arm_name(name, served) for name in found.evaluation["rankers"]}
    assert set(rankings.all_inner_texts()) == names and rankings.first.is_visible()
    assert page.locator("noscript").inner_text() and not page.locator("#run").is_visible()
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_is_cut_off_and_axe_finds_nothing_serious(engine, address, width, theme):
    page = opened(engine, address, width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 19, 24)"}[theme]
    box = page.locator(".page.yours").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width  # your page is in sight
    panel, parts = (page.locator(part).bounding_box() for part in (".panel", ".parts"))
    assert (parts["x"] > panel["x"] + panel["width"]) == (width > 1100)  # beside the sliders, or below them
    seen, cut = page.evaluate(CUT, width)
    assert seen >= 3 and cut == []
    assert serious_faults(page) == [] and page.faults == []
    page.evaluate("document.querySelectorAll('.scroll').forEach((box) => { box.style.overflowX = 'hidden'; })")
    assert width > 400 or page.evaluate(CUT, width)[1] != []  # the look is not blind
    page.close()


def odd_run(folder, tasks, **changes):
    """A run of a log without scenario, time, prices, weights and exploration, and with one, or many, tasks."""
    logs = tiny_logs(60)
    names = tuple(f"{'a_task_with_a_long_name_' if tasks > 1 else ''}{number}" for number in range(tasks))
    columns = np.arange(tasks) % 2
    bare = dict.fromkeys(("scenario", "weights", "exploration"))
    arrays = {"predictions": logs.predictions[:, columns], "feedback": logs.feedback[:, columns]}
    logs = dataclasses.replace(logs, tasks=names, task_values=(1.0, -0.5, *(2.0,) * tasks)[:tasks], **arrays, **bare)
    write_logs(logs, folder / "logs")
    policy = FusionPolicy(PolicySpec(names, logs.features, PolicyConfig(hidden=(2,), upper=1.0, transform="rank")))
    policy.save(folder / "run/policy")
    return write_console(folder / "run", folder / "page.html", f"logs:{folder / 'logs'}", **changes)


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("tasks", [1, 12])
def test_odd_runs_have_a_page(engine, tmp_path, tasks, width):
    page = opened(engine, odd_run(tmp_path, tasks).as_uri(), width)
    assert page.locator("html").get_attribute("data-state") == "ready"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert "nothing records what the policy was trained on" in page.locator("#warnings").inner_text()
    assert len(items(page, "logged order")) == 5  # what was shown
    assert page.locator("#pages h3").first.inner_text() == "logged order"
    assert page.locator("input[name=mode]").count() == 0
    drag(page, 0, 30)
    shares = numbers(page, ".slider output")
    assert shares == [100.0] if tasks == 1 else shares[0] == 30.0 and sum(shares) == pytest.approx(100, abs=0.5)
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as file:
        file.extractall(tmp_path / "policy")
    assert FusionPolicy.load(tmp_path / "policy").serve(torch.zeros(1, 2 + 2 * tasks)).sum() == pytest.approx(1)
    assert page.faults == []
    page.close()
