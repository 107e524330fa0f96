"""Limits of clients by the names of their tokens."""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest

from pygrade import FusionPolicy
from pygrade.policy import PolicySpec
from tests.service.conftest import eventually, needs_server
from tests.service.test_server import (
    AUTHORIZED,
    Server,
    one_after_the_other,
    post,
    read_all,
    read_answer,
    refuse,
    statuses,
)

REQUEST = {"user": 7, "items": [1, 2, 3], "predictions": {"click": [0.3, 0.2, 0.1]}, "context": {"hour": 3}}
PAGE = json.dumps(REQUEST).encode()


@pytest.fixture
def run(tmp_path):
    needs_server()
    FusionPolicy(PolicySpec(("click",), ("hour",))).save(tmp_path / "run" / "policy")
    return tmp_path / "run"


def bearer(name):
    return f"Authorization: Bearer token of {name}\r\n".encode()


def serving(run, folder, limits, *options):
    """A server with limits: the token of NAME is "token of NAME"."""
    lines = "".join(f"{name}=token of {name}\n" for name in limits)
    return Server(run, folder, "--tenants", json.dumps(limits), *options, tokens=lines)


def test_requests_a_second(run, tmp_path):
    with serving(run, tmp_path, {"a": {"requests_per_second": 5}, "b": {}}) as server:
        answers = one_after_the_other(server, 1.5, PAGE, bearer("a"))
        served, limited = ([a for a in answers if a[0] == code] for code in (200, 429))
        assert len(answers) == len(served) + len(limited)
        assert 5 <= len(served) <= 5 + 5 * 3  # a second's at once, then five a second
        text = limited[0][2].decode()
        assert "\r\nRetry-After: 1\r\n" in text and "Connection: close" not in text
        error = json.loads(text.split("\r\n\r\n", 1)[1])["error"]
        assert error["argument"] == "tenants.a.requests_per_second"
        assert error["message"] == "tenant 'a' asks more often than its limit of 5 requests a second"
        assert {code for code, *_ in one_after_the_other(server, 0.2, PAGE, bearer("b"))} == {200}
        assert {code for code, *_ in one_after_the_other(server, 0.2, PAGE)} == {200}  # a token without a name
        assert server.figure('pygrade_tenant_requests_total{tenant="a"}') == len(answers)
        limits = 'pygrade_tenant_limited_requests_total{tenant="a",limit="%s"}'
        assert server.figure(limits % "requests_per_second") == len(limited)
        assert server.figure(limits % "pages") == 0
        text = server.ask("GET", "/metrics")[2].decode()
        assert set(re.findall('tenant="(.*?)"', text)) == {"a", "b"}
        assert text.count("# TYPE pygrade_tenant_requests_total") == 1


def test_each_request_of_a_batch_counts(run, tmp_path):
    batch = json.dumps({"requests": [REQUEST] * 20}).encode()
    with serving(run, tmp_path, {"a": {"requests_per_second": 2}}) as server:
        received, _ = server.exchange(post(batch, close=False).replace(AUTHORIZED, bearer("a")) * 2, half=True)
        assert statuses(received) == [200, 429]
        assert int(re.search(rb"Retry-After: (\d+)", received)[1]) in (9, 10)  # 19 more than there is room for


def test_pages_in_progress_before_the_body_is_read(run, tmp_path):
    limits = {"a": {"pages": 0.25}}
    with serving(run, tmp_path, limits, "--threads", "2", "--max-requests", "8") as server:
        data = post(PAGE, close=False).replace(AUTHORIZED, bearer("a"))
        with server.connect() as one, server.connect() as two, server.connect() as three:
            for client in (one, two):
                client.sendall(data[:-3])  # they have a place from their head on
            eventually(lambda: server.figure('pygrade_tenant_pages_in_progress{tenant="a"}') == 2)
            three.sendall(data[: data.index(b"\r\n\r\n") + 4])
            received = read_answer(three)  # nothing of the body was sent
            assert statuses(received) == [429] and b"\r\nRetry-After: 1\r\n" in received
            assert b"tenant 'a' has 2 pages in progress, its share of 0.25 of 8" in received
            assert b'"argument":"tenants.a.pages"' in received
            assert statuses(server.exchange(post(PAGE))[0]) == [200]  # others have their places
            one.sendall(data[-3:])
            assert statuses(read_answer(one)) == [200]
            three.sendall(PAGE + data)  # the body of the refused one is thrown away
            assert statuses(read_answer(three)) == [200]
            two.close()  # in the middle of its body
            eventually(lambda: server.figure('pygrade_tenant_pages_in_progress{tenant="a"}') == 0)


def times_of(server, seconds, rate):
    """Seconds of pages that come at a rate, from when each was to come."""
    data, found = post(PAGE, close=False).replace(AUTHORIZED, bearer("b")), []
    start = time.monotonic()
    with server.connect() as client:
        for due in np.arange(start, start + seconds, 1 / rate):
            time.sleep(max(0.0, due - time.monotonic()))
            client.sendall(data)
            found += [time.monotonic() - due] * (statuses(read_answer(client)) == [200])
    return np.array(found)


def test_a_noisy_tenant_moves_no_other(run, tmp_path):
    """At ten times its limit; what the machine does to both is in both halves."""
    rate = 40
    limits = {"a": {"pages": 0.25, "requests_per_second": rate}, "b": {}}
    with serving(run, tmp_path, limits, "--threads", "2", "--max-requests", "32", "--log", "none") as server:

        def noise(_):
            data, codes = post(PAGE, close=False).replace(AUTHORIZED, bearer("a")), []
            start = time.monotonic()
            with server.connect() as client:
                for due in np.arange(start, start + 2, 4 / (10 * rate)):
                    time.sleep(max(0.0, due - time.monotonic()))
                    client.sendall(data)
                    codes += statuses(read_answer(client))
            return codes

        quiet = times_of(server, 2, 100)
        with ThreadPoolExecutor(4) as threads:
            codes = threads.map(noise, range(4))
            loud = times_of(server, 2, 100)
            codes = list(chain(*codes))
        assert len(quiet) == len(loud) == 200  # none is refused
        assert rate < codes.count(200) < rate * 4 and codes.count(429) > 0.5 * len(codes)
        before, beside = np.quantile(quiet, 0.99), np.quantile(loud, 0.99)
        print(f"p99 alone {1e3 * before:.2f} ms, beside {1e3 * beside:.2f} ms")
        assert np.quantile(loud, 0.9) < 2 * before + 0.05  # the rest is the machine's, which others load, too


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("[]", "tenants is '[]'; expected an object by the names of tokens"),
        ('{"a b": {}}', "tenants.a b is no name; expected letters, digits, _ and - alone"),
        ('{"a": 3}', "tenants.a is 3; expected an object of its limits"),
        ('{"a": {"pages": 2}}', "tenants.a.pages is '2'; expected a number from 0.001 to 1"),
        ('{"a": {"rate": 2}}', "tenants.a.rate is unknown; expected pages, requests_per_second or both"),
        ('{"a": {}}', "tenants names 'a', who has no token; expected a line a=TOKEN in token_file"),
    ],
)
def test_wrong_limits_are_named(run, limits, message):
    code, text = refuse("--run", run, "--port", "0", "--tenants", limits)
    assert code == 2 and message in text


def test_tokens_of_tenants_change_while_it_serves(run, tmp_path):
    with serving(run, tmp_path, {"a": {"requests_per_second": 100}}) as server:
        for text, wanted in (("a=new\n", 200), ("other\n", 200), ("a=newer\n", 401)):  # the second lacks a's
            (tmp_path / "tokens").write_text(text)
            server.signal(signal.SIGHUP)
            time.sleep(0.3)
            with server.connect() as client:
                client.sendall(
                    post(b"", "/v1/status", method="GET").replace(AUTHORIZED, b"Authorization: Bearer new\r\n")
                )
                assert statuses(read_all(client)[0])[0] == wanted
        assert "who has no token" in server.log.read_text()
