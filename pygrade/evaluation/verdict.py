"""The verdict in words: what to do, for those who decide, and how it was found, for engineers.

`train` makes it once, the policy keeps it (`pygrade.policy.mixture`), and whatever shows a verdict shows that one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.evaluation.abtest import users_per_arm
from pygrade.evaluation.arms import EQUAL, EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED, LOGGED_ORDER, PRODUCTION, STATIC
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import bounds_text, span_text
from pygrade.policy.mixture import Mixture

# Confidence of the two-sided bounds that decide. Simple rankings, mixtures and corrections each may be called better by
# chance, here in one log of noise in two hundred each. Bounds that are shown have 95 %.
SURE = 0.99
_WIDER = 1.3  # they are this much wider
_SMALL_LIFT = 0.005  # lift that more requests should find if the estimate is smaller
_DAY = 86_400_000  # ms
_YEAR = 52  # weeks, beyond which a test is not planned
_REASONS = 3  # lines at most


@dataclass(frozen=True)
class VerdictText:
    """A verdict and its words."""

    verdict: str  # one of `pygrade.policy.mixture.VERDICTS`
    sentence: str  # for those who decide
    detail: str  # for engineers: which ranking over which, and how it was judged
    reasons: tuple[str, ...]  # what moved it, three lines at most
    lift: Interval | None  # of what is judged over the baseline, two-sided 95 %; None: not known
    weeks: float | None  # of the log's traffic that an A/B test of the lift takes; None: not known, or nothing to test
    over: str = ""  # the ranking that the lift is over

    def __str__(self) -> str:
        return self.sentence


def write_verdict(
    verdict: str,
    served: str,
    baseline: str,
    lift: Interval | None,
    logs: Logs,
    *,
    license: str = "",
    reasons: Sequence[str] = (),
    why: str = "",
    contrary: str = "",
    requests: int | None = None,
) -> VerdictText:
    """Put a verdict into words.

    served: the ranking that is judged, by its exact name; what the artifact ranks by if it is better. The baseline
    itself if nothing else is judged. lift: of it over the baseline, two-sided 95 %.
    license: what proves its predictions better, such as "likelihood z 7.1, by value 5.2"; it is in the sentence if the
    lift alone does not prove it. why: how it was judged, such as "4-fold cross-fitted by user"; of *undecidable* and
    *untested*, the reason. contrary: how the later requests of the log say the contrary, so that nothing is decided,
    such as "the last 30 % of the requests earn -2.1 % (-3.0 to -1.2)". requests: of the whole log, if
    ``logs`` is a sample of it.
    """
    users = _test_users(lift, logs) if verdict == "better" else None
    weeks = None if users is None else _weeks(users, logs, requests)
    if verdict == "better" and is_simple(served):
        assert lift is not None
        text = f"Rank by {plain_name(served)}: {percent(lift)} over {plain_name(baseline)}"
        text += "; nothing personal beats it on this log."
    elif verdict == "better":
        text = f"Test the new ranking: {_gain(lift, baseline, license)}{_effort(users, weeks)}."
    elif verdict == "undecided":
        all_in_all = "" if lift is None else f"The new ranking earns {percent(lift)} in all, but "
        text = f"Keep what you have. {f'{all_in_all}{contrary}.' if contrary else _need(lift, baseline, logs)}"
    elif verdict == "worse":
        size = "" if lift is None else f" ({_span(lift)} %)"
        over = "" if baseline == EXPECTED_VALUE else f" than {plain_name(baseline)}"
        text = f"Keep what you have: the new ranking is worse{over}{size}."
    elif verdict == "undecidable":
        text = f"Not decidable: {_closed(why or 'the log is too small')}"
    elif verdict == "untested":
        text = f"Not tested: {_closed(why or 'nothing shows whether the new ranking is better')}"
    else:
        raise ValueError(f"verdict is {verdict!r}; want better, undecided, worse, undecidable or untested")
    if verdict in ("better", "undecided", "worse") and not logs.slots_known:
        text += " That holds if each shown item is looked at alike: the log has no slots."
    detail = _detail(verdict, served, baseline, lift, license, why, users)
    known = lift is not None and all(map(math.isfinite, (lift.value, lift.low, lift.high)))
    return VerdictText(verdict, text, detail, tuple(reasons)[:_REASONS], lift if known else None, weeks, baseline)


def verdict_of(mixture: Mixture | None) -> VerdictText:
    """The verdict that a policy keeps; *untested* of a policy without a mixture."""
    if mixture is None:
        text = "Not tested: nothing shows whether the new ranking is better."
        return VerdictText("untested", text, "", (), None, None, EXPECTED_VALUE)
    lift = None
    if mixture.lift is not None:
        value, low, high = mixture.lift
        lift = Interval(value, math.nan, low, high)  # the policy keeps the bounds alone
    words = mixture.sentence, mixture.detail, tuple(mixture.reasons)
    return VerdictText(mixture.verdict, *words, lift, mixture.weeks, judged_over(mixture))


def stored_verdict(mixture: Mixture | None) -> dict[str, Any]:
    """The fields of `verdict_of`, for records."""
    found = verdict_of(mixture)
    lift = None if found.lift is None else {name: getattr(found.lift, name) for name in ("value", "low", "high")}
    return vars(found) | {"reasons": list(found.reasons), "lift": lift}


def judged_over(mixture: Mixture | None) -> str:
    """The ranking that the policy's verdict is over, which later requests compare it with, too."""
    if mixture is None or mixture.baseline.corrected:
        return (mixture and mixture.over) or EXPECTED_VALUE
    return mixture.over or mixture.baseline.name


def strongest(worth: Mapping[str, Floats], reference: str, users: Array) -> dict[str, float]:
    """Each ranking's lower bound of its lift over the reference, 0 of the reference itself; the highest is the best.

    So another ranking takes the reference's place only if the log shows it to be better, at `SURE` for all at once.
    worth: name → value [R] of each request, NaN if unknown.
    """
    others = [name for name in worth if name != reference]
    lifts = [intervals.mean_lift(worth[name], worth[reference]) for name in others]
    bounds = intervals.simultaneous(lifts, users, confidence=SURE, by_influence=True)
    lows = {
        name: bound.low if math.isfinite(bound.low) else -math.inf for name, bound in zip(others, bounds, strict=True)
    }
    return {reference: 0.0} | lows


def is_simple(name: str) -> bool:
    """Whether an arm is a simple baseline other than expected value, which ranks all requests by one formula."""
    others = (STATIC, EQUAL, PRODUCTION, LOGGED_ORDER, EXPECTED_VALUE_CALIBRATED)
    return name in others or name.startswith(f"{STATIC}, ")


def plain_name(name: str) -> str:
    """An arm's name in a sentence for those who decide.

    >>> plain_name("best static, z-log")
    'best static weights (z-log)'
    """
    if name == STATIC or name.startswith(f"{STATIC}, "):
        form = name[len(STATIC) + 2 :]
        return f"{STATIC} weights ({form})" if form else f"{STATIC} weights"
    known = {EXPECTED_VALUE_CALIBRATED: f"calibrated {EXPECTED_VALUE}", LOGGED_ORDER: f"the {LOGGED_ORDER}"}
    return known.get(name, name)


def percent(lift: Interval) -> str:
    """A lift with its bounds.

    >>> percent(Interval(0.008, 0.004, 0.001, 0.015))
    '+0.8 % (0.1 to 1.5)'
    """
    return bounds_text(lift, _digits(lift))


def _gain(lift: Interval | None, baseline: str, license: str) -> str:
    """The gain of the new ranking, and its evidence."""
    over = "" if baseline == EXPECTED_VALUE else f" over {plain_name(baseline)}"
    if lift is None or not math.isfinite(lift.value):
        return f"its predictions are better ({license})" if license else "it is better"
    if license and not lift.low > 0:
        return f"its predictions are better ({license}); on re-ordered pages {percent(lift)}{over}"
    return f"{percent(lift)}{over}"


def _test_users(lift: Interval | None, logs: Logs) -> int | None:
    """Per arm of an A/B test that finds the lift; None: no test of this log's size can be planned."""
    if lift is None or not lift.value > 0:
        return None
    value = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
    try:
        return users_per_arm(lift.value * value.mean(), logs.user_number, value)
    except ValueError:  # all users are worth the same
        return None


def _weeks(users: int, logs: Logs, requests: int | None) -> float | None:
    """Until two arms of so many users have made the requests that they make in the log; None without timestamps."""
    days = _days(logs)
    if not days:
        return None
    judged = logs.num_requests / len(np.unique(logs.user_id)) * 2 * users
    return judged / (requests or logs.num_requests) * days / 7


def _days(logs: Logs) -> float:
    """From the first to the last request; 0 without timestamps."""
    times = logs.timestamp
    return 0.0 if times is None else float(times.max() - times.min()) / _DAY


def _effort(users: int | None, weeks: float | None) -> str:
    """The effort of a test, after the lift that it is to find."""
    if users is None:
        return ""
    return f"; about {_rounded(2 * users)} users" if weeks is None else f"; {_traffic(weeks)}"


def _traffic(weeks: float) -> str:
    """Weeks in words.

    >>> _traffic(2.8)
    'about 3 weeks of your traffic'
    """
    if weeks > _YEAR:
        return "more than a year of your traffic"
    return f"about {round(weeks)} weeks of your traffic" if weeks >= 1.5 else "about a week of your traffic"


def _need(lift: Interval | None, baseline: str, logs: Logs) -> str:
    """Why nothing is decided, and how many more requests would decide it."""
    name = plain_name(baseline)
    if lift is None or not math.isfinite(lift.low):
        return f"The log can't compare the new ranking with {name}."
    wanted = max(lift.value, _SMALL_LIFT)
    reach = _WIDER * (lift.high - lift.low) / 2
    more = math.ceil(logs.num_requests * max((reach / wanted) ** 2 - 1, 0.1))
    days = more / logs.num_requests * _days(logs)
    span = "" if days < 1 else f" ({days:.0f} days)" if days < 14 else f" ({days / 7:.0f} weeks)"
    span = " (more than a year)" if days > 7 * _YEAR else span
    wish = f"{_rounded(more)} more requests{span} would"
    if lift.low > 0:  # at 95 %, not at what decides
        return f"The new ranking is ahead of {name} ({_span(lift)} %), but of many that were tried; {wish} decide."
    return f"The log can't tell the new ranking from {name} ({_span(lift)} %); {wish}."


def _detail(
    verdict: str, served: str, baseline: str, lift: Interval | None, license: str, why: str, users: int | None
) -> str:
    if verdict in ("undecidable", "untested"):
        return f"{served} is served"
    parts = [f"{served} over {baseline}" if served != baseline else f"{baseline} is served"]
    parts[0] += f", {why}" if why else ""
    parts[0] += ", two-sided 95 %" if lift is not None else ""
    proved = lift is not None and lift.low > 0
    parts += [license] if license and proved else []  # else the sentence has it
    parts += [f"A/B test of {_rounded(users)} users per arm"] if users is not None else []
    return "; ".join(parts)


def _closed(text: str) -> str:
    """With a full stop."""
    return text if text.endswith(".") else f"{text}."


def _rounded(count: float) -> str:
    """Two significant digits."""
    return f"{float(f'{count:.2g}'):,.0f}"


def _span(lift: Interval) -> str:
    """The bounds of a lift in percent.

    >>> _span(Interval(0.008, 0.004, 0.0003, 0.0157))
    '0.03 to 1.57'
    """
    return span_text(lift, _digits(lift))


def _digits(lift: Interval) -> int:
    """Decimals of a percentage, of which there are more if a bound would be rounded to 0 and so lose its sign."""
    near = any(0 < abs(100 * bound) < 0.05 for bound in (lift.low, lift.high))
    return 2 if near else 1
