"""Reference of the scales in which callers give predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pygrade.reference.piecewise_linear import piecewise_linear

_LARGEST_LOG = 80.0


def read_predictions(
    predictions: Tensor,
    kinds: Sequence[str],
    given: Sequence[int],
    amounts: Sequence[bool],
    maps: Sequence[tuple[Tensor, Tensor] | None],
) -> Tensor:
    """Predictions v [..., T] on scales → probabilities and amounts p [..., T], NaN where v is NaN or infinite.

    kinds: probability v, percent v / 100, logit 1 / (1 + exp(-v)), log exp(v), score as a logit, of amounts as a log,
    of `piecewise_linear` with the knots in maps; logits and logs are cut to ±80. given: the task whose p multiplies, as
    v presumes its event, or -1.
    """
    alone = []
    for t, kind in enumerate(kinds):
        v = torch.where(predictions[..., t].isfinite(), predictions[..., t], torch.nan)
        if (knots := maps[t]) is not None:
            v = piecewise_linear(v, *knots)
            kind = "log" if amounts[t] else "logit"
        if kind == "percent":
            v = v / 100
        elif kind == "logit":
            v = 1 / (1 + torch.exp(-v.clamp(-_LARGEST_LOG, _LARGEST_LOG)))
        elif kind == "log":
            v = torch.exp(v.clamp(-_LARGEST_LOG, _LARGEST_LOG))
        alone.append(v)
    columns = []
    for t, parent in enumerate(given):
        p = alone[t]
        while parent >= 0:
            p, parent = p * alone[parent], given[parent]
        columns.append(p)
    return torch.stack(columns, -1)
