"""The service as an ASGI callable, for mounting in an application, which sees to tokens, TLS and the number of
connections. The program `pygraded` gives the same answers with less work for each."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pygrade import _core
from pygrade.serving.run_copy import FollowedRun, check_log_folders
from pygrade.storage import Place

logger = logging.getLogger("pygrade")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def asgi(run: Place, *, threads: int = 4, refresh_seconds: float = 1.0, **options: Any) -> "Application":
    """The service of a run as an ASGI callable.

    Args:
        run: what `pygrade train` or `pygrade pipeline` wrote, or a directory of a policy; a URL is followed.
        threads: that make pages.
        refresh_seconds: between looks at the run, for a new artifact or policy.
        options: of the service, see docs/SERVICE.md; the core's errors name one that it refuses.
    """
    for name, value, low, high in (("threads", threads, 1, 1024), ("refresh_seconds", refresh_seconds, 0.05, 3600)):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; want {low:g} to {high:g}")
    check_log_folders(options)
    return Application(FollowedRun(run), threads, refresh_seconds, {"max_body_bytes": 1 << 20} | options)


class Application:
    """ASGI over one core. It looks for what is new from its first request or its lifespan's start on."""

    def __init__(self, run: FollowedRun, threads: int, refresh_seconds: float, options: dict[str, Any]) -> None:
        self.core = _core.Service(str(run.folder.resolve()), json.dumps(options, default=str))
        self._run, self._seconds, self._limit = run, refresh_seconds, int(options["max_body_bytes"])
        self._pages = ThreadPoolExecutor(threads, "pygrade-pages")
        self._probes = ThreadPoolExecutor(1, "pygrade-probes")  # so that they answer while all pages wait for the store
        self._refreshing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "lifespan"):
            raise ValueError(f"the scope is of type {scope['type']!r}; want http or lifespan")
        if self._refreshing is None or self._refreshing.get_loop() is not asyncio.get_running_loop():
            self._refreshing = asyncio.create_task(self._refresh())
        await (self._answer if scope["type"] == "http" else self._live)(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        arrival, parts, size, more = time.monotonic(), [], 0, True
        while more and size <= self._limit:  # the core refuses what is longer, and says why
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
        found = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if size > self._limit:  # refused wherever it goes, as by pygraded
            method, path = "POST", "/v1/rank"
        given = found.get(b"content-type", ""), found.get(b"x-request-id", "")

        def handle() -> tuple[int, str, bytes, str]:
            waited = time.monotonic() - arrival
            accept = found.get(b"accept", "")
            return self.core.handle(method, path, b"".join(parts), *given, waited, accept)

        pool = self._pages if method == "POST" else self._probes
        status, kind, body, request_id = await asyncio.get_running_loop().run_in_executor(pool, handle)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(b"x-request-id", request_id.encode())] if request_id else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, _scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await asyncio.to_thread(self._run.update)
            if await asyncio.to_thread(self.core.refresh):
                logger.info("serves what is new in %s", self._run.place)

    def close(self) -> None:
        """Waits for the pages that are being made, and flushes the logs."""
        self._pages.shutdown()
        self._probes.shutdown()
        self.core.drain()
