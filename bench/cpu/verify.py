"""Checks every contender against the float64 reference before it is timed.

Ours must meet the float32 tolerances of the tests. Peers compute in float32 by other formulas; their tolerance only
tells right results from wrong ones.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade import reference
from pygrade.reference.tolerances import ABSOLUTE, RELATIVE
from .harness import OURS, Contender

STRICT = RELATIVE[torch.float32], ABSOLUTE[torch.float32]
LOOSE = 1e-3, 1e-3


def tensor(value: Any) -> Tensor:
    """The array of any contender as float64."""
    return torch.as_tensor(np.asarray(value.detach() if isinstance(value, Tensor) else value)).double()


def close(name: str, what: str, result: Any, wanted: Tensor, share: float = 1.0) -> None:
    """At least ``share`` of the numbers are close to ``wanted``; below 1 if a swapped near-tie may change some."""
    relative, absolute = STRICT if name.startswith(OURS) else LOOSE
    got = tensor(result).reshape(wanted.shape)
    right = torch.isclose(got, wanted.double(), rtol=relative, atol=absolute, equal_nan=True).double().mean().item()
    if right < share:
        worst = (got - wanted).abs().max().item()
        raise AssertionError(f"{name}: {what} differs from the reference ({right:.4%} right, off by up to {worst:.3g})")


def all_close(
    contenders: Mapping[str, Contender], what: str, wanted: Tensor, share: float = 1.0, number: int = 0
) -> None:
    """Each contender's call of this number returns ``wanted``."""
    for name, run in contenders.items():
        close(name, what, run(number), wanted, share)


def gradients(
    contenders: Mapping[str, Contender], function: Callable[[Tensor], Tensor], given: Tensor, share: float = 1.0
) -> None:
    """Each contender's second call returns the function's value at ``given``, and the gradient of its sum."""
    exact = given.double().requires_grad_()
    wanted = function(exact)
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    for name, run in contenders.items():
        value, slope = run(1)[:2]
        close(name, "value", value, wanted.detach(), share)
        close(name, "gradient", slope, gradient, share)


def topk(name: str, result: Any, fused: Tensor, k: int) -> None:
    """``result`` holds the k best values of each list of fused[…, N] and distinct indices with those scores."""
    lists = fused.reshape(-1, fused.shape[-1])
    values = tensor(result[0]).reshape(len(lists), k)
    indices = tensor(result[1]).reshape(len(lists), k).long()
    close(name, "values", values.sort(-1, descending=True).values, lists.topk(k).values)
    close(name, "score of the indices", lists.gather(-1, indices), values)
    if any(len(set(row.tolist())) < k for row in indices):
        raise AssertionError(f"{name}: an index comes twice")


def fused_scores(scores: Any, weights: Any, transform: str) -> Tensor:
    """Fused scores of [B, N, T] or [N, T] scores, by the reference."""
    s, w = tensor(scores), tensor(weights)
    single = s.ndim == 2
    if single:
        s, w = s[None], w[None]
    return reference.fuse_scores(s, w, transform, beta=1e-7)


def draws(name: str, result: Any, concentration: Tensor) -> None:
    """Weights of [B, G, T] draws sum to 1 and have the mean of the Dirichlet; log_prob is its density."""
    weights, logs, log_prob = (tensor(part) for part in result[:3])
    alpha = concentration.double()
    total = alpha.sum(-1, keepdim=True)
    close("peer", f"sum of {name}'s weights", weights.sum(-1), torch.ones(weights.shape[:2]).double())
    mean = alpha / total
    variance = mean * (1 - mean) / (total + 1)
    error = (weights.mean(1) - mean).mean(0) / (variance.mean(0) / weights.shape[0] / weights.shape[1]).sqrt()
    if error.abs().max() > 6.0:
        raise AssertionError(f"{name}: mean weights are {error.abs().max():.1f} standard errors off the Dirichlet's")
    wanted = reference.dirichlet_log_prob(alpha, logs)
    finite = torch.isfinite(log_prob) & torch.isfinite(wanted)  # float32 weights underflow where α is small
    close(name, "log_prob", log_prob[finite], wanted[finite], 1.0 if name.startswith(OURS) else 0.99)
