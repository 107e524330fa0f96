"""The plan of the first log: how many pages to shuffle until train can decide, and what that costs.

`train` decides once the slots' propensities are known and the log is large enough to learn from. On shuffled pages the
exponent's standard error is 1 / √(events · Var(log slot)), the variance weighted by the examination of the slots
(`propensity.events_for`). A shuffled page shows the items of the page in a random order, so that it loses at most
1 - mean θ of its value, θ the examination of each slot relative to the first: all of its value in the first item.
"""

import math
from collections.abc import Mapping
from typing import Any

from pygrade.doctor.exploration import SHARES
from pygrade.training.propensity import ASSUMED, TARGET, events_for, propensity_curve

ENOUGH_REQUESTS = 5_000  # with all candidates, below which a policy learns little beyond the predictions
FULL_A_DAY = 20_000  # requests with all candidates that are as good as more: train judges by as many
DAYS = 14  # in which the exploration is to have answered
USUAL = 0.02  # share of shuffled pages where nothing is known of traffic and rates
_Z = 1.96


def plan_first_log(
    k: int, requests_a_day: float | None = None, rates: Mapping[str, float] | None = None, shuffle: float | None = None
) -> dict[str, Any]:
    """The plan for pages of k items: shares to shuffle and to log with all candidates, and by share what it takes.

    rates: events per shown item, of a task; the most frequent task counts, as one item may have several events. Days
    and pages are None where a number is missing.
    """
    events = math.ceil(events_for(TARGET / _Z, k))
    pages = math.ceil(events / (k * max(rates.values()))) if rates else None
    full = 1.0 if requests_a_day is None else min(1.0, float(f"{FULL_A_DAY / requests_a_day:.2g}"))
    loss = 1 - float(propensity_curve(ASSUMED, k).mean())

    def row(share: float) -> dict[str, Any]:
        daily = None if requests_a_day is None else requests_a_day * share * full
        days = None if daily is None or pages is None or requests_a_day is None else pages / daily
        least = None if requests_a_day is None else ENOUGH_REQUESTS / (requests_a_day * full)
        decided = None if days is None or least is None else math.ceil(max(days, least))
        return {"share": share, "pages_a_day": daily, "days": decided, "cost": share * loss}

    shares = sorted({*SHARES, *([] if shuffle is None else [shuffle])})
    rows = [row(share) for share in shares]
    soon = [option["share"] for option in rows if option["days"] is not None and option["days"] <= DAYS]
    if shuffle is None:
        shuffle = USUAL if rows[0]["days"] is None else min(soon, default=SHARES[-1])
    chosen = next(option for option in rows if option["share"] == shuffle)
    plan = {"k": k, "exponent": ASSUMED, "target": TARGET, "events": events, "pages": pages, "full": full}
    return plan | {"shuffle": shuffle, "chosen": chosen, "rows": rows}


def plan_sentence(plan: Mapping[str, Any]) -> str:
    """The plan in a sentence, for those who decide."""
    chosen = plan["chosen"]
    daily = "" if chosen["pages_a_day"] is None else f", {chosen['pages_a_day']:,.0f} a day that are logged in full,"
    text = (
        f"Shuffle {100 * plan['shuffle']:g} % of the pages{daily} at {100 * chosen['cost']:.2g} % of the value at most"
    )
    if chosen["days"] is not None:
        return f"{text}: in about {_days(chosen['days'])} train can decide."
    needed = f"{plan['events']:,} events on shuffled pages"
    if plan["pages"] is not None:
        needed = f"{plan['pages']:,} shuffled pages"
    return f"{text}: train can decide after {needed} and {ENOUGH_REQUESTS:,} requests in all."


def plan_rows(plan: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the plan's table."""
    rows: list[tuple[str, ...]] = [
        (
            f"{100 * row['share']:g} %",
            "n/a" if row["pages_a_day"] is None else f"{row['pages_a_day']:,.0f}",
            f"≤ {100 * row['cost']:.2g} %",
            "n/a" if row["days"] is None else f"{row['days']:,}",
        )
        for row in plan["rows"]
    ]
    return ("shuffled", "pages a day", "costs", "days until train can decide"), rows


def plan_text(plan: Mapping[str, Any]) -> str:
    """The assumptions of the plan."""
    slots = f"slots examined as (slot + 1)^-{plan['exponent']:g}, assumed"
    return (
        f"Shuffled pages count where they are logged with all candidates ({100 * plan['full']:g} % of the requests). "
        f"{plan['events']:,} events on them fix the slots' exponent to ± {plan['target']:g}, and {ENOUGH_REQUESTS:,} "
        f"requests are enough to learn from; {slots}. Cost: if all of a page's value were in its first item."
    )


def _days(count: int) -> str:
    return "a day" if count == 1 else f"{count:,} days"
