"""The targets: ratios to the best library peer of the same run, and to a bound of the machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..cpu.harness import Report, Row

Shape = Mapping[str, Any]
Fits = Callable[[Shape], bool]
Results = Mapping[str, Mapping[str, Report]]  # instruction set → suite → report

# What a target measures of a row. For AT_LEAST more is better.
PEER, BESIDE, CORE, BOUND, CALL, TIME = "peer", "beside", "core", "bound", "call", "time"
AT_LEAST = (PEER, BESIDE, CORE)
MEANING = {
    PEER: "× best library peer",
    BESIDE: "× numba threshold kernel",
    CORE: "× best library peer, C++",
    BOUND: "× bound, C++",
    CALL: "µs",
    TIME: "µs, C++",
}


@dataclass(frozen=True)
class Target:
    """One target. Its worst row decides."""

    name: str
    suite: str
    op: str
    fits: Fits
    measure: str
    want: Mapping[str, float]  # instruction set → lower or upper limit


@dataclass(frozen=True)
class Verdict:
    """A target against the results of one instruction set."""

    target: Target
    rows: tuple[Row, ...]  # the rows that the target covers, worst first

    @property
    def values(self) -> tuple[float, ...]:
        """The figures of the rows, worst first."""
        return tuple(v for row in self.rows if (v := value_of(row, self.target.measure)) is not None)


def reached(target: Target, isa: str, worst: float) -> bool:
    """Return whether the worst row reaches the target, at the two decimals that are shown."""
    shown, wanted = round(worst, 2), target.want[isa]
    return shown >= wanted if target.measure in AT_LEAST else shown <= wanted


def value_of(row: Row, measure: str) -> float | None:
    """The figure of a row under this measure."""
    if measure == PEER:
        return row.ratio
    if measure == CORE:
        return row.core_ratio
    if measure == BOUND:
        return row.bound_ratio
    if measure == CALL:
        return row.overhead
    if measure == TIME:
        return None if row.core is None else row.core.p50
    return min((row.ratio_to(name) or 0.0 for name in row.beside), default=None)


def _linear(candidates: tuple[int, int], k: tuple[int, int]) -> Callable[[Shape], bool]:
    def fits(s: Shape) -> bool:
        linear = s["f"] == "identity" and s["T"] == 8
        return linear and candidates[0] <= s["N"] <= candidates[1] and k[0] <= s["k"] <= k[1]

    return fits


def _every(_: Shape) -> bool:
    return True


def _both(limit: float) -> dict[str, float]:
    return {"avx512": limit, "avx2": limit}


def _ratio(name: str, suite: str, op: str, fits: Fits, avx512: float, avx2: float | None = None) -> Target:
    """A ratio to the best library peer; parity on the baseline."""
    return Target(name, suite, op, fits, PEER, {"avx512": avx512, "avx2": avx2 or avx512, "baseline": 1.0})


def _bound(name: str, suite: str, op: str, fits: Fits, limit: float) -> Target:
    return Target(name, suite, op, fits, BOUND, _both(limit))


def _log(s: Shape) -> bool:
    return bool(s["f"] == "log" and s["N"] <= 10_000)


def _pages(
    name: str, objective: str, width: int, beam: int, microseconds: float, ratio: float
) -> tuple[Target, Target]:
    """A page of 20 of 500 candidates: the core's time, and the call against numpy."""

    def fits(s: Shape) -> bool:
        return (s["objective"], s["d"], s["beam"]) == (objective, width, beam)

    return (
        Target(f"{name}, time", "pages", "search_page", fits, TIME, _both(microseconds)),
        Target(name, "pages", "search_page", fits, PEER, _both(ratio)),
    )


def _naive(form: str, microseconds: float) -> tuple[Target, Target]:
    """Ranker::rank of 500 candidates and 6 tasks: its time, and the share of a naive loop's, which a clone compiles for
    the processor's best instruction set."""

    def fits(s: Shape) -> bool:
        return bool(s["form"] == form)

    return (
        Target(f"Ranker::rank, {form}, time", "serving", "naive rank", fits, TIME, {"avx512": microseconds}),
        Target(f"Ranker::rank, {form}, naive loop", "serving", "naive rank", fits, BOUND, {"avx512": 0.25}),
    )


TOPK = "fuse_topk"
LONG, VERY_LONG = _linear((2000, 10_000), (50, 500)), _linear((100_000, 100_000), (100, 100))
TARGETS = (
    _ratio("top-k, N 2k–10k, k 50–500", "serving", TOPK, LONG, 6),
    Target("top-k, N 2k–10k, k 50–500, numba", "serving", TOPK, LONG, BESIDE, _both(4)),
    _bound("top-k, N 10k, k 50–100, bound", "serving", TOPK, _linear((10_000, 10_000), (50, 100)), 2.3),
    _bound("top-k, N 2k, k 50–100, bound", "serving", TOPK, _linear((2000, 2000), (50, 100)), 2.8),
    _ratio("top-k, N 500, k 10", "serving", TOPK, _linear((500, 500), (10, 10)), 2.5),
    _ratio("top-k, N 10k, k 10", "serving", TOPK, _linear((10_000, 10_000), (10, 10)), 2.7),
    _ratio("top-k, N 100k, k 100", "serving", TOPK, VERY_LONG, 2.8),
    _bound("top-k, N 100k, k 100, bound", "serving", TOPK, VERY_LONG, 1.6),
    _ratio("top-k of log p, N ≤ 10k", "serving", TOPK, _log, 4.5, 3.0),
    _ratio("top-k of log(1 + p), N 2k", "serving", TOPK, lambda s: bool(s["f"] == "log1p"), 4),
    _ratio("top-k, task-major, N 2k", "serving", TOPK, lambda s: bool(s["f"] == "task-major"), 6),
    Target("policy + rank, N 500, k 50", "serving", "policy + rank", _every, CORE, _both(3) | {"baseline": 1.0}),
    *_naive("alone", 2.5),
    *_naive("mixed", 3.5),
    *_naive("corrected", 6.5),
    *_pages("page, greedy", "page_value", 64, 1, 80, 3),
    *_pages("page, greedy, categories alone", "page_value", 0, 1, 10, 4),
    *_pages("page, beam 8", "page_value", 64, 8, 200, 4),
    *_pages("page, log-determinant", "log_det", 64, 1, 80, 2),
    _ratio("group top-k, B 64, G 32, N 1000, k 10", "rollout", TOPK, lambda s: bool(s["k"] == 10), 4.5),
    _ratio("group top-k, B 64, G 32, N 1000, k 50", "rollout", TOPK, lambda s: bool(s["k"] == 50), 12),
    _bound("group top-k, bound", "rollout", TOPK, _every, 4.5),
    _ratio("draws and their log p, any α", "sampling", "dirichlet_sample", _every, 4.5, 2.5),
    _ratio("group advantage", "training", "group_advantage", _every, 2.5),
    _bound("group advantage, bound", "training", "group_advantage", _every, 2.5),
    _ratio("log p and gradient", "training", "dirichlet_log_prob ∇", _every, 8),
    _ratio("GRPO loss and gradient", "training", "grpo_loss ∇", _every, 8),
    _ratio("stage-2 step", "training", "stage-2 step", _every, 6),
    Target("call of fuse_topk(out=)", "call", TOPK, lambda s: bool(s["result"] == "out="), CALL, _both(0.4)),
)


def check_targets(results: Results) -> dict[str, list[Verdict]]:
    """Instruction set → the verdicts on the targets that have results."""
    verdicts: dict[str, list[Verdict]] = {}
    for isa, reports in results.items():
        verdicts[isa] = []
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
                verdicts[isa].append(Verdict(target, ordered))
    return verdicts
