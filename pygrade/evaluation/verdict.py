"""One sentence per training and evaluation: is a ranking better than the strongest simple baseline?"""

import math
from collections.abc import Mapping

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.evaluation.abtest import users_per_arm
from pygrade.logs import Logs, numbered
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

_SMALL_LIFT = 0.005  # lift that more requests should find if the estimate is smaller
_DAY = 86_400_000  # ms


def strongest(worth: Mapping[str, Floats], reference: str, users: Array) -> dict[str, float]:
    """Each ranking's lower bound of its lift over the reference, 0 of the reference itself; the highest is the best.

    So another ranking takes the reference's place only if the log shows it to be better. worth: name → value [R] of
    each request, NaN if unknown.
    """
    others = [name for name in worth if name != reference]
    lifts = [intervals.mean_lift(worth[name], worth[reference]) for name in others]
    bounds = intervals.simultaneous(lifts, users, one_sided=True)
    lows = {
        name: bound.low if math.isfinite(bound.low) else -math.inf for name, bound in zip(others, bounds, strict=True)
    }
    return {reference: 0.0} | lows


def verdict_of(lift: Interval) -> str:
    """better, worse or undecided."""
    return "better" if lift.low > 0 else "worse" if lift.high < 0 else "undecided"


def sentence(name: str, baseline: str, lift: Interval, logs: Logs, served: str) -> str:
    """The verdict in words; served: what is, or should be, served unless the ranking is better."""
    size = percent(lift)
    match verdict_of(lift):
        case "better":
            value = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
            need = users_per_arm(lift.value * value.mean(), numbered(logs.user_id), value)
            test = f"ship it to an A/B test of {_rounded(need)} users per arm"
            return f"{name} is better than {baseline} by {size} on this log: {test}"
        case "worse":
            return f"{name} is worse than {baseline} ({size}): {served}"
    if not math.isfinite(lift.low):
        return f"{name} can't be compared with {baseline} on this log: {served}"
    wanted = max(lift.value, _SMALL_LIFT)
    reach = (lift.high - lift.low) / 2
    more = math.ceil(logs.num_requests * max((reach / wanted) ** 2 - 1, 0.1))
    times = logs.timestamp
    days = 0.0 if times is None else more / logs.num_requests * float(times.max() - times.min()) / _DAY
    span = f" ({days:,.0f} days of such traffic)" if days >= 1 else ""
    need = f"{_rounded(more)} more requests{span} would decide a lift of {100 * wanted:.1f} %"
    return f"{name} is not distinguishable from {baseline} ({size}): {served}; {need}"


def _rounded(count: float) -> str:
    """Two significant digits."""
    return f"{float(f'{count:.2g}'):,.0f}"


def percent(lift: Interval) -> str:
    """``+1.5 ± 0.4 %``."""
    return f"{100 * lift.value:+.1f} ± {50 * (lift.high - lift.low):.1f} %"
