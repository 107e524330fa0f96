"""A shop whose truth is known: production orders 30 candidates by what its predictions say, and maybe by more."""

from typing import NamedTuple

import numpy as np

from pygrade.logs import Logs
from tests.learning import logs_of, slots_of

VALUES = (1.0, 20.0)  # of a click, and of an order, which needs no click
CANDIDATES, PAGE, EXPONENT = 30, 8, 0.7


class Shop(NamedTuple):
    """A log, and what only the world knows."""

    logs: Logs
    truth: np.ndarray  # [R, N] value of a look at each candidate
    scores: np.ndarray  # [R, N] that production ranks by

    def lift(self, scores: np.ndarray) -> float:
        """The true lift over production of whole pages by scores [R, N]."""
        return self.worth(scores) / self.worth(self.scores) - 1

    def worth(self, scores: np.ndarray) -> float:
        page = np.argsort(-scores, axis=1, kind="stable")[:, :PAGE]
        return float((np.take_along_axis(self.truth, page, 1) * np.arange(1, PAGE + 1) ** -EXPONENT).sum())


def shop(
    seed: int = 0,
    requests: int = 5_000,
    knows: float = 0.0,
    weights: tuple[float, float] = VALUES,
    shuffled: float = 0.02,
    members: float = 1.0,
) -> Shop:
    """Production ranks by (1 - knows) · Σ weight · prediction + knows · truth; a share of the pages is shuffled.

    The predictions miss what a user likes, and that a member, told by a feature, orders ``members`` times as often.
    """
    rng = np.random.default_rng(seed)
    users, items = requests // 4, 1_499  # a prime, so that steps meet no item twice
    user, (start, step) = rng.integers(0, users, requests), rng.integers(1, items, (2, requests, 1))
    item = (start + step * np.arange(CANDIDATES)) % items
    member = (rng.random(users) < 0.4)[user]
    true, predicted = np.empty((2, requests, CANDIDATES, 2))
    for t, (level, spread) in enumerate(((-2.6, 0.7), (-5.2, 0.7))):
        taste = np.einsum("rd,rnd->rn", rng.normal(size=(users, 4))[user], rng.normal(size=(items, 4))[item] / 2)
        logit = level + spread * rng.normal(size=items)[item]
        predicted[..., t] = 1 / (1 + np.exp(-logit - 0.3 * taste - 0.5 * rng.normal(size=items)[item]))
        logit = logit + 0.8 * taste + t * np.log(np.where(member, members, 1.0))[:, None]
        true[..., t] = 1 / (1 + np.exp(-logit))
    truth = true @ VALUES
    scores = (1 - knows) * predicted @ np.array(weights) + knows * truth
    page = np.argsort(-scores, axis=1, kind="stable")[:, :PAGE]
    explored = rng.random(requests) < shuffled
    page[explored] = rng.permuted(page[explored], axis=1)
    position = slots_of(page, CANDIDATES)
    looks = np.where(position >= 0, (np.maximum(position, 0) + 1.0) ** -EXPONENT, 0.0)
    logs = logs_of(
        predicted,
        position,
        rng.random(true.shape) < true * looks[..., None],
        tasks=("click", "order"),
        features=("member",),
        context=member[:, None].astype(np.float32),
        user_id=user,
        item_id=item.ravel(),
        task_values=VALUES,
        exploration=np.where(explored, "shuffle", "none"),
        timestamp=1_700_000_000_000 + np.arange(requests) * 600_000,
    )
    return Shop(logs, truth, scores)
