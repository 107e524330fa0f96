"""The live part of the page, as a service serves it."""

import time

import pytest

from pygrade.console.html import Lead
from pygrade.console.page import page as page_of
from tests.console.browser import CUT, needs_browser, opened, serious_faults, service
from tests.console.conftest import HOSTILE

pytestmark = [needs_browser, pytest.mark.slow]
NOW = time.time_ns() // 1_000_000


def times(count, p50):
    return {"count": count, "p50": p50, "p90": 2 * p50, "p99": 3 * p50, "p999": 6 * p50}


def arm(name, share, pages):
    facts = {"policy": "56e0cc2383fa", "mixture_weight": 0.4, "explore": 0.05, "values": {}, "explored": 9, "capped": 0}
    facts |= {"feedback": {"click": 3}, "effective_samples": {"narrower": 7}}
    facts |= {"verdict": "better", "sentence": f"Test the new ranking: {name}."}
    return {"name": name, "share": share, "pages": pages, **facts}


def lift(value, reach):
    anytime = {"value": value, "standard_error": reach / 3, "low": value - reach, "high": value + reach}
    return {"anytime": anytime, "corrected": None, "alone": None}


def status(pages=1000, at=0, **changes):
    """What `Service` answers at /v1/status, as far as the page reads it."""
    arms = {"control": "main", "users": {"main": 400, HOSTILE: 100}, "reason": None}
    few = {"anytime": {"value": 0.3, "low": None, "high": None}, "undecidable": "150 users of the smaller arm"}
    arms["lifts"] = {HOSTILE: {"value": lift(0.02, 0.03), "click": lift(0.05, 0.02), "order": few}}
    update = {"time": NOW - 9e6, "action": "rolled_back", "version": "11e0cc2383fa", "learned_from": 812}
    online = {"time": NOW, "learning": True, "version": "56e0cc2383fa", "reference": "0", "requests": 812}
    online |= {
        "history": [update | {"estimate": {"value": 9.5, "low": 9.0, "high": 10.0}}],
        "error": None,
        "arms": arms,
    }
    record = {
        "version": "0.2.0",
        "artifact": HOSTILE,
        "store": "lmdb:store",
        "store_state": "reachable",
        "warnings": [],
        "draining": False,
        "window_seconds": 60,
        "timestamp": NOW + at,
        "tasks": ["click", "order"],
        "arms": [arm("main", 0.8, 800), arm(HOSTILE, 0.2, 200)],
        "shadows": [],
        "requests": {"/v1/rank": {"200": pages}, "/v1/update": {"400": 3, "503": 2}},
        "latency": {
            "/v1/rank": times(pages, 0.002),
            "/v1/update": times(5, 4e-5),
            "/v1/explain": {"count": 0, "p50": None},
        },
        "steps": {"features": times(pages, 0.001)},
        "degraded": {"none": pages - 5, "store": 5, "deadline": 0},
        "fallback": {"none": pages, "scenario": 0, "global": 0},
        "weights": [
            {"scenario": "feed", "pages": 9, "mean": {"click": 0.4, "order": 0.6}, "sd": {"click": 0.1, "order": 0.1}}
        ],
        "drift": {"click": 0.031, "order": 0.31},
        "counters": {},
        "reloads": [{"timestamp": NOW, "artifact": "a", "policies": ["p"], "error": "policy.json is damaged"}],
        "online": online,
    }
    return record | changes


SHADOW = {
    "name": "bold",
    "policy": "56e0cc2383fa",
    "mixture_weight": 1.0,
    "pages": 9,
    "replaced": 0.4,
    "correlation": 0.5,
}
SHADOW |= {"own_score": 1.5, "served_score": 1.25}


def poll(page):
    """The next poll, without waiting for it."""
    before = page.evaluate("document.querySelector('#live').dataset.polls")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("(before) => document.querySelector('#live').dataset.polls !== before", arg=before)


def test_a_file_has_no_live_part(engine, file):
    page = opened(engine, file.as_uri())
    assert not page.locator("#live").is_visible() and page.asked == [file.as_uri()]
    page.close()


def test_the_state_is_shown_and_followed(engine, file):
    with service(file, [status(), status(1100, 10_000)]) as address:
        page = opened(engine, address)
        page.wait_for_selector("#live .card")
        live = page.locator("#live")
        assert "main: Test the new ranking: main." in live.inner_text()
        assert "1,000 since the start" in live.inner_text() and "6.00 ms" in live.inner_text()
        rows = live.locator("tr", has_text="main").first.inner_text()
        assert "80 %" in rows and "control" in rows
        treated = live.locator("tr", has_text=HOSTILE).first
        assert "+2.0 %" in treated.inner_text() and treated.locator(".interval.undecided").count() == 1
        assert "order: not decidable: 150 users of the smaller arm." in live.inner_text()
        assert live.locator(".interval.better").count() == 1 and page.locator("img").count() == 0
        for name in ("drift", "online", "reloads", "latency"):
            page.locator(f"#live-{name}").click()
        text = live.inner_text()
        said = ("another distribution", "stable", "rolled back", "9.500 (9.000 to 10.00)", "policy.json is damaged")
        for part in (*said, "40.0 % ± 10.0", "answers 5xx"):
            assert part in text
        poll(page)
        first = live.locator(".card").first.inner_text()
        assert "10.0" in first and "1,100" in first
        assert live.locator("#live-drift").locator("..").get_attribute("open") is not None
        assert live.locator(".card").last.inner_text().split("\n")[1] == "2"
        assert page.locator("html").get_attribute("data-state") == "ready"
        assert {url.rsplit("/", 2)[-1] for url in page.asked} == {"console", "status"}
        assert page.faults == []
        page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_no_column_of_the_state_is_cut_off_and_axe_finds_nothing_serious(engine, file, width, theme):
    with service(file, [status(shadows=[SHADOW])]) as address:
        page = opened(engine, address, width, theme)
        page.wait_for_selector("#live .card")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        seen, cut = page.evaluate(CUT, width)
        assert seen > 10 and cut == [] and page.locator("#live table").count() > 6
        assert serious_faults(page) == []
        page.close()


def test_what_to_look_at_is_shown(engine, file):
    same = "arms 'a' and 'b' serve the same pages"
    few = {"control": "main", "users": {"main": 3}, "lifts": {}, "reason": "expected 100 users of each arm"}
    states = [
        status(),
        status(at=5000, store_state="unreachable", warnings=[same]),
        status(at=9000, store=None, online={"history": [], "arms": few}),
        status(at=10000, online=None, drift={}, weights=[], shadows=[]),
        503,
    ]
    with service(file, states) as address:
        page = opened(engine, address)
        page.wait_for_selector("#live .card")
        live = page.locator("#live")
        assert "serving" in live.locator("h2").inner_text().lower() and live.locator("p.bad").count() == 0
        poll(page)
        assert "degraded" in live.locator("h2").inner_text().lower() and "lmdb:store, unreachable" in live.inner_text()
        assert live.locator("p.bad").inner_text() == same
        poll(page)
        assert "lmdb" not in live.inner_text()
        assert "No lifts: expected 100 users of each arm." in live.inner_text()
        poll(page)
        page.locator("#live-online").click()
        assert "No online learner runs" in live.inner_text() and page.faults == []
        poll(page)
        state = live.locator(".state").inner_text()
        assert "no state since" in state and "503" in state and "1,000" in live.inner_text()  # the last numbers stay
        page.close()
    with service(file, [401]) as address:
        page = opened(engine, address)
        page.wait_for_selector("#live .bad")
        assert "a token is wanted" in page.locator("#live").inner_text()
        page.close()


def test_a_service_without_a_run(engine, tmp_path):
    (tmp_path / "page.html").write_text(page_of("pygrade console", Lead(), []), encoding="utf-8")
    with service(tmp_path / "page.html", [status()]) as address:
        page = opened(engine, address)
        page.wait_for_selector("#live .card")
        assert not page.locator("#panel").is_visible() and not page.locator("#verdict").is_visible()
        assert page.faults == []
        page.close()
