"""A service with a planted effect: the rows behind every raw table, with what its model misses."""

import numpy as np
import polars as pl

START = 1_772_323_200_000  # 2026-03-01 in UTC, milliseconds
DAYS = 14
EXPONENT = 0.6  # slot s is looked at with probability (s + 1) ** -EXPONENT
KINDS = ("basics", "outdoor", "sale", "toys")
RATES = {"click": -1.6, "order": -4.2}


def make_rows(requests, seed, effect="user", tasks=RATES, worth=(1.0, 0.5), slots=8, given=False, priced=True,
              shared=False):  # fmt: skip
    """Rows [M] of simulated requests, by time: ids, slot (null: not shown), attributes, ``p_``, ``true_``, ``y_``.

    The last task happens more or less often than ``p_`` predicts: ``effect`` "user": 8 times as often for members as
    for others; "item": a quarter as often for items of the kind *sale*; "hour": 6 times as often in the evening; where,
    is in ``affected``. ``worth`` is that of an event, of the last task times the price if ``priced``. ``given``: it
    presumes an event of the first, with probability ``conditional`` then. ``shared``: one prediction for all tasks.
    """
    rng = np.random.default_rng([seed, requests])
    users, items = requests // 5, 400
    user = rng.integers(0, users, requests)
    at = np.sort(rng.integers(0, DAYS * 86_400, requests)) * 1000 + START
    length = rng.integers(10, 18, requests)
    starts = np.cumsum(length) - length
    row = np.repeat(np.arange(requests), length)
    # An odd step visits every item once before it repeats.
    item = (rng.integers(0, items, requests)[row] + (np.arange(len(row)) - starts[row]) * 7) % items
    kind, price = rng.integers(0, len(KINDS), items), np.round(np.exp(rng.normal(3.0, 0.4, items)), 2)
    member, device = rng.random(users) < 0.45, rng.choice(["phone", "desktop", "tablet"], requests, p=[0.5, 0.4, 0.1])
    evening = (at // 3_600_000) % 24 >= 18

    taste, noise = rng.normal(0, 0.4, requests)[row], rng.normal(size=(len(tasks), len(row)))
    noise[1:] = 1.6 * noise[0] if shared else noise[1:]
    chance = {
        task: np.round(1 / (1 + np.exp(-(rate + taste + noise[place] - 0.6 * noise[0] * (place > 0)))), 6)
        for place, (task, rate) in enumerate(tasks.items())
    }
    last, first = list(tasks)[-1], next(iter(tasks))
    affected, more, less = {
        "user": (member[user][row], 1.93, 0.24),
        "item": (np.array(KINDS)[kind[item]] == "sale", 0.25, 1.0),
        "hour": (evening[row], 2.7, 0.45),
    }[effect]
    factor = np.where(affected, more, less)
    truth = {task: values.copy() for task, values in chance.items()}
    truth[last] = np.minimum(truth[last] * factor, 0.95)
    conditional = chance[last]
    if given:
        chance[last], truth[last] = chance[last] * chance[first], truth[last] * truth[first]

    production = sum(np.log(values) for values in chance.values()) + rng.normal(0, 0.5, len(row))
    slot = rank(production, row)
    shuffled = rng.random(requests) < 0.06
    shown = slot < slots
    drawn = np.lexsort((rng.random(len(row)), ~shown, row))  # the items of a shuffled page in another order
    shuffled_slot = np.empty_like(slot)
    shuffled_slot[drawn] = np.arange(len(row)) - starts[row]
    slot = np.where(shuffled[row], shuffled_slot, slot)
    seen = shown & (rng.random(len(row)) < (slot + 1.0) ** -EXPONENT)
    events = {task: seen & (rng.random(len(row)) < truth[task]) for task in tasks}
    if given:
        events[last] = events[first] & (rng.random(len(row)) < truth[last] / truth[first])

    values = [*worth[:-1], worth[-1] * (price[item] if priced else 1.0)]
    columns = {
        "request": row, "user": user[row], "item": item, "slot": np.where(shown, slot, -1), "time": at[row],
        "price": price[item], "kind": np.array(KINDS)[kind[item]], "member": member[user][row],
        "device": device[row], "evening": evening[row], "shuffled": shuffled[row], "affected": affected,
        "production": np.round(production, 5), "conditional": conditional,
        "expected_value": sum(value * chance[task] for value, task in zip(values, tasks, strict=True)),
        "true_value": sum(value * truth[task] for value, task in zip(values, tasks, strict=True)),
    }  # fmt: skip
    columns |= {f"p_{task}": chance[task] for task in tasks} | {f"true_{task}": truth[task] for task in tasks}
    columns |= {f"y_{task}": events[task].astype(float) for task in tasks}
    masked = [pl.when(pl.col("slot") >= 0).then(pl.col(name)).alias(name) for name in columns if name[:2] == "y_"]
    shown_slot = pl.when(pl.col("slot") >= 0).then("slot").alias("slot")
    return pl.DataFrame(columns).with_columns(*masked, shown_slot)


def rank(score, request):
    """Places [M] of the rows in their request, the highest ``score`` first."""
    order = np.lexsort((-score, request))
    place = np.empty(len(order), dtype=np.int64)
    first = np.concatenate([[True], np.diff(request[order]) != 0])
    place[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    return place


def true_gain(rows, score):
    """Per cent of true value that pages sorted by ``score`` [M] earn over those sorted by expected value."""
    slots = rows["slot"].max() + 1
    request = rows["request"].rank("dense").to_numpy().astype(np.int64)

    def earned(values):
        place = rank(values, request)
        looked_at = np.where(place < slots, (place + 1.0) ** -EXPONENT, 0.0)
        return float(np.sum(looked_at * rows["true_value"].to_numpy()))

    return 100 * (earned(np.asarray(score)) / earned(rows["expected_value"].to_numpy()) - 1)
