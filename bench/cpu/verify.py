"""Every contender is checked against the float64 reference before it is timed.

Ours is held to the tolerances of the tests. Peers work in float32 by other formulas: they are held to what tells a
right result from a wrong one.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cpu.harness import OURS
from pygrade import reference

STRICT = (2e-5, 2e-6)  # relative, absolute
LOOSE = (1e-3, 1e-3)


def tensor(value: Any) -> Tensor:
    """Any contender's array as float64."""
    return torch.as_tensor(np.asarray(value.detach() if isinstance(value, Tensor) else value)).double()


def close(name: str, what: str, found: Any, wanted: Tensor, share: float = 1.0) -> None:
    """At least ``share`` of the found numbers are the wanted ones. Below 1 where one swapped near-tie changes one."""
    relative, absolute = STRICT if name.startswith(OURS) else LOOSE
    got = tensor(found).reshape(wanted.shape)
    right = torch.isclose(got, wanted.double(), rtol=relative, atol=absolute, equal_nan=True).double().mean().item()
    if right < share:
        worst = (got - wanted).abs().max().item()
        raise AssertionError(f"{name}: {what} differs from the reference ({right:.4%} right, off by up to {worst:.3g})")


def topk(name: str, result: Any, fused: Tensor, k: int) -> None:
    """(values, indices) name k distinct candidates of each list of fused[…, N] whose scores are the k best."""
    lists = fused.reshape(-1, fused.shape[-1])
    values = tensor(result[0]).reshape(len(lists), k)
    indices = tensor(result[1]).reshape(len(lists), k).long()
    close(name, "values", values.sort(-1, descending=True).values, lists.topk(k).values)
    close(name, "score of the indices", lists.gather(-1, indices), values)
    if any(len(set(row.tolist())) < k for row in indices):
        raise AssertionError(f"{name}: an index comes twice")


def fused_scores(scores: Any, weights: Any, transform: str) -> Tensor:
    """The reference's fused scores of [B, N, T] or [N, T] scores."""
    s, w = tensor(scores), tensor(weights)
    single = s.ndim == 2
    if single:
        s, w = s[None], w[None]
    return reference.fuse_scores(s, w, transform, beta=1e-7)


def draws(name: str, result: Any, concentration: Tensor) -> None:
    """weights, log_weights, log_prob of [B, G, T] draws sum to 1, have Dirichlet's mean, and their own density."""
    weights, logs, log_prob = (tensor(part) for part in result[:3])
    alpha = concentration.double()
    total = alpha.sum(-1, keepdim=True)
    close("peer", f"sum of {name}'s weights", weights.sum(-1), torch.ones(weights.shape[:2]).double())
    mean = alpha / total
    variance = mean * (1 - mean) / (total + 1)
    error = (weights.mean(1) - mean).mean(0) / (variance.mean(0) / weights.shape[0] / weights.shape[1]).sqrt()
    if error.abs().max() > 6.0:
        raise AssertionError(f"{name}: mean weights are {error.abs().max():.1f} standard errors off Dirichlet's")
    wanted = reference.dirichlet_log_prob(alpha, logs)
    finite = torch.isfinite(log_prob) & torch.isfinite(wanted)  # float32 weights underflow where α is small
    close(name, "log_prob", log_prob[finite], wanted[finite], 1.0 if name.startswith(OURS) else 0.99)
