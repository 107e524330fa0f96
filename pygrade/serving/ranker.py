"""`BlendedRanker`: a saved policy in front of the blended-ranking op, ready for a Python server.

The policy chooses task weights per request from its features; the op fuses the task predictions with them, applies
masks, boosts and caps, and returns the page. Requests whose features are missing get static weights, and are counted.
The work is done by the C++ core's Ranker (<pygrade/ranker.hpp>), which servers without Python link: equal pages.
"""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pygrade import _core
from pygrade.policy import FusionPolicy
from pygrade.serving.page import Page, Source


class BlendedRanker:
    """Ranks requests through a policy and the blended-ranking op. `rank` may be called from many threads at once."""

    def __init__(self, policy: FusionPolicy, seed: int | None = None, impute: bool = False) -> None:
        """``seed`` (0 … 2³¹ - 1) starts the exploration stream; None takes one from the operating system.

        ``impute``: a request that misses some of its features goes through the policy, which takes their training
        means; for policies trained on logs with such gaps. By default one missing feature is enough to fall back.
        """
        if seed is not None and not 0 <= seed < 1 << 31:
            raise ValueError(f"seed is {seed}; want 0 … 2**31 - 1")
        self.impute = impute
        stream = (int.from_bytes(os.urandom(4), "little") >> 1 if seed is None else operator.index(seed)) << 32
        core = _core.Ranker(_core.Policy(*policy.artifact()), impute, stream)
        self._served = policy.eval(), policy.version, core

    @property
    def policy(self) -> FusionPolicy:
        """The policy that is served."""
        return self._served[0]

    @property
    def version(self) -> str:
        """Its version."""
        return self._served[1]

    def publish(self, policy: FusionPolicy) -> None:
        """Serve another policy of the same tasks, features and formula from the next `rank` on.

        Calls that are under way end with the policy they began with; every page names the version that made it.
        """
        if policy.schema_hash() != self.policy.schema_hash():
            raise ValueError(
                f"the policy has schema_hash {policy.schema_hash()}; the ranker serves {self.policy.schema_hash()} "
                "(tasks, features and formula)"
            )
        core = self._served[2].successor(_core.Policy(*policy.artifact()))
        self._served = policy.eval(), policy.version, core

    @classmethod
    def load(cls, path: str | Path, seed: int | None = None, impute: bool = False) -> "BlendedRanker":
        """The ranker of a policy directory written by `FusionPolicy.save`; named errors where it is damaged."""
        return cls(FusionPolicy.load(Path(path)), seed, impute)

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the start: ``requests``, ``fallback_scenario`` and ``fallback_global`` (served the scenario's or
        the global static weights), ``explored``, ``missing_predictions`` (candidates with a NaN), ``empty_pages``."""
        return self._served[2].counters

    def rank(
        self,
        context: ArrayLike | None,
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
    ) -> Page:
        """The best ``k`` candidates of each of B requests.

        ``context`` [B, F] in the order of ``policy.features``; None, or a row with a NaN: that request is served the
        static weights of its ``scenario`` (a name, or one a request) where the policy has them, else the global ones.
        ``predictions`` [B, N, T], or jagged [M, T] with ``offsets`` [B + 1]; a candidate with a NaN in any task ranks
        last and its score is NaN. ``mask`` bool, ``boost_mul``, ``boost_add`` [B, N] or [M]; ``groups`` int [B, N, A]
        or [M, A] with ``caps`` [A]: see `pygrade.rank`. ``item_id`` [B, N] or [M]; ``request_id``, ``user_id`` [B]:
        only for the log.

        ``explore`` serves a draw of Dirichlet(concentration) instead of its mean, unprojected so that its logged
        density is exact; fallback requests never explore. Draw of a request: ``dirichlet_sample(concentration, 1, seed
        >> 32, offset=seed & 0xffffffff)`` with the ``seed`` of its log row. A ``seed`` (0 … 2³¹ - 1) given here
        replaces the ranker's stream for this call and counts its rows from 0: the same call gives the same draws.

        Raises ValueError naming the argument for wrong shapes or values, before anything is ranked or counted.
        """
        policy, version, core = self._served
        given: tuple[Any, ...] = (
            context, predictions, k, offsets, scenario, mask, boost_mul, boost_add, groups, caps, explore, seed,
        )  # fmt: skip
        found = ids = None
        named = request_id is not None or user_id is not None or item_id is not None
        if type(predictions) is np.ndarray and predictions.ndim == (3 if offsets is None else 2):
            if named:
                batch = len(predictions) if offsets is None else np.size(offsets) - 1
                ids = _all_ids(request_id, user_id, item_id, batch, predictions.size // max(1, predictions.shape[-1]))
            found = _core.rank_pages_fast_path(core, *given)
        if found is None:  # something is to be converted, or wrong
            given = self._converted(policy, *given)
            if named:
                ids = _all_ids(request_id, user_id, item_id, len(given[3]) - 1, len(given[1]))
            found = _core.rank_pages(core, *given)
        values, indices, weights, concentration, fallback, explored, seeds, features, first = found
        source = Source(policy, version, features, given[1], given[3], given[4], first, ids)
        return Page(
            values, indices, weights, concentration, fallback, explored, seeds, policy.tasks, source,
        )  # fmt: skip

    @staticmethod
    def _converted(
        policy: FusionPolicy,
        context: ArrayLike | None,
        predictions: ArrayLike,
        k: int,
        offsets: ArrayLike | None,
        scenario: str | Sequence[str] | None,
        mask: ArrayLike | None,
        boost_mul: ArrayLike | None,
        boost_add: ArrayLike | None,
        groups: ArrayLike | None,
        caps: ArrayLike | None,
        explore: bool,
        seed: int | None,
    ) -> tuple[Any, ...]:
        """The arguments as the core takes them: predictions [M, T] with offsets; a ValueError where one can't be."""
        rows, bounds = _candidates(predictions, offsets, len(policy.tasks))
        batch, total = len(bounds) - 1, len(rows)
        if k < 1:
            raise ValueError(f"k is {k}; want at least 1")
        if seed is not None and not 0 <= seed < 1 << 31:
            raise ValueError(f"seed is {seed}; want 0 … 2**31 - 1")
        features = None if context is None else _context(context, batch, len(policy.features))
        names = _scenarios(scenario, batch)
        options = _options(total, mask=mask, boost_mul=boost_mul, boost_add=boost_add, groups=groups, caps=caps)
        if policy.config.transform in ("log", "zlog", "log1p"):
            _no_negative(rows, bounds)
        return features, rows, k, bounds, names, *options.values(), bool(explore), seed


def _array(value: ArrayLike | Tensor) -> NDArray[Any]:
    if isinstance(value, Tensor):
        return np.asarray((value.float() if value.is_floating_point() else value).detach().cpu().numpy())
    return np.asarray(value)


def _candidates(
    predictions: ArrayLike, offsets: ArrayLike | None, tasks: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = np.ascontiguousarray(_array(predictions), np.float32)
    wanted = 3 if offsets is None else 2
    if rows.ndim != wanted or rows.shape[-1] != tasks:
        want = f"[B, N, {tasks}]" if offsets is None else f"[M, {tasks}] with offsets"
        raise ValueError(f"predictions has shape {rows.shape}; want {want}")
    if offsets is None:
        batch, count = rows.shape[:2]
        return rows.reshape(-1, tasks), np.arange(batch + 1, dtype=np.int64) * count
    bounds = np.ascontiguousarray(_array(offsets), np.int64)
    if bounds.ndim != 1 or len(bounds) < 1 or bounds[0] != 0 or bounds[-1] != len(rows) or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must ascend from 0 to the number of prediction rows, {len(rows)}; got {bounds}")
    return rows, bounds


def _no_negative(rows: NDArray[np.float32], bounds: NDArray[np.int64]) -> None:
    negative = (rows < 0.0) & ~np.isnan(rows).any(1, keepdims=True)
    if negative.any():
        row, task = (int(i[0]) for i in np.nonzero(negative))
        request = int(np.searchsorted(bounds, row, side="right")) - 1
        place = f"request {request}, candidate {row - bounds[request]}, task {task}"
        raise ValueError(f"predictions is negative at {place}; want predictions >= 0 under a logarithm")


def _context(context: ArrayLike, batch: int, features: int) -> NDArray[np.float32]:
    values = np.ascontiguousarray(_array(context), np.float32)
    if values.shape != (batch, features):
        raise ValueError(f"context has shape {values.shape}; want {(batch, features)}")
    return values


def _scenarios(scenario: str | Sequence[str] | None, batch: int) -> list[str] | None:
    if scenario is None:
        return None
    names = [scenario] * batch if isinstance(scenario, str) else [str(name) for name in scenario]
    if len(names) != batch:
        raise ValueError(f"scenario has {len(names)} names; want one, or one for each of {batch} requests")
    return names


def _options(total: int, **given: ArrayLike | None) -> dict[str, NDArray[Any] | None]:
    """The optional arguments of the ranking op as arrays of its dtypes."""
    kinds: dict[str, Any] = {"mask": np.bool_, "groups": np.int32, "caps": np.int32}
    result: dict[str, NDArray[Any] | None] = dict.fromkeys(given)
    for name, value in given.items():
        if value is None:
            continue
        array = np.ascontiguousarray(_array(value), kinds.get(name, np.float32))
        if name == "groups":
            array = array.reshape(-1, array.shape[-1]) if array.ndim in (2, 3) else array
            good = array.ndim == 2 and len(array) == total
        elif name == "caps":
            good = array.ndim == 1
        else:
            good = array.size == total
        if not good:
            want = "[A]" if name == "caps" else f"one entry for each of {total} candidates"
            raise ValueError(f"{name} has shape {np.shape(_array(value))}; want {want}")
        result[name] = array
    groups, caps = result["groups"], result["caps"]
    if (groups is None) != (caps is None):
        raise ValueError("groups and caps belong together: got only one of them")
    if groups is not None and caps is not None and len(caps) != groups.shape[1]:
        raise ValueError(f"caps has {len(caps)} entries; want one for each of {groups.shape[1]} group columns")
    return result


def _all_ids(
    request_id: ArrayLike | None, user_id: ArrayLike | None, item_id: ArrayLike | None, batch: int, total: int
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    return _ids("request_id", request_id, batch), _ids("user_id", user_id, batch), _ids("item_id", item_id, total)


def _ids(name: str, given: ArrayLike | None, count: int) -> NDArray[Any] | None:
    if given is None:
        return None
    ids = np.asarray(given).reshape(-1)
    if len(ids) != count:
        raise ValueError(f"{name} has {len(ids)} entries; want {count}")
    return ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str)
