"""The ASGI callable and `pygraded` give the same status, content type and body, whatever is asked."""

import asyncio
import contextlib
import http.client
import json
import re

import numpy as np
import pytest
import safetensors.numpy

from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving import asgi
from tests.pipeline.world import copy
from tests.service.conftest import serving
from tests.serving.test_asgi import ask

TIME = 1_700_002_900_000
# Parts that differ from one answer to the next.
PARTS = rb'"seconds":\{[^}]*\}|"request_id":"[0-9a-f]{16}"|[0-9]+ bytes|/(first|second)/'
TASKS = ("click", "like", "order")
VALUES = (None, True, 0, -1, 3, 2**53, 1e300, "", "x", "ü\u0000", [], [1, "a"], [[]], {}, {"a": 1}, "NaN")
PATHS = (
    "/v1/rank",
    "/v1/explain",
    "/v1/weights",
    "/v1/update",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/",
    "/v1/x",
)
OPTIONS = {"seed": 3, "max_explore": 1.0, "max_body_bytes": 4096, "max_k": 20}


def request_of(rng):
    """A page's request, most of the time a good one."""
    items = rng.choice(120, rng.integers(1, 9), replace=False).tolist()
    numbers = {task: rng.random(len(items)).round(3).tolist() for task in TASKS}
    parts = {
        "k": int(rng.integers(1, 12)),
        "candidates": int(rng.integers(1, 60)),
        "seen": items[:2],
        "eligible": items,
        "scenario": str(rng.choice(["home", "none"])),
        "explore": bool(rng.integers(2)),
        "request_id": f"r{rng.integers(1000)}",
        "deadline_ms": 60_000,
        "arm": "main",
    }
    chosen = {name: parts[name] for name in parts if rng.random() < 0.3}
    if rng.random() < 0.6:
        chosen |= {"items": items if rng.random() < 0.8 else [f"i{item}" for item in items]}
        chosen |= {"predictions": numbers} if rng.random() < 0.9 else {}
        chosen |= {"rules": {"mask": (rng.random(len(items)) < 0.7).tolist()}} if rng.random() < 0.3 else {}
    return {"user": int(rng.integers(70)), "timestamp": TIME} | chosen


def event_of(rng):
    event = {"user": int(rng.integers(70)), "item": int(rng.integers(120)), "timestamp": TIME - 1000}
    return event | {"task": [None, *TASKS, "unheard"][rng.integers(5)], "request_id": f"r{rng.integers(1000)}"}


def changed(value, rng):
    """The value with one part of it replaced, or one more key."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = list(value)[rng.integers(len(value))]
        part = {key: changed(value[key], rng)} if rng.random() < 0.8 else {"unheard": 1}
        return value | (part if part != {"timestamp": None} else {key: TIME + 1})  # null: the clock of each
    if isinstance(value, list) and value and rng.random() < 0.6:
        place = rng.integers(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return VALUES[rng.integers(len(VALUES))]


def damaged(body, rng):
    """Bytes of it cut, replaced or repeated."""
    place, kind = int(rng.integers(len(body) + 1)), rng.integers(3)
    if kind == 0:
        return body[:place]
    if kind == 1:
        return body[:place] + bytes(rng.integers(0, 256, 2, dtype=np.uint8)) + body[place + 1 :]
    return body[:place] + body * int(rng.integers(1, 20))


def tensors_of(request):
    """The body of a request whose lists are tensors."""
    own = {name: value for name, value in request.items() if name not in ("items", "predictions")}
    lists = {"items": np.array(request.get("items", []))}
    if lists["items"].dtype.kind == "U":
        return json.dumps(request).encode()  # no tensors of text
    if "predictions" in request:
        lists["predictions"] = np.array([request["predictions"][task] for task in TASKS], np.float32)
    return safetensors.numpy.save(lists, {"request": json.dumps(own)})


def requests(count, seed=0):
    """Method, path, body and headers of each."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        path = PATHS[rng.integers(len(PATHS))] if rng.random() < 0.3 else PATHS[rng.integers(4)]
        method = str(rng.choice(["GET", "POST", "PUT", "DELETE"])) if rng.random() < 0.1 else ""
        method = method or ("POST" if path in PATHS[:4] else "GET")
        update, tensors, batch = "update" in path, rng.random() < 0.1, rng.random() < 0.1
        content = {"events": [event_of(rng) for _ in range(rng.integers(1, 4))]} if update else request_of(rng)
        if tensors and not update:
            body = tensors_of(content)
        else:
            content = {"requests": [content, request_of(rng)]} if batch and not update else content
            body = json.dumps(changed(content, rng) if rng.random() < 0.4 else content).encode()
        if rng.random() < 0.2:
            body = damaged(body, rng)
        headers = {"Content-Type": "application/safetensors" if tensors else "application/json"}
        headers |= {"Accept": "application/safetensors"} if rng.random() < 0.1 else {}
        headers |= {"X-Request-Id": f"x{rng.integers(9)}"} if rng.random() < 0.2 else {}
        if method not in ("POST", "PUT") or path in ("/livez", "/readyz"):  # pygraded takes no body for probes
            body = b""
        yield method, path, body, headers


def comparable(kind, body):
    """An answer without what differs from one to the next."""
    if kind == "application/safetensors":
        size = 8 + int.from_bytes(body[:8], "little")
        header = json.loads(body[8:size])
        page = json.loads(header["__metadata__"]["page"])
        own = {name: value for name, value in page.items() if name not in ("seconds", "request_id")}
        return header | {"__metadata__": own}, body[size:]
    return re.sub(PARTS, b"", body)


@pytest.mark.parametrize("kind", ["pipeline", "policy"])
@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_both_give_the_same_answers(run, tmp_path, count, kind):
    if kind == "policy":
        FusionPolicy(PolicySpec(tasks=TASKS, features=("hour",))).save(tmp_path / "trained" / "policy")
        run = tmp_path / "trained"
    first, second = copy(run, tmp_path / "first"), copy(run, tmp_path / "second")
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nlog = "none"\n' + "".join(f"{name} = {value}\n" for name, value in OPTIONS.items()))
    app, statuses = asgi(second, **OPTIONS), {}

    async def compare(server):
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            for method, path, body, headers in requests(count):
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                kind = answer.headers["Content-Type"]
                found = answer.status, kind, comparable(kind, answer.read())
                given = [(name.encode(), value.encode()) for name, value in headers.items()]
                status, got, content = await ask(app, method, path, [body], given)
                kind = got[b"content-type"].decode()
                assert found == (status, kind, comparable(kind, content)), (method, path, body)
                if "X-Request-Id" in headers and status == 200:
                    assert answer.headers["X-Request-Id"] == got[b"x-request-id"].decode()
                statuses[status] = statuses.get(status, 0) + 1

    with serving(first, tmp_path / "log", "--config", path) as server:
        asyncio.run(compare(server))
    app.close()
    assert sum(statuses.values()) == count and {200, 400, 404, 405, 413} <= set(statuses), statuses
    assert min(statuses[200], statuses[400]) > count / 5, statuses
