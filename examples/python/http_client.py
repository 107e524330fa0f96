"""python http_client.py URL USER: a client of `pygrade serve` that needs Python alone.

It asks for a page, says what was shown and that the second item was clicked, and asks again. If the service does not
answer in time, the page is an order of the client's own: a ranking must never be the reason that a shop shows nothing.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

POPULAR = [1, 2, 3]  # what to show without the service


class Client:
    """The service at a URL."""

    def __init__(self, url: str, seconds: float = 0.5, token: str | None = None) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer; ValueError with the service's reason for a bad request, OSError if there is none in time."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise ValueError(json.load(error)["error"]["message"]) from None
            raise

    def page(self, user: str | int, **options: Any) -> dict[str, Any]:
        """Items for a user, or the popular ones."""
        try:
            return self.ask("/v1/rank", {"user": user, **options})
        except OSError as error:
            return {"items": POPULAR, "degraded": str(error)}


def main(url: str, user: str) -> None:
    client = Client(url)
    page = client.page(user, k=5, deadline_ms=50)
    print("page:", page.get("names") or page["items"], page.get("weights"), "degraded:", page["degraded"])
    shown = {"user": user, "task": None, "timestamp": int(time.time() * 1000), "request_id": page["request_id"]}
    events = [shown | {"item": item} for item in page["items"]]  # shown without feedback, but for the second:
    events[1] |= {"task": "click"}
    print(client.ask("/v1/update", {"events": events}))
    print("next:", client.page(user, k=5, seen=page["items"])["items"])
    try:
        client.page(user, k=0)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
