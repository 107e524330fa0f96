"""Malformed requests to a service: every one must get a 4xx with a reason, or be right after all; never a 5xx."""

import json
import random
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

_PATHS = ("/v1/rank", "/v1/explain", "/v1/update")
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -1e308, 2**63, 2**64, 1.5, "", "x", "\u0000", "ä" * 300, [], {}, [[]], [{}], {"a": 1},
    [1, 1], ["a"], [None], list(range(300)), {"click": -1}, {"click": "x"}, "9" * 400, float("nan"), float("inf"),
)  # fmt: skip
_INSERTED = (b"[" * 40, b'{"a":' * 20, b"1" * 30, b"\\u0000", b'"', b"1e999", b",")
_HEADS = (
    b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PUT %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"%s HTTP/1.1\r\n\r\n",
    b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST %s HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"POST %s HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"\x00\x01\x02%s\r\n\r\n",
    b"POST /%%zz%s?%%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
)


class Mutator:
    """Requests made of good ones."""

    def __init__(self, bodies: list[bytes], seed: int = 0) -> None:
        self.bodies, self.random = bodies, random.Random(seed)

    def request(self) -> bytes:
        """A whole request; one in 40 is none of HTTP."""
        path = self.random.choice(_PATHS).encode()
        if self.random.random() < 0.025:
            return self.random.choice(_HEADS) % path
        body = self._values() if self.random.random() < 0.5 else self._bytes(self.random.choice(self.bodies))
        return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path, len(body), body)

    def _values(self) -> bytes:
        """A good body with a value of another kind, with a strange key, or without one."""
        record = json.loads(self.random.choice(self.bodies))
        if self.random.random() < 0.3:
            record = {"events": [{"user": 1, "item": 2, "task": "click", "timestamp": 1_700_000_000_000}]}
            own = record["events"][0]
        else:
            own = record
        keys = ["zz", "user", "k", "candidates", "items", "seen", "eligible", "context", "scenario", "timestamp"]
        keys += ["explore"]
        keys += [
            "values",
            "deadline_ms",
            "arm",
            "request_id",
            "item_values",
            "item",
            "task",
            "amount",
            "event_id",
            "zz",
        ]
        for _ in range(self.random.randint(1, 3)):
            target = record if self.random.random() < 0.2 else own
            target[self.random.choice(keys)] = self.random.choice(_VALUES)
            if self.random.random() < 0.2:
                target.pop(self.random.choice(list(target)), None)
        return json.dumps(record).encode()

    def _bytes(self, body: bytes) -> bytes:
        """Bytes changed, inserted, left out, doubled or cut off."""
        data = bytearray(body)
        for _ in range(self.random.randint(1, 4)):
            at, kind = self.random.randrange(len(data) + 1), self.random.randrange(6)
            if kind == 0 and at < len(data):
                data[at] = self.random.randrange(256)
            elif kind == 1:
                data[at:at] = bytes([self.random.randrange(256)])
            elif kind == 2:
                del data[at : at + self.random.randint(1, 5)]
            elif kind == 3:
                data[at:at] = data[max(0, at - 8) : at]
            elif kind == 4:
                data[at:at] = self.random.choice(
                    (b"[" * 40, b'{"a":' * 20, b"1" * 30, b"\\u0000", b'"', b"1e999", b",")
                )
            else:
                del data[at:]
        return bytes(data)


def malformed(host: str, port: int, bodies: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Counts of statuses of ``count`` requests, and of faults: a 5xx, no answer, or a 4xx without a reason."""
    mutator = Mutator(bodies.read_bytes().splitlines(), seed)
    statuses, faults, link = Counter[str](), 0, None
    first = None
    for _ in range(count):
        request = mutator.request()
        status, body, link = _ask(host, port, request, link)
        statuses[str(status)] += 1
        good = status == 200 or (400 <= status < 500 and _has_reason(request, body))
        if not good:
            faults += 1
            first = first or {"request": repr(request[:2000]), "status": status, "body": repr(body[:500])}
    if link is not None:
        link.close()
    return {"requests": count, "statuses": dict(sorted(statuses.items())), "faults": faults, "first_fault": first}


def _has_reason(request: bytes, body: bytes) -> bool:
    if not re.match(rb"(GET|PUT|POST) /v1/\w+ HTTP/1\.1\r\nHost: a\r\nContent-Length: \d", request):
        return len(body) > 0  # no HTTP: the server's library answers
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(error["message"]) and "argument" in error


def _ask(host: str, port: int, request: bytes, link: socket.socket | None) -> tuple[int, bytes, socket.socket | None]:
    """Status (0: none), body, and the connection if it stays open."""
    for again in (False, True):
        fresh = link is None
        if link is None:
            link = socket.create_connection((host, port), 30)
        try:
            link.sendall(request)
            status, body, stays = _answer(link)
        except OSError:
            status, body, stays = 0, b"", False
        if status == 0 and not fresh and not again:  # a connection that was kept was closed meanwhile
            link.close()
            link = None
            continue
        if not stays:
            link.close()
            link = None
        return status, body, link
    return 0, b"", link


def _answer(link: socket.socket) -> tuple[int, bytes, bool]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = link.recv(1 << 16)
        if not part:
            return 0, data, False
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lowered = head.lower()
    found = re.search(rb"content-length: *(\d+)", lowered)
    size = int(found[1]) if found else None
    while size is None or len(body) < size:
        part = link.recv(1 << 16)
        if not part:
            break
        body += part
    stays = size is not None and b"connection: close" not in lowered
    return int(head.split()[1]), body, stays
