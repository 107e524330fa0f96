"""Simple baselines of a log: rankings that need no policy. The strongest of them is *the baseline*."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Array, Floats32
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CemConfig
from pygrade.evaluation.arms import (
    CORRECTED_EXPECTED_VALUE,
    EXPECTED_VALUE,
    EXPECTED_VALUE_CALIBRATED,
    LEAST_SQUARES,
    LINEAR,
    LOG1P,
    PRODUCTION,
    STATIC,
    Z_LINEAR,
    Z_LOG,
)
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs, pad
from pygrade.metrics.isotonic import isotonic_rates
from pygrade.policy import FusionPolicy
from pygrade.policy.alone import baseline_alone
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Baseline, Knots
from pygrade.policy.spec import PolicySpec
from pygrade.training.propensity import SlotPropensity
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import logged_weights, transformed_predictions
from pygrade.training.static_weights import best_static_weights

# Besides the policy's own form. Sums of weights are 1; nothing else bounds them.
FORMS = {"identity": LINEAR, "zscore": Z_LINEAR, "zlog": Z_LOG, "log1p": LOG1P}


def production_scores(logs: Logs, policy: FusionPolicy, production: Baseline | None = None) -> Array:
    """Return scores [M] of production's ranking: a given one's, else the log's own, else those of `known_production`,
    else by the logged order. ValueError if the log tells none.
    """
    if production is None and logs.production_score is not None:
        return logs.production_score
    if (baseline := production or known_production(logs, policy)) is not None:
        return baseline_scores(baseline, logs, policy.config)
    if not logs.slots_known:
        raise ValueError("logs have neither slots nor logged weights, so production's order cannot be determined")
    return np.where(logs.shown, -logs.position, -np.inf)


def known_production(logs: Logs, policy: FusionPolicy) -> Baseline | None:
    """Production's ranking, as the policy's training knew it, else by the logged weights in the policy's form."""
    entries = () if policy.mixture is None else policy.mixture.baselines
    return next((old for old in entries if old.name == PRODUCTION), logged_baseline(logs, policy.config.transform))


def logged_baseline(logs: Logs, transform: str) -> Baseline | None:
    """Production's ranking by the logged weights; None: the log has none."""
    weights = logged_weights(logs)
    return None if weights is None else Baseline(PRODUCTION, transform, tuple(weights.tolist()))


def fit_baselines(
    logs: Logs,
    spec: PolicySpec,
    data: RequestTensors,
    search: CemConfig,
    floor: float,
    static: Tensor | None = None,
    production: Baseline | None = None,
) -> tuple[Baseline, ...]:
    """Expected value, raw and calibrated; the best static weights in each form; production's ranking, if given.

    logs: with the values of events that count, see `Logs.with_values`; data: their training set under the spec, of
    these or of corrected predictions; floor: the least slot propensity that feedback is divided by; static [T]: the
    best weights of the policy's form, if known.
    """

    def of_form(form: PolicySpec) -> RequestTensors:
        """The set, whose policy may learn from corrected predictions, with the log's own."""
        scores = torch.from_numpy(pad(transformed_predictions(logs, form), logs.offsets)[0])
        return replace(data, scores=scores)

    if static is None:
        static = best_static_weights(of_form(spec), search, bounds=spec.bounds)
    own = spec.config.transform
    baselines = [
        expected_value(logs),
        expected_value(logs, calibration(logs, data.propensity, floor)),
        Baseline(STATIC, own, tuple(static.tolist())),
    ]
    for transform, name in FORMS.items():
        if transform != own:
            config = replace(spec.config, transform=transform)
            form = PolicySpec(spec.tasks, spec.features, config)
            weights = best_static_weights(of_form(form), search)
            baselines.append(Baseline(name, transform, tuple(weights.tolist())))
    least = least_squares(logs, data.propensity, floor)
    return (*baselines, *([] if least is None else [least]), *([] if production is None else [production]))


def least_squares(logs: Logs, propensity: SlotPropensity, floor: float) -> Baseline | None:
    """Σ_t w_t · p_t nearest in squares to the value of each look at an item; None: feedback of value tells none.

    With p [S, T] priced, v [S] and θ [S] of the shown rows: w = (Σ θ p pᵀ)⁻¹ Σ p v, w ≥ 0 by leaving out tasks whose
    weight is the smallest below 0, one after another.
    """
    shown, price = logs.shown, 1.0 if logs.value is None else logs.value[logs.shown].astype(np.float64)[:, None]
    p = logs.predictions[shown].astype(np.float64)
    p = np.where(np.isin(logs.tasks, logs.value_tasks), p * price, p)
    looks = propensity.divisors(logs, floor)[shown]
    left = np.flatnonzero(p.any(0))
    while len(left):
        some = p[:, left]
        weights = np.linalg.lstsq((some.T * looks) @ some, some.T @ logs.value_of(logs.feedback)[shown], rcond=1e-9)[0]
        if weights.min() >= 0:
            break
        left = np.delete(left, int(np.argmin(weights)))
    result = np.zeros(len(logs.tasks))
    if len(left):
        result[left] = weights / max(weights.sum(), 1e-30)
    return (
        Baseline(LEAST_SQUARES, "identity", tuple(result.tolist()), value_tasks=logs.value_tasks)
        if result.any()
        else None
    )


def expected_value(logs: Logs, maps: tuple[Knots, ...] = ()) -> Baseline:
    """Σ_t value_t · p_t by the log's values of events, of predictions calibrated by the maps if there are any."""
    return expected_value_of(logs.task_values, logs.value_tasks, maps)


def expected_value_of(
    values: tuple[float, ...], value_tasks: tuple[str, ...], maps: tuple[Knots, ...] = ()
) -> Baseline:
    """Σ_t value_t · p_t by values of events without a log, see `expected_value`."""
    name = EXPECTED_VALUE_CALIBRATED if maps else EXPECTED_VALUE
    return Baseline(name, "identity", values, min(values) >= 0, value_tasks, maps)


def corrected_expected_value(logs: Logs, correction: Correction) -> Baseline:
    """`expected_value` of corrected predictions; no logarithm of it where page terms move a part of the sum."""
    plain = expected_value(logs)
    logarithm = plain.logarithm and correction.page_terms is None
    return replace(plain, name=CORRECTED_EXPECTED_VALUE, logarithm=logarithm, corrected=True)


def calibration(logs: Logs, propensity: SlotPropensity, floor: float) -> tuple[Knots, ...]:
    """Per task the isotonic map of predictions to feedback per look at a slot, of propensity ``floor`` or more.

    A task without feedback keeps its predictions.
    """
    shown = logs.shown
    looks = propensity.divisors(logs, floor)[shown]
    maps: list[Knots] = []
    for p, events in zip(logs.predictions[shown].T, logs.feedback[shown].T, strict=True):
        if not events.any() or not p.any():
            maps.append(((0.0, 1.0), (0.0, 1.0)))
            continue
        x, y = isotonic_rates(p.astype(np.float64), events.astype(np.float64), looks)
        start = int(x[0] <= 0.0)
        narrow = np.unique(x[start:].astype(np.float32), return_index=True)[1] + start  # distinct as float32
        maps.append(((0.0, *x[narrow].tolist()), (0.0, *y[narrow].tolist())))
    return tuple(maps)


def baseline_scores(
    baseline: Baseline, logs: Logs, config: PolicyConfig, correction: Correction | None = None
) -> Floats32:
    """Return scores, float32 [M], of the log's candidates, in the formula of a policy's config.

    correction: of a baseline that takes corrected predictions.
    """
    if baseline.corrected and correction is None:
        raise ValueError(f"correction is missing; {baseline.name!r} takes corrected predictions")
    if not baseline.corrected:
        alone = baseline_alone(baseline, logs.tasks, config)
        return alone.scores(None, logs.predictions, logs.offsets, item_values=logs.value)
    alone = baseline_alone(baseline, logs.tasks, config, logs.features, correction)
    return policy_scores(alone, logs)
