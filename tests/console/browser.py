"""The console in Chromium."""

import contextlib
import http.server
import importlib.util
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "playwright is not installed" if importlib.util.find_spec("playwright") is None else "there is no Chromium"
needs_browser = pytest.mark.skipif(CHROMIUM is None or MISSING.startswith("playwright"), reason=MISSING)
# Tables and rows of pages that are seen, and do not lie in a box that scrolls to their last column.
CUT = """(width) => {
  document.querySelectorAll("details").forEach((entry) => { entry.open = true; });
  const seen = [...document.querySelectorAll("table, .pages")].filter((e) => e.getClientRects().length > 0);
  const cut = seen.filter((element) => {
    const box = element.closest(".scroll, .pages");
    const { left, right } = (box ?? element).getBoundingClientRect();
    if (left < 0 || right > width) return true;
    if (box === null) return element.scrollWidth > element.clientWidth;
    if (box.scrollWidth > box.clientWidth && !/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
    box.scrollLeft = box.scrollWidth;
    const last = [...element.querySelectorAll("th:last-child, td:last-child, .page:last-child")].at(-1);
    const far = last.getBoundingClientRect().right - box.getBoundingClientRect().right;
    box.scrollLeft = 0;
    return far > 2;
  });
  return [seen.length, cut.map((element) => element.outerHTML.slice(0, 200))];
}"""


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium; its pages have a list ``faults`` of what went wrong in them."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        engine = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield engine
        engine.close()


def opened(engine: Any, address: str, width: int = 1400, theme: str = "light", height: int = 900) -> Any:
    """A page that has started."""
    page = engine.new_page(viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce")
    page.faults, page.asked = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-state], body.without-run")
    return page


@contextlib.contextmanager
def updated(page: Any) -> Iterator[None]:
    """Waits until what the block moved is shown."""
    updates = "document.documentElement.dataset.updates"
    before = page.evaluate(updates)
    yield
    page.wait_for_function(f"(before) => {updates} !== before", arg=before)


def serious_faults(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds in a page all of whose details are open."""
    page.evaluate("document.querySelectorAll('details').forEach((entry) => { entry.open = true; })")
    found = pytest.importorskip("axe_core_python.sync_playwright").Axe().run(page)
    assert len(found["passes"]) > 15
    return [
        (entry["id"], [node["html"][:120] for node in entry["nodes"]][:3])
        for entry in found["violations"]
        if entry["impact"] in ("serious", "critical")
    ]


@contextlib.contextmanager
def service(page: Path, statuses: list[Any]) -> Iterator[str]:
    """The address of a server of ``/console`` and of one status after the other; an int is an error, the last stays."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = 404, "application/json", b"{}"
            if self.path == "/console":
                status, kind, body = 200, "text/html; charset=utf-8", page.read_bytes()
            elif self.path == "/v1/status":
                answer = statuses.pop(0) if len(statuses) > 1 else statuses[0]
                status, body = (answer, b"{}") if isinstance(answer, int) else (200, json.dumps(answer).encode())
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """No line for each request."""

    with _running(Handler) as address:
        yield f"{address}/console"


@contextlib.contextmanager
def _running(handler: Any) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
