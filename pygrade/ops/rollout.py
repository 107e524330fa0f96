"""One step of exploration: sampled weights and what each of them earns."""

from typing import NamedTuple

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray
from pygrade.ops.dirichlet import check_floor, check_values, checked_draw, concentration_rows, draw, log_prob_op
from pygrade.ops.fusion import TRANSFORMS, FusionOptions, checked_k
from pygrade.ops.gain import check_lists, gain_op


class Rollout(NamedTuple):
    """Result of `rollout`; numpy arrays if the concentration is one."""

    weights: Tensor  # [B, G, T]
    log_weights: Tensor  # [B, G, T]
    log_prob: Tensor  # [B, G]
    rewards: Tensor  # [B, G, C], or C + 1 with weight bounds: the format penalty comes last


def format_penalty(weights: T, weight_bounds: TensorOrArray) -> T:
    """Minus the total violation of box constraints: -Σ_t [max(0, low_t - w_t) + max(0, w_t - high_t)].

    Args:
        weights: [..., T] float32 or float64, torch or numpy.
        weight_bounds: [2, T], row 0 low, row 1 high, of the dtype of ``weights``.

    Returns:
        [...], of the kind and dtype of ``weights``: 0 inside the box, negative outside. Differentiable in ``weights``.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device; on a CPU, if it is not compiled, a low above its high.

    Examples:
        >>> box = torch.tensor([[0.1, 0.1], [0.6, 0.9]])
        >>> format_penalty(torch.tensor([[0.55, 0.45], [0.75, 0.25]]), box)
        tensor([-0.0000, -0.1500])
    """
    given = checks.Arguments("format_penalty")
    values = given.first("weights", weights, checks.FLOATS[::-1], checks.any_rows(weights, "T"))
    bounds = given.other("weight_bounds", weight_bounds, torch.float32, (2, "T"))
    if checks.should_validate(None, bounds) and checks.has_values():
        _check_bounds(bounds)
    return checks.match_type(reference.format_penalty(values, bounds), weights)


def _check_bounds(bounds: Tensor) -> None:
    """ValueError that names the first task of bounds[2, T] whose low is not at most its high."""
    bad = ~(bounds[0] <= bounds[1])
    if bool(bad.any()):  # inside an op, so that compiled graphs check too
        task = int(bad.nonzero()[0])
        low, high = bounds[:, task].tolist()
        raise ValueError(f"weight_bounds[:, {task}] is {low:g}, {high:g}; expected low <= high")


def _rollout(
    concentration: Tensor,
    scores: Tensor,
    gains: Tensor,
    discount: Tensor,
    num_samples: int,
    seed: int,
    offset: int,
    masks: Tensor | None,
    component_list: Tensor | None,
    weight_bounds: Tensor | None,
    weight_floor: float,
    validate: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lists = (masks, component_list)
    if weight_bounds is not None and validate:
        _check_bounds(weight_bounds)
    if not dispatch.is_reference(scores):
        if validate:
            check_values("concentration", concentration)
            check_lists(component_list, masks)
        from pygrade.kernels import rollout as kernel

        results = _fake_rollout(
            concentration, scores, gains, discount, num_samples, seed, offset, *lists, weight_bounds
        )
        inputs = (concentration, scores.contiguous(), gains, discount, seed, offset, *lists, weight_bounds)
        kernel.rollout(*inputs, weight_floor, *results)
        return results
    weights, log_weights, log_prob = draw(concentration, num_samples, seed, offset, validate, threads)
    if weight_floor != 0.0:
        log_prob = log_prob_op.run_plain(concentration, log_weights, weight_floor, False, threads)
    identity = FusionOptions(TRANSFORMS.index("identity"), 0.0, 0.0, None, None, validate, threads)
    rewards = gain_op.run_plain(scores, weights, gains, discount, *lists, *identity)
    if weight_bounds is not None:
        rewards = torch.cat([rewards, reference.format_penalty(weights, weight_bounds)[..., None]], -1)
    return weights, log_weights, log_prob, rewards


def _fake_rollout(
    concentration: Tensor,
    _scores: Tensor,
    gains: Tensor,
    _discount: Tensor,
    num_samples: int,
    _seed: int,
    _offset: int,
    _masks: Tensor | None,
    _component_list: Tensor | None,
    weight_bounds: Tensor | None,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for the results."""
    batch, tasks = concentration.shape
    components = gains.shape[-1] + (0 if weight_bounds is None else 1)
    shapes = ((tasks,), (tasks,), (), (components,))
    weights, log_weights, log_prob, rewards = (concentration.new_empty((batch, num_samples, *s)) for s in shapes)
    return weights, log_weights, log_prob, rewards


_op = dispatch.Op("rollout", _rollout, _fake_rollout)


def rollout(
    concentration: TensorOrArray,
    scores: TensorOrArray,
    gains: TensorOrArray,
    k: int,
    discount: TensorOrArray,
    num_samples: int,
    seed: int,
    offset: int = 0,
    masks: TensorOrArray | None = None,
    component_list: TensorOrArray | None = None,
    weight_bounds: TensorOrArray | None = None,
    weight_floor: float = 0.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> Rollout:
    """Sample weight vectors and reward each: `dirichlet_sample`, `topk_gain`, `format_penalty`; one launch on a GPU.

    Weights, log-weights and gains have the bits of those ops, on every backend.

    Args:
        concentration, num_samples, seed, offset: as in `dirichlet_sample`; [B, T] float32.
        scores: [B, N, T] float32, float16 or bfloat16, already transformed (`transform_scores`).
        gains, k, discount, masks, component_list: as in `topk_gain`; gains [B, N, C], discount [k], masks [B, L, N].
        weight_bounds: [2, T] float32, bounds low <= high of the weights; adds `format_penalty` as last component.
        weight_floor: in [0, 1); ``log_prob`` is taken at log-weights with this floor, as `grpo_loss` does.
        validate: check values on a GPU too, which waits for it. A CPU always checks.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        Rollout of float32 tensors, of the kind of ``concentration``. Nothing is differentiable.

    Raises:
        TypeError, ValueError: as those ops, before anything is drawn.

    Examples:
        >>> p, gains = torch.tensor([[[0.9, 0.0], [0.0, 0.8]]]), torch.tensor([[[1.0], [0.0]]])
        >>> result = rollout(torch.ones(1, 2), p, gains, 1, torch.ones(1), num_samples=3, seed=1)
        >>> result.weights[..., 0], result.rewards[..., 0]  # 1 where the first candidate wins
        (tensor([[0.4048, 0.5839, 0.1321]]), tensor([[0., 1., 0.]]))
    """
    given = checks.Arguments("rollout", k=checked_k(k))
    alpha = concentration_rows(given, concentration, checks.FLOAT32).detach()
    samples, signed, row = checked_draw(num_samples, seed, offset)
    s = given.other("scores", scores, checks.HALVES, ("B", "N", "T"))
    v = given.other("gains", gains, torch.float32, ("B", "N", "C"))
    d = given.other("discount", discount, torch.float32, ("k",))
    m = given.optional("masks", masks, torch.bool, ("B", "L", "N"))
    c = given.optional("component_list", component_list, torch.int32, ("C",))
    b = given.optional("weight_bounds", weight_bounds, torch.float32, (2, "T"))
    check, threads = checks.should_validate(validate, alpha), checks.thread_count(num_threads)
    arguments = (alpha, s, v, d, samples, signed, row, m, c, b, check_floor(weight_floor))
    parts = _op(*arguments, check, threads)
    return Rollout(*(checks.match_type(part, concentration) for part in parts))  # type: ignore[arg-type]
