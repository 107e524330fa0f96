"""Estimates with their intervals as text, in one form for tables, pages and sentences.

An estimate is an `Interval`, or its record with ``value``, ``low`` and ``high``. NaN, infinity and None are alike: such
a value is ``n/a``, and with such a bound the interval is left out.
"""

import math
from collections.abc import Mapping
from typing import Any

from pygrade.metrics.intervals import Interval

Estimate = Interval | Mapping[str, Any]
TOO_FEW = "too few"
_WIDE = 0.5  # of the interval of a share, from which on it says nothing


def lift_text(estimate: Estimate | None, digits: int = 2, scale: float = 100.0) -> str:
    """``+1.20 ± 0.30 %`` of a lift; ``baseline`` of None, which has no lift of its own.

    >>> lift_text({"value": 0.012, "low": 0.009, "high": 0.015})
    '+1.20 ± 0.30 %'
    """
    if estimate is None:
        return "baseline"
    value, low, high = known_numbers(estimate)
    if value is None:
        return "n/a"
    reach = "" if low is None or high is None else f" ± {scale * (high - low) / 2:.{digits}f}"
    return f"{scale * value:+.{digits}f}{reach} %"


def bounds_text(estimate: Estimate, digits: int | None = 2) -> str:
    """``+1.20 % (0.90 to 1.50)`` of a lift, whose interval need not be symmetric.

    digits: decimals, None: one, but two if a bound would be rounded to 0 and so lose its sign.

    >>> bounds_text({"value": 0.012, "low": 0.009, "high": 0.015})
    '+1.20 % (0.90 to 1.50)'
    """
    span, shown = span_text(estimate, digits, missing=""), _decimals(estimate) if digits is None else digits
    return lift_text({"value": known_numbers(estimate)[0]}, shown) + (f" ({span})" if span else "")


def span_text(estimate: Estimate, digits: int | None = 2, missing: str = "unknown") -> str:
    """``0.90 to 1.50``, the bounds of a lift in percent; digits: of `bounds_text`.

    >>> span_text({"value": 0.008, "low": 0.0003, "high": 0.0157}, None)
    '0.03 to 1.57'
    """
    value, low, high = known_numbers(estimate)
    if value is None or low is None or high is None:
        return missing
    shown = _decimals(estimate) if digits is None else digits
    return f"{100 * low:.{shown}f} to {100 * high:.{shown}f}"


def _decimals(estimate: Estimate) -> int:
    return 2 if any(0 < abs(100 * (bound or 0.0)) < 0.05 for bound in known_numbers(estimate)[1:]) else 1


def rate_text(mean: float, amount: bool = False) -> str:
    """A rate of events in per cent; of amounts, which may be more than 1, their mean.

    >>> rate_text(0.0302), rate_text(0.5, amount=True), rate_text(16.2293)
    ('3.02%', '0.5', '16.23')
    """
    return f"{mean:.4g}" if amount or mean > 1 else f"{mean:.2%}"


def count_text(count: float) -> str:
    """A large number to two significant digits.

    >>> count_text(12345)
    '12,000'
    """
    return f"{float(f'{count:.2g}'):,.0f}"


def value_text(estimate: Estimate, digits: int | None = None) -> str:
    """``0.7123 ± 0.0045``; digits: decimals, None: four, and fewer of numbers from 10 on.

    >>> value_text({"value": 123.456, "low": 120.456, "high": 126.456})
    '123.46 ± 3.00'
    """
    value, low, high = known_numbers(estimate)
    if value is None:
        return "n/a"
    if digits is None:
        digits = max(0, 4 - max(0, math.floor(math.log10(abs(value) or 1.0))))
    reach = "" if low is None or high is None else f" ± {(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{reach}"


def positive_text(estimate: Estimate) -> str:
    """`value_text` of a number that cannot be below 0, or that there is too little data for one."""
    value, low, _ = known_numbers(estimate)
    return TOO_FEW if value is not None and low is not None and low < 0 < value else value_text(estimate)


def share_text(estimate: Estimate, digits: int | None = None) -> str:
    """`value_text` of a number from 0 to 1 such as an AUC, or that there is too little data for one."""
    _, low, high = known_numbers(estimate)
    wide = low is not None and high is not None and high - low > _WIDE
    return TOO_FEW if wide else value_text(estimate, digits)


def known_numbers(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    """Value and bounds; None for what is not finite."""
    given = estimate.to_dict() if isinstance(estimate, Interval) else estimate
    value, low, high = (
        number if number is not None and math.isfinite(number) else None
        for number in (given.get(name) for name in ("value", "low", "high"))
    )
    return value, low, high
