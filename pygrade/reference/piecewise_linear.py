"""Reference of the piecewise linear map that calibrates predictions for a baseline."""

import torch
from torch import Tensor


def piecewise_linear(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """y_i + (p - x_i) · (y_{i+1} - y_i) / (x_{i+1} - x_i) of each value p, with x_i ≤ p < x_{i+1}.

    The first and the last segment have no end. x [K] ascending, K ≥ 2; NaN stays NaN.
    """
    segment = ((values[..., None] >= x).sum(-1) - 1).clamp(0, len(x) - 2)
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    return torch.where(values.isnan(), torch.nan, y[segment] + (values - x[segment]) * slope[segment])
