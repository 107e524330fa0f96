"""Fused scores of task predictions, their transforms, and the best candidates by them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray
from pygrade.ops.fusion_gradient import fuse_gradients, transform_gradient

TRANSFORMS = tuple(_core.transforms)
LAYOUTS = ("item-major", "task-major")
MAX_TASKS = 64
MAX_LENGTH = (1 << 31) - 1


class TopK(NamedTuple):
    """The best candidates of each list, best first."""

    values: Any  # [B, (G,) k] float32, a tensor or an array
    indices: Any  # [B, (G,) k] int32, within the request; -1 pads


class FusionOptions(NamedTuple):
    """The last arguments of the ops on task predictions, as their schemas have them."""

    transform: int
    beta: float
    epsilon: float
    slope: Tensor | None
    offsets: Tensor | None
    validate: bool
    threads: int

    @property
    def name(self) -> str:
        """The transform's name."""
        return TRANSFORMS[self.transform]

    def check(self, scores: Tensor) -> None:
        """The checks of the C++ core, for the other backends, if they are wanted: offsets ascend over all rows, no
        negative score under a logarithm, no negative slope."""
        if not self.validate:
            return
        if self.offsets is not None:
            bounds = self.offsets.tolist()
            if bounds[0] != 0 or bounds[-1] != scores.shape[0] or bounds != sorted(bounds):
                raise ValueError(f"offsets is {bounds}; expected it to ascend from 0 to {scores.shape[0]}")
        if self.slope is not None and not bool((self.slope >= 0).all()):
            raise ValueError(f"slope is {self.slope.tolist()}; expected numbers ≥ 0")
        if _core.transforms[self.name] and bool((scores < 0).any()):
            raise ValueError(f"scores is negative somewhere; expected scores ≥ 0 under {self.name}")

    def of_reference(self) -> dict[str, Any]:
        """The arguments as keywords of the reference."""
        slope = 1.0 if self.slope is None else self.slope
        constants = {"beta": self.beta, "epsilon": self.epsilon, "slope": slope}
        return {"transform": self.name, "offsets": self.offsets, **constants}

    def of_kernel(self) -> tuple[str, float, float, Tensor | None, Tensor | None]:
        """The arguments as the launch functions take them."""
        return self.name, self.beta, self.epsilon, self.slope, self.offsets


def _result_memory(shape: tuple[int, ...], scores: Tensor, offsets: Tensor | None) -> Tensor:
    """Memory for a kernel's result; NaN if bad offsets may keep the kernel from writing."""
    memory = scores.new_empty(shape, dtype=torch.float32)
    return memory if offsets is None else memory.fill_(torch.nan)


def _check_values(scores: Tensor, *arguments: Any) -> None:
    FusionOptions(*arguments[-7:]).check(scores)


def _exact_transform(scores: Tensor, *options: Any) -> Tensor:
    return reference.transform_scores(scores, **FusionOptions(*options).of_reference())


def _transform_scores(scores: Tensor, *arguments: Any) -> Tensor:
    from pygrade.kernels import fusion as kernel

    options = FusionOptions(*arguments)
    result = _result_memory(scores.shape, scores, options.offsets)
    kernel.transform_scores(scores.contiguous(), *options.of_kernel(), result)
    return _like_in_memory(scores).copy_(result)


def _exact_fuse(scores: Tensor, weights: Tensor, *options: Any) -> Tensor:
    return reference.fuse_scores(scores, weights, **FusionOptions(*options).of_reference())


def _fuse_scores(scores: Tensor, weights: Tensor, *arguments: Any) -> Tensor:
    from pygrade.kernels import fusion as kernel

    options = FusionOptions(*arguments)
    result = _result_memory(_fused_shape(scores, weights), scores, options.offsets)
    kernel.fuse_scores(scores.contiguous(), weights, *options.of_kernel(), result)
    return result


def _check_topk(scores: Tensor, _weights: Tensor, _k: int, transform: int, _mask: Tensor | None, *rest: Any) -> None:
    FusionOptions(transform, *rest).check(scores)


def _exact_topk(
    scores: Tensor, weights: Tensor, k: int, transform: int, mask: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    return reference.fuse_topk(scores, weights, k, mask=mask, **FusionOptions(transform, *arguments).of_reference())


def _fuse_topk(
    scores: Tensor, weights: Tensor, k: int, transform: int, mask: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    from pygrade.kernels import fusion as kernel

    values = weights.new_empty((*weights.shape[:-1], k))
    indices = weights.new_empty(values.shape, dtype=torch.int32)
    name, *constants = FusionOptions(transform, *arguments).of_kernel()
    kernel.fuse_topk(scores.contiguous(), weights, k, name, mask, *constants, values, indices)
    return values, indices


def _like_in_memory(scores: Tensor) -> Tensor:
    """New float32 memory of the shape of the scores, task-major if they are, else contiguous.

    Task-major scores go through the ops as an item-major view, `Tensor.mT`: shapes, gradients and fakes hold for both.
    """
    if not scores.is_contiguous() and scores.mT.is_contiguous():
        return scores.new_empty(scores.mT.shape, dtype=torch.float32).mT
    return scores.new_empty(scores.shape, dtype=torch.float32)


def _fused_shape(scores: Tensor, weights: Tensor) -> tuple[int, ...]:
    lists = scores.shape[:-1]  # [B, N] or [M]
    if weights.ndim == 2:
        return tuple(lists)
    return (*lists[:-1], weights.shape[1], lists[-1])


def _fake_transform(scores: Tensor, *_: object) -> Tensor:
    return _like_in_memory(scores)


def _fake_fuse(scores: Tensor, weights: Tensor, *_: object) -> Tensor:
    return weights.new_empty(_fused_shape(scores, weights))


def _fake_topk(_scores: Tensor, weights: Tensor, k: int, *_: object) -> tuple[Tensor, Tensor]:
    shape = (*weights.shape[:-1], k)
    return weights.new_empty(shape), weights.new_empty(shape, dtype=torch.int32)


def _save_transform(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, transform, ctx.beta, ctx.epsilon, slope, offsets, *_ = inputs
    ctx.transform = TRANSFORMS[transform]
    ctx.save_for_backward(scores, slope, offsets)


def _transform_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    scores, slope, offsets = ctx.saved_tensors
    return (transform_gradient(grad, scores, ctx.transform, ctx.beta, ctx.epsilon, slope, offsets),)


def _save_fuse(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, weights, transform, ctx.beta, ctx.epsilon, slope, offsets, *_ = inputs
    ctx.transform = TRANSFORMS[transform]
    ctx.save_for_backward(scores, weights, slope, offsets)


def _fuse_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    scores, weights, slope, offsets, *_ = ctx.saved_tensors
    values = scores.float()
    if ctx.transform != "identity" and ctx.needs_input_grad[1]:
        code = TRANSFORMS.index(ctx.transform)
        values = _transform_op(scores, code, ctx.beta, ctx.epsilon, slope, offsets, False, 0)
    grad_values, grad_weights = fuse_gradients(grad, values, weights, offsets, ctx.needs_input_grad[:2])
    if grad_values is not None:
        grad_values = transform_gradient(grad_values, scores, ctx.transform, ctx.beta, ctx.epsilon, slope, offsets)
    return grad_values, grad_weights


def _save_topk(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    scores, weights, _, transform, _, ctx.beta, ctx.epsilon, slope, offsets, *_ = inputs
    ctx.transform = TRANSFORMS[transform]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(scores, weights, slope, offsets, output[1])


def _topk_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """The gradient of the values, at their places among all fused scores."""
    scores, weights, _, offsets, indices = ctx.saved_tensors
    rows = scores.shape[-2]
    places = indices.long() if offsets is None else indices + offsets[:-1].view(-1, *(1,) * (indices.ndim - 1))
    places = torch.where(indices < 0, rows, places)  # of no candidate: behind the last
    if offsets is None:
        fused = grad.new_zeros(*grad.shape[:-1], rows + 1).scatter_add(-1, places, grad)
    else:  # [B, (G,) k] to [(G,) M]
        lists = weights.shape[1:-1]
        flat = [part.movedim(0, -2).reshape(*lists, -1) for part in (places, grad)]
        fused = grad.new_zeros(*lists, rows + 1).scatter_add(-1, *flat)
    return _fuse_backward(ctx, fused[..., :-1])


_BOTH: dict[str, Any] = {"differentiable": 2, "rows": "scores weights mask"}
_transform_op = dispatch.Op(
    "transform_scores",
    _transform_scores,
    _fake_transform,
    _save_transform,
    _transform_backward,
    exact=_exact_transform,
    check=_check_values,
    rows="scores",
)
_fuse_op = dispatch.Op(
    "fuse_scores", _fuse_scores, _fake_fuse, _save_fuse, _fuse_backward, exact=_exact_fuse, check=_check_values, **_BOTH
)
_topk_op = dispatch.Op(
    "fuse_topk", _fuse_topk, _fake_topk, _save_topk, _topk_backward, exact=_exact_topk, check=_check_topk, **_BOTH
)


def checked_scores(
    given: checks.Arguments,
    scores: TensorOrArray,
    offsets: TensorOrArray | None,
    layout: str = "item-major",
    dtypes: Sequence[torch.dtype] = checks.HALVES,
) -> tuple[Tensor, Tensor | None]:
    """Scores and offsets of any op on task predictions, checked except their values; task-major ones as a view."""
    checks.choice("layout", layout, LAYOUTS)
    sizes = ("N", "T") if layout == "item-major" else ("T", "N")
    s = given.first(
        "scores", scores, dtypes, ("B", *sizes) if offsets is None else tuple("M" if d == "N" else d for d in sizes)
    )
    if layout == "task-major":
        s = s.mT
    if not 1 <= s.shape[-1] <= MAX_TASKS:
        raise ValueError(f"scores has {s.shape[-1]} tasks; expected 1 to {MAX_TASKS}")
    o = given.optional("offsets", offsets, torch.int64, ("B + 1",))
    if o is not None and o.shape[0] < 1:
        raise ValueError("offsets is empty; expected [B + 1]")
    given.sizes["B"] = s.shape[0] if o is None else o.shape[0] - 1
    return s, o


def checked_weights(given: checks.Arguments, weights: TensorOrArray, grad: bool = True) -> Tensor:
    """weights[B, T] or [B, G, T] that fit the scores; [T] are those of every request."""
    shape = {1: ("T",), 3: ("B", "G", "T")}.get(getattr(weights, "ndim", 2), ("B", "T"))
    w = given.other("weights", weights, torch.float32, shape, grad)
    return w.expand(given.sizes["B"], -1).contiguous() if w.ndim == 1 else w


def checked_transform(
    given: checks.Arguments, transform: str, beta: float, epsilon: float, slope: float | TensorOrArray
) -> tuple[int, float, float, Tensor | None]:
    """The code of a known transform that this device has, and its constants: beta, epsilon, the slope[T] of log1p."""
    checks.choice("transform", transform, TRANSFORMS)
    scores = given.tensor
    if transform == "rank" and dispatch.backend(scores) == "triton" and scores.dtype != torch.float64:
        raise ValueError("transform is 'rank', which runs on a CPU only")
    constants = TRANSFORMS.index(transform), checks.nonnegative("beta", beta), checks.nonnegative("epsilon", epsilon)
    if transform != "log1p":
        return *constants, None
    if isinstance(slope, (Tensor, np.ndarray)):
        return *constants, given.other("slope", slope, torch.float32, ("T",))
    value = checks.nonnegative("slope", slope)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return *constants, scores.new_full((given.sizes["T"],), value, dtype=dtype)


def checked_k(k: int) -> int:
    """A list length."""
    return checks.integer("k", k, 1, MAX_LENGTH)


def write_to_out(out: Any, memory: tuple[Tensor, Tensor] | None, scores: TensorOrArray, *best: Tensor) -> TopK:
    """The best candidates, copied to the ``memory`` of the caller's ``out``, or new ones of the kind of ``scores``."""
    if memory is None:
        return TopK(*(checks.match_type(part, scores) for part in best))
    for to, part in zip(memory, best, strict=True):
        to.copy_(part)
    return TopK(*out)


def transform_scores(
    scores: T,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | TensorOrArray = 1.0,
    offsets: TensorOrArray | None = None,
    layout: str = "item-major",
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """f_t(p) of each task prediction, within each request; `fuse_scores` of the result equals the fused transform.

    Args:
        scores: [B, N, T] float32, float16 or bfloat16 (torch only), torch or numpy, T ≤ 64; [M, T] with ``offsets``.
            Task-major: [B, T, N] or [T, M]. Tensors of float64 are computed by the reference, numpy's arrays of it are
            rounded to float32.
        transform: ``"identity"``: p; ``"log"``: log(p + beta); ``"zscore"``: (p - mean) / (std + epsilon), mean and
            population std per task over the request's candidates (on a GPU 0 from deviations of 1e19 on);
            ``"zlog"``: the z-score of log(p + beta);
            ``"rank"`` (CPU only): the share of the request's other candidates that p beats; of equal predictions the
            smaller index beats the larger, so that they get different values; ``"log1p"``:
            log(1 + slope_t · p), so that exp of the fused score is the product Π_t (1 + slope_t · p_t)^w_t.
        beta, epsilon: see ``transform``; ≥ 0.
        slope: see ``transform``; ≥ 0, a number or float32 [T]. Not differentiable.
        offsets: int64 [B + 1], ascending from 0 to M: request b has rows offsets[b] … offsets[b + 1] - 1.
        layout: ``"item-major"`` or ``"task-major"``, the order of the scores in memory. It changes no bit of a value.
        validate: check offsets and signs on a GPU too, which waits for it. A CPU always checks.
        num_threads: CPU threads; None: torch's setting. They share the requests, and their samples if there are any;
            one thread transforms a request. The result does not depend on it.

    Returns:
        float32 (float64 of float64), of the shape and kind of ``scores``. Differentiable with respect to them
        (``"rank"`` has gradient 0).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option, offset, or a negative score under a logarithm.

    Examples:
        >>> p = torch.tensor([[[0.1], [0.3], [0.2]]])  # one request, three candidates, one task
        >>> transform_scores(p, "rank")[0, :, 0], transform_scores(p, "zscore")[0, :, 0]
        (tensor([0.0000, 1.0000, 0.5000]), tensor([-1.2099,  1.2099,  0.0000]))
    """
    if dispatch.can_use_fast_path():
        values: T | None = _core.transform_scores_fast_path(
            scores, transform, beta, epsilon, slope, offsets, layout, num_threads
        )
        if values is not None:
            return values
    given = checks.Arguments("transform_scores")
    s, o = checked_scores(given, scores, offsets, layout, checks.SCORE_DTYPES)
    options = checked_transform(given, transform, beta, epsilon, slope)
    check, threads = checks.should_validate(validate, s), checks.thread_count(num_threads)
    result: Tensor = _transform_op(s, *options, o, check, threads)
    return checks.match_type(result.mT if layout == "task-major" else result, scores)


def fuse_scores(
    scores: T,
    weights: TensorOrArray,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | TensorOrArray = 1.0,
    offsets: TensorOrArray | None = None,
    layout: str = "item-major",
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """Fused scores s_j = Σ_t w_t · f_t(p_jt), summed in one fixed order on every backend.

    Args:
        scores, transform, beta, epsilon, slope, offsets, layout, validate, num_threads: as in `transform_scores`.
        weights: [B, T], [B, G, T] for G weight vectors a request, or [T] for all requests; float32, or what becomes
            it: half, bfloat16, numpy's float64.

    Returns:
        float32 [B, N] or [B, G, N]; jagged: [M] or [G, M]; of the kind of ``scores``. Differentiable with respect to
        scores and weights.

    Raises:
        TypeError, ValueError: as `transform_scores`.

    Examples:
        >>> p = torch.tensor([[[0.5, 0.1], [0.2, 0.4]]])
        >>> fuse_scores(p, torch.tensor([[1.0, 10.0]]))
        tensor([[1.5000, 4.2000]])
    """
    if dispatch.can_use_fast_path():
        fused: T | None = _core.fuse_scores_fast_path(
            scores, weights, transform, beta, epsilon, slope, offsets, layout, num_threads
        )
        if fused is not None:
            return fused
    given = checks.Arguments("fuse_scores")
    s, o = checked_scores(given, scores, offsets, layout, checks.SCORE_DTYPES)
    w = checked_weights(given, weights)
    options = checked_transform(given, transform, beta, epsilon, slope)
    check, threads = checks.should_validate(validate, s), checks.thread_count(num_threads)
    return checks.match_type(_fuse_op(s, w, *options, o, check, threads), scores)


def fuse_topk(
    scores: TensorOrArray,
    weights: TensorOrArray,
    k: int,
    transform: str = "identity",
    *,
    mask: TensorOrArray | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | TensorOrArray = 1.0,
    offsets: TensorOrArray | None = None,
    layout: str = "item-major",
    out: tuple[TensorOrArray, TensorOrArray] | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> TopK:
    """The k best candidates by fused score, best first, without writing the fused scores.

    Order: score descending, then index ascending; NaN after -inf; -0.0 equals +0.0.

    Args:
        scores, weights, transform, beta, epsilon, slope, offsets, layout, validate, num_threads: as in `fuse_scores`.
        k: length of the lists, ≥ 1 (≤ 1024 on a GPU).
        mask: bool [B, N] (jagged: [M]), True where a candidate is eligible. Transforms still see all candidates.
        out: (values, indices) to fill and return instead of new ones, contiguous, disjoint from the inputs. A TopK
            that an earlier call returned serves best.

    Returns:
        TopK of values float32 and indices int32 within the request, [B, k] or [B, G, k], of the kind of ``scores``.
        With fewer than k eligible candidates the rest is -inf and -1. The values are differentiable as the fused scores
        at the indices, which are not; with ``out`` neither is.

    Raises:
        TypeError, ValueError: as `transform_scores`.

    Examples:
        >>> p = torch.tensor([[[0.1], [0.3], [0.3], [0.2]]])
        >>> fuse_topk(p, torch.ones(1, 1), 3).indices  # of equal scores the lower index first
        tensor([[1, 2, 3]], dtype=torch.int32)
        >>> fuse_topk(p, torch.ones(1, 1), 3, mask=torch.tensor([[True, False, False, False]])).indices
        tensor([[ 0, -1, -1]], dtype=torch.int32)
    """
    if dispatch.can_use_fast_path():
        page: TopK | None = _core.fuse_topk_fast_path(
            TopK, scores, weights, k, transform, mask, beta, epsilon, slope, offsets, layout, out, num_threads
        )
        if page is not None:
            return page
    given = checks.Arguments("fuse_topk")
    s, o = checked_scores(given, scores, offsets, layout, checks.SCORE_DTYPES if out is None else checks.HALVES)
    w = checked_weights(given, weights)
    code, *constants = checked_transform(given, transform, beta, epsilon, slope)
    length = given.sizes["k"] = checked_k(k)
    m = given.optional("mask", mask, torch.bool, ("B", "N") if o is None else ("M",))
    memory = None
    if out is not None:
        if torch.is_grad_enabled() and (s.requires_grad or w.requires_grad):
            name = "scores" if s.requires_grad else "weights"
            raise ValueError(f"{name} requires a gradient and out is given; expected {name}.detach(), or no out")
        memory = given.outputs(out, ("B", "G", "k") if w.ndim == 3 else ("B", "k"))
    check, threads = checks.should_validate(validate, s), checks.thread_count(num_threads)
    best = _topk_op(s, w, length, code, m, *constants, o, check, threads)
    return write_to_out(out, memory, scores, *best)
