"""Calls whose launches are compiled: all choices of the launch functions.

Shapes are those of a small batch; no kernel depends on the number of requests or rows. `tests/kernels/test_compiled.py`
compares the results with those of the C++ core.

    python -m tests.kernels.variants sm_100    compiles a sample, and prints as JSON what each kernel may not have
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from devtools.ptx.compile import compiled, record
from pygrade import ops

BATCH = 2
SEED = (1 << 40) + 7  # beyond 32 bits, so that seeds and offsets are compiled as 64 bits


@dataclass(frozen=True)
class Variant:
    """One call of an op. ``sample``: compiled for every target, too."""

    call: Callable[[], object]
    sample: bool = False


_generator = torch.Generator().manual_seed(12)  # one for all: a new variant goes last, or the counts of others change


def _uniform(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers in [0, 1], with ties and zeros."""
    x = torch.rand(*shape, generator=_generator)
    x.view(-1)[::7] = (4 * x.view(-1)[::7]).round() / 4
    return x.to(dtype)


def _positive(*shape: int) -> Tensor:
    return 0.05 + 3 * torch.rand(*shape, generator=_generator)


def _mask(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=_generator) < 0.6


def _scores(candidates: int, tasks: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return _uniform(BATCH, candidates, tasks, dtype=dtype)


def _offsets(candidates: int) -> Tensor:
    return torch.arange(BATCH + 1) * candidates


def _advantage(normalize: str, samples: int, leave_one_out: bool = False) -> Callable[[], object]:
    rewards, importance = _uniform(BATCH, samples, 2), _positive(2)
    return lambda: ops.group_advantage(rewards, importance, normalize=normalize, leave_one_out=leave_one_out)


def _sample(samples: int, tasks: int) -> Callable[[], object]:
    concentration = _positive(BATCH, tasks)
    return lambda: ops.dirichlet_sample(concentration, samples, SEED, SEED)


def _log_prob(samples: int, tasks: int, weight_floor: float) -> Callable[[], object]:
    """With its backward pass."""
    concentration, logs = _positive(BATCH, tasks), -4 * _uniform(BATCH, samples, tasks)

    def call() -> tuple[Tensor, Tensor]:
        leaf = concentration.clone().requires_grad_()
        values = ops.dirichlet_log_prob(leaf, logs, weight_floor)
        return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    return call


def _entropy(tasks: int) -> Callable[[], object]:
    concentration = _positive(BATCH, tasks)
    return lambda: ops.dirichlet_entropy(concentration)


def _kl(tasks: int) -> Callable[[], object]:
    one, other = _positive(BATCH, tasks), _positive(BATCH, tasks)
    return lambda: ops.dirichlet_kl(one, other)


def _grpo(samples: int, tasks: int, weight_floor: float = 1e-5) -> Callable[[], object]:
    rows, reference = _positive(BATCH, tasks), _positive(BATCH, tasks)
    logs, advantages = -4 * _uniform(BATCH, samples, tasks), _uniform(BATCH, samples) - 0.5
    old = ops.dirichlet_log_prob(rows, logs, weight_floor) + 0.1 * _uniform(BATCH, samples)
    return lambda: ops.grpo_loss(rows, logs, old, advantages, reference, weight_floor=weight_floor)


def _transform(
    transform: str, jagged: bool = False, dtype: torch.dtype = torch.float32, candidates: int = 64
) -> Callable[[], object]:
    scores, offsets = _scores(candidates, 8, dtype), None
    if jagged:
        scores, offsets = scores.flatten(0, 1), _offsets(candidates)
    return lambda: ops.transform_scores(scores, transform, offsets=offsets)


def _fuse(
    candidates: int, tasks: int, samples: int = 0, dtype: torch.dtype = torch.float32, jagged: bool = False
) -> Callable[[], object]:
    scores, offsets = _scores(candidates, tasks, dtype), None
    weights = _uniform(BATCH, samples, tasks) if samples else _uniform(BATCH, tasks)
    if jagged:
        scores, offsets = scores.flatten(0, 1), _offsets(candidates)
    return lambda: ops.fuse_scores(scores, weights, offsets=offsets)


def _topk(
    candidates: int,
    tasks: int,
    k: int,
    samples: int = 0,
    dtype: torch.dtype = torch.float32,
    jagged: bool = False,
    masked: bool = False,
    transform: str = "identity",
) -> Callable[[], object]:
    scores, offsets = _scores(candidates, tasks, dtype), None
    weights = _uniform(BATCH, samples, tasks) if samples else _uniform(BATCH, tasks)
    mask = _mask(BATCH, candidates) if masked else None
    if jagged:
        scores, offsets = scores.flatten(0, 1), _offsets(candidates)
        mask = None if mask is None else mask.flatten()
    return lambda: ops.fuse_topk(scores, weights, k, transform, mask=mask, offsets=offsets)


def _lists(candidates: int, lists: int, components: int) -> tuple[Tensor | None, Tensor | None]:
    if lists == 0:
        return None, None
    return _mask(BATCH, lists, candidates), torch.arange(components).int() % (lists + 1) - 1


def _gain(
    candidates: int,
    tasks: int,
    k: int,
    components: int = 2,
    lists: int = 1,
    dtype: torch.dtype = torch.float32,
    jagged: bool = False,
) -> Callable[[], object]:
    scores, offsets = _scores(candidates, tasks, dtype), None
    gains = _uniform(BATCH, candidates, components)
    masks, component_list = _lists(candidates, lists, components)
    if jagged:
        scores, gains, offsets = scores.flatten(0, 1), gains.flatten(0, 1), _offsets(candidates)
        masks = None if masks is None else masks.transpose(0, 1).flatten(1)
    weights, discount = _uniform(BATCH, 16, tasks), _positive(k)
    return lambda: ops.topk_gain(scores, weights, gains, k, discount, masks, component_list, offsets=offsets)


def _rollout(
    candidates: int, tasks: int, k: int, samples: int, components: int = 2, lists: int = 1, bounded: bool = True
) -> Callable[[], object]:
    concentration, gains = _positive(BATCH, tasks), _uniform(BATCH, candidates, components)
    inputs = (concentration, _scores(candidates, tasks), gains, k, _positive(k), samples, SEED, SEED)
    bounds = torch.stack([torch.full((tasks,), 0.02), torch.full((tasks,), 0.6)]) if bounded else None
    lists_of = _lists(candidates, lists, components)
    return lambda: ops.rollout(*inputs, *lists_of, bounds, 1e-5 if bounded else 0.0)


def _lambda_loss(candidates: int, masked: bool = False) -> Callable[[], object]:
    scores, gains, discount = (
        _uniform(BATCH, candidates),
        _uniform(BATCH, candidates),
        _positive(10).sort(descending=True)[0],
    )
    mask = _mask(BATCH, candidates) if masked else None
    return lambda: ops.lambda_loss(scores, gains, mask, discount)


def _search(
    candidates: int,
    k: int,
    width: int = 64,
    beam: int = 1,
    objective: str = "page_value",
    jagged: bool = False,
    limits: bool = False,
) -> Callable[[], object]:
    """With every rule if it is jagged."""
    value, root, offsets, pins = _uniform(BATCH, candidates), None, None, None
    categories = torch.arange(BATCH * candidates).int().view(BATCH, candidates) % 5 - 1
    embeddings = torch.nn.functional.normalize(_uniform(BATCH, candidates, width) - 0.5, dim=-1)
    attention, pairs = None, torch.eye(4)
    if objective == "page_value":
        root, attention, pairs = _uniform(BATCH, candidates), _uniform(k), -_uniform(4, 4)
    mask, boost, groups, caps, cap_slots, decay = None, None, None, None, None, None
    if jagged:
        value, categories, embeddings = value.flatten(), categories.flatten(), embeddings.flatten(0, 1)
        root = None if root is None else root.flatten()
        offsets, mask, boost = _offsets(candidates), _mask(BATCH * candidates), _positive(BATCH * candidates)
        groups, caps = categories[:, None] // 2, [2]
        pins = torch.arange(BATCH * k).int().view(BATCH, k) % 3 - 1
    if limits:
        cap_slots, decay = [2], [0.6]
    return lambda: ops.search_page(
        value, root, k, attention, attention, categories=categories, pairs=pairs, embeddings=embeddings, cosine=0.5,
        objective=objective, beam=beam, mask=mask, boost_mul=boost, boost_add=boost, groups=groups, caps=caps,
        cap_slots=cap_slots, decay=decay, pins=pins, offsets=offsets,
    )  # fmt: skip


HALF, BRAIN = torch.float16, torch.bfloat16

VARIANTS: dict[str, Variant] = {
    "advantage-batch-G16": Variant(_advantage("batch", 16), sample=True),
    "advantage-batch-loo-G512": Variant(_advantage("batch", 512, True)),
    "advantage-batch-G1": Variant(_advantage("batch", 1)),
    "advantage-group-G32": Variant(_advantage("group", 32)),
    "advantage-component-G1024": Variant(_advantage("component", 1024)),
    "advantage-component-loo-G2048": Variant(_advantage("component", 2048, True)),
    "advantage-none-G1": Variant(_advantage("none", 1)),
    "sample-G32-T8": Variant(_sample(32, 8), sample=True),
    "sample-G16-T16": Variant(_sample(16, 16)),
    "sample-G512-T1": Variant(_sample(512, 1)),
    "sample-G1-T64": Variant(_sample(1, 64)),
    "log_prob-G32-T8": Variant(_log_prob(32, 8, 1e-5), sample=True),
    "log_prob-G256-T1-exact": Variant(_log_prob(256, 1, 0.0)),
    "log_prob-G1-T64": Variant(_log_prob(1, 64, 1e-5)),
    "entropy-T8": Variant(_entropy(8)),
    "entropy-T1": Variant(_entropy(1)),
    "entropy-T64": Variant(_entropy(64)),
    "kl-T8": Variant(_kl(8)),
    "kl-T1": Variant(_kl(1)),
    "kl-T64": Variant(_kl(64)),
    "grpo-G32-T8": Variant(_grpo(32, 8), sample=True),
    "grpo-G64-T64": Variant(_grpo(64, 64)),
    "grpo-G128-T1-exact": Variant(_grpo(128, 1, 0.0)),
    "grpo-G1-T5": Variant(_grpo(1, 5)),
    "transform-log": Variant(_transform("log")),
    "transform-zscore-f16-jagged": Variant(_transform("zscore", True, HALF)),
    "transform-log1p": Variant(_transform("log1p")),
    "transform-zlog": Variant(_transform("zlog"), sample=True),
    "transform-zlog-bf16": Variant(_transform("zlog", False, BRAIN)),
    "fuse-N1000-T8": Variant(_fuse(1000, 8), sample=True),
    "fuse-N1000-T6-G4-jagged": Variant(_fuse(1000, 6, 4, jagged=True)),
    "fuse-N1000-T8-f16": Variant(_fuse(1000, 8, dtype=HALF)),
    "fuse-N1000-T64-bf16-G4": Variant(_fuse(1000, 64, 4, BRAIN)),
    "fuse-N10-T1": Variant(_fuse(10, 1)),
    "fuse-N30-T32": Variant(_fuse(30, 32)),
    "fuse-N200-T8": Variant(_fuse(200, 8)),
    "topk-N1000-T8-k50": Variant(_topk(1000, 8, 50), sample=True),
    "topk-N2000-T8-k100-bf16": Variant(_topk(2000, 8, 100, dtype=BRAIN)),
    "topk-N3000-T64-k10": Variant(_topk(3000, 64, 10)),
    "topk-N5000-T1-k1000-jagged-masked": Variant(_topk(5000, 1, 1000, jagged=True, masked=True)),
    "topk-N200-T5-k10-G32-masked": Variant(_topk(200, 5, 10, 32, masked=True)),
    "topk-N4000-T6-k1000-G4-jagged": Variant(_topk(4000, 6, 1000, 4, jagged=True)),
    "topk-N100000-T8-k100-f16": Variant(_topk(100_000, 8, 100, dtype=HALF)),
    "topk-N1000-T64-k20-f16": Variant(_topk(1000, 64, 20, dtype=HALF)),
    "topk-N100-T8-k10-bf16": Variant(_topk(100, 8, 10, dtype=BRAIN)),
    "topk-N5-T1-k1-jagged-masked": Variant(_topk(5, 1, 1, jagged=True, masked=True)),
    "gain-N200-T6-k10": Variant(_gain(200, 6, 10), sample=True),
    "gain-N1000-T8-k50-bf16": Variant(_gain(1000, 8, 50, 2, 2, BRAIN)),
    "gain-N1000-T8-k50-one-list": Variant(_gain(1000, 8, 50, 1, 0)),
    "gain-N500-T64-k20-f16-jagged": Variant(_gain(500, 64, 20, 3, 1, HALF, jagged=True)),
    "gain-N3000-T4-k1024-jagged": Variant(_gain(3000, 4, 1024, 8, 0, jagged=True)),
    "gain-N100-T5-k10-one-list": Variant(_gain(100, 5, 10, 1, 0)),
    "gain-N5-T1-k1": Variant(_gain(5, 1, 1, 1, 1)),
    "lambdaloss-N200": Variant(_lambda_loss(200, masked=True), sample=True),
    "lambdaloss-N10": Variant(_lambda_loss(10)),
    "rollout-N1000-T8-k50-G32": Variant(_rollout(1000, 8, 50, 32), sample=True),
    "rollout-N200-T5-k10-G16-one-list": Variant(_rollout(200, 5, 10, 16, 1, 0, bounded=False)),
    "rollout-N1000-T64-k100-G8": Variant(_rollout(1000, 64, 100, 8)),
    "rollout-N5000-T1-k1024-G8": Variant(_rollout(5000, 1, 1024, 8)),
    "rollout-N20-T16-k5-G1": Variant(_rollout(20, 16, 5, 1)),
    "search-N200-k5": Variant(_search(200, 5), sample=True),
    "search-N20-k4-beam8-jagged": Variant(_search(20, 4, 10, 8, jagged=True)),
    "transform-zlog-N1000": Variant(_transform("zlog", candidates=1000)),
    "search-N20-k6-beam2-limits": Variant(_search(20, 6, 10, 2, jagged=True, limits=True)),
    "topk-zlog-N1000-T8-k50-masked": Variant(_topk(1000, 8, 50, masked=True, transform="zlog"), sample=True),
    "topk-zlog-N300-T13-k300-G3-bf16": Variant(_topk(300, 13, 300, 3, BRAIN, transform="zlog")),
    "topk-zlog-N260-T1-k5": Variant(_topk(260, 1, 5, transform="zlog")),
    "topk-zscore-N1000-T6-k20": Variant(_topk(1000, 6, 20, transform="zscore")),
    "topk-zlog-N200-T6-k20": Variant(_topk(200, 6, 20, transform="zlog")),
}


def of_the_sample(arch: str) -> dict[str, dict[str, int]]:
    """By variant and kernel: whether multiply-adds may be fused, bytes of Triton's own global scratch."""
    found = {}
    for name, variant in VARIANTS.items():
        for launch in record(variant.call) if variant.sample else ():
            made = compiled(launch, arch)[0].metadata
            found[f"{name} {launch.kernel.__name__}"] = {
                "fused": made.enable_fp_fusion,
                "scratch": made.global_scratch_size,
            }
    return found


if __name__ == "__main__":
    print(json.dumps(of_the_sample(sys.argv[1])))
