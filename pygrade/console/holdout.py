"""The held-out requests for the page, which replays other weights on their shown rows as `evaluation.replay` does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import ops
from pygrade._typing import Array
from pygrade.console.blob import sparse
from pygrade.evaluation.replay import ReplayMetrics
from pygrade.evaluation.value import gains_of
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of


def holdout_rows(
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
    shown, metrics = logs.shown, ReplayMetrics(logs, k, propensity, floor)
    events = gains_of(logs.feedback.astype(np.float64), logs, propensity, floor)
    given, offsets = torch.from_numpy(np.ascontiguousarray(logs.predictions)), torch.from_numpy(logs.offsets)
    transformed = ops.transform_scores(given, offsets=offsets, **formula).numpy()
    counts = np.bincount(logs.row_request[shown], minlength=logs.num_requests)
    return {
        "requests": logs.num_requests,
        "users": clusters_of(logs).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "transformed": transformed[shown],
        "gains": sparse(metrics.gains[shown]),
        "events": [sparse(events[shown, t]) for t in range(len(logs.tasks))],
        "attention": metrics.discount,
        "discount": 1.0 / np.log2(np.arange(max(int(counts.max(initial=1)), k)) + 2.0),
        "arms": {
            name: {
                "ndcg": metrics.of("ndcg", scores),
                "value": metrics.of("value", scores),
                "events": [metrics.value(scores, column) for column in events.T],
            }
            for name, scores in arms.items()
        },
    }
