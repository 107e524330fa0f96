"""The ops of the library `_ops.so`, what Python adds to them, and which backend runs a call.

`_ops.so` registers every op with torch, with its CPU implementation; it needs no Python (csrc/torch). Here each gets a
fake, its gradient and an implementation for GPUs, so that every call goes through torch's dispatcher: on a CPU to the
C++ core, on a GPU to Triton. Serving and training ops have a second way, their fast path in `_core`, for eager calls
that need no more than the core.

`use_backend` (or the environment variable PYGRADE_BACKEND) overrides the device: ``"reference"`` runs the float64
specification, ``"triton"`` sends CPU tensors to Triton, which needs its interpreter (TRITON_INTERPRET=1).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pygrade import _core

BACKENDS = ("auto", "reference", "cpu", "triton")

torch.ops.load_library(str(Path(_core.__file__).with_name("_ops.so")))  # type: ignore[no-untyped-call]
_library = torch.library.Library("pygrade", "IMPL")  # type: ignore[no-untyped-call]


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; want one of {', '.join(BACKENDS)}")
    return name


_default = _checked(os.environ.get("PYGRADE_BACKEND", "auto"))
_chosen: ContextVar[str] = ContextVar("pygrade_backend", default=_default)
_core.connect_torch(torch, _chosen)

tracing = torch.compiler.is_dynamo_compiling  # other tracers show as a mode or as a tensor type


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on the named backend: auto, reference, cpu or triton.

    A compiled graph does not ask for it: its ops go where their tensors are.
    """
    token = _chosen.set(_checked(name))
    try:
        yield
    finally:
        _chosen.reset(token)


def backend(tensor: Tensor) -> str:
    """``"reference"``, ``"cpu"`` or ``"triton"``: where an op on ``tensor`` runs."""
    chosen = _chosen_now()
    if chosen != "auto":
        return chosen
    return "cpu" if tensor.is_cpu else "triton"


def _chosen_now() -> str:
    return "auto" if tracing() else _chosen.get()


def is_reference(tensor: Tensor) -> bool:
    """The backend in Python that runs an op on ``tensor``: the reference, else Triton."""
    name = backend(tensor)
    if name == "cpu":
        raise ValueError(f"backend is 'cpu', and the tensors are on {tensor.device}; want them in CPU memory")
    return name == "reference"


def empty(like: Tensor, *sizes: int) -> Tensor:
    """New float32 memory on the device of ``like``; `Tensor.new_empty` takes twice the time."""
    return torch.empty(*sizes, dtype=torch.float32, device=like.device)


Implementation = Callable[..., Any]


class Op:
    """An op of the library, called with the positional arguments of its schema.

    implementation: the op in Python, for tensors on a GPU and for the backends "reference" and "triton".
    fake: results of the right shape, dtype and strides, without values.
    save, differentiate: setup_context and backward as `torch.library.register_autograd` takes them, but that
        ``differentiate`` returns the gradients of the first ``differentiable`` arguments alone.
    triton: whether there is a kernel; without, the backend "triton" leaves CPU tensors to the core.
    fast: whether `_core` has a fast path for it, ``<name>_fast_path``, whose arguments ``save`` takes as well.
    """

    def __init__(
        self,
        name: str,
        implementation: Implementation,
        fake: Implementation,
        save: Callable[..., None] | None = None,
        differentiate: Callable[..., tuple[Tensor | None, ...]] | None = None,
        *,
        differentiable: int = 1,
        triton: bool = True,
        fast: bool = False,
    ) -> None:
        self._fast_path = f"{name}_fast_path"
        self._fast_with_gradient: Implementation | None = None
        qualified = f"pygrade::{name}"
        self.registered = getattr(torch.ops.pygrade, name).default
        self._python_backends = ("reference", "triton") if triton else ("reference",)
        self._in_python = implementation
        self._differentiable = 0
        torch.library.register_fake(qualified, _with_defaults(self.registered, fake))
        _library.impl(name, _with_defaults(self.registered, implementation), "CUDA")  # type: ignore[no-untyped-call]
        if save is None or differentiate is None:
            return
        self._differentiable = differentiable
        constants = (None,) * (len(self.registered._schema.arguments) - differentiable)
        torch.library.register_autograd(
            qualified, lambda ctx, *upstream: (*differentiate(ctx, *upstream), *constants), setup_context=save
        )
        self._with_gradient = _function(self._below_autograd, save, differentiate)
        self._in_python_with_gradient = _function(implementation, save, differentiate)
        if fast:
            self._fast_with_gradient = _fast_function(self._fast_path, save, differentiate)

    def run_fast(self, *arguments: Any) -> Any:
        """The fast path's result for the arguments of the public function, or None if it leaves the call to the op."""
        if tracing():
            return None
        result = getattr(_core, self._fast_path)(*arguments)
        apply, first = self._fast_with_gradient, arguments[0]
        if result is not None or apply is None or type(first) is not Tensor:
            return result
        wanted = first.requires_grad and torch.is_grad_enabled()
        if not wanted or torch._C._are_functorch_transforms_active():
            return None
        try:
            return apply(*arguments)
        except _LeftToTheOp:
            return None

    def __call__(self, *arguments: Any) -> Any:
        if tracing() or torch._C._are_functorch_transforms_active():
            return self.registered(*arguments)
        in_python = _chosen.get() in self._python_backends and arguments[0].is_cpu
        count = self._differentiable
        if count == 0:
            return (self._in_python if in_python else self._run)(*arguments)
        # What register_autograd adds to the op passes every argument through Python twice. Called below
        # autograd, the op costs what its C++ costs.
        wanted = arguments[0].requires_grad or (count > 1 and arguments[1].requires_grad)
        if wanted and torch.is_grad_enabled():
            run = self._in_python_with_gradient if in_python else self._with_gradient
            return run(*arguments[:count], arguments[count:])
        return (self._in_python if in_python else self._below_autograd)(*arguments)

    def _run(self, *arguments: Any) -> Any:
        try:
            return self.registered(*arguments)
        except RuntimeError as error:
            # What the core refuses is a ValueError in torch 2.13, and like every C++ exception this in 2.15.
            if type(error) is RuntimeError and "; want " in str(error):
                raise ValueError(str(error)) from None
            raise

    def _below_autograd(self, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self._run(*arguments)


def _with_defaults(op: Any, function: Implementation) -> Implementation:
    """``function`` for the dispatcher, which leaves out trailing arguments that equal their defaults."""
    defaults = [argument.default_value for argument in op._schema.arguments]

    def called(*arguments: Any) -> Any:
        return function(*arguments, *defaults[len(arguments) :])

    return called


def _function(
    run: Implementation, save: Callable[..., None], differentiate: Callable[..., tuple[Tensor | None, ...]]
) -> Implementation:
    """``run`` with its gradient; the arguments that get none come last, as one tuple, which saves their conversion."""

    class Differentiable(Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            ctx.set_materialize_grads(False)  # no zeros for the results that carry no gradient
            inputs = (*arguments[:-1], *arguments[-1])
            output = run(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            return *differentiate(ctx, *upstream), None

    apply: Implementation = Differentiable.apply
    return apply


class _LeftToTheOp(Exception):
    pass


def _fast_function(name: str, save: Callable[..., None], differentiate: Implementation) -> Implementation:
    """The fast path ``name`` with its gradient to the first argument."""

    class FastDifferentiable(Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = getattr(_core, name)(*arguments)  # autograd is off here
            if output is None or any(ctx.needs_input_grad[1:]):
                raise _LeftToTheOp
            ctx.set_materialize_grads(False)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            return *differentiate(ctx, *upstream), *(None,) * (len(ctx.needs_input_grad) - 1)

    # Function.apply without what it does for functorch: the fast path takes no tensor of it.
    apply: Implementation = super(Function, FastDifferentiable).apply
    return apply


def first_order_only(
    differentiate: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., tuple[Tensor | None, ...]]:
    """A backward that can't be differentiated itself: an error, not a wrong second derivative."""
    strict = once_differentiable(differentiate)

    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        # once_differentiable takes time, and matters only if a graph of the gradient is wanted.
        if not torch.is_grad_enabled():
            return differentiate(ctx, *upstream)
        gradients: Any = strict(ctx, *upstream)
        return gradients if isinstance(gradients, tuple) else (gradients,)

    return backward


def gradients_in_results(count: int = 1) -> tuple[Callable[..., None], Callable[..., tuple[Tensor | None, ...]]]:
    """Setup and backward of an op whose last ``count`` results are the gradients [B, …] of its first, [B], to its first
    ``count`` arguments; the other results carry none."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[-count:])

    def differentiate(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return tuple(upstream.unsqueeze(1) * gradient for gradient in ctx.saved_tensors)

    return save, first_order_only(differentiate)


def with_gradients(function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    """The result of ``function`` at the inputs in float64, and the gradients of the sum of its (first) value to them,
    float32; inside an op, where autograd is off."""
    exact = [value.detach().double().requires_grad_() for value in inputs]
    with torch.enable_grad():
        result = function(*exact)
        first = result[0] if isinstance(result, tuple) else result
        gradients = torch.autograd.grad(first.sum(), exact)
    return result, tuple(gradient.float() for gradient in gradients)
