"""Times the Triton kernels on a GPU against torch eager and torch.compile.

    python -m bench --device cuda                          every op on its full shape
    python -m bench --device cuda --only rollout --quick
    TRITON_INTERPRET=1 python -m bench --device cpu        a dry run of this very script; its times mean nothing

Each op is first compared with the C++ core. Times are p20, p50 and p80 of GPU events, with the cache flushed between
runs. Also reported: the time to enqueue a call (host), the replay of a CUDA graph, GB/s over the bytes that an op must
move, and their share of the bandwidth of a large copy in the same run. NVTX ranges carry the op's name.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from bench.gpu.device_ops import OPS, SMALL, DeviceOp, Inputs, Shape, inputs, on_device, verify
from pygrade._util.files import atomic_file

FULL: Shape = {"B": 4096, "N": 1000, "T": 8, "G": 32, "k": 50, "C": 2}
SHAPES: dict[str, tuple[Shape, ...]] = {
    "fuse_topk": (FULL, FULL | {"B": 1024, "N": 2000, "k": 100}),
    "search_page": (FULL | {"B": 1024, "N": 500, "k": 20},),
}
# Targets on an H100 or H200: op, B, contender, times faster.
TARGETS = (
    ("rollout", 4096, "torch", 6.0),
    ("rollout", 4096, "torch.compile", 2.0),
    ("dirichlet_sample", 4096, "torch", 5.0),
    ("grpo_loss", 4096, "torch", 5.0),
    ("fuse_topk", 1024, "torch", 4.0),
)
GRAPH = "pygrade graph"
Run = Callable[[], Any]


@dataclass(frozen=True)
class Line:
    """One contender on one op and shape: a line of the CSV. Empty fields were not measured."""

    card: str
    op: str
    shape: str
    contender: str
    p20_us: float
    p50_us: float
    p80_us: float
    host_us: float | str
    gb_per_s: float
    share_of_copy: float
    note: str = ""


def event_times(run: Run, device: str, milliseconds: float) -> tuple[float, float, float]:
    """p20, p50 and p80 in µs: GPU events with a flushed cache, or the clock of the host in a dry run."""
    if device == "cuda":
        from triton.testing import do_bench

        low, middle, high = do_bench(run, warmup=25, rep=milliseconds, quantiles=[0.2, 0.5, 0.8])
        return low * 1e3, middle * 1e3, high * 1e3
    start = time.perf_counter()
    run()
    once = (time.perf_counter() - start) * 1e6
    return once, once, once


def host_time(run: Run, device: str, calls: int) -> float:
    """Median time of ``calls`` calls to enqueue their work, in µs."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e6)
        if device == "cuda":
            torch.cuda.synchronize()
    return statistics.median(times)


def copy_bandwidth(device: str, megabytes: int) -> float:
    """GB/s of a device-to-device copy, counting bytes read and bytes written."""
    source = torch.zeros(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    _, middle, _ = event_times(lambda: target.copy_(source), device, 200.0)
    return 2.0 * source.numel() / middle / 1e3


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


def contenders(op: DeviceOp, given: Inputs, device: str, compiled: bool) -> dict[str, Run]:
    """Ours, ours as a graph, torch eager and torch.compile, by name."""
    runs: dict[str, Run] = {"pygrade": lambda: on_device(op, given)}
    if device == "cuda" and not op.backward:
        runs[GRAPH] = lambda: None  # captured when it is timed
    runs["torch"] = lambda: op.eager(given)
    if compiled:
        runs["torch.compile"] = lambda: None
    return runs


def measured(
    op: DeviceOp, shape: Shape, device: str, card: str, copy: float, quick: bool, compiled: bool
) -> list[Line]:
    """The lines of one op on one shape. If a contender fails, its line says why."""
    given = inputs(shape, device)
    moved = 4 * op.elements(shape)
    text = " ".join(f"{letter}={shape[letter]}" for letter in op.letters)
    lines = []
    for name, run in contenders(op, given, device, compiled).items():
        try:
            if name == GRAPH:
                run = graph_of(lambda: on_device(op, given))
            elif name == "torch.compile":
                torch.compiler.reset()
                faster = torch.compile(op.eager)
                faster(given)
                run = lambda f=faster: f(given)  # noqa: E731
            with torch.cuda.nvtx.range(f"{op.name} {name}") if device == "cuda" else nullcontext():
                run()
                low, middle, high = event_times(run, device, 20.0 if quick else 200.0)
                host: float | str = "" if name == GRAPH else round(host_time(run, device, 5 if quick else 50), 2)
            speed = moved / middle / 1e3
            times = (round(low, 2), round(middle, 2), round(high, 2))
            lines.append(Line(card, op.name, text, name, *times, host, round(speed, 1), round(speed / copy, 3)))
        except Exception as error:  # such as out of memory, or an operator that the compiler lacks
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            nan = float("nan")
            lines.append(Line(card, op.name, text, name, nan, nan, nan, "", nan, nan, note))
    return lines


def table(lines: list[Line]) -> str:
    """The lines as text, with how many times faster ours is."""
    ours = {(line.op, line.shape): line.p50_us for line in lines if line.contender == "pygrade"}
    text = [f"{'op':22}{'shape':34}{'contender':16}{'p50 µs':>12}{'host µs':>10}{'GB/s':>9}{'of copy':>9}{'ours ×':>8}"]
    for line in lines:
        times = line.p50_us / ours[line.op, line.shape]
        text.append(
            f"{line.op:22}{line.shape:34}{line.contender:16}{line.p50_us:12.2f}{line.host_us:>10}{line.gb_per_s:9.1f}"
            f"{line.share_of_copy:9.3f}{times:8.2f}  {line.note}"
        )
    return "\n".join(text)


def targets(lines: list[Line]) -> str:
    """Each target with what was measured, a line each."""
    text = []
    for op, batch, contender, target in TARGETS:
        chosen = {x.contender: x.p50_us for x in lines if x.op == op and x.shape.startswith(f"B={batch} ")}
        if "pygrade" in chosen and contender in chosen:
            ratio = chosen[contender] / chosen["pygrade"]
            verdict = "reached" if ratio >= target else "missed"
            text.append(f"{op} B={batch}: {ratio:.2f} × {contender}; target {target:g} ×: {verdict}")
    return "\n".join(text)


def write(lines: list[Line], path: Path) -> None:
    """Write the CSV, replaced as a whole."""
    with atomic_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)])
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"), help="cpu: a dry run in the interpreter")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small shapes and short runs")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="directory of the CSV")
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
    path = options.out / f"cuda-{name}.csv"
    lines: list[Line] = []
    for op in ops:
        for shape in (SMALL,) if device == "cpu" or options.quick else SHAPES.get(op.name, (FULL,)):
            lines += measured(op, shape, device, card, copy, options.quick, not options.no_compile and device == "cuda")
            print(f"{op.name}: {lines[-1].shape}", file=sys.stderr, flush=True)
            if device == "cuda":
                torch.cuda.empty_cache()
                if not options.quick:
                    write(lines, path)  # after each op, so that an interrupted run leaves its results
    print(table(lines))
    print(targets(lines))
    if path.exists() and device == "cuda":
        print(f"results: {path}")
    return 1 if any(line.note and line.contender.startswith("pygrade") for line in lines) else 0
