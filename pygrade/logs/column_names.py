"""Exact names by which a log's columns are known in tables of other programs, without regard to case and signs."""

import re

ROLES: dict[str, tuple[str, ...]] = {
    "request_id": ("request_id", "request", "session_id", "session", "query_id", "search_id", "page_view_id"),
    "user_id": ("user_id", "user", "customer_id", "customer", "visitor_id", "member_id", "client_id"),
    "item_id": ("item_id", "item", "product_id", "product", "sku", "article_id", "video_id", "movie_id", "document_id"),
    "position": ("position", "slot", "rank"),
    "timestamp": ("timestamp", "time", "ts", "at", "datetime"),
    "scored_at": ("scored_at", "predicted_at"),
    "scenario": ("scenario", "surface", "placement", "device"),
    "value": ("value", "price", "item_price"),
    "category": ("category", "genre"),
    "embedding": ("embedding", "item_embedding"),
    "shown": ("shown", "is_shown", "was_shown", "displayed", "is_displayed", "was_displayed", "visible", "impression"),
    "exploration": ("exploration", "is_random", "randomized"),
}
"""Role → names, the surest first."""

KINDS = ("event", "event_type", "event_name", "action", "kind")  # of raw events: the column of what happened
EXPOSURES = ("impression", "exposure", "shown", "view")  # and the kind that is an exposure, the surest first
HARM = ("hide", "dislike", "report", "return", "refund", "unsubscribe")  # tasks that are worth -1, unless one says more

# What people write on the command line, and the column of a log that it is.
SHORT = {
    "request": "request_id",
    "user": "user_id",
    "item": "item_id",
    "slot": "position",
    "time": "timestamp",
    "policy": "policy_version",
    "production": "production_score",
}
SKIP = "skip"  # the role of columns to leave out
# By these names alone.
NATIVE = ("seed", "policy_version", "trust", "baseline", "verdict", "candidates", "production_score")

_PREDICTION = re.compile(r"(?:p|pred|predicted|prob)_(\w+)|(\w+)_(?:score|pred|prediction|prob|probability|model)")
_FEEDBACK = re.compile(r"(?:y|is|has|was|did)_(\w+)")


def normal(name: str) -> str:
    """The name for comparison.

    >>> normal("Session-ID") == normal("sessionId") == normal("session_id")
    True
    """
    return re.sub(r"[\W_]", "", name.lower())


def named(names: list[str], known: tuple[str, ...]) -> list[str]:
    """Those of the names that are known, the surest first.

    >>> named(["Zeit", "AT", "time"], ROLES["timestamp"])
    ['time', 'AT']
    """
    by_name = {normal(name): name for name in reversed(names)}
    return [by_name[normal(name)] for name in known if normal(name) in by_name]


def predicted_task(name: str) -> str:
    """The task whose prediction a column is by its name, or nothing.

    >>> [predicted_task(name) for name in ("p_click", "pred_buy", "order_score", "price")]
    ['click', 'buy', 'order', '']
    """
    found = _PREDICTION.fullmatch(name.lower())
    return "" if found is None else found[1] or found[2]


def is_feedback(name: str, task: str) -> bool:
    """Does the name mean the feedback of a task?

    >>> [is_feedback(name, "tap") for name in ("y_tap", "tapped", "is_tap", "taps")]
    [True, True, True, False]
    """
    found = _FEEDBACK.fullmatch(name.lower())
    bare, word = normal(found[1] if found else name), normal(task)
    return bare in (word, f"{word}ed", f"{word}d", f"{word}{word[-1:]}ed")


def is_harm(task: str) -> bool:
    """Is the task something that users do to what they do not like, by its name?"""
    return any(is_feedback(task, word) for word in HARM)
