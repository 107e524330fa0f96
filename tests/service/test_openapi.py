"""The document of the service's interface: sound, and what the site lists of it."""

import json
import math
import re

import pyarrow.parquet as parquet
import pytest
from jsonschema import Draft202012Validator

from devtools.option_pages import service_page
from pygrade import __version__, _core
from tests.console.browser import browser, needs_browser


@pytest.fixture(scope="module")
def document():
    return json.loads(_core.Service.openapi())


def test_the_site_explains_all_options_and_series(document):
    page = service_page()
    rows = dict(re.findall(r"^\| `(\w+)[^`]*` \|(?:.* \|)? (.+) \|$", page, re.M))
    assert set(document["components"]["schemas"]["Options"]["properties"]) | {"port", "threads"} <= set(rows)
    assert {family["name"] for family in document["paths"]["/metrics"]["get"]["x-metrics"]} < set(rows)
    assert len(rows) > 105 and "pygrade_connections" in rows and all(text.strip() for text in rows.values())


def parts(value, path=""):
    """Every object in the document with its place."""
    if isinstance(value, dict):
        yield path, value
        for key, entry in value.items():
            yield from parts(entry, f"{path}/{key}")
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from parts(entry, f"{path}/{number}")


def test_the_document_is_openapi(document):
    assert document["openapi"].startswith("3.1.") and document["info"]["version"] == __version__
    names = []
    for path, methods in document["paths"].items():
        assert path.startswith("/")
        for method, operation in methods.items():
            assert method in ("get", "post", "delete") and "200" in operation["responses"]
            names.append(operation["operationId"])
            for status, response in operation["responses"].items():
                assert re.fullmatch("[2-5][0-9][0-9]", status) and ("$ref" in response or response["description"])
    assert len(names) == len(set(names))
    assert {"401", "413", "431", "503"} <= set(document["paths"]["/v1/rank"]["post"]["responses"])
    assert "Retry-After" in document["components"]["responses"]["503"]["headers"]
    for where, part in parts(document):
        if "$ref" in part:
            target = document
            for key in part["$ref"].removeprefix("#/").split("/"):
                target = target[key]  # a KeyError names what a reference lacks
        if "schema" in part and isinstance(part["schema"], dict):
            Draft202012Validator.check_schema(part["schema"])
        for response in part.get("responses", {}).values() if where.endswith(("get", "post", "delete")) else ():
            assert response.get("description", "$ref")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    used = {part["$ref"] for _, part in parts(document) if "schemas" in part.get("$ref", "")}
    assert defined - used == {"#/components/schemas/Options"}  # of the configuration, which no request holds


def test_answers_are_as_described(run, document, tmp_path):
    """Stricter than the document: keys that it does not describe are faults, too. Of a test of a pipeline."""
    schemas = {
        name: {"additionalProperties": False} | entry for name, entry in document["components"]["schemas"].items()
    }
    arms = [{"name": "a", "share": 0.5, "values": {"click": 2}}, {"name": "b", "share": 0.5}]
    config = {"allow_unproven": True, "arms": arms, "shadow": [{"name": "s"}], "explore": {"weights": 0.1}}
    config |= {"test": True, "exposures": str(tmp_path), "exposure_share": 0}
    service = _core.Service(str(run), json.dumps(config))
    page = {"user": 3, "k": 5, "candidates": 40, "scenario": "home"}
    pinned = {"user": 3, "items": [1, 2], "rules": {"pins": [{"item": 2, "position": 0}]}}
    predictions = {task: [0.1, 0.2] for task in ("click", "like", "order")}
    event = {"user": 3, "item": 7, "task": "click", "scenario": "home"}
    for path, body, component in (
        ("/v1/rank", page, "Page"),
        ("/v1/rank", page | {"deadline_ms": 0}, "Page"),
        ("/v1/rank", pinned, "Page"),
        ("/v1/rank", {}, "Error"),
        ("/v1/explain", page, "Explanation"),
        ("/v1/weights", page | {"predictions": predictions}, "Weights"),
        ("/v1/update", {"events": [event]}, "Updated"),
        ("/livez", None, "Live"),
        ("/readyz", None, "Readiness"),
        ("/v1/status", None, "Status"),
    ):
        sent = ("GET", path, b"") if body is None else ("POST", path, json.dumps(body).encode())
        schema = {"$ref": f"#/components/schemas/{component}", "components": {"schemas": schemas}}
        Draft202012Validator(schema).validate(json.loads(service.handle(*sent)[2]))
    service.drain()
    rows = [row for file in tmp_path.glob("*.parquet") for row in parquet.read_table(file).to_pylist()]
    ranked = [row for row in rows if not math.isnan(row["share_a"])]
    own = [row[f"slot_{row['arm']}"] == row["position"] for row in ranked if row["exploration"] == "none"]
    assert len(rows) > len(ranked) >= 7 and all(own) and {row["share_b"] for row in ranked} == {0.5}


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_shows_the_document_and_asks_nobody(run, tmp_path, document, theme):
    file = tmp_path / "docs.html"
    file.write_bytes(_core.Service(str(run), '{"allow_unproven": true}').handle("GET", "/docs", b"")[2])
    with browser() as engine:
        page = engine.new_page(viewport={"width": 1280, "height": 900}, color_scheme=theme)
        faults, asked = [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert faults == [] and asked == [file.as_uri()]
        text = page.locator("main").inner_text()
        assert all(path in text for path in document["paths"])
        assert all(name in text for name in document["components"]["schemas"]["RankRequest"]["properties"])
        assert all(family["name"] in text for family in document["paths"]["/metrics"]["get"]["x-metrics"])
        red, green, blue = map(
            int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        )
        assert (red + green + blue > 3 * 128) == (theme == "light")
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
