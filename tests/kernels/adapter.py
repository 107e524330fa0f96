"""Runs launch functions that tests call with CPU tensors on a GPU: copies arguments there and results back."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

import pygrade.kernels


def adapted(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """``function`` with CPU tensors moved to the device and back; tensors that it changes are updated."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        given = [v for v in (*arguments, *keywords.values()) if isinstance(v, Tensor)]
        if not any(tensor.device.type == "cpu" for tensor in given):
            return function(*arguments, **keywords)
        moved = {id(tensor): tensor.detach().to(device, copy=True) for tensor in given}

        def to_device(value: Any) -> Any:
            return moved[id(value)] if isinstance(value, Tensor) else value

        result = function(*map(to_device, arguments), **{name: to_device(v) for name, v in keywords.items()})
        with torch.no_grad():
            for tensor in given:
                after = moved[id(tensor)].cpu()
                if not torch.equal(after, tensor):
                    tensor.copy_(after)
        if isinstance(result, Tensor):
            return result.cpu()
        return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result

    return call


@contextmanager
def adapted_kernels(device: str) -> Iterator[list[str]]:
    """Inside the block every public function of `pygrade.kernels` is adapted; yields their names."""
    changed: list[tuple[Any, str, Any]] = []
    for module_info in pkgutil.iter_modules(pygrade.kernels.__path__):
        module = importlib.import_module(f"pygrade.kernels.{module_info.name}")
        for name, value in list(vars(module).items()):
            if type(value) is FunctionType and value.__module__ == module.__name__ and not name.startswith("_"):
                changed.append((module, name, value))
                setattr(module, name, adapted(value, device))
    try:
        yield [f"{module.__name__}.{name}" for module, name, _ in changed]
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
