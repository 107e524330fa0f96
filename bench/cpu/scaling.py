"""Growth of the cost with N, T, k, B, G and the number of threads, ours and a few peers."""

from collections.abc import Iterator
from dataclasses import replace

from bench.cpu import dirichlet, fusion, machine
from bench.cpu.harness import OURS, Row

CONTENDERS = (OURS, "numpy", "torch", "onnxruntime bound", "faiss", "numpy float32", "torch.distributions")
REQUEST = {"N": 2000, "T": 8, "k": 100}
GROUP = {"B": 64, "G": 16, "N": 500, "T": 8, "k": 10}
AXES = {  # axis: its values in a full and in a quick run
    "N": ((100, 300, 1000, 3000, 10_000, 30_000), (100, 10_000)),
    "T": ((1, 2, 4, 6, 8, 12, 16, 32, 64), (8, 32)),
    "k": ((1, 10, 30, 100, 300, 1000), (10, 1000)),
    "B": ((1, 4, 16, 64, 256), (4, 16)),
    "G": ((1, 4, 16, 64), (4, 16)),
    "draws G": ((1, 4, 16, 64), (4, 16)),
}


def scaling(quick: bool) -> Iterator[Row]:
    """Vary one axis at a time of a medium-sized request, group and batch of draws."""
    seconds = 0.2 if quick else 2.0
    for axis, (values, few) in AXES.items():
        for value in few if quick else values:
            if axis in "NTk":
                count, tasks, k = (REQUEST | {axis: value}).values()
                row = fusion.request(count, tasks, min(k, count), "identity", seconds, compile=False)
            elif axis == "draws G":
                row = dirichlet.sample(256, value, 8, 2.0, seconds)
            else:
                row = fusion.group_topk(*(GROUP | {axis: value}).values(), seconds, compile=False)
            yield _kept(row, axis)
    yield from contenders(quick)


def contenders(quick: bool) -> Iterator[Row]:
    """A group and draws on 1 to all processors; every contender has as many threads."""
    before = machine.threads()
    count, available = 1, machine.available()
    while count <= available:
        machine.pin(count)
        seconds = 0.2 if quick else 2.0
        group = fusion.group_topk(*(GROUP | {"B": 256}).values(), seconds, compile=False)
        draws = dirichlet.sample(1024, 16, 8, 2.0, seconds)
        for row, axis in ((group, "threads"), (draws, "draws threads")):
            yield _kept(replace(row, shape=row.shape | {"threads": count}), axis)
        count = available if count < available < 2 * count else 2 * count
    machine.pin(before)


def _kept(row: Row, axis: str) -> Row:
    timings = {name: timing for name, timing in row.timings.items() if name in CONTENDERS}
    peers = tuple(name for name in row.peers if name in timings)
    return replace(row, shape={"axis": axis} | row.shape, timings=timings, peers=peers, beside=())
