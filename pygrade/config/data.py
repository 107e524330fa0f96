"""Options of the importers of event logs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pygrade.config.option import Options, option

KUAIRAND_EVENTS = ("click", "long_view", "like", "comment", "follow", "forward", "profile_enter", "comment_stay")
"""Kinds of feedback. comment_stay: more than 0 ms in the comments section."""


KUAIRAND_TASK_VALUES: Mapping[str, float] = {
    "click": 1.0,
    "long_view": 2.0,
    "like": 2.0,
    "comment": 4.0,
    "follow": 8.0,
    "forward": 4.0,
    "profile_enter": 2.0,
    "comment_stay": 1.0,
}
"""Business value of one event. Our choice, the rarer the event the higher; the data set states no values."""


def _check_names(names: Iterable[str], what: str, allowed: Iterable[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{what} {name!r}; expected some of {', '.join(allowed)}")


@dataclass(frozen=True)
class KuaiRandEventConfig(Options):
    """Rules by which KuaiRand's rows become requests."""

    PYTHON_ONLY: ClassVar = ("session_gap_minutes", "max_rows")  # not on the command line

    requests: Literal["day", "session"] = option(
        "day", "day: a user's day (UTC+8) in one tab; session: until a gap of session_gap_minutes"
    )
    session_gap_minutes: float = option(30.0, "minutes without an impression after which a new session begins", ge=0)
    max_rows: int = option(100, "longer requests are cut into consecutive ones of at most this many rows", ge=1)
    tasks: tuple[str, ...] | None = option(
        None, "kinds of feedback; default: all but the excerpt's like, which is of the video"
    )
    task_values: Mapping[str, float] = option(KUAIRAND_TASK_VALUES, "business value of one event")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names((*(self.tasks or ()), *self.task_values), "tasks or task_values name", KUAIRAND_EVENTS)


RECFLOW_STAGES = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
"""From the page back to the preranker; a candidate belongs to the first with flag 1."""


RECFLOW_TASK_VALUES: Mapping[str, float] = {
    "effective_view": 1.0,
    "long_view": 2.0,
    "like": 2.0,
    "follow": 8.0,
    "forward": 4.0,
    "comment": 4.0,
}
"""Business value of one event. Our choice, the rarer the event the higher; the data set states no values."""


@dataclass(frozen=True)
class RecFlowConfig(Options):
    """Candidates and kinds of feedback to read."""

    stages: tuple[str, ...] = option(RECFLOW_STAGES, "candidates to keep, by their last stage; always with realshow")
    tasks: tuple[str, ...] = option(tuple(RECFLOW_TASK_VALUES), "kinds of feedback")
    task_values: Mapping[str, float] = option(RECFLOW_TASK_VALUES, "business value of one event")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names(self.stages, "stages names", RECFLOW_STAGES)
        _check_names((*self.tasks, *self.task_values), "tasks or task_values name", RECFLOW_TASK_VALUES)


EBNERD_TASK_VALUES: Mapping[str, float] = {"click": 1.0, "read": 2.0, "scroll": 2.0}
"""Business value of one event. Our choice; the data set states no values."""


@dataclass(frozen=True)
class EbNerdConfig(Options):
    """Bounds of reading and scrolling, and whether old clicks are events."""

    PYTHON_ONLY: ClassVar = ("read_seconds", "scroll_percent")  # not on the command line

    read_seconds: float = option(30.0, "read: the article was clicked and read for at least this long", gt=0)
    scroll_percent: float = option(90.0, "scroll: the article was clicked and scrolled at least this far", gt=0, le=100)
    history: bool = option(
        False,
        "Clicks before the first impression become requests of one article, in scenario history with "
        "negative ids. They tell what users read, and nothing of what they passed over.",
    )
    task_values: Mapping[str, float] = option(EBNERD_TASK_VALUES, "business value of one event")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names(self.task_values, "task_values names", EBNERD_TASK_VALUES)


@dataclass(frozen=True)
class LogsEventConfig(Options):
    """Choices that the contract leaves open."""

    task_values: Mapping[str, float] | None = option(
        None, "value of one event of each task; default: the log's, else 1"
    )
    funnel: tuple[tuple[str, ...], ...] = option((), "chains of tasks, each possible only after the one before it")
    attributes: tuple[str, ...] | None = option(
        None, "item columns that are an item's, as at its first request; default: those with one value for each item"
    )


@dataclass(frozen=True)
class RawEventsConfig(Options):
    """Choices that the schema of raw events leaves open."""

    task_values: Mapping[str, float] | None = option(
        None, "value of one event of each task; default: the schema's, else 1"
    )
