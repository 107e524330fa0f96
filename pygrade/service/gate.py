"""What surrounds every request: tokens, a limit on requests in flight, and a line of the log."""

import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pygrade.service.tokens import Tokens

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/livez", "/readyz")  # for probes, which have no token
_CLOSED = 499  # the client went away; as nginx counts it
_REQUEST_ID = re.compile(rb'"request_id"\s*:\s*"((?:[^"\\]|\\.)*)"')
_SEARCHED = 4096  # bytes of an answer in which its request_id stands


def error_body(argument: str | None, message: str) -> bytes:
    """An error as the core writes it."""
    return json.dumps({"error": {"argument": argument, "message": message}}).encode()


def request_id_of(answer: bytes) -> str | None:
    """The request_id in the JSON that the core answered."""
    found = _REQUEST_ID.search(answer, 0, _SEARCHED)
    if found is None:
        return None
    text: str = json.loads(b'"' + found[1] + b'"')
    return text


@dataclass
class Traffic:
    """What a worker is doing."""

    draining: bool = False
    in_flight: int = 0


class Gate:
    """ASGI around the app. log: all, errors or none."""

    def __init__(
        self, app: Asgi, traffic: Traffic, tokens: Tokens | None, max_in_flight: int, log: str, worker: int | str
    ) -> None:
        self.app, self.traffic, self.tokens = app, traffic, tokens
        self.max_in_flight, self.log, self.worker = max_in_flight, log, worker

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, size = time.perf_counter(), _CLOSED, 0

        async def answer(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.traffic.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            else:
                size += len(message.get("body", b""))
            await send(message)

        self.traffic.in_flight += 1
        try:
            refused = self._refused(scope)
            if refused is None:
                await self.app(scope, receive, answer)
            else:
                await self._refuse(answer, *refused)
        finally:
            self.traffic.in_flight -= 1
            if self.log == "all" or (self.log == "errors" and status >= 400):
                self._write(scope, status, size, time.perf_counter() - started)

    def _refused(self, scope: Message) -> tuple[int, bytes, list[tuple[bytes, bytes]]] | None:
        """Status, body and headers of a request that goes no further."""
        if scope["path"] in OPEN:
            return None
        if self.tokens is not None and not self.tokens.accept(_header(scope, b"authorization")):
            text = "want a header Authorization: Bearer TOKEN with a token of the service's file"
            ask = [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="pygrade"')]
            return 401, error_body("authorization", text), ask
        if self.traffic.in_flight > self.max_in_flight:
            text = f"this worker answers {self.max_in_flight} requests already; try again"
            return 503, error_body(None, text), [(b"retry-after", b"1")]
        return None

    async def _refuse(self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        # What is left of the request is not read.
        await send(
            {"type": "http.response.start", "status": status, "headers": [*own, *headers, (b"connection", b"close")]}
        )
        await send({"type": "http.response.body", "body": body})

    def _write(self, scope: Message, status: int, size: int, seconds: float) -> None:
        client = scope.get("client")
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": "error" if status >= 500 else "warning" if status >= 400 else "info",
            "request_id": scope.get("pygrade.request_id"),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1e3 * seconds, 3),
            "bytes": size,
            "client": client[0] if client else None,
            "worker": self.worker,
        }
        sys.stderr.write(json.dumps(record) + "\n")


def _header(scope: Message, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
