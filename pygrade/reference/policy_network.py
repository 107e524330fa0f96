"""Reference of the fused policy step: the network of a fusion policy, clipping and Adam.

`pygrade.policy.network` has the network's meaning. Gradients are those of autograd through `concentration`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

INPUT_CLIP = 5.0


def concentration(
    parameters: Sequence[Tensor],
    inputs: Tensor,
    input_mean: Tensor,
    input_std: Tensor,
    concentration_floor: float,
    total_concentration: float,
    factor: Tensor | None = None,
) -> Tensor:
    """Return α [B, T] = factor · (floor + total · softmax(MLP(normalized inputs [B, D]))).

    ``parameters``: weights [outputs, inputs] and bias [outputs] of each layer; SiLU follows all but the last. Inputs
    are normalized, cut to ±5, and 0 if NaN.
    """
    x = ((inputs - input_mean) / input_std).clamp(-INPUT_CLIP, INPUT_CLIP)
    x = torch.where(x.isnan(), 0.0, x)
    for index in range(0, len(parameters), 2):
        if index > 0:
            x = x * torch.sigmoid(x)
        x = x @ parameters[index].T + parameters[index + 1]
    alpha = concentration_floor + total_concentration * torch.softmax(x, -1)
    return alpha if factor is None else alpha * factor[:, None]


def clip_factor(norm: float, max_norm: float) -> float:
    """The factor that scales a gradient of this norm down to max_norm, as `torch.nn.utils.clip_grad_norm_` has it."""
    return min(1.0, max_norm / (norm + 1e-6))


def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameter and moments after step number ``step`` (from 1) of Adam (arXiv 1412.6980).

    m ← β₁ m + (1 - β₁) g; v ← β₂ v + (1 - β₂) g²; θ ← (1 - η λ) θ - η m̂ / (√v̂ + ε) with m̂ = m / (1 - β₁ᵗ) and
    v̂ = v / (1 - β₂ᵗ). λ, the weight decay, is decoupled (AdamW, arXiv 1711.05101).
    """
    first = beta1 * first + (1.0 - beta1) * gradient
    second = beta2 * second + (1.0 - beta2) * gradient**2
    deviation = (second / (1.0 - beta2**step)).sqrt() + epsilon
    kept = (1.0 - learning_rate * weight_decay) * parameter
    return kept - learning_rate * first / (1.0 - beta1**step) / deviation, first, second
