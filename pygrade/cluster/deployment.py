"""The service on Ray Serve: a deployment around the ASGI callable.

    from ray import serve
    from pygrade.cluster.deployment import deploy

    serve.run(deploy("s3://shop/runs/1", {"num_replicas": 4}, store="redis://host/0"), name="pygrade")

Each replica loads the run, follows it, and has its own ``/metrics``. Names of log files differ, so all replicas of a
machine may log into one directory.
"""

import asyncio
from typing import Any

from pygrade._util.optional_imports import require
from pygrade.serving.asgi_app import asgi
from pygrade.storage import Place


def deploy(run: Place, ray_options: dict[str, Any] | None = None, **options: Any) -> Any:
    """An application of Ray Serve that serves a run.

    Args:
        run: what `pygrade train` or `pygrade pipeline` wrote, at a path that all nodes have or at a URL.
        ray_options: of the deployment: ``num_replicas``, ``autoscaling_config``, ``ray_actor_options`` …
        options: of `asgi`.
    """
    serve = require("ray.serve", "cluster")

    def build() -> Any:
        return asgi(run, **options)

    class Service:
        app: Any  # what `build` made; Ray Serve's ingress sets it

        async def check_health(self) -> None:
            """A replica that is not ready is replaced."""
            status, _, body, _ = await asyncio.to_thread(self.app.core.handle, "GET", "/readyz", b"")
            if status != 200:
                raise RuntimeError(f"/readyz answers {status}: {body.decode()}")

    made = serve.deployment(**{"max_ongoing_requests": 128} | (ray_options or {}))(serve.ingress(build)(Service))
    return made.bind()
