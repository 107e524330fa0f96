"""Parts of the HTTP layer without a process: options, tokens, traces, the limit of requests in flight."""

import asyncio
import base64
import json
import threading

import httpx
import pytest

from pygrade.cli.commands.serve import Options, table_of
from pygrade.service.config import CORE_KEYS, ServeConfig, log_folder, read_table, split

pytest.importorskip("fastapi", reason="fastapi is not installed")

from pygrade.service.app import Answers, create_app
from pygrade.service.gate import Gate, Traffic, request_id_of
from pygrade.service.tokens import Tokens
from pygrade.service.tracing import Tracer


class Slow:
    """A core whose pages wait."""

    def __init__(self):
        self.go = threading.Event()

    def handle(self, method, path, body):
        if path == "/v1/rank":
            assert self.go.wait(10)
        page = {"request_id": "r1", "arm": "main", "degraded": None, "seconds": {"user": 0.002, "ranking": 0.001}}
        return 200, "application/json", json.dumps(page).encode(), page["request_id"]

    def refresh(self):
        return False

    def drain(self):
        pass


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_options_of_the_file_and_of_the_command(tmp_path):
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nport = 1\ndeadline_ms = 20\n[[serve.arms]]\nname = "new"\nshare = 1.0\n')
    assert read_table(path) == {"port": 1, "deadline_ms": 20, "arms": [{"name": "new", "share": 1.0}]}
    table = table_of(Options(run=tmp_path, config=path, port=2, feedback=tmp_path / "f"))
    config, core = split(table)
    assert config == ServeConfig(port=2)
    assert json.loads(core) == {
        "deadline_ms": 20,
        "arms": [{"name": "new", "share": 1.0}],
        "feedback": str(tmp_path / "f"),
        "max_body_bytes": 1 << 20,
    }
    assert log_folder(tmp_path, {"exposures": "logs"}, "exposures") == tmp_path / "logs"
    with pytest.raises(ValueError, match="feedback is not given"):
        log_folder(tmp_path, {}, "feedback")


def test_bad_options_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"serve has no option 'prot'; want one of .*port"):
        split({"prot": 1})
    for options, text in (
        ({"port": 70_000}, "port is 70000; want 0 to 65535"),
        ({"workers": "2"}, "workers is '2'; want a whole number"),
        ({"log": "some"}, "log is 'some'; want one of all, errors, none"),
        ({"tls_cert": "a"}, "tls_cert and tls_key go together"),
        ({"token_file": str(tmp_path / "no")}, "token_file is .*, which is no file"),
        ({"otel": 1}, "otel is 1; want true or false"),
    ):
        with pytest.raises((ValueError, TypeError, FileNotFoundError), match=text):
            ServeConfig(**options)
    (tmp_path / "bad.toml").write_text("[serve")
    with pytest.raises(ValueError, match=r"bad\.toml is not TOML"):
        read_table(tmp_path / "bad.toml")


def test_the_core_accepts_the_keys_that_are_handed_to_it():
    from pygrade import _core

    with pytest.raises(ValueError, match="unheard is unknown") as caught:
        _core.Service("csrc/tests/artifacts", '{"unheard": 1}')
    assert set(str(caught.value).split("want some of ")[1].split(", ")) == {*CORE_KEYS, "max_body_bytes"}


def test_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# none\n\nfirst\n  second \n")
    tokens = Tokens(path)
    basic = base64.b64encode(b"me:second")
    for header in (b"Bearer first", b"bearer  second", b"Basic " + basic):
        assert tokens.accept(header)
    for header in (
        None,
        b"",
        b"first",
        b"Bearer",
        b"Bearer # none",
        b"Basic x",
        b"Basic " + basic[:-4],
        b"Digest first",
    ):
        assert not tokens.accept(header)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no token"):
        tokens.reload()
    assert tokens.accept(b"Bearer first")


def test_the_id_of_an_answer():
    assert request_id_of(b'{"request_id":"a\\"\\u00e4","x":1}') == 'a"ä'
    assert request_id_of(b'{"error":{}}') is None


def test_probes_answer_while_pages_wait_and_too_many_are_sent_away(tmp_path, capsys):
    core, traffic = Slow(), Traffic()
    answers = Answers(core, 1, 1 << 20)
    gate = Gate(create_app(answers, tmp_path / "console.html"), traffic, None, 3, "errors", 4)

    async def ask():
        async with client_of(gate) as client:
            pages = [asyncio.create_task(client.post("/v1/rank", json={})) for _ in range(3)]
            while traffic.in_flight < 3:
                await asyncio.sleep(0.01)
            assert (await client.get("/livez")).status_code == 200
            refused = await client.get("/v1/status")
            core.go.set()
            return refused, [(await page).status_code for page in pages]

    refused, pages = asyncio.run(ask())
    answers.close()
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1" and pages == [200] * 3
    line = json.loads(capsys.readouterr().err)
    assert (line["status"], line["worker"], line["level"]) == (503, 4, "error")


def test_the_console_is_served_from_its_file(tmp_path):
    answers = Answers(Slow(), 0, 1 << 20)
    (tmp_path / "console.html").write_text("<p>ü")

    async def ask():
        async with client_of(create_app(answers, tmp_path / "console.html")) as client:
            return await client.get("/console")

    answer = asyncio.run(ask())
    assert answer.text == "<p>ü" and answer.headers["content-type"] == "text/html; charset=utf-8"


def test_traces_have_a_span_for_each_step(tmp_path):
    for module in ("opentelemetry.sdk", "opentelemetry.instrumentation.asgi"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider, core = InMemorySpanExporter(), TracerProvider(), Slow()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    core.go.set()
    app = tracer.around(create_app(Answers(core, 0, 1 << 20, tracer), tmp_path / "console.html"))

    async def ask():
        async with client_of(app) as client:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            await client.post("/v1/rank", json={}, headers={"traceparent": parent})

    asyncio.run(ask())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    root = spans["POST /v1/rank"] if "POST /v1/rank" in spans else spans["POST"]
    assert root.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert root.attributes["pygrade.arm"] == "main" and root.attributes["pygrade.request_id"] == "r1"
    for name, ns in (("user", 2_000_000), ("ranking", 1_000_000)):
        assert spans[name].parent.span_id == root.context.span_id
        assert spans[name].end_time - spans[name].start_time == ns
    tracer.close()
