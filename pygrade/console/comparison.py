"""Ranked pages side by side: production's, expected value's and the policy's, for some held-out requests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.console.html import Section, escape, folded
from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER
from pygrade.logs import Logs, evenly_spaced
from pygrade.policy import FusionPolicy, Mixture
from pygrade.training.evaluate_policy import arms_of

FILE = "comparison.json"
_REQUESTS, _ITEMS = 8, 10
_OPEN = 3  # requests that are shown at once
_SHOWN = 3  # items that a page needs, so that there is something to compare
Names = Callable[[NDArray[np.int64]], Sequence[str | None]]


def compare_pages(
    logs: Logs,
    policies: Mapping[str, FusionPolicy],
    mixture: Mixture | None,
    names: Names | None = None,
    count: int = _REQUESTS,
    k: int = _ITEMS,
) -> dict[str, Any]:
    """A record of the shown items of ``count`` requests, at most k, evenly over those with at least three shown items.

    The orders are the logged one, expected value's, and that of the last policy, each with how many of its first k
    among all candidates were not shown. names: of the items, if ids stand for them.
    """
    sizes = np.bincount(logs.row_request, logs.shown, logs.num_requests)
    enough = np.flatnonzero(sizes >= min(_SHOWN, sizes.max(initial=0)))
    rows = enough[evenly_spaced(len(enough), count)]
    chosen = logs.select(rows)
    arms = arms_of(chosen, policies, mixture)
    last, mixed = list(policies)[-1], list(policies.values())[-1].mixture
    weighs = mixed is None or mixed.takes_network
    orders: dict[str, Array] = {LOGGED_ORDER: -chosen.position.astype(np.float64)}
    orders |= {name: arms.scores[name] for name in (EXPECTED_VALUE, last)}
    texts = _texts(chosen.item_id, names)
    requests = []
    for r in range(chosen.num_requests):
        part = slice(int(chosen.offsets[r]), int(chosen.offsets[r + 1]))
        weights = dict(zip(chosen.tasks, arms.weights[last][r].astype(float).tolist(), strict=True)) if weighs else {}
        scenario = "" if chosen.scenario is None else f", {chosen.scenario[r]}"
        requests.append(
            {
                "title": f"request {chosen.request_id[r]}, user {chosen.user_id[r]}{scenario}",
                "candidates": part.stop - part.start,
                "weights": weights,
                "orders": {name: _order(chosen, part, scores, k, texts) for name, scores in orders.items()},
            }
        )
    return {"k": k, "tasks": list(chosen.tasks), "policy": last, "requests": requests}


def _order(logs: Logs, part: slice, scores: Array, k: int, texts: Sequence[str]) -> dict[str, Any]:
    """The k best of the shown items of a request's rows, and how many of its k best were not shown."""
    best = part.start + np.argsort(-scores[part], kind="stable")
    shown = [int(row) for row in best if logs.shown[row]][:k]
    hidden = int((~logs.shown[best[:k]]).sum())
    return {"items": [_item(logs, row, texts) for row in shown], "not_shown": hidden}


def _texts(items: Array, names: Names | None) -> list[str]:
    given = [None] * len(items) if names is None else names(items)
    return [str(item) if name is None else name for item, name in zip(items.tolist(), given, strict=True)]


def _item(logs: Logs, row: int, texts: Sequence[str]) -> dict[str, Any]:
    happened = [task for task, value in zip(logs.tasks, logs.feedback[row], strict=True) if value > 0]
    return {"item": texts[row], "slot": int(logs.position[row]), "feedback": happened}


def comparison_section(record: Mapping[str, Any]) -> list[Section]:
    """The pages of `compare_pages` beside each other; none if there is no record."""
    if not record.get("requests"):
        return []
    text = (
        "Requests evenly over the held-out ones, not picked. Left: what production showed. The others order the same "
        f"items, up to {record['k']}. The mark says how far an item moved from its slot, the tags which feedback "
        "followed. Beside the name: how many of its first items among all candidates were not shown, so that nobody "
        "can judge them."
    )
    shown = [_request(entry) for entry in record["requests"]]
    more = folded(f"{len(shown) - _OPEN} more requests", "".join(shown[_OPEN:])) if len(shown) > _OPEN else ""
    return [Section("Pages side by side", text, table="".join(shown[:_OPEN]) + more)]


def _request(entry: Mapping[str, Any]) -> str:
    weights = ", ".join(f"{escape(task)} {100 * weight:.0f} %" for task, weight in entry["weights"].items())
    columns = "".join(_column(name, order) for name, order in entry["orders"].items())
    title = f"{escape(entry['title'])}: {entry['candidates']} candidates"
    note = f'<p class="note">Weights of the policy: {weights}</p>' if weights else ""
    return f'<h3>{title}</h3>{note}<div class="pages">{columns}</div>'


def _column(name: str, order: Mapping[str, Any]) -> str:
    logged, hidden = name == LOGGED_ORDER, order["not_shown"]
    beside = f" <small>{hidden} not shown</small>" if hidden and not logged else ""
    lines = "".join(_line(place, item, logged) for place, item in enumerate(order["items"]))
    return f"<div><h3>{escape('production' if logged else name)}{beside}</h3><ol>{lines}</ol></div>"


def _line(place: int, item: Mapping[str, Any], is_logged: bool) -> str:
    tags = "".join(f"<em>{escape(task)}</em>" for task in item["feedback"])
    moved = "" if is_logged else _move(place, item["slot"])
    return f"<li><b>{place + 1}</b><span>{escape(item['item'])}{tags}</span>{moved}</li>"


def _move(place: int, slot: int) -> str:
    if slot == place:
        return '<i class="same">=</i>'
    return f'<i class="up">▲ {slot - place}</i>' if slot > place else f'<i class="down">▼ {place - slot}</i>'
