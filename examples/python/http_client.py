"""python http_client.py URL USER: a client of `pygrade serve` for a ranker with predictions of its own; it needs Python
alone.

It asks for a page of its candidates, says what was shown and that the second item was clicked, and asks for the weights
alone, for an engine that scores by itself. If the service does not answer in time, the page is an order of the client's
own: a ranking must never be the reason that a shop shows nothing.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any


class Client:
    """The service at a URL."""

    def __init__(self, url: str, seconds: float = 0.5, token: str | None = None) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer; ValueError with the service's reason for a bad request, OSError if there is none in time, or if
        the service has too much to do (503)."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise ValueError(json.load(error)["error"]["message"]) from None
            raise

    def page(self, items: list[Any], predictions: dict[str, list[float]], **options: Any) -> dict[str, Any]:
        """The best items, or all of them in the order of the first task's prediction."""
        try:
            return self.ask("/v1/rank", {"items": items, "predictions": predictions, **options})
        except OSError as error:
            first = next(iter(predictions.values()))
            order = sorted(range(len(items)), key=lambda place: -first[place])
            return {"items": [items[place] for place in order][: options.get("k", 10)], "degraded": str(error)}


def main(url: str, user: str) -> None:
    client = Client(url)
    items = ["p1", "p2", "p3", "p4", "p5", "p6"]
    predictions = {  # of the client's own model
        "click": [0.10, 0.08, 0.12, 0.05, 0.09, 0.11],
        "cart": [0.02, 0.04, 0.01, 0.03, 0.02, 0.02],
        "order": [0.004, 0.010, 0.002, 0.009, 0.003, 0.005],
    }
    page = client.page(items, predictions, user=user, k=5, context={"hour_sin": 0.5, "hour_cos": 0.8})
    shown = page["items"]
    print("page:", shown, page.get("weights"), "degraded:", page["degraded"])
    event = {"user": user, "task": None, "timestamp": int(time.time() * 1000), "request_id": page["request_id"]}
    events = [event | {"item": item} for item in shown]  # shown without feedback, but for the second:
    events[1] |= {"task": "click", "event_id": f"{page['request_id']}-click"}
    print(client.ask("/v1/update", {"events": events}))
    formula = client.ask("/v1/weights", {"user": user, "items": items, "predictions": predictions})
    print("scores are made of:", formula["scores"])
    try:
        client.page(items, predictions, user=user, k=0)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
