"""Times the Triton kernels on a GPU against torch eager and torch.compile.

    python -m bench --device cuda                          every op on its full shape
    python -m bench --device cuda --only rollout --quick
    TRITON_INTERPRET=1 python -m bench --device cpu        a dry run of this very script; its times mean nothing

Each op is first compared with the C++ core. Times are p20, p50 and p80 of GPU events with the cache flushed between
runs. Beside them stand the time to enqueue a call (host), the replay of a CUDA graph, GB/s over the bytes that an op
must move, and their share of the bandwidth of a large copy in the same run. Ranges are marked for NVTX.
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
SHAPES: dict[str, tuple[Shape, ...]] = {"fuse_topk": (FULL, FULL | {"B": 1024, "N": 2000, "k": 100})}
# What we are after on an H100 or H200: op, B, the contender, times faster.
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
    """One contender on one op and shape, as the CSV has it. Empty fields were not measured."""

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
    """p20, p50 and p80 in µs: GPU events with a flushed cache, or the host's clock in a dry run."""
    if device == "cuda":
        from triton.testing import do_bench

        found = do_bench(run, warmup=25, rep=milliseconds, quantiles=[0.2, 0.5, 0.8])
        return found[0] * 1e3, found[1] * 1e3, found[2] * 1e3
    start = time.perf_counter()
    run()
    once = (time.perf_counter() - start) * 1e6
    return once, once, once


def host_time(run: Run, device: str, calls: int) -> float:
    """µs that a call takes to enqueue its work, the median of ``calls``."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e6)
        if device == "cuda":
            torch.cuda.synchronize()
    return statistics.median(times)


def copy_bandwidth(device: str, megabytes: int) -> float:
    """GB/s of a device-to-device copy, bytes read and written."""
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
    """Ours, as a graph, torch eager and torch.compile, by name."""
    found: dict[str, Run] = {"pygrade": lambda: on_device(op, given)}
    if device == "cuda" and not op.backward:
        found[GRAPH] = lambda: None  # captured when its turn comes
    found["torch"] = lambda: op.eager(given)
    if compiled:
        found["torch.compile"] = lambda: None
    return found


def measured(
    op: DeviceOp, shape: Shape, device: str, card: str, copy: float, quick: bool, compiled: bool
) -> list[Line]:
    """The lines of one op on one shape. A contender that fails is a line that says why."""
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
        except Exception as error:  # out of memory, an operator that a compiler lacks: the rest goes on
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            nan = float("nan")
            lines.append(Line(card, op.name, text, name, nan, nan, nan, "", nan, nan, note))
    return lines


def table(lines: list[Line]) -> str:
    """The lines as text, with ours as many times faster than each other contender."""
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
    """Each target with what was measured."""
    text = []
    for op, batch, contender, wanted in TARGETS:
        chosen = {x.contender: x.p50_us for x in lines if x.op == op and x.shape.startswith(f"B={batch} ")}
        if "pygrade" in chosen and contender in chosen:
            found = chosen[contender] / chosen["pygrade"]
            verdict = "reached" if found >= wanted else "missed"
            text.append(f"{op} B={batch}: {found:.2f} × {contender}; target {wanted:g} ×: {verdict}")
    return "\n".join(text)


def write(lines: list[Line], path: Path) -> None:
    """The CSV, replaced as a whole."""
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
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--profile", type=Path, help="also write a trace of one call of each op here (Chrome's format)")
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
                    write(lines, path)  # after each op: a run that is cut short leaves what it has
    print(table(lines))
    print(targets(lines))
    if path.exists() and device == "cuda":
        print(f"results: {path}")
    if options.profile is not None:
        profile(ops, device, options.profile)
    return 1 if any(line.note and line.contender.startswith("pygrade") for line in lines) else 0


def profile(ops: list[DeviceOp], device: str, path: Path) -> None:
    """One call of each op under torch's profiler."""
    given = inputs(FULL if device == "cuda" else SMALL, device)
    with torch.profiler.profile() as profiler:
        for op in ops:
            with torch.profiler.record_function(op.name):
                on_device(op, given)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
