"""`Page`, what the ranker returns: the ranking, the weights that made it, what each task contributed, and its log
rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade import ops
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy


@dataclass(eq=False)
class Page:
    """The result of `BlendedRanker.rank` for B requests of T tasks.

    ``values`` [B, k] float32 final scores and ``indices`` [B, k] int32 places within the request, best first, padded
    with -inf and -1. ``weights`` [B, T] float32 are the weights that were served, ``concentration`` [B, T] float32 what
    the policy chose (NaN in fallback rows). ``fallback`` [B] bool: static weights were served for want of features.
    ``explored`` [B] bool: the weights are a Dirichlet draw, whose coordinates ``seed`` [B] uint64 records (0
    elsewhere). `contributions` and `log_rows` read the arrays that `rank` was given: don't overwrite those before.
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    concentration: NDArray[np.float32]
    fallback: NDArray[np.bool_]
    explored: NDArray[np.bool_]
    seed: NDArray[np.uint64]
    tasks: tuple[str, ...]
    source: "Source"

    @cached_property
    def contributions(self) -> NDArray[np.float32]:
        """w_t · f_t(p_jt) of each page item, [B, k, T]: they add up to its fused score. 0 where the page is padded.

        Boosts come after the fusion and are not in it. An item with a missing prediction has NaN.
        """
        transformed = self.source.transformed()  # [M, T]
        rows = self.source.offsets[:-1, None] + np.maximum(self.indices, 0)
        picked = np.zeros((*self.indices.shape, len(self.tasks)), np.float32)
        filled = self.indices >= 0
        picked[filled] = transformed[rows[filled]]
        return picked * self.weights[:, None, :]

    def log_rows(
        self,
        feedback: NDArray[np.float32] | None = None,
        timestamp: NDArray[np.int64] | None = None,
        task_values: tuple[float, ...] = (),
    ) -> Logs:
        """The requests as `Logs`: every candidate with its predictions, the slots shown, and the weights that did it.

        ``feedback`` [B, k, T] per page slot; without it feedback is 0 everywhere: join yours by request_id and item_id
        before training. A candidate with a NaN prediction that was not shown is left out; a shown one is kept, with the
        request's smallest prediction of that task in the place of NaN; a request left without candidates is left out.
        ``timestamp`` [B] int64, ms since 1970. ``task_values``: see `Logs`.
        """
        return self.source.log(self, feedback, timestamp, task_values)


@dataclass(eq=False, slots=True)
class Source:
    """What a page was made from: kept as it came, worked out when asked for."""

    policy: FusionPolicy
    version: str
    context: NDArray[np.float32]  # [B, F], NaN where unknown
    given: NDArray[np.float32]  # predictions [B, N, T], or [M, T] with bounds
    bounds: NDArray[np.int64] | None  # [B + 1]
    names: str | Sequence[str] | None  # scenarios: one for all requests, or one each
    first: int  # number of the first request, the id of those without one
    ids: tuple[NDArray[Any] | None, ...] | None  # of requests [B], users [B] and items [M]

    @property
    def predictions(self) -> NDArray[np.float32]:  # [M, T]
        return self.given.reshape(-1, len(self.policy.tasks))

    @property
    def offsets(self) -> NDArray[np.int64]:  # [B + 1]
        if self.bounds is not None:
            return self.bounds
        batch, count = self.given.shape[:2]
        return np.arange(batch + 1, dtype=np.int64) * np.int64(count)

    @property
    def missing(self) -> NDArray[np.bool_]:  # [M] a prediction is NaN
        found: NDArray[np.bool_] = np.any(np.isnan(self.predictions), axis=1)
        return found

    @property
    def item_id(self) -> NDArray[Any]:  # [M]
        own = None if self.ids is None else self.ids[2]
        starts, sizes = self.offsets[:-1], np.diff(self.offsets)
        return np.arange(len(self.predictions)) - np.repeat(starts, sizes) if own is None else own

    def number(self, place: int) -> NDArray[Any]:
        """The ids [B] of the requests (place 0) or the users (1)."""
        own = None if self.ids is None else self.ids[place]
        return np.arange(self.first, self.first + len(self.context)) if own is None else own

    @property
    def scenario(self) -> NDArray[Any] | None:  # [B]
        if self.names is None:
            return None
        return np.array([self.names] * len(self.context) if isinstance(self.names, str) else self.names, dtype=str)

    def transformed(self) -> NDArray[np.float32]:
        return transform(self.policy, self.predictions, self.offsets, self.missing).numpy()

    def log(
        self,
        page: Page,
        feedback: NDArray[np.float32] | None,
        timestamp: NDArray[np.int64] | None,
        task_values: tuple[float, ...],
    ) -> Logs:
        k, tasks = page.indices.shape[1], len(page.tasks)
        if feedback is not None and np.shape(feedback) != (len(page.indices), k, tasks):
            raise ValueError(f"feedback has shape {np.shape(feedback)}; want {(len(page.indices), k, tasks)}")
        offsets, missing, scenario = self.offsets, self.missing, self.scenario
        request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        filled = page.indices >= 0
        rows = (offsets[:-1, None] + np.maximum(page.indices, 0))[filled]
        position = np.full(len(missing), -1, np.int32)
        position[rows] = np.broadcast_to(np.arange(k, dtype=np.int32), page.indices.shape)[filled]
        given = np.zeros((len(missing), tasks), np.float32)
        if feedback is not None:
            given[rows] = feedback[filled]
        predictions = self.predictions.copy()
        for row in np.flatnonzero(missing & (position >= 0)):
            own = self.predictions[request == request[row]]
            floor = np.nan_to_num(np.where(np.isnan(own), np.inf, own).min(0), posinf=0.0)
            predictions[row] = np.where(np.isnan(predictions[row]), floor, predictions[row])
        keep = ~missing | (position >= 0)  # [M]
        sizes = np.bincount(request[keep], minlength=len(offsets) - 1)
        some = sizes > 0  # [B]
        return Logs(
            tasks=page.tasks,
            features=tuple(self.policy.features),
            request_id=self.number(0)[some],
            user_id=self.number(1)[some],
            offsets=np.concatenate([[0], np.cumsum(sizes[some])]).astype(np.int64),
            context=self.context[some],
            item_id=self.item_id[keep],
            position=position[keep],
            predictions=predictions[keep],
            feedback=given[keep],
            task_values=task_values,
            scenario=None if scenario is None else scenario[some],
            weights=page.weights[some],
            concentration=np.where(page.explored[:, None], page.concentration, np.float32(np.nan))[some],
            seed=page.seed[some],
            policy_version=np.full(int(some.sum()), self.version),
            exploration=np.where(page.explored[some], "dirichlet", "none"),
            timestamp=None if timestamp is None else np.asarray(timestamp, np.int64)[some],
        )


def transform(
    policy: FusionPolicy, rows: NDArray[np.float32], bounds: NDArray[np.int64], missing: NDArray[np.bool_]
) -> Tensor:
    """Transformed predictions [M, T]; rows with a NaN stay out of the statistics and become NaN."""
    clean, clean_bounds = present(rows, bounds, missing)
    scores = ops.transform_scores(
        torch.from_numpy(clean), offsets=torch.from_numpy(clean_bounds), **policy.config.formula
    )
    result = torch.full(rows.shape, torch.nan)
    result[torch.from_numpy(~missing)] = scores.float()
    return result


def present(
    rows: NDArray[np.float32], bounds: NDArray[np.int64], missing: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows without a NaN, and their offsets."""
    if not missing.any():
        return rows, bounds
    before = np.concatenate([[0], np.cumsum(~missing)])
    return rows[~missing], before[bounds].astype(np.int64)
