"""Every op where kernels run: on a GPU with ``--device cuda``, else in the interpreter, on fewer and smaller cases."""

import os
import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton

import pygrade
from bench.cpu.harness import Report
from bench.gpu import profilers, timing
from bench.gpu.device_ops import OPS, PEERS, SMALL, exact_parts, inputs, on_device, to, verify
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.kernels.adapter import adapted

MEDIUM = {"B": 64, "N": 777, "T": 7, "G": 16, "k": 40, "C": 3}
NAMES = [op.name for op in OPS]
BITS = [op for op in OPS if op.exact]
gpu = pytest.mark.skipif("config.getoption('--device') == 'cpu'", reason="needs a GPU: --device cuda")


@contextmanager
def warps(count: int | None):
    """Inside the block every kernel is launched with ``count`` warps instead of its own choice."""
    from triton.runtime.jit import JITFunction

    original = JITFunction.run

    def run(self, *arguments, grid, warmup, **keywords):
        return original(self, *arguments, grid=grid, warmup=warmup, **keywords | {"num_warps": count or 4})

    if count is not None:
        JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original


def results(op, given):
    return [part.clone() for part in on_device(op, given)]


@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_agrees_with_the_core(op, device):
    true_fma = device == "cuda" or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
    assert verify(op, inputs(SMALL, device), true_fma) > 0
    if device == "cuda":
        verify(op, inputs(MEDIUM, device, seed=3))
        verify(op, inputs({**MEDIUM, "T": 1, "G": 1, "k": 1, "C": 1}, device, seed=4))


@pytest.mark.parametrize("op", BITS, ids=[op.name for op in BITS])
def test_repeats_are_identical_whatever_the_launch(op, device):
    repeats = 100 if device == "cuda" else 2
    given = inputs(MEDIUM if device == "cuda" else SMALL, device)
    first = exact_parts(op, results(op, given))
    for number in range(repeats):
        with warps((None, 1, 2, 4, 8)[number % 5] if device == "cuda" else None):
            again = exact_parts(op, results(op, given))
        for mine, theirs in zip(again, first, strict=True):
            assert same_bits(mine, theirs), f"repeat {number}"


@gpu
@pytest.mark.parametrize("op", [op for op in OPS if not op.backward], ids=lambda op: op.name)
def test_a_cuda_graph_replays_on_new_inputs(op):
    given, other = inputs(MEDIUM, "cuda", seed=1), inputs(MEDIUM, "cuda", seed=2)
    other["seed"] = given["seed"]  # captured with the launch
    on_device(op, given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = on_device(op, given)
    expected = results(op, other)
    for name, value in other.items():
        if isinstance(value, torch.Tensor):
            given[name].copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    for mine, theirs in zip(captured, expected, strict=True):
        assert same_bits(mine, theirs)


@gpu
@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_runs_on_the_current_stream(op):
    """Inputs come late on a side stream: a kernel on another stream would read what was there before."""
    given, other = inputs(MEDIUM, "cuda", seed=1), inputs(MEDIUM, "cuda", seed=2)
    other["seed"] = given["seed"]
    expected = results(op, other)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for name, value in other.items():
            if isinstance(value, torch.Tensor):
                given[name].copy_(value)
        found = results(op, given)
    stream.synchronize()
    for mine, theirs in zip(found, expected, strict=True):
        assert same_bits(mine, theirs)


@gpu
@pytest.mark.parametrize("op", OPS, ids=NAMES)
def test_never_waits_for_the_gpu(op):
    given = inputs(MEDIUM, "cuda")
    on_device(op, given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_device(op, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_a_rollout_needs_little_memory_beside_its_results():
    given = inputs({"B": 4096, "N": 1000, "T": 8, "G": 32, "k": 50, "C": 2}, "cuda")
    op = next(op for op in OPS if op.name == "rollout")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    size = sum(part.numel() * part.element_size() for part in on_device(op, given))
    assert torch.cuda.max_memory_allocated() - before < size + (64 << 20)


@gpu
def test_ops_compile_whole_on_the_gpu():
    given = inputs(SMALL, "cuda")

    def step(scores: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        drawn = pygrade.dirichlet_sample(alpha, 5, 3).weights
        return pygrade.topk_gain(scores * 2.0, drawn, given["gains"], 9, given["discount"]) + 1.0

    compiled = torch.compile(step, fullgraph=True)
    arguments = given["scores"], given["concentration"]
    assert_close(compiled(*arguments).cpu(), step(*arguments).cpu().double())


@gpu
def test_bad_rows_give_nan_and_validate_names_them():
    alpha = torch.ones(3, 2, device="cuda")
    alpha[1, 1] = -1.0
    drawn = pygrade.dirichlet_sample(alpha, 4, 0).weights.cpu()
    assert torch.isnan(drawn[1]).all() and torch.isfinite(drawn[[0, 2]]).all()
    with pytest.raises(ValueError, match=r"concentration\[1, 1\] is -1"):
        pygrade.dirichlet_sample(alpha, 4, 0, validate=True)


@gpu
def test_gradients_on_the_gpu_are_those_of_the_core():
    given = inputs(MEDIUM, "cuda")
    gradients = []
    for device in ("cuda", "cpu"):
        here = to(given, device)
        scores, weights = (here[name].detach().requires_grad_() for name in ("scores", "weights"))
        alpha = here["concentration"].detach().requires_grad_()
        value = pygrade.fuse_scores(scores, weights, "zlog").square().mean()
        value = value + pygrade.dirichlet_log_prob(alpha, here["log_weights"], 1e-4).mean()
        value = value + pygrade.dirichlet_entropy(alpha).mean() + pygrade.dirichlet_kl(alpha, here["reference"]).mean()
        gradients.append([g.cpu() for g in torch.autograd.grad(value, (scores, weights, alpha))])
    for mine, theirs in zip(*gradients, strict=True):
        assert_close(mine, theirs.double())


def test_the_adapter_returns_results_and_updates_outputs():
    def launch(x, out, *, scale):
        assert x.data_ptr() != given.data_ptr()  # moved, here to a copy
        out.copy_(x * scale)
        return x + 1.0, out

    given, out = torch.ones(3), torch.zeros(3)
    first, second = adapted(launch, "cpu")(given, out, scale=2.0)
    assert out.tolist() == second.tolist() == [2.0, 2.0, 2.0] and first.tolist() == [2.0, 2.0, 2.0]


def test_the_bench_of_the_gpu_runs_dry(capsys, device, tmp_path):
    assert timing.main(["--device", device, "--only", "entropy", "--quick", "--no-compile"]) == 0
    text = capsys.readouterr().out
    assert "1 ops agree with the C++ core" in text and "dirichlet_entropy" in text
    few = ["--device", device, "--only", "fuse_scores", "--dtype", "bfloat16"]
    assert timing.main([*few, "--quick", "--no-compile"]) == 0
    text = capsys.readouterr().out
    assert text.count("dtype=bfloat16") == 2 and "copy %" in text  # in both tables
    assert timing.main([*few, "--quick", "--launches", "2", "--proton", str(tmp_path / "trace")]) == 0
    if device == "cpu":
        assert timing.main([*few, "--ncu", str(tmp_path / "report")]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert "--nvtx-include 'fuse_scores pygrade/' --kernel-name" in line and "/report-fuse_scores " in line
        assert "--only fuse_scores --launches 10 --dtype bfloat16   # not run" in line and not list(tmp_path.iterdir())
    wrong_type = ["--device", device, "--dtype", "bfloat16", "--only", "entropy"]
    for wrong in (["--device", "tpu"], ["--device", device, "--only", "nothing"], wrong_type):
        with pytest.raises(SystemExit):
            timing.main(wrong)


def test_a_peer_that_fails_is_left_out_and_ours_is_not(device):
    def fail(_):
        raise NotImplementedError("no such operator")

    op = next(op for op in OPS if op.name == "dirichlet_entropy")
    rest = (SMALL, device, True, False, Report("gpu", {}, limits={"copy": 1.0}), "float32")
    row = timing.measured(replace(op, eager=fail), *rest)
    assert row.best_peer is None and row.notes == "torch: NotImplementedError: no such operator"
    assert row.work["bytes"] == 4 * SMALL["B"] * (SMALL["T"] + 1) and row.shares["copy"] > 0
    with pytest.raises(NotImplementedError):
        timing.measured(replace(op, ours=fail), *rest)


@pytest.mark.slow
def test_peers_are_timed_where_installed_and_else_skipped_with_their_package(monkeypatch, device):
    def loss(logits, old, reference, tokens, advantages, **settings):
        return (old - logits[:, :-1].log_softmax(-1).gather(2, tokens[..., None])[..., 0]) * advantages[:, None], None

    def timed():
        rest = (SMALL, device, True, False, report := Report("gpu", {}), "float32")
        rows = [timing.measured(op, *rest) for op in OPS if op.name in PEERS]
        return {name for row in rows for name in (*row.peers, *row.beside)} - {"torch"}, report.skipped

    installed = {}
    monkeypatch.setattr("bench.gpu.timing.optional", installed.get)
    names = {name for name, *_ in PEERS.values()}
    assert timed() == (set(), {name: f"not installed: pip install {pip}" for name, _, pip, _ in PEERS.values()})
    installed["flashinfer.sampling"] = SimpleNamespace(sampling_from_probs=lambda weights: weights.multinomial(1))
    installed["liger_kernel.transformers.grpo_loss"] = SimpleNamespace(triton_grpo_loss=loss)
    installed["flashinfer"] = SimpleNamespace(top_k=lambda values, k, sorted: values.topk(k))
    assert timed() == (names, {})
    installed["flashinfer"].top_k = lambda values, k, sorted: (-values).topk(k)
    assert timed() == (names - {"FlashInfer top_k"}, {})  # it has other values


def test_profilers_see_our_kernels_alone(monkeypatch):
    text = "".join(path.read_text() for path in (Path(__file__).parents[2] / "kernels").glob("*.py"))
    seen, ours = [], re.compile(profilers.KERNELS.removeprefix("regex:"))
    launched = re.findall(r"\blaunch\(\s*(_\w+)", text)
    assert len(launched) > 12 and all(map(ours.search, launched)) and not ours.search("vectorized_elementwise_kernel")
    for part in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, part, partial(seen.append, part))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda.nvtx, "range", lambda name: seen.append(name) or nullcontext())
    proton = SimpleNamespace(start=lambda *a, **k: seen.append((*a, k)) or 7, finalize=seen.append)
    proton.scope = torch.cuda.nvtx.range
    monkeypatch.setattr("importlib.import_module", {"triton.profiler": proton}.get)
    profilers.launches({"rollout": partial(seen.append, "run")}, "cuda", 2, Path("trace"))
    inside = ["start", "rollout pygrade", "rollout", "run", "run", "stop"]
    assert seen == [("trace", {"hook": "triton"}), "run", *inside, 7]


def test_clocks_and_limits_of_a_card(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho $*\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    card = SimpleNamespace(uuid="5e", clock_rate=1_000_000, multi_processor_count=100, memory_clock_rate=1_000_000)
    card.memory_bus_width, card.major, card.minor = 1024, 9, 0
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: card)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert profilers.clocks() == f"--id=GPU-5e --query-gpu={profilers.CLOCKS} --format=csv,noheader"
    assert timing.of_properties(card) == {"memory": 256.0, "fp32": 25600.0, "fp64": 12800.0, "special": 1600.0}
    card.major = 99
    assert {*timing.of_properties(card)} == {"memory", "special"}


def test_the_backend_of_a_gpu_tensor_is_triton(device):
    assert dispatch.backend(torch.zeros(1, device=device)) == ("triton" if device == "cuda" else "cpu")
