"""Requests of the service whose answers are vectors, and how they are asked."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade.policy import FusionPolicy
from tests.serving.test_page_terms import CATEGORIES
from tests.vectors import FOLDER

OPTIONS: dict[str, Any] = {"seed": 3, "max_explore": 1.0, "max_body_bytes": 4096, "max_k": 20}
SECONDS = re.compile(r'"seconds":\{[^}]*\}|"version":"[^"]*"')  # differ from one answer, and one release, to the next

ITEMS = [11, 12, 13, 14]
RANK = {
    "request_id": "r1",
    "user": 7,
    "timestamp": 1_700_002_900_000,
    "k": 3,
    "items": ITEMS,
    "item_values": [2.0, 9.5, 4.0, 6.25],
    "item_features": {"price": [0.5, -1.0, 2.0, 0.0]},
    "predictions": {
        "click": [0.10, 0.32, 0.25, 0.08],
        "cart": [0.030, 0.021, 0.047, 0.012],
        "order": [0.0100, 0.0041, 0.0095, 0.0031],
    },
    "context": {"hour": 0.5, "intent": -1.25},
}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in RANK.items() if name not in names}


def requests() -> Iterator[tuple[str, str, str]]:
    """Method, path and body."""
    changes: list[dict[str, Any]] = [
        {},
        {"scenario": "search"},
        {"scenario": "elsewhere", "explore": True},
        {"explore": True},
        {"context": {"intent": 2.0}},
        {"context": {}},
        {"values": {"order": 3.0, "click": 0.0}},
        {"rules": {"mask": [True, False, True, True]}},
        {"rules": {"pins": [{"item": 14, "position": 0}], "groups": {"shop": [1, 1, 2, 2]}, "caps": {"shop": 1}}},
        {"rules": {"boost_mul": [1.0, 1.2, 0.3, 3.0], "boost_add": [0.0, 0.0, 0.5, 0.0]}, "k": 4},  # of both signs
        {"rules": {"pins": [{"item": 14, "position": 0}], "demote": [11, 13]}, "k": 4},
        {"items": ["a", "b", "c", "d"]},
        {"k": 0},
        {"k": 21},
        {"items": [11, 11, 12, 13]},
        {"predictions": {"click": [0.1, 0.2, 0.3, 0.4]}},
        {"values": {"order": -1.0}},
        {"rules": {"mask": [False]}},
        {"user": True},
        {"unheard": 1},
        {"timestamp": "yesterday"},
        {"timestamp": 1_700_002_900},
    ]
    for change in changes:
        yield "POST", "/v1/rank", json.dumps(RANK | change)
    yield "POST", "/v1/rank", json.dumps(without("item_values"))
    yield "POST", "/v1/rank", json.dumps(without("item_features"))
    yield "POST", "/v1/rank", json.dumps({"requests": [RANK, RANK | {"request_id": "r2", "k": 0}]})
    yield "POST", "/v1/rank", '{"user": 7, '
    yield "POST", "/v1/rank", '{"user": 7, "user": 8}'
    yield "POST", "/v1/rank", json.dumps({"x": "y" * 5000})
    yield "POST", "/v1/explain", json.dumps(RANK)
    yield "POST", "/v1/weights", json.dumps(RANK | {"scenario": "search"})
    yield "POST", "/v1/weights", json.dumps(without("predictions", "items", "item_values", "item_features"))
    event = {"user": 7, "item": 11, "timestamp": 1_700_002_900_000, "task": "click", "request_id": "r1"}
    for change in ({}, {"task": "unheard"}, {"item": None}, {"timestamp": 0.5}, {"timestamp": 1_700_002_900}):
        yield "POST", "/v1/update", json.dumps({"events": [event | change]})
    for method, path in (("GET", "/livez"), ("GET", "/readyz"), ("GET", "/v1/rank"), ("GET", "/nowhere")):
        yield method, path, ""


def page_requests() -> Iterator[tuple[str, str, str]]:
    """The same of the policy in ``pages``, which has page terms and a beam."""
    rng, count = np.random.default_rng(7), 12
    click = rng.uniform(0.05, 0.4, count)
    body = {
        "request_id": "p1",
        "user": 7,
        "timestamp": 1_700_002_900_000,
        "k": 5,
        "items": list(range(20, 20 + count)),
        "item_values": rng.uniform(1, 9, count).round(3).tolist(),
        "predictions": {
            task: (click * share).round(5).tolist()
            for task, share in zip(("click", "cart", "order", "like", "spend"), (1, 0.4, 0.1, 0.2, 20), strict=True)
        },
        "context": {"hour": 0.5, "age": -1.25, "visits": 2.0},
        "categories": [(*CATEGORIES, None, "unheard")[i] for i in rng.integers(0, 5, count)],
        "embeddings": rng.normal(size=(count, 5)).round(3).tolist(),
    }
    changes: list[dict[str, Any]] = [
        {},
        {"page_terms": False},
        {"categories": None},
        {"embeddings": None},
        {"categories": None, "embeddings": None},
        {"explore": True},
        {"values": {"spend": 0.0}},
        {"rules": {"pins": [{"item": 22, "position": 1}], "demote": [25]}},
        {"rules": {"groups": {"shop": [i % 3 for i in range(count)]}, "caps": {"shop": 2}}, "k": 8},
        {"rules": {"mask": [i % 4 > 0 for i in range(count)], "boost_mul": [1.0 + i % 2 for i in range(count)]}},
        {"embeddings": [[1.0, 2.0]] * count},
        {"categories": ["shoes"]},
    ]
    for change in changes:
        yield "POST", "/v1/rank", json.dumps(body | change)
    yield "POST", "/v1/explain", json.dumps(body)


def exchange(run: Path, asked: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """What the core's service of a run answers."""
    service = _core.Service(str(run), json.dumps(OPTIONS))
    return [entry(*sent, *service.handle(sent[0], sent[1], sent[2].encode())[:3]) for sent in asked]


def entry(method: str, path: str, body: str, status: int, kind: str, content: bytes) -> dict[str, Any]:
    answer = SECONDS.sub("", content.decode())
    return {"method": method, "path": path, "body": body, "status": status, "type": kind, "answer": answer}


def corrected(record: dict[str, Any]) -> NDArray[np.float32]:
    """The predictions of the recorded page, corrected by the core."""
    policy = FusionPolicy.load(FOLDER / "policy")
    context, predictions, items = (np.array([record[name]], np.float32) for name in ("context", "predictions", "items"))
    return policy.correct(context, predictions, items=items)[0]
