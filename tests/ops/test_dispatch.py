"""Which calls take the fast path and which torch's dispatcher, and that both give the same."""

import sys
import threading

import numpy as np
import pytest
import torch

import pygrade
from pygrade import _core
from pygrade.ops import advantage
from pygrade.ops.dispatch import use_backend
from pygrade.ops.fusion import TRANSFORMS
from pygrade.reference.tolerances import assert_close, same_bits
from tests.ops.test_arguments import OPS as ALL
from tests.ops.test_arguments import Watch, parts, tensors
from tests.refusals import refuses

OPS = {
    "transform_scores": lambda s, w, **options: pygrade.transform_scores(s, "zlog", **options),
    "fuse_scores": lambda s, w, **options: pygrade.fuse_scores(s, w, **options),
    "fuse_topk": lambda s, w, **options: pygrade.fuse_topk(s, w, 4, **options),
    "rank": lambda s, w, **options: pygrade.rank(s, w, 4, **options),
}
TRAINING = {
    "dirichlet_log_prob": lambda s, w: pygrade.dirichlet_log_prob(w, s),
    "dirichlet_score": lambda s, w: pygrade.dirichlet_score(w, s, s[:, :, 0] + 0, 0.1),
    "group_advantage": lambda s, w: pygrade.group_advantage(s, w[0], "component", True, 1),
    "grpo_loss": lambda s, w: pygrade.grpo_loss(
        w,
        s,
        s[:, :, 0] + 0,
        s[:, :, 1] + 0,
        w.detach() if isinstance(w, torch.Tensor) else w,
        clip_high=0.3,
        entropy_coefficient=1,
    ),
}
EVERY = {**OPS, **TRAINING}


@pytest.fixture
def taken(monkeypatch):
    """Whether the fast path took each call, in order."""
    calls: list[bool] = []

    def watch(function):
        def watched(*arguments):
            result = function(*arguments)
            calls.append(result is not None)
            return result

        return watched

    for name in (*EVERY, "dirichlet_log_prob_backward"):
        monkeypatch.setattr(_core, f"{name}_fast_path", watch(getattr(_core, f"{name}_fast_path")))
    return calls


def arguments(kind="torch"):
    generator = torch.Generator().manual_seed(0)
    made = torch.rand(3, 30, 5, generator=generator), torch.rand(3, 5, generator=generator)
    return tuple(part.numpy() for part in made) if kind == "numpy" else made


def parts_of(result):
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("name", EVERY)
def test_the_fast_path_takes_a_plain_call_and_gives_what_the_op_gives(taken, name, kind):
    found = EVERY[name](*arguments(kind))
    with use_backend("cpu"):
        again = EVERY[name](*arguments(kind))
    with Watch():
        registered = EVERY[name](*arguments())
    assert taken == [True, True, False]
    assert type(found) is type(again) is (type(registered) if isinstance(found, tuple) else type(arguments(kind)[0]))
    assert not isinstance(found, tuple) or {type(part) for part in found} == {type(arguments(kind)[0])}
    for one, two, three in zip(parts_of(found), parts_of(again), parts_of(registered), strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()
        assert one.dtype == three.dtype and one.shape == three.shape


@pytest.mark.parametrize("name", sorted(set(ALL) - {"format_penalty"}))
def test_dispatch_modes_see_every_op_and_its_result_is_the_same(name):
    plain = ALL[name](**tensors())
    with Watch() as watch:
        watched = ALL[name](**tensors())
    assert watch.saw(name)
    assert all(same_bits(one, two) for one, two in zip(parts(plain), parts(watched), strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_other_backends_fake_tensors_and_transforms_do_not_take_the_fast_path(taken, name):
    scores, weights = arguments()
    with use_backend("reference"):
        EVERY[name](scores, weights)
        EVERY[name](*arguments("numpy"))
    with torch._subclasses.FakeTensorMode():
        EVERY[name](torch.rand(3, 30, 5), torch.rand(3, 5))
    result = torch.func.functionalize(lambda s, w: EVERY[name](s, w))(scores, weights)
    assert taken == [False] * 4
    for one, two in zip(parts_of(result), parts_of(EVERY[name](scores, weights)), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("name", ["dirichlet_log_prob", "grpo_loss"])
def test_gradients_by_the_fast_path_are_those_of_the_op(taken, name):
    scores, weights = arguments()

    def differentiate(scores):
        leaf = weights.clone().requires_grad_()
        value = parts(TRAINING[name](scores, leaf))[0]
        (gradient,) = torch.autograd.grad(value.square().sum(), leaf, create_graph=True)
        return value, gradient

    value, gradient = differentiate(scores)
    assert taken == [False, True] + [True] * (name == "dirichlet_log_prob")  # then forward and backward by autograd
    with Watch():
        for one, two in zip(differentiate(scores), (value, gradient), strict=True):
            assert same_bits(one.detach(), two.detach())
    with pytest.raises(RuntimeError, match="differentiated once"):
        gradient.sum().backward()
    scores.requires_grad_()
    with pytest.warns(UserWarning, match="requires a gradient"):
        value, _ = differentiate(scores)
    with pytest.raises(RuntimeError, match="not have been used"):  # nothing flows to what gets no gradient
        torch.autograd.grad(value.sum(), scores)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clip": -1}, "clip is -1; expected a number ≥ 0"),
        ({"clip_high": "x"}, "clip_high is 'x'; expected a number"),
        ({"log_ratio_clamp": 100}, r"log_ratio_clamp is 100; expected a number in \(0, 80\]"),
        ({"weight_floor": 1}, r"weight_floor is 1; expected a number in \[0, 1\)"),
        ({"num_threads": 0}, "num_threads is 0; expected at least 1"),
    ],
)
def test_training_ops_word_errors_as_without_the_fast_path(taken, options, message):
    scores, weights = arguments()
    rows = scores.sum(-1)
    refuses((TypeError, ValueError), message, pygrade.grpo_loss, weights, scores, rows, rows, weights, **options)
    weights[1, 2] = -1
    refuses(
        ValueError, r"concentration\[1, 2\] is -1; expected a finite number > 0", TRAINING["grpo_loss"], scores, weights
    )
    assert not any(taken)


@pytest.mark.parametrize("name", ["transform_scores", "fuse_scores"])
def test_gradients_do_not_take_the_fast_path(taken, name):
    scores, weights = arguments()
    scores.requires_grad_()
    assert OPS[name](scores, weights).requires_grad
    with torch.no_grad():
        assert not OPS[name](scores, weights).requires_grad
    assert taken == [False, True]


class Broken:
    def __init__(self, error):
        self.error = error

    def __index__(self):
        raise self.error

    __float__ = __index__


def test_the_fast_path_raises_errors_that_it_does_not_expect():
    scores, weights = arguments()
    options = (1e-7, 1e-3, 1.0, None, "item-major")
    topk = (pygrade.TopK, scores, weights)
    for call in (
        lambda bad: _core.fuse_topk_fast_path(*topk, bad, "identity", None, *options, None, None),
        lambda bad: _core.fuse_scores_fast_path(scores, weights, "log", bad, *options[1:], None),
        lambda bad: _core.transform_scores_fast_path(scores, "log", *options, bad),
        lambda bad: _core.rank_fast_path(*topk, bad, "identity", *[None] * 7, *options, None, None),
    ):
        with pytest.raises(RuntimeError, match="broken"):
            call(Broken(RuntimeError("broken")))
        with pytest.raises(MemoryError):
            call(Broken(MemoryError()))
        with pytest.raises(ValueError, match="of its own"):  # not what the fast path says of an argument
            call(Broken(ValueError("of its own")))
        assert call(Broken(TypeError())) is None  # an argument that does not fit: the Python layer words the error


@pytest.mark.parametrize("name", OPS)
def test_what_the_core_refuses_is_raised_at_once(taken, name):
    scores, weights = arguments("numpy")
    offsets = np.array([0, 40, 30, 90])
    refuses(ValueError, "offsets", lambda: OPS[name](scores.reshape(90, 5), weights, offsets=offsets))
    assert taken == []


def test_compiled_calls_are_traced(taken):
    scores, weights = arguments()

    @torch.compile(fullgraph=True, backend="eager")
    def step(scores, weights, values, indices):
        return (
            pygrade.fuse_topk(scores, weights, 4, out=(values, indices)).values
            + pygrade.fuse_scores(scores, weights).mean()
        )

    out = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.int32)
    result = step(scores, weights, *out)
    assert not taken
    assert torch.equal(
        result, pygrade.fuse_topk(scores, weights, 4).values + pygrade.fuse_scores(scores, weights).mean()
    )
    assert torch.equal(out[1], pygrade.fuse_topk(scores, weights, 4).indices)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("fast", [True, False])
def test_fuse_topk_fills_out(taken, kind, samples, fast):
    scores, weights = arguments(kind)
    if samples is not None:
        weights = (torch.stack if kind == "torch" else np.stack)([weights] * samples, 1)
    expected = pygrade.fuse_topk(scores, weights, 4)
    out = type(expected)(*(part * 0 + 7 for part in expected))
    if not fast:  # strides that are to be copied
        scores = scores.swapaxes(1, 2).copy().swapaxes(1, 2) if kind == "numpy" else scores.mT.contiguous().mT
    found = pygrade.fuse_topk(scores, weights, 4, out=out)
    pair = pygrade.fuse_topk(scores, weights, 4, out=tuple(out))
    assert taken == [True, fast, fast]
    assert not fast or found is out
    assert pair.values is out.values and pair.indices is out.indices
    for one, two in zip(parts_of(found), parts_of(expected), strict=True):
        assert one.tobytes() == two.tobytes()


def test_out_that_does_not_fit_is_named_and_left_alone():
    scores, weights = arguments()
    good = torch.full((3, 4), 7.0), torch.full((3, 4), 7, dtype=torch.int32)
    read_only = np.full((3, 4), 7, np.float32)
    read_only.flags.writeable = False
    for out, message in [
        ((good[0].double(), good[1]), r"out\[0\] is float64; expected float32"),
        ((good[0], good[1][:1]), r"out\[1\] is of shape \[1, 4\]; expected \[B, k\] = \[3, 4\]"),
        ((good[0].clone().requires_grad_(), good[1]), r"out\[0\] is not contiguous, not writable or requires"),
        ((read_only, good[1]), r"out\[0\] is not contiguous, not writable"),
        ((torch.zeros(4, 3).T, good[1]), r"out\[0\] is not contiguous"),
        (good[0], "out is not a pair"),
    ]:
        for op in (pygrade.fuse_topk, pygrade.rank):
            refuses((TypeError, ValueError), message, op, scores, weights, 4, out=out)
    refuses(ValueError, "negative", pygrade.fuse_topk, scores - 1, weights, 4, "log", out=good)
    assert (good[0] == 7).all() and (good[1] == 7).all() and (read_only == 7).all()


def test_the_fast_path_reads_options_as_the_op_does(taken):
    scores, weights = arguments("numpy")
    scores = scores.swapaxes(1, 2).copy()
    mask = np.arange(90).reshape(3, 30) % 3 > 0
    slope = np.linspace(0.5, 2, 5).astype(np.float32)
    for options in (
        {"layout": "task-major", "transform": "zlog", "beta": 0.1, "epsilon": 0.5},
        {"layout": "task-major", "transform": "log1p", "slope": slope, "mask": mask},
        {"layout": "task-major", "transform": "log1p", "slope": 2, "num_threads": 3},
    ):
        found = pygrade.fuse_topk(scores, weights, np.int64(4), **options)
        with use_backend("cpu"):
            given = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in options.items()}
            slow = pygrade.fuse_topk(
                torch.from_numpy(scores), torch.nn.Parameter(torch.from_numpy(weights)), 4, **given
            )
        for one, two in zip(parts_of(found), (slow.values.detach(), slow.indices), strict=True):
            assert one.tobytes() == two.numpy().tobytes()
    assert taken == [True, False] * 3


def test_caps_may_be_a_list(taken):
    scores, weights = arguments("numpy")
    groups = (np.arange(90, dtype=np.int32) % 4).reshape(3, 30, 1)
    listed = pygrade.rank(scores, weights, 9, groups=groups, caps=[2])
    array = pygrade.rank(scores, weights, 9, groups=groups, caps=np.array([2], np.int32))
    one = pygrade.rank(scores[1], weights[1], 9, groups=groups[1], caps=(2,))
    assert taken == [True] * 3 and (listed.indices[:, 8] == -1).all()
    assert np.array_equal(listed.indices, array.indices) and np.array_equal(one.indices, listed.indices[1])


def test_many_threads_take_the_fast_path():
    rng = np.random.default_rng(0)
    cases = [(rng.random((2, n, 4), np.float32), rng.random((2, 4), np.float32)) for n in (5, 700, 20_000)]
    expected = [pygrade.fuse_topk(*case, 9) for case in cases]
    wrong = []

    def work(kind):
        for _ in range(30):
            for case, best in zip(cases, expected, strict=True):
                given = case if kind else tuple(map(torch.from_numpy, case))
                found = pygrade.fuse_topk(*given, 9)
                if not np.array_equal(np.asarray(found.indices), best.indices):
                    wrong.append(case)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_threads_go_on_while_the_core_works():
    """A thread that never gives the interpreter up by itself calls until another thread runs; counted, not timed."""
    scores, weights = np.random.default_rng(0).random((1, 20_000, 8), np.float32), np.ones((1, 8), np.float32)
    most, calls = 10_000, 0
    ready, ran = threading.Lock(), threading.Event()
    ready.acquire()

    def work():
        nonlocal calls
        ready.release()
        while calls < most and not ran.is_set():
            pygrade.fuse_topk(scores, weights, 10, "zscore", num_threads=1)
            calls += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        ready.acquire()
        ran.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert calls < most


# --- gradients -------------------------------------------------------------------------------------------------------

GRADIENTS = {
    "dirichlet_entropy": lambda a, **_: pygrade.dirichlet_entropy(a),
    "dirichlet_kl": lambda a, alpha, **_: pygrade.dirichlet_kl(a, alpha + 0.5),
    "dirichlet_log_prob": lambda a, logs, **_: pygrade.dirichlet_log_prob(a, logs).sum(1),
    "grpo_loss": lambda a, alpha, logs, old, advantages, **_: (
        pygrade.grpo_loss(a, logs, old, advantages, alpha + 0.5).loss
    ),
    "lambda_loss": lambda a, alpha, discount, **_: pygrade.lambda_loss(a, alpha, None, discount),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_gradients_in_python_agree_with_those_of_the_dispatcher(name, backend):
    known = tensors()
    argument = (known["alpha"] + 0.1).requires_grad_()
    with Watch() as watch:
        value = GRADIENTS[name](argument, **known)
    assert watch.saw(name)
    upstream = torch.linspace(-1.0, 2.0, value.numel()).view(value.shape)
    (gradient,) = torch.autograd.grad(value, argument, upstream)
    with use_backend(backend), Watch() as watch:
        other = GRADIENTS[name](argument, **known)
        (expected,) = torch.autograd.grad(other, argument, upstream)
    assert not watch.saw(name)
    assert_close(value.detach(), other.detach().double())
    assert_close(gradient, expected.double())


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_differentiating_twice_is_an_error(name, backend):
    argument = (tensors()["alpha"] + 0.1).requires_grad_()
    with use_backend(backend):
        value = GRADIENTS[name](argument, **tensors())
        (gradient,) = torch.autograd.grad(value.square().sum(), argument, create_graph=True)
        refusal = f"{name} can be differentiated once in float32; expected float64"
        refuses(RuntimeError, refusal, gradient.sum().backward)
        slope = torch.func.grad(lambda given: GRADIENTS[name](given, **tensors()).sum())
        refuses(RuntimeError, refusal, torch.func.jacrev(slope), argument.detach())


@pytest.mark.parametrize("name", GRADIENTS)
def test_no_gradient_if_none_is_wanted(name):
    argument = (tensors()["alpha"] + 0.1).requires_grad_()
    with torch.no_grad():
        assert not GRADIENTS[name](argument, **tensors()).requires_grad
    assert not GRADIENTS[name](argument.detach(), **tensors()).requires_grad


def test_only_the_loss_of_grpo_carries_a_gradient():
    known = tensors()
    argument = (known["alpha"] + 0.1).requires_grad_()
    names = ("logs", "old", "advantages", "weights")
    result = pygrade.grpo_loss(argument, *(known[name] for name in names))
    assert [name for name, part in result._asdict().items() if part.requires_grad] == ["loss"]
    (slope,) = torch.autograd.grad(result.loss.sum(), argument)
    assert same_bits(slope, result.gradient)


# --- the ops by their names in torch ---------------------------------------------------------------------------------


def test_the_ops_of_torch_take_defaults_and_codes():
    scores, weights = arguments()
    expected = pygrade.fuse_topk(scores, weights, 4)
    for found in (
        torch.ops.pygrade.fuse_topk(scores, weights, 4),
        torch.ops.pygrade.fuse_topk(scores, weights, k=4, num_threads=2),
    ):
        assert all(same_bits(one, two) for one, two in zip(found, expected, strict=True))
    code = TRANSFORMS.index("zlog")
    assert same_bits(torch.ops.pygrade.transform_scores(scores, code), pygrade.transform_scores(scores, "zlog"))
    leaf = weights.clone().requires_grad_()
    torch.ops.pygrade.fuse_scores(scores, leaf).sum().backward()
    assert_close(leaf.grad, scores.sum(1).double())
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = mode.from_tensor(scores), mode.from_tensor(weights)
        assert torch.ops.pygrade.fuse_topk(*fakes, 4)[1].shape == (3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(3, 30, 5, dtype=torch.float64)}, "scores is of another dtype; expected float32 or"),
        ({"scores": torch.zeros(30, 5)}, r"scores has 2 dimensions; expected \[B, N, T\], or \[M, T\] with offsets"),
        ({"weights": torch.zeros(3, 4)}, r"weights is of shape \[3, 4\]; expected \[3, 5\]"),
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"transform": 6}, "transform is 6; expected"),
        ({"mask": torch.ones(3, 30)}, "mask is of another dtype; expected bool"),
        ({"beta": -1.0}, "beta is -1.0+; expected a number ≥ 0"),
        ({"slope": torch.ones(4)}, r"slope is of shape \[4\]; expected \[5\]"),
        (
            {"offsets": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(90, 5)},
            r"offsets is empty; expected \[B \+",
        ),
        ({"num_threads": -1}, "num_threads is -1; expected at least 1"),
    ],
)
def test_the_ops_of_torch_check_what_the_core_relies_on(change, message):
    scores, weights = arguments()
    with pytest.raises((ValueError, RuntimeError), match=message):  # the latter in newer versions of torch
        torch.ops.pygrade.fuse_topk(**{"scores": scores, "weights": weights, "k": 4} | change)


def test_what_the_core_refuses_is_a_value_error_in_every_torch(monkeypatch):
    """Newer versions of torch raise RuntimeError for every C++ exception."""

    def refuse(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(advantage._op, "registered", refuse)
    for text, kind in (("rewards is 1; expected 2", ValueError), ("out of memory", RuntimeError)):
        with Watch(), pytest.raises(kind, match=text) as caught:  # past the fast path
            pygrade.group_advantage(torch.ones(1, 2, 1))
        assert type(caught.value) is kind


def test_the_ops_of_torch_read_tensors_in_any_order_in_memory():
    scores, weights = arguments()
    expected = pygrade.fuse_topk(scores, weights, 4)
    for given in (scores.mT.contiguous().mT, scores.permute(1, 0, 2).contiguous().permute(1, 0, 2)):
        for vectors in (weights, weights.mT.contiguous().mT):
            found = torch.ops.pygrade.fuse_topk(given, vectors, 4)
            assert all(same_bits(one, two) for one, two in zip(found, expected, strict=True))
        for code in range(len(TRANSFORMS)):
            torch.library.opcheck(
                torch.ops.pygrade.transform_scores.default, (given, code), test_utils="test_faketensor"
            )
