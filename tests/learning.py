"""A tiny world for the tests of reward, baselines and training: what the context says decides which task matters."""

from typing import Any

import numpy as np

from pygrade.logs import Logs

TASKS = ("click", "order")
VALUES = (1.0, 2.0)


def logs_of(predictions: Any, position: Any, feedback: Any, **columns: Any) -> Logs:
    """Requests of N candidates each: predictions, feedback [R, N, T], position [R, N]; columns: what is unlike the
    defaults, each request by a user of its own, each item once, no features.
    """
    requests, size, tasks = predictions.shape
    given = {
        "tasks": tuple("abcdef"[:tasks]),
        "features": (),
        "request_id": np.arange(requests),
        "user_id": np.arange(requests),
        "offsets": np.arange(requests + 1) * size,
        "context": np.empty((requests, 0), np.float32),
        "item_id": np.arange(requests * size),
        "position": position.reshape(-1).astype(np.int32),
        "predictions": predictions.reshape(-1, tasks).astype(np.float32),
        "feedback": feedback.reshape(-1, tasks).astype(np.float32),
    }
    return Logs(**given | columns)


def slots_of(pages: Any, candidates: int) -> np.ndarray:
    """Slots [R, N] of pages [R, k] of candidates' indices, best first; -1: not shown."""
    position = np.full((len(pages), candidates), -1, np.int32)
    np.put_along_axis(position, pages, np.broadcast_to(np.arange(pages.shape[1], dtype=np.int32), pages.shape), 1)
    return position


def tiny_logs(
    requests: int = 400,
    candidates: int = 12,
    page: int = 5,
    seed: int = 0,
    jagged: bool = False,
    shuffled: float = 0.25,
    exponent: float = 0.5,
) -> Logs:
    """Each request has a hidden mode, told by its first feature: in one only clicks pay, in the other only orders.

    The two predictions disagree (their logarithms are independent), so no static weights serve both modes. Pages are
    ordered by equal weights, but for the shuffled ones; slot r is examined with probability (r + 1)^-exponent.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(page, candidates + 1, requests) if jagged else np.full(requests, candidates)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows = int(offsets[-1])
    mode = rng.integers(0, 2, requests)
    appeal = rng.normal(0.0, 1.0, (rows, 2))
    predictions = np.clip(np.exp(appeal - 1.5), 1e-4, 1.0).astype(np.float32)
    context = np.stack([mode * 2.0 - 1.0 + 0.3 * rng.normal(size=requests), rng.normal(size=requests)], 1)
    position = np.full(rows, -1, np.int32)
    feedback = np.zeros((rows, 2), np.float32)
    exploration = np.where(rng.random(requests) < shuffled, "shuffle", "none")
    for r in range(requests):
        start = offsets[r]
        order = np.argsort(-appeal[start : offsets[r + 1]].sum(1))[:page]
        if exploration[r] == "shuffle":
            order = rng.permutation(order)
        position[start + order] = np.arange(len(order))
        examined = rng.random(len(order)) < np.arange(1, len(order) + 1) ** -exponent
        chance = np.zeros((len(order), 2))
        chance[:, mode[r]] = predictions[start + order, mode[r]] * (0.9, 0.6)[mode[r]]
        feedback[start + order] = examined[:, None] & (rng.random(chance.shape) < chance)
    return Logs(
        tasks=TASKS,
        features=("mode", "noise"),
        request_id=np.arange(requests),
        user_id=rng.integers(0, 50, requests),
        offsets=offsets,
        context=context.astype(np.float32),
        item_id=np.arange(rows),
        position=position,
        predictions=predictions,
        feedback=feedback,
        task_values=VALUES,
        scenario=np.where(mode == 1, "buy", "browse"),
        weights=np.full((requests, 2), 0.5, np.float32),
        exploration=exploration,
    )


def true_value(logs: Logs, weights: np.ndarray, page: int = 5, exponent: float = 0.5) -> np.ndarray:
    """Expected value [R] of ranking every candidate of each request by weights [R, T] (z-scored logs), closed form."""
    mode = (logs.scenario == "buy").astype(int)
    discount = np.arange(1, page + 1) ** -exponent
    result = np.zeros(logs.num_requests)
    for r in range(logs.num_requests):
        p = logs.predictions[logs.offsets[r] : logs.offsets[r + 1]].astype(float)
        z = np.log(p + 1e-7)
        z = (z - z.mean(0)) / (z.std(0) + 1e-3)
        order = np.argsort(-(z @ weights[r]), kind="stable")[:page]
        gain = p[order, mode[r]] * (0.9, 0.6)[mode[r]] * VALUES[mode[r]]
        result[r] = (gain * discount[: len(order)]).sum()
    return result
