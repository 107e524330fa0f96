"""The pages that each request of a log could have got, as far as the log tells.

A log with drawn requests is a mixture: production's weights on most requests, shuffled pages on some, and on some
weights drawn from one of C Dirichlets, the *components*. Which request gets what is random, so each request could have
got the page of any of them. Multiple importance sampling with the balance heuristic (Veach & Guibas 1995, "Optimally
combining sampling techniques for Monte Carlo rendering") uses the density of the whole mixture instead of the one
component that happened to make the page: weights stay small where any component reaches.

Nothing but the usual columns is needed. The components are the distinct rows of `Logs.concentration`, their shares the
counts of these rows; production's weights are those of the requests that did not explore.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import ops
from pygrade._typing import Array, Floats, Ints
from pygrade.evaluation.position import slot_discount
from pygrade.logs import Logs

MAX_COMPONENTS = 16  # a log with more has concentrations of a personal policy, which are known only where it drew
_DRAWS = 16  # of each request
_MAX_MISMATCH = 0.01  # share of the logged pages that the logged weights may fail to explain


@dataclass(frozen=True)
class LoggingPolicy:
    """The distribution of each request's page: production's, shuffled production's, or one of D equally likely draws.

    Where a request's own page was drawn, it is the first of the D; the others are drawn afresh. Given the D pages, the
    logged page is equally likely to be each of them, so a mean over them is the exact probability of what was served,
    and ratios with it are unbiased for everything that one of the D pages or production shows, for any D.
    """

    production: NDArray[np.int32]  # [R, K] candidate in each slot of production's page, -1: empty
    draws: NDArray[np.int32]  # [R, D, K] the same of drawn weights; D = 0: the log has none
    shuffle_share: float  # of the requests
    draw_share: float

    def expected_discount(self, offsets: Array, curve: Floats) -> Floats:
        """Return Θ [M], the mean discount of each candidate over the pages that its request could have got.

        curve [K]: discount of each slot.
        """
        slots = self.production.shape[1]
        theta = curve[:slots]
        served = 1.0 - self.shuffle_share - self.draw_share
        result = np.zeros(int(offsets[-1]))
        pages = [(self.production, served * theta + self.shuffle_share * theta.mean())]
        count = self.draws.shape[1]
        pages += [(self.draws[:, d], self.draw_share / count * theta) for d in range(count)]
        for page, discount in pages:
            filled = page >= 0
            rows = (page + offsets[:-1, None])[filled]
            result[rows] += np.broadcast_to(discount, page.shape)[filled]  # a page shows each candidate once
        return result

    def prefix_probability(self, page: NDArray[np.int32]) -> Floats:
        """Return the probability that the first 1 … K items of a logged page are those of page [R, K], [R, K]."""
        slots = page.shape[1]
        inside = (page[:, :, None] == self.production[:, None, :]).any(-1)
        shuffled = np.cumprod(inside, 1) / np.cumprod(np.arange(slots, 0, -1.0))
        served = 1.0 - self.shuffle_share - self.draw_share
        result = served * np.cumprod(self.production == page, 1) + self.shuffle_share * shuffled
        for d in range(self.draws.shape[1]):
            result += self.draw_share / self.draws.shape[1] * np.cumprod(self.draws[:, d] == page, 1)
        return np.asarray(result)


def drawn_components(logs: Logs) -> tuple[Array, Ints] | None:
    """Distinct concentrations [C, T] of a log and each request's component [R] (-1: not drawn).

    None if nothing was drawn, or from more than MAX_COMPONENTS.
    """
    if logs.concentration is None or logs.weights is None:
        return None
    drawn = ~np.isnan(logs.concentration).any(1)
    if not drawn.any():
        return None
    components, which = np.unique(logs.concentration[drawn], axis=0, return_inverse=True)
    if len(components) > MAX_COMPONENTS:
        return None
    component = np.full(logs.num_requests, -1)
    component[drawn] = which.ravel()
    return components, component


def logging_policy(logs: Logs, formula: Mapping[str, Any]) -> LoggingPolicy | None:
    """The logging policy that the columns of a log describe, if its pages rank the candidates by the formula.

    None if the log does not say how pages were explored, production's weights or the components vary by request, or
    the logged weights do not explain the logged pages.
    """
    if logs.exploration is None or logs.weights is None or np.isnan(logs.weights).any() or not logs.shown.any():
        return None
    explored, shuffled = logs.exploration == "dirichlet", logs.exploration == "shuffle"
    drawn = drawn_components(logs)
    if explored.any() and (drawn is None or bool(((drawn[1] >= 0) != explored).any())):
        return None
    fixed = logs.weights[~explored]
    if not len(fixed) or bool((fixed != fixed[0]).any()):
        return None
    slots, requests = logs.num_slots, logs.num_requests
    production = pages(logs, np.tile(fixed[0], (requests, 1)), slots, formula)
    drawn_pages, expected = np.empty((requests, 0, slots), np.int32), production
    if drawn is not None and explored.any():
        components, component = drawn
        rng = np.random.default_rng(0)
        others = rng.choice(component[explored], (requests, _DRAWS))  # by the shares of the components
        gamma = rng.standard_gamma(components.astype(np.float64)[others]) + 1e-300
        weights = (gamma / gamma.sum(-1, keepdims=True)).astype(np.float32)
        weights[explored, 0] = logs.weights[explored]
        drawn_pages = pages(logs, weights, slots, formula)
        expected = np.where(explored[:, None], drawn_pages[:, 0], production)
    logged = pages_of(logs.position, logs.offsets, slots)
    same = np.where(shuffled[:, None], np.sort(expected, 1) == np.sort(logged, 1), expected == logged).all(1)
    if float((~same).mean()) > _MAX_MISMATCH:
        return None
    return LoggingPolicy(production, drawn_pages, float(shuffled.mean()), float(explored.mean()))


def pages(logs: Logs, weights: Array, slots: int, formula: Mapping[str, Any]) -> NDArray[np.int32]:
    """Candidates in the first slots by fused score: weights [R, T] or [R, G, T] → [R, K] or [R, G, K], -1: empty."""
    scores, offsets = torch.from_numpy(np.ascontiguousarray(logs.predictions)), torch.from_numpy(logs.offsets)
    top = ops.fuse_topk(scores, torch.from_numpy(np.ascontiguousarray(weights)), slots, offsets=offsets, **formula)
    return np.asarray(top.indices.numpy())


def pages_of(rank: Array, offsets: Array, slots: int) -> NDArray[np.int32]:
    """Return the candidate [R, K] in each of the first slots, of the rank or slot [M] of each candidate; -1: empty."""
    sizes = np.diff(offsets)
    page = np.full((len(sizes), slots), -1, np.int32)
    rows = np.flatnonzero((rank >= 0) & (rank < slots))
    request = np.repeat(np.arange(len(sizes)), sizes)[rows]
    page[request, rank[rows]] = rows - offsets[request]
    return page


def given_discount(logs: Logs, curve: Floats) -> Floats:
    """Return Θ [M] if nothing is known of the pages that were not served: each slot's own discount, of shuffled pages
    the mean over their slots.
    """
    theta = slot_discount(logs.position, curve)
    if logs.exploration is None:
        return theta
    shuffled = (logs.exploration == "shuffle")[logs.row_request] & (theta > 0)
    request = logs.row_request[shuffled]
    means = np.bincount(request, theta[shuffled]) / np.maximum(np.bincount(request), 1)
    theta[shuffled] = means[request]
    return theta
