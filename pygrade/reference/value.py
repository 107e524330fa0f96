"""Reference of what a page is worth: the rule of `pygrade.evaluation.value`, row by row."""

import math
from collections.abc import Sequence


def page_value(
    values: Sequence[float],
    slots: Sequence[int],
    order: Sequence[int],
    k: int,
    propensity: Sequence[float] | None = None,
    floor: float = 0.15,
    factors: Sequence[float] | None = None,
) -> float:
    """Σ_{r<k} D(r) · v_j / max(q(slot_j) f_j, floor) with j the row at rank r.

    values v: what a row's events are worth, 0 where it was not shown; slots: 0-based, -1 where it was not shown;
    order: rows, best first. propensity q: of the first slots, the last one for all further slots; None: 1 everywhere.
    factors f: what the events above a row tell of its examination; None: 1 everywhere.
    D(r) is q(r) if q is not the same for all of the first k slots, else 1 / log2(r + 2).
    """
    table = [1.0] if propensity is None else list(propensity)

    def q(slot: int) -> float:
        return table[min(slot, len(table) - 1)]

    falls = any(q(r) != q(0) for r in range(k))
    total = 0.0
    for rank, row in enumerate(order[:k]):
        attention = q(rank) if falls else 1.0 / math.log2(rank + 2.0)
        looks = q(slots[row]) * (1.0 if factors is None else factors[row])
        total += attention * (values[row] / max(looks, floor) if slots[row] >= 0 else 0.0)
    return total
