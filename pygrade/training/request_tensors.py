"""Requests of a log as tensors, padded to N candidates: what both stages compute on."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pygrade import ops
from pygrade.training.propensity import SlotPropensity
from pygrade.training.steps import draw_values

_BY_REQUEST = (
    *("inputs", "exploration", "scores", "page_item", "page_mask", "page_value", "page_propensity"),
    *("gains", "masks", "value_by_task", "gains_by_task"),
)


@dataclass(frozen=True)
class TradeOffs:
    """Distribution of the multipliers u of the tasks' values, for a policy that takes them."""

    spread: float  # sd of log u
    plain: float  # share of the requests with u = 1
    beta: float  # of the policy's inputs log(u + beta)


@dataclass(frozen=True)
class RequestTensors:
    """R requests with what both stages learn from: stage 1 from the P slots of the logged pages, stage 2 from the C
    components of the reward, C' of them ranked.

    The predictions are transformed once, here; training only multiplies. Labels and gains are linear in u.
    """

    inputs: Tensor  # [R, D] raw policy inputs
    exploration: Tensor  # [R] exploration factor of the request's scenario
    scores: Tensor  # [R, N, T] transformed predictions
    page_item: Tensor  # int64 [R, P] candidate in each slot, 0 if empty
    page_mask: Tensor  # bool [R, P]
    page_value: Tensor  # [R, P] logged value, OEC
    page_propensity: Tensor  # [R, P] q(slot), floored; 1 if empty
    gains: Tensor  # [R, N, C'], OEC
    masks: Tensor  # bool [R, L, N]: list 0 = the logged page, list 1 (only if N is padded) = all candidates
    discount: Tensor  # [page_size]
    components: tuple[str, ...]  # ranked ones, then "format"
    component_weights: Tensor  # [C]
    lists: Tensor  # int32 [C'], the list that each component ranks, -1: all N
    bounds: Tensor | None  # [2, T], None: no format component
    propensity: SlotPropensity
    trade_offs: TradeOffs | None = None  # of a policy that has them, as the next two
    value_by_task: Tensor | None = None  # [R, P, T] `page_value`
    gains_by_task: Tensor | None = None  # [R, N, C, T] `gains`

    @property
    def num_requests(self) -> int:
        return self.scores.shape[0]

    def to(self, device: str) -> "RequestTensors":
        """Move the tensors to another device."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def by_request(self) -> dict[str, Any]:
        """The tensors that have a row for each request."""
        return {name: tensor for name in _BY_REQUEST if (tensor := getattr(self, name)) is not None}

    def select(self, rows: Tensor) -> "RequestTensors":
        """Select requests rows [n]."""
        return replace(self, **{name: values[rows] for name, values in self.by_request().items()})

    def draw_values(self, seed: int, stage: int, step: int, count: int) -> Tensor | None:
        """Multipliers u [count, T] of a step; None without trade-offs."""
        if self.trade_offs is None:
            return None
        sizes = (count, self.scores.shape[-1], self.trade_offs.spread, self.trade_offs.plain)
        return draw_values(seed, stage, step, *sizes).to(self.scores.device)

    def inputs_at(self, rows: Tensor, values: Tensor | None) -> Tensor:
        """Raw policy inputs [B, D] of requests rows [B] at multipliers u [B, T]; None: as served by default."""
        inputs = self.inputs[rows]
        if values is None or self.trade_offs is None:
            return inputs
        logs = torch.log(values.double() + self.trade_offs.beta).to(inputs)
        return torch.cat([inputs[:, : -values.shape[1]], logs], 1)

    def scores_at(self, rows: Tensor) -> Tensor:
        """Transformed predictions [B, N, T] of requests rows [B]; `scores[rows]` takes three times as long."""
        return self.scores.index_select(0, rows)

    def page_scores_at(self, rows: Tensor) -> Tensor:
        """Transformed predictions [B, P, T] of the items on the logged pages of requests rows [B]."""
        places = rows[:, None] * self.scores.shape[1] + self.page_item[rows]
        return self.scores.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)

    def rewarded(self) -> Tensor:
        """Return the requests [n] whose logged page has feedback of positive value."""
        worth = self.page_value if self.value_by_task is None else self.value_by_task.amax(-1)  # [R, P]
        return (worth > 0).any(1).nonzero()[:, 0]

    def labels_at(self, rows: Tensor, values: Tensor | None) -> Tensor:
        """Logged value [B, P] of pages rows [B] at multipliers u [B, T], over their mean; None: 1."""
        if values is None or self.value_by_task is None:
            return self.page_value[rows]
        return (self.value_by_task[rows] * _share(values)[:, None]).sum(-1)

    def _gains_at(self, rows: Tensor, values: Tensor | None) -> Tensor:
        if values is None or self.gains_by_task is None:
            return self.gains[rows]
        return (self.gains_by_task[rows] * _share(values)[:, None, None]).sum(-1)

    def rewards(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Components [B, G, C] of the reward of weights [B, G, T] on requests rows [B]."""
        scores, gains, masks = self.scores_at(rows), self.gains[rows], self.masks[rows]
        ranked = ops.topk_gain(scores, weights, gains, len(self.discount), self.discount, masks, self.lists)
        if self.bounds is None:
            return ranked
        return torch.cat([ranked, ops.format_penalty(weights, self.bounds)[..., None]], -1)

    def rollout(
        self,
        rows: Tensor,
        concentration: Tensor,
        num_samples: int,
        seed: int,
        weight_floor: float = 0.0,
        values: Tensor | None = None,
    ) -> ops.Rollout:
        """Draw G weight vectors from Dirichlet(concentration[B, T]) for requests rows [B], and score them.

        values [B, T]: multipliers u, None: 1.
        """
        return ops.rollout(
            concentration,
            self.scores_at(rows),
            self._gains_at(rows, values),
            len(self.discount),
            self.discount,
            num_samples,
            seed,
            0,
            masks=self.masks[rows],
            component_list=self.lists,
            weight_bounds=self.bounds,
            weight_floor=weight_floor,
        )


def _share(values: Tensor) -> Tensor:
    """Return u [B, T] over its mean, so that labels and rewards are of one size at all u."""
    return values / values.mean(1, keepdim=True)
