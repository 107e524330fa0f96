"""The composite reward: what a sampled weight vector is worth on a logged request.

The paper (GRADE, arXiv 2510.07919) combines sparse posterior feedback, a dense prior from the model's own predictions
and rule-based format constraints, and leaves the formulas open. Ours, in units of business value (OEC), for weights w:

- **posterior** Σ_r D(r) · v_j / max(q(slot_j), floor): w re-ranks the *logged page only* (nothing is known about the
  feedback of candidates nobody saw); v_j is the logged value of the item at rank r, q the probability that its slot was
  examined, relative to the first slot (inverse propensity, "ips"; "raw" leaves the division out and so prefers whatever
  the old policy put on top);
- **prior** Σ_r D(r) · Σ_t value_t · p_jt: w ranks *all candidates*; dense, but only as good as the predictions: alone
  it is hacked (predicted value rises while true value falls);
- **guards**, one a task: its debiased events on the logged page, to be held above a share of what the logging policy's
  weights get; they count by the price that stage 2 finds, 0 where the policy keeps them anyway;
- **format** minus the weight outside the box of `PolicyConfig`. One tenth of weight outside costs ``format_weight`` of
  a page's mean predicted value. It keeps sampling near the box; compliance itself comes from the projection at serving.

D(r) is the attention that rank r gets: q again ("attention"), or 1 / log2(r + 2) ("dcg"). A q that does not fall (an
exponent of 0, or no shuffled page to fit one to) could not tell a page's orders apart, so D is "dcg" then.
"""

import logging
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade import ops
from pygrade.logs import Logs, pad
from pygrade.policy import FusionPolicy

logger = logging.getLogger("pygrade")
GUARD = "guard_"  # before the name of a guarded task's component


@dataclass(frozen=True)
class RewardConfig:
    """Components of the composite reward and how they are measured. A weight of 0 switches a component off."""

    posterior: Literal["ips", "raw", "none"] = "ips"  # logged value, debiased by slot or not; none: off
    posterior_weight: float = 1.0  # of the logged value
    prior_weight: float = 0.5  # 0.3 to 0.5; 1 for logs of 5,000 requests or fewer
    # slope: each task's predictions times the slope of its logged feedback on them, so that what they overrate counts
    # less and what says nothing, nothing; none: as they are.
    prior_calibration: Literal["none", "slope"] = "none"
    # Task → share of its events under the logging policy's weights that must be kept (1: not below them). Stage 2 finds
    # the price of each, see `train.Stage2Config.guard_rate`. Kept on the log that is learned from: leave a margin.
    guards: dict[str, float] = field(default_factory=dict)
    format_weight: float = 0.03  # share of a page's value that 0.1 of weight outside the box costs
    # q(slot) = (slot + 1)^-exponent: the exponent, or fitted to the requests whose page was shuffled.
    propensity: Literal["estimate"] | float = "estimate"
    propensity_floor: float = 0.15  # smallest q that a label is divided by
    discount: Literal["attention", "dcg"] = "attention"  # D(r), what rank r counts: q of the slot, or 1 / log2(r + 2)
    page_size: int = 10  # ranks that count
    task_values: tuple[float, ...] | None = None  # value of one event of each task; None: what the log says
    value_tasks: tuple[str, ...] = ()  # tasks whose events are worth their value times the item's `value` (its price)

    def __post_init__(self) -> None:
        choices = {
            "posterior": ("ips", "raw", "none"),
            "discount": ("attention", "dcg"),
            "prior_calibration": ("none", "slope"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; want one of {', '.join(allowed)}")
        for name in ("posterior_weight", "prior_weight", "format_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a number >= 0")
        if not self.has_posterior and self.prior_weight == 0.0:
            raise ValueError("posterior and prior are both off; want at least one of them")
        if isinstance(self.propensity, str):
            if self.propensity != "estimate":
                raise ValueError(f"propensity is {self.propensity!r}; want 'estimate' or an exponent")
        elif not 0.0 <= self.propensity <= 3.0:
            raise ValueError(f"propensity is {self.propensity}; want an exponent from 0 to 3")
        if not 0.0 < self.propensity_floor <= 1.0:
            raise ValueError(f"propensity_floor is {self.propensity_floor}; want a number in (0, 1]")
        if self.page_size < 1:
            raise ValueError(f"page_size is {self.page_size}; want at least 1")
        for task, level in self.guards.items():
            if not level > 0:
                raise ValueError(f"guards[{task!r}] is {level}; want a positive share")

    @property
    def has_posterior(self) -> bool:
        return self.posterior != "none" and self.posterior_weight > 0.0


@dataclass(frozen=True)
class RewardData:
    """Logged requests made ready for training: R requests padded to N candidates, P slots on the longest page.

    The predictions are transformed once, here; training only multiplies.
    """

    inputs: Tensor  # [R, D] raw policy inputs
    exploration: Tensor  # [R] exploration factor of the request's scenario
    scores: Tensor  # [R, N, T] transformed predictions
    gains: Tensor  # [R, N, C'] of the ranked components (posterior, prior), OEC
    masks: Tensor  # [R, L, N] bool: list 0 = the logged page, list 1 (only where N is padded) = all candidates
    component_list: Tensor  # int32 [C'], the list that each component ranks, -1: all N
    discount: Tensor  # [page_size]
    bounds: Tensor | None  # [2, T], None: no format component
    names: tuple[str, ...]  # of the C components, guards after the ranked ones, "format" last
    component_weights: Tensor  # [C]
    page: Tensor  # int64 [R, P] candidate in each slot, 0 where none
    page_mask: Tensor  # bool [R, P]
    page_value: Tensor  # [R, P] logged value, OEC
    page_propensity: Tensor  # [R, P] q(slot), floored
    propensity_exponent: float  # of q
    propensity_source: str  # "shuffled pages", "given" or "none" (q = 1: nothing to fit it to)
    guard_floor: Tensor  # [R, Q] what each guard demands of a request's page, in the units of its gains

    @property
    def num_requests(self) -> int:
        return self.scores.shape[0]

    def to(self, device: str) -> "RewardData":
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in moved.items()})

    @property
    def guards(self) -> list[int]:
        """Places of the guards among the components."""
        return [i for i, name in enumerate(self.names) if name.startswith(GUARD)]

    def rewards(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Rewards [B, G, C] of weights [B, G, T] on requests rows [B]."""
        ranked = ops.topk_gain(
            self.scores[rows], weights, self.gains[rows], len(self.discount), self.discount,
            self.masks[rows], self.component_list,
        )  # fmt: skip
        if self.bounds is None:
            return ranked
        return torch.cat([ranked, ops.format_penalty(weights, self.bounds)[..., None]], -1)

    def rollout(
        self, rows: Tensor, concentration: Tensor, num_samples: int, seed: int, weight_floor: float = 0.0
    ) -> ops.Rollout:
        """Draw G weight vectors from Dirichlet(concentration[B, T]) for requests rows [B], and score them."""
        return ops.rollout(
            concentration, self.scores[rows], self.gains[rows], len(self.discount), self.discount, num_samples, seed,
            masks=self.masks[rows], component_list=self.component_list, weight_bounds=self.bounds,
            weight_floor=weight_floor,
        )  # fmt: skip


def logged_weights(logs: Logs) -> NDArray[np.float32] | None:
    """Mean logged weights [T] of the requests served without weight exploration; None where the log has no weights."""
    if logs.weights is None:
        return None
    known = ~np.isnan(logs.weights).any(1)
    plain = known if logs.exploration is None else known & (logs.exploration != "dirichlet")
    if not plain.any():
        return None
    mean = logs.weights[plain].astype(np.float64).mean(0)
    return (mean / mean.sum()).astype(np.float32) if mean.sum() > 0 else None


def propensity_curve(exponent: float, count: int) -> NDArray[np.float64]:
    """q(slot) = (slot + 1)^-exponent for the first ``count`` slots: the examination of a slot relative to the first."""
    return np.arange(1, count + 1, dtype=np.float64) ** -exponent


def estimate_propensity(logs: Logs, k: int = 10) -> NDArray[np.float64]:
    """q of the first k slots, fitted to the requests with exploration "shuffle": their order says nothing of quality.

    Events per slot (any feedback at all) are fitted by a power law, weighted by their precision; q(0) = 1, and the
    curve never rises. ``ValueError`` where the shuffled pages are missing or have fewer than 30 events.
    """
    if logs.exploration is None or not bool((logs.exploration == "shuffle").any()):
        raise ValueError("logs have no request with exploration 'shuffle'; want some, or a propensity exponent")
    rows = (logs.exploration == "shuffle")[logs.row_request] & logs.shown & (logs.position < k)
    slots = logs.position[rows]
    events = np.bincount(slots, (logs.feedback[rows] > 0).any(1), minlength=k)
    views = np.bincount(slots, minlength=k)
    seen = (views > 0) & (events > 0)
    if events.sum() < 30 or seen.sum() < 2:
        raise ValueError(f"the shuffled pages have {int(events.sum())} events in {int(seen.sum())} slots; "
                         "want at least 30 in 2, or a propensity exponent")  # fmt: skip
    rate = events[seen] / views[seen]
    slope = np.polyfit(np.log(np.flatnonzero(seen) + 1.0), np.log(rate), 1, w=np.sqrt(events[seen]))[0]
    return propensity_curve(float(np.clip(-slope, 0.0, 3.0)), k)


def calibration_slopes(logs: Logs, propensity: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T]: how much of a difference in prediction between two items of a page is found again in their feedback.

    Σ (p - p̄) y / q over Σ (p - p̄)² of the shown rows, p̄ the mean of the row's page, q = propensity [M]; cut to 0 … 2.
    1: calibrated; below: the predictions overrate the event or their differences; 0: they say nothing about order.
    """
    shown = logs.shown
    request = logs.row_request[shown]
    p = logs.predictions[shown].astype(np.float64)
    count = np.maximum(np.bincount(request, minlength=logs.num_requests), 1)[:, None]
    mean = np.stack([np.bincount(request, column, logs.num_requests) for column in p.T], 1) / count
    apart = p - mean[request]
    spread = np.square(apart).sum(0)
    found = (apart * logs.feedback[shown] / propensity[shown, None]).sum(0)
    return np.asarray(np.clip(np.divide(found, spread, out=np.zeros(len(spread)), where=spread > 0), 0.0, 2.0))


class CompositeReward:
    """Builds the `RewardData` of a log for a policy."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def build(self, logs: Logs, policy: FusionPolicy) -> RewardData:
        """Transformed scores, gains, lists and page labels; ``ValueError`` where log and policy do not fit."""
        if logs.tasks != policy.tasks or logs.features != policy.features:
            raise ValueError(
                f"logs have tasks {logs.tasks} and features {logs.features}; "
                f"the policy wants {policy.tasks} and {policy.features}"
            )
        if logs.num_requests == 0:
            raise ValueError("logs hold no request; want at least one")
        config = self.config
        logs = logs.valued(config.task_values, config.value_tasks)
        exponent, source = self._propensity(logs)
        event_value = logs.event_values  # [M or 1, T]
        value = (logs.feedback * event_value).sum(1)  # [M] logged
        slots = max(int(logs.position.max(initial=0)) + 1, config.page_size)
        curve = propensity_curve(exponent, slots)
        examined = np.where(logs.shown, curve[logs.position], 0.0)  # [M]
        floored = np.maximum(curve, config.propensity_floor)[logs.position]
        slopes = calibration_slopes(logs, floored) if config.prior_calibration == "slope" else 1.0
        predicted = (logs.predictions * (event_value * slopes)).sum(1)  # [M]

        columns, lists, names, weights = [], [], [], []
        if config.has_posterior:
            columns.append(value / floored if config.posterior == "ips" else value)
            lists, names, weights = [0], ["posterior"], [config.posterior_weight]
        dense, exists = pad(_transform(logs, policy), logs.offsets)
        padded = not bool(exists.all())
        if config.prior_weight > 0.0:
            columns.append(predicted)
            lists, names, weights = [*lists, 1 if padded else -1], [*names, "prior"], [*weights, config.prior_weight]
        for task in config.guards:
            columns.append(self._guarded(logs, task, floored, value))
            lists, names, weights = [*lists, 0], [*names, GUARD + task], [*weights, 0.0]
        if config.format_weight > 0.0:
            page_mean = float((predicted * examined).sum()) / logs.num_requests
            names, weights = [*names, "format"], [*weights, 10.0 * config.format_weight * page_mean]
        shown = pad(logs.shown, logs.offsets)[0]
        rank = np.arange(config.page_size)
        attention = config.discount == "attention" and exponent > 0.0  # flat attention would reward every order alike
        discount = curve[: config.page_size] if attention else 1.0 / np.log2(rank + 2.0)
        page, page_mask = _pages(logs)
        row = (logs.offsets[:-1, None] + page)[page_mask]

        def on_page(values: NDArray[Any]) -> Tensor:  # [M] -> [R, P]
            block = np.zeros(page.shape, np.float32)
            block[page_mask] = values[row]
            return torch.from_numpy(block)

        data = RewardData(
            inputs=policy.request_inputs(logs.context, logs.predictions, logs.offsets).cpu(),
            exploration=policy.exploration_factor(logs.scenario, logs.num_requests).cpu(),
            scores=torch.from_numpy(dense),
            gains=torch.from_numpy(pad(np.stack(columns, 1).astype(np.float32), logs.offsets)[0]),
            masks=torch.from_numpy(np.stack([shown, exists] if padded else [shown], 1)),
            component_list=torch.tensor(lists, dtype=torch.int32),
            discount=torch.from_numpy(discount.astype(np.float32)),
            bounds=policy.bounds.cpu().clone() if config.format_weight > 0.0 else None,
            names=tuple(names),
            component_weights=torch.tensor(weights, dtype=torch.float32),
            page=torch.from_numpy(page),
            page_mask=torch.from_numpy(page_mask),
            page_value=on_page(value),
            page_propensity=on_page(floored) + torch.from_numpy(~page_mask),  # 1 in empty slots, never divided by 0
            propensity_exponent=exponent,
            propensity_source=source,
            guard_floor=torch.zeros(logs.num_requests, 0),
        )
        return replace(data, guard_floor=self._guard_floor(logs, data)) if config.guards else data

    def _guarded(
        self, logs: Logs, task: str, propensity: NDArray[np.float64], value: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Debiased events [M] of a guarded task, scaled so that all of them are worth what is logged."""
        if task not in logs.tasks:
            raise ValueError(f"guards name task {task!r}; want one of {', '.join(logs.tasks)}")
        events = logs.feedback[:, logs.tasks.index(task)] / propensity
        if not events.sum() > 0:
            raise ValueError(f"guards name task {task!r}, of which the log has no event")
        return np.asarray(events * ((value / propensity).sum() / events.sum()))

    def _guard_floor(self, logs: Logs, data: RewardData) -> Tensor:
        """[R, Q]: what the logging policy's weights get of each guarded task on the logged page, times its level."""
        weights = logged_weights(logs)
        if weights is None:
            raise ValueError("guards compare with the logging policy's weights; want a log with w_<task> columns")
        rows = torch.arange(data.num_requests)
        vector = torch.from_numpy(weights)[None, None].expand(len(rows), 1, -1)
        parts = [data.rewards(part, vector[: len(part)].contiguous())[:, 0] for part in torch.split(rows, 4096)]
        return torch.cat(parts)[:, data.guards] * torch.tensor(list(self.config.guards.values()))

    def _propensity(self, logs: Logs) -> tuple[float, str]:
        if not isinstance(self.config.propensity, str):
            return float(self.config.propensity), "given"
        try:
            curve = estimate_propensity(logs, self.config.page_size)
        except ValueError as error:
            logger.warning("slot propensities are taken as 1 (labels keep their position bias): %s", error)
            return 0.0, "none"
        return float(-np.log(curve[-1]) / np.log(len(curve))) if len(curve) > 1 else 0.0, "shuffled pages"


def _transform(logs: Logs, policy: FusionPolicy) -> NDArray[np.float32]:
    """Transformed predictions [M, T]: requests of equal size go through the op together."""
    sizes = np.diff(logs.offsets)
    result = np.empty_like(logs.predictions)
    for size in np.unique(sizes):
        rows = logs.offsets[:-1][sizes == size][:, None] + np.arange(size)  # [r, n]
        block = torch.from_numpy(logs.predictions[rows])
        result[rows] = ops.transform_scores(block, **policy.config.formula).numpy()
    return result


def _pages(logs: Logs) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Index within the request of the items shown, in slot order: [R, P] (0 where there is none) and its mask."""
    rows = np.flatnonzero(logs.shown)
    request = logs.row_request[rows]
    order = np.lexsort((logs.position[rows], request))
    rows, request = rows[order], request[order]
    counts = np.bincount(request, minlength=logs.num_requests)
    mask = np.arange(max(int(counts.max(initial=0)), 1)) < counts[:, None]
    page = np.zeros(mask.shape, np.int64)
    page[mask] = rows - logs.offsets[request]
    return page, mask
