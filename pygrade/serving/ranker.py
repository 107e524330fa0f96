"""`BlendedRanker`: a saved policy in front of the blended-ranking op, ready for a Python server.

The policy corrects the task predictions by the request's features and chooses task weights from these; the op fuses
predictions by weights, applies masks, boosts and caps, and returns the page. Requests without features get static
weights, and are counted. The C++ core does the work (Ranker of <pygrade/ranker.hpp>): servers that link it get the same
pages.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pygrade import _core
from pygrade._typing import Array
from pygrade.evaluation.policy_estimates import item_inputs, match_policy
from pygrade.logs import Logs, encode
from pygrade.ops.checks import integer
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import request_values
from pygrade.serving.page import Ids, Page, missing_candidates
from pygrade.storage import Place

_MAX = (1 << 31) - 1  # of k and of seeds
Context = ArrayLike | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Features of the requests, as arrays or by name."""


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
    def load(cls, path: Place, seed: int | None = None) -> "BlendedRanker":
        """The ranker of a policy directory that `FusionPolicy.save` wrote; errors as of `FusionPolicy.load`."""
        return cls(FusionPolicy.load(path), seed)

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: ``requests``, ``fallback_scenario`` and ``fallback_global`` (served the scenario's or
        the global static weights), ``explored``, ``missing_predictions`` (candidates), ``empty_pages``."""
        return self._core.counters

    def rank(
        self,
        context: Context,
        predictions: ArrayLike,
        k: int,
        *,
        offsets: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        boost_mul: ArrayLike | None = None,
        boost_add: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        caps: ArrayLike | None = None,
        scenario: str | Sequence[str] | None = None,
        explore: bool = False,
        seed: int | None = None,
        request_id: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        item_id: ArrayLike | None = None,
        values: Mapping[str, float] | Sequence[Mapping[str, float]] | ArrayLike | None = None,
        item_values: ArrayLike | None = None,
        items: ArrayLike | None = None,
        categories: ArrayLike | Sequence[Any] | None = None,
        embeddings: ArrayLike | None = None,
        page_terms: bool = True,
        as_logged: bool = False,
    ) -> Page:
        """The best ``k`` candidates of each of B requests.

        ``context`` [B, F] in the order of ``policy.features``, NaN or infinite: unknown; or raw values by name, a
        mapping a request, such as ``[{"hour": 20, "plan": "family"}]`` (`pygrade.logs.encode`); None, or a row without
        a known feature: that request is served the static weights of its ``scenario`` (a name, or one a request) if
        the policy has them, else the global ones.
        ``predictions`` [B, N, T], or jagged [M, T] with ``offsets`` [B + 1], on the scales of the table that the policy
        learned from (``policy.scales``): percentages, say, become probabilities; ``as_logged``: they are those of a log
        already. A candidate with a missing one (NaN or infinite) ranks last, with score NaN, and leaves the others'
        scores alone. ``mask`` bool, ``boost_mul``,
        ``boost_add`` [B, N] or [M]; ``groups`` int [B, N, A] or [M, A] with ``caps`` [A]: see `pygrade.rank`.
        ``item_id`` [B, N] or [M]; ``request_id``, ``user_id`` [B]: only for the log, as ``item_id`` unless the
        correction has item effects, which it looks up by them. ``values``: what an event of each
        task is worth, below 0: it costs; for a policy with an expected value, which then ranks alone, or with
        ``trade_offs``, whose network knows no values of another sign than in its training: a mapping from task to
        number, or one a request, or an array [T] or [B, T]; NaN or left out: the policy's own (``task_values``).
        ``item_values`` [B, N] or [M]: prices, for a policy that needs them. ``items`` [B, N, I] or [M, I]: item columns
        in the order of ``policy.correction.items``, NaN or left out: unknown; a policy without a correction ignores
        them. ``categories`` [B, N] or [M], names, None or "": unknown; ``embeddings`` [B, N, d] or [M, d], a row that
        is not finite or 0: unknown. The page terms of ``policy.correction`` read them: each place of the page takes the
        item that is worth most below the items above it (`PageTerms`). With neither of them, of drawn weights, of a
        policy without page terms, and without ``page_terms``, the page is in the order of the scores.

        ``explore`` serves a draw of Dirichlet(concentration) instead of its mean, unprojected so that its logged
        density is exact; fallback requests never explore. The draw of a request, with the ``seed`` of its log row:
        ``dirichlet_sample(concentration, 1, seed >> 32, offset=seed & 0xffffffff)``. A ``seed`` (0 … 2³¹ - 1) given
        here replaces the ranker's stream for this call and counts its rows from 0: the same call gives the same draws.

        ValueError or TypeError name the argument of a wrong shape or value, before anything is ranked or counted.
        """
        given = _Arguments(
            context,
            predictions,
            k,
            offsets,
            scenario,
            mask,
            boost_mul,
            boost_add,
            groups,
            caps,
            explore,
            seed,
            values,
            item_values,
            items,
            categories,
            embeddings,
            page_terms,
            as_logged,
        )
        return self._rank(given, {"request_id": request_id, "user_id": user_id, "item_id": item_id})

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
            as_logged=True,
            **_page_inputs(self.policy, matched),
            **rules,
        )

    def _rank(self, arguments: "_Arguments", given_ids: Mapping[str, ArrayLike | None]) -> Page:
        policy, predictions = self.policy, arguments.predictions
        if type(predictions) is not np.ndarray or predictions.ndim != (3 if arguments.offsets is None else 2):
            arguments = arguments.converted(policy)
        batch, total = arguments.sizes()
        if arguments.values is not None:
            arguments = arguments._replace(values=request_values(arguments.values, policy.tasks, batch))
        counts = {"request_id": batch, "user_id": batch, "item_id": total}
        ids = Ids(*(_ids(name, given_ids[name], count) for name, count in counts.items()))
        if ids.item is not None and policy.correction is not None and policy.correction.item_effects is not None:
            columns = None if arguments.items is None else _array("items", arguments.items, np.float32)
            arguments = arguments._replace(items=policy.item_columns(ids.item, columns))
        ranked = _core.rank_pages_fast_path(self._core, *arguments)
        if ranked is None:  # an argument has to be converted, or is wrong
            arguments = arguments.converted(policy)
            ranked = _core.rank_pages(self._core, *arguments)
        return Page(
            *ranked[:12],
            moves=ranked[12],
            predictions=arguments.predictions,
            bounds=arguments.offsets,
            scenario=arguments.scenario,
            item_values=None if arguments.item_values is None else np.asarray(arguments.item_values),
            ids=ids,
            item_columns=None if arguments.items is None else np.asarray(arguments.items),
            categories=arguments.categories,
            embeddings=None if arguments.embeddings is None else np.asarray(arguments.embeddings),
            as_logged=arguments.as_logged,
        )


def _page_inputs(policy: FusionPolicy, logs: Logs) -> dict[str, Any]:
    """Arguments of `rank` that page terms read of a log's candidates; none without page terms."""
    terms = None if policy.correction is None else policy.correction.page_terms
    if terms is None:
        return {}
    given: dict[str, Any] = {}
    if logs.category is not None and terms.categories:
        given["categories"] = logs.category.astype(str).tolist()
    if logs.embedding is not None and logs.embeddings is not None and terms.dimension:
        unknown = np.zeros((1, logs.embeddings.shape[1]), np.float32)
        given["embeddings"] = np.concatenate([logs.embeddings, unknown])[logs.embedding]
    return given


class _Arguments(NamedTuple):
    """The arguments of `_core.rank_pages`."""

    context: Any
    predictions: Any
    k: Any
    offsets: Any
    scenario: Any
    mask: Any
    boost_mul: Any
    boost_add: Any
    groups: Any
    caps: Any
    explore: Any
    seed: Any
    values: Any
    item_values: Any
    items: Any
    categories: Any
    embeddings: Any
    page_terms: Any
    as_logged: bool

    def sizes(self) -> tuple[int, int]:
        """The numbers of requests and of candidates."""
        if self.offsets is None:
            batch, count, _ = self.predictions.shape
            return batch, batch * count
        return np.size(self.offsets) - 1, len(self.predictions)

    def converted(self, policy: FusionPolicy) -> "_Arguments":
        """Convert the arguments to the arrays and numbers that the core takes, predictions [M, T] with offsets."""
        rows, offsets = _candidates(self.predictions, self.offsets, len(policy.tasks))
        batch, total = len(offsets) - 1, len(rows)
        mixture = policy.mixture
        raw = [] if mixture is None else [entry for entry in mixture.ranked_by if not entry.corrected]
        transforms = {"log" if entry.logarithm else entry.transform for entry in raw}
        if (mixture is None or mixture.takes_network) and not policy.config.corrected:
            transforms.add(policy.config.transform)
        if any(_core.transforms[name] for name in transforms) and not policy.scales:  # by which the core refuses others
            _check_signs(rows, offsets)
        groups, caps = _capped_groups(self.groups, self.caps, total)
        return _Arguments(
            context=None if self.context is None else _context(self.context, batch, policy.features),
            predictions=rows,
            k=integer("k", self.k, 1, _MAX),
            offsets=offsets,
            scenario=_scenarios(self.scenario, batch),
            mask=_option("mask", self.mask, np.bool_, total),
            boost_mul=_option("boost_mul", self.boost_mul, np.float32, total),
            boost_add=_option("boost_add", self.boost_add, np.float32, total),
            groups=groups,
            caps=caps,
            explore=bool(self.explore),
            seed=None if self.seed is None else integer("seed", self.seed, 0, _MAX),
            values=request_values(self.values, policy.tasks, batch),
            item_values=_option("item_values", self.item_values, np.float32, total),
            items=None if self.items is None else _items(self.items, total, policy),
            categories=None if self.categories is None else _names(self.categories, total),
            embeddings=None if self.embeddings is None else _embeddings(self.embeddings, total, policy),
            page_terms=bool(self.page_terms),
            as_logged=bool(self.as_logged),
        )


def _array(name: str, value: ArrayLike | Tensor, dtype: Any) -> Array:
    """A contiguous array of ``dtype``. Integers must be exact; a float may be rounded, and None is NaN."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; want a plain one")
    try:
        if isinstance(value, Tensor):
            value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        given = np.asarray(value)
        with np.errstate(invalid="ignore", over="ignore"):
            array = np.ascontiguousarray(given, dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from None
    if array.dtype.kind == "i" and (changed := array != given).any():
        raise ValueError(f"{name} holds {given.reshape(-1)[np.argmax(changed)]}; want integers of {array.dtype}")
    return array


def _candidates(
    predictions: ArrayLike, offsets: ArrayLike | None, tasks: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = _array("predictions", predictions, np.float32)
    if rows.ndim != (3 if offsets is None else 2) or rows.shape[-1] != tasks:
        want = f"[B, N, {tasks}]" if offsets is None else f"[M, {tasks}] with offsets"
        raise ValueError(f"predictions has shape {rows.shape}; want {want}")
    if offsets is None:
        batch, count = rows.shape[:2]
        return rows.reshape(-1, tasks), np.arange(batch + 1, dtype=np.int64) * count
    bounds = _array("offsets", offsets, np.int64)
    if bounds.ndim != 1 or len(bounds) < 1 or bounds[0] != 0 or bounds[-1] != len(rows) or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must ascend from 0 to the number of prediction rows, {len(rows)}; got {bounds}")
    return rows, bounds


def _check_signs(rows: NDArray[np.float32], bounds: NDArray[np.int64]) -> None:
    negative = (rows < 0.0) & ~missing_candidates(rows)[:, None]
    if negative.any():
        row, task = (int(i[0]) for i in np.nonzero(negative))
        request = int(np.searchsorted(bounds, row, side="right")) - 1
        place = f"request {request}, candidate {row - bounds[request]}, task {task}"
        raise ValueError(f"predictions is negative at {place}; want predictions >= 0 under a logarithm")


def _context(context: Any, batch: int, features: Sequence[str]) -> NDArray[np.float32]:
    rows = [context] if isinstance(context, Mapping) else context
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows):
        known = {name.partition("=")[0] for name in features}
        if unknown := [name for row in rows for name in row if name not in known]:
            raise ValueError(f"context has {unknown[0]!r}; want values of {', '.join(sorted(known)) or 'no feature'}")
        context = encode(features, rows)
    values = _array("context", context, np.float32)
    if values.shape != (batch, len(features)):
        raise ValueError(f"context has shape {values.shape}; want {(batch, len(features))}")
    return values


def _scenarios(scenario: str | Sequence[str] | None, batch: int) -> list[str] | None:
    if scenario is None:
        return None
    names = [scenario] * batch if isinstance(scenario, str) else [str(name) for name in scenario]
    if len(names) != batch:
        raise ValueError(f"scenario has {len(names)} names; want one, or one for each of {batch} requests")
    return names


def _option(name: str, value: ArrayLike | None, dtype: Any, total: int) -> Array | None:
    """One value for each candidate, in any shape."""
    if value is None:
        return None
    array = _array(name, value, dtype)
    if array.size != total:
        raise ValueError(f"{name} has shape {array.shape}; want one entry for each of {total} candidates")
    return array


def _items(items: ArrayLike, total: int, policy: FusionPolicy) -> NDArray[np.float32] | None:
    if policy.correction is None:
        return None
    values: NDArray[np.float32] = _array("items", items, np.float32)
    count = len(policy.correction.items)
    if values.ndim not in (2, 3) or values.shape[-1] != count or values.size != total * count:
        raise ValueError(f"items has shape {values.shape}; want {count} numbers for each of {total} candidates")
    return values.reshape(total, count)


def _names(categories: Any, total: int) -> list[str | None]:
    found = np.asarray(categories, object).reshape(-1)
    if len(found) != total or not all(name is None or isinstance(name, str) for name in found):
        shape = np.shape(categories)
        raise ValueError(f"categories has shape {shape}; want a name, or None, for each of {total} candidates")
    return found.tolist()


def _embeddings(embeddings: ArrayLike, total: int, policy: FusionPolicy) -> NDArray[np.float32]:
    values: NDArray[np.float32] = _array("embeddings", embeddings, np.float32)
    terms = None if policy.correction is None else policy.correction.page_terms
    width = values.shape[-1] if terms is None or terms.dimension == 0 else terms.dimension
    if values.ndim not in (2, 3) or values.shape[-1] != width or values.size != total * width:
        raise ValueError(f"embeddings has shape {values.shape}; want {width} numbers for each of {total} candidates")
    return values.reshape(total, width)


def _capped_groups(
    groups: ArrayLike | None, caps: ArrayLike | None, total: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | tuple[None, None]:
    if groups is None and caps is None:
        return None, None
    if groups is None or caps is None:
        raise ValueError("groups and caps belong together: got only one of them")
    limits, members = _array("caps", caps, np.int32), _array("groups", groups, np.int32)
    if limits.ndim != 1:
        raise ValueError(f"caps has shape {limits.shape}; want [A]")
    if members.ndim not in (2, 3) or members.size != total * members.shape[-1]:
        raise ValueError(f"groups has shape {members.shape}; want a row of A numbers for each of {total} candidates")
    if len(limits) != members.shape[-1]:
        raise ValueError(f"caps has {len(limits)} entries; want one for each of {members.shape[-1]} group columns")
    return members.reshape(total, len(limits)), limits


def _ids(name: str, given: ArrayLike | None, count: int) -> Array | None:
    if given is None:
        return None
    if isinstance(given, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; want a plain one")
    ids = np.asarray(given).reshape(-1)
    if len(ids) != count:
        raise ValueError(f"{name} has {len(ids)} entries; want {count}")
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str)
