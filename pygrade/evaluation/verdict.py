"""The verdict in words: what to do, for those who decide, and how it was found, for engineers.

`train` makes it once, the policy keeps it (`pygrade.policy.mixture`), and whatever shows a verdict shows that one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pygrade._typing import Array, Floats
from pygrade._util.html_table import escape
from pygrade.evaluation.abtest import MAX_EXTRAPOLATION, days_of, plan_of_events
from pygrade.evaluation.arms import (
    EQUAL,
    EXPECTED_VALUE,
    EXPECTED_VALUE_CALIBRATED,
    LOGGED_ORDER,
    PRODUCTION,
    PRODUCTION_SCORE,
    SERVED,
    STATIC,
)
from pygrade.evaluation.plan_readings import items_compete, plan_readings
from pygrade.evaluation.readings import DIFFER, ITEMS, PREDICTED, WHOLE
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.picture import draw_lifts
from pygrade.metrics.texts import Estimate, bounds_text, count_text, span_text
from pygrade.policy.mixture import Mixture

# Confidence of the two-sided bounds that decide. Simple rankings, mixtures and corrections each may be called better by
# chance, here in one log of noise in two hundred each. Bounds that are shown have 95 %.
SURE = 0.99
_WIDER = 1.3  # they are this much wider
_NO_CHANGE = 5e-4  # lift, with its bounds, below which nothing was re-ordered
_SMALL_LIFT = 0.005  # lift that more requests should find if the estimate is smaller
_DAY = 86_400_000  # ms
_SIZE = 1.959964 / 2.801585  # half width of a 95 % interval, in lifts that are found with 80 % power
_YEAR = 52  # weeks, beyond which a test is not planned
_REASONS = 3  # lines at most
_PRODUCTION = (PRODUCTION, PRODUCTION_SCORE, LOGGED_ORDER)  # names of what the shop has
NEW = "new ranking"  # in pictures
_EARNED = "what your pages earn"


@dataclass(frozen=True)
class VerdictText:
    """A verdict and its words."""

    verdict: str  # one of `pygrade.policy.mixture.VERDICTS`
    sentence: str  # for those who decide
    detail: str  # for engineers: which ranking over which, and how it was judged
    reasons: tuple[str, ...]  # what moved it, three lines at most
    lift: Interval | None  # of what is judged over the control, two-sided 95 %; None: not known
    weeks: (
        float | None
    )  # of the log's traffic that a test of whether it is better takes; None: unknown, nothing to test
    control: str = ""  # the ranking that the lift is over
    unproven: str = ""  # why what is served is not shown to be as good as production; "": it is

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """The sentence, a picture of its lift, and the reasons, for notebooks."""
        return self.html([] if self.lift is None else [(NEW, self.lift)])

    def html(self, lifts: Sequence[tuple[str, Estimate]]) -> str:
        """The sentence, a picture of lifts by name, and the reasons."""
        picture = draw_lifts(lifts, f"lift over {plain_name(self.control)}, % (95 % interval)")
        lines = map(escape, lines_of(vars(self)))
        return "<br>".join([f"<b>{escape(self.sentence)}</b>", *filter(None, [picture]), *lines])


def write_verdict(
    verdict: str,
    served: str,
    control: str,
    lift: Interval | None,
    logs: Logs,
    *,
    beside: tuple[str, Interval] | None = None,
    proof: str = "",
    claim: str = "its predictions are better",
    reasons: Sequence[str] = (),
    why: str = "",
    contrary: str = "",
    pages: str = "",
    unproven: str = "",
    requests: int | None = None,
    slots: tuple[Array, Array] | None = None,
    exposure: Array | None = None,
) -> VerdictText:
    """Put a verdict into words.

    served: the ranking that is judged, by its exact name; what the artifact ranks by if it is better. The control
    itself if nothing else is judged. lift: of it over the control, two-sided 95 %; beside: another ranking, and the
    lift over that. proof: what proves that ``claim`` holds, such as "likelihood z 7.1, by value 5.2"; the sentence
    makes the claim if the lift alone does not prove it. why: how it was judged, such as "4-fold cross-fitted by user";
    of *undecidable* and *untested*, the reason. contrary: what contradicts it, so that nothing is decided, such as "the
    last 30 % of the requests earn -2.1 % (-3.0 to -1.2)". pages: what whole pages show of what is served, for
    engineers; unproven: of `VerdictText`, as `cost_of` says it. requests: of the whole log, if ``logs`` is a sample.
    slots, exposure: [M] on the control's and the new ranking's pages, and e(slot), see `plan_readings`: the test is
    read by items; None: by whole pages.
    """
    plan = _test_plan(lift, logs, requests, slots, exposure) if verdict == "better" else None
    weeks = None if plan is None or plan.whether["days"] is None else plan.whether["days"] / 7
    if verdict == "better" and is_simple(served):
        assert lift is not None
        text = f"Rank by {plain_name(served)}: {percent(lift)} over {plain_name(control)}."
    elif verdict == "better":
        gained = _gain(lift, control, beside, claim if proof else "")
        text = f"Test the new ranking: {gained}." + ("" if plan is None else f" {plan.text(logs, requests)}")
    elif verdict == "undecided" and served == control:  # nothing else was judged
        text = f"Keep what you have: the log shows nothing that is better than {plain_name(control)}."
    elif verdict == "undecided":
        all_in_all = "" if lift is None else f"The new ranking earns {percent(lift)} over {plain_name(control)}, but "
        text = f"Keep what you have. {f'{all_in_all}{contrary}.' if contrary else _need(lift, control, logs)}"
    elif verdict == "worse":
        size = "" if lift is None else f" ({span_text(lift, None)} %)"
        text = f"Keep what you have: the new ranking is worse than {plain_name(control)}{size}."
    elif verdict == "undecidable":
        text = f"Not decidable: {_closed(why or 'the log is too small')}"
    elif verdict == "untested":
        text = f"Not tested: {_closed(why or 'nothing shows whether the new ranking is better')}"
    else:
        raise ValueError(f"verdict is {verdict!r}; expected better, undecided, worse, undecidable or untested")
    if verdict in ("better", "undecided", "worse") and not logs.slots_known:
        text += " That holds if each shown item is looked at equally: the log has no slots."
    text += f" The policy is not proven: {unproven}." if unproven else ""
    detail = _detail(verdict, served, control, lift, proof, why, pages, plan)
    is_finite = lift is not None and all(map(math.isfinite, (lift.value, lift.low, lift.high)))
    shown = lift if is_finite else None
    return VerdictText(verdict, text, detail, tuple(reasons)[:_REASONS], shown, weeks, control, unproven)


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
    return VerdictText(mixture.verdict, *words, lift, mixture.weeks, control_of(mixture), mixture.unproven)


def stored_verdict(mixture: Mixture | None) -> dict[str, Any]:
    """The fields of `verdict_of`, for records."""
    verdict = verdict_of(mixture)
    lift = None if verdict.lift is None else {name: getattr(verdict.lift, name) for name in ("value", "low", "high")}
    return vars(verdict) | {"reasons": list(verdict.reasons), "lift": lift}


def lines_of(verdict: Mapping[str, Any], later: str = "") -> list[str]:
    """The lines below a verdict's sentence: what moved it, how it was judged, and what later requests show.

    verdict: of `stored_verdict`.
    """
    detail = verdict.get("detail") and f"how it was judged: {verdict['detail']}"
    return [line for line in (*verdict.get("reasons", ()), detail, later) if line]


def control_of(mixture: Mixture | None) -> str:
    """The ranking that the policy's verdict is over, which later requests compare it with, too."""
    if mixture is None or mixture.baseline.corrected:
        return (mixture and mixture.control) or EXPECTED_VALUE
    return mixture.control or mixture.baseline.name


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
    """True for a simple baseline, which ranks all requests by one formula."""
    simple = (EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED, EQUAL, *_PRODUCTION)
    return name in simple or is_static(name)


def is_static(name: str) -> bool:
    """True for static weights, in any form."""
    return name == STATIC or name.startswith(f"{STATIC}, ")


def plain_name(name: str) -> str:
    """An arm's name in a sentence for those who decide.

    >>> plain_name("best static, z-log")
    'best static weights (z-log)'
    """
    if is_static(name):
        form = name[len(STATIC) + 2 :]
        return f"{STATIC} weights ({form})" if form else f"{STATIC} weights"
    if name in _PRODUCTION:
        return "your pages"
    return f"calibrated {EXPECTED_VALUE}" if name == EXPECTED_VALUE_CALIBRATED else name


def arm_name(name: str, served: str) -> str:
    """An arm's name in a table, in terms of the new ranking and of what the shop has; served: the arm that is served.

    >>> [arm_name(name, "0.4 stage 1 + 0.6 corrected expected value") for name in ("GRADE", "logged order", "served")]
    ['variant: GRADE', 'what you have (logged order)', 'new ranking']
    """
    if name in _PRODUCTION:
        return f"what you have ({name})"
    return plain_name(name) if is_simple(name) else "new ranking" if name in (served, SERVED) else f"variant: {name}"


def cost_of(name: str, lift: Interval) -> str:
    """A sentence on the cost of serving a ranking whose lift over production is not shown to be 0 or more.

    >>> cost_of("expected value", Interval(-0.036, 0.013, -0.062, -0.011))
    'expected value costs about 3.6 % (1.1 to 6.2) of what your pages earn'
    >>> cost_of("the new ranking", Interval(0.01, 0.02, -0.03, 0.05))
    'the new ranking may cost up to 3.0 % of what your pages earn'
    """
    name = "ranking by the weights in use" if name == PRODUCTION else plain_name(name)
    if lift.high < 0:
        return f"{name} costs about {percent(Interval(-lift.value, 0.0, -lift.high, -lift.low))[1:]} of {_EARNED}"
    return f"{name} may cost up to {-100 * lift.low:.1f} % of {_EARNED}" if lift.low < 0 else f"{name} is not judged"


def percent(lift: Interval) -> str:
    """A lift with its bounds.

    >>> percent(Interval(0.008, 0.004, 0.001, 0.015))
    '+0.8 % (0.1 to 1.5)'
    """
    return bounds_text(lift, None)


def _gain(lift: Interval | None, control: str, beside: tuple[str, Interval] | None, claim: str) -> str:
    """The gain of the new ranking, and its evidence."""
    if lift is None or not math.isfinite(lift.value):
        return claim or "it is better"
    text = f"it earns {percent(lift)} over {plain_name(control)}"
    if beside is not None and not _is_zero(beside[1]) and percent(beside[1]) != percent(lift):
        text += f", {percent(beside[1])} over {plain_name(beside[0])}"
    unsure = not min(lift.low, lift.low if beside is None else beside[1].low) > 0
    if not (claim and unsure):
        return text
    return claim if _is_zero(lift) else f"{claim}; on re-ordered pages {text}"


def _is_zero(lift: Interval) -> bool:
    """Nothing was re-ordered: of page terms alone, which a replay does not see."""
    return max(abs(lift.low), abs(lift.high)) < _NO_CHANGE


class _TestPlan(NamedTuple):
    """Plans of `plan_test` for a test that finds a lift."""

    lift: float
    estimator: str  # that tells whether the new ranking is better
    whether: Mapping[str, Any]
    size: Mapping[str, Any] | None  # of slots that differ, whose lift has no bias; None: the same, or whole pages

    def text(self, logs: Logs, requests: int | None) -> str:
        """A sentence on what a test of which length shows."""
        if self.hidden(self.whether):
            users = "" if requests not in (None, logs.num_requests) else f"{int(logs.user_number.max()) + 1:,} "
            loss = 100 * (self.whether["least_lift"] - self.lift)
            few = f"your {users}users are too few for a test of {self.estimator}"
            return f"No A/B test can show that in this shop: {few}, which at best rules out a loss of {loss:.2g} %."
        span = days_of(logs) or 0
        if self.whether["days"] is None and span < 2:
            return f"An A/B test of about {count_text(self.whether['users'])} users shows which is better."
        longest = MAX_EXTRAPOLATION * span
        text = f"An A/B test of {_span(self.whether['days'], longest)} shows which is better"
        size = f"the gain to ± {100 * _SIZE * self.lift:.1f} %"
        if self.estimator == WHOLE:
            return f"{text}."
        if self.size is None:
            return f"{text} and measures {size}; it takes that long because the items of a page may compete."
        if self.hidden(self.size):
            return f"{text}; your users are too few to measure the gain."
        return f"{text}; one of {_span(self.size['days'], longest)} measures {size}."

    def hidden(self, plan: Mapping[str, Any]) -> bool:
        """Users who return differ more, for good, than the lift."""
        return bool(self.lift <= plan["least_lift"])


def _test_plan(
    lift: Interval | None, logs: Logs, requests: int | None, slots: tuple[Array, Array] | None, exposure: Array | None
) -> _TestPlan | None:
    """The plan of a test that finds the lift in value; None: no test of this log's size can be planned."""
    if lift is None or not lift.value > 0:
        return None
    sampled = logs.num_requests / (requests or logs.num_requests)
    if slots is not None and logs.slots_known and (logs.feedback > 0).any() and not _is_zero(lift):
        plans = plan_readings(logs, *slots, lift.value, exposure=exposure, sampled=sampled)
        compete = items_compete(logs).compete
        estimator = PREDICTED if compete else ITEMS
        if plans[estimator]["users"] is not None and plans[DIFFER]["users"] is not None:
            return _TestPlan(lift.value, estimator, plans[estimator], None if compete else plans[DIFFER])
    plan = plan_of_events(logs, logs.value_of(logs.feedback), lift.value, sampled=sampled)
    return None if plan["users"] is None else _TestPlan(lift.value, WHOLE, plan, None)  # all users are worth the same


def _span(days: int | None, longest: int) -> str:
    """
    >>> _span(20, 140), _span(None, 140), _span(1, 140), _span(400, 140)
    ('3 weeks', 'more than 20 weeks', '1 day', 'more than a year')
    """
    if (days or longest) > 7 * _YEAR:
        return "more than a year"
    if days is None:
        return f"more than {longest / 7:.0f} weeks"
    return f"{days / 7:.0f} weeks" if days >= 14 else "1 day" if days == 1 else f"{days} days"


def _need(lift: Interval | None, control: str, logs: Logs) -> str:
    """The reason why nothing is decided, and the number of further requests that would decide."""
    name = plain_name(control)
    if lift is None or not math.isfinite(lift.low):
        return f"The log can't compare the new ranking with {name}."
    if not lift.high > lift.low:
        return f"The new ranking orders items like {name}."
    wanted = max(lift.value, _SMALL_LIFT)
    reach = _WIDER * (lift.high - lift.low) / 2
    more = math.ceil(logs.num_requests * max((reach / wanted) ** 2 - 1, 0.1))
    times = logs.timestamp
    days = 0.0 if times is None else more / logs.num_requests * float(times.max() - times.min()) / _DAY
    span = "" if days < 1 else f" ({days:.0f} days)" if days < 14 else f" ({days / 7:.0f} weeks)"
    span = " (more than a year)" if days > 7 * _YEAR else span
    wish, bounds = f"{count_text(more)} more requests{span} would", f"({span_text(lift, None)} %)"
    if lift.low > 0:  # at 95 %, not at what decides
        return f"The new ranking is ahead of {name} {bounds}, but of many that were tried; {wish} decide."
    return f"The log can't tell the new ranking from {name} {bounds}; {wish}."


def _detail(
    verdict: str,
    served: str,
    control: str,
    lift: Interval | None,
    proof: str,
    why: str,
    pages: str,
    plan: "_TestPlan | None",
) -> str:
    if verdict in ("undecidable", "untested"):
        return f"{served} is served"
    parts = [f"{served} over {control}" if served != control else f"{control} is served"]
    parts[0] += f", {why}" if why else ""
    parts[0] += ", two-sided 95 %" if lift is not None else ""
    parts += [text for text in (proof, pages) if text]
    if plan is not None:
        parts += [f"A/B test of {count_text(plan.whether['users'] // 2)} users per arm, by {plan.estimator}"]
    return "; ".join(parts)


def _closed(text: str) -> str:
    """The text with a full stop."""
    return text if text.endswith(".") else f"{text}."
