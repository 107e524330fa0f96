"""Traces of requests by OpenTelemetry: a span for each, and below it one for each step of a page."""

import json
from typing import Any

from pygrade._util.optional_imports import require
from pygrade.service.gate import Asgi


class Tracer:
    """Spans through the exporter that the OTEL_ variables of the environment choose."""

    def __init__(self, provider: Any = None) -> None:
        self._trace = require("opentelemetry.trace", "otel")
        self.provider = _provider() if provider is None else provider
        self._tracer = self.provider.get_tracer("pygrade")

    def around(self, app: Asgi) -> Asgi:
        """The app with a span for each request, as a child of the caller's if it sends one."""
        module = require("opentelemetry.instrumentation.asgi", "otel")
        wrapped: Asgi = module.OpenTelemetryMiddleware(
            app, tracer_provider=self.provider, exclude_spans=["send", "receive"]
        )
        return wrapped

    def steps(self, content: bytes, started: int) -> None:
        """A span for each step of the page, which the core began at ``started`` (ns since 1970)."""
        span = self._trace.get_current_span()
        if not span.is_recording():
            return
        page = json.loads(content)
        for name in ("request_id", "arm", "artifact", "policy", "degraded", "fallback", "explored"):
            if page.get(name) is not None:
                span.set_attribute(f"pygrade.{name}", page[name])
        for name, seconds in page.get("seconds", {}).items():
            step = self._tracer.start_span(name, start_time=started)
            started += int(1e9 * seconds)
            step.end(end_time=started)

    def close(self) -> None:
        """Sends what waits."""
        self.provider.shutdown()


def _provider() -> Any:
    sdk = require("opentelemetry.sdk.trace", "otel")
    resource = require("opentelemetry.sdk.resources", "otel").Resource.create({"service.name": "pygrade"})
    exporter = require("opentelemetry.exporter.otlp.proto.http.trace_exporter", "otel").OTLPSpanExporter()
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(require("opentelemetry.sdk.trace.export", "otel").BatchSpanProcessor(exporter))
    return provider
