"""`Page`, the result of the ranker: items, the weights that ranked them, each task's contribution, log rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade._typing import Array
from pygrade._util.html_table import html_table
from pygrade._util.optional_imports import require
from pygrade.logs import Logs
from pygrade.logs.history import HistoryReason
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import Baseline
from pygrade.serving.page_table import page_table

_SHOWN = 3  # requests in a notebook, tasks of an explanation


class Ids(NamedTuple):
    """The caller's ids for the log; None: numbers."""

    request: Array | None  # [B]
    user: Array | None  # [B]
    item: Array | None  # [M]


@dataclass(eq=False, repr=False)
class Page:
    """The result of `BlendedRanker.rank` for B requests of T tasks, with what it was made from.

    `contributions` and `log_rows` read the arrays that `rank` was given: don't overwrite those before.
    """

    values: NDArray[np.float32]  # [B, k] final scores, best first unless the page is searched, padded with -inf
    indices: NDArray[np.int32]  # [B, k] places within the request, padded with -1
    weights: NDArray[np.float32]  # [B, T] served
    concentration: NDArray[np.float32]  # [B, T] output of the policy, NaN in fallback rows
    fallback: NDArray[np.bool_]  # [B] static weights were served for want of features
    explored: NDArray[np.bool_]  # [B] the weights are a Dirichlet draw
    seed: NDArray[np.uint64]  # [B] its coordinates, 0 without one
    policy: FusionPolicy  # that ranked
    policy_version: str  # its `version`
    context: NDArray[np.float32]  # [B, F], NaN if unknown
    request_values: NDArray[np.float32] | None  # [B, T] of the tasks, that ranked; None: the policy's weights did
    first_number: int  # number of the first request, the id of those without one
    predictions: NDArray[np.float32]  # [B, N, T], or [M, T] with bounds, as they were given
    bounds: NDArray[np.int64] | None  # [B + 1]
    scenario: str | Sequence[str] | None  # of all requests, or one each
    item_values: NDArray[np.float32] | None  # one for each candidate: prices
    ids: Ids  # of the caller, for the log
    item_columns: NDArray[np.float32] | None = None  # [M, I] or [B, N, I] of the policy's correction
    categories: Sequence[str | None] | None = None  # M names of the candidates
    embeddings: NDArray[np.float32] | None = None  # of the candidates, d numbers each
    as_logged: bool = False  # the predictions are on no other scale
    moves: tuple[Array, Array, Array, Array] | None = None  # of searched pages: `searched`, `effects`, `explain_move`

    def __repr__(self) -> str:
        batch, k = self.indices.shape
        return f"Page(requests={batch}, k={k}, tasks={self.tasks}, policy_version={self.policy_version!r})"

    @property
    def tasks(self) -> tuple[str, ...]:
        """T names in the order of the weights."""
        return self.policy.tasks

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """The predictions [M, T] as a log has them, probabilities and amounts."""
        rows = self.predictions.reshape(-1, len(self.tasks))
        return rows if self.as_logged else self.policy.read_predictions(rows)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Return offsets [B + 1]: request b has the rows offsets[b] … offsets[b + 1] - 1."""
        if self.bounds is not None:
            return self.bounds
        batch, count = self.predictions.shape[:2]
        return np.arange(batch + 1, dtype=np.int64) * np.int64(count)

    @property
    def item_id(self) -> Array:
        """Return ids [M]; without the caller's ids the place within the request."""
        if self.ids.item is not None:
            return self.ids.item
        return np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @property
    def items(self) -> Array | None:
        """Return the caller's ids [B, k] of the page's items, best first, padded with -1 or ""; None without ids."""
        if self.ids.item is None:
            return None
        filled = np.nonzero(self.indices >= 0)
        text = self.item_id.dtype.kind not in "iu"
        result: Array = np.full(self.indices.shape, "" if text else -1, object if text else np.int64)
        result[filled] = self.item_id[self.offsets[filled[0]] + self.indices[filled]]
        return result

    def to_polars(self) -> Any:
        """A polars frame with a row per item of the pages: request (its id, else its number), rank from 1 on, item
        (else its place within the request), score, and what each task contributed (``from_click``)."""
        request, slot = np.nonzero(self.indices >= 0)
        ids = np.arange(len(self.indices)) if self.ids.request is None else self.ids.request
        item = self.item_id[self.offsets[request] + self.indices[request, slot]]
        columns = {"request": ids[request], "rank": slot + 1, "item": item, "score": self.values[request, slot]}
        parts = zip(self.tasks, self.contributions[request, slot].T, strict=True)
        return require("polars").DataFrame(columns | {f"from_{task}": part for task, part in parts})

    def to_pandas(self) -> Any:
        """`to_polars` as a pandas frame."""
        return self.to_polars().to_pandas()

    def _repr_html_(self) -> str:
        """A small table of each of the first requests, for notebooks."""
        tables = [self._table(b) for b in range(min(len(self.indices), _SHOWN))]
        left = len(self.indices) - len(tables)
        return "".join(tables) + (f"<p>… and {left:,} more requests</p>" if left else "")

    def _table(self, request: int) -> str:
        """The weights of a request, and its items with what each task, and the baseline, contributed."""
        who = request if self.ids.request is None else self.ids.request[request]
        source = "static weights" if self.fallback[request] else "drawn" if self.explored[request] else "policy"
        names = ", mixed with ".join(ranking.name for ranking in self.ranked_by)
        title = f"request {who}: " + (f"weights of {source}" if self.uses_network else names)
        title += f"; {moved}" if (moved := self.explain_correction(request)) else ""
        table = page_table(self.describe(request, title))
        return html_table(table.head, table.texts(), title, texts=2)

    def describe(self, request: int, title: str, static: NDArray[np.float32] | None = None) -> dict[str, Any]:
        """The record of a request: title, tasks, weights, their source, and items with score and contributions.

        Of a mixture also its mixture weight, baseline and verdict, and what the baseline contributed to each item.
        Where the weights rank nothing (``weighs`` is false), contributions are the amounts that the baseline, or what
        is mixed with it, adds, ``sum`` is their sum, and ``why`` says how it makes the score. static [T]: the best
        static weights, for their difference from the page's.
        """
        mixed = 0.0 < self.mixture_weight < 1.0 and not self.by_values
        places = [int(index) for index in self.indices[request] if index >= 0]
        return {
            "title": title,
            "tasks": list(self.tasks),
            "weighs": self.uses_network,
            "weights": self.weights[request].astype(float).tolist(),
            "fallback": bool(self.fallback[request]),
            "explored": bool(self.explored[request]),
            "why": self.explain(request, static),
            "mixture_weight": self.mixture_weight,
            "baseline": self.baseline,
            "verdict": self.verdict,
            "items": [
                {
                    "item_id": self.item_id[int(self.offsets[request]) + index].item(),
                    "score": float(self.values[request, slot]),
                    "contributions": self.contributions[request, slot].astype(float).tolist(),
                    **({} if self.uses_network else {"sum": float(self.contributions[request, slot].sum())}),
                    **({"baseline": float(self.baseline_contribution[request, slot])} if mixed else {}),
                    **({"move": move} if (move := self.explain_move(request, slot)) else {}),
                    **({"history": [reason.text for reason in reasons]} if reasons else {}),
                }
                for slot, (index, reasons) in enumerate(zip(places, self.explain_history(request), strict=True))
            ],
        }

    @property
    def searched(self) -> NDArray[np.bool_]:
        """Return where [B] page terms built the page, so that the items above counted; otherwise it is sorted by score.

        A policy without page terms, drawn weights, and a request without categories and embeddings make a sorted page.
        """
        return np.zeros(len(self.indices), np.bool_) if self.moves is None else self.moves[0]

    @property
    def effects(self) -> NDArray[np.float32]:
        """Return E [B, k] of each page item. exp(E) multiplies the part of its score that needs the root task of the
        page terms; 0 of what nothing above moves, and of pages that were not searched."""
        return np.zeros(self.indices.shape, np.float32) if self.moves is None else self.moves[1]

    def explain_move(self, request: int, slot: int) -> str:
        """The effect of the items above on the item of a slot, such as "moved down 3: 2 like it above, click × 0.62":
        its place without page terms, the number of items above whose own term is at least 0.01 and has the sign of E,
        and exp(E). "" if nothing moved it."""
        correction = self.policy.correction
        if self.moves is None or not self.searched[request] or correction is None or correction.page_terms is None:
            return ""
        _, effects, above, places = (array[request] for array in self.moves)
        root = correction.page_terms.root
        return _core.describe_move(float(effects[slot]), int(above[slot]), int(places[slot]), slot, root)

    def explain_history(self, request: int) -> list[list[HistoryReason]]:
        """The reasons of each item of a request's page by what the user was shown before and did and what the item
        earned, at most two an item; none of a policy that reads no history."""
        places = self.indices[request]
        return self.policy.history_reasons(request, places[places >= 0], *self._scored)

    def explain(self, request: int, static: NDArray[np.float32] | None) -> str:
        """The source of a request's weights, their largest differences from the static weights, what they are mixed
        with, and what the correction and page terms did, as text.
        """
        moved = "; ".join(filter(None, (self.explain_correction(request), self._search_text(request))))
        if self.mixture_weight == 0.0 and not self.by_values:
            assert self.policy.mixture is not None
            source = f"ranked by {self.baseline} alone, not by weights (verdict: {self.verdict})"
            return "; ".join(filter(None, (source, self._score_text(request), moved)))
        parts = [self._source(request, static) if self.uses_network else f"ranked by {self.ranked_by[0].name}"]
        parts += [moved] if moved else []
        parts += [] if self.uses_network else [self._score_text(request)]
        if self.request_values is not None and self.policy.task_values is not None:
            worth = np.array(self.policy.task_values, np.float32)
            pairs = zip(self.tasks, self.request_values[request], worth, strict=True)
            if others := [f"{task} {value:g}" for task, value, own in pairs if value != own]:
                parts.append("values: " + ", ".join(others))
        if self.baseline and not self.by_values:
            parts.append(f"mixture weight {self.mixture_weight:.2f} against {self.baseline} (verdict: {self.verdict})")
        return "; ".join(parts)

    def _search_text(self, request: int) -> str:
        """Number of items that stand elsewhere than by their scores, in words; "" of a page that is not searched."""
        if self.moves is None or not self.searched[request]:
            return ""
        filled = self.indices[request] >= 0
        count = int((self.moves[3][request] != np.arange(len(filled)))[filled].sum())
        return f"page terms moved {count} of {int(filled.sum())} items"

    def _score_text(self, request: int) -> str:
        """The sum that makes the score of a ranking without the network from its contributions, in words."""
        ranking, mixed = self.ranked_by[0], len(self.ranked_by) == 2
        values = None if self.request_values is None else self.request_values[request]
        logarithm = ranking.logarithm and not (self.by_values and values is not None and bool((values < 0).any()))
        form = "score: " + ("the logarithm of the sum" if logarithm else "the sum") + " of the contributions"
        form += "" if self.by_values or self.mixture_weight == 1.0 else ", standardized over the candidates"
        return form + (f", times {self.mixture_weight:g}, plus the share of {self.baseline}" if mixed else "")

    def _source(self, request: int, static: NDArray[np.float32] | None) -> str:
        if self.fallback[request]:
            return "features are missing: static weights"
        source = "drawn from the policy's Dirichlet" if self.explored[request] else "chosen by the policy"
        if static is None:
            return source
        shift = 100 * (self.weights[request] - static)
        order = np.argsort(-np.abs(shift))[:3]
        moved = [f"{self.tasks[t]} {shift[t]:+.1f}" for t in order if abs(shift[t]) >= 0.05]
        return f"{source}; points from best static: {', '.join(moved) or 'none'}"

    @property
    def mixture_weight(self) -> float:
        """The share λ of the policy in the scores; the rest is the baseline's."""
        return 1.0 if self.policy.mixture is None else self.policy.mixture.mixture_weight

    @property
    def baseline(self) -> str:
        """Name of the baseline that the policy is mixed with, or ""."""
        return "" if self.policy.mixture is None else self.policy.mixture.baseline.name

    @property
    def verdict(self) -> str:
        """The log's verdict on the policy against the baseline, or ""."""
        return "" if self.policy.mixture is None else self.policy.mixture.verdict

    @property
    def ranked_by(self) -> tuple[Baseline, ...]:
        """Rankings that make the scores, other than the network: challenger, then baseline; () if there are none."""
        mixture = self.policy.mixture
        if mixture is None:
            return ()
        alone = mixture.expected_value if self.by_values else None
        return mixture.ranked_by if alone is None else (alone,)

    @property
    def uses_network(self) -> bool:
        """The fusion weights affect the scores."""
        mixture = self.policy.mixture
        return mixture is None or (mixture.uses_network and not self.by_values)

    @property
    def by_values(self) -> bool:
        """The request's values made an expected value rank alone, because the policy has no trade-offs."""
        return self.request_values is not None and not self.policy.config.trade_offs

    @cached_property
    def contributions(self) -> NDArray[np.float32]:
        """Contribution of each task to the score of each page item, [B, k, T]. 0 in padding.

        Of a policy served alone w_t · f_t(p_jt); in a mixture λ · w_t · (f_t(p_jt) - mean) / (sd + ε), with the mean of
        f_t and the sd of the policy's score over the request. With `baseline_contribution` they add up to the score.
        Where weights do not count (`uses_network`) it is what the first of `ranked_by` adds up: of an expected value
        each task's value times its prediction, corrected if it is corrected, and times the price.
        Boosts and page terms come after it and are not in it. An item with a missing prediction has NaN.
        """
        return self._of_page(self._parts[0])

    @cached_property
    def baseline_contribution(self) -> NDArray[np.float32]:
        """Contribution of the baseline to the score of each page item, [B, k]: (1 - λ) times its standardized score."""
        return self._of_page(self._parts[1][:, None])[:, :, 0]

    @cached_property
    def _parts(self) -> tuple[Array, Array, Array | None]:
        """`FusionPolicy.score_parts` of the candidates by the weights that were served."""
        return self.policy.score_parts(self.weights, *self._scored)

    @property
    def _scored(self) -> tuple[Any, ...]:
        """The arguments of `FusionPolicy.scores`."""
        request = self.context, self.rows, self.offsets, self.scenario
        return *request, self.request_values, self.item_values, self._item_rows

    @cached_property
    def corrections(self) -> NDArray[np.float32] | None:
        """Return [B, T] factors of the correction: a task's corrected predictions of the page's items, summed, over the
        predictions given; 1 on an empty page. None if nothing reads corrected predictions.
        """
        if (rows := self._parts[2]) is None:
            return None
        raw = np.where(np.isnan(rows), np.nan, self.rows)
        predicted, corrected = (
            np.nan_to_num(self._of_page(predictions)).astype(np.float64).sum(1) for predictions in (raw, rows)
        )
        factors: Array = np.divide(corrected, predicted, out=np.ones_like(predicted), where=predicted > 0)
        return factors.astype(np.float32)

    def explain_correction(self, request: int) -> str:
        """The largest factors of `corrections` as text, each with the feature that moves it most, such as "order × 1.8
        (returning 1), click × 0.9 (hour 23) for this request"; "" without one that differs from 1 by .05.
        """
        correction = self.policy.correction
        if self.corrections is None or correction is None:
            return ""
        factors = self.corrections[request].clip(1e-6)
        order = np.argsort(-np.abs(np.log(factors)), kind="stable")[:_SHOWN]
        moved = []
        for t in order:
            if abs(factors[t] - 1.0) >= 0.05:
                cause = correction.find_cause(self.context[request], int(t), bool(factors[t] > 1.0))
                moved.append(f"{self.tasks[t]} × {factors[t]:.2g}" + (f" ({cause})" if cause else ""))
        return ", ".join(moved) + " for this request" if moved else ""

    @property
    def _item_rows(self) -> NDArray[np.float32] | None:
        """Return the item columns [M, I]; None if there are none."""
        correction = self.policy.correction
        if self.item_columns is None or correction is None or not correction.items:
            return None
        return np.asarray(self.item_columns, np.float32).reshape(-1, len(correction.items))

    def _of_page(self, parts: Array) -> NDArray[np.float32]:
        """Return parts [B, k, C] of the page of parts [M, C] of the candidates; 0 in padding."""
        result = np.zeros((*self.indices.shape, parts.shape[1]), np.float32)
        filled = np.nonzero(self.indices >= 0)
        result[filled] = parts[self.offsets[filled[0]] + self.indices[filled]]
        return result

    def _item_similarity(self, keep: NDArray[np.bool_]) -> dict[str, Any]:
        """Category and embedding of the candidates that the log keeps, as fields of `Logs`; what was given."""
        similarity: dict[str, Any] = {}
        if self.categories is not None:
            similarity["category"] = np.array([name or "" for name in self.categories])[keep]
        if self.embeddings is not None:
            vectors = self.embeddings.reshape(len(keep), -1)[keep]
            has_vector = np.isfinite(vectors).all(1) & vectors.any(1)
            distinct, number = np.unique(vectors[has_vector], axis=0, return_inverse=True)
            similarity["embedding"] = np.full(len(vectors), -1, np.int32)
            similarity["embedding"][has_vector] = number
            similarity["embeddings"] = distinct
        return similarity

    def log_rows(
        self,
        feedback: NDArray[np.float32] | None = None,
        timestamp: NDArray[np.int64] | None = None,
        task_values: tuple[float, ...] = (),
    ) -> Logs:
        """The requests as `Logs`: every candidate with its predictions, its slot, and the weights that ranked it.

        ``feedback`` [B, k, T] per page slot; without it feedback is 0 everywhere: join yours by request_id and item_id
        before training. A candidate with a missing prediction is left out unless it was shown; then the smallest
        prediction of the task in the request stands in. Requests without candidates are left out. ``timestamp`` [B]
        int64, ms since 1970. ``task_values``: see `Logs`.
        """
        (batch, k), tasks = self.indices.shape, len(self.tasks)
        if feedback is not None and np.shape(feedback) != (batch, k, tasks):
            raise ValueError(f"feedback has shape {np.shape(feedback)}; expected {(batch, k, tasks)}")
        offsets, predictions = self.offsets, self.rows.copy()
        request = np.repeat(np.arange(batch), np.diff(offsets))  # [M]
        filled = np.nonzero(self.indices >= 0)
        shown = offsets[filled[0]] + self.indices[filled]  # rows of the page items
        position = np.full(len(request), -1, np.int32)
        position[shown] = filled[1]
        labels = np.zeros(predictions.shape, np.float32)
        if feedback is not None:
            labels[shown] = feedback[filled]
        missing = missing_candidates(predictions)
        for b in np.unique(request[missing & (position >= 0)]):
            _fill_missing(predictions[offsets[b] : offsets[b + 1]])
        keep = ~missing | (position >= 0)  # [M]
        sizes = np.bincount(request[keep], minlength=batch)
        some = sizes > 0  # [B]
        columns, correction = self._item_rows, self.policy.correction
        own = () if columns is None or correction is None else correction.own_items  # levels are the policy's
        number = np.arange(self.first_number, self.first_number + batch)
        scenario = np.broadcast_to(np.array(self.scenario, dtype=str), batch) if self.scenario is not None else None
        return Logs(
            tasks=self.tasks,
            features=tuple(self.policy.features),
            request_id=(number if self.ids.request is None else self.ids.request)[some],
            user_id=(number if self.ids.user is None else self.ids.user)[some],
            offsets=np.concatenate([[0], np.cumsum(sizes[some])]).astype(np.int64),
            context=self.context[some],
            item_id=self.item_id[keep],
            position=position[keep],
            predictions=predictions[keep],
            feedback=labels[keep],
            task_values=task_values,
            scenario=None if scenario is None else scenario[some],
            weights=self.weights[some],
            concentration=np.where(self.explored[:, None], self.concentration, np.float32(np.nan))[some],
            seed=self.seed[some],
            policy_version=np.full(int(some.sum()), self.policy_version),
            exploration=np.where(self.explored[some], "dirichlet", "none"),
            timestamp=None if timestamp is None else np.asarray(timestamp, np.int64)[some],
            mixture_weight=np.full(int(some.sum()), self.mixture_weight, np.float32),
            baseline=np.full(int(some.sum()), self.baseline),
            verdict=np.full(int(some.sum()), self.verdict),
            request_values=None if self.request_values is None else self.request_values[some],
            value=None if self.item_values is None else self.item_values.reshape(-1)[keep],
            scales=self.policy.scales,
            **self._item_similarity(keep),
            items=own,
            item_features=None
            if columns is None or not own
            else np.where(np.isfinite(columns), columns, np.float32(np.nan))[keep, : len(own)],
        )


def missing_candidates(predictions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether a prediction of the candidate, row of [M, T], is NaN or infinite, bool, of shape [M]."""
    missing: NDArray[np.bool_] = np.any(~np.isfinite(predictions), axis=1)
    return missing


def _fill_missing(predictions: NDArray[np.float32]) -> None:
    """Put the smallest prediction of each task of a request [N, T] in the place of missing ones; 0 without any."""
    present = np.isfinite(predictions)
    smallest = np.where(present, predictions, np.inf).min(0)
    np.copyto(predictions, np.where(np.isinf(smallest), np.float32(0.0), smallest), where=~present)
