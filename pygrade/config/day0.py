"""Options of the start without a log."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pygrade.config.option import option, required
from pygrade.config.shared import Output, check_finite


@dataclass(frozen=True, kw_only=True)
class Day0Options(Output):
    """Start without a log: a policy that ranks by expected value, and how to explore until train can decide.

    The directory gets policy/, which pygrade serve serves, pygrade.toml, with the options of serve, join, doctor and
    train that go on from there, and day0.json, the plan. It rests on the numbers given here and on an assumed effect of
    the slot; the first day's log has better ones: pygrade doctor reads it.

    Example: pygrade day0 --values click=1,order=20 --rates click=0.05 --requests-a-day 20000 --out runs/first
    """

    ESSENTIAL: ClassVar = ("values", "value_tasks", "features", "out", "k", "requests_a_day", "rates", "shuffle")

    values: dict[str, float] = required("the tasks, as requests name their predictions, and what one event is worth")
    out: Path = required("directory to write, where the service will log, too")
    value_tasks: tuple[str, ...] = option((), "tasks whose events are worth that times the item's value (its price)")
    features: tuple[str, ...] = option(
        (), "numbers that requests send as context: they are logged, and learned from later"
    )
    k: int = option(10, "items a page", ge=2)
    requests_a_day: float | None = option(None, "pages a day; none: the plan is in pages, not days", gt=0)
    rates: dict[str, float] = option(
        {}, "Events of a task per shown item, about, e.g. click=0.05; none: the plan is in events, not pages."
    )
    shuffle: float | None = option(
        None, "share of the pages to shuffle; none: the least by which train can decide in two weeks", gt=0, le=0.5
    )
    full: float | None = option(
        None, "share of the requests logged with all candidates; none: 20,000 a day, which are enough", gt=0, le=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self.values)
        if not self.values or not any(self.values.values()):
            raise ValueError(
                f"values is {self.values}; want each task with its worth, not all 0, e.g. click=1,order=20"
            )
        for name, tasks in (("value_tasks", self.value_tasks), ("rates", self.rates)):
            if unknown := [task for task in tasks if task not in self.values]:
                raise ValueError(f"{name} names {unknown[0]!r}; want one of {', '.join(self.values)}")
        for task, rate in self.rates.items():
            if not 0 < rate <= 1:
                raise ValueError(f"rates has {task}={rate}; want events per shown item, above 0 and up to 1")
