"""What the page needs for the replay value of other weights: that of `evaluation.replay`, of the shown rows alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import ops
from pygrade._typing import Array
from pygrade.console.blob import sparse
from pygrade.evaluation.replay import ndcg_at_k, value_at_k
from pygrade.evaluation.value import gains_of, rank_discount
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of


def judged_rows(
    logs: Logs,
    arms: Mapping[str, Array],
    formula: Mapping[str, Any],
    k: int,
    propensity: NDArray[np.float64] | None,
    floor: float,
) -> dict[str, Any]:
    """The shown rows' transformed predictions and gains, and the metrics of some arms by request.

    arms: name → scores [M]. formula: of the policy. propensity and floor as in `replay.evaluate`.
    """
    shown, attention = logs.shown, rank_discount(propensity, k)
    gains, events = (
        gains_of(amounts, logs.position, propensity, floor)
        for amounts in (logs.value_of(logs.feedback), logs.feedback.astype(np.float64))
    )
    given, offsets = torch.from_numpy(np.ascontiguousarray(logs.predictions)), torch.from_numpy(logs.offsets)
    transformed = ops.transform_scores(given, offsets=offsets, **formula).numpy()
    counts = np.bincount(logs.row_request[shown], minlength=logs.num_requests)
    return {
        "requests": logs.num_requests,
        "users": clusters_of(logs).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "transformed": transformed[shown],
        "gains": sparse(gains[shown]),
        "events": [sparse(events[shown, t]) for t in range(len(logs.tasks))],
        "attention": attention,
        "discount": 1.0 / np.log2(np.arange(max(int(counts.max(initial=1)), k)) + 2.0),
        "arms": {name: _metrics(scores, logs, gains, events, k, attention) for name, scores in arms.items()},
    }


def _metrics(
    scores: Array, logs: Logs, gains: Array, events: Array, k: int, attention: ArrayLike
) -> dict[str, list[NDArray[np.float64]] | NDArray[np.float64]]:
    """By request: NDCG@k, value@k, and the events of each task at k."""
    shown, offsets = logs.shown, logs.offsets
    left_out = np.bincount(logs.row_request, np.isnan(scores) & shown, logs.num_requests) > 0
    columns = [value_at_k(scores, column, offsets, attention, shown) for column in (gains, *events.T)]
    value, *by_task = (np.where(left_out, np.nan, column) for column in columns)
    ndcg = np.where(left_out, np.nan, ndcg_at_k(scores, gains, offsets, k, shown))
    return {"ndcg": ndcg, "value": value, "events": by_task}
