"""pygrade abtest-check"""

from dataclasses import asdict, dataclass
from typing import Any

from pygrade.cli import console
from pygrade.cli.options import Output
from pygrade.evaluation.abtest import sample_ratio


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Whether the users of an A/B test of your own were split as planned (sample-ratio mismatch).

    Example: pygrade abtest-check --counts 5000 5400
    """

    counts: tuple[int, ...]  # users of each arm
    shares: tuple[float, ...] | None = None  # planned share of each arm, on any scale; none: equal


def run(options: Options) -> dict[str, Any]:
    result = sample_ratio(options.counts, options.shares)
    if not options.json:
        verdict = "MISMATCH: do not read the test" if result.mismatch else "as planned"
        console.text(f"sample ratio of {list(options.counts)}: {verdict} (p = {result.p_value:.2g})")
    return asdict(result)
