"""Argument checks shared by the ops: every message names the argument, what it was and what is wanted."""

import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Array

TensorOrArray = Tensor | Array
T = TypeVar("T", bound=TensorOrArray)

FLOAT32 = (torch.float32,)
SCORE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_THREADS = 1 << 20


def integer(name: str, value: Any, low: int, high: int) -> int:
    """``value``, an integer of Python or numpy, as an int in [low, high]."""
    number: int = value
    if type(value) is not int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}; want an integer") from None
    if not low <= number <= high:
        wanted = f"at least {_power(low)}" if number < low else f"at most {_power(high)}"
        raise ValueError(f"{name} is {number}; want {wanted}")
    return number


def number(name: str, value: Any) -> float:
    """``value``, a number of Python or numpy, as a float."""
    if type(value) is float:
        return value
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; want a number")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """``value`` as a float ≥ 0."""
    result = number(name, value)
    if not result >= 0.0:
        raise ValueError(f"{name} is {value}; want a number ≥ 0")
    return result


def tensor(name: str, value: TensorOrArray, dtypes: Sequence[torch.dtype], shape: Sequence[int | None]) -> Tensor:
    """``value`` as a contiguous tensor (numpy memory is shared) of one of ``dtypes`` and of ``shape`` (None: any).

    Where float32 is wanted, half and bfloat16 are widened and numpy's float64 is rounded, as it is what numpy makes if
    nobody asks. A float64 tensor is refused: with torch somebody did.
    """
    result = value if isinstance(value, Tensor) else _from_numpy(name, value, dtypes)
    if result.dtype not in dtypes:
        result = _as_float32(name, result, dtypes, isinstance(value, Tensor))
    if result.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {result.layout}; want a dense one")
    sizes = result.shape
    if len(sizes) != len(shape):
        raise _misfit(name, sizes, shape)
    for size, want in zip(sizes, shape, strict=True):
        if want is not None and want != size:
            raise _misfit(name, sizes, shape)
    return result.contiguous()


def as_companion(
    name: str, value: TensorOrArray, dtype: torch.dtype, shape: Sequence[int | None], other_name: str, other: Tensor
) -> Tensor:
    """An argument on the device of another one, without a gradient."""
    result = tensor(name, value, (dtype,), shape)
    same_device(name, result, other_name, other)
    return detached(result)


def optional(
    name: str,
    value: TensorOrArray | None,
    dtype: torch.dtype,
    shape: Sequence[int | None],
    other_name: str,
    other: Tensor,
) -> Tensor | None:
    """`as_companion`, or None for None."""
    return None if value is None else as_companion(name, value, dtype, shape, other_name, other)


def detached(value: Tensor) -> Tensor:
    """``value`` without a gradient."""
    return value.detach() if value.requires_grad else value


def outputs(out: Any, shape: tuple[int, ...], scores: Tensor) -> tuple[Tensor, Tensor]:
    """The caller's (values, indices) as tensors that share their memory."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError("out is not a pair; want (values, indices)")
    return output("out[0]", out[0], torch.float32, shape, "scores", scores), output(
        "out[1]", out[1], torch.int32, shape, "scores", scores
    )


def output(
    name: str, value: TensorOrArray, dtype: torch.dtype, shape: tuple[int, ...], other_name: str, other: Tensor
) -> Tensor:
    """The caller's array as a tensor that shares its memory, on the device of another argument."""
    if (own := value if isinstance(value, Tensor) else _from_numpy(name, value, (dtype,))).dtype != dtype:
        raise TypeError(f"{name} is {_names([own.dtype])}; want {_names([dtype])}")
    result = tensor(name, value, (dtype,), shape)
    same_device(name, result, other_name, other)
    if isinstance(value, np.ndarray):
        usable = value.flags.c_contiguous and value.flags.writeable
    else:
        usable = value.is_contiguous() and not value.requires_grad
    if not usable:
        raise ValueError(f"{name} is not contiguous, not writable or requires a gradient; want plain memory to fill")
    return result


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """ValueError if two arguments are on different devices."""
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}; want {other.device}, where {other_name} is")


def match_type(result: Tensor, argument: T) -> T:
    """``result``, as a numpy array if the caller's ``argument`` is one."""
    converted: Any = result.numpy() if isinstance(argument, np.ndarray) else result
    return converted  # type: ignore[no-any-return]


def must_validate(validate: bool | None, value: Tensor) -> bool:
    """True if values are to be checked; None: on a CPU only, since a check would wait for the GPU."""
    return value.is_cpu if validate is None else bool(validate)


def choice(name: str, value: str, choices: Sequence[str]) -> None:
    """ValueError if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; want one of {', '.join(choices)}")


def thread_count(num_threads: int | None) -> int:
    """``num_threads`` for an op's schema, in which 0 is None: torch's setting."""
    return 0 if num_threads is None else integer("num_threads", num_threads, 1, MAX_THREADS)


def _from_numpy(name: str, value: Any, dtypes: Sequence[torch.dtype]) -> Tensor:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {type(value).__name__}; want a torch tensor or a numpy array")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; want one without a mask, such as array.filled(0)")
    if not (value.flags.writeable and value.flags.c_contiguous):
        value = value.copy()  # torch warns of read-only memory
    elif min(value.strides, default=0) < 0:  # of an axis with at most one element; torch takes no negative strides
        value = value.reshape(-1).reshape(value.shape)
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError):  # an unknown dtype, or the other byte order
        raise TypeError(f"{name} is a numpy array of {value.dtype}; want {_names(dtypes)}") from None


def _as_float32(name: str, value: Tensor, dtypes: Sequence[torch.dtype], of_torch: bool) -> Tensor:
    if torch.float32 not in dtypes:
        raise TypeError(f"{name} is {_names([value.dtype])}; want {_names(dtypes)}")
    if value.dtype in SCORE_DTYPES or (value.dtype == torch.float64 and not of_torch):
        return value.float()
    cure = f", such as {name}.float()" if value.dtype == torch.float64 else ""
    raise TypeError(f"{name} is {_names([value.dtype])}; want {_names(dtypes)}{cure}")


def _misfit(name: str, sizes: Sequence[int], shape: Sequence[int | None]) -> ValueError:
    wanted = ", ".join("*" if s is None else str(s) for s in shape)
    return ValueError(f"{name} is of shape {list(sizes)}; want [{wanted}]")


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(d).removeprefix("torch.") for d in dtypes)


def _power(bound: int) -> str:
    """A bound as text: large ones as powers of two."""
    if abs(bound) < 1 << 24:
        return str(bound)
    text = f"2^{(abs(bound) + 1).bit_length() - 1}"
    return f"-{text}" if bound < 0 else f"{text} - 1" if (bound & 1) else text
