"""pygrade abtest-check"""

from dataclasses import asdict
from typing import Any

from pygrade.cli import terminal
from pygrade.config.abtest import AbtestCheckOptions
from pygrade.evaluation.abtest import sample_ratio


def run(options: AbtestCheckOptions) -> dict[str, Any]:
    result = sample_ratio(options.counts, options.shares)
    if not options.json:
        verdict = "MISMATCH: do not read the test" if result.mismatch else "as planned"
        terminal.text(f"sample ratio of {list(options.counts)}: {verdict} (p = {result.p_value:.2g})")
    return asdict(result)
