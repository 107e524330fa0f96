"""Reference of the `ranking` family: top-k blended ranking."""

from typing import Any

from torch import Tensor

from pygrade.reference.fusion import fuse_scores
from pygrade.reference.page_search import search_page


def rank(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str = "identity",
    *,
    mask: Tensor | None = None,
    boost_mul: Tensor | None = None,
    boost_add: Tensor | None = None,
    groups: Tensor | None = None,
    caps: Tensor | None = None,
    cap_slots: Tensor | None = None,
    decay: Tensor | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Blended ranking: the greedy page of `search_page` by fused scores alone.

    scores[B, N, T] (or [M, T] with offsets), weights[B, T], rules as in `search_page` → values[B, k], indices[B, k]
    int32, padded with -inf and -1.
    """
    fused = fuse_scores(scores, weights, transform, beta=beta, epsilon=epsilon, slope=slope, offsets=offsets)
    rules: dict[str, Any] = {"mask": mask, "boost_mul": boost_mul, "boost_add": boost_add, "offsets": offsets}
    rules |= {"groups": groups, "caps": caps, "cap_slots": cap_slots, "decay": decay}
    return search_page(fused, None, k, **rules)
