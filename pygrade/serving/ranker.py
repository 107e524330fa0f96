"""`BlendedRanker`: a saved policy in front of the blended-ranking op, ready for a Python server.

The policy corrects the task predictions by the request's features and chooses task weights from these; the op fuses
predictions by weights, applies masks, boosts and caps, and returns the page. Requests without features get static
weights, and are counted. The C++ core does the work (Ranker of <pygrade/ranker.hpp>): servers that link it get the same
pages.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from pygrade import _core
from pygrade._typing import Array
from pygrade.evaluation.policy_estimates import item_inputs, match_policy
from pygrade.evaluation.verdict import verdict_of
from pygrade.logs import Logs, encode
from pygrade.logs.table import is_table
from pygrade.ops.checks import integer
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import request_values
from pygrade.serving.frames import OF_ROWS, Names, add_columns, place_rows, read_frame, read_once
from pygrade.serving.page import Ids, Page
from pygrade.serving.run_copy import policy_of
from pygrade.storage import Place, is_url

_MAX = (1 << 31) - 1  # of k and of seeds
_NO_IDS = Ids(None, None, None)
Context = ArrayLike | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Features of the requests, as arrays or by name."""


class RequestFields(TypedDict, total=False):
    """Fields of requests beside context and predictions, see `BlendedRanker.rank`."""

    offsets: ArrayLike | None  # [B + 1]: the rows of a jagged request
    mask: ArrayLike | None  # bool [B, N] or [M]; False: never shown
    boost_mul: ArrayLike | None  # [B, N] or [M]: factors on the scores
    boost_add: ArrayLike | None  # [B, N] or [M], added after the factors
    groups: ArrayLike | None  # int [B, N, A] or [M, A], such as a seller's number; negative: none
    caps: ArrayLike | None  # int [A]: most items of one group on a page; -1: any number
    cap_slots: ArrayLike | None  # int [A]: first slots that the cap counts; -1: all
    decay: ArrayLike | None  # [A]: factor in (0, 1] for each item above of the same group
    pins: ArrayLike | None  # int [B, k]: the candidate of a slot; -1: none
    demoted: ArrayLike | None  # bool [B, N] or [M]: after all others, unless pinned
    scenario: str | Sequence[str] | None  # of all requests, or one each
    explore: bool  # serve a draw of the Dirichlet instead of its mean
    seed: int | None  # of the draws of this call, from 0 to 2³¹ - 1; None: the ranker's stream
    draw: int | None  # the ``seed`` of a log row, whose draw is made again
    values: Mapping[str, float] | Sequence[Mapping[str, float]] | ArrayLike | None  # worth of an event by task
    item_values: ArrayLike | None  # [B, N] or [M]: prices
    production_scores: ArrayLike | None  # [B, N] or [M]: what production ranks by; only a service's arm reads them
    items: ArrayLike | None  # [B, N, I] or [M, I]: item columns of the correction; NaN: unknown
    categories: ArrayLike | Sequence[Any] | None  # [B, N] or [M] names; "": unknown
    embeddings: ArrayLike | None  # [B, N, d] or [M, d]; 0 or not finite: unknown
    page_terms: bool  # False: the page in the order of the scores
    as_logged: bool  # predictions are probabilities and amounts, as in a log


class BlendedRanker:
    """Ranks requests through a policy and the blended-ranking op. `rank` may be called from many threads at once."""

    def __init__(self, policy: FusionPolicy, seed: int | None = None) -> None:
        """``seed`` (0 … 2³¹ - 1) starts the exploration stream; None takes one from the operating system."""
        start = int.from_bytes(os.urandom(4), "little") >> 1 if seed is None else integer("seed", seed, 0, _MAX)
        self._core = _core.Ranker(_core.Policy(*policy.artifact()), policy.eval(), start)

    @property
    def policy(self) -> FusionPolicy:
        """The policy in service."""
        policy: FusionPolicy = self._core.policy
        return policy

    @property
    def version(self) -> str:
        """Its version."""
        return self._core.version

    def publish(self, policy: FusionPolicy) -> None:
        """Serve another policy of the same tasks, features and formula from the next `rank` on.

        Calls under way end with the policy they began with; every page names the version that made it.
        """
        if policy.schema_hash() != self.policy.schema_hash():
            raise ValueError(
                f"the policy has schema_hash {policy.schema_hash()}; the ranker serves {self.policy.schema_hash()} "
                "(tasks, features and formula)"
            )
        self._core.swap(_core.Policy(*policy.artifact()), policy.eval())

    @classmethod
    def load(cls, path: Place, seed: int | None = None) -> BlendedRanker:
        """The ranker of a run's directory, or of a policy that `FusionPolicy.save` wrote, which may be at a URL;
        ``FileNotFoundError`` if there is none, other errors as of `FusionPolicy.load`."""
        return cls(FusionPolicy.load(path if is_url(path) else policy_of(Path(path))), seed)

    def __repr__(self) -> str:
        return f"<BlendedRanker {self.version[:12]}: {verdict_of(self.policy.mixture)}>"

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: ``requests``, ``fallback_scenario`` and ``fallback_global`` (served the scenario's or
        the global static weights), ``explored``, ``missing_predictions`` (candidates), ``empty_pages``,
        ``missing_items`` (pages of a policy that reads item columns, without any)."""
        return self._core.counters

    @overload
    def rank(self, context: Any, *, k: int | None = None, **rules: Any) -> Any: ...

    @overload
    def rank(
        self,
        context: Context,
        predictions: ArrayLike,
        k: int,
        *,
        request_id: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        item_id: ArrayLike | None = None,
        **fields: Unpack[RequestFields],
    ) -> Page: ...

    def rank(
        self,
        context: Any,
        predictions: Any = None,
        k: Any = None,
        *,
        request_id: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        item_id: ArrayLike | None = None,
        **fields: Any,
    ) -> Any:
        """The best ``k`` candidates of each of B requests; a frame or a log alone: `rank_frame` or `rank_log` of it.

        ``context`` [B, F] in the order of ``policy.features``, NaN or infinite: unknown; or raw values by name, a
        mapping a request, such as ``[{"hour": 20, "plan": "family"}]`` (`pygrade.logs.encode`); None, or a row without
        a known feature: that request is served the static weights of its ``scenario`` (a name, or one a request) if
        the policy has them, else the global ones.
        ``predictions`` [B, N, T], or jagged [M, T] with ``offsets`` [B + 1], on the scales of the table that the policy
        learned from (``policy.scales``): percentages, say, become probabilities; ``as_logged``: they are those of a log
        already. A candidate with a missing one (NaN or infinite) ranks last, with score NaN, and leaves the others'
        scores alone. ``mask`` bool, ``boost_mul``, ``boost_add`` [B, N] or [M]; ``groups`` int [B, N, A] or [M, A] with
        ``caps``, ``cap_slots`` and ``decay`` [A]: see `pygrade.rank`. ``pins`` int [B, k]: the candidate of a place,
        -1: none; ``demoted`` bool [B, N] or [M]: after all others, unless pinned.
        ``request_id``, ``user_id`` [B], ``item_id`` [B, N] or [M]: written to the log; a correction with item effects
        looks them up by ``item_id``. ``values``: the value of one event of each task, below 0 for harm: a mapping from
        task to number, one mapping a request, or an array [T] or [B, T]; NaN or left out: the policy's ``task_values``.
        Values need a policy with an expected value, which then ranks alone, or one trained with ``trade_offs``, where
        the sign of each must be that of the training.
        ``item_values`` [B, N] or [M]: prices, for a policy that needs them. ``items`` [B, N, I] or [M, I]: item columns
        in the order of ``policy.correction.items``, NaN or left out: unknown; a policy without a correction ignores
        them. ``categories`` [B, N] or [M], names, None or "": unknown; ``embeddings`` [B, N, d] or [M, d], a row that
        is not finite or 0: unknown. The page terms of ``policy.correction`` read them: each place of the page takes the
        item that is worth most below the items above it (`PageTerms`). The page is in the order of the scores if both
        are left out, if the weights are drawn, if the policy has no page terms, or with ``page_terms=False``.

        ``explore`` serves a draw of Dirichlet(concentration) instead of its mean, unprojected so that its logged
        density is exact; fallback requests never explore. The draw of a request, with the ``seed`` of its log row:
        ``dirichlet_sample(concentration, 1, seed >> 32, offset=seed & 0xffffffff)``. A ``seed`` (0 … 2³¹ - 1) given
        here replaces the ranker's stream for this call and counts its rows from 0: the same call gives the same draws.
        ``draw``, the ``seed`` of a log row, gives the draw of this row to the first request, the next to the others.

        ValueError or TypeError name the argument of a wrong shape or value, before anything is ranked or counted.
        """
        if (predictions is None or isinstance(predictions, int)) and (is_table(context) or isinstance(context, Logs)):
            return self.rank_any(context, predictions, k, **fields)
        policy, ids = self.policy, _NO_IDS
        offsets, items, categories = fields.get("offsets"), fields.get("items"), fields.get("categories")
        if request_id is not None or user_id is not None or item_id is not None or fields.get("values") is not None:
            *shape, _ = np.shape(predictions)
            batch = shape[0] if offsets is None else np.size(offsets) - 1
            item = _ids("item_id", item_id, math.prod(shape))
            ids = Ids(_ids("request_id", request_id, batch), _ids("user_id", user_id, batch), item)
            fields["values"] = request_values(fields.get("values"), policy.tasks, batch)
        if ids.item is not None and policy.correction is not None and policy.correction.item_effects is not None:
            columns = None if items is None else np.ascontiguousarray(items, np.float32)
            fields["items"] = policy.item_columns(ids.item, columns)
        if not (context is None or isinstance(context, np.ndarray)):
            context = _encoded(context, policy.features)
        if categories is not None:
            fields["categories"] = categories = np.asarray(categories, object).reshape(-1).tolist()
        page = _core.rank_pages(self._core, context=context, predictions=predictions, k=k, **fields)
        return Page(**page, scenario=fields.get("scenario"), ids=ids, categories=categories)

    def rank_log(self, logs: Logs, k: int, *, explore: bool = False, seed: int | None = None, **rules: Any) -> Page:
        """The page of each request of a log, with all that the log has of it: context, predictions, scenario, ids,
        prices, item columns, categories and embeddings. Tasks and features are found by name; those that the policy
        does not know are left out, with a warning. ``rules``: mask, boosts, groups, caps, values as in `rank`.
        """
        matched = match_policy(self.policy, logs)
        return self.rank(
            matched.context,
            matched.predictions,
            k,
            offsets=matched.offsets,
            scenario=None if matched.scenario is None else [str(name) for name in matched.scenario],
            explore=explore,
            seed=seed,
            request_id=matched.request_id,
            user_id=matched.user_id,
            item_id=matched.item_id,
            item_values=matched.value,
            items=item_inputs(self.policy, matched),
            **_page_inputs(self.policy, matched),
            **({"as_logged": True} | rules),
        )

    def rank_frame(self, frame: Any, k: int | None = None, *, names: Names = ("rank", "score"), **rules: Any) -> Any:
        """The frame with two more columns: each candidate's place in its request, from 1 on, and its score.

        frame: pandas, polars, an Arrow table, a DuckDB relation, a `datasets.Dataset` or a dict of columns, with a row
            per candidate; the result is one of the same library, in the same order. Columns are those that the training
            read (``policy.columns``), with its scales and levels; ids, feedback and slots need not be there. A frame
            without the column of the request is one request.
        k: the first places alone; the others are null. None: all candidates.
        names: of the new columns, which replace columns of these names.
        rules: as in `rank`, those of candidates with an entry for each row of the frame.

        ValueError names the columns that are missing, or the one that is wrong.
        """
        once = read_once(frame)
        logs, rows, as_logged = read_frame(self.policy, once, names)
        rules |= {name: np.asarray(rules[name])[rows] for name in OF_ROWS if rules.get(name) is not None}
        k = int(np.diff(logs.offsets).max()) if k is None else k
        page = self.rank_log(logs, k, as_logged=as_logged, **rules)
        return add_columns(once, *place_rows(page.indices, page.values, logs.offsets, rows), names, frame)

    def rank_any(self, given: Any, context: Context, k: int | None, **more: Any) -> Any:
        """`rank_frame`, `rank_log` or `rank`, by what is given; k: None: all candidates of a frame, else 10."""
        size = 10 if k is None else k
        if (table := is_table(given)) or isinstance(given, Logs):
            kind = "frame" if table else "log"
            if isinstance(context, int):
                raise TypeError(f"{context} is given beside a {kind}; if it is k, expected k={context}")
            if context is not None:
                raise ValueError(f"context is given beside a {kind}, which has its own; expected None")
            return self.rank_frame(given, k, **more) if table else self.rank_log(given, size, **more)
        return self.rank(context, given, size, **more)


def _page_inputs(policy: FusionPolicy, logs: Logs) -> dict[str, Any]:
    """Arguments of `rank` that page terms read of a log's candidates; none without page terms."""
    terms = None if policy.correction is None else policy.correction.page_terms
    if terms is None:
        return {}
    inputs: dict[str, Any] = {}
    if logs.category is not None and terms.categories:
        inputs["categories"] = logs.category.astype(str).tolist()
    if logs.embedding is not None and logs.embeddings is not None and terms.dimension:
        unknown = np.zeros((1, logs.embeddings.shape[1]), np.float32)
        inputs["embeddings"] = np.concatenate([logs.embeddings, unknown])[logs.embedding]
    return inputs


def _encoded(context: Any, features: Sequence[str]) -> Any:
    """The context as an array, of raw values by name; else as it is."""
    rows = [context] if isinstance(context, Mapping) else context
    if not (isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows)):
        return context
    columns = {name.partition("=")[0] for name in features}
    if unknown := [name for row in rows for name in row if name not in columns]:
        raise ValueError(f"context has {unknown[0]!r}; expected values of {', '.join(sorted(columns)) or 'no feature'}")
    return encode(features, rows)


def _ids(name: str, values: ArrayLike | None, count: int) -> Array | None:
    if values is None:
        return None
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; expected a plain one")
    ids = np.asarray(values).reshape(-1)
    if len(ids) != count:
        raise ValueError(f"{name} has {len(ids)} entries; expected {count}")
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str)
