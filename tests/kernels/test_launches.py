"""What every launch function owes its caller: no wait for the device, one way to launch, scratch of bounded size."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pygrade.kernels
from pygrade.kernels import fusion
from pygrade.kernels import launch as launching

SOURCES = sorted(Path(pygrade.kernels.__path__[0]).glob("*.py"))
# What copies from the device or waits for it; a CUDA graph that captures one fails.
WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "synchronize", "equal", "is_nonzero", "unique", "masked_select"}


def calls_that_wait(source: str) -> list[str]:
    """Names of WAITS that are called outside Triton's functions, and bool(), int() and float() of what is computed."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or any("jit" in ast.unparse(d) for d in function.decorator_list):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITS:
                found.append(node.func.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("bool", "float"):
                found.append(node.func.id)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_launch_function_waits_for_the_device(path):
    assert calls_that_wait(path.read_text()) == []


def test_a_function_that_waits_is_found():
    assert calls_that_wait("def launch(x):\n    return bool(x.sum()) and x.item()\n") == ["bool", "item"]
    assert calls_that_wait("@triton.jit\ndef kernel(x):\n    return x.item()\n") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_kernels_are_launched_in_one_place(path):
    """`kernel[grid](…)` elsewhere would run on the current device instead of the tensors', or let products be fused."""
    launches = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
    ]
    assert len(launches) == (1 if path.stem == "launch" else 0)


def test_a_launch_chooses_the_device_of_its_first_argument(monkeypatch):
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: seen.append((grid, arguments, options, torch.cuda.device_of is chosen))

    class Chosen:
        def __init__(self, tensor):
            seen.append(tensor)

        def __enter__(self):
            seen.append("enter")

        def __exit__(self, *_):
            seen.append("exit")

    chosen = Chosen
    monkeypatch.setattr(torch.cuda, "device_of", chosen)
    tensor = torch.ones(1)
    launching.launch(Kernel(), (3,), tensor, 7, num_warps=2, maxnreg=128)
    options = {"enable_fp_fusion": False, "num_warps": 2, "maxnreg": 128}
    assert seen == [tensor, "enter", ((3,), (tensor, 7), options, True), "exit"]


@pytest.mark.parametrize("k", [10, 50, 128, 1024])
@pytest.mark.parametrize("tasks", [1, 8, 64])
def test_scratch_belongs_to_programs_and_not_to_lists(k, tasks, monkeypatch):
    """On a GPU of 132 multiprocessors no batch takes more than 50 MB, and small ones take less."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("P", (), {"multi_processor_count": 132}))
    options = fusion.launch_configuration(2000, tasks, 4, 32, k)
    programs = launching.resident_programs(torch.device("cuda"), options["num_warps"], options["maxnreg"])
    assert programs * options["num_warps"] * 32 * options["maxnreg"] <= 132 * 65536
    assert programs * options["LISTS"] * options["CAPACITY"] * 8 < 50e6
    for lists in (1, 8, 64):
        parts = fusion.parts_of(lists, 100_000, k)
        options = fusion.launch_configuration(100_000, tasks, 4, 1, k, parts)
        assert parts > 1 and lists * parts * options["CAPACITY"] * 8 < 50e6
    few, buffer = fusion.buffer_for(options, 2, torch.empty(1))
    assert few == 2 and buffer.shape == (2, options["LISTS"], options["CAPACITY"])


COUNT = """
import torch, pygrade
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from devtools.ptx.compile import record

def calls(batch, items, k, samples, seed):
    rows, gains, worth = 1 + torch.rand(batch, 6), torch.rand(batch, items, 2), torch.rand(k).sort(descending=True)[0]
    scores, logs, old = torch.rand(batch, items, 6), -torch.rand(batch, samples, 6), torch.rand(batch, samples)
    unit = torch.eye(16)[torch.arange(items) % 16].expand(batch, -1, -1).contiguous()
    similarity = {"embeddings": unit, "cosine": 0.5, "objective": "mmr", "trade_off": 0.5}
    pygrade.fuse_topk(scores, rows, k, "zlog")
    pygrade.fuse_topk(scores, rows, k)
    pygrade.transform_scores(scores, "zlog")
    pygrade.topk_gain(scores, logs, gains, k, worth)
    pygrade.rollout(rows, scores, gains, k, worth, samples, seed, seed)
    pygrade.search_page(gains[..., 0], None, k // 8, **similarity)
    pygrade.group_advantage(torch.rand(batch, samples, 3), torch.rand(3))
    pygrade.dirichlet_sample(rows, samples, seed, seed)
    pygrade.dirichlet_log_prob(rows.clone().requires_grad_(), logs).sum().backward()
    pygrade.grpo_loss(rows, logs, old, old, rows)
    pygrade.lambda_loss(gains[..., 0], gains[..., 1], None, worth)

backend, binaries = make_backend(GPUTarget("cuda", 90, 32)), set()
for mix in [(1, 500, 50, 32, 7), (16, 496, 48, 17, 2**40), (3, 499, 33, 30, 16), (2, 400, 64, 31, 1)]:
    for launch in record(lambda: calls(*mix)):
        bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
        binaries.add((launch.kernel.__name__, str(bind(*launch.arguments, **launch.keywords)[1:])))
print(*sorted(name for name, _ in binaries))
"""


def test_one_binary_of_a_kernel_serves_every_size():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True)
    names = (
        "gain group held_topk lambda log_prob_backward log_prob loss moments rollout sample scale search topk transform"
    )
    assert run.stdout.split() == [f"_{name}_kernel" for name in names.split()], run.stderr
