"""python search_hits_to_page.py [REQUESTS] [PAGE]: result lists of a search engine → a verdict, and its page.

The responses are shaped as those of OpenSearch and Vespa: hits with an id, a score, and features that models filled in
(`fields`; in Vespa `matchfeatures`). Logged are the response, who asked, and what was clicked and ordered.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from small_market import SLOTS, impressions

import pygrade


def logged_searches(requests: int) -> Iterator[dict]:
    """What a service would have written: one record a request, with all hits in the engine's order."""
    table = impressions(requests)
    table["relevance"] = np.round(8 + table["quality"] + table["match"], 3)
    for rows in np.split(np.arange(len(table["item"])), requests):
        order = rows[np.argsort(np.where(np.isnan(table["slot"][rows]), 99, table["slot"][rows]), kind="stable")]
        hits = [
            {
                "_id": f"sku-{table['item'][row]}",
                "_score": table["relevance"][row],
                "fields": {
                    "ctr": 0.25 / (1 + np.exp(-table["quality"][row])),
                    "cvr": 0.05 / (1 + np.exp(-table["match"][row])),
                },
            }
            for row in order
        ]
        first = {name: table[name][rows[0]].item() for name in ("request", "customer", "member", "at", "page")}
        events = {
            name: [f"sku-{table['item'][row]}" for row in rows if table[name][row]] for name in ("clicked", "ordered")
        }
        yield first | {"response": {"hits": {"hits": hits}}} | events


def candidates(record: dict) -> Iterator[dict]:
    """A row per hit. The first ones were shown; their place is the slot."""
    for place, hit in enumerate(record["response"]["hits"]["hits"]):
        shown = place < SLOTS
        yield {
            "request": record["request"],
            "user": record["customer"],
            "item": hit["_id"],
            "slot": place if shown else None,
            "time": record["at"],
            "exploration": record["page"],
            "x_member": float(record["member"]),
            "i_relevance": hit["_score"],
            "p_click": hit["fields"]["ctr"],
            "p_order": hit["fields"]["cvr"],
            "y_click": float(hit["_id"] in record["clicked"]) if shown else None,
            "y_order": float(hit["_id"] in record["ordered"]) if shown else None,
        }


requests, page = (*sys.argv[1:], *("6000", "search.html")[len(sys.argv) - 1 :])
file = Path("searches.jsonl")
file.write_text("".join(json.dumps(record) + "\n" for record in logged_searches(int(requests))))

with file.open() as lines:
    rows = [row for line in lines for row in candidates(json.loads(line))]
table = {name: [row[name] for row in rows] for name in rows[0]}
trained = pygrade.train(table, values={"order": 10})
print(trained.verdict)
print("page:", trained.report(page))
