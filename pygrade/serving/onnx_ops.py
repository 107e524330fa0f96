"""The ops that an exported policy calls, in standard ONNX ops.

Scores are float32 [B, N, T] and weights [B, T]. Equal scores are ordered by index, as ONNX's TopK promises; a score of
NaN counts as -inf. Sums run in the order of the runtime.
"""

from collections.abc import Callable
from typing import Any

import torch

from pygrade._util.optional_imports import require
from pygrade.ops.fusion import TRANSFORMS


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The `custom_translation_table` of `torch.onnx.export`."""
    ops = torch.ops.pygrade
    return {
        ops.transform_scores.default: transform_scores,
        ops.fuse_scores.default: fuse_scores,
        ops.fuse_topk.default: fuse_topk,
    }


def _opset() -> Any:
    return require("onnxscript", "export").opset18


def _numbers(*values: int) -> Any:
    return _opset().Constant(value_ints=list(values))


def _integer(place: int) -> Any:
    return _opset().Constant(value_int=place)


def _number(value: float) -> Any:
    return _opset().Constant(value_float=float(value))


def _standardize(values: Any, epsilon: float) -> Any:
    op = _opset()
    mean = op.ReduceMean(values, _numbers(1))
    deviation = op.Sub(values, mean)
    std = op.Sqrt(op.ReduceMean(op.Mul(deviation, deviation), _numbers(1)))
    return op.Div(deviation, op.Add(std, _number(epsilon)))


def _share_beaten(values: Any) -> Any:
    """The share of the request's other candidates that each beats."""
    op = _opset()
    by_task = op.Transpose(values, perm=[0, 2, 1])  # [B, T, N]
    shape = op.Shape(by_task)
    count = op.Gather(shape, _numbers(2))
    _, best = op.TopK(by_task, count, axis=-1, largest=1, sorted=1)  # of equal ones the smaller index first
    last = op.Sub(count, _numbers(1))
    worse = op.Sub(last, op.Range(_integer(0), op.Squeeze(count), _integer(1)))
    share = op.Div(op.CastLike(worse, values), op.CastLike(op.Max(last, _numbers(1)), values))
    placed = op.ScatterElements(op.Mul(by_task, _number(0.0)), best, op.Expand(share, shape), axis=-1)
    return op.Transpose(placed, perm=[0, 2, 1])


def _transform(scores: Any, code: int, beta: float, epsilon: float, slope: Any) -> Any:
    op = _opset()
    name = TRANSFORMS[code]
    if name == "rank":
        return _share_beaten(scores)
    if name == "log1p":
        return op.Log(op.Add(_number(1.0), op.Mul(scores, slope)))
    values = op.Log(op.Add(scores, _number(beta))) if name in ("log", "zlog") else scores
    return _standardize(values, epsilon) if name in ("zscore", "zlog") else values


def transform_scores(
    scores: Any,
    transform: int = 0,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: Any = None,
    offsets: Any = None,
    validate: bool = True,
    num_threads: int = 0,
) -> Any:
    return _transform(scores, transform, beta, epsilon, slope)


def fuse_scores(
    scores: Any,
    weights: Any,
    transform: int = 0,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: Any = None,
    offsets: Any = None,
    validate: bool = True,
    num_threads: int = 0,
) -> Any:
    op = _opset()
    values = _transform(scores, transform, beta, epsilon, slope)  # [B, N, T]
    # Task by task, so that equal candidates get equal sums: a matrix product's rounding depends on the row.
    fused = None
    for task in range(scores.shape[-1]):
        part = op.Mul(op.Gather(values, _integer(task), axis=2), op.Gather(weights, _numbers(task), axis=1))
        fused = part if fused is None else op.Add(fused, part)
    return fused


def fuse_topk(
    scores: Any,
    weights: Any,
    k: int,
    transform: int = 0,
    mask: Any = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: Any = None,
    offsets: Any = None,
    validate: bool = True,
    num_threads: int = 0,
) -> tuple[Any, Any]:
    op = _opset()
    fused = fuse_scores(scores, weights, transform, beta, epsilon, slope)  # [B, N]
    lowest = _number(float("-inf"))
    known = op.Where(op.IsNaN(fused), lowest, fused)
    count = op.Gather(op.Shape(known), _numbers(1))
    padding = op.Concat(_numbers(0, 0, 0, k), axis=0)  # k places more than there are candidates
    values, indices = op.TopK(op.Pad(known, padding, lowest), _numbers(k), axis=-1, largest=1, sorted=1)
    absent = op.GreaterOrEqual(indices, count)
    return values, op.Cast(op.Where(absent, _numbers(-1), indices), to=6)  # int32
