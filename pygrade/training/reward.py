"""The composite reward: what a sampled weight vector is worth on a logged request.

The paper (GRADE, arXiv 2510.07919) combines sparse posterior feedback, a dense prior from the model's own predictions
and rule-based format constraints, and leaves the formulas open. Ours, in units of business value (OEC), for weights w:

- **posterior** Σ_r D(r) · v_j / max(q(slot_j), floor): w re-ranks the *logged page only* (the feedback of candidates
  that nobody saw is unknown); v_j is the logged value of the item at rank r, q the propensity of its slot;
- **prior** Σ_r D(r) · Σ_t value_t · p_jt: w ranks *all candidates*; dense, but only as good as the predictions: alone
  it is hacked (predicted value rises while true value falls);
- **format** minus the weight outside the box of `PolicyConfig`. One tenth of weight outside costs ``format_weight`` of
  a page's mean predicted value. It keeps sampling near the box; compliance itself comes from the projection at serving.

D(r) is the attention that rank r gets, by the rule of `evaluation.value`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade import ops
from pygrade._typing import Array, Bools, Floats, Floats32, Ints
from pygrade.config.training import RewardConfig
from pygrade.evaluation.value import curve_at, rank_discount
from pygrade.logs import Logs, pad
from pygrade.policy import PolicySpec
from pygrade.policy.spec import fusion_formula
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.request_tensors import RequestTensors, TradeOffs

_SMALL = 5_000  # requests of a log up to which the prior counts as much as the posterior


def logged_weights(logs: Logs) -> Floats32 | None:
    """Mean logged weights [T] of the requests served without weight exploration; None if the log has no weights."""
    if logs.weights is None:
        return None
    has_weights = ~np.isnan(logs.weights).any(1)
    plain = has_weights if logs.exploration is None else has_weights & (logs.exploration != "dirichlet")
    if not plain.any():
        return None
    mean = logs.weights[plain].astype(np.float64).mean(0)
    return (mean / mean.sum()).astype(np.float32) if mean.sum() > 0 else None


def calibration_slopes(logs: Logs, propensity: Floats) -> Floats:
    """Return the regression slope [T] of feedback on prediction within pages.

    Σ (p - p̄) y / q over Σ (p - p̄)² of the shown rows, p̄ the mean of the row's page, q = propensity [M]; cut to 0 … 2.
    1: calibrated; less: the predictions overrate the event or their differences; 0: they don't predict the order.
    """
    shown = logs.shown
    request = logs.row_request[shown]
    p = logs.predictions[shown].astype(np.float64)
    count = np.maximum(np.bincount(request, minlength=logs.num_requests), 1)[:, None]
    mean = np.stack([np.bincount(request, column, logs.num_requests) for column in p.T], 1) / count
    deviation = p - mean[request]
    spread = np.square(deviation).sum(0)
    covariance = (deviation * logs.feedback[shown] / propensity[shown, None]).sum(0)
    slopes = np.divide(covariance, spread, out=np.zeros(len(spread)), where=spread > 0)
    return np.asarray(np.clip(slopes, 0.0, 2.0))


@dataclass(frozen=True)
class LogFigures:
    """Facts of the whole log that the training set of a part of it takes."""

    propensity: SlotPropensity
    slopes: Floats | float  # of the predictions, `calibration_slopes`; 1: unscaled
    candidates: int  # N, of the longest request
    padded: bool  # some request is shorter
    slots: int  # P, items on the longest page
    last_slot: int

    @classmethod
    def of(cls, logs: Logs, config: RewardConfig, propensity: SlotPropensity | None = None) -> "LogFigures":
        """Measure a log that has the values of events that count; propensity None: estimated."""
        propensity, sizes = propensity or slot_propensity(logs, config), np.diff(logs.offsets)
        pages = np.bincount(logs.row_request[logs.shown], minlength=logs.num_requests)
        longest, last = int(sizes.max()), int(logs.position.max(initial=0))
        figures = cls(propensity, 1.0, longest, bool((sizes < longest).any()), max(int(pages.max()), 1), last)
        if config.prior_calibration == "none":
            return figures
        return replace(figures, slopes=calibration_slopes(logs, figures.floored(logs, config)))

    def curve(self, config: RewardConfig) -> Floats:
        """q of the slots."""
        return self.propensity.curve(max(self.last_slot + 1, config.page_size))

    def floored(self, logs: Logs, config: RewardConfig) -> Floats:
        """Return the propensity that feedback of a row is divided by, of shape [M]."""
        return np.maximum(curve_at(logs.position, self.curve(config)), config.propensity_floor)


class CompositeReward:
    """Builds the `RequestTensors` of a log for a policy."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def build(self, logs: Logs, spec: PolicySpec, figures: LogFigures | None = None) -> RequestTensors:
        """Transformed scores, gains, lists and page labels; ``ValueError`` if log and spec do not fit.

        figures: of the whole log, if this is a part; the weight of the format component is then that of the part.
        """
        if logs.tasks != spec.tasks or logs.features != spec.features:
            raise ValueError(
                f"logs have tasks {logs.tasks} and features {logs.features}; "
                f"the policy needs {spec.tasks} and {spec.features}"
            )
        if logs.num_requests == 0:
            raise ValueError("logs hold no request; expected at least one")
        config = self.config.sized(logs.num_requests)
        assert config.prior_weight is not None
        logs = logs.with_values(config.task_values, config.value_tasks)
        figures = LogFigures.of(logs, config) if figures is None else figures
        propensity, slopes, curve = figures.propensity, figures.slopes, figures.curve(config)
        value = (logs.feedback * logs.event_values).sum(1)  # [M] logged
        floored = figures.floored(logs, config)
        predicted = (logs.predictions * (logs.event_values * slopes)).sum(1)  # [M]

        longest, padded = figures.candidates, figures.padded
        scores, exists = pad(transformed_predictions(logs, spec), logs.offsets, length=longest)
        page_list, all_list = 0, 1 if padded else -1
        ranked: list[tuple[str, float, int, Array]] = []  # name, weight, list, gain of each row
        if config.posterior_weight > 0.0:
            ranked.append(("posterior", config.posterior_weight, page_list, value / floored))
        if config.prior_weight > 0.0:
            ranked.append(("prior", config.prior_weight, all_list, predicted))
        names, weights, lists, gains = zip(*ranked, strict=True)
        if config.format_weight > 0.0:
            page_mean = (
                float((predicted[logs.shown] * curve_at(logs.position[logs.shown], curve)).sum()) / logs.num_requests
            )
            names, weights = (*names, "format"), (*weights, 10.0 * config.format_weight * page_mean)

        discount = rank_discount(curve, config.page_size)
        shown = pad(logs.shown, logs.offsets, length=longest)[0]
        rows, mask = _page_rows(logs, figures.slots)
        item = rows - logs.offsets[:-1][logs.row_request[rows]]
        return RequestTensors(
            inputs=policy_inputs(logs, spec),
            exploration=spec.exploration_factor(logs.scenario, logs.num_requests),
            scores=torch.from_numpy(scores),
            page_item=_on_pages(mask, item, np.int64),
            page_mask=torch.from_numpy(mask),
            page_value=_on_pages(mask, value[rows], np.float32),
            page_propensity=_on_pages(mask, floored[rows], np.float32, 1.0),
            gains=torch.from_numpy(pad(np.stack(gains, 1).astype(np.float32), logs.offsets, length=longest)[0]),
            masks=torch.from_numpy(np.stack([shown, exists] if padded else [shown], 1)),
            discount=torch.from_numpy(discount.astype(np.float32)),
            components=names,
            component_weights=torch.tensor(weights, dtype=torch.float32),
            lists=torch.tensor(lists, dtype=torch.int32),
            bounds=spec.bounds.clone() if config.format_weight > 0.0 else None,
            propensity=propensity,
            **_trade_offs(config, logs, spec, floored, figures),
        )


def _trade_offs(
    config: RewardConfig, logs: Logs, spec: PolicySpec, floored: Floats, figures: LogFigures
) -> dict[str, Any]:
    """Labels and gains by task, of a policy that has trade-offs, under a config with the prior's weight."""
    if not spec.config.trade_offs:
        return {}
    logged = logs.feedback * logs.event_values  # [M, T]
    gains = []
    if config.posterior_weight > 0.0:
        gains.append(logged / floored[:, None])
    if config.prior_weight:
        gains.append(logs.predictions * (logs.event_values * figures.slopes))
    rows, mask = _page_rows(logs, figures.slots)
    block = np.stack(gains, 1).astype(np.float32)
    return {
        "trade_offs": TradeOffs(config.values_spread, config.plain_share, spec.config.beta),
        "value_by_task": _on_pages(mask, logged[rows], np.float32),
        "gains_by_task": torch.from_numpy(pad(block, logs.offsets, length=figures.candidates)[0]),
    }


def transformed_predictions(logs: Logs, spec: PolicySpec) -> Floats32:
    """Transformed predictions [M, T], priced as the spec says: requests of equal size go through the op together."""
    sizes = np.diff(logs.offsets)
    result = np.empty_like(logs.predictions)
    priced = logs.predictions
    if spec.config.value_tasks:
        if logs.value is None:
            raise ValueError(
                f"value is missing in the log; the policy prices {', '.join(spec.config.value_tasks)} by it"
            )
        priced = np.where(np.isin(spec.tasks, spec.config.value_tasks), priced * logs.value[:, None], priced)
    for size in np.unique(sizes):
        rows = logs.offsets[:-1][sizes == size][:, None] + np.arange(size)  # [r, n]
        block = torch.from_numpy(priced[rows])
        result[rows] = ops.transform_scores(block, **fusion_formula(spec.config)).numpy()
    return result


def policy_inputs(logs: Logs, spec: PolicySpec) -> Tensor:
    """Raw policy inputs [R, D] under the values that the config serves by default."""
    values = None
    if spec.config.trade_offs:
        values = spec.multipliers(spec.own_values(spec.task_values, logs.scenario, logs.num_requests))
    return spec.request_inputs(logs.context, logs.predictions, logs.offsets, values)


def _page_rows(logs: Logs, slots: int) -> tuple[Ints, Bools]:
    """The rows shown, by request and slot, and which of the P slots [R, P] they fill."""
    rows = np.flatnonzero(logs.shown)
    rows = rows[np.lexsort((logs.position[rows], logs.row_request[rows]))]
    counts = np.bincount(logs.row_request[rows], minlength=logs.num_requests)
    return rows, np.arange(slots) < counts[:, None]


def _on_pages(mask: Bools, values: Array, dtype: type, empty: float = 0.0) -> Tensor:
    """Values [n, …] of the rows shown → [R, P, …]."""
    block: Array = np.full((*mask.shape, *values.shape[1:]), empty, dtype)
    block[mask] = values
    return torch.from_numpy(block)
