"""Worlds of the study that the marketplace does not have: bent predictions, truth that is not logistic, other markets.

A world without any of them is the marketplace itself, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.config.marketplace import PARENT, Effects, MarketplaceConfig, PerTask, PredictionErrors
from pygrade.simulation.marketplace import Marketplace, Requests

Float32 = NDArray[np.float32]
Part = TypeVar("Part", Effects, PredictionErrors)

KNOWN, UNKNOWN = "not logistic, known", "not logistic"  # truths; known: the multi-task model has the same form
RELATED, UNRELATED = "related", "unrelated"
_SHAKE = 0.3  # standard deviation of a related market's effects and errors, relative to this market's
_MARKET_STREAM, _MARKET_STEP = 11, 50_021  # of the draws, and from a world's seed to that of its related market


@dataclass(frozen=True)
class Shape:
    """How a world differs from a marketplace of the same constants."""

    bend: str = ""  # of the predictions: one of BENDS; "": none
    truth: str = ""  # KNOWN, UNKNOWN; "": logistic, as the marketplace is


class ShapedMarketplace(Marketplace):
    """A marketplace of a shape. Production ranks by the bent predictions, too: it has no others."""

    def __init__(self, config: MarketplaceConfig, seed: int, shape: Shape) -> None:
        super().__init__(config, seed)
        self.shape = shape

    def requests(self, n: int, seed: int, users: Literal["log", "test"] = "log", time: float = 0.0) -> Requests:
        """As in the marketplace, with bent predictions."""
        requests = super().requests(n, seed, users, time)
        return replace(requests, p_hat=BENDS[self.shape.bend](requests.p_hat)) if self.shape.bend else requests

    def _logits(
        self, traits: Float32, item: Array, taste: Float32, need: Float32, e: Effects, shrink: PerTask | None = None
    ) -> list[Float32]:
        logits = super()._logits(traits, item, taste, need, e, shrink)
        predicted = shrink is not None
        if not self.shape.truth or (predicted and self.shape.truth != KNOWN):
            return logits
        intent, price, _, social, quality, _ = (trait[:, None] for trait in traits.T)
        click, cart, order, like, share, dwell = logits
        cost, good, appeal = self.price[item], self.quality[item], self.social_appeal[item]
        budget = cost + 0.6 * price > 0.8
        factors = np.clip(0.9 * intent * price * -cost, -1.6, 1.6) + 0.8 * np.tanh(intent * quality * good)
        friends = (appeal > 0.8) & (social > 0.3)
        shaped = [
            _at_most(1.4 * (click + 0.9 * (taste > 1.0)) + 1.2, 0.4),  # a jump of liking, saturated at .4
            cart - 1.6 * budget,  # a threshold
            order + factors,  # interactions of three
            like + 1.2 * friends,
            share,
            _at_most(1.5 * dwell + 0.5, 0.7),
        ]
        return [np.asarray(logit, np.float32) for logit in shaped]


def make_world(config: MarketplaceConfig, seed: int, shape: Shape | None = None) -> Marketplace:
    """The world of a config, a seed and a shape."""
    if shape is None or shape == Shape():
        return Marketplace(config, seed)
    return ShapedMarketplace(config, seed, shape)


def related_market(world: Marketplace) -> Marketplace:
    """Another country of the same shop: other users and items under the same definitions of the features. Every effect
    and every error of the predictions is this world's times 1 + .3 · N(0, 1), base rates shift by .15 · N(0, 1).
    """
    config = world.config
    rng = np.random.default_rng([world.seed, _MARKET_STREAM])
    effects, errors = _shaken(config.effects, rng), _shaken(config.errors, rng)
    rates = config.effects.intercept + 0.5 * _SHAKE * rng.standard_normal(len(PARENT))
    effects = replace(effects, intercept=cast(PerTask, tuple(rates.tolist())))
    market = Marketplace(replace(config, effects=effects, errors=errors), (world.seed + _MARKET_STEP) % (1 << 31))
    market.mixing = world.mixing
    return market


def _shaken(part: Part, rng: np.random.Generator) -> Part:
    values: dict[str, Any] = {
        entry.name: tuple(float(value * (1 + _SHAKE * rng.standard_normal())) for value in getattr(part, entry.name))
        for entry in fields(part)
    }
    return replace(part, **values)


# ---- bends: monotone changes of each prediction ----------------------------------------------------------------------
def _kink(p: Float32) -> Float32:
    """Of every task's log odds: 1.5 times as steep above a point, .7 times below."""
    logit, at = _logit(p), np.array([-3.0, -4.0, -5.0, -4.0, -5.0, -3.5], np.float32)
    return _sigmoid(at + np.where(logit > at, 1.5, 0.7) * (logit - at))


def _kink_given_parent(p: Float32) -> Float32:
    """Of the log odds given the parent event, up or down by task."""
    at = np.array([-2.3, -2.9, -2.8, -1.9, -3.2, -0.5], np.float32)
    high, low = np.array([1.5, 0.6] * 3, np.float32), np.array([0.7, 1.4] * 3, np.float32)
    given = np.stack([p[..., t] / (p[..., s] if s >= 0 else 1) for t, s in enumerate(PARENT)], -1)
    logit = _logit(given)
    bent = _sigmoid(at + np.where(logit > at, high, low) * (logit - at))
    for t, s in enumerate(PARENT):  # parents come before their children
        if s >= 0:
            bent[..., t] *= bent[..., s]
    return bent


def _power(p: Float32) -> Float32:
    """A power of the probability, then saturated, differently by task."""
    exponent = np.array([0.8, 1.2, 0.7, 1.3, 0.8, 1.2], np.float32)
    half = np.array([0.3, 0.5, 0.05, 0.3, 0.1, 0.8], np.float32)
    raised = p**exponent
    return np.asarray(raised / (raised + half) * np.maximum(half, 0.2), np.float32)


BENDS: dict[str, Callable[[Float32], Float32]] = {
    "kink": _kink,
    "kink given parent": _kink_given_parent,
    "power": _power,
}


def _logit(p: Array) -> Array:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: Array) -> Float32:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _at_most(logit: Array, top: float) -> Array:
    """The log odds of top · sigmoid(logit)."""
    return _logit(top * _sigmoid(logit))
