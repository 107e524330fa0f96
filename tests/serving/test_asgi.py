"""The service as an ASGI callable: the core's answers, limits, its lifespan, and what is new in the run."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from pygrade import _core
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving import asgi
from pygrade.serving.run_copy import policy_of

ARTIFACTS = Path(__file__).parents[2] / "csrc" / "tests" / "artifacts"
PARTS = rb'"seconds":\{[^}]*\}|"request_id":"[0-9a-f]{16}"'  # differ from one answer to the next


@pytest.fixture
def run(tmp_path):
    """What `pygrade train` wrote, as far as it is served."""
    FusionPolicy(PolicySpec(tasks=("click", "order"), features=("age",))).save(tmp_path / "run" / "policy")
    return tmp_path / "run"


async def ask(app, method, path, chunks=(b"",), headers=(), root_path=""):
    """Status, headers and body."""
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": list(headers)}
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if waiting:
        waiting[-1]["more_body"] = False
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return None
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


RANK = (
    b'{"user": 3, "k": 2, "items": [5, 7, 9], "predictions": {"click": [0.1, 0.2, 0.3], "order": [0.01, 0.03, 0.02]}}'
)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/rank", RANK),
        ("POST", "/v1/rank", b'{"k": 0}'),
        ("POST", "/v1/rank", b"\xff{"),
        ("POST", "/v1/explain", RANK),
        ("GET", "/readyz", b""),
        ("GET", "/v1/nothing", b""),
        ("PUT", "/v1/rank", b"{}"),
        ("POST", "/v1/rank", b" " * 2000),
    ],
)
def test_answers_are_those_of_the_core(run, method, path, body):
    app = asgi(run, max_body_bytes=1024)
    chunks = [body[start : start + 600] for start in range(0, len(body), 600)] or [b""]
    status, headers, content = asyncio.run(ask(app, method, path, chunks))
    core = _core.Service(str(run), '{"max_body_bytes": 1024}').handle(method, path, body)
    assert (status, headers[b"content-type"].decode()) == core[:2]
    sizes = rb"[0-9]+ bytes" if status == 413 else rb"^$"  # the rest of a body that is too long is not read
    assert re.sub(sizes, b"", re.sub(PARTS, b"", content)) == re.sub(sizes, b"", re.sub(PARTS, b"", core[2]))
    assert int(headers[b"content-length"]) == len(content)
    app.close()


def test_the_id_of_a_header_is_used_and_answered(run):
    app = asgi(run)
    _, headers, content = asyncio.run(ask(app, "POST", "/v1/rank", [RANK], [(b"X-Request-Id", b"of-the-proxy")]))
    assert json.loads(content)["request_id"] == "of-the-proxy" and headers[b"x-request-id"] == b"of-the-proxy"


def test_it_is_mounted_below_a_path_and_a_client_may_leave(run):
    app = asgi(run)
    assert asyncio.run(ask(app, "GET", "/ranking/livez", root_path="/ranking"))[0] == 200
    assert asyncio.run(ask(app, "POST", "/v1/rank", [])) is None


def test_its_lifespan_follows_the_run_and_flushes_the_logs(run):
    app = asgi(run, refresh_seconds=0.05, exposures="exposures", exposure_share=1.0)
    messages, done = asyncio.Queue(), []

    async def live():
        async def send(message):
            done.append(message["type"])

        living = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
        await messages.put({"type": "lifespan.startup"})
        first = json.loads((await ask(app, "POST", "/v1/rank", [RANK]))[2])["policy"]
        other = FusionPolicy(PolicySpec(tasks=("click", "order"), features=("age",)), seed=1)
        other.save(run / "new")
        shutil.rmtree(run / "policy")
        (run / "new").rename(run / "policy")
        for _ in range(200):
            now = json.loads((await ask(app, "POST", "/v1/rank", [RANK]))[2])["policy"]
            if now != first:
                break
            await asyncio.sleep(0.05)
        assert now == other.version != first
        await messages.put({"type": "lifespan.shutdown"})
        await living

    asyncio.run(live())
    assert done == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert list((run / "exposures").glob("*.parquet"))


def test_bad_options_are_named(run, tmp_path):
    for options, message in (
        ({"threads": 0}, "threads is 0; want 1 to 1024"),
        ({"refresh_seconds": 0}, "refresh_seconds is 0; want 0.05 to 3600"),
        ({"unheard": 1}, "unheard is unknown"),
        ({"exposures": "s3://bucket/x"}, "exposures is s3://bucket/x; want a directory"),
    ):
        with pytest.raises(ValueError, match=message):
            asgi(run, **options)
    with pytest.raises(FileNotFoundError, match="has no artifact and no policy"):
        policy_of(tmp_path)
    assert policy_of(ARTIFACTS / "first") == ARTIFACTS / "first" / "policy"
