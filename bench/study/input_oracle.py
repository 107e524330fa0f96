"""The oracle of inputs: what any scorer of a candidate's predictions and its request's context could reach.

A network learns the factor between prediction and truth from true probabilities, which no log has, of other requests:
E[true probability | the candidate's log odds, the request's mean ones, context, item columns].
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.study.trial import ArmRanking, Array, Options, Trial
from pygrade.config.marketplace import PARENT
from pygrade.simulation.marketplace import TASK_VALUES, Requests

_OTHER = 70_000  # added to the world's seed: requests that no log and no test has
_REACH = 4.0


def oracle_of_inputs(trial: Trial, options: Options) -> ArmRanking:
    """``hidden``, ``epochs``, ``batch_size``, ``learning_rate`` of the network."""
    other = trial.world.requests(trial.settings.oracle_requests, trial.world.seed + _OTHER, "log")
    tasks = len(TASK_VALUES)
    center = _log_odds(other.p_hat[..., :tasks])
    mean, std = center.mean((0, 1)), center.std((0, 1)) + 1e-6

    def inputs(requests: Requests) -> Tensor:
        odds = np.clip((_log_odds(requests.p_hat[..., :tasks]) - mean) / std, -_REACH, _REACH)
        level = odds.mean(1, keepdims=True)
        shape = odds.shape[:2]
        parts = [odds, odds - level, np.broadcast_to(level, odds.shape)]
        parts.append(np.broadcast_to(requests.context[:, None], (*shape, requests.context.shape[1])))
        items = trial.items_of(requests)
        parts += [] if items is None else [items]
        return torch.from_numpy(np.concatenate(parts, -1, dtype=np.float32)).flatten(0, 1)

    values = torch.tensor(trial.config({}).reward.task_values or TASK_VALUES)[:tasks]
    known = inputs(other)
    spread = known.std(0) + 1e-6
    shift = known.mean(0)
    p, guess = (torch.from_numpy(np.ascontiguousarray(a[..., :tasks])).flatten(0, 1) for a in (other.p, other.p_hat))
    torch.manual_seed(trial.seed)
    width, hidden = known.shape[1], options["hidden"]
    layers = [torch.nn.Linear(width, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, hidden), torch.nn.SiLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(hidden, tasks))
    torch.nn.init.zeros_(network[-1].weight)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(network.parameters(), options["learning_rate"])
    batches = list(_batches(len(known), options["batch_size"], options["epochs"], trial.seed))
    for number, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = options["learning_rate"] * (1 - 0.95 * number / len(batches))
        factor = network((known[rows] - shift) / spread).clamp(-_REACH, _REACH)
        loss = (values * (guess[rows] * factor.exp() - p[rows] * factor)).sum(-1).mean()  # Poisson
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        factor = network((inputs(trial.requests) - shift) / spread).clamp(-_REACH, _REACH).exp()
    test = torch.from_numpy(np.ascontiguousarray(trial.requests.p_hat[..., :tasks]))
    return ArmRanking(((test * factor.view(test.shape)) @ values).numpy())


def _batches(rows: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(rows, generator=generator), size)


def _log_odds(p: Array) -> Array:
    """Of each event given its parent, [n, N, T]."""
    given = [p[..., t] / (p[..., parent] + 1e-7) if parent >= 0 else p[..., t] for t, parent in enumerate(PARENT)]
    cut = np.clip(np.stack(given, -1), 1e-4, 1 - 1e-4)
    return np.asarray(np.log(cut) - np.log1p(-cut))
