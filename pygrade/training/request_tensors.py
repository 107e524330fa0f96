"""Requests of a log as tensors, padded to N candidates: what both stages compute on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pygrade import ops
from pygrade.training.propensity import SlotPropensity
from pygrade.training.steps import draw_values

T = TypeVar("T")


@dataclass(frozen=True)
class LoggedPages:
    """What stage 1 learns from: the P slots of the logged pages."""

    item: Tensor  # int64 [R, P] candidate in each slot, 0 if empty
    mask: Tensor  # bool [R, P]
    value: Tensor  # [R, P] logged value, OEC
    propensity: Tensor  # [R, P] q(slot), floored; 1 if empty


@dataclass(frozen=True)
class Components:
    """What stage 2 learns from: the C components of the reward, C' of them ranked, in the order of `names`."""

    names: tuple[str, ...]  # ranked ones, then "format"
    weights: Tensor  # [C]
    gains: Tensor  # [R, N, C'], OEC
    masks: Tensor  # bool [R, L, N]: list 0 = the logged page, list 1 (only if N is padded) = all candidates
    lists: Tensor  # int32 [C'], the list that each component ranks, -1: all N
    bounds: Tensor | None  # [2, T], None: no format component


@dataclass(frozen=True)
class TradeOffs:
    """What a policy that takes multipliers u of the tasks' values learns from: labels and gains are linear in u."""

    spread: float  # sd of log u
    plain: float  # share of the requests with u = 1
    beta: float  # of the policy's inputs log(u + beta)
    value: Tensor  # [R, P, T] `LoggedPages.value` by task
    gains: Tensor  # [R, N, C, T] `Components.gains` by task

    @staticmethod
    def share(values: Tensor) -> Tensor:
        """u [B, T] over its mean, so that labels and rewards are of one size at all u."""
        return values / values.mean(1, keepdim=True)


@dataclass(frozen=True)
class RequestTensors:
    """R requests with what both stages learn from.

    The predictions are transformed once, here; training only multiplies.
    """

    inputs: Tensor  # [R, D] raw policy inputs
    exploration: Tensor  # [R] exploration factor of the request's scenario
    scores: Tensor  # [R, N, T] transformed predictions
    discount: Tensor  # [page_size]
    stage1: LoggedPages
    stage2: Components
    propensity: SlotPropensity
    trade_offs: TradeOffs | None = None  # of a policy that has them

    @property
    def num_requests(self) -> int:
        return self.scores.shape[0]

    def to(self, device: str) -> "RequestTensors":
        """The same on another device."""
        return _move(self, device)

    def select(self, rows: Tensor) -> "RequestTensors":
        """The same of requests rows [n]."""
        return with_requests(self, {name: values[rows] for name, values in by_request(self).items()})

    def join(self, others: Sequence["RequestTensors"]) -> "RequestTensors":
        """These requests and others, which are as long."""
        parts = [by_request(part) for part in (self, *others)]
        return with_requests(self, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})

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

    def inputs_seen(self, seed: int) -> Tensor:
        """Raw policy inputs [R, D] as training sees them: with multipliers drawn for every request."""
        return self.inputs_at(torch.arange(self.num_requests), self.draw_values(seed, 0, 0, self.num_requests))

    def scores_at(self, rows: Tensor) -> Tensor:
        """Transformed predictions [B, N, T] of requests rows [B]; `scores[rows]` takes three times as long."""
        return self.scores.index_select(0, rows)

    def page_scores_at(self, rows: Tensor) -> Tensor:
        """The same [B, P, T] of the items on the logged pages."""
        places = rows[:, None] * self.scores.shape[1] + self.stage1.item[rows]
        return self.scores.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)

    def valued(self) -> Tensor:
        """[n]: requests whose logged page has feedback of positive value."""
        worth = self.stage1.value if self.trade_offs is None else self.trade_offs.value.amax(-1)  # [R, P]
        return (worth > 0).any(1).nonzero()[:, 0]

    def labels_at(self, rows: Tensor, values: Tensor | None) -> Tensor:
        """Logged value [B, P] of pages rows [B] at multipliers u [B, T], over their mean; None: 1."""
        if values is None or self.trade_offs is None:
            return self.stage1.value[rows]
        return (self.trade_offs.value[rows] * self.trade_offs.share(values)[:, None]).sum(-1)

    def _gains_at(self, rows: Tensor, values: Tensor | None) -> Tensor:
        if values is None or self.trade_offs is None:
            return self.stage2.gains[rows]
        return (self.trade_offs.gains[rows] * self.trade_offs.share(values)[:, None, None]).sum(-1)

    def rewards(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Components [B, G, C] of the reward of weights [B, G, T] on requests rows [B]."""
        parts = self.stage2
        scores, gains, masks = self.scores_at(rows), parts.gains[rows], parts.masks[rows]
        ranked = ops.topk_gain(scores, weights, gains, len(self.discount), self.discount, masks, parts.lists)
        if parts.bounds is None:
            return ranked
        return torch.cat([ranked, ops.format_penalty(weights, parts.bounds)[..., None]], -1)

    def rollout(
        self,
        rows: Tensor,
        concentration: Tensor,
        num_samples: int,
        seed: int,
        weight_floor: float = 0.0,
        values: Tensor | None = None,
        first: int = 0,
    ) -> ops.Rollout:
        """Draw G weight vectors from Dirichlet(concentration[B, T]) for requests rows [B], and score them.

        values [B, T]: multipliers u, None: 1; first: place of the first row in a larger batch, whose draws these are.
        """
        parts = self.stage2
        return ops.rollout(
            concentration,
            self.scores_at(rows),
            self._gains_at(rows, values),
            len(self.discount),
            self.discount,
            num_samples,
            seed,
            first,
            masks=parts.masks[rows],
            component_list=parts.lists,
            weight_bounds=parts.bounds,
            weight_floor=weight_floor,
        )


def _move(part: T, device: str) -> T:
    if isinstance(part, Tensor):
        return part.to(device)  # type: ignore[return-value]
    if not is_dataclass(part):
        return part
    move = partial(_move, device=device)
    return replace(part, **{item.name: move(getattr(part, item.name)) for item in fields(part)})  # type: ignore[type-var]


def by_request(data: RequestTensors) -> dict[str, Tensor]:
    """The tensors that have a row for each request."""
    pages, parts = data.stage1, data.stage2
    tensors = {"inputs": data.inputs, "exploration": data.exploration, "scores": data.scores}
    tensors |= {f"page_{name}": getattr(pages, name) for name in ("item", "mask", "value", "propensity")}
    tensors |= {"gains": parts.gains, "masks": parts.masks}
    if data.trade_offs is not None:
        tensors |= {"value_by_task": data.trade_offs.value, "gains_by_task": data.trade_offs.gains}
    return tensors


def with_requests(data: RequestTensors, tensors: Mapping[str, Tensor]) -> RequestTensors:
    """The same with other requests: tensors as `by_request` gives them."""
    pages = {name: tensors[f"page_{name}"] for name in ("item", "mask", "value", "propensity")}
    trade_offs = data.trade_offs
    if trade_offs is not None:
        trade_offs = replace(trade_offs, value=tensors["value_by_task"], gains=tensors["gains_by_task"])
    return replace(
        data,
        inputs=tensors["inputs"],
        exploration=tensors["exploration"],
        scores=tensors["scores"],
        stage1=LoggedPages(**pages),
        stage2=replace(data.stage2, gains=tensors["gains"], masks=tensors["masks"]),
        trade_offs=trade_offs,
    )
