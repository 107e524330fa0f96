"""Times the Triton kernels on a GPU against torch eager, torch.compile, FlashInfer and Liger.

    PROG --device cuda                          every op on its full shape
    PROG --device cuda --only rollout --quick
    PROG --device cuda --dtype bfloat16         scores in bfloat16, of the ops that read them
    PROG --device cuda --proton FILE            launches of each op in Proton; nothing is timed
    PROG --device cuda --ncu FILE               the command of Nsight Compute for each op, which is run if ncu is there
    TRITON_INTERPRET=1 PROG --device cpu        a dry run of this very script; its times mean nothing

Each op is first compared with the C++ core. Times are p20, p50 and p80 of GPU events, with the L2 cache flushed between
runs, and warm. Also reported: the time to enqueue a call, and the replay of a CUDA graph. NVTX ranges name the ops.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import PROG, roofline
from ..cpu.harness import OURS, Report, Row, Timing, optional, progress, quantiles
from ..cpu.machine import PACKAGES, versions
from ..report import results
from . import profilers
from .device_ops import EQUAL, OPS, PEERS, SMALL, DeviceOp, Inputs, Run, Shape, inputs, on_device, tensors, verify

FULL: Shape = {"B": 4096, "N": 1000, "T": 8, "G": 32, "k": 50, "C": 2}
SHAPES: dict[str, tuple[Shape, ...]] = {
    "fuse_topk": (FULL, FULL | {"B": 1024, "N": 2000, "k": 100}),
    "search_page": (FULL | {"B": 1024, "N": 500, "k": 20},),
}
SAME = ("torch", "torch.compile", *EQUAL)  # as ours
GRAPH, ENQUEUED, WARM = f"{OURS} graph", f"{OURS}, to enqueue", f"{OURS}, L2 warm"
# float32 and float64 multiply-adds a clock and multiprocessor by compute capability (CUDA programming guide, throughput
# of arithmetic instructions); of special functions it is 16 for all.
LANES = {(7, 0): (64, 32), (7, 5): (64, 2), (8, 0): (64, 32), (8, 6): (128, 2), (8, 9): (128, 2), (9, 0): (128, 64)}
LANES |= {(10, 0): (128, 64), (12, 0): (128, 2)}


def event_times(run: Run, device: str, milliseconds: float) -> Timing:
    """Times by GPU events with a flushed cache, or one by the clock of the host in a dry run."""
    if device == "cuda":
        from triton.testing import do_bench

        return quantiles([ms * 1e3 for ms in do_bench(run, warmup=25, rep=milliseconds, return_mode="all")])
    return host_times(run, device, 1)


def warm_times(run: Run, milliseconds: float, once: float) -> Timing:
    """Times by GPU events of calls of about ``once`` µs back to back, at least the time to enqueue one."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(max(8, min(1000, int(1e3 * milliseconds / once))))]
    for event in events:  # one ends a call and begins the next
        event.record()
        run()
    torch.cuda.synchronize()
    return quantiles([1e3 * before.elapsed_time(after) for before, after in pairwise(events)])


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


def of_properties(card: Any) -> dict[str, float]:
    """Limits of a card in G/s at its highest clocks (in kHz), but for pipes whose width is unknown here."""
    clocks = 1e-6 * card.clock_rate * card.multi_processor_count
    lanes = zip(("fp32", "fp64"), LANES.get((card.major, card.minor), ()), strict=False)
    pipes = {name: 2 * clocks * count for name, count in lanes} | {"special": 16 * clocks}
    return {"memory": 2e-6 * card.memory_clock_rate * card.memory_bus_width / 8} | pipes  # two transfers a clock


def limits() -> dict[str, float]:
    """Limits of the current card: by its properties, and "L2" by copies of a fourth of it."""
    card = torch.cuda.get_device_properties()
    source, copies = torch.zeros(card.L2_cache_size // 4, dtype=torch.uint8, device="cuda"), 20
    target = torch.empty_like(source)
    replay = graph_of(lambda: [target.copy_(source) for _ in range(copies)])
    moved = 2e-3 * copies * source.numel()
    return {**of_properties(card), "L2": moved / warm_times(replay, 50.0, 100.0).p50}


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


def contenders(
    op: DeviceOp, given: Inputs, device: str, compiled: bool, skipped: dict[str, str]
) -> dict[str, Callable[[], Run]]:
    """By name what makes a contender: ours, ours as a graph, torch eager, torch.compile and the peers of the op."""

    def faster() -> Run:
        torch.compiler.reset()
        function = torch.compile(op.eager)
        return lambda: function(given)

    made: dict[str, Callable[[], Run]] = {OURS: lambda: lambda: on_device(op, given)}
    if device == "cuda" and not op.backward:
        made[GRAPH] = lambda: graph_of(lambda: on_device(op, given))
    made["torch"] = lambda: lambda: op.eager(given)
    if op.name in PEERS:
        name, path, package, make = PEERS[op.name]
        if (module := optional(path)) is None:
            skipped[name] = f"not installed: pip install {package}"
        else:
            made[name] = partial(make, module, given)
    return made | ({"torch.compile": faster} if compiled else {})


def measured(op: DeviceOp, shape: Shape, device: str, quick: bool, compiled: bool, report: Report, dtype: str) -> Row:
    """One op on one shape. A peer that fails or has other values than ours is left out, and the notes say why."""
    given, timings, notes = inputs(shape, device, dtype=getattr(torch, dtype)), {}, []
    milliseconds = 20.0 if quick else 200.0
    for name, make in contenders(op, given, device, compiled, report.skipped).items():
        try:
            with torch.cuda.nvtx.range(f"{op.name} {name}") if device == "cuda" else nullcontext():
                run = make()
                result = run()
                if name in EQUAL:
                    torch.testing.assert_close(tensors(result)[0], on_device(op, given)[0], rtol=1e-3, atol=1e-3)
                timings[name] = event_times(run, device, milliseconds)
                if name == OURS:
                    if device == "cuda":
                        timings[WARM] = warm_times(run, milliseconds, timings[name].p50)
                    timings[ENQUEUED] = host_times(run, device, 5 if quick else 50)
        except Exception as error:  # such as out of memory, or an operator that the compiler lacks
            if name.startswith(OURS):
                raise
            notes.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
    same = tuple(name for name in SAME if name in timings)
    beside = tuple(name for name in timings if name not in SAME and not name.startswith(OURS))
    sizes = op.sizes(shape) | ({} if dtype == "float32" else {"dtype": dtype})
    row = Row(op.name, sizes, timings, same, beside, timings[OURS], notes="; ".join(notes))
    roofline.add(row, report.limits)
    return row


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__.replace("PROG", PROG), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"), help="cpu: a dry run in the interpreter")
    parser.add_argument("--only", default="", metavar="OP", help="an op, or those whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small shapes and short runs; writes no file")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the scores")
    parser.add_argument("--proton", type=Path, metavar="FILE", help="profile launches of each op with Proton")
    parser.add_argument("--ncu", type=Path, metavar="FILE", help="profile launches of each op with Nsight Compute")
    parser.add_argument("--launches", type=int, default=0, metavar="COUNT", help="launch each op, in ranges; no timing")
    parser.add_argument("--out", type=Path, default=results.FULL / "gpu", help="directory of the results")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and torch sees no GPU")
    if device == "cpu" and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        parser.error("--device cpu interprets: set TRITON_INTERPRET=1")
    card = torch.cuda.get_device_name() if device == "cuda" else "interpreter (not a GPU)"
    dtype = getattr(torch, options.dtype)
    known = [op for op in OPS if options.dtype == "float32" or {"N", "T"} <= set(op.letters)]  # those that read scores
    ops = [op for op in known if op.name == options.only] or [op for op in known if options.only in op.name]
    if not ops:
        parser.error(f"--only is {options.only!r}; expected part of one of {', '.join(op.name for op in known)}")
    small = device == "cpu" or options.quick
    if options.ncu is not None:
        further = ["--dtype", options.dtype, *["--quick"] * options.quick]
        return profilers.ncu([op.name for op in ops], options.ncu, further, device)

    for op in ops:
        verify(op, inputs(SMALL, device, dtype=dtype))
    print(f"{len(ops)} ops agree with the C++ core on {card}", flush=True)
    if options.launches or options.proton is not None:
        shapes = {op: tuple((SMALL if small else SHAPES.get(op.name, (FULL,))[0]).items()) for op in ops}
        given = {shape: inputs(dict(shape), device, dtype=dtype) for shape in set(shapes.values())}
        calls = {op.name: partial(on_device, op, given[shapes[op]]) for op in ops}
        profilers.launches(calls, device, options.launches or 10, options.proton)
        return 0
    copy = copy_bandwidth(device, 1024 if device == "cuda" else 8)
    print(f"{card}, torch {torch.__version__}: a copy moves {copy:.0f} GB/s", flush=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in card.lower()).strip("-")
    report = Report("gpu", {"processor": card, "isa": name} | versions(PACKAGES))
    report.limits = {"copy": copy, **(limits() if device == "cuda" else {})}
    report.machine |= {"clocks": profilers.CLOCKS, "clocks_before": profilers.clocks()}
    compiled = not options.no_compile and device == "cuda"
    for op in ops:
        for shape in (SMALL,) if small else SHAPES.get(op.name, (FULL,)):
            report.rows.append(measured(op, shape, device, options.quick, compiled, report, options.dtype))
            progress(f"{op.name}: {report.rows[-1].label} {report.rows[-1].notes}")
            report.machine["clocks_after"] = profilers.clocks()
            if device == "cuda":
                torch.cuda.empty_cache()
                if not options.quick:
                    results.write(report, options.out)  # after each op, so that an interrupted run leaves its results
    print(results.table(report), roofline.table(report), sep="\n\n")
    return 0
