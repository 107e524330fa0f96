"""Options of the commands that read a log."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pygrade.config.option import Place, option, required
from pygrade.config.shared import Cluster, JudgeOptions, LogOptions, Output, PageOptions, check_finite


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Output):
    """Your own table of requests as a log: proposes what each column is, says what it changes, and tells what the log
    can tell: calibration, order, which estimates are possible, users for 1 %, what exploration would buy.

    Files of several tables, such as users, items and events, are raw events: DIR/events.toml is a schema of what each
    column is, which can be edited and pipeline reads.

    Files are Parquet, CSV, JSON lines or Arrow, with a row per candidate. With --out it writes DIR/logs, which train
    takes, DIR/pygrade.toml, DIR/doctor.json and DIR/doctor.html; without, it only says.

    Example: pygrade doctor shop.parquet --map request=session_id,item=product_id --values buy=20 --out runs/shop

    Example: pygrade doctor users.parquet items.parquet events.parquet --out runs/shop
    """

    ESSENTIAL: ClassVar = ("map", "values", "out")

    files: tuple[Place, ...] = required(
        "files, directories of files, Delta or Iceberg tables (DIR@v12: a version), or a DuckDB database",
        positional=True,
    )
    query: str = option("", "SQL select on the DuckDB database, e.g. 'select * from feed'; not given: its only table")
    map: tuple[str, ...] = option(
        (),
        "What columns are: request, user, item, slot, time, scenario, value (price), shown, TASK (its "
        "feedback), p_TASK (its prediction), x_NAME (a feature); skip=a+b leaves out; request=a+b joins. "
        "What is not given is known by its exact name or type.",
    )
    out: Place | None = option(None, "directory to write")
    values: dict[str, float] = option({}, "what one event of a task is worth, e.g. click=1,buy=20")
    value_tasks: tuple[str, ...] = option((), "tasks whose events are worth that times the item's value (its price)")
    scale: tuple[str, ...] = option(
        (),
        "Task=scale of predictions that are no probabilities: percent, logit, log, score (of no unit: a "
        "rising map is fitted), or given:TASK (of an event that presumes it), e.g. click=logit,order=given:click. "
        "Not given: probabilities, or amounts.",
    )
    duplicates: Literal["keep-shown", "refuse"] = option("keep-shown", "of an item listed again within a request")
    events: bool = option(
        False, "the files are raw events for pipeline (users' events, not pages), even if they are one table"
    )
    fix: bool = option(False, "leave out requests whose rows are refused (at most 10 %); text among numbers is missing")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self.values)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Output, Cluster, LogOptions, JudgeOptions):
    """Replay metrics of a policy, its static weights and the log's own weights, with 95 % intervals over users; and
    the off-policy estimate of the policy: what it would have earned, from all requests of the log. They stand beside
    the verdict of its training, which no other requests change.

    Requests that the policy was trained on are left out. A replay re-orders what was shown. Feedback is divided by the
    slot's propensity, estimated from the log if it can be. Events are worth what the policy was trained for.

    Example: pygrade evaluate --data logs:runs/logs --policy runs/mine/policy
    """

    last: float = option(1.0, "evaluate only this share of the requests, the latest", gt=0, le=1)
    report: Place | None = option(None, "HTML file to write: the console of these requests")
    all_estimates: bool = option(False, "show every off-policy estimate, not only the one to decide by")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Output):
    """Two runs of train, or two of pipeline, side by side: the options that differ, and the metrics of both.

    Example: pygrade compare runs/mine runs/other
    """

    runs: tuple[Path, ...] = required("directories of two runs", positional=True)


@dataclass(frozen=True, kw_only=True)
class FrontOptions(Output, Cluster, LogOptions, JudgeOptions):
    """The trade-offs that a policy offers: events of each task against every other as the multipliers of the tasks'
    values turn; and the multipliers that keep events of some tasks and earn most of another.

    The policy takes multipliers if it was trained with --policy.trade-offs, or serves an expected value or a mixture
    with one, which then ranks alone. Judged on the requests that it was not trained on, in per cent over production. A
    replay re-orders what was shown. Feedback is divided by the slot's propensity.

    Example: pygrade front --data logs:runs/logs --policy runs/mine/policy --keep click=1.0 --most order
    """

    tasks: tuple[str, ...] = option((), "tasks whose multipliers turn; none: the four of most predicted value")
    shifts: tuple[str, ...] = option(
        (), "numbers added to the tasks' values, judged over the values as they are: click=-4 click=-4,dwell=2"
    )
    keep: tuple[str, ...] = option((), "events to keep, as shares of production's: click=1.0 order=1.02, or value=1.05")
    most: str = option("value", "the task to earn most events of, or value")
    scenario: str | None = option(None, "only requests of this scenario; the multipliers found are its own")
    save: Place | None = option(None, "directory to write the policy to, with the multipliers found as its default")
    picture: Place | None = option(None, "SVG file of the front")


@dataclass(frozen=True, kw_only=True)
class RankOptions(Output, LogOptions, PageOptions):
    """Rank logged requests with a saved policy, and print each page with its weights and the contributions per task.

    For a page from a whole pipeline see rank-user.

    Example: pygrade rank --policy runs/demo/policy --data logs:runs/demo/logs --requests 0 7
    """

    ESSENTIAL: ClassVar = ("policy", "data", "requests", "k", "explore", "seed", "log")

    policy: Place = required("directory of a saved policy")
    requests: tuple[str, ...] = option((), "request ids; none: the first request of the data")
