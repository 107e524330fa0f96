"""Roles of a table's columns in a log, and the exact names by which they are known, whatever their case and signs."""

import re
from typing import NamedTuple

_IDS, _NUMBERS, _FLAGS = ("integer", "text"), ("integer", "number"), ("integer", "number", "bool")
_TIMES, _WORDS = ("time", "integer", "number", "text"), ("text", "empty")


class Role(NamedTuple):
    """A use of a column."""

    names: tuple[str, ...]  # by which a column is known, the surest first
    kinds: tuple[str, ...]  # types that it can have, see `Table.kind`
    text: str = ""  # what it is, for people; none: only listed where a table has it
    short: str = ""  # what people write on the command line
    required: bool = False


def _role(kinds: tuple[str, ...], names: str, text: str = "", short: str = "", required: bool = False) -> Role:
    return Role(tuple(names.split()), kinds, text, short, required)


ROLES = {
    "request_id": _role(
        _IDS,
        "request_id request session_id session query_id search_id page_view_id",
        "id that the rows of one page share",
        "request",
        True,
    ),
    "user_id": _role(
        _IDS,
        "user_id user customer_id customer visitor_id member_id client_id",
        "who asked (no such column? user=<request's column>: each request its own user)",
        "user",
        True,
    ),
    "item_id": _role(
        _IDS,
        "item_id item product_id product sku article_id video_id movie_id document_id",
        "the candidate",
        "item",
        True,
    ),
    "position": _role(
        _NUMBERS, "position slot rank", "slot on the page, empty where the candidate was not shown", "slot", True
    ),
    "timestamp": _role(
        _TIMES, "timestamp time ts at datetime", "when: a date, or seconds or milliseconds since 1970", "time"
    ),
    "scored_at": _role(_TIMES, "scored_at predicted_at"),
    "scenario": _role(("text",), "scenario surface placement device", "text of the request, such as the kind of page"),
    "value": _role(_NUMBERS, "value price item_price", "price of the item"),
    "production_score": _role(
        _NUMBERS, "production_score", "what production ranked every candidate by, the higher the better", "production"
    ),
    "category": _role(_IDS, "category genre", "kind of the item: what stands above an item may satiate or help by it"),
    "embedding": _role(
        ("vector",),
        "embedding item_embedding",
        "vector of the item, a list of decimals; for similarity of items of a page",
    ),
    "shown": _role(_FLAGS, "shown is_shown was_shown displayed is_displayed was_displayed visible impression"),
    "exploration": _role(
        (*_FLAGS, "text"),
        "exploration is_random randomized",
        "none, shuffle or dirichlet (or a flag: shuffled): how the page was made",
    ),
    "seed": _role(("integer",), "seed"),
    "policy_version": _role(_WORDS, "policy_version", short="policy"),
    "mixture_weight": _role(_NUMBERS, "mixture_weight"),
    "baseline": _role(_WORDS, "baseline"),
    "verdict": _role(_WORDS, "verdict"),
    "candidates": _role(("integer",), "candidates"),
}
SHORT = {role.short: name for name, role in ROLES.items() if role.short}
"""Word of the command line → role."""
REQUIRED = tuple(name for name, role in ROLES.items() if role.required)
SKIP = "skip"  # the role of columns to leave out
NONE = "none"  # in place of a column: there is none
READING = WHERE, WINDOW, ENCODING = "where", "window", "encoding"  # of a map, beside roles: how tables are read

KINDS = ("event", "event_type", "event_name", "action", "kind")  # of raw events: the column of what happened
EXPOSURES = ("impression", "exposure", "shown", "view")  # and the kind that is an exposure, the surest first
HARM = (
    "hide",
    "hidden",
    "dislike",
    "report",
    "return",
    "refund",
    "unsubscribe",
    "skip",
    "cancel",
)  # tasks that are worth -1, unless one says more

_PREDICTION = re.compile(
    r"(?:p|pred|predicted|prob)_(\w+)|(\w+)_(?:score|pred|prediction|prob|probability|logit|model)"
)
_CATEGORY = re.compile(r"(?:.*[\W_]|.*[a-z](?=[A-Z]))?(?i:(?:sub_?)?(?:category|brand|class|genre)(?:_?(?:id|code))?)")
_FEEDBACK = re.compile(r"(?:y|is|has|was|did)_(\w+)")


def short_name(role: str) -> str:
    """The role as people write it."""
    return (ROLES[role].short if role in ROLES else "") or role


def normal(name: str) -> str:
    """The name for comparison.

    >>> normal("Session-ID") == normal("sessionId") == normal("session_id")
    True
    """
    return re.sub(r"[\W_]", "", name.lower())


def named(names: list[str], aliases: tuple[str, ...]) -> list[str]:
    """Those of the names that are known, the surest first.

    >>> named(["Zeit", "AT", "time"], ROLES["timestamp"].names)
    ['time', 'AT']
    """
    by_name = {normal(name): name for name in reversed(names)}
    return [by_name[normal(name)] for name in aliases if normal(name) in by_name]


def predicted_task(name: str) -> str:
    """The task whose prediction a column is by its name, or nothing.

    >>> [predicted_task(name) for name in ("p_click", "pred_buy", "order_score", "price")]
    ['click', 'buy', 'order', '']
    """
    match = _PREDICTION.fullmatch(name.lower())
    return "" if match is None else match[1] or match[2]


def is_feedback(name: str, task: str) -> bool:
    """Return whether the name means the feedback of a task.

    >>> [is_feedback(name, "tap") for name in ("y_tap", "tapped", "is_tap", "taps")]
    [True, True, True, False]
    """
    match = _FEEDBACK.fullmatch(name.lower())
    bare, word = normal(match[1] if match else name), normal(task)
    return bare in (word, f"{word}ed", f"{word}d", f"{word}{word[-1:]}ed")


def is_category(name: str) -> bool:
    """Return whether the texts of a column are categories by its name, also where they are digits.

    >>> [is_category(name) for name in ("category", "itemClass", "sub_category", "brand_id", "world_class_rating")]
    [True, True, True, True, False]
    """
    return _CATEGORY.fullmatch(name) is not None


def is_id(name: str) -> bool:
    """Return whether a column holds ids by its name.

    >>> [is_id(name) for name in ("item_id", "productUid", "visitId", "UUID", "paid", "valid")]
    [True, True, True, True, False, False]
    """
    return re.search(r"(?i:(^|[_\W])(u|uu)?id$)|[a-z](Id|ID|Uid|UID)$", name) is not None


def is_harm(task: str) -> bool:
    """True for a task that users do to what they do not like, by its name or the last word of it.

    >>> [is_harm(task) for task in ("skipped", "order_cancelled", "hidden_item", "reports", "return_visit")]
    [True, True, True, True, False]
    """
    first, last = task.partition("_")[0], task.rpartition("_")[2]
    names = (task, last.removesuffix("s"), *([first] if first.endswith(("ed", "hidden")) else []))
    return any(is_feedback(name, word) for name in names for word in HARM)
