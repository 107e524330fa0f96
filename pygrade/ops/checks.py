"""Argument checks shared by the ops: every message names the argument, what it was and what is wanted."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[np.generic]
T = TypeVar("T", bound=Array)

SCORE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tensor(name: str, value: Array, dtypes: Sequence[torch.dtype], shape: Sequence[int | None]) -> Tensor:
    """``value`` as a contiguous tensor (numpy memory is shared) of one of ``dtypes`` and of ``shape`` (None: any)."""
    if isinstance(value, np.ndarray):
        if not (value.flags.writeable and value.flags.c_contiguous):
            value = value.copy()  # torch warns of read-only memory and knows no negative strides
        try:
            found = torch.from_numpy(value)
        except TypeError:
            raise TypeError(f"{name} is a numpy array of {value.dtype}; want {_names(dtypes)}") from None
    elif isinstance(value, Tensor):
        found = value
    else:
        raise TypeError(f"{name} is {type(value).__name__}; want a torch tensor or a numpy array")
    if found.dtype not in dtypes:
        raise TypeError(f"{name} is {_names([found.dtype])}; want {_names(dtypes)}")
    fits = found.ndim == len(shape) and all(w is None or w == s for s, w in zip(found.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("*" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} is of shape {list(found.shape)}; want [{wanted}]")
    return found.contiguous()


def outputs(out: Any, shape: tuple[int, ...], scores: Tensor) -> tuple[Tensor, Tensor]:
    """The caller's (values, indices) as tensors of their own memory, no copies of it."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError("out is not a pair; want (values, indices)")
    return output("out[0]", out[0], torch.float32, shape, "scores", scores), output(
        "out[1]", out[1], torch.int32, shape, "scores", scores
    )


def output(
    name: str, value: Array, dtype: torch.dtype, shape: tuple[int, ...], other_name: str, other: Tensor
) -> Tensor:
    """The caller's array as a tensor of its own memory, no copy of it, on the device of another argument."""
    found = tensor(name, value, (dtype,), shape)
    same_device(name, found, other_name, other)
    if isinstance(value, np.ndarray):
        usable = value.flags.c_contiguous and value.flags.writeable
    else:
        usable = value.is_contiguous() and not value.requires_grad
    if not usable:
        raise ValueError(f"{name} is not contiguous, not writable or requires a gradient; want plain memory to fill")
    return found


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """ValueError where two arguments live on different devices."""
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}; want {other.device}, where {other_name} is")


def like(result: Tensor, argument: T) -> T:
    """``result`` as a numpy array where the caller's ``argument`` was one."""
    found: Any = result.numpy() if isinstance(argument, np.ndarray) else result
    return found  # type: ignore[no-any-return]


def must_validate(validate: bool | None, value: Tensor) -> bool:
    """Whether values are checked: as asked, else on a CPU only (a check would wait for the GPU)."""
    return value.device.type == "cpu" if validate is None else validate


def choice(name: str, value: str, choices: Sequence[str]) -> int:
    """The position of ``value`` in ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; want one of {', '.join(choices)}")
    return choices.index(value)


def thread_count(num_threads: int | None) -> int:
    """``num_threads`` for an op's schema, where 0 stands for None: torch's setting."""
    if num_threads is None:
        return 0
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}; want at least 1, or None for torch's setting")
    return num_threads


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(d).removeprefix("torch.") for d in dtypes)
