"""The decision about a test: go on, ship or stop, by one set of rules."""

from typing import Any, Literal, NamedTuple

from pygrade._util.serialization import to_builtins
from pygrade.evaluation.abtest import PLANNED_UNITS
from pygrade.evaluation.plan_readings import Competition, items_compete
from pygrade.evaluation.readings import DIFFER, ITEMS, PREDICTED, VALUE, Returns, TestReadings, read_pages, read_returns
from pygrade.logs import Logs
from pygrade.metrics.texts import count_text, span_text

MARGIN = 0.003  # lift above which an arm is shipped; biases of item weights at no effect are smaller
MOST_DISAGREEMENT = 3.0  # z between estimators, above which the assumptions of the upper one do not hold


class Decision(NamedTuple):
    """An action and its reason."""

    action: Literal["go on", "ship", "stop"]
    reason: str  # a sentence
    arm: str = ""  # that is shipped
    estimator: str = ""  # that decides


class DecidedTest(NamedTuple):
    """All that a log tells of its test."""

    test: TestReadings
    gate: Competition
    choice: Decision
    returns: Returns | None  # None: the log has no times

    @property
    def deciding(self) -> dict[str, str]:
        """The estimator that decides on each arm."""
        return {name: deciding_estimator(arm.disagreement, self.gate.compete) for name, arm in self.test.arms.items()}

    def to_dict(self) -> dict[str, Any]:
        returns = None if self.returns is None else to_builtins(self.returns._asdict())
        gate = self.gate.to_dict() | {"compete": self.gate.compete}
        parts = {"competition": gate, "deciding": self.deciding, "returns": returns}
        return {**self.test.to_dict(), **self.choice._asdict(), **parts}


def decide_log(
    logs: Logs, control: str | None = None, *, earlier: Logs | None = None, planned_requests: float = PLANNED_UNITS
) -> DecidedTest:
    """Read a log by all estimators, the gate of ``earlier``, else of the log itself, and decide; as `read_pages`."""
    test = read_pages(logs, control, earlier=earlier, planned_requests=planned_requests)
    gate = items_compete(logs if earlier is None else earlier)
    gains = [n for n, arm in test.arms.items() if VALUE in (of := arm.readings[ITEMS]) and of[VALUE].fixed.low > 0]
    returns = None if logs.timestamp is None else read_returns(logs, control, gains)
    return DecidedTest(test, gate, decide(test, gate.compete), returns)


def decide(test: TestReadings, compete: bool) -> Decision:
    """The decision; compete: the items of a page compete, see `items_compete`, so that whole pages alone decide: there
    a ranking that moves cheap items up reads better by slots, too, and earns nothing.

    1. A split that is not as planned, or pages that are not those of the log's slots: stop reading.
    2. For each arm, item weights decide; `DIFFER` if they disagree with an estimator below (|z| > 3); `PREDICTED` if
       `DIFFER` disagrees with it, or items compete.
    3. Ship the arm of the largest lift whose anytime-valid interval is above `MARGIN` and whose whole pages are not
       significantly below 0; stop if every arm's is below 0, or shows the same pages as the control; else go on.
    """
    if test.split.mismatch:
        return Decision("stop", f"The split is broken (p = {test.split.p_value:.2g}): do not read the test.")
    if test.agreement < 0.99:
        share = f"{100 * (1 - test.agreement):.1f} %"
        return Decision("stop", f"{share} of the items stand in other slots than their arm's: do not read the test.")
    open_arms, ready, reasons = [], [], []
    for name, arm in test.arms.items():
        if not arm.pages_differ:
            reasons.append(f"{name} and {test.control}: the two rankings show the same pages")
            continue
        estimator = deciding_estimator(arm.disagreement, compete)
        reading, whole = arm.readings[estimator].get(VALUE), arm.readings[PREDICTED].get(VALUE)
        if reading is None or whole is None:
            open_arms.append(f"{name} has no value yet")
            continue
        text = f"{name} {span_text(reading.anytime, None)} % by {estimator}"
        if reading.anytime.low > MARGIN and whole.fixed.high >= 0:
            ready.append((reading.anytime.value, name, estimator, text))
        elif reading.anytime.high < 0:
            reasons.append(f"{text}: it is worse")
        else:
            but = ", but whole pages read below 0" if reading.anytime.low > MARGIN else ""
            open_arms.append(text + but)
    if ready:
        _, name, estimator, text = max(ready)
        return Decision("ship", f"Ship {text}, at any time, over {test.control}.", name, estimator)
    if not open_arms:
        return Decision("stop", f"Keep {test.control}: {'; '.join(reasons)}.")
    left = test.planned_requests - test.requests
    span = f"{count_text(left)} requests to the plan" if left > 0 else "the planned requests are over"
    return Decision("go on", f"Undecided: {'; '.join(open_arms)}; {span}.")


def deciding_estimator(disagreement: dict[str, float], compete: bool) -> str:
    """The estimator of the most assumptions that hold.

    >>> deciding_estimator({ITEMS: 3.5, DIFFER: 0.2}, False), deciding_estimator({ITEMS: 1.0, DIFFER: 0.2}, False)
    ('slots that differ', 'item weights')
    """
    held = (
        estimator for estimator in (ITEMS, DIFFER) if not compete and abs(disagreement[estimator]) <= MOST_DISAGREEMENT
    )
    return next(held, PREDICTED)
