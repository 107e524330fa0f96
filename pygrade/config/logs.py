"""Options of the commands that read a log."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from pygrade.config.ignored import refuse
from pygrade.config.option import Options, Place, option
from pygrade.config.shared import Cluster, LogOptions, Output, Unproven, check_finite


@dataclass(frozen=True)
class FirstLogConfig(Options):
    """Assumptions of a start without a log: numbers given here, and an assumed effect of the slot."""

    features: tuple[str, ...] = option(
        (), "numbers that requests send as context: they are logged, and learned from later"
    )
    k: int = option(10, "items a page", ge=2)
    requests_a_day: float | None = option(None, "pages a day; default: the plan is in pages, not days", gt=0)
    rates: dict[str, float] = option(
        {}, "Rough events of a task per shown item, e.g. click=0.05; default: the plan is in events, not pages."
    )
    shuffle: float | None = option(
        None, "share of the pages to shuffle; default: the least by which train can decide in two weeks", gt=0, le=0.5
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for task, rate in self.rates.items():
            if not 0 < rate <= 1:
                raise ValueError(f"rates has {task}={rate}; expected events per shown item, above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Output, FirstLogConfig):
    """Your own table of requests as a log: infers what each column is, prints every change, and reports what the log
    supports: calibration, order, possible estimates, users needed to find 1 %, the worth of exploration. With
    --production it also audits production's ranking.

    Files of several tables, such as users, items and events, are raw events: DIR/events.toml is a schema of what each
    column is, which can be edited and pipeline reads.

    Files are Parquet, CSV, JSON lines or Arrow, with a row per candidate. With --out it writes DIR/logs, which train
    takes, DIR/pygrade.toml, DIR/doctor.json and DIR/doctor.html; without, it only prints.

    --cold-start starts without a log: DIR gets policy/, which ranks by expected value and pygrade serve serves,
    pygrade.toml, with the options of serve, join, doctor and train that go on from there, and cold_start.json, a plan
    of exploration until train can decide. The first day's log has better numbers: run doctor on it.

    Example: pygrade doctor shop.parquet --map request=session_id,item=product_id --values buy=20 --out runs/shop

    Example: pygrade doctor users.parquet items.parquet events.parquet --out runs/shop

    Example: pygrade doctor --cold-start --values click=1,order=20 --rates click=0.05 --out runs/first
    """

    ESSENTIAL: ClassVar = (
        *("map", "values", "production", "out", "fix"),
        *("cold_start", "rates", "requests_a_day", "features"),
    )

    files: tuple[Place, ...] = option(
        (),
        "files, directories of files, Delta or Iceberg tables (DIR@v12: a version), or a DuckDB database",
        unless="cold_start",
        positional=True,
    )
    cold_start: bool = option(False, "no log yet: a policy to start with, and how to explore")
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
    production: str = option(
        "",
        "Production's ranking, to be audited: weights and boosts by item columns, click=0.3,order=0.7,fresh=x1.5; "
        "the column of its score; or logged, the order that the log shows.",
    )
    events: bool = option(
        False, "the files are raw events for pipeline (users' events, not pages), even if they are one table"
    )
    fix: bool = option(False, "drop requests with invalid rows (at most 10 %); read text in numeric columns as missing")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self.values)
        if not self.cold_start:
            return refuse(self, [field.name for field in fields(FirstLogConfig)], "--cold-start")
        if not any(self.values.values()):
            raise ValueError(f"values is {self.values}; expected each task with its worth, e.g. click=1,order=20")
        for name, tasks in (("value_tasks", self.value_tasks), ("rates", self.rates)):
            if unknown := [task for task in tasks if task not in self.values]:
                raise ValueError(f"{name} names {unknown[0]!r}; expected one of {', '.join(self.values)}")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Output, Cluster, LogOptions):
    """Replay metrics of a policy, its static weights and the log's own weights, with 95 % intervals over users; and
    the off-policy estimate of the policy: what it would have earned, from all requests of the log. They stand beside
    the verdict of its training, which no other requests change.

    Requests that the policy was trained on are left out. A replay re-orders what was shown. Feedback is divided by the
    slot's propensity, estimated from the log if it can be. Events are worth what the policy was trained for.

    --trade-offs instead shows what the policy offers between tasks, in per cent over production: events of each task
    against every other as the tasks' values vary; and with --keep the values that keep events of some tasks and earn
    most of another. The policy takes values if it was trained with --policy.trade-offs, or serves an expected value or
    a mixture with one, which then ranks alone.

    Two runs of train, or two of pipeline, are put side by side: the options that differ, and the metrics of both.

    Example: pygrade evaluate --data logs:runs/logs --policy runs/mine/policy

    Example: pygrade evaluate runs/mine runs/other

    Example: pygrade evaluate --data logs:runs/logs --policy runs/mine/policy --trade-offs --keep click=1.0
    --maximize order
    """

    ESSENTIAL: ClassVar = ("runs", "k", "values", "report", "trade_offs", "keep", "maximize", "save")

    runs: tuple[Path, ...] = option((), "directories of two runs, to be put side by side", positional=True)
    data: str = option("", "logs:DIR or logs:URL, e.g. logs:runs/demo/logs", unless="runs")
    policy: Place = option("", "directory of a saved policy, e.g. runs/mine/policy", unless="runs")
    k: int = option(10, "ranks that count")
    propensity: float | None = option(None, "exponent of the slots' propensity; default: estimate it from the log")
    report: Place | None = option(None, "HTML file to write: the console of these requests")
    all_estimates: bool = option(False, "show every off-policy estimate, not only the one to decide by")
    trade_offs: bool = option(False, "show the trade-offs between tasks that the policy offers")
    tasks: tuple[str, ...] = option((), "tasks whose values vary; default: the four with the highest predicted value")
    compare: tuple[str, ...] = option((), "values of tasks to compare with the policy's own: click=-3 click=-3,dwell=2")
    keep: tuple[str, ...] = option((), "events to keep, as shares of production's: click=1.0 order=1.02, or value=1.05")
    maximize: str = option("value", "task whose events to maximize, or value")
    scenario: str | None = option(None, "only requests of this scenario; the values found are its own")
    save: Place | None = option(None, "directory to write the policy to, with the values found as its own")
    plot: Place | None = option(None, "SVG file of the Pareto front")


@dataclass(frozen=True, kw_only=True)
class RankOptions(Output, LogOptions, Unproven):
    """Rank logged requests with a saved policy, and print each page with its weights and the contributions per task.

    With --run and --user instead, rank for a user with the whole system of pygrade pipeline, and print where the time
    goes, too.

    Example: pygrade rank --policy runs/demo/policy --data logs:runs/demo/logs --requests 0 7

    Example: pygrade rank --run runs/kuairand --user 7
    """

    ESSENTIAL: ClassVar = ("requests", "run", "user", "k", "explore", "seed", "log")

    policy: Place = option("", "directory of a saved policy", unless="run")
    data: str = option("", "logs:DIR or logs:URL, e.g. logs:runs/demo/logs", unless="run")
    requests: tuple[str, ...] = option((), "request ids; default: the first request of the data")
    k: int = option(10, "items a page")
    explore: bool = option(False, "serve weights drawn from the policy's Dirichlet instead of its mean")
    seed: int | None = option(None, "seed of the draws; default: from the operating system")
    log: Place | None = option(
        None, "also write pages as log rows (weights, concentration, mixture weight, policy version)"
    )
    run: Place | None = option(None, "directory of pygrade pipeline, which ranks for a user")
    user: str | None = option(None, "id or name of the user, as in the data")
    store: str | None = option(None, "address of the store; default: the one that the pipeline filled")
    candidates: int = option(500, "candidates that prerank finds for the user")
    scenario: str | None = option(None, "scenario of the user's request")
    context: dict[str, str] = option({}, "c_ columns of the user's request")
    timestamp: int | None = option(None, "time of the user's request, ms since 1970; default: now")
    repeat: int = option(20, "number of times to rank the user's page, to measure its latency", ge=1)
