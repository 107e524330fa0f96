"""Lists what changed between two result files by more than their noise.

For each contender of each row in both files, the C++ core included:

1. The noise of a run is the contender's p20–p80 interval over its blocks, widened by 1 + 2/√blocks, because quantiles
   of few blocks are uncertain.
2. The whole machine may have been slower in one run. The median p50 ratio of what did not change (the bounds, and peers
   of equal version; at least five) is divided out.
3. A change is listed if the two intervals do not overlap and the medians differ by more than 2 %.
"""

import argparse
import statistics
from collections.abc import Iterator
from math import sqrt
from pathlib import Path

from ..cpu.harness import OURS, Report, Timing
from . import results

MIN_FACTOR = 1.02
MIN_UNCHANGED = 5
PACKAGES = {"faiss": "faiss-cpu", "numba threshold": "numba", "torch": "torch", "onnxruntime": "onnxruntime"}
Key = tuple[str, str]  # row, contender


def timings_of(report: Report) -> dict[Key, Timing]:
    """Every timing of a report, the C++ core and the bounds included."""
    timings = {}
    for row in report.rows:
        name = f"{row.op} {row.label}"
        timings |= {(name, contender): timing for contender, timing in row.timings.items()}
        if row.core is not None:
            timings[name, f"{OURS} C++ alone"] = row.core
        if row.bound is not None:
            timings[name, f"bound: {row.bound_kind}"] = row.bound
    return timings


def interval(timing: Timing) -> tuple[float, float]:
    """The p20–p80 interval, widened if few blocks were timed."""
    factor = 1.0 + 2.0 / sqrt(timing.blocks)
    return timing.p50 - factor * (timing.p50 - timing.p20), timing.p50 + factor * (timing.p80 - timing.p50)


def drift(before: Report, after: Report) -> float:
    """Slowdown of the machine in the second run, by the contenders that did not change; 1 if there are too few."""
    old, new = timings_of(before), timings_of(after)

    def same_version(contender: str) -> bool:
        first = contender.split()[0].split(".")[0]
        package = PACKAGES.get(first, first)
        return before.machine.get(package) == after.machine.get(package)

    unchanged = [key for key in old.keys() & new.keys() if not key[1].startswith(OURS) and same_version(key[1])]
    if len(unchanged) < MIN_UNCHANGED:
        return 1.0
    return statistics.median(new[key].p50 / old[key].p50 for key in unchanged)


def changes(before: Report, after: Report) -> Iterator[str]:
    """One line for each contender that changed, and for each that is in one report only."""
    old, new, slower = timings_of(before), timings_of(after), drift(before, after)
    for name, contender in sorted(old.keys() ^ new.keys()):
        yield f"{name}, {contender}: only {'before' if (name, contender) in old else 'after'}"
    for (name, contender), a in old.items():
        if (name, contender) not in new or contender.startswith("bound"):
            continue
        b = new[name, contender]
        low, high = (edge * slower for edge in interval(a))
        first, last = interval(b)
        factor = b.p50 / (a.p50 * slower)
        if (first > high or last < low) and max(factor, 1.0 / factor) > MIN_FACTOR:
            word = "slower" if factor > 1.0 else "faster"
            yield f"{name}, {contender}: {a.p50:.3g} → {b.p50:.3g} µs, {max(factor, 1.0 / factor):.2f} × {word}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    before, after = results.read(options.before), results.read(options.after)
    if before.suite != after.suite:
        parser.error(
            f"{options.before} is of suite {before.suite}, {options.after} of {after.suite}; expected one suite"
        )
    for fact in sorted(before.machine.keys() | after.machine.keys()):
        first, last = before.machine.get(fact, "absent"), after.machine.get(fact, "absent")
        if first != last:
            print(f"{fact}: {first} → {last}")
    print(f"machine: {drift(before, after):.3f} × the time for what did not change; divided out")
    print("\n".join(changes(before, after)) or "nothing changed by more than the noise")
    return 0
