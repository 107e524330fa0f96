"""A roofline estimate per op: the fewest bytes and the arithmetic of a stated shape against a GPU's published peaks.

These are estimates, not measurements. Bytes count each input and each output once. Operations count the floating-point
arithmetic of the formula and, for selecting and drawing, the integer and comparison instructions that every variant
needs. Memory bounds an op left of the ridge, instructions one right of it.
"""

from dataclasses import dataclass

# Published peaks: memory in GB/s, float32 (no tensor cores) and float64 in TFLOP/s, a fused multiply-add as two.
GPUS = {
    "A100": (2039.0, 19.5, 9.7),  # A100 SXM 80 GB
    "H100": (3350.0, 67.0, 34.0),  # H100 SXM
    "H200": (4800.0, 67.0, 34.0),  # H200 SXM
    "MI300X": (5300.0, 163.4, 81.7),
}


@dataclass(frozen=True)
class Work:
    """The fewest bytes and operations of one call."""

    op: str
    shape: str
    bytes: int
    operations: int
    double: bool = False  # whether the operations are float64


def works() -> list[Work]:
    """Each op on the shape of its target."""
    b, n, t, g, k, c = 4096, 1000, 8, 32, 50, 2
    draw = 280  # a draw: Philox, Box-Muller, two logarithms, an exponential
    gamma = 60  # log-gamma, digamma or trigamma
    scores, weights = 4 * b * n * t, 4 * b * g * t
    fuse = 2 * b * g * n * t
    rollout_bytes = scores + 4 * b * n * c + b * n + 2 * weights + 4 * b * t + 4 * b * g * (c + 2)
    shape, group = f"B={b} N={n} T={t}", f"B={b} G={g} T={t}"
    grpo = b * (g * (t * 4 + 40) + 8 * (t + 1) * gamma)
    return [
        Work("dirichlet_sample", group, 4 * b * t + 2 * weights + 4 * b * g, b * g * t * draw),
        Work("dirichlet_log_prob", group, 4 * b * t + weights + 4 * b * g, b * (g * t * 2 + (t + 1) * gamma), True),
        Work("dirichlet_kl", f"B={b} T={t}", 4 * b * (4 * t + 1), b * 6 * (t + 1) * gamma, double=True),
        Work("grpo_loss", group, 4 * b * 3 * t + weights + 8 * b * g + 20 * b, grpo, double=True),
        Work("group_advantage", f"B={b} G={g} C={c}", 4 * b * g * (c + 1), b * g * (c + 6), double=True),
        Work("transform_scores zlog", shape, 4 * scores, scores // 4 * 30),
        Work("fuse_scores", shape, scores + 4 * b * t + 4 * b * n, 2 * b * n * t),
        Work("fuse_scores", f"{shape} G={g}", scores + weights + 4 * b * g * n, fuse),
        Work("fuse_topk", "B=1024 N=2000 T=8 k=100", 1024 * (2000 * 32 + 32 + 800), 1024 * 2000 * (16 + 40)),
        Work("topk_gain", f"{shape} G={g} k={k} C={c}", rollout_bytes - weights, fuse + b * g * n * 40),
        Work("rollout", f"{shape} G={g} k={k} C={c}", rollout_bytes, fuse + b * g * (n * 40 + t * draw)),
    ]


def estimates(gpu: str) -> list[dict[str, float | str]]:
    """Per op: bytes, operations, intensity, both times in µs, and the longer one."""
    memory, single, double = GPUS[gpu]
    rows: list[dict[str, float | str]] = []
    for work in works():
        memory_us = work.bytes / memory / 1e3
        compute_us = work.operations / (double if work.double else single) / 1e6
        rows.append(
            {
                "gpu": gpu,
                "op": work.op,
                "shape": work.shape,
                "bytes": work.bytes,
                "operations": work.operations,
                "intensity": round(work.operations / work.bytes, 2),
                "ridge": round((double if work.double else single) * 1e3 / memory, 2),
                "memory_us": round(memory_us, 2),
                "compute_us": round(compute_us, 2),
                "bound": "memory" if memory_us >= compute_us else "instructions",
            }
        )
    return rows


def table(gpu: str) -> str:
    """The estimates as text."""
    memory, single, double = GPUS[gpu]
    lines = [
        f"Roofline ESTIMATE for {gpu} from published peaks: {memory:.0f} GB/s, {single:g} TFLOP/s of float32 and "
        f"{double:g} of float64; nothing here was measured",
        f"{'op':24}{'shape':36}{'MB':>9}{'Mop':>9}{'op/byte':>9}{'ridge':>7}{'memory µs':>11}{'compute µs':>12}  bound",
    ]
    lines += [
        f"{e['op']:24}{e['shape']:36}{float(e['bytes']) / 1e6:9.1f}{float(e['operations']) / 1e6:9.0f}"
        f"{e['intensity']:9}{e['ridge']:7}{e['memory_us']:11}{e['compute_us']:12}  {e['bound']}"
        for e in estimates(gpu)
    ]
    return "\n".join(lines)
