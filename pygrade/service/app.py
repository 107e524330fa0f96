"""The HTTP API: FastAPI describes it, the core answers. Bodies go to the core and back as they are."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from pygrade import __version__
from pygrade.service import schemas
from pygrade.service.docs_page import docs_page
from pygrade.service.gate import error_body, request_id_of
from pygrade.service.tracing import Tracer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_BODY_SECONDS = 30.0  # for a client to send its body
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.ErrorResponse, "description": "an argument is wrong"},
    413: {"model": schemas.ErrorResponse, "description": "the body is too large"},
    503: {"model": schemas.ErrorResponse, "description": "the worker is draining or has too much to do"},
}


class Core(Protocol):
    """A worker's service without HTTP, `_core.Service`."""

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes, str]:
        """Status, content type, body and request's id; from any thread, without the interpreter's lock."""

    def refresh(self) -> bool:
        """Loads what changed on disk; whether something did."""

    def drain(self) -> None:
        """/readyz is 503 from now on; the logs are flushed."""


class Answers:
    """Asks the core: in a pool of threads, or in the event loop's own thread if there are none.

    In the loop a page costs less, but a slow store then holds up everything. Probes and metrics have a thread of their
    own, so that they answer while all others wait for the store.
    """

    def __init__(self, core: Core, threads: int, max_body_bytes: int, tracer: Tracer | None = None) -> None:
        self.core, self.max_body_bytes, self.tracer = core, max_body_bytes, tracer
        self._pages = ThreadPoolExecutor(threads, "pages") if threads else None
        self._probes = ThreadPoolExecutor(1, "probes") if threads else None

    async def __call__(self, request: Request) -> Response:
        """The core's answer."""
        method, path = request.method, request.url.path
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(request)
        except TimeoutError:
            text = f"the body did not arrive within {_BODY_SECONDS:g} s"
            return Response(error_body("body", text), 408, {"connection": "close"}, "application/json")
        started = time.time_ns()
        pool = self._pages if method == "POST" else self._probes
        if pool is None:
            status, kind, content, _ = self.core.handle(method, path, body)
        else:
            loop = asyncio.get_running_loop()
            status, kind, content, _ = await loop.run_in_executor(pool, self.core.handle, method, path, body)
        headers = {}
        if len(body) > self.max_body_bytes:
            headers["connection"] = "close"  # the rest of the body is not read
        number = request_id_of(content) if method == "POST" else None
        if number is not None:
            request.scope["pygrade.request_id"] = number
        if self.tracer is not None and status == 200 and number is not None:
            self.tracer.steps(content, started)
        return Response(content, status, headers, kind)

    async def _body(self, request: Request) -> bytes:
        """At most one byte more than the core takes: it refuses such a body, and says why."""
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > self.max_body_bytes:
                break
        return b"".join(parts)[: self.max_body_bytes + 1]

    def close(self) -> None:
        """Waits for the pages that are being made."""
        for pool in (self._pages, self._probes):
            if pool is not None:
                pool.shutdown()


def create_app(answers: Answers, console: Path) -> FastAPI:
    """The API of a worker."""

    class CoreRoute(APIRoute):
        """Its function only describes the request: nothing of it is parsed or checked here."""

        def get_route_handler(self) -> Handler:
            return answers.__call__

    app = FastAPI(
        title="pygrade",
        version=__version__,
        description="Ranks pages for users by learned task weights.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = CoreRoute

    @app.post("/v1/rank", response_model=schemas.RankResponse, responses=_ERRORS)
    def rank(request: schemas.RankRequest) -> None:
        """A page for a user."""

    @app.post("/v1/explain", response_model=schemas.ExplainResponse, responses=_ERRORS)
    def explain(request: schemas.RankRequest) -> None:
        """A page and why: contributions of the tasks, predictions, trust, the policy's inputs. Nothing is logged."""

    @app.post("/v1/update", response_model=schemas.UpdateResponse, responses=_ERRORS)
    def update(request: schemas.UpdateRequest) -> None:
        """Feedback on served pages."""

    @app.get("/v1/status", response_model=schemas.State)
    def status() -> None:
        """Versions, arms, counters, latencies, drift, exploration, reloads, online learning."""

    @app.get("/livez", response_model=schemas.State)
    def livez() -> None:
        """Whether the process answers."""

    @app.get("/readyz", response_model=schemas.State, responses={503: {"description": "draining"}})
    def readyz() -> None:
        """Whether to send requests here."""

    @app.get("/metrics", response_class=Response)
    def metrics() -> None:
        """Figures for Prometheus, of all workers."""

    async def console_page(_request: Request) -> Response:
        if not console.is_file():
            text = f"{console.name} is not there; write it with pygrade studio"
            return Response(error_body("console", text), 404, media_type="application/json")
        return HTMLResponse(await asyncio.to_thread(console.read_bytes))

    async def docs(_request: Request) -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    async def core_error(request: Request, error: Exception) -> Response:
        """No such path or method: the core says so, too."""
        assert isinstance(error, HTTPException)
        answer = await answers(request)
        answer.headers.update(error.headers or {})
        return answer

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def fault(_request: Request, error: Exception) -> Response:
        text = f"a fault of the service: {type(error).__name__}"
        return Response(error_body(None, text), 500, media_type="application/json")

    described = app.openapi

    def openapi() -> dict[str, Any]:
        """Without FastAPI's own errors: nothing is checked before the core."""
        content = described()
        for methods in content["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            content["components"]["schemas"].pop(name, None)
        return content

    app.openapi = openapi  # type: ignore[method-assign]
    app.router.add_route("/console", console_page, include_in_schema=False)
    app.router.add_route("/docs", docs, include_in_schema=False)
    app.add_exception_handler(HTTPException, core_error)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, fault)
    return app
