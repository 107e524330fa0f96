"""Arguments of every op: default devices, odd arrays, numpy's numbers, and values that are refused by name."""

from functools import partial

import numpy as np
import pytest
import torch

import pygrade
from devtools.tolerances import same_bits
from pygrade.ops import dispatch


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rand = partial(torch.rand, generator=generator)
    alpha = rand(1, 3) + 0.5
    drawn = pygrade.dirichlet_sample(alpha, 4, seed=1)
    return {
        "scores": rand(1, 9, 3),
        "weights": rand(1, 3),
        "samples": rand(1, 4, 3),
        "gains": rand(1, 9, 2),
        "discount": torch.tensor([1.0, 0.5]),
        "alpha": alpha,
        "logs": drawn.log_weights,
        "old": drawn.log_prob,
        "advantages": rand(1, 4) - 0.5,
        "rewards": rand(1, 4, 2),
        "page": rand(1, 9),
        "labels": rand(1, 9),
        "groups": torch.zeros(1, 9, 1, dtype=torch.int32),
        "bounds": torch.tensor([[0.1, 0.2, 0.1], [0.5, 0.6, 0.4]]),
    }


OPS = {
    "transform_scores": lambda scores, **_: pygrade.transform_scores(scores, "log1p", slope=2.0),
    "fuse_scores": lambda scores, weights, **_: pygrade.fuse_scores(scores, weights, "zscore"),
    "fuse_topk": lambda scores, weights, **_: pygrade.fuse_topk(scores, weights, 4, "rank"),
    "rank": lambda scores, weights, groups, **_: pygrade.rank(scores, weights, 4, groups=groups, caps=[2]),
    "topk_gain": lambda scores, samples, gains, discount, **_: pygrade.topk_gain(scores, samples, gains, 2, discount),
    "dirichlet_sample": lambda alpha, **_: pygrade.dirichlet_sample(alpha, 4, seed=2),
    "dirichlet_log_prob": lambda alpha, logs, **_: pygrade.dirichlet_log_prob(alpha, logs),
    "dirichlet_score": lambda alpha, logs, **_: pygrade.dirichlet_score(alpha, logs),
    "dirichlet_entropy": lambda alpha, **_: pygrade.dirichlet_entropy(alpha),
    "dirichlet_kl": lambda alpha, weights, **_: pygrade.dirichlet_kl(alpha, weights),
    "floor_log_weights": lambda logs, **_: pygrade.floor_log_weights(logs, 0.01),
    "group_advantage": lambda rewards, **_: pygrade.group_advantage(rewards),
    "grpo_loss": lambda alpha, logs, old, advantages, weights, **_: pygrade.grpo_loss(
        alpha, logs, old, advantages, weights
    ),
    "lambda_loss": lambda page, labels, discount, **_: pygrade.lambda_loss(page, labels, None, discount),
    "rollout": lambda alpha, scores, gains, discount, bounds, **_: pygrade.rollout(
        alpha, scores, gains, 2, discount, 4, seed=3, weight_bounds=bounds
    ),
    "format_penalty": lambda weights, bounds, **_: pygrade.format_penalty(weights, bounds),
}
DIFFERENTIABLE = {
    "transform_scores": "scores",
    "fuse_scores": "scores",
    "dirichlet_log_prob": "alpha",
    "dirichlet_entropy": "alpha",
    "dirichlet_kl": "alpha",
    "grpo_loss": "alpha",
    "lambda_loss": "page",
    "format_penalty": "weights",
}


def parts(result) -> list[torch.Tensor]:
    found = result if isinstance(result, tuple) else (result,)
    return [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in found]


def assert_equal(result, expected) -> None:
    assert all(same_bits(one, two) for one, two in zip(parts(result), parts(expected), strict=True))


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


@pytest.mark.parametrize("name", OPS)
def test_strides_of_axes_of_one_element_do_not_matter(name):
    arguments = tensors()
    arrays = {key: value.numpy()[::-1] if len(value) == 1 else value.numpy() for key, value in arguments.items()}
    assert_equal(OPS[name](**arrays), OPS[name](**arguments))


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


REFUSED = [
    ("fuse_topk", {"k": 3.7}, "k is 3.7; want an integer"),
    ("fuse_topk", {"k": 2**63}, r"k is 9223372036854775808; want at most 2\^31 - 1"),
    ("fuse_topk", {"k": 0}, r"k is 0; want at least 1"),
    ("fuse_topk", {"k": "3"}, "k is '3'; want an integer"),
    ("fuse_topk", {"num_threads": 2**40}, r"num_threads is 1099511627776; want at most 1048576"),
    ("fuse_topk", {"num_threads": 1.5}, r"num_threads is 1.5; want an integer"),
    ("fuse_topk", {"beta": "1", "transform": "log"}, "beta is '1'; want a number"),
    ("fuse_topk", {"slope": [1.0], "transform": "log1p"}, r"slope is \[1.0\]; want a number"),
    ("rank", {"k": 3.7}, "k is 3.7; want an integer"),
    ("rank", {"k": 2**62}, "k is 4611686018427387904; want at most"),
    ("rank", {"groups": "groups", "caps": (1.7,)}, r"caps\[0\] is 1.7; want an integer"),
    ("rank", {"groups": "groups", "caps": [2**40]}, r"caps\[0\] is 1099511627776; want at most 2\^31 - 1"),
    ("rank", {"groups": "groups", "caps": [-2]}, r"caps\[0\] is -2; want at least -1"),
    ("topk_gain", {"k": 2.0}, "k is 2.0; want an integer"),
    ("topk_gain", {"num_threads": 0}, "num_threads is 0; want at least 1"),
    ("rollout", {"num_samples": 2.5}, "num_samples is 2.5; want an integer"),
    ("rollout", {"k": None}, "k is None; want an integer"),
    ("dirichlet_sample", {"num_samples": 2.5}, "num_samples is 2.5; want an integer"),
    ("dirichlet_sample", {"num_samples": (1 << 24) + 1}, r"num_samples is 16777217; want at most 2\^24"),
    ("dirichlet_sample", {"seed": 1.5}, "seed is 1.5; want an integer"),
    ("dirichlet_sample", {"seed": 2**64}, r"seed is 18446744073709551616; want at most 2\^64 - 1"),
    ("dirichlet_sample", {"offset": -1}, r"offset is -1; want at least 0"),
    ("dirichlet_log_prob", {"weight_floor": "0"}, "weight_floor is '0'; want a number"),
    ("dirichlet_log_prob", {"num_threads": 2**31}, "num_threads is 2147483648; want at most"),
    ("dirichlet_score", {"weight_floor": 1}, r"weight_floor is 1; want a number in \[0, 1\)"),
    ("group_advantage", {"clip": "5"}, "clip is '5'; want a number"),
    ("group_advantage", {"num_threads": 2**40}, "num_threads is 1099511627776; want at most"),
    ("grpo_loss", {"kl_coefficient": None}, "kl_coefficient is None; want a number"),
    ("lambda_loss", {"temperature": "1"}, "temperature is '1'; want a number"),
    ("floor_log_weights", {"weight_floor": None}, "weight_floor is None; want a number"),
]
CALLS = {
    "fuse_topk": {"scores": "scores", "weights": "weights", "k": 3},
    "rank": {"scores": "scores", "weights": "weights", "k": 3},
    "topk_gain": {"scores": "scores", "weights": "samples", "gains": "gains", "k": 2, "discount": "discount"},
    "rollout": {"concentration": "alpha", "scores": "scores", "gains": "gains", "k": 2, "discount": "discount"}
    | {"num_samples": 4, "seed": 1},
    "dirichlet_sample": {"concentration": "alpha", "num_samples": 4, "seed": 1},
    "dirichlet_log_prob": {"concentration": "alpha", "log_weights": "logs"},
    "dirichlet_score": {"concentration": "alpha", "log_weights": "logs"},
    "group_advantage": {"rewards": "rewards"},
    "grpo_loss": {"concentration": "alpha", "log_weights": "logs", "old_log_prob": "old"}
    | {"advantages": "advantages", "reference_concentration": "weights"},
    "lambda_loss": {"scores": "page", "gains": "labels", "mask": None, "discount": "discount"},
    "floor_log_weights": {"log_weights": "logs", "weight_floor": 0.1},
}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize(("name", "changed", "message"), REFUSED)
def test_a_bad_number_is_named(name, changed, message, kind):
    known = tensors()
    arguments = {key: known.get(v, v) if isinstance(v, str) else v for key, v in CALLS[name].items()}
    arguments |= {key: known["groups"] if v == "groups" else v for key, v in changed.items()}
    if kind == "numpy":
        arguments = {key: v.numpy() if isinstance(v, torch.Tensor) else v for key, v in arguments.items()}
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        getattr(pygrade, name)(**arguments)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: np.ma.masked_array(x.numpy(), x.numpy() > 0.5), "{} is a masked array; want one without a mask"),
        (lambda x: x.numpy().astype(x.numpy().dtype.newbyteorder(">")), r"{} is a numpy array of >\w\d; want "),
        (lambda x: x.to_sparse(), "{} is a tensor of layout torch.sparse_coo; want a dense one"),
        (lambda x: x.tolist(), "{} is list; want a torch tensor or a numpy array"),
        (lambda x: x.to(torch.complex64), "{} is complex64; want "),
    ],
    ids=["masked", "big-endian", "sparse", "list", "complex"],
)
@pytest.mark.parametrize("name", ["fuse_topk", "rank", "rollout", "dirichlet_log_prob", "grpo_loss", "lambda_loss"])
def test_a_bad_array_is_named(name, spoil, message):
    known = tensors()
    arguments = {key: known.get(v, v) if isinstance(v, str) else v for key, v in CALLS[name].items()}
    for spoiled in [key for key, value in arguments.items() if isinstance(value, torch.Tensor)]:
        with pytest.raises(TypeError, match="^" + message.format(spoiled)):
            getattr(pygrade, name)(**arguments | {spoiled: spoil(arguments[spoiled])})


@pytest.mark.parametrize("name", CALLS)
def test_none_is_refused_where_a_tensor_is_needed(name):
    known = tensors()
    arguments = {key: known.get(v, v) if isinstance(v, str) else v for key, v in CALLS[name].items()}
    for key in [key for key, value in arguments.items() if isinstance(value, torch.Tensor)]:
        with pytest.raises(TypeError, match=f"^{key} is NoneType; want a torch tensor or a numpy array"):
            getattr(pygrade, name)(**arguments | {key: None})


def test_a_masked_mask_is_refused():
    scores, weights = tensors()["scores"].numpy(), tensors()["weights"].numpy()
    mask = np.ma.masked_array(np.ones((1, 9), bool), np.eye(1, 9, dtype=bool))
    with pytest.raises(TypeError, match="mask is a masked array"):
        pygrade.fuse_topk(scores, weights, 3, mask=mask)
