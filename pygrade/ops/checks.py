"""Argument checks shared by the ops: every message names the argument, what it was and what is wanted."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Array

TensorOrArray = Tensor | Array
T = TypeVar("T", bound=TensorOrArray)

FLOAT32 = (torch.float32,)
FLOATS = (torch.float32, torch.float64)  # float64: computed by the reference
HALVES = (torch.float32, torch.float16, torch.bfloat16)
SCORE_DTYPES = (*HALVES, torch.float64)
MAX_THREADS = 1 << 20
Shape = Sequence[int | str]  # sizes: a number, or a name such as "B"


def integer(name: str, value: Any, low: int, high: int) -> int:
    """``value``, an integer of Python or numpy, as an int in [low, high]."""
    number: int = value
    if type(value) is not int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}; expected an integer") from None
    if not low <= number <= high:
        wanted = f"at least {_power(low)}" if number < low else f"at most {_power(high)}"
        raise ValueError(f"{name} is {number}; expected {wanted}")
    return number


def number(name: str, value: Any) -> float:
    """``value``, a number of Python or numpy, as a float."""
    if type(value) is float:
        return value
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; expected a number")
    return float(value)


def nonnegative(name: str, value: Any) -> float:
    """``value`` as a float ≥ 0."""
    result = number(name, value)
    if not result >= 0.0:
        raise ValueError(f"{name} is {value}; expected a number ≥ 0")
    return result


class Arguments:
    """The tensors of one call of an op. All are on the device of the first; floats are float64 if the first is, else
    float32; and a size that shapes name, such as "B", is the same in all of them.
    """

    def __init__(self, op: str, **sizes: int) -> None:
        self.op, self.sizes = op, sizes
        self.name = ""  # of the first

    def first(self, name: str, value: TensorOrArray, dtypes: Sequence[torch.dtype], shape: Shape) -> Tensor:
        """The first argument; it keeps its gradient."""
        self.name, self.tensor = name, self.read(name, value, dtypes, shape)
        return self.tensor

    def read(self, name: str, value: TensorOrArray, dtypes: Sequence[torch.dtype], shape: Shape) -> Tensor:
        """``value`` as a contiguous tensor (numpy memory is shared) of one of ``dtypes`` and of ``shape``.

        Where float32 is wanted first, half and bfloat16 are widened and numpy's float64 is rounded, as it is what numpy
        makes if nobody asks. Of torch, float64 stays: somebody did.
        """
        of_torch = isinstance(value, Tensor)
        result = value if isinstance(value, Tensor) else _from_numpy(name, value, dtypes)
        if result.dtype not in dtypes or (result.dtype == torch.float64 == dtypes[-1] != dtypes[0] and not of_torch):
            result = self._as_float32(name, result, dtypes, of_torch)
        if result.layout != torch.strided:
            raise TypeError(f"{name} is a tensor of layout {result.layout}; expected a dense one")
        self._bind(name, result.shape, shape)
        return result.contiguous()

    def other(
        self,
        name: str,
        value: TensorOrArray,
        dtype: torch.dtype | tuple[torch.dtype, ...],
        shape: Shape,
        grad: bool = False,
    ) -> Tensor:
        """An argument on the first one's device; a float32 one is float64 if that is. ``grad``: it keeps a gradient."""
        if dtype == torch.float32 and self.tensor.dtype == torch.float64:
            dtype = torch.float64
        result = self.read(name, value, dtype if isinstance(dtype, tuple) else (dtype,), shape)
        if result.device != self.tensor.device:
            raise ValueError(f"{name} is on {result.device}; expected {self.tensor.device}, where {self.name} is")
        return result if grad else self.detached(name, result)

    def optional(self, name: str, value: TensorOrArray | None, dtype: torch.dtype, shape: Shape) -> Tensor | None:
        """`other`, or None for None."""
        return None if value is None else self.other(name, value, dtype, shape)

    def detached(self, name: str, value: Tensor, cure: str = "") -> Tensor:
        """``value`` without a gradient; a warning if the caller may wait for one."""
        if not value.requires_grad:
            return value
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            message = f"{name} requires a gradient, and {self.op} gives it none; expected {name}.detach(){cure}"
            warnings.warn(message, stacklevel=4)
        return value.detach()

    def output(self, name: str, value: TensorOrArray, dtype: torch.dtype, shape: Shape) -> Tensor:
        """The caller's array as a tensor that shares its memory, on the device of the first argument."""
        if (own := value if isinstance(value, Tensor) else _from_numpy(name, value, (dtype,))).dtype != dtype:
            raise TypeError(f"{name} is {_names([own.dtype])}; expected {_names([dtype])}")
        result = self.other(name, value, dtype, shape, grad=True)
        if isinstance(value, np.ndarray):
            usable = value.flags.c_contiguous and value.flags.writeable
        else:
            usable = value.is_contiguous() and not value.requires_grad
        if not usable:
            raise ValueError(
                f"{name} is not contiguous, not writable or requires a gradient; expected plain memory to fill"
            )
        return result

    def outputs(self, out: Any, shape: Shape) -> tuple[Tensor, Tensor]:
        """The caller's (values, indices) as tensors that share their memory."""
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError("out is not a pair; expected (values, indices)")
        kinds = torch.float32, torch.int32
        values, indices = (self.output(f"out[{i}]", out[i], kind, shape) for i, kind in enumerate(kinds))
        return values, indices

    def _bind(self, name: str, sizes: Sequence[int], shape: Shape) -> None:
        wanted = [self.sizes.get(size, size) if isinstance(size, str) else size for size in shape]
        fits = len(sizes) == len(shape)
        for size, want in zip(sizes, shape, strict=False):
            fits = fits and size == (self.sizes.setdefault(want, size) if isinstance(want, str) else want)
        if not fits:
            bound = "" if list(shape) == wanted else f" = [{', '.join(map(str, wanted))}]"
            raise ValueError(f"{name} is of shape {list(sizes)}; expected [{', '.join(map(str, shape))}]{bound}")

    def _as_float32(self, name: str, value: Tensor, dtypes: Sequence[torch.dtype], of_torch: bool) -> Tensor:
        if torch.float32 in dtypes and (value.dtype in HALVES or (value.dtype == torch.float64 and not of_torch)):
            return value.float()
        cure = f", as {self.name} is" if dtypes == (torch.float64,) else ""
        if value.is_floating_point() and dtypes[0].is_floating_point:
            cure += f", such as {name}.{'double' if cure else 'float'}()"
        raise TypeError(f"{name} is {_names([value.dtype])}; expected {_names(dtypes)}{cure}")


def any_rows(value: Any, last: str) -> Shape:
    """The shape [..., last] of an array of any number of dimensions from 1 on."""
    return (*(f"D{d}" for d in range(getattr(value, "ndim", 1) - 1)), last)


def match_type(result: Tensor, argument: T) -> T:
    """``result``, as a numpy array if the caller's ``argument`` is one."""
    converted: Any = result.numpy() if isinstance(argument, np.ndarray) else result
    return converted  # type: ignore[no-any-return]


def has_values() -> bool:
    """False outside an op while torch compiles or transforms what calls it, and tensors can't be read."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def should_validate(validate: bool | None, value: Tensor) -> bool:
    """Return whether values are to be checked; None: on a CPU only, since a check would wait for the GPU."""
    if value.dtype == torch.float64 and not has_values():
        return False
    return value.is_cpu if validate is None else bool(validate)


def choice(name: str, value: str, choices: Sequence[str]) -> None:
    """ValueError if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def thread_count(num_threads: int | None) -> int:
    """``num_threads`` for an op's schema, in which 0 is None: torch's setting."""
    return 0 if num_threads is None else integer("num_threads", num_threads, 1, MAX_THREADS)


def _from_numpy(name: str, value: Any, dtypes: Sequence[torch.dtype]) -> Tensor:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {type(value).__name__}; expected a torch tensor or a numpy array")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; expected one without a mask, such as array.filled(0)")
    if not (value.flags.writeable and value.flags.c_contiguous):
        value = value.copy()  # torch warns of read-only memory
    elif min(value.strides, default=0) < 0:  # of an axis with at most one element; torch takes no negative strides
        value = value.reshape(-1).reshape(value.shape)
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError):  # an unknown dtype, or the other byte order
        raise TypeError(f"{name} is a numpy array of {value.dtype}; expected {_names(dtypes)}") from None


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(d).removeprefix("torch.") for d in dtypes)


def _power(bound: int) -> str:
    """A bound as text: large ones as powers of two."""
    if abs(bound) < 1 << 24:
        return str(bound)
    text = f"2^{(abs(bound) + 1).bit_length() - 1}"
    return f"-{text}" if bound < 0 else f"{text} - 1" if (bound & 1) else text
