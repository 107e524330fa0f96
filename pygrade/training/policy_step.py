"""One training step of the policy network, in C++ or in torch.

    step = policy_step(policy, learning_rate)
    alpha = step.concentration(inputs)                # [B, T], without a graph
    norm = step.descend(slope, max_norm, "step 1")    # slope: d loss / d alpha

Both sides compute the same up to rounding and keep Adam's state in one format, so that a training may go on with the
other one. The core's results have the same bits on every instruction set and with any number of threads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade.config.training import Engine, check_engine
from pygrade.policy import FusionPolicy
from pygrade.policy.fused_network import FusedNetwork, clip_factor, is_fast, why_not_fused

_PREFIX = "adam."


class TorchStep:
    """The network of a policy and its optimizer by torch, on any device."""

    def __init__(self, policy: FusionPolicy, rate: float) -> None:
        self.rate = rate  # of the next update
        self._policy = policy
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
        self._alpha: Tensor | None = None

    def concentration(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        """Return α [B, T] of raw inputs [B, D] under exploration factors [B], without a graph; remembers the batch."""
        with torch.enable_grad():
            self._alpha = self._policy.concentration(inputs, factor)
        return self._alpha.detach()

    def descend(self, slope: Tensor, max_norm: float, label: str) -> float:
        """One step of Adam along the gradient, scaled down to ``max_norm``, of a loss whose gradient by the last
        `concentration` is ``slope`` [B, T].

        Returns the norm before; ``FloatingPointError``, which begins with ``label``, if it is not finite; then nothing
        changes.
        """
        assert self._alpha is not None
        self._optimizer.zero_grad()
        self._alpha.backward(slope)  # type: ignore[no-untyped-call]
        self._alpha = None
        norm = torch.nn.utils.clip_grad_norm_(self._policy.parameters(), max_norm).item()
        _check_norm(norm, label)
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self._optimizer.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """A copy of Adam's state: ``adam.<parameter>.{step,exp_avg,exp_avg_sq}``; empty before the first update."""
        entries = self._optimizer.state_dict()["state"].items()
        return {f"{_PREFIX}{index}.{name}": value.clone() for index, state in entries for name, value in state.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state`; other names are ignored."""
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": _entries(tensors), "param_groups": groups})


class FusedStep:
    """A `TorchStep` by the C++ core, without autograd; ``ValueError`` if it does not cover the policy."""

    def __init__(self, policy: FusionPolicy, rate: float) -> None:
        self.rate = rate
        self._network = FusedNetwork(policy)
        self._adam = self._network.new_adam()

    def concentration(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        return self._network.forward(inputs, factor)

    def descend(self, slope: Tensor, max_norm: float, label: str) -> float:
        gradient, norm = self._network.gradient(slope)
        _check_norm(norm, label)
        self._network.step(self._adam, gradient, self.rate, clip_factor(norm, max_norm))
        return norm

    def state(self) -> dict[str, Tensor]:
        if self._adam.steps == 0:
            return {}
        result = {}
        for index, (first, second) in enumerate(self._moments()):
            result[f"{_PREFIX}{index}.step"] = torch.tensor(float(self._adam.steps))
            result[f"{_PREFIX}{index}.exp_avg"] = first.clone()
            result[f"{_PREFIX}{index}.exp_avg_sq"] = second.clone()
        return result

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        entries = _entries(tensors)
        self._adam = self._network.new_adam()
        for index, (first, second) in enumerate(self._moments()):
            if not entries:
                return
            first.copy_(entries[index]["exp_avg"])
            second.copy_(entries[index]["exp_avg_sq"])
            self._adam.steps = int(entries[index]["step"])

    def _moments(self) -> list[tuple[Tensor, Tensor]]:
        """Views of both moments by parameter."""
        shapes = self._network.shapes
        sizes = [shape.numel() for shape in shapes]
        parts = zip(shapes, torch.split(self._adam.first, sizes), torch.split(self._adam.second, sizes), strict=True)
        return [(first.view(shape), second.view(shape)) for shape, first, second in parts]


PolicyStep = TorchStep | FusedStep
Concentrations = Callable[[Tensor, Tensor | None], Tensor]


def policy_step(policy: FusionPolicy, rate: float, engine: Engine = "auto") -> PolicyStep:
    """Network and Adam of the policy; ``auto``: by the core if it covers the policy, and is fast here.

    ``ValueError`` if the engine is ``fused`` and the core does not cover the policy.
    """
    return FusedStep(policy, rate) if is_fused(policy, engine) else TorchStep(policy, rate)


def concentrations(policy: FusionPolicy, engine: Engine = "auto") -> Concentrations:
    """Return α [B, T] of raw inputs [B, D] and factors [B] (None: 1), with the bits of a `policy_step`."""
    if is_fused(policy, engine):
        return FusedNetwork(policy).concentration
    return lambda inputs, factor: policy.concentration(inputs, factor).detach()


def is_fused(policy: FusionPolicy, engine: Engine) -> bool:
    """Return whether the core runs the policy's network under this engine."""
    check_engine(engine)
    return engine == "fused" or (engine == "auto" and is_fast() and not why_not_fused(policy))


def _check_norm(norm: float, label: str) -> None:
    if not np.isfinite(norm):
        raise FloatingPointError(f"{label}: gradient norm {norm}; expected a finite one")


def _entries(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Adam's state by parameter."""
    entries: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith(_PREFIX):
            _, index, name = key.split(".")
            entries.setdefault(int(index), {})[name] = tensor
    return entries
