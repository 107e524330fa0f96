"""The logged pages: what an order of their items is worth, debiased by slot."""

import numpy as np

from pygrade._typing import Array, Floats, Ints
from pygrade.config.training import RewardConfig
from pygrade.evaluation.value import rank_discount
from pygrade.logs import Logs
from pygrade.training.propensity import SlotPropensity


class PageReplay:
    """The logged pages: what an order of their items is worth."""

    def __init__(self, logs: Logs, reward: RewardConfig, share: Floats | None = None) -> None:
        """share [R]: of each request's value that counts, see `cautions.winsor_factors`."""
        self.count = logs.num_requests
        self._logs, self._slot = logs, logs.position[logs.shown]
        self._request = logs.row_request[logs.shown]
        self._value, self._reward = logs.value_of(logs.feedback)[logs.shown], reward
        if share is not None:
            self._value = self._value * share[self._request]
        sizes = np.bincount(self._request, minlength=self.count)
        self._start = np.cumsum(sizes) - sizes

    def ranks(self, scores: Array) -> Ints:
        """Return ranks [S] of scores [S]: score descending, then the order of the log."""
        order = np.lexsort((-scores, self._request))
        result = np.empty(len(order), np.int64)
        result[order] = np.arange(len(order)) - self._start[self._request[order]]
        return result

    def logged(self) -> Ints:
        """Return the ranks by slot, of shape [S]."""
        return self.ranks(-self._slot.astype(np.float64))

    def values(self, rank: Ints, propensity: SlotPropensity) -> Floats:
        """Return the debiased value of each page in the order of ranks [S], of shape [R]."""
        reward, slots = self._reward, max(int(self._slot.max(initial=0)) + 1, self._reward.page_size)
        curve = propensity.curve(slots)
        discount = np.append(rank_discount(curve, reward.page_size), 0.0)
        divisor = propensity.divisors(self._logs, reward.propensity_floor)[self._logs.shown]
        earned = discount[np.minimum(rank, reward.page_size)] * self._value / divisor
        return np.asarray(np.bincount(self._request, earned, self.count), np.float64)


def logged_order(logs: Logs, pages: PageReplay, propensity: SlotPropensity) -> Floats | None:
    """Return the values [R] of pages in production's order, NaN if it explored; None if it always did, or unknown."""
    if not logs.slots_known:
        return None
    values = pages.values(pages.logged(), propensity)
    if logs.exploration is not None:
        values[logs.exploration != "none"] = np.nan
    return None if bool(np.isnan(values).all()) else values
