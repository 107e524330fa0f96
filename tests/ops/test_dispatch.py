"""Which calls the core takes at once, and that it gives what the long way gives."""

import threading
import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pygrade
from pygrade import _core
from pygrade.ops.dispatch import use_backend

OPS = {
    "transform_scores": lambda s, w, **options: pygrade.transform_scores(s, "zlog", **options),
    "fuse_scores": lambda s, w, **options: pygrade.fuse_scores(s, w, **options),
    "fuse_topk": lambda s, w, **options: pygrade.fuse_topk(s, w, 4, **options),
    "rank": lambda s, w, **options: pygrade.rank(s, w, 4, **options),
}


@pytest.fixture
def taken(monkeypatch):
    """Whether the core took each call at once, in order."""
    calls: list[bool] = []

    def watch(function):
        def watched(*arguments):
            result = function(*arguments)
            calls.append(result is not None)
            return result

        return watched

    for name in OPS:
        monkeypatch.setattr(_core, f"{name}_at_once", watch(getattr(_core, f"{name}_at_once")))
    return calls


def arguments(kind="torch"):
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(3, 30, 5, generator=generator), torch.rand(3, 5, generator=generator)
    return tuple(part.numpy() for part in parts) if kind == "numpy" else parts


def parts_of(result):
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("name", OPS)
def test_a_plain_call_is_taken_and_gives_what_the_long_way_gives(taken, name, kind):
    found = OPS[name](*arguments(kind))
    with use_backend("cpu"):
        again = OPS[name](*arguments(kind))
    with Watch():
        long = OPS[name](*arguments())
    assert taken == [True, True, False]
    assert type(found) is type(again) is (pygrade.TopK if name in ("fuse_topk", "rank") else type(arguments(kind)[0]))
    for one, two, three in zip(parts_of(found), parts_of(again), parts_of(long), strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()
        assert one.dtype == three.dtype and one.shape == three.shape


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPS)
def test_dispatch_modes_see_the_op(taken, name):
    with Watch() as watch:
        OPS[name](*arguments())
    assert f"pygrade.{name}.default" in watch.seen and taken == [False]


@pytest.mark.parametrize("name", OPS)
def test_other_backends_fake_tensors_and_transforms_take_the_long_way(taken, name):
    scores, weights = arguments()
    with use_backend("reference"):
        OPS[name](scores, weights)
        OPS[name](*arguments("numpy"))
    with torch._subclasses.FakeTensorMode():
        OPS[name](torch.rand(3, 30, 5), torch.rand(3, 5))
    result = torch.func.functionalize(lambda s, w: OPS[name](s, w))(scores, weights)
    assert taken == [False] * 4
    for one, two in zip(parts_of(result), parts_of(OPS[name](scores, weights)), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("name", ["transform_scores", "fuse_scores"])
def test_gradients_take_the_long_way(taken, name):
    scores, weights = arguments()
    scores.requires_grad_()
    assert OPS[name](scores, weights).requires_grad
    with torch.no_grad():
        assert not OPS[name](scores, weights).requires_grad
    assert taken == [False, True]


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
@pytest.mark.parametrize("long_way", [False, True])
def test_fuse_topk_fills_out(taken, kind, samples, long_way):
    scores, weights = arguments(kind)
    if samples is not None:
        weights = (torch.stack if kind == "torch" else np.stack)([weights] * samples, 1)
    expected = pygrade.fuse_topk(scores, weights, 4)
    out = type(expected)(*(part * 0 + 7 for part in expected))
    with use_backend("auto" if not long_way else "cpu"):
        given = scores.swapaxes(1, 2).copy().swapaxes(1, 2) if long_way and kind == "numpy" else scores
        given = scores.mT.contiguous().mT if long_way and kind == "torch" else given
        found = pygrade.fuse_topk(given, weights, 4, out=out)
        pair = pygrade.fuse_topk(given, weights, 4, out=tuple(out))
    assert taken == [True, not long_way, not long_way]
    assert long_way or found is out
    assert pair.values is out.values and pair.indices is out.indices
    for one, two in zip(parts_of(found), parts_of(expected), strict=True):
        assert one.tobytes() == two.tobytes()


def test_out_that_does_not_fit_is_named_and_left_alone():
    scores, weights = arguments()
    good = torch.full((3, 4), 7.0), torch.full((3, 4), 7, dtype=torch.int32)
    read_only = np.full((3, 4), 7, np.float32)
    read_only.flags.writeable = False
    for out, message in [
        ((good[0].double(), good[1]), r"out\[0\] is float64; want float32"),
        ((good[0], good[1][:1]), r"out\[1\] is of shape \[1, 4\]; want \[3, 4\]"),
        ((good[0].clone().requires_grad_(), good[1]), r"out\[0\] is not contiguous, not writable or requires"),
        ((read_only, good[1]), r"out\[0\] is not contiguous, not writable"),
        ((torch.zeros(4, 3).T, good[1]), r"out\[0\] is not contiguous"),
        (good[0], "out is not a pair"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            pygrade.fuse_topk(scores, weights, 4, out=out)
    with pytest.raises(ValueError, match="negative"):
        pygrade.fuse_topk(scores - 1, weights, 4, "log", out=good)
    assert (good[0] == 7).all() and (good[1] == 7).all() and (read_only == 7).all()


def test_options_are_read_as_the_long_way_reads_them(taken):
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
            long = pygrade.fuse_topk(
                torch.from_numpy(scores), torch.nn.Parameter(torch.from_numpy(weights)), 4, **given
            )
        for one, two in zip(parts_of(found), (long.values.detach(), long.indices), strict=True):
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


def test_many_threads_call_at_once():
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
    scores, weights = np.random.default_rng(0).random((1, 2_000_000, 8), np.float32), np.ones((1, 8), np.float32)
    begin = time.perf_counter()
    pygrade.fuse_topk(scores, weights, 10, "rank", num_threads=1)
    alone = time.perf_counter() - begin
    done = threading.Event()
    ticks = []

    def work():
        pygrade.fuse_topk(scores, weights, 10, "rank", num_threads=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    thread.join()
    longest = max(np.diff(ticks), default=alone)
    assert longest < 0.5 * alone, f"another thread waited {longest:.3f} s in a call of {alone:.3f} s"
