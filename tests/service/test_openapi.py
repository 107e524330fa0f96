"""The document of the service's interface is sound, and answers are as it says."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from pygrade import __version__, _core


@pytest.fixture(scope="module")
def document():
    return json.loads(_core.Service.openapi())


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
            assert method in ("get", "post") and "200" in operation["responses"]
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
        for response in part.get("responses", {}).values() if where.endswith(("get", "post")) else ():
            assert response.get("description", "$ref")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    used = {part["$ref"] for _, part in parts(document) if "schemas" in part.get("$ref", "")}
    assert defined - used == {"#/components/schemas/Options"}  # of the configuration, which no request holds


def test_answers_are_as_described(run, document):
    """Stricter than the document: keys that it does not describe are faults, too."""
    schemas = {
        name: {"additionalProperties": False} | entry for name, entry in document["components"]["schemas"].items()
    }
    arms = [{"name": "a", "share": 0.5, "values": {"click": 2}}, {"name": "b", "share": 0.5}]
    config = {"allow_unproven": True, "arms": arms, "shadow": [{"name": "s"}], "explore": {"weights": 0.1}}
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
