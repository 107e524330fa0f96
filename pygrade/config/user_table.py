"""Columns of the table of an experiment over weeks: a row per user, also of users who never came again.

A user is enrolled at the first visit of the experiment. Windows of days begin with that day.
"""

USER_ID = "user_id"
EXPERIMENT = "experiment"
SETTING = "setting"
"""Number of the setting as assigned by the hash of experiment and user, from 0."""
SHIFT = "shift_"
"""Prefix, followed by a task: the signed shift of the value of one event of the task in that setting."""
SERVED = "served_"
"""Prefix, followed by a task: the shift that the user was really served; it may be left out."""
ENROLLED = "enrolled"
"""Day of the enrollment, from 0 at the first day of the experiment."""
SEGMENT = "segment"
"""Number of the shop's own segment of the user."""
BEFORE_MONEY, BEFORE_VISITS = "before_money", "before_visits"
"""Of the `BEFORE_DAYS` before the enrollment; NaN: the user was not there yet."""

BEFORE_DAYS = 28
MONEY_DAYS = (1, 7, 14, 28)
"""Windows of `money_<days>`: what a user's events since the enrollment are worth, less what was returned."""
VISIT_DAYS = (4, 7, 14, 28)
"""Windows of `visits_<days>`: on how many of the days since the enrollment the user came."""
COHORT_DAYS = 7
"""Users enrolled in the same week are a cohort: `enrolled // COHORT_DAYS`."""


def money(days: int) -> str:
    """Column of the money of a window."""
    return f"money_{days}"


def visits(days: int) -> str:
    """Column of the visits of a window."""
    return f"visits_{days}"
