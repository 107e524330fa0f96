"""What must hold before an experiment over weeks is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pygrade._typing import Array
from pygrade.config.user_table import BEFORE_MONEY, BEFORE_VISITS
from pygrade.evaluation.abtest import MISMATCH_ALPHA, chi_square_tail, sample_ratio
from pygrade.longterm.outcomes import FEWEST
from pygrade.longterm.user_table import ExperimentTable

MOST_MOVED = 0.01  # share of the users who may have been at several settings, or served another than theirs


def check(table: ExperimentTable, shares: Sequence[Array]) -> dict[str, Any]:
    """The checks by name, and ``problems``: sentences, none if the table may be read. shares [K] of each cohort."""
    problems = []
    ratios = [_ratio(table, cohort, share) for cohort, share in enumerate(shares)]
    if any(ratio["mismatch"] for ratio in ratios):
        problems.append("the users are not split over the settings as planned")
    before = {name: _before(table, name) for name in (BEFORE_MONEY, BEFORE_VISITS)}
    before["history"] = _equal(table, (~np.isnan(table.amounts[BEFORE_MONEY])).astype(float))
    if differing := [name for name, p in before.items() if p is not None and p < MISMATCH_ALPHA]:
        problems.append(f"users of different settings differed before the experiment ({', '.join(differing)})")
    moved = table.moved / table.users
    if moved > MOST_MOVED:
        problems.append(f"{100 * moved:.1f} % of the users changed their setting")
    if table.served_otherwise > MOST_MOVED:
        problems.append(f"{100 * table.served_otherwise:.1f} % of the users were served another setting than theirs")
    return {
        "sample_ratio": ratios,
        "before": before,
        "moved": table.moved,
        "served_otherwise": table.served_otherwise,
        "problems": problems,
    }


def _ratio(table: ExperimentTable, cohort: int, share: Array) -> dict[str, Any]:
    counts = np.bincount(table.setting[table.cohort == cohort], minlength=len(share))
    drawn = share > 0
    if drawn.sum() < 2 or counts[~drawn].any():
        return {"p_value": 0.0 if counts[~drawn].any() else None, "mismatch": bool(counts[~drawn].any())}
    ratio = sample_ratio(counts[drawn].tolist(), share[drawn].tolist())
    return {"p_value": ratio.p_value, "mismatch": ratio.mismatch}


def _before(table: ExperimentTable, name: str) -> float | None:
    return _equal(table, table.amounts[name])


def _equal(table: ExperimentTable, values: Array) -> float | None:
    """The p-value of equal means over the settings of each cohort (Welch's χ²); None: nothing to compare.

    Σ (mean - weighted mean)² / error², with the settings less one per cohort as degrees of freedom.
    """
    known = np.flatnonzero(~np.isnan(values))
    count = len(table.points)
    cell = table.cohort[known] * count + table.setting[known]
    users = np.bincount(cell)
    if not len(users):
        return None
    mean = np.bincount(cell, values[known]) / np.maximum(users, 1)
    spread = np.bincount(cell, np.square(values[known] - mean[cell]))
    used = np.flatnonzero((users >= FEWEST) & (spread > 0))
    weight = users[used] * (users[used] - 1.0) / spread[used]
    cohort = used // count
    total = np.bincount(cohort, weight)
    center = np.bincount(cohort, weight * mean[used]) / np.where(total > 0, total, 1.0)
    degrees = len(used) - int((total > 0).sum())
    if degrees < 1:
        return None
    return chi_square_tail(float((weight * np.square(mean[used] - center[cohort])).sum()), degrees)
