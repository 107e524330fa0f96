import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import _core, fuse_scores, fuse_topk, reference, topk_gain, transform_scores
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.refusals import refuses

TRANSFORMS = tuple(_core.transforms)
# B, N, T, G, k: empty, one candidate, N < k, N = k, not a multiple of a tile, wide trees
SHAPES = [(2, 0, 3, 2, 4), (2, 1, 4, 1, 2), (2, 7, 1, 2, 9), (1, 130, 6, 2, 130), (2, 70, 8, 3, 10), (1, 45, 33, 1, 20)]


def scores_of(batch: int, candidates: int, tasks: int, kind: str = "plain", seed: int = 0) -> torch.Tensor:
    scores = torch.rand(batch, candidates, tasks, generator=torch.Generator().manual_seed(seed))
    if kind == "ties":
        scores = (scores * 3).round() / 2
    elif kind == "equal":
        scores = torch.full_like(scores, 0.5)
    elif kind == "special":
        scores[:, ::5, 0] = torch.nan
        scores[:, 1::7, 0] = torch.inf
        scores[:, 2::7, 0] = -torch.inf
        scores[:, 3::6] = -0.0
        scores[:, 4::6] = 0.0
    return scores


def weights_of(batch: int, samples: int, tasks: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, samples, tasks, generator=torch.Generator().manual_seed(seed)) + 0.25


def on(backend: str, function, *arguments, **options):
    with dispatch.use_backend(backend):
        return function(*arguments, **options)


def fused_by_definition(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The tree of csrc/include/pygrade/fusion.hpp in float32; scores[N, T], weights[T]. A fused multiply-add is a
    float64 product and sum, rounded once more: right but for double rounding, which these sizes do not meet."""
    tasks = scores.shape[1]
    half = max(1, (1 << (tasks - 1).bit_length()) // 2)
    x = scores[:, :half] * weights[:half]
    rest = tasks - half
    if rest > 0:
        exact = scores[:, half:].double() * weights[half:].double() + x[:, :rest].double()
        x = torch.cat([exact.float(), x[:, rest:]], 1)
    while x.shape[1] > 1:
        x = x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :]
    return x[:, 0] + 0.0


def test_the_core_names_the_transforms_of_the_specification():
    assert tuple(reference.fusion.TRANSFORMS) == TRANSFORMS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_and_fused_scores_match_the_reference(shape, transform):
    batch, candidates, tasks, samples, _ = shape
    scores, weights = scores_of(batch, candidates, tasks), weights_of(batch, samples, tasks)
    values = transform_scores(scores, transform)
    assert_close(values, reference.transform_scores(scores.double(), transform))
    fused = fuse_scores(scores, weights, transform)
    assert_close(fused, reference.fuse_scores(scores.double(), weights.double(), transform))
    assert same_bits(fused, fuse_scores(values, weights))
    single = fuse_scores(scores, weights[:, 0].contiguous(), transform)
    assert same_bits(single, fused[:, 0].contiguous())
    if transform != "rank":
        assert same_bits(on("triton", transform_scores, scores, transform), values)


@pytest.mark.parametrize("tasks", [*range(1, 18), 31, 32, 33, 64])
def test_fused_scores_follow_the_one_tree(tasks):
    scores, weights = scores_of(1, 40, tasks), weights_of(1, 1, tasks)
    fused = fuse_scores(scores, weights)
    assert same_bits(fused[0, 0], fused_by_definition(scores[0], weights[0, 0]))
    if tasks in (1, 2, 3, 6, 8, 33):
        assert same_bits(on("triton", fuse_scores, scores, weights), fused)


@pytest.mark.parametrize("kind", ["plain", "ties", "equal", "special"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_top_k_is_the_front_of_the_ranking(shape, kind, masked):
    batch, candidates, tasks, samples, k = shape
    scores, weights = scores_of(batch, candidates, tasks, kind), weights_of(batch, samples, tasks)
    mask = torch.rand(batch, candidates, generator=torch.Generator().manual_seed(5)) < 0.5 if masked else None
    values, indices = fuse_topk(scores, weights, k, mask=mask)
    fused = fuse_scores(scores, weights)
    expected = reference.fusion._take(fused, k, None if mask is None else mask[:, None])
    assert torch.equal(indices, expected[1])
    assert same_bits(values, expected[0])
    single = fuse_topk(scores, weights[:, 0].contiguous(), k, mask=mask)
    assert torch.equal(single.indices, indices[:, 0]) and same_bits(single.values, values[:, 0].contiguous())
    if kind != "equal":
        interpreted = on("triton", fuse_topk, scores, weights, k, mask=mask)
        assert torch.equal(interpreted.indices, indices)
        assert same_bits(interpreted.values, values)


def hard_to_sort(kind: str, count: int) -> torch.Tensor:
    """[count] scores, of kinds that a sort by some bits of the score would get wrong."""
    generator = torch.Generator().manual_seed(count)
    uniform = torch.rand(count, generator=generator)
    if kind == "close":  # steps of one unit in the last place, up and down
        return 1.0 + torch.randint(0, 300, (count,), generator=generator) * 2.0**-23
    if kind == "outliers":  # the range is nearly all of float32, the others are close together
        scores = 1.0 + torch.randint(0, 1000, (count,), generator=generator) * 2.0**-23
        scores[::97], scores[1::89] = 3e38, -3e38
        return scores
    if kind == "rising":
        return torch.arange(count) / 7.0
    if kind == "falling":
        return -torch.arange(count) / 7.0
    if kind == "exponents":
        return torch.ldexp(uniform - 0.5, torch.randint(-120, 120, (count,), generator=generator))
    return torch.where(uniform < 0.5, uniform, (uniform * 20).round() / 20)  # "some ties"


@pytest.mark.parametrize("kind", ["close", "outliers", "rising", "falling", "exponents", "some ties"])
@pytest.mark.parametrize("count", [15, 16, 17, 63, 64, 65, 130, 255, 256, 257, 600, 1500, 20_000])
def test_every_order_is_exact(kind, count):
    """With one task of weight 1 the fused scores are the scores."""
    row = hard_to_sort(kind, count)
    order = torch.sort(row, descending=True, stable=True).indices
    scores, weight = row[None, :, None].repeat(5, 1, 1), torch.ones(5, 1)
    for k in {1, 2, 9, 12, 50, 100, count // 5, count // 2, count - 1, count} - {0}:
        wanted = order[: min(k, count)]
        values, indices = fuse_topk(scores[:1], weight[:1], k)
        assert torch.equal(indices[0, : len(wanted)].long(), wanted), k
        assert same_bits(values[0, : len(wanted)], row[wanted] + 0.0), k
        group = fuse_topk(scores[:1], torch.ones(1, 5, 1), k).indices[0]
        assert (group == indices[0]).all(), k


@pytest.mark.parametrize("tasks", [1, 2, 3, 6, 8, 13, 16, 17, 45, 64])
@pytest.mark.parametrize("kind", ["uniform", "tiny", "zeros", "close", "special", "ties"])
@pytest.mark.parametrize(("transform", "number"), [("log", 1e-7), ("log", 0.0), ("log1p", 1.0), ("log1p", 30.0)])
def test_the_short_cut_to_the_best_logarithms_is_exact(tasks, kind, transform, number):
    generator = torch.Generator().manual_seed(tasks)
    options = {"beta": number} if transform == "log" else {"slope": number * torch.linspace(0, 1, tasks)}
    dtypes = torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float32
    for (candidates, k), dtype in zip(((70, 5), (500, 10), (2003, 10), (2000, 50), (2003, 1)), dtypes, strict=True):
        scores = torch.rand(1, candidates, tasks, generator=generator)
        if kind == "tiny":
            scores = scores.pow(12.0)
        elif kind == "zeros":
            scores = torch.where(scores < 0.5, 0.0, scores)
        elif kind == "close":
            scores = 0.3 + 1e-6 * scores
        elif kind == "special":
            scores[0, ::97, 0], scores[0, 1::97, 0], scores[0, 2::97, -1] = torch.nan, torch.inf, -0.0
        elif kind == "ties":
            scores = (scores * 4).round() / 4
        scores = scores.to(dtype)
        weights = torch.randn(1, tasks, generator=generator) if k == 10 else torch.rand(1, tasks, generator=generator)
        values, indices = fuse_topk(scores, weights, k, transform, **options)
        expected = fuse_topk(transform_scores(scores, transform, **options), weights, k)
        assert torch.equal(indices, expected.indices) and same_bits(values, expected.values)
        pair = scores.expand(2, -1, -1).contiguous(), weights.expand(2, -1).contiguous()
        twice = fuse_topk(*pair, k, transform, **options)
        assert same_bits(twice.values[1:], values) and torch.equal(twice.indices[:1], indices)
        scores[0, candidates - 1, 0] = -1e-3
        with pytest.raises(ValueError, match=f"scores is negative at request 0, candidate {candidates - 1}, task 0"):
            fuse_topk(scores, weights, k, transform, **options)


@pytest.mark.parametrize("tasks", [*range(1, 10), 12, 16, 17, 31, 32, 40, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_fused_as_their_float32_values(tasks, dtype):
    for candidates in (1, 7, 16, 31, 33, 64, 130, 600):
        scores, weights = scores_of(2, candidates, tasks, seed=candidates).to(dtype), weights_of(2, 1, tasks)[:, 0]
        scores[0, :: max(3, candidates // 2), -1] = torch.nan
        offsets = torch.tensor([0, 0, 1, 2 * candidates])
        jagged = scores.view(-1, tasks), weights_of(3, 1, tasks)[:, 0]
        for narrow, wide in (
            ((scores, weights), (scores.float(), weights)),
            ((jagged[0], jagged[1]), (jagged[0].float(), jagged[1])),
        ):
            rows = {} if narrow[0].dim() == 3 else {"offsets": offsets}
            by_task = {**rows, "layout": "task-major"}
            expected = fuse_scores(*wide, **rows)
            assert same_bits(fuse_scores(*narrow, **rows), expected)
            assert same_bits(fuse_scores(narrow[0].mT.contiguous(), narrow[1], **by_task), expected)
            best = fuse_topk(*wide, 20, **rows)
            for top in (fuse_topk(*narrow, 20, **rows), fuse_topk(narrow[0].mT.contiguous(), narrow[1], 20, **by_task)):
                assert torch.equal(top.indices, best.indices) and same_bits(top.values, best.values)


@pytest.mark.parametrize("transform", ["log", "zlog", "log1p"])
def test_numbers_with_special_logarithms_change_no_others(transform):
    """Rows of ordinary numbers take a shorter path than rows with a zero, a denormal, an infinity or NaN."""
    plain = torch.rand(1, 3000, 3, generator=torch.Generator().manual_seed(0))
    special = plain.clone()
    special[0, 1500, :] = torch.tensor([torch.nan, torch.inf, 1e-42])
    options = {"beta": 0.0}
    if transform == "zlog":  # statistics of all candidates: compare with the logarithms instead
        logs = transform_scores(plain, "log", **options)
        assert same_bits(transform_scores(plain, "zlog", **options), transform_scores(logs, "zscore"))
        return
    changed = transform_scores(special, transform, **options)
    rest = torch.arange(3000) != 1500
    assert same_bits(changed[:, rest], transform_scores(plain, transform, **options)[:, rest])
    alone = transform_scores(special[:, 1500:1501], transform, **options)
    assert same_bits(torch.nan_to_num(changed[:, 1500:1501], nan=9.0), torch.nan_to_num(alone, nan=9.0))


def test_the_streaming_kernel_cuts_its_buffer():
    scores, weights = scores_of(1, 1200, 6).sort(1).values, weights_of(1, 1, 6)  # rising: every tile beats the last
    expected = fuse_topk(scores, weights, 5)
    interpreted = on("triton", fuse_topk, scores, weights, 5)
    assert torch.equal(interpreted.indices, expected.indices) and same_bits(interpreted.values, expected.values)


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("transform", ["identity", "zlog"])
def test_jagged_equals_dense_request_by_request(backend, transform):
    sizes = [3, 0, 20, 1]
    offsets = torch.tensor([0, 3, 3, 23, 24])
    scores, weights = scores_of(1, 24, 3)[0], weights_of(4, 2, 3)
    mask = torch.arange(24) % 3 != 0
    fused = on(backend, fuse_scores, scores, weights, transform, offsets=offsets)
    values, indices = on(backend, fuse_topk, scores, weights, 4, transform, mask=mask, offsets=offsets)
    changed = on(backend, transform_scores, scores, transform, offsets=offsets)
    assert fused.shape == (2, 24) and values.shape == indices.shape == (4, 2, 4)
    parts = zip(scores.split(sizes), fused.split(sizes, 1), mask.split(sizes), strict=True)
    for b, (part, inside, eligible) in enumerate(parts):
        one = part[None], weights[b : b + 1]
        assert same_bits(inside[None].contiguous(), on(backend, fuse_scores, *one, transform))
        top = on(backend, fuse_topk, *one, 4, transform, mask=eligible[None])
        assert torch.equal(top.indices[0], indices[b]) and same_bits(top.values[0], values[b])
        part_changed = changed[int(offsets[b]) : int(offsets[b + 1])]
        assert same_bits(part_changed, on(backend, transform_scores, part[None], transform)[0])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_log1p_makes_fused_scores_the_logarithm_of_a_product(backend):
    scores, weights = scores_of(2, 40, 5), weights_of(2, 3, 5)
    scores[0, :4] = torch.tensor([0.0, 1e-12, torch.inf, torch.nan])[:, None]
    scores[1, :3] = torch.tensor([1e-30, 1e30, 1e9])[:, None]
    slope = torch.tensor([0.5, 30.0, 1.0, 1e-6, 1.0])
    values = on(backend, transform_scores, scores, "log1p", slope=slope)
    assert_close(values, torch.log1p(scores.double() * slope.double()).where(~torch.isinf(scores * slope), torch.inf))
    assert same_bits(values, transform_scores(scores, "log1p", slope=slope))
    fused = on(backend, fuse_scores, scores, weights, "log1p", slope=slope)
    assert same_bits(fused, fuse_scores(values, weights))
    factors = (1.0 + slope.double() * scores[1, 3:].double()) ** weights[1, :, None].double()
    assert_close(fused[1, :, 3:], factors.prod(-1).log())
    top = on(backend, fuse_topk, scores, weights, 7, "log1p", slope=slope)
    assert torch.equal(top.indices, fuse_topk(values, weights, 7).indices)
    assert same_bits(transform_scores(scores, "log1p", slope=2), transform_scores(scores, "log1p", slope=slope * 0 + 2))


BY_TASK = [("cpu", shape) for shape in (*SHAPES, (3, 100, 8, 2, 10), (1, 67, 4, 5, 3))]
BY_TASK += [("triton", (2, 9, 3, 2, 4)), ("reference", (2, 9, 3, 2, 4))]


@pytest.mark.parametrize(("backend", "shape"), BY_TASK)
@pytest.mark.parametrize("transform", ["identity", "zlog", "log1p"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_task_major_scores_give_the_same_bits(backend, shape, transform, dtype):
    batch, candidates, tasks, samples, k = shape
    scores, weights = scores_of(batch, candidates, tasks).to(dtype), weights_of(batch, samples, tasks)
    mask = torch.arange(batch * candidates).view(batch, candidates) % 3 != 0
    by_task = scores.mT.contiguous()
    values = on(backend, transform_scores, by_task, transform, layout="task-major")
    assert values.is_contiguous()
    assert same_bits(values.mT.contiguous(), on(backend, transform_scores, scores, transform))
    for vectors in (weights, weights[:, 0].contiguous()):
        fused = on(backend, fuse_scores, by_task, vectors, transform, layout="task-major")
        assert same_bits(fused, on(backend, fuse_scores, scores, vectors, transform))
        for eligible in (None, mask):
            top = on(backend, fuse_topk, by_task, vectors, k, transform, mask=eligible, layout="task-major")
            expected = on(backend, fuse_topk, scores, vectors, k, transform, mask=eligible)
            assert torch.equal(top.indices, expected.indices) and same_bits(top.values, expected.values)


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_jagged_task_major_scores_give_the_same_bits(backend):
    scores, weights = scores_of(1, 12, 3)[0], weights_of(3, 2, 3)
    beside = {"offsets": torch.tensor([0, 7, 7, 12])}
    by_task = {**beside, "layout": "task-major"}
    for transform in ("identity", "zscore"):
        values = on(backend, transform_scores, scores.mT.contiguous(), transform, **by_task)
        assert same_bits(values.mT.contiguous(), on(backend, transform_scores, scores, transform, **beside))
        for vectors in (weights, weights[:, 0].contiguous()):
            got = on(backend, fuse_topk, scores.mT.contiguous(), vectors, 7, transform, **by_task)
            expected = on(backend, fuse_topk, scores, vectors, 7, transform, **beside)
            assert torch.equal(got.indices, expected.indices) and same_bits(got.values, expected.values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_half_precision_scores_are_widened_exactly(dtype, backend):
    scores, weights = scores_of(2, 37, 6).to(dtype), weights_of(2, 2, 6)
    scores[0, :5, 0] = torch.tensor([6e-8, -0.0, torch.inf, -torch.inf, torch.nan]).to(dtype)
    assert same_bits(on(backend, transform_scores, scores), scores.float())
    assert same_bits(on(backend, fuse_scores, scores, weights), fuse_scores(scores.float(), weights))
    got = on(backend, fuse_topk, scores, weights, 5)
    assert torch.equal(got.indices, fuse_topk(scores.float(), weights, 5).indices)


_PARITY = """
import sys, torch
from pygrade import _core, fuse_topk, fuse_scores, topk_gain, transform_scores
g = torch.Generator().manual_seed(7)
parts = []
for tasks, candidates, k in ((1, 50, 9), (2, 900, 30), (6, 333, 20), (8, 2000, 100), (17, 90, 90), (40, 70, 5)):
    s, w = torch.rand(2, candidates, tasks, generator=g), torch.rand(2, 5, tasks, generator=g)
    s[0, ::9, 0] = torch.nan
    parts += [fuse_scores(s, w), *fuse_topk(s, w, k), fuse_topk(s.half(), w, k).values]
    for single in (s[:1], s[1:], s[1:].half(), s[1:].bfloat16()):
        for transform in ("identity", "log", "log1p"):
            parts += fuse_topk(single, w[:1, 0].contiguous(), k, transform)
            parts.append(fuse_scores(single, w[:1, 0].contiguous(), transform))
    parts += [transform_scores(s, t) for t in ("log", "zscore", "zlog", "rank", "log1p")]
    parts.append(fuse_scores(s.mT.contiguous(), w[:, 0].contiguous(), layout="task-major"))
    parts.append(topk_gain(s, w, torch.rand(2, candidates, 2, generator=g), k, torch.rand(k, generator=g)))
import hashlib
bytes_ = b"".join(torch.nan_to_num(p, nan=123.0).numpy().tobytes() for p in parts)
print(_core.active_isa(), hashlib.sha256(bytes_).hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits():
    seen = {}
    for isa in _core.available_isas():
        run = subprocess.run(
            [sys.executable, "-c", _PARITY], env={**os.environ, "PYGRADE_ISA": isa}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        name, seen[isa] = run.stdout.split()
        assert name == isa
    assert len(set(seen.values())) == 1, seen


@given(seed=st.integers(0, 999), kind=st.sampled_from(["plain", "ties", "special"]), k=st.integers(1, 40))
def test_permuting_candidates_permutes_the_result(seed, kind, k):
    scores, weights = scores_of(1, 33, 4, kind, seed), weights_of(1, 1, 4, seed)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(seed))
    fused = fuse_scores(scores, weights)
    assert same_bits(fuse_scores(scores[:, order], weights), fused[..., order].contiguous())
    values, indices = fuse_topk(scores[:, order], weights, k)
    assert same_bits(values, fuse_topk(scores, weights, k).values)
    taken = indices[0, 0, : min(k, 33)].long()
    assert same_bits(fused[0, 0, order[taken]], values[0, 0, : len(taken)])


def test_threads_and_the_split_of_a_batch_change_nothing():
    scores, weights = scores_of(64, 300, 6), weights_of(64, 16, 6)
    one = fuse_topk(scores, weights, 20, "zlog", num_threads=1)
    many = fuse_topk(scores, weights, 20, "zlog", num_threads=5)
    assert torch.equal(one.indices, many.indices) and same_bits(one.values, many.values)
    half = fuse_topk(scores[32:].contiguous(), weights[32:].contiguous(), 20, "zlog")
    assert torch.equal(half.indices, one.indices[32:])


@pytest.mark.parametrize("sizes", [[3000], [5, 0, 4000, 1], [0, 0], [700, 700, 700]])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_the_samples_of_a_request(sizes, threads):
    rows, batch = sum(sizes), len(sizes)
    scores, weights = scores_of(1, rows, 8)[0], weights_of(batch, 100, 8)
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    gains, discount = torch.rand(rows, 2, generator=torch.Generator().manual_seed(3)), torch.ones(9)
    for transform in ("identity", "zscore"):
        one, many = (
            (
                fuse_scores(scores, weights, transform, offsets=offsets, num_threads=n),
                *fuse_topk(scores, weights, 9, transform, offsets=offsets, num_threads=n),
                topk_gain(scores, weights, gains, 9, discount, transform=transform, offsets=offsets, num_threads=n),
            )
            for n in (1, threads)
        )
        assert all(same_bits(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.parametrize("scale", [1e18, 1e25, 3e38])
@pytest.mark.parametrize("layout", ["item-major", "task-major"])
def test_zscores_of_large_values_match_the_reference(scale, layout):
    scores = (scores_of(2, 70, 3) * 2 - 1) * scale  # squares overflow in single precision, at 3e38 sums too
    scores[1] *= 1e-30
    expected = reference.transform_scores(scores.double(), "zscore")
    given = scores.mT.contiguous() if layout == "task-major" else scores
    found = transform_scores(given, "zscore", layout=layout)
    assert_close(found.mT if layout == "task-major" else found, expected)
    weights = weights_of(2, 2, 3)
    best = fuse_topk(given, weights, 5, "zscore", layout=layout)
    assert torch.equal(best.indices, reference.fuse_topk(scores.double(), weights.double(), 5, "zscore")[1])


def test_gradient_reaches_the_weights_alone_where_only_they_want_it():
    values = transform_scores(scores_of(2, 9, 3), "zlog")
    weights = weights_of(2, 1, 3)[:, 0].contiguous().requires_grad_()
    fuse_scores(values, weights).sum().backward()
    assert_close(weights.grad, values.double().sum(1))


@pytest.mark.parametrize(
    ("backend", "message"), [("cpu", r"slope\[1\] is nan; expected"), ("triton", r"slope is \[1.0, nan, 1.0\]; exp")]
)
def test_slopes_are_numbers(backend, message):
    with pytest.raises(ValueError, match=message):
        slope = torch.tensor([1.0, torch.nan, 1.0])
        on(backend, fuse_topk, scores_of(2, 4, 3), weights_of(2, 1, 3), 1, "log1p", slope=slope)


@pytest.mark.parametrize("layout", ["item-major", "task-major"])
def test_a_negative_score_under_a_logarithm_is_located(layout):
    scores, weights = scores_of(2, 4, 3), weights_of(2, 1, 3)
    scores[1, 2, 0] = -1e-9
    flat, offsets = scores.flatten(0, 1), torch.tensor([0, 5, 8])
    if layout == "task-major":
        scores, flat = scores.mT.contiguous(), flat.mT.contiguous()
    for function in (
        lambda: transform_scores(scores, "log1p", layout=layout),
        lambda: fuse_topk(scores, weights, 1, "zlog", layout=layout),
    ):
        refuses(ValueError, "scores is negative at request 1, candidate 2, task 0", function)
    with pytest.raises(ValueError, match="scores is negative at request 1, candidate 1, task 0"):
        fuse_scores(flat, weights, "log", offsets=offsets, layout=layout)


def test_the_kernel_survives_what_it_was_not_told_to_check():
    scores, weights = scores_of(1, 6, 3)[0], weights_of(2, 1, 3)
    broken = torch.tensor([0, 3, 9])
    with dispatch.use_backend("triton"):
        values, indices = fuse_topk(scores, weights, 2, offsets=broken, validate=False)
        assert (indices[1] == -1).all() and (indices[0] >= 0).all() and torch.isneginf(values[1]).all()
        fused = fuse_scores(scores, weights, offsets=broken, validate=False)
        assert torch.isnan(fused[:, 3:]).all() and not torch.isnan(fused[:, :3]).any()
        refuses(ValueError, r"offsets is \[0, 3, 9\]", fuse_scores, scores, weights, offsets=broken, validate=True)
        refuses(ValueError, "'rank', which runs on a CPU only", fuse_scores, scores[None], weights[:1], "rank")
        refuses(ValueError, "k is 1025", fuse_topk, scores[None], weights[:1], 1025)
