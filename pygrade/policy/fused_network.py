"""The network of a `FusionPolicy` in the C++ core: concentrations, and gradients and Adam without autograd.

It works on the policy's own parameters, so that the policy always is what was trained. Results have the same bits on
every instruction set and with any number of threads; torch's differ in the last bits.
`pygrade.reference.policy_network` has the formulas.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pygrade import _core
from pygrade.policy.network import FusionPolicy


def why_not_fused(policy: FusionPolicy) -> str:
    """The reason why the core can't run this policy's network; "" if it can."""
    kind = type(policy)
    if kind.concentration is not FusionPolicy.concentration or kind.normalize is not FusionPolicy.normalize:
        return f"{kind.__name__} has a network of its own"
    layers = list(policy.body)
    linear, between = [*layers[::2], policy.head], layers[1::2]
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in linear):
        return "its layers are not all linear ones with a bias"
    if any(type(layer) is not nn.SiLU for layer in between) or len(between) != len(linear) - 1:
        return "its activations are not all SiLU"
    for name, tensor in policy.state_dict().items():
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}"
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            return f"{name} is not contiguous float32"
    return ""


def is_fast() -> bool:
    """Return whether the core's kernels fuse multiply-adds on this processor; elsewhere torch is faster."""
    return _core.policy_network_is_fast()


@dataclass
class Adam:
    """The state of Adam: moments [P] of all parameters, one after the other, and the number of steps taken."""

    first: Tensor
    second: Tensor
    steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0  # decoupled (AdamW)


class FusedNetwork:
    """The network of one policy, whose parameters must stay where they are: make it after ``policy.to(…)``.

    ``ValueError`` if the core does not cover the policy.
    """

    def __init__(self, policy: FusionPolicy) -> None:
        if reason := why_not_fused(policy):
            raise ValueError(f"policy can't run in the core: {reason}")
        self.shapes = [parameter.shape for parameter in policy.parameters()]
        self._tasks = len(policy.tasks)
        self._core = _core.PolicyNetwork(
            [parameter.detach() for parameter in policy.parameters()],
            policy.input_mean,
            policy.input_std,
            policy.spec.concentration_floor,
            policy.config.total_concentration,
        )

    def concentration(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        """Return α [B, T] of raw inputs [B, D] under exploration factors [B] (None: 1), without a gradient."""
        alpha = torch.empty(len(inputs), self._tasks)
        self._core.concentration(*_given(inputs, factor), alpha, torch.get_num_threads())
        return alpha

    def forward(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        """`concentration`, and remember the batch for `gradient`."""
        alpha = torch.empty(len(inputs), self._tasks)
        self._core.forward(*_given(inputs, factor), alpha, torch.get_num_threads())
        return alpha

    def gradient(self, slope: Tensor) -> tuple[Tensor, float]:
        """Gradient [P] of a loss by all parameters, and its norm; ``slope`` [B, T]: by the α of the last `forward`."""
        gradient = torch.empty(self._core.num_parameters)
        norm = self._core.gradient(slope.detach().contiguous(), gradient, torch.get_num_threads())
        return gradient, norm

    def new_adam(self) -> Adam:
        """Adam before its first step."""
        return Adam(torch.zeros(self._core.num_parameters), torch.zeros(self._core.num_parameters))

    def step(self, adam: Adam, gradient: Tensor, learning_rate: float, scale: float = 1.0) -> None:
        """One step of Adam on the policy's parameters, from ``scale`` times the gradient [P]."""
        adam.steps += 1
        self._core.adam(
            gradient,
            adam.first,
            adam.second,
            adam.steps,
            learning_rate,
            *adam.betas,
            adam.epsilon,
            adam.weight_decay,
            scale,
        )


def clip_factor(norm: float, max_norm: float) -> float:
    """The factor that scales a gradient of this norm down to max_norm: min(1, max_norm / (norm + 1e-6))."""
    return _core.clip_factor(norm, max_norm)


def _given(inputs: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return inputs.detach().contiguous(), None if factor is None else factor.detach().contiguous()
