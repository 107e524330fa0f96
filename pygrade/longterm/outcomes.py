"""Means of an outcome by setting: CUPED with slopes within settings, and the outcome that return makes."""

from collections.abc import Sequence

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.config.user_table import BEFORE_MONEY, BEFORE_VISITS, visits
from pygrade.evaluation.abtest import cuped
from pygrade.longterm.surface import Observations
from pygrade.longterm.user_table import HORIZON, ExperimentTable

FEWEST = 30  # users of a cell, from which its error is estimated
AGES = (28, 14, 7)  # days after the enrollment at which return is read
_SHRINK = 5.0  # visits of the mean that a user's own worth of a visit is shrunk by


def history_of(money: Array, came: Array) -> Floats:
    """CUPED's covariates [U, 3] from before the enrollment: money, visits, and whether the user was there (not NaN)."""
    known = ~(np.isnan(money) | np.isnan(came))
    return np.stack([np.where(known, money, 0.0), np.where(known, came, 0.0), known.astype(np.float64)], 1)


def history(table: ExperimentTable) -> Floats:
    """`history_of` an experiment's users."""
    return history_of(table.amounts[BEFORE_MONEY], table.amounts[BEFORE_VISITS])


def observe(table: ExperimentTable, outcome: Array, segments: bool = False, adjust: bool = True) -> Observations:
    """Means of an outcome [U] by setting within cohort (and segment), relative to their stratum's mean.

    Users whose outcome is NaN are left out. adjust: less what the user's time before predicts; the slopes are those
    within settings.
    """
    known = np.flatnonzero(~np.isnan(outcome))
    part = table.segment[known] if segments else np.zeros(len(known), np.int64)
    parts, count = int(part.max()) + 1 if segments else 1, len(table.points)
    stratum = table.cohort[known] * parts + part
    cell = stratum * count + table.setting[known]
    values = outcome[known].astype(np.float64)
    if adjust:
        predicted = cuped(values, history(table)[known], cell)[0]
        values = values - predicted + predicted.mean()
    strata = int(stratum.max()) + 1
    users = np.bincount(cell, minlength=strata * count)
    mean = np.bincount(cell, values, len(users)) / np.maximum(users, 1)
    spread = np.bincount(cell, np.square(values - mean[cell]), len(users))
    used = np.flatnonzero((users >= FEWEST) & (spread > 0))
    level = np.bincount(stratum, values, strata) / np.maximum(np.bincount(stratum, minlength=strata), 1)
    if not len(used) or not bool((level[used // count] > 0).all()):
        raise ValueError(
            f"the outcome has means {np.round(level, 3).tolist()}; want them above 0, and {FEWEST} users who differ at "
            "some setting"
        )
    relative = level[used // count]
    error = np.sqrt(spread[used] / (users[used] - 1.0) / users[used])
    return Observations(used % count, used // count, used // count % parts, mean[used] / relative - 1, error / relative)


def return_outcome(table: ExperimentTable, wanted: Sequence[int] = AGES) -> tuple[Floats, list[int]]:
    """What return is worth in `HORIZON` days [U], and the age in days at which each cohort is read: the
    first of those wanted at which its visits are known of all users (0: none).

    Visits times what a visit of this user was worth before: (money + 5 w) / (visits + 5), with w the mean worth of a
    visit. That is fixed before the experiment and has none of the noise of orders; what a page under the setting is
    worth at once is not in it, and comes from logged pages. At 14 days visits count twice; at 7 those of the last three
    days stand for the 21 days to come.
    """
    before = history(table)
    total = before[:, :2].sum(0)
    worth = total[0] / total[1] if total[1] > 0 else 1.0
    each = (before[:, 0] + _SHRINK * worth) / (before[:, 1] + _SHRINK)
    came = np.full(table.users, np.nan)
    ages = []
    ready = {days: table.complete(visits(days)) for days in (4, *AGES)}
    for cohort in range(int(table.cohort.max()) + 1):
        rows = table.cohort == cohort
        age = next((days for days in wanted if ready[days][cohort] and (days > 7 or ready[4][cohort])), 0)
        ages.append(age)
        if age == 7:
            seven, four = table.amounts[visits(7)][rows], table.amounts[visits(4)][rows]
            came[rows] = seven + (HORIZON - 7) / 3 * (seven - four)
        elif age:
            came[rows] = HORIZON / age * table.amounts[visits(age)][rows]
    return each * came, ages
