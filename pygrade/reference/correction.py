"""Reference of the correction of a request's predictions by its context.

The log odds of task t given its parent become base_t + B_0 + Σ_v B_v c_v: base_t those of the prediction, c what the
candidate's log odds and item columns have above the request's mean, B linear in the context and in that mean. Then all
predictions of a candidate are multiplied by exp(Σ leaves) of its trees.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SMALLEST = 1e-6  # of predictions, and of what a probability lacks to 1
LEAST_PARENT, EPSILON = 1e-9, 1e-7  # a parent's least prediction that another is divided by; what is added to it
MOST_MAPPED_LOG = -1e-3  # largest log of a mapped probability
RATIO = (1e-4, 0.95)  # of a child's prediction over its parent's: separate models break p(child) ≤ p(parent)


def log_odds(predictions: Tensor, amounts: Sequence[bool]) -> Tensor:
    """log p - log(1 - p) of predictions [..., T] cut to 1e-6 … 1 - 1e-6; log p of amounts, which have no upper end."""
    p = predictions.clamp_min(SMALLEST)
    q = p.clamp_max(1 - SMALLEST)
    return torch.where(torch.tensor(amounts), p.log(), q.log() - (1 - q).log())


def conditional_log_odds(predictions: Tensor, parents: Sequence[int], amounts: Sequence[bool]) -> Tensor:
    """Return the log odds [..., T] of each task given its parent; of a root (parent -1) those of its prediction."""
    base = log_odds(predictions, amounts)
    for t, s in enumerate(parents):
        if s >= 0:
            base[..., t] = torch.logit((predictions[..., t] / (predictions[..., s] + EPSILON)).clamp(*RATIO))
    return base


def map_predictions(
    predictions: Tensor,
    parents: Sequence[int],
    amounts: Sequence[bool],
    form: str,
    mean: Tensor,
    std: Tensor,
    knots: Tensor,
    weights: Tensor,
) -> Tensor:
    """Predictions [..., T] bent by monotone maps of log odds l: l + w_0 + w_1 z + Σ_k w_{2+k} max(z - knot_k, 0), with
    z = clamp((l - mean) / std, ±6).

    form: "" as they are; "marginal": of each prediction; "conditional": of roots, and of children given the parent.
    mean, std [T]; knots [T, 5]; weights [T, 7].
    """

    def bent(odds: Tensor, t: int) -> Tensor:
        z = ((odds - mean[t]) / std[t]).clamp(-6, 6)
        hinges = (z[..., None] - knots[t]).clamp_min(0) @ weights[t, 2:]
        return odds + weights[t, 0] + weights[t, 1] * z + hinges

    if not form:
        return predictions
    mapped = torch.empty_like(predictions)
    own = log_odds(predictions, amounts)
    for t in in_order(parents):
        s = parents[t]
        odds = bent(own[..., t], t)
        if amounts[t]:
            mapped[..., t] = odds.exp()
        elif form == "marginal":
            mapped[..., t] = logsigmoid(odds).clamp_max(MOST_MAPPED_LOG).exp()
        elif s < 0:
            mapped[..., t] = torch.sigmoid(odds)
        else:
            ratio = (predictions[..., t] / predictions[..., s].clamp_min(LEAST_PARENT)).clamp(*RATIO)
            mapped[..., t] = mapped[..., s] * torch.sigmoid(bent(torch.logit(ratio), t))
    return mapped


def correct(
    context: Tensor | None,
    predictions: Tensor,
    items: Tensor | None = None,
    *,
    parents: Sequence[int],
    amounts: Sequence[bool],
    median: Tensor,
    indicators: Sequence[int],
    x_mean: Tensor,
    x_std: Tensor,
    l_mean: Tensor,
    l_std: Tensor,
    weights: Tensor,
    form: str,
    map_mean: Tensor,
    map_std: Tensor,
    map_knots: Tensor,
    map_weights: Tensor,
    tree_inputs: Tensor,
    tree_thresholds: Tensor,
    tree_masks: Tensor,
    tree_leaves: Tensor,
) -> Tensor:
    """Predictions [N, T] of one request, corrected by its context [F] and the item columns [N, I] of its candidates.

    The other arguments are the fields of `pygrade.policy.correction.Correction`. A feature that is not finite is
    unknown: its median, and 1 as its indicator. Without a known feature x is 0. Unknown item columns count as the mean.
    """
    p = map_predictions(predictions, parents, amounts, form, map_mean, map_std, map_knots, map_weights)
    base = conditional_log_odds(p, parents, amounts)
    if items is None:
        items = torch.full((len(p), len(l_mean) - p.shape[1]), torch.nan).to(p)
    known = torch.where(items.isfinite(), items, torch.nan)
    variables = ((torch.cat([base, known], 1) - l_mean) / l_std).clamp(-4, 4).nan_to_num(0.0)  # [N, V]
    m = variables.mean(0)
    x = torch.zeros_like(x_mean)
    if context is not None and bool(context.isfinite().any()):
        unknown = ~context.isfinite()
        filled = torch.cat([torch.where(unknown, median, context), unknown[list(indicators)].to(median)])
        x = ((filled - x_mean) / x_std).clamp(-4, 4)
    z = torch.cat([torch.ones(1).to(p), x, m])
    b = torch.einsum("z,tzu->tu", z, weights)
    shift = b[:, 0] + (variables - m) @ b[:, 1:].T  # [N, T]
    corrected = torch.empty_like(p)
    for t in in_order(parents):
        s = parents[t]
        if s >= 0:
            corrected[:, t] = torch.sigmoid(base[:, t] + shift[:, t]) * corrected[:, s]
        else:
            given = p[:, t].clamp_min(SMALLEST)
            given = given if amounts[t] else given.clamp_max(1 - SMALLEST)
            given = given * shift[:, t].exp()
            corrected[:, t] = given if amounts[t] else given.clamp_max(1.0)
    columns = torch.cat([variables, variables - m, x.expand(len(p), -1), m.expand(len(p), -1)], 1)
    moves = sum_leaves(columns, tree_inputs, tree_thresholds, tree_masks, tree_leaves)
    return corrected * moves.clamp(-60, 60).exp()[:, None]


def sum_leaves(columns: Tensor, inputs: Tensor, thresholds: Tensor, masks: Tensor, leaves: Tensor) -> Tensor:
    """Return the sum [N] over trees of the leaf of each row of columns [N, D]: the lowest bit that all nodes leave. A
    node leaves all if its input is not above its threshold, else those of its mask."""
    left = torch.full((len(columns), len(leaves)), 255)
    for node in range(inputs.shape[1]):
        above = columns[:, inputs[:, node].long()] > thresholds[:, node]
        left &= torch.where(above, masks[:, node].long(), 255)
    leaf = (left & -left).double().log2().long()  # [N, G]
    return leaves[torch.arange(len(leaves)), leaf].sum(1)


def in_order(parents: Sequence[int]) -> list[int]:
    """The tasks, each after its parent."""
    done: list[int] = []
    while len(done) < len(parents):
        done += [t for t, s in enumerate(parents) if t not in done and (s < 0 or s in done)]
    return done
