"""Off-policy estimates: what another policy would have earned, from requests whose drawn weights are logged.

The logging policy drew its weights from Dirichlet(logged concentration), so both densities at the logged weights are
known exactly, and ρ = p(w | target) / p(w | logged) makes the logged reward count for the target:

- ``"ips"``: mean of ρ r (Horvitz & Thompson 1952). Unbiased, and the noisiest.
- ``"snips"``: Σ ρ r / Σ ρ (Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual learning").
  Consistent; shifting every reward by a constant shifts it by the same. The default.
- ``"clipped"``: mean of min(ρ, c) r, c = √n (Ionides 2008, "Truncated importance sampling"). Too low for rewards ≥ 0.
- ``"dr"``: mean of q_target + ρ (r - q_logged) with a model q of the reward (Dudík, Langford & Li 2011, "Doubly robust
  policy evaluation and learning"). Unbiased for any model; the better the model, the narrower the interval.

The estimand is the target as it explores, E over w ~ Dirichlet(target), on the population of the requests that
explored. Serving its mean is the limit of an infinite concentration: raise the target's concentration to approximate
it, at the cost of a smaller effective sample.

Intervals come from `intervals.bootstrap` over users, which allows for skewed weights. For logs without densities see
`position`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from pygrade import ops
from pygrade._typing import Array, Bools, Floats
from pygrade._util.html_table import html_table
from pygrade._util.serialization import Record
from pygrade.logs import numbered
from pygrade.logs.arrays import column_moments
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

# An estimate has a warning if:
MIN_EFFECTIVE_SHARE = 0.05  # the effective sample is less than this share of the requests
MAX_WEIGHT_SHARE = 0.05  # one request holds more than this share of all weight
MAX_MEAN_DEVIATION = 4.0  # the mean ratio, 1 in expectation, is this many standard errors off
_MAX_LOG_RATIO = 300.0  # larger ones are cut: their squares would overflow, and such an estimate is useless anyway
_FOLDS = 5  # of the cross-fitted outcome model


class Densities(NamedTuple):
    """The inputs of each request's exact density ratio; rows with NaN in `logged` or `log_weights` were not drawn."""

    target: ArrayLike  # [R, T] concentration of the policy to judge
    logged: ArrayLike  # [R, T] concentration that the logged weights were drawn from
    log_weights: ArrayLike  # [R, T] logarithms of the logged weights
    shares: ArrayLike | None = None  # [C]: the weights were drawn from Dirichlets logged [C, T] with these shares


Policy = Densities | tuple[ArrayLike, ArrayLike, ArrayLike] | Array  # densities, or log-ratios [R] (NaN: unknown)


@dataclass(frozen=True)
class OffPolicyEstimate(Record):
    """An estimate (per request) with its interval; an infinite end means that the data can't bound it."""

    value: float
    low: float
    high: float
    effective_sample_size: float  # (Σρ)² / Σρ², in requests
    max_weight: float  # the largest ρ
    warning: str | None  # why not to decide by it
    standard_error: float
    num_requests: int  # without those left out

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        facts = {
            "value": f"{self.value:.4f} (95 %: {self.low:.4f} … {self.high:.4f})",
            "effective sample": f"{self.effective_sample_size:,.0f} of {self.num_requests:,} requests",
            "warning": self.warning or "none",
        }
        return html_table([], list(facts.items()), "off-policy estimate", texts=2)


def log_ratio(
    target: ArrayLike,
    logged: ArrayLike,
    log_weights: ArrayLike,
    shares: ArrayLike | None = None,
    *,
    weight_floor: float = 0.0,
) -> Floats:
    """log p(w | target) - log p(w | logged) of each request, [R]; NaN where logged or log_weights holds NaN.

    target, logged [R, T] concentrations, log_weights [R, T]. With ``shares`` [C] the weights were drawn from several
    Dirichlets, logged [C, T], and p(w | logged) is the density of their mixture: the balance heuristic of multiple
    importance sampling (Veach & Guibas 1995), whose ratios are at most 1 / share of the component nearest to the
    target. ``weight_floor`` clamps the weights from below in all densities (see `ops.floor_log_weights`): fewer extreme
    ratios, but no longer exact below the floor. A weight that underflowed to 0 needs a floor, or its log-weight drawn
    again from the logged seed by `ops.dirichlet_sample`.
    """
    portions = np.ones(1) if shares is None else np.asarray(shares, np.float64)
    arrays = [np.array(a, np.float32, order="C") for a in (target, logged, log_weights)]
    for name, array in zip(Densities._fields, arrays, strict=False):
        mixed = name == "logged" and shares is not None
        wanted = (len(portions), arrays[0].shape[-1]) if mixed else arrays[0].shape
        if array.ndim != 2 or array.shape != wanted:
            like = f"[C, T] = {wanted}, with the shares" if mixed else f"[R, T], like target's {wanted}"
            raise ValueError(f"{name} has shape {array.shape}; expected {like}")
    if not bool((portions > 0).all()) or abs(portions.sum() - 1) > 1e-6:
        raise ValueError(f"shares are {portions.tolist()}; expected positive numbers that sum to 1")
    goal, source, weights = arrays
    unknown = np.asarray(np.isnan(weights).any(1))
    if shares is None:
        unknown |= np.isnan(source).any(1)
        source = source[~unknown]
    goal, weights = goal[~unknown], weights[~unknown]
    for name, array in (("target", goal), ("logged", source)):
        if not bool((array > 0).all() and np.isfinite(array).all()):
            raise ValueError(f"{name} holds a concentration that is not a positive number")
    if weight_floor > 0:
        weights = np.maximum(weights, np.float32(-1e30))
    elif not bool(np.isfinite(weights).all()):
        raise ValueError("log_weights holds an infinity; expected finite numbers, or weight_floor > 0")
    at = torch.from_numpy(weights)[:, None]

    def log_density(concentration: Array) -> Floats:
        return np.asarray(ops.dirichlet_log_prob(torch.from_numpy(concentration), at, weight_floor)[:, 0].double())

    components = [source] if shares is None else [np.tile(row, (len(weights), 1)) for row in source]
    parts = [np.log(share) + log_density(c) for share, c in zip(portions, components, strict=True)]
    result = np.full(len(unknown), np.nan)
    result[~unknown] = log_density(goal) - np.logaddexp.reduce(parts)
    return result


class Terms(NamedTuple):
    """Terms of an estimate, one per request [n]: the estimate is Σ numerator / Σ denominator."""

    numerator: Floats
    denominator: Floats
    ratio: Floats  # ρ as it counts


def _clipped(ratio: Floats, rewards: Floats, _: "Outcomes") -> Terms:
    cut = np.minimum(ratio, math.sqrt(len(ratio)))
    return Terms(cut * rewards, np.ones(len(cut)), cut)


def _doubly_robust(ratio: Floats, rewards: Floats, outcomes: "Outcomes") -> Terms:
    logged, target = outcomes()
    return Terms(target + ratio * (rewards - logged), np.ones(len(ratio)), ratio)


Outcomes = Callable[[], tuple[Floats, Floats]]  # q [n] at the logged weights, and under the target
ESTIMATORS: dict[str, Callable[[Floats, Floats, Outcomes], Terms]] = {  # of ρ [n], rewards [n] and the model
    "ips": lambda ratio, rewards, _: Terms(ratio * rewards, np.ones(len(ratio)), ratio),
    "snips": lambda ratio, rewards, _: Terms(ratio * rewards, ratio, ratio),
    "clipped": _clipped,
    "dr": _doubly_robust,
}


def estimate(
    rewards: ArrayLike,
    policy: Policy,
    *,
    baseline: Policy | None = None,
    method: str = "snips",
    users: Array | None = None,
    context: ArrayLike | None = None,
    weight_floor: float = 0.0,
    confidence: float = 0.95,
    replicates: int = 1000,
) -> OffPolicyEstimate:
    """The mean reward per request under the policy, or how much more that is than under the baseline, paired by
    request; formulas in the module's docstring.

    Args:
        rewards: [R] of the logged pages, any unit.
        policy: `Densities` (or such a tuple), or log density ratios [R]. Requests whose ratio is NaN are left out, with
            a warning: correct if requests were chosen at random to explore.
        baseline: of a comparison, in the same form; log-ratios of 0 mean the logging policy itself. Only requests with
            both ratios count, and the effective sample size and the largest weight are the worse of the two.
        method: one of `ESTIMATORS`.
        users: [R] ids; the requests of one user are resampled together. None: each request is its own user.
        context: [R, F] features for the model of ``"dr"``, NaN where missing: a ridge regression on them and (given
            densities) the weights, each user predicted from the others.
        weight_floor: see `log_ratio`; for densities only.
        confidence: of the interval, 0 to 1.
        replicates: of the bootstrap; the same data give the same interval.
    """
    policies = [policy] if baseline is None else [policy, baseline]
    values = np.asarray(rewards, np.float64)
    if method not in ESTIMATORS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(ESTIMATORS)}")
    logs = [
        log_ratio(*p, weight_floor=weight_floor) if isinstance(p, tuple) else np.asarray(p, np.float64)
        for p in policies
    ]
    for array in logs:
        if values.ndim != 1 or array.shape != values.shape:
            raise ValueError(f"rewards have shape {values.shape} and log-ratios {array.shape}; expected [R] and [R]")
        if bool((array == np.inf).any()):
            raise ValueError("policy holds an infinite log-ratio: a logged density is 0 at its own draw")
    keep = ~np.isnan(np.sum(logs, axis=0))
    if not keep.any():
        raise ValueError("policy has no request with a logged density: nothing explored, nothing to estimate from")
    values, clusters = values[keep], clusters_of(users, keep)
    if not bool(np.isfinite(values).all()):
        raise ValueError("rewards hold NaN or infinity in a request that counts")

    columns, reasons, sizes, largest = [], [], [], []
    if not keep.all():
        reasons.append(f"{(~keep).sum()} of {len(keep)} requests have no logged density and are left out")
    for policy, array in zip(policies, logs, strict=True):
        ratio = np.exp(np.minimum(array[keep], _MAX_LOG_RATIO))
        reasons += [reason for reason in _poor_support(ratio, clusters) if reason not in reasons]
        terms = ESTIMATORS[method](ratio, values, partial(_outcomes, policy, context, values, keep, clusters))
        ratio = terms.ratio
        columns += [terms.numerator, terms.denominator]
        sizes.append(effective_sample_size(ratio))
        largest.append(float(ratio.max()))
    result = intervals.bootstrap(columns, [1.0, -1.0][: len(policies)], clusters, confidence, replicates)
    return estimate_of(result, min(sizes), max(largest), reasons, len(values))


def effective_sample_size(ratio: ArrayLike) -> float:
    """(Σρ)² / Σρ² (Kish 1965): the number of equally weighted requests with the same variance."""
    weights = np.asarray(ratio, np.float64)
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def _poor_support(ratio: Floats, clusters: Array) -> list[str]:
    total = float(ratio.sum())
    if total == 0:
        return ["every density ratio is 0"]
    reasons = []
    share = effective_sample_size(ratio) / len(ratio)
    if share < MIN_EFFECTIVE_SHARE:
        reasons.append(f"the effective sample is {100 * share:.2g} % of {len(ratio)} requests")
    if ratio.max() > MAX_WEIGHT_SHARE * total:
        reasons.append(f"one request holds {100 * ratio.max() / total:.2g} % of all weight")
    sums = np.bincount(clusters, weights=ratio - 1)
    error = math.sqrt(float(np.square(sums - sums.mean()).sum()))
    if abs(float(sums.sum())) > MAX_MEAN_DEVIATION * error and len(sums) > 1 and abs(ratio.mean() - 1) > 1e-6:
        reasons.append(
            f"the mean density ratio is {ratio.mean():.3g} instead of 1: the logged concentrations are not "
            "those of the draws, or the target lies outside their reach"
        )
    return reasons


def estimate_of(result: Interval, size: float, largest: float, reasons: list[str], count: int) -> OffPolicyEstimate:
    """The estimate with the reasons to distrust it."""
    text = "; ".join(reasons) or None
    return OffPolicyEstimate(result.value, result.low, result.high, size, largest, text, result.standard_error, count)


def clusters_of(users: Array | None, keep: Bools) -> Array:
    """A number from 0 for the user of each request in keep[R]; without users each request is its own."""
    if users is None:
        return np.arange(int(keep.sum()))
    if np.shape(users) != keep.shape:
        raise ValueError(f"users have shape {np.shape(users)}; expected one per request, {keep.shape}")
    return numbered(np.asarray(users)[keep])


def _outcomes(
    policy: Policy, context: ArrayLike | None, rewards: Floats, keep: Bools, clusters: Array
) -> tuple[Floats, Floats]:
    """Expected reward at the logged weights and under the target, [n] each."""
    features = np.empty((len(keep), 0)) if context is None else np.asarray(context, np.float64)
    if features.ndim != 2 or len(features) != len(keep):
        raise ValueError(f"context has shape {features.shape}; expected [R, F] with R = {len(keep)}")
    logged = target = features[keep]
    if isinstance(policy, tuple):  # linear in the weights, so that the mean under the target is exact
        concentration = np.asarray(policy[0], np.float64)[keep]
        weights = np.exp(np.asarray(policy[2], np.float64)[keep])
        target = np.concatenate([logged, concentration / concentration.sum(1, keepdims=True)], 1)
        logged = np.concatenate([logged, weights], 1)
    return _ridge(logged, target, rewards, clusters)


def _ridge(logged: Floats, target: Floats, rewards: Floats, clusters: Array) -> tuple[Floats, Floats]:
    """Cross-fitted ridge regression (penalty 1 on standardized features): each fifth of the users is predicted by a fit
    on the others, so that no request's noise is in its prediction.
    """
    mean, spread = column_moments(logged)
    x, y = ((np.where(np.isnan(a), mean, a) - mean) / np.where(spread > 0, spread, 1.0) for a in (logged, target))
    at_logged, at_target = np.zeros(len(x)), np.zeros(len(x))
    for fold in range(_FOLDS):
        test = clusters % _FOLDS == fold
        if not test.any() or test.all():
            continue
        centered, level = x[~test] - x[~test].mean(0), rewards[~test].mean()
        penalized = centered.T @ centered + np.eye(x.shape[1])
        slope = np.linalg.solve(penalized, centered.T @ (rewards[~test] - level))
        at_logged[test] = level + (x[test] - x[~test].mean(0)) @ slope
        at_target[test] = level + (y[test] - x[~test].mean(0)) @ slope
    return at_logged, at_target
