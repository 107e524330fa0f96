"""What the core is held to: ratios to the best library peer of the same run, and to a bound of the machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.cpu.harness import Report, Row

Shape = dict[str, Any]
Results = Mapping[str, Mapping[str, Report]]  # instruction set → suite → report

# What is measured of a row: its value, whether more is better, and the unit.
PEER, BESIDE, CORE, BOUND, CALL = "peer", "beside", "core", "bound", "call"
AT_LEAST = (PEER, BESIDE, CORE)
MEANING = {
    PEER: "× best library peer",
    BESIDE: "× numba threshold kernel",
    CORE: "× best library peer, C++",
    BOUND: "× bound, C++",
    CALL: "µs",
}


@dataclass(frozen=True)
class Target:
    """One claim. The worst row that it speaks of decides."""

    name: str
    suite: str
    op: str
    fits: Callable[[Shape], bool]
    measure: str
    want: Mapping[str, float]  # instruction set → the least or the most that is wanted


@dataclass(frozen=True)
class Verdict:
    """A target against the results of one instruction set."""

    target: Target
    wanted: float
    rows: tuple[Row, ...]  # those that the target speaks of, the worst first

    @property
    def values(self) -> tuple[float, ...]:
        """What the rows say, the worst first."""
        return tuple(v for row in self.rows if (v := value_of(row, self.target.measure)) is not None)

    @property
    def met(self) -> bool:
        """Whether even the worst row reaches what is wanted, at the two decimals that are shown."""
        worst = round(self.values[0], 2)
        return worst >= self.wanted if self.target.measure in AT_LEAST else worst <= self.wanted


def value_of(row: Row, measure: str) -> float | None:
    """The figure of a row that a target of this measure speaks of."""
    if measure == PEER:
        return row.ratio
    if measure == CORE:
        return row.core_ratio
    if measure == BOUND:
        return row.bound_ratio
    if measure == CALL:
        return row.overhead
    return min((row.ratio_to(name) or 0.0 for name in row.beside), default=None)


def _everywhere(value: float) -> dict[str, float]:
    """The same on both vector instruction sets; the baseline needs parity."""
    return {"avx512": value, "avx2": value, "baseline": 1.0}


def _at_most(value: float) -> dict[str, float]:
    return {"avx512": value, "avx2": value}


def _linear(low: int, high: int, least: int, most: int) -> Callable[[Shape], bool]:
    return lambda s: s["f"] == "identity" and s["T"] == 8 and low <= s["N"] <= high and least <= s["k"] <= most


def _every(_: Shape) -> bool:
    return True


_LOG = {"avx512": 4.5, "avx2": 3.0, "baseline": 1.0}
_DRAWS = {"avx512": 4.5, "avx2": 2.5, "baseline": 1.0}
TOPK = "fuse_topk"
TARGETS = (
    Target("top-k, N 2k–10k, k 50–500", "serving", TOPK, _linear(2000, 10_000, 50, 500), PEER, _everywhere(6)),
    Target("top-k, N 2k–10k, k 50–500, numba", "serving", TOPK, _linear(2000, 10_000, 50, 500), BESIDE,
           {"avx512": 4, "avx2": 4}),
    Target("top-k, N 10k, k 50–100, bound", "serving", TOPK, _linear(10_000, 10_000, 50, 100), BOUND, _at_most(2.3)),
    Target("top-k, N 2k, k 50–100, bound", "serving", TOPK, _linear(2000, 2000, 50, 100), BOUND, _at_most(2.8)),
    Target("top-k, N 500, k 10", "serving", TOPK, _linear(500, 500, 10, 10), PEER, _everywhere(2.5)),
    Target("top-k, N 10k, k 10", "serving", TOPK, _linear(10_000, 10_000, 10, 10), PEER, _everywhere(2.7)),
    Target("top-k, N 100k, k 100", "serving", TOPK, _linear(100_000, 100_000, 100, 100), PEER, _everywhere(2.8)),
    Target("top-k, N 100k, k 100, bound", "serving", TOPK, _linear(100_000, 100_000, 100, 100), BOUND, _at_most(1.6)),
    Target("top-k of log p, N ≤ 10k", "serving", TOPK, lambda s: s["f"] == "log" and s["N"] <= 10_000, PEER, _LOG),
    Target("policy + rank, N 500, k 50", "serving", "policy + rank", _every, CORE, _everywhere(3)),
    Target("group top-k, B 64, G 32, N 1000, k 10", "rollout", TOPK, lambda s: s["k"] == 10, PEER, _everywhere(4.5)),
    Target("group top-k, B 64, G 32, N 1000, k 50", "rollout", TOPK, lambda s: s["k"] == 50, PEER, _everywhere(12)),
    Target("group top-k, bound", "rollout", TOPK, _every, BOUND, _at_most(4.5)),
    Target("draws and their log p, any α", "sampling", "dirichlet_sample", _every, PEER, _DRAWS),
    Target("group advantage", "training", "group_advantage", _every, PEER, _everywhere(2.5)),
    Target("group advantage, bound", "training", "group_advantage", _every, BOUND, _at_most(2.5)),
    Target("log p and gradient", "training", "dirichlet_log_prob ∇", _every, PEER, _everywhere(8)),
    Target("GRPO loss and gradient", "training", "grpo_loss ∇", _every, PEER, _everywhere(8)),
    Target("stage-2 step", "training", "stage-2 step", _every, PEER, _everywhere(5)),
    Target("call of fuse_topk(out=)", "call", TOPK, lambda s: s["result"] == "out=", CALL, _at_most(0.4)),
)  # fmt: skip


def judge(results: Results) -> dict[str, list[Verdict]]:
    """Instruction set → the verdicts that its results allow."""
    found: dict[str, list[Verdict]] = {}
    for isa, reports in results.items():
        found[isa] = []
        for target in TARGETS:
            rows = reports[target.suite].rows if target.suite in reports else []
            values = [
                (value, number)
                for number, row in enumerate(rows)
                if row.op == target.op and target.fits(row.shape)
                if (value := value_of(row, target.measure)) is not None
            ]
            if values and isa in target.want:
                values.sort(reverse=target.measure not in AT_LEAST)
                ordered = tuple(rows[number] for _, number in values)
                found[isa].append(Verdict(target, target.want[isa], ordered))
    return found
