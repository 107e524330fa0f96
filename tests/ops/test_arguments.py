"""What every op owes its caller: arguments of any kind, refusals by name, and torch's contract of an op."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pygrade
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.refusals import refuses


def tensors(batch: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rand = partial(torch.rand, generator=generator)
    alpha = rand(batch, 3) + 0.5
    drawn = pygrade.dirichlet_sample(alpha, 4, seed=1)
    return {
        "scores": rand(batch, 9, 3),
        "weights": rand(batch, 3),
        "samples": rand(batch, 4, 3),
        "gains": rand(batch, 9, 2),
        "discount": torch.tensor([1.0, 0.5]),
        "alpha": alpha,
        "logs": drawn.log_weights,
        "old": drawn.log_prob,
        "advantages": rand(batch, 4) - 0.5,
        "rewards": rand(batch, 4, 2),
        "page": rand(batch, 9),
        "labels": rand(batch, 9),
        "groups": torch.zeros(batch, 9, 1, dtype=torch.int32),
        "mask": rand(batch, 9) < 0.7,
        "masks": rand(batch, 1, 9) < 0.7,
        "lists": torch.tensor([0, -1], dtype=torch.int32),
        "bounds": torch.tensor([[0.1, 0.2, 0.1], [0.5, 0.6, 0.4]]),
    }


OPS = {
    "transform_scores": lambda scores, **_: pygrade.transform_scores(scores, "log1p", slope=2.0),
    "fuse_scores": lambda scores, weights, **_: pygrade.fuse_scores(scores, weights, "zscore"),
    "fuse_topk": lambda scores, weights, mask, **_: pygrade.fuse_topk(scores, weights, 4, "rank", mask=mask),
    "rank": lambda scores, weights, mask, page, labels, groups, **_: pygrade.rank(
        scores,
        weights,
        4,
        mask=mask,
        boost_mul=page,
        boost_add=labels,
        groups=groups,
        caps=[2],
        cap_slots=[3],
        decay=[0.5],
    ),
    "search_page": lambda page, labels, discount, mask, groups, **_: pygrade.search_page(
        page, labels, 2, discount, discount, categories=groups[..., 0], pairs=-discount[:1, None], beam=2, mask=mask
    ),
    "topk_gain": lambda scores, samples, gains, discount, masks, lists, **_: pygrade.topk_gain(
        scores, samples, gains, 2, discount, masks, lists
    ),
    "dirichlet_sample": lambda alpha, **_: pygrade.dirichlet_sample(alpha, 4, seed=2),
    "dirichlet_log_prob": lambda alpha, logs, **_: pygrade.dirichlet_log_prob(alpha, logs, 1e-4),
    "dirichlet_score": lambda alpha, logs, advantages, **_: pygrade.dirichlet_score(alpha, logs, advantages, 1e-4),
    "dirichlet_entropy": lambda alpha, **_: pygrade.dirichlet_entropy(alpha),
    "dirichlet_kl": lambda alpha, weights, **_: pygrade.dirichlet_kl(alpha, weights),
    "floor_log_weights": lambda logs, **_: pygrade.floor_log_weights(logs, 0.01),
    "group_advantage": lambda rewards, discount, **_: pygrade.group_advantage(rewards, discount),
    "grpo_loss": lambda alpha, logs, old, advantages, weights, **_: pygrade.grpo_loss(
        alpha, logs, old, advantages, weights
    ),
    "lambda_loss": lambda page, labels, mask, discount, **_: pygrade.lambda_loss(page, labels, mask, discount),
    "rollout": lambda alpha, scores, gains, discount, masks, lists, bounds, **_: pygrade.rollout(
        alpha, scores, gains, 2, discount, 4, 3, 0, masks, lists, bounds, 1e-4
    ),
    "format_penalty": lambda weights, bounds, **_: pygrade.format_penalty(weights, bounds),
}
DIFFERENTIABLE = {
    "transform_scores": "scores",
    "fuse_scores": "scores",
    "fuse_topk": "scores",
    "floor_log_weights": "logs",
    "dirichlet_log_prob": "alpha",
    "dirichlet_entropy": "alpha",
    "dirichlet_kl": "alpha",
    "grpo_loss": "alpha",
    "lambda_loss": "page",
    "format_penalty": "weights",
}


INPUTS = DIFFERENTIABLE | {
    "rank": "scores",
    "search_page": "page",
    "topk_gain": "scores",
    "dirichlet_sample": "alpha",
    "dirichlet_score": "alpha",
    "group_advantage": "rewards",
    "rollout": "alpha",
}
# Other forms of the ops: jagged, task-major, into given memory, without what may be left out.
FORMS = {
    "transform_scores, task-major": lambda scores, **_: pygrade.transform_scores(
        scores.mT.contiguous(), "log1p", layout="task-major"
    ),
    "fuse_scores, jagged": lambda scores, samples, **_: pygrade.fuse_scores(
        scores[0], samples.repeat(2, 1, 1), "log", offsets=torch.tensor([0, 4, 9])
    ),
    "fuse_topk, jagged": lambda scores, samples, **_: pygrade.fuse_topk(
        scores[0], samples.repeat(2, 1, 1), 3, offsets=torch.tensor([0, 4, 9])
    ),
    "rank, alone": lambda scores, weights, **_: pygrade.rank(scores, weights, 4),
    "dirichlet_sample, into": lambda alpha, samples, old, **_: pygrade.dirichlet_sample(
        alpha, 4, seed=-5, out=(samples.clone(), samples.clone(), old.clone())
    ),
    "dirichlet_score, alone": lambda alpha, logs, **_: pygrade.dirichlet_score(alpha, logs),
    "search_page, alone": lambda page, labels, **_: pygrade.search_page(page[0], labels[0], 3),
    "search_page, by hand": lambda page, groups, discount, **_: pygrade.search_page(
        page, None, 3, categories=groups[..., 0], pairs=discount[:1, None], objective="mmr", trade_off=0.7
    ),
    "lambda_loss, alone": lambda page, labels, discount, **_: pygrade.lambda_loss(page, labels, None, discount),
    "rollout, alone": lambda alpha, scores, gains, discount, **_: pygrade.rollout(
        alpha, scores, gains, 2, discount, 4, seed=3
    ),
}


def parts(result) -> list[torch.Tensor]:
    found = result if isinstance(result, (tuple, list)) else (result,)
    return [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in found]


def assert_equal(result, expected) -> None:
    assert all(same_bits(one, two) for one, two in zip(parts(result), parts(expected), strict=True))


class Watch(TorchDispatchMode):
    """Sees the ops of torch that run inside it; the fast path runs none."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))

    def saw(self, name):
        return any(seen.startswith(f"pygrade.{name}.") for seen in self.seen)


def test_every_op_is_here():
    assert set(OPS) == {name for name in pygrade.ops.__all__ if name.islower()}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", OPS)
def test_the_default_device_changes_nothing(name, backend):
    arguments = tensors()
    arrays = {key: value.numpy() for key, value in arguments.items()}
    with dispatch.use_backend(backend):
        expected = OPS[name](**arguments)
        with torch.device("meta"):
            found, of_arrays = OPS[name](**arguments), OPS[name](**arrays)
    assert_equal(found, expected)
    assert_equal(of_arrays, expected)


@pytest.mark.parametrize("name", OPS)
def test_threads_and_the_rest_of_the_batch_change_nothing(name):
    threads, arguments = torch.get_num_threads(), tensors(6001)
    try:
        torch.set_num_threads(1)
        one = OPS[name](**arguments)
        torch.set_num_threads(5)
        assert_equal(OPS[name](**arguments), one)
    finally:
        torch.set_num_threads(threads)
    if name not in ("dirichlet_sample", "rollout", "group_advantage"):  # rows have their draws, the batch has a scale
        half = {key: value[3000:] if len(value) == 6001 else value for key, value in arguments.items()}
        assert_equal(OPS[name](**half), tuple(part[3000:] for part in parts(one)))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_default_device_changes_no_gradient(name):
    def gradient():
        argument = arguments[DIFFERENTIABLE[name]].clone().requires_grad_()
        value = OPS[name](**arguments | {DIFFERENTIABLE[name]: argument})
        return torch.autograd.grad(parts(value)[0].sum(), argument)

    arguments = tensors()
    expected = gradient()
    torch.set_default_device("meta")
    try:
        found = gradient()
    finally:
        torch.set_default_device(None)
    assert_equal(found, expected)


SINGLE = {"dirichlet_sample", "rollout", "rank", "search_page"}  # which refuse float64 of torch


@pytest.mark.parametrize("name", sorted(OPS.keys() - {"format_penalty"}))  # which computes in float64
def test_float64_of_numpy_is_rounded_and_of_torch_is_computed_by_the_reference_or_refused(name):
    arguments = tensors()
    floats = {key for key, value in arguments.items() if value.dtype == torch.float32}
    doubles = {key: value.double() if key in floats else value for key, value in arguments.items()}
    assert_equal(OPS[name](**{key: value.numpy() for key, value in doubles.items()}), OPS[name](**arguments))
    if name in SINGLE:
        refuses(TypeError, r"(\w+) is float64.*\1.float\(\)", OPS[name], **doubles)
        return
    for found, of_core in zip(parts(OPS[name](**doubles)), parts(OPS[name](**arguments)), strict=True):
        assert found.dtype == (torch.float64 if of_core.is_floating_point() else of_core.dtype)
        assert torch.equal(of_core, found) if found.dtype == torch.int32 else assert_close(of_core, found) is None


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_half_is_widened(name, kind):
    halves = {key: v.to(kind) if v.dtype == torch.float32 else v for key, v in tensors().items()}
    widened = {key: v.float() if v.dtype == kind else v for key, v in halves.items()}
    assert_close(parts(OPS[name](**halves))[0].float(), parts(OPS[name](**widened))[0])


WEIGHTED = {
    "fuse_scores": lambda scores, weights, **more: pygrade.fuse_scores(scores, weights, "zlog", **more),
    "fuse_topk": lambda scores, weights, **more: pygrade.fuse_topk(scores, weights, 4, "zlog", **more),
    "rank": lambda scores, weights, **more: pygrade.rank(scores, weights, 4, "zlog", **more),
}


@pytest.mark.parametrize("kind", ["torch", "numpy", "compiled", "jagged"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_all_requests(name, kind):
    scores, weights = torch.rand(3, 9, 2), torch.tensor([0.3, 0.7])
    more = {}
    if kind == "jagged":
        scores, more = scores.reshape(27, 2), {"offsets": torch.tensor([0, 4, 11, 27])}
    expected = WEIGHTED[name](scores, weights.repeat(3, 1), **more)
    if kind == "numpy":
        scores, weights = scores.numpy(), weights.numpy()
    op = torch.compile(WEIGHTED[name], fullgraph=True, backend="aot_eager") if kind == "compiled" else WEIGHTED[name]
    assert_equal(op(scores, weights, **more), expected)
    with pytest.raises(ValueError, match=r"weights is of shape \[3\]"):
        WEIGHTED[name](scores, np.ones(3, np.float32) if kind == "numpy" else torch.ones(3), **more)


@pytest.mark.parametrize("name", OPS)
def test_numpy_in_numpy_out_whatever_the_strides_of_axes_of_one_element(name):
    arguments = tensors()
    arrays = {key: value.numpy()[::-1] if len(value) == 1 else value.numpy() for key, value in arguments.items()}
    result = OPS[name](**arrays)
    assert all(isinstance(part, np.ndarray) for part in (result if isinstance(result, tuple) else (result,)))
    assert_equal(result, OPS[name](**arguments))


def with_gradient(call, arguments: dict[str, torch.Tensor], name: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The results of a call, and the gradient of the sum of the first to the named argument."""
    leaf = arguments[name].clone().requires_grad_()
    found = parts(call(**arguments | {name: leaf}))
    return [part.detach() for part in found], torch.autograd.grad(found[0].sum(), leaf)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted((OPS | FORMS).keys() - {"format_penalty"}))
def test_torch_library_contract(name, monkeypatch):
    """Schema, fake, gradient and trace of every op of torch that the call and its gradient go through."""
    calls = []
    run = dispatch.Op._run

    def recorded(op, *given):
        calls.append((op.registered, given))
        return run(op, *given)

    monkeypatch.setattr(dispatch.Op, "_run", recorded)
    call, of = (OPS | FORMS)[name], DIFFERENTIABLE.get(name.split(",")[0])
    with Watch():
        call(**tensors())
        if of is not None:
            with_gradient(call, tensors(), of)
    assert calls
    for op, given in calls:
        if "backward" in str(op):  # not differentiable itself
            given = [value.detach() if isinstance(value, torch.Tensor) else value for value in given]
        torch.library.opcheck(op, tuple(given))


@pytest.mark.parametrize("name", OPS)
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()  # the ops share one function below
    arguments, of = tensors(), INPUTS[name]
    compiled = torch.compile(
        lambda **given: parts(OPS[name](**given | {of: given[of] + 0.25})), fullgraph=True, backend="aot_eager"
    )
    shifted = arguments | {of: arguments[of] + 0.25}
    assert_equal(tuple(compiled(**arguments)), OPS[name](**shifted))
    if name in DIFFERENTIABLE:
        found, expected = with_gradient(compiled, arguments, of)[1], with_gradient(OPS[name], shifted, of)[1]
        assert_close(found, expected.double())


def test_results_are_written_into_arrays_with_negative_strides():
    scores, weights = tensors()["scores"].numpy(), tensors()["weights"].numpy()
    out = np.empty((1, 4), np.float32)[::-1], np.empty((1, 4), np.int32)[::-1]
    task_major = np.ascontiguousarray(scores.swapaxes(1, 2))
    read_only = weights.copy()
    read_only.flags.writeable = False
    for function in (pygrade.fuse_topk, pygrade.rank):
        expected = function(scores, weights, 4)
        for given, options in ((scores, {}), (task_major, {"layout": "task-major"})):
            function(given, np.ma.getdata(read_only), 4, out=out, **options)
            assert np.array_equal(out[0], expected.values) and np.array_equal(out[1], expected.indices)


SEEDS = [(np.int64(5), 5), (np.int32(-5), -5), (np.uint64(2**63 + 5), 2**63 + 5), (-(2**63), 2**63), (np.uint8(7), 7)]


@pytest.mark.parametrize(("seed", "equal"), SEEDS)
def test_seeds_are_any_integers_of_64_bits(seed, equal):
    given = tensors()
    alpha, rest = given["alpha"], (given["scores"], given["gains"], 2, given["discount"], 4)
    assert_equal(pygrade.dirichlet_sample(alpha, 4, seed), pygrade.dirichlet_sample(alpha, 4, equal))
    assert_equal(pygrade.rollout(alpha, *rest, seed), pygrade.rollout(alpha, *rest, equal))
    with dispatch.use_backend("triton"):
        assert_equal(
            pygrade.dirichlet_sample(alpha, 4, seed).weights, pygrade.dirichlet_sample(alpha, 4, equal).weights
        )


# A change: a number, a tensor's name, or what makes it of the known tensors; "NAME [shape]; expected …" of a misfit.
REFUSED = [
    ("fuse_topk", {"k": 3.7}, "k is 3.7; expected an integer"),
    ("fuse_topk", {"k": 2**63}, r"k is 9223372036854775808; expected at most 2\^31 - 1"),
    ("fuse_topk", {"k": 0}, r"k is 0; expected at least 1"),
    ("fuse_topk", {"k": "3"}, "k is '3'; expected an integer"),
    ("fuse_topk", {"num_threads": 2**40}, r"num_threads is 1099511627776; expected at most 1048576"),
    ("fuse_topk", {"num_threads": 1.5}, r"num_threads is 1.5; expected an integer"),
    ("fuse_topk", {"beta": "1", "transform": "log"}, "beta is '1'; expected a number"),
    ("fuse_topk", {"beta": -1, "transform": "log"}, "beta is -1; expected a number ≥ 0"),
    ("fuse_topk", {"slope": [1.0], "transform": "log1p"}, r"slope is \[1.0\]; expected a number"),
    ("fuse_topk", {"slope": -1, "transform": "log1p"}, "slope is -1; expected a number ≥ 0"),
    ("fuse_topk", {"slope": "discount", "transform": "log1p"}, "slope [2]; expected [T] = [3]"),
    (
        "fuse_topk",
        {"transform": "power"},
        "transform is 'power'; expected one of identity, log, zscore, zlog, rank, log1p",
    ),
    ("fuse_topk", {"layout": "NHWC"}, "layout is 'NHWC'; expected one of item-major, task-major"),
    ("fuse_topk", {"scores": lambda _: torch.ones(1, 1, 65)}, "scores has 65 tasks; expected 1 to 64"),
    ("fuse_topk", {"weights": lambda x: x["samples"][:, :, :2]}, "weights [1, 4, 2]; expected [B, G, T] = [1, G, 3]"),
    ("fuse_topk", {"mask": "page"}, "mask is float32; expected bool"),
    (
        "fuse_topk",
        {"scores": lambda x: x["scores"][0], "offsets": lambda _: torch.tensor([0, 9, 8])},
        "weights [1, 3]; expected [B, T] = [2, 3]",
    ),
    (
        "fuse_topk",
        {"scores": lambda x: x["scores"][0], "offsets": lambda _: torch.tensor([0, 8])},
        r"offsets\[1\] is 8; expected the number of rows of scores, 9",
    ),
    (
        "fuse_topk",
        {"scores": lambda x: x["scores"][0], "weights": lambda x: x["weights"].repeat(2, 1)}
        | {"offsets": lambda _: torch.tensor([0, 9, 8])},
        r"offsets\[2\] is 8, below offsets\[1\]; expected ascending offsets",
    ),
    ("rank", {"k": 3.7}, "k is 3.7; expected an integer"),
    ("rank", {"weights": lambda x: x["weights"][:, :2]}, "weights [1, 2]; expected [B, T] = [1, 3]"),
    ("rank", {"scores": lambda x: x["scores"] - 2.0, "transform": "log"}, "scores is negative"),
    ("rank", {"mask": lambda x: x["mask"][:, :7]}, "mask [1, 7]; expected [B, N] = [1, 9]"),
    ("rank", {"boost_mul": lambda x: x["groups"][..., 0]}, "boost_mul is int32; expected float32"),
    ("rank", {"boost_mul": lambda x: x["page"] - 2.0}, r"boost_mul is -\d.* at 0; expected a finite factor >= 0"),
    ("rank", {"boost_mul": lambda x: x["page"] * torch.inf}, "boost_mul is inf at 0; expected"),
    ("rank", {"boost_add": lambda x: x["page"][0]}, "boost_add [9]; expected [B, N] = [1, 9]"),
    ("rank", {"groups": "groups"}, "groups is given alone"),
    ("rank", {"caps": [1]}, "caps and decay go with groups"),
    ("rank", {"decay": [1.0]}, "caps and decay go with groups"),
    ("rank", {"groups": "groups", "decay": [1.0], "cap_slots": [1]}, "cap_slots"),
    ("rank", {"groups": "groups", "caps": [1], "cap_slots": [0]}, r"cap_slots\[0\] is 0"),
    ("rank", {"groups": "groups", "decay": [0.0]}, r"decay\[0\] is 0"),
    ("rank", {"groups": "groups", "decay": [1.5]}, r"decay\[0\] is 1.5"),
    ("rank", {"groups": "groups", "decay": [float("nan")]}, r"decay\[0\] is nan"),
    ("rank", {"groups": lambda x: x["groups"].long(), "caps": [1]}, "groups is int64; expected int32"),
    ("rank", {"groups": "groups", "caps": [1, 2]}, "caps [2]; expected [A] = [1]"),
    ("rank", {"k": 2**62}, "k is 4611686018427387904; expected at most"),
    ("rank", {"groups": "groups", "caps": (1.7,)}, r"caps\[0\] is 1.7; expected an integer"),
    ("rank", {"groups": "groups", "caps": [2**40]}, r"caps\[0\] is 1099511627776; expected at most 2\^31 - 1"),
    ("rank", {"groups": "groups", "caps": [-2]}, r"caps\[0\] is -2; expected at least -1"),
    ("topk_gain", {"k": 2.0}, "k is 2.0; expected an integer"),
    ("topk_gain", {"k": 3}, "discount [2]; expected [k] = [3]"),
    ("topk_gain", {"num_threads": 0}, "num_threads is 0; expected at least 1"),
    ("topk_gain", {"weights": "weights"}, "weights [1, 3]; expected [B, G, T] = [1, G, 3]"),
    ("topk_gain", {"gains": lambda x: x["gains"][:, :5]}, "gains [1, 5, 2]; expected [B, N, C] = [1, 9, C]"),
    ("topk_gain", {"component_list": lambda x: x["lists"].long()}, "component_list is int64; expected int32"),
    (
        "topk_gain",
        {"masks": "masks", "component_list": lambda x: x["lists"] + 1},
        r"component_list\[0\] is 1; expected -1 or a list below 1",
    ),
    (
        "topk_gain",
        {"scores": lambda x: x["scores"] - 2.0, "transform": "log"},
        "scores is negative at request 0, candidate 0, task 0",
    ),
    ("rollout", {"num_samples": 2.5}, "num_samples is 2.5; expected an integer"),
    ("rollout", {"num_samples": -1}, "num_samples is -1; expected at least 0"),
    ("rollout", {"seed": 1 << 64}, "seed is 18446744073709551616; expected at most"),
    ("rollout", {"k": None}, "k is None; expected an integer"),
    ("rollout", {"k": 3}, "discount [2]; expected [k] = [3]"),
    (
        "rollout",
        {"concentration": lambda x: x["alpha"] * 0.0},
        r"concentration\[0, 0\] is 0; expected a finite number > 0",
    ),
    ("rollout", {"scores": lambda x: x["scores"][:, :, :2]}, "scores [1, 9, 2]; expected [B, N, T] = [1, N, 3]"),
    ("rollout", {"gains": lambda x: x["gains"][:, :5]}, "gains [1, 5, 2]; expected [B, N, C] = [1, 9, C]"),
    ("rollout", {"masks": lambda x: x["masks"][..., :7]}, "masks [1, 1, 7]; expected [B, L, N] = [1, L, 9]"),
    ("rollout", {"component_list": lambda x: x["lists"].long()}, "component_list is int64; expected int32"),
    ("rollout", {"component_list": "lists"}, r"component_list\[0\] is 0; expected -1 or a list below 0"),
    ("rollout", {"weight_bounds": "weights"}, "weight_bounds [1, 3]; expected [2, T] = [2, 3]"),
    ("rollout", {"weight_floor": 1.0}, r"weight_floor is 1.0; expected a number in \[0, 1\)"),
    ("dirichlet_sample", {"num_samples": 2.5}, "num_samples is 2.5; expected an integer"),
    ("dirichlet_sample", {"num_samples": (1 << 24) + 1}, r"num_samples is 16777217; expected at most 2\^24"),
    ("dirichlet_sample", {"seed": 1.5}, "seed is 1.5; expected an integer"),
    ("dirichlet_sample", {"seed": 2**64}, r"seed is 18446744073709551616; expected at most 2\^64 - 1"),
    ("dirichlet_sample", {"offset": -1}, r"offset is -1; expected at least 0"),
    ("dirichlet_sample", {"concentration": lambda x: x["alpha"][0]}, "concentration [3]; expected [B, T]"),
    (
        "dirichlet_sample",
        {"concentration": lambda _: torch.ones(1, 65)},
        "concentration has 65 tasks; expected 1 to 64",
    ),
    ("dirichlet_log_prob", {"weight_floor": "0"}, "weight_floor is '0'; expected a number"),
    ("dirichlet_log_prob", {"num_threads": 2**31}, "num_threads is 2147483648; expected at most"),
    (
        "dirichlet_log_prob",
        {"log_weights": lambda x: x["logs"][..., :2]},
        "log_weights [1, 4, 2]; expected [B, G, T] = [1, G, 3]",
    ),
    ("dirichlet_kl", {"other": lambda x: x["weights"][:, :2]}, "other [1, 2]; expected [B, T] = [1, 3]"),
    ("dirichlet_score", {"weight_floor": 1}, r"weight_floor is 1; expected a number in \[0, 1\)"),
    ("dirichlet_score", {"coefficients": "weights"}, "coefficients [1, 3]; expected [B, G] = [1, 4]"),
    (
        "dirichlet_score",
        {"concentration": lambda x: -x["alpha"]},
        r"concentration\[0, 0\] is -.*; expected a finite number",
    ),
    ("group_advantage", {"clip": "5"}, "clip is '5'; expected a number"),
    ("group_advantage", {"clip": -1}, "clip is -1; expected a number ≥ 0"),
    ("group_advantage", {"num_threads": 2**40}, "num_threads is 1099511627776; expected at most"),
    ("group_advantage", {"normalize": "std"}, "normalize is 'std'; expected one of none, group, batch, component"),
    ("group_advantage", {"rewards": "page"}, "rewards [1, 9]; expected [B, G, C]"),
    ("group_advantage", {"component_weights": lambda _: torch.ones(3)}, "component_weights [3]; expected [C] = [2]"),
    ("grpo_loss", {"kl_coefficient": None}, "kl_coefficient is None; expected a number"),
    ("grpo_loss", {"clip_high": -0.5}, "clip_high is -0.5; expected a number ≥ 0"),
    ("grpo_loss", {"log_ratio_clamp": 0.0}, r"log_ratio_clamp is 0.0; expected a number in \(0, 80\]"),
    ("grpo_loss", {"old_log_prob": "weights"}, "old_log_prob [1, 3]; expected [B, G] = [1, 4]"),
    ("grpo_loss", {"log_weights": lambda x: x["logs"][:, :0]}, "log_weights has no samples; expected at least 1"),
    ("lambda_loss", {"temperature": "1"}, "temperature is '1'; expected a number"),
    ("lambda_loss", {"temperature": 0.0}, "temperature is 0.0; expected a positive number"),
    ("lambda_loss", {"temperature": float("nan")}, "temperature is nan; expected a positive number"),
    ("lambda_loss", {"gains": lambda x: x["labels"][:, :4]}, "gains [1, 4]; expected [B, N] = [1, 9]"),
    ("lambda_loss", {"gains": lambda x: x["labels"] * torch.nan}, "gains holds NaN"),
    ("lambda_loss", {"mask": "page"}, "mask is float32; expected bool"),
    ("lambda_loss", {"discount": "weights"}, "discount [1, 3]; expected [K]"),
    ("floor_log_weights", {"weight_floor": None}, "weight_floor is None; expected a number"),
]
CALLS = {
    "fuse_topk": {"scores": "scores", "weights": "weights", "k": 3},
    "rank": {"scores": "scores", "weights": "weights", "k": 3},
    "search_page": {"value": "page", "root": "labels", "k": 3},
    "topk_gain": {"scores": "scores", "weights": "samples", "gains": "gains", "k": 2, "discount": "discount"},
    "rollout": {"concentration": "alpha", "scores": "scores", "gains": "gains", "k": 2, "discount": "discount"}
    | {"num_samples": 4, "seed": 1},
    "dirichlet_sample": {"concentration": "alpha", "num_samples": 4, "seed": 1},
    "dirichlet_log_prob": {"concentration": "alpha", "log_weights": "logs"},
    "dirichlet_kl": {"concentration": "alpha", "other": "weights"},
    "dirichlet_score": {"concentration": "alpha", "log_weights": "logs"},
    "group_advantage": {"rewards": "rewards"},
    "grpo_loss": {"concentration": "alpha", "log_weights": "logs", "old_log_prob": "old"}
    | {"advantages": "advantages", "reference_concentration": "weights"},
    "lambda_loss": {"scores": "page", "gains": "labels", "mask": None, "discount": "discount"},
    "floor_log_weights": {"log_weights": "logs", "weight_floor": 0.1},
}


def call_of(name: str, changed: dict | None = None) -> dict:
    known = tensors()
    values = CALLS[name] | (changed or {})
    values = {key: known.get(v, v) if isinstance(v, str) else v for key, v in values.items()}
    return {key: v(known) if callable(v) else v for key, v in values.items()}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize(("name", "changed", "message"), REFUSED)
def test_a_bad_argument_is_named(name, changed, message, kind):
    arguments = call_of(name, changed)
    if kind == "numpy":
        arguments = {key: v.numpy() if isinstance(v, torch.Tensor) else v for key, v in arguments.items()}
    if misfit := re.fullmatch(r"(\w+) (\[.*)", message):
        message = re.escape(f"{misfit[1]} is of shape {misfit[2]}") + "$"
    refuses((TypeError, ValueError), f"^{message}", lambda: getattr(pygrade, name)(**arguments))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: np.ma.masked_array(x.numpy(), x.numpy() > 0.5), "{} is a masked array; expected one without a mask"),
        (lambda x: x.numpy().astype(x.numpy().dtype.newbyteorder(">")), r"{} is a numpy array of >\w\d; expected "),
        (lambda x: x.to_sparse(), "{} is a tensor of layout torch.sparse_coo; expected a dense one"),
        (lambda x: x.tolist(), "{} is list; expected a torch tensor or a numpy array"),
        (lambda x: x.to(torch.complex64), "{} is complex64; expected "),
    ],
    ids=["masked", "big-endian", "sparse", "list", "complex"],
)
@pytest.mark.parametrize("name", ["fuse_topk", "rank", "rollout", "dirichlet_log_prob", "grpo_loss", "lambda_loss"])
def test_a_bad_array_is_named(name, spoil, message):
    arguments = call_of(name)
    for spoiled in [key for key, value in arguments.items() if isinstance(value, torch.Tensor)]:
        with pytest.raises(TypeError, match="^" + message.format(spoiled)):
            getattr(pygrade, name)(**arguments | {spoiled: spoil(arguments[spoiled])})


@pytest.mark.parametrize("name", CALLS)
def test_none_is_refused_where_a_tensor_is_needed(name):
    arguments = call_of(name)
    for key in [key for key, value in arguments.items() if isinstance(value, torch.Tensor)]:
        with pytest.raises(TypeError, match=f"^{key} is NoneType; expected a torch tensor or a numpy array"):
            getattr(pygrade, name)(**arguments | {key: None})


def test_a_masked_mask_is_refused():
    scores, weights = tensors()["scores"].numpy(), tensors()["weights"].numpy()
    mask = np.ma.masked_array(np.ones((1, 9), bool), np.eye(1, 9, dtype=bool))
    refuses(TypeError, "mask is a masked array", pygrade.fuse_topk, scores, weights, 3, mask=mask)
