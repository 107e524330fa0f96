"""Options of the commands for experiments over weeks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pygrade.config.option import option, required
from pygrade.config.shared import JudgeOptions, LogOptions, Output


@dataclass(frozen=True, kw_only=True)
class LongtermPlanOptions(Output, LogOptions, JudgeOptions):
    """Plan an experiment that keeps each user at one setting of the tasks' values for four weeks: the settings that
    logged pages allow, the users that a gain needs, what the experiment costs; and of a running one the next cohort.

    A setting shifts values: click=-5 makes a click that is worth 1 cost 4. Its pages are those of the policy at the
    shifted values, on requests that the policy was not trained on; events are counted as pygrade front counts them.

    Example: pygrade longterm-plan --data logs:runs/logs --policy runs/mine/policy --settings click=-5:2:15
    --past past_users.csv --out plan.json
    """

    ESSENTIAL: ClassVar = ("data", "policy", "settings", "guard", "past", "gain", "cohort", "out")

    settings: tuple[str, ...] = required(
        "TASK=FROM:TO:COUNT of the shifts of one task's value, or of two, whose grid is drawn; a shift of 0, the base, "
        "is added"
    )
    guard: float = option(0.02, "what a page's immediate value may lose, as a share", ge=0, lt=1)
    past: Path | None = option(
        None, "table of past users with money_28, before_money, before_visits: how money varies, for the users needed"
    )
    gain: float = option(0.02, "gain of 28-day money that the experiment should find", gt=0)
    power: float = option(0.8, "chance to find it", gt=0.05, lt=1)
    margin: float = option(0.001, "what the lower bound of the gain must exceed, as a share of money", ge=0)
    share: float = option(1.0, "of all users who are enrolled, for the cost", gt=0, le=1)
    cohort: Path | None = option(
        None, "table of the cohorts so far: the next one's shares by Thompson sampling from return and logged pages"
    )
    experiment: str | None = option(None, "of several in the table, the one that runs")
    seed: int = option(0, "of the draws of Thompson sampling", ge=0)
    out: Path | None = option(None, "JSON file to write: the plan, which the service and longterm-read take")


@dataclass(frozen=True, kw_only=True)
class LongtermReadOptions(Output):
    """Read an experiment that kept each user at one setting of the tasks' values for four weeks: one sentence, which
    setting to serve or why none.

    Checks come first: shares as planned, equal users before, nobody moved. 28-day money, less what the 28 days before
    predict (CUPED), gives a mean per setting; a Gaussian process over the settings, simultaneous 95 % lower bounds of
    the differences to the base. The highest bound within the guard is chosen, if it exceeds the margin. Beside it
    stands the index of return and logged pages, which orders settings early and is never the claim.

    Example: pygrade longterm-read users.parquet --plan plan.json --report experiment.html
    """

    ESSENTIAL: ClassVar = ("users", "plan", "finished", "report")

    users: Path = required(
        "table with a row per user, .csv or .parquet: user_id, shift_TASK, money_28, visits_4 … visits_28, "
        "before_money, before_visits, and if there are enrolled, segment, experiment",
        positional=True,
    )
    plan: tuple[Path, ...] = option((), "files of longterm-plan: one, or one for each cohort; none: equal shares")
    experiment: str | None = option(None, "of several in the table, the one to read")
    finished: tuple[Path, ...] = option(
        (), "--json of longterm-read for finished experiments, which validate the index"
    )
    margin: float = option(0.001, "what the lower bound of the gain must exceed, as a share of money", ge=0)
    gain: float = option(0.02, "if no setting is better: the gain whose chance to have been seen is said", gt=0)
    report: Path | None = option(None, "HTML file to write")
