"""Times the Triton kernels on a GPU against torch eager and torch.compile.

    python -m bench --device cuda                          every op on its full shape
    python -m bench --device cuda --only rollout --quick
    TRITON_INTERPRET=1 python -m bench --device cpu        a dry run of this very script; its times mean nothing

Each op is first compared with the C++ core. Times are p20, p50 and p80 of GPU events, with the cache flushed between
runs. Also reported: the time to enqueue a call, the replay of a CUDA graph, and as bound the time of a large copy, in
the same run, of as many bytes as an op must move. NVTX ranges carry the op's name.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.cpu.harness import OURS, Report, Row, Timing, progress, quantiles
from bench.cpu.machine import PACKAGES, versions
from bench.gpu.device_ops import OPS, SMALL, DeviceOp, Inputs, Shape, inputs, on_device, verify
from bench.report import results

FULL: Shape = {"B": 4096, "N": 1000, "T": 8, "G": 32, "k": 50, "C": 2}
SHAPES: dict[str, tuple[Shape, ...]] = {
    "fuse_topk": (FULL, FULL | {"B": 1024, "N": 2000, "k": 100}),
    "search_page": (FULL | {"B": 1024, "N": 500, "k": 20},),
}
PEERS = ("torch", "torch.compile")
GRAPH, ENQUEUED = f"{OURS} graph", f"{OURS}, to enqueue"
Run = Callable[[], Any]


def event_times(run: Run, device: str, milliseconds: float) -> Timing:
    """Times by GPU events with a flushed cache, or one by the clock of the host in a dry run."""
    if device == "cuda":
        from triton.testing import do_bench

        return quantiles([ms * 1e3 for ms in do_bench(run, warmup=25, rep=milliseconds, return_mode="all")])
    return host_times(run, device, 1)


def host_times(run: Run, device: str, calls: int) -> Timing:
    """Times of ``calls`` calls to enqueue their work."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e6)
        if device == "cuda":
            torch.cuda.synchronize()
    return quantiles(times)


def copy_bandwidth(device: str, megabytes: int) -> float:
    """GB/s of a device-to-device copy, counting bytes read and bytes written."""
    source = torch.zeros(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() / event_times(lambda: target.copy_(source), device, 200.0).p50 / 1e3


def graph_of(run: Run) -> Run:
    """The replay of a CUDA graph of ``run``."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def contenders(op: DeviceOp, given: Inputs, device: str, compiled: bool) -> dict[str, Callable[[], Run]]:
    """By name what makes a contender: ours, ours as a graph, torch eager and torch.compile."""

    def faster() -> Run:
        torch.compiler.reset()
        function = torch.compile(op.eager)
        return lambda: function(given)

    made: dict[str, Callable[[], Run]] = {OURS: lambda: lambda: on_device(op, given)}
    if device == "cuda" and not op.backward:
        made[GRAPH] = lambda: graph_of(lambda: on_device(op, given))
    made["torch"] = lambda: lambda: op.eager(given)
    return made | ({"torch.compile": faster} if compiled else {})


def measured(op: DeviceOp, shape: Shape, device: str, copy: float, quick: bool, compiled: bool) -> Row:
    """One op on one shape. A peer that fails is left out, and the notes say why."""
    given, timings, notes = inputs(shape, device), {}, []
    for name, make in contenders(op, given, device, compiled).items():
        try:
            with torch.cuda.nvtx.range(f"{op.name} {name}") if device == "cuda" else nullcontext():
                run = make()
                run()
                timings[name] = event_times(run, device, 20.0 if quick else 200.0)
                if name == OURS:
                    timings[ENQUEUED] = host_times(run, device, 5 if quick else 50)
        except Exception as error:  # such as out of memory, or an operator that the compiler lacks
            if name not in PEERS:
                raise
            notes.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
    microseconds = 4 * op.elements(shape) / copy / 1e3
    bound = Timing(microseconds, microseconds, microseconds, 1)
    peers = tuple(name for name in PEERS if name in timings)
    sizes = {letter: shape[letter] for letter in op.letters}
    return Row(op.name, sizes, timings, peers, (), timings[OURS], bound, "copy", "; ".join(notes))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"), help="cpu: a dry run in the interpreter")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small shapes and short runs; writes no file")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=results.FULL / "gpu", help="directory of the results")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and torch sees no GPU")
    if device == "cpu" and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        parser.error("--device cpu interprets: set TRITON_INTERPRET=1")
    card = torch.cuda.get_device_name() if device == "cuda" else "interpreter (not a GPU)"
    ops = [op for op in OPS if options.only in op.name]
    if not ops:
        parser.error(f"--only is {options.only!r}; want part of one of {', '.join(op.name for op in OPS)}")

    for op in ops:
        verify(op, inputs(SMALL, device))
    print(f"{len(ops)} ops agree with the C++ core on {card}", flush=True)
    copy = copy_bandwidth(device, 1024 if device == "cuda" else 8)
    print(f"{card}, torch {torch.__version__}: a copy moves {copy:.0f} GB/s", flush=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in card.lower()).strip("-")
    report = Report("gpu", {"processor": card, "isa": name, "copy_gb_per_s": f"{copy:.0f}"} | versions(PACKAGES))
    compiled = not options.no_compile and device == "cuda"
    for op in ops:
        for shape in (SMALL,) if device == "cpu" or options.quick else SHAPES.get(op.name, (FULL,)):
            report.rows.append(measured(op, shape, device, copy, options.quick, compiled))
            progress(f"{op.name}: {report.rows[-1].label} {report.rows[-1].notes}")
            if device == "cuda":
                torch.cuda.empty_cache()
                if not options.quick:
                    results.write(report, options.out)  # after each op, so that an interrupted run leaves its results
    print(results.table(report))
    return 0
