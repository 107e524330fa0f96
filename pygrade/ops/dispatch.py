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
from torch.autograd import Function, forward_ad

from pygrade import _core

BACKENDS = ("auto", "reference", "cpu", "triton")

torch.ops.load_library(str(Path(_core.__file__).with_name("_ops.so")))  # type: ignore[no-untyped-call]
_library = torch.library.Library("pygrade", "IMPL")  # type: ignore[no-untyped-call]


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}")
    return name


_default = _checked(os.environ.get("PYGRADE_BACKEND", "auto"))
_chosen: ContextVar[str] = ContextVar("pygrade_backend", default=_default)
_core.connect_torch(torch, _chosen)

tracing = torch.compiler.is_dynamo_compiling  # other tracers show as a mode or as a tensor type
_in_functorch = torch._C._are_functorch_transforms_active  # vmap, grad, jvp and what torch.func makes of them


def can_use_fast_path() -> bool:
    """False where a fast path would lose what is not in a tensor's memory: a graph, or derivatives of forward mode."""
    return not tracing() and forward_ad._current_level < 0


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
        raise ValueError(f"backend is 'cpu', and the tensors are on {tensor.device}; expected them in CPU memory")
    return name == "reference"


def empty(like: Tensor, *sizes: int) -> Tensor:
    """New float32 memory on the device of ``like``; `Tensor.new_empty` takes twice the time."""
    return torch.empty(*sizes, dtype=torch.float32, device=like.device)


Implementation = Callable[..., Any]


class Op:
    """An op of the library, called with the positional arguments of its schema.

    kernel: the op in Triton; without ``exact`` the op in Python, for the backend "reference", too.
    check: of the arguments' values, as the core has it, before the op in Python, if the op's ``validate`` is true.
    fake: results of the right shape, dtype and strides, without values.
    save, differentiate: setup_context and backward as `torch.library.register_autograd` takes them, but that
        ``differentiate`` returns the gradients of the first ``differentiable`` arguments alone.
    exact: the op for float64 tensors and for the backend "reference": differentiable in plain torch.
    rows: arguments whose first dimension is the batch, in which `torch.func.vmap` folds its own; without, and where
        others differ from call to call or requests are jagged, it calls the op again and again.
    triton: whether there is a kernel; without, the backend "triton" leaves CPU tensors to the core.
    fast: whether `_core` has a fast path for it, ``<name>_fast_path``, whose arguments ``save`` takes as well.
    """

    def __init__(
        self,
        name: str,
        kernel: Implementation,
        fake: Implementation,
        save: Callable[..., None] | None = None,
        differentiate: Callable[..., tuple[Tensor | None, ...]] | None = None,
        *,
        differentiable: int = 1,
        exact: Implementation | None = None,
        check: Implementation | None = None,
        rows: str = "",
        triton: bool = True,
        fast: bool = False,
    ) -> None:
        self.name, self._kernel, self._exact = name, kernel, exact
        self._fast_path = f"{name}_fast_path"
        self._fast_with_gradient: Implementation | None = None
        qualified = f"pygrade::{name}"
        self.registered = getattr(torch.ops.pygrade, name).default
        schema = [argument.name for argument in self.registered._schema.arguments]
        self._rows = {place for place, argument in enumerate(schema) if argument in rows.split()}
        self._offsets = schema.index("offsets") if "offsets" in schema else len(schema)
        self._python_backends = ("reference", "triton") if triton else ("reference",)
        self._validate = schema.index("validate") if check is not None else 0
        self._check = check
        self._differentiable = 0
        torch.library.register_fake(qualified, _with_defaults(self.registered, fake))
        torch.library.register_vmap(qualified, self._vmap)
        _library.impl(name, _with_defaults(self.registered, self._in_python), "CUDA")  # type: ignore[no-untyped-call]
        if save is None or differentiate is None:
            self._transformed = _transformable(self, _save_nothing, lambda *_: (None,) * len(schema))
            return
        self._differentiable = differentiable
        constants = (None,) * (len(schema) - differentiable)

        def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
            return *differentiate(ctx, *upstream), *constants

        torch.library.register_autograd(qualified, backward, setup_context=save)
        self._transformed = _transformable(self, save, backward)
        self._with_gradient = _function(self._below_autograd, save, differentiate)
        self._in_python_with_gradient = _function(self._in_python, save, differentiate)
        if fast:
            self._fast_with_gradient = _fast_function(self._fast_path, save, differentiate)

    def run_fast(self, *arguments: Any) -> Any:
        """The fast path's result for the arguments of the public function, or None if it leaves the call to the op."""
        if not can_use_fast_path():
            return None
        result = getattr(_core, self._fast_path)(*arguments)
        apply, first = self._fast_with_gradient, arguments[0]
        if result is not None or apply is None or type(first) is not Tensor:
            return result
        wanted = first.requires_grad and torch.is_grad_enabled()
        if not wanted or _in_functorch():
            return None
        try:
            return apply(*arguments)
        except _LeftToTheOp:
            return None

    def __call__(self, *arguments: Any) -> Any:
        if arguments[0].dtype == torch.float64 and self._exact is not None:
            self._check_values(arguments)
            return self._exact(*arguments)
        if tracing():
            return self.registered(*arguments)
        if _in_functorch() or forward_ad._current_level >= 0:
            return (self.registered if _is_functionalizing() else self._transformed)(*arguments)
        return self.run_plain(*arguments)

    def _check_values(self, arguments: tuple[Any, ...]) -> None:
        if self._check is not None and arguments[self._validate]:
            self._check(*arguments)

    def _in_python(self, *arguments: Any) -> Any:
        self._check_values(arguments)
        if self._exact is None or not is_reference(arguments[0]):
            return self._kernel(*arguments)
        wide = (v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in arguments)
        result = self._exact(*wide)
        parts = [part.detach().float() if part.is_floating_point() else part for part in _parts(result)]
        return tuple(parts) if isinstance(result, tuple) else parts[0]

    def run_plain(self, *arguments: Any) -> Any:
        """The op on tensors that no transform wraps."""
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
            if type(error) is RuntimeError and "; expected " in str(error):
                raise ValueError(str(error)) from None
            raise

    def _below_autograd(self, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self._run(*arguments)

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """The rule of `torch.func.vmap`: results of all calls [V, …], and where V stands in each."""
        size, mapped = info.batch_size, {place for place, dim in enumerate(in_dims) if dim is not None}
        given = [value.movedim(in_dims[i], 0) if i in mapped else value for i, value in enumerate(arguments)]
        if not self.registered._schema.returns:
            raise RuntimeError(f"{self.name} under torch.func.vmap writes into out; expected no out")
        if mapped <= self._rows and all(value is None for value in given[self._offsets : self._offsets + 1]):
            folded = list(given)
            for place in self._rows & set(range(len(given))):
                if (value := given[place]) is not None:  # [V, B, …] to [V · B, …]
                    every = value if place in mapped else value.expand(size, *value.shape)
                    folded[place] = every.flatten(0, 1).contiguous()
            result = self(*folded)
            parts = [part.reshape(size, len(part) // size, *part.shape[1:]) for part in _parts(result)]
        else:
            calls = ([v[i].contiguous() if p in mapped else v for p, v in enumerate(given)] for i in range(size))
            results = [self(*call) for call in calls]
            result = results[0]
            parts = [torch.stack(part) for part in zip(*map(_parts, results), strict=True)]
        return (tuple(parts), (0,) * len(parts)) if isinstance(result, tuple) else (parts[0], 0)


def _parts(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _is_functionalizing() -> bool:
    interpreter = torch._C._functorch.peek_interpreter_stack()
    return interpreter is not None and interpreter.key() == torch._C._functorch.TransformType.Functionalize


def _with_defaults(op: Any, function: Implementation) -> Implementation:
    """``function`` for the dispatcher, which leaves out trailing arguments that equal their defaults."""
    defaults = [argument.default_value for argument in op._schema.arguments]

    def called(*arguments: Any) -> Any:
        return function(*arguments, *defaults[len(arguments) :])

    return called


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*_parts(output))


def _transformable(op: Op, save: Callable[..., None], backward: Implementation) -> Implementation:
    """``op`` for the transforms of torch.func, and for forward mode, of which it has no derivative."""

    class Transformable(Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return op.run_plain(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            save(ctx, inputs, output)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
            return op._vmap(info, in_dims, *arguments)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            cure = "float64 tensors, or a gradient" if op._exact is not None else "no derivative of it"
            raise NotImplementedError(f"{op.name} has no derivative of forward mode in float32; expected {cure}")

    Transformable.backward = staticmethod(backward)  # type: ignore[method-assign]
    apply: Implementation = Transformable.apply
    return apply


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


class _Once(Function):
    """A gradient, of which the derivative to the inputs it was taken at, which follow it, is an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"{ctx.name} can be differentiated once in float32; expected float64 tensors for more")


def first_order_only(
    name: str, differentiate: Callable[..., tuple[Tensor | None, ...]], count: int = 1
) -> Callable[..., tuple[Tensor | None, ...]]:
    """A backward that can't be differentiated itself: an error, not a wrong second derivative. The first ``count``
    saved tensors are the differentiable inputs."""

    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():  # nobody needs a graph of the gradient
            return differentiate(ctx, *upstream)
        with torch.no_grad():
            gradients = differentiate(ctx, *upstream)
        inputs = (*ctx.saved_tensors[:count], *(part for part in upstream if part is not None))
        once: Implementation = _Once.apply
        return tuple(None if part is None else once(name, part, *inputs) for part in gradients)

    return backward


def gradients_in_results(
    name: str, count: int = 1
) -> tuple[Callable[..., None], Callable[..., tuple[Tensor | None, ...]]]:
    """Setup and backward of an op whose last ``count`` results are the gradients [B, …] of its first, [B], to its first
    ``count`` arguments; the other results carry none."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:count], *output[-count:])

    def differentiate(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return tuple(upstream.unsqueeze(1) * gradient for gradient in ctx.saved_tensors[count:])

    return save, first_order_only(name, differentiate, count)


def with_gradients(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The results of ``function``, and the gradients of the sum of the first to its inputs."""
    places = tuple(range(len(inputs)))
    slopes = torch.func.grad(lambda *given: function(*given)[0].sum(), places)(*(value.detach() for value in inputs))
    return (*function(*inputs), *slopes)
