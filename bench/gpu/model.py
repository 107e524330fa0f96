"""Predicted times of the ops on GPUs, from the instructions that their compiled kernels execute. Nothing is measured.

    python -m bench.gpu.model                 predicted times of the bench's shapes on an A100, H100 and B200
    python -m bench.gpu.model --only rollout --write

Each op is executed on a few requests (`devtools.ptx`), and its counts are scaled to the batch. The longest counts of:

- **issue**, **float32**, **integer**, **float64**, **memory**: machine instructions over what the pipes take per clock,
- **DRAM**: the sectors that are read or written, once each, over the bandwidth,
- **chain**: an in-order timeline of each program with assumed latencies, over the programs that are resident; at least
  that of one program.

Rates are published; what ptxas makes of the PTX is a table, latencies are assumed. So each time has a range, from
`SLOWEST` to `FASTEST` assumptions at once; the table is scaled by the instructions that the kernel's binary really has.
Not modeled, and so in no range: caches, launches, stalls of memory beyond a latency, instructions that are executed
more often than others and that the table counts wrong.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench.gpu.resources import Resources
from devtools.ptx import Launched, Options, emulated, execute
from devtools.ptx.program import Program
from pygrade._util.files import atomic_file

RESULTS = Path(__file__).parents[1] / "results" / "gpu-model.json"
PAGE = Path(__file__).parents[2] / "docs" / "GPU.md"
PIPES = ("float32", "integer", "float64", "memory", "special")


@dataclass(frozen=True)
class Gpu:
    """Published: multiprocessors, GHz, GB/s, and warp instructions that each pipe of one takes per clock."""

    arch: str
    multiprocessors: int
    clock: float
    bandwidth: float
    float32: float = 4
    integer: float = 2
    float64: float = 2
    memory: float = 1
    special: float = 0.5
    issue: float = 4
    shared_bytes: int = 227 * 1024


GPUS = {
    "A100": Gpu("sm_80", 108, 1.41, 2039, float32=2, float64=1, shared_bytes=163 * 1024),
    "H100": Gpu("sm_90", 132, 1.755, 3350),
    "B200": Gpu("sm_100", 148, 1.85, 8000),
}


@dataclass(frozen=True)
class Assumptions:
    """What is assumed beside the published rates.

    ``clock`` and ``bandwidth`` are shares of the published ones; ``load`` is the latency of global memory in cycles,
    ``latency`` a factor of all others; ``binary``: pipes take the table's instructions times those of the binary over
    the table's, if that is fewer (-1) or more (1); ``overlap``: DRAM works at the same time as the multiprocessors.
    """

    clock: float = 1.0
    bandwidth: float = 1.0
    load: int = 300
    latency: float = 1.0
    binary: int = 0
    overlap: bool = True


TYPICAL = Assumptions()
FASTEST = Assumptions(clock=1.1, load=200, latency=0.8, binary=-1)  # boost; loads from L2
SLOWEST = Assumptions(clock=0.8, bandwidth=0.75, load=800, latency=1.3, binary=1, overlap=False)  # loads under load


@dataclass(frozen=True)
class Cost:
    """Of a PTX instruction: pipe, machine instructions, cycles until the next issues and until the result is there."""

    pipe: str
    slots: float
    issue: int
    latency: int


def cost(mnemonic: str) -> Cost:
    """64-bit integers take two machine instructions, divisions a routine, copies none."""
    root, *parts = mnemonic.split(".")
    last = parts[-1] if parts else ""
    wide = last in ("s64", "u64", "b64", "f64")
    if root == "mov" or mnemonic in ("cvt.u32.u64", "cvt.u64.u32") or mnemonic.startswith("ld.param"):
        return Cost("integer", 0, 0, 0)
    if root in ("ld", "st"):
        latency = {"ld.global": 300, "ld.shared": 28}.get(f"{root}.{parts[0].split(':')[0]}", 1)
        return Cost("memory", 1, 1, latency)
    if root in ("ldmatrix", "stmatrix", "shfl", "redux"):
        slots, issue, latency = {"shfl": (1, 2, 24), "redux": (2, 2, 20)}.get(root, (1, 1, 30))
        return Cost("memory", slots, issue, latency)
    if root in ("vote", "popc", "clz"):
        return Cost("special", 1, 2, 16)
    if root in ("bar", "bra", "ret"):
        return Cost("integer", 1, 4 if root != "bar" else 2 if "warp" in parts else 20, 1)
    if root in ("div", "rem", "sqrt", "rcp"):
        if "approx" in parts:
            return Cost("special", 1, 4, 40)
        return {"f32": Cost("float32", 9, 12, 45), "f64": Cost("float64", 10, 30, 150)}.get(
            last, Cost("integer", 18, 30, 70)
        )
    if last == "f64" and root in ("add", "sub", "mul", "fma", "min", "max", "setp"):
        return Cost("float64", 2 if root in ("min", "max") else 1, 2, 12)
    if last in ("f32", "f32x2") and root in ("add", "sub", "mul", "fma"):
        return Cost("float32", 2 if last == "f32x2" else 1, 1, 4)
    if root == "cvt":
        floats = [part for part in parts if part[0] in "fb"]
        return (
            Cost("special", 1, 4, 14) if floats and len(floats) < 3 and "f16" not in parts else Cost("integer", 1, 2, 6)
        )
    if root in ("mul", "mad"):
        return (
            Cost("float32", 4, 8, 10) if wide and "wide" not in parts else Cost("float32", 2, 2, 5)
        )  # at half the rate
    if wide:
        return Cost("integer", 4 if root in ("min", "max") else 2, 4, 6)
    return Cost("integer", 1, 2, 5)


def costs_of(program: Program, assumed: Assumptions = TYPICAL) -> NDArray[np.uint16]:
    """Issue cycles and latency of each instruction, for the emulator's timeline."""
    costs = np.array([(c.issue, c.latency) for c in map(cost, program.mnemonics)], np.float64)
    costs[:, 1] *= assumed.latency
    costs[[name.startswith("ld.global") for name in program.mnemonics], 1] = assumed.load
    return costs.round().astype(np.uint16)


@dataclass(frozen=True)
class Work:
    """Of a launch: machine instructions in all and by pipe, sectors requested, barriers, cycles of its programs."""

    slots: float
    pipes: dict[str, float]
    sectors: int
    touched: int  # sectors read or written, once each
    barriers: int
    chain: int

    @classmethod
    def of(cls, launched: Launched) -> "Work":
        pipes = dict.fromkeys(PIPES, 0.0)
        for issued, mnemonic in zip(launched.counts["issued"], launched.call.program.mnemonics, strict=True):
            each = cost(mnemonic)
            pipes[each.pipe] += each.slots * float(issued)
        slots, totals = sum(pipes.values()), launched.totals
        pipes["memory"] = max(pipes["memory"], float(launched.counts["wavefronts"].sum()))  # conflicts of banks
        touched = totals["sectors_read"] + totals["sectors_written"]
        return cls(slots, pipes, int(launched.counts["sectors"].sum()), touched, totals["barriers"], totals["cycles"])


def resident(launched: Launched, registers: int, gpu: Gpu) -> int:
    """Programs of a kernel on a multiprocessor at a time."""
    threads = launched.call.program.threads
    shared = gpu.shared_bytes // (launched.call.shared_bytes + 1024)
    return max(1, min(32, 64 * 32 // threads, 65536 // (-(-registers // 8) * 8 * threads), shared))


def times(
    launched: Launched, binary: Resources, gpu: Gpu, requests: int, batch: int, assumed: Assumptions = TYPICAL
) -> dict[str, float]:
    """µs by bound of a launch that was executed on some requests of a batch."""
    work, scale = Work.of(launched), batch / requests
    program = launched.call.program
    clock = gpu.clock * assumed.clock * 1e3  # cycles per µs
    everywhere = gpu.multiprocessors * clock
    expansion = binary.instructions / max(1.0, sum(cost(name).slots for name in program.mnemonics))
    slots = scale / everywhere * {-1: min(1.0, expansion), 0: 1.0, 1: max(1.0, expansion)}[assumed.binary]
    result = {pipe: work.pipes[pipe] * slots / getattr(gpu, pipe) for pipe in PIPES}
    result["issue"] = work.slots * slots / gpu.issue
    result["DRAM"] = work.touched * 32 * scale / (gpu.bandwidth * assumed.bandwidth) / 1e3
    chain = work.chain
    if assumed != TYPICAL:
        chain = execute(launched.call, Options(races=False), costs_of(program, assumed)).totals["cycles"]
    programs = max(requests, int(np.prod(launched.call.grid)))
    residents = resident(launched, binary.registers, gpu)
    result["chain"] = max(chain * scale / residents / everywhere, chain / programs / clock)
    return result


def total(bounds: dict[str, float], assumed: Assumptions = TYPICAL) -> float:
    """µs of a launch by its bounds."""
    longest = max(bounds.values())
    if assumed.overlap:
        return longest
    return max(us for name, us in bounds.items() if name != "DRAM") + bounds["DRAM"]


def predict(launched: Launched, gpu: Gpu, requests: int, batch: int) -> tuple[dict[str, float], list[float]]:
    """µs by bound of a launch, and its shortest and longest time."""
    from bench.gpu.binaries import resources

    binary = resources(launched.binary)
    ends = [(times(launched, binary, gpu, requests, batch, assumed), assumed) for assumed in (FASTEST, SLOWEST)]
    return times(launched, binary, gpu, requests, batch), [total(*end) for end in ends]


def predictions(only: str) -> Iterator[dict[str, Any]]:
    """A row per op, shape and kernel: µs and bound on each GPU, all bounds on an H100."""
    from bench.gpu.device_ops import OPS, inputs, on_device
    from bench.gpu.timing import FULL, SHAPES
    from pygrade.kernels import fusion

    of_all = fusion.parts_of
    long = {"B": 64, "N": 10_000, "k": 500}
    shapes = SHAPES | {"fuse_topk": (*SHAPES["fuse_topk"], FULL | long)}
    for op in OPS:
        for shape in shapes.get(op.name, (FULL,)) if only in op.name else ():
            requests = 2 if "N" in op.letters else 3
            runs = {}

            def parts_of(lists: int, *rest: int, more: int = shape["B"] // requests) -> int:
                return of_all(lists * more, *rest)

            for name, gpu in GPUS.items():
                whole = patch.object(fusion, "parts_of", parts_of)  # what the whole batch chooses
                with whole, emulated(gpu.arch, Options(races=False), costs=costs_of) as launches:
                    on_device(op, inputs(shape | {"B": requests}, "cpu"))
                runs[name] = [predict(launched, gpu, requests, shape["B"]) for launched in launches]
            for place, launched in enumerate(launches):
                bounds = {name: found[place][0] for name, found in runs.items()}
                yield {
                    "op": op.name,
                    "shape": " ".join(f"{letter}={shape[letter]}" for letter in ("B", *op.letters.replace("B", ""))),
                    "kernel": launched.call.program.name.strip("_"),
                    "us": {name: round(total(found), 1) for name, found in bounds.items()},
                    "range": {name: [round(us, 1) for us in found[place][1]] for name, found in runs.items()},
                    "bound": {name: max(found, key=lambda key: found[key]) for name, found in bounds.items()},
                    "H100": {key: round(value, 1) for key, value in bounds["H100"].items()},
                }


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 10 else f"{us:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| op | shape | kernel | A100 µs | H100 µs | B200 µs | bound on an H100 |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        us = " | ".join(f"{_us(row['us'][name])} ({'–'.join(map(_us, row['range'][name]))})" for name in GPUS)
        others = sorted(row["H100"].items(), key=lambda item: -item[1])
        second = f", then {others[1][0]} {others[1][1]:,.0f}" if others[1][1] >= 1 else ""
        lines.append(f"| {row['op']} | {row['shape']} | {row['kernel']} | {us} | {row['bound']['H100']}{second} |")
    return "\n".join(lines)


def merged(rows: list[dict[str, Any]], committed: list[dict[str, Any]], ops: list[str]) -> list[dict[str, Any]]:
    """The rows, and the committed ones of the ops that they are not of, in the order of the ops."""
    predicted = {row["op"] for row in rows}
    every = rows + [row for row in committed if row["op"] not in predicted and row["op"] in ops]
    return sorted(every, key=lambda row: ops.index(row["op"]))


def write(rows: list[dict[str, Any]], results: Path, page: Path) -> None:
    """Replaces these ops' rows in the results and the table of the page."""
    from bench.gpu.device_ops import OPS

    committed = json.loads(results.read_text())["rows"]
    every, text = merged(rows, committed, [op.name for op in OPS]), page.read_text()
    if (old := table(committed)) not in text:
        raise ValueError(f"{page} lacks the table of {results}; want it to replace it")
    record = {"gpus": {name: asdict(gpu) for name, gpu in GPUS.items()}, "rows": every}
    with atomic_file(results) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    with atomic_file(page) as partial:
        partial.write_text(text.replace(old, table(every)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--write", action="store_true", help=f"their rows of {RESULTS.name} and of docs/GPU.md")
    options = parser.parse_args()
    rows = list(predictions(options.only))
    print(table(rows))
    if options.write:
        write(rows, RESULTS, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
