"""Options of the commands for an A/B test of your own."""

from dataclasses import dataclass
from pathlib import Path

from pygrade.config.option import Place, option
from pygrade.config.shared import LogOptions, Output


@dataclass(frozen=True, kw_only=True)
class TestPlanOptions(Output, LogOptions):
    """Users and days that an A/B test of your own needs, from the variance by user of each metric in your log.

    Of a log with slots of several arms, a plan for each estimator follows: requests and days for the effect in value.

    Metrics are per request: the value of its events, and the events of each task. Users are split evenly over the arms.
    CUPED subtracts what a user's earlier requests predict; the variance that it saves is measured on the log: its
    first half predicts its second.

    Example: pygrade test plan --data logs:runs/logs --effect 0.01
    """

    effect: float = option(0.01, "relative lift that the test should find", gt=0)
    power: float = option(0.8, "chance to find it", gt=0.05, lt=1)
    arms: int = option(2, "the control among them; alpha of 5 % is divided among the lifts over it", ge=2)


@dataclass(frozen=True, kw_only=True)
class TestReadOptions(Output):
    """Read an A/B test: whether its users were split as planned, then lifts over the control, with intervals by user.

    A log that holds each row's slot on every arm's page (slot_<arm>, as a service with a test writes it, or two columns
    of scores) is read by all estimators, from whole pages to item weights, with a decision: go on, ship or stop.

    Tables by user: of a sample-ratio mismatch there are no lifts; --counts asks for it alone. CUPED (earlier values of
    the same users) narrows the intervals where the tables have columns before_<column>, or --before names a table.
    Intervals are corrected for the number of lifts by max-t (Dunnett's comparison of several arms with one control,
    over all metrics), so name the metrics that decide.

    Example: pygrade test read runs/served --control old

    Example: pygrade test read --arms control=a.csv new=b.csv --metrics value ctr=clicks/views

    Example: pygrade test read --counts 5000 5400
    """

    log: Place | None = option(None, "log of the test's pages, with arm and slot_<arm>", positional=True)
    control: str | None = option(None, "arm of the log that the others are compared with; default: the first")
    scores: tuple[str, ...] = option(
        (),
        "ARM=COLUMN of each arm, control first, where the log has scores in place of slots: i_<item> columns or "
        "production_score, the higher the better",
    )
    training: Place | None = option(
        None, "log from before the test, for CUPED and item competition; default: the test's log"
    )
    arms: tuple[str, ...] = option(
        (), "NAME=FILE of each arm, control first: .csv or .parquet, user_id and a row per user"
    )
    counts: tuple[int, ...] = option((), "users of each arm, without tables: only their split is read")
    metrics: tuple[str, ...] = option(
        (), "COLUMN (mean per user) or NAME=COLUMN/COLUMN (ratio of sums); default: every one"
    )
    before: Path | None = option(None, "table of the users with the same columns from before the test")
    shares: tuple[float, ...] | None = option(None, "planned share of each arm, on any scale; default: equal")
    planned_users: int | None = option(
        None, "show intervals that hold at any time, narrowest at this number; of a log requests, 10,000", ge=1
    )
