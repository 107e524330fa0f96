"""pygrade demo"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.run_directory import check_output, write_options
from pygrade.cli.verdict import print_verdict
from pygrade.config.simulation import DemoConfig, DemoOptions
from pygrade.console.tables import METRIC_LABELS, lift_table
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, PRODUCTION, SERVED
from pygrade.evaluation.verdict import NEW, arm_name, is_static
from pygrade.simulation.demo import DemoResult, demo


def run(options: DemoOptions) -> dict[str, Any]:
    config = DemoConfig(options.requests, options.test_requests, options.seed, options.pages)
    check_output(options.out, "demo")
    result = demo(config, options.out, options.resume, (lambda _: None) if options.json else print_verdict)
    write_options(options, "demo", options.out)
    if not options.json:
        _show(result)
        terminal.text(f"run: {options.out}    rank by it: pygrade serve --run {options.out}")
        terminal.text(f"report: {result.report}    open it in a browser: {result.report.absolute().as_uri()}")
    return result.summary | {"report": str(result.report)}


def _show(result: DemoResult) -> None:
    """The truth of some rankings, the simulated test, and ranked pages; the report has all rankings."""
    arms = {arm: outcome["expected"] for arm, outcome in result.summary["arms"].items()}
    best = max(filter(is_static, arms), key=lambda arm: arms[arm]["value"]["value"], default=EXPECTED_VALUE)
    metrics = {metric: METRIC_LABELS[metric] for metric in ("value", "orders", "ctr")}
    lifts = {
        arm_name(arm, SERVED): {metric: arms[arm][metric]["lift_over_production"] for metric in metrics}
        for arm in (PRODUCTION, EXPECTED_VALUE, best, GRADE, SERVED)
        if arm in arms
    }
    title = "What new users would do, by the simulator's truth: lift over what you have, ± 95 %"
    terminal.table(title, *lift_table(lifts, metrics), strong=NEW)
    truth = f"the truth, which a simulation knows, is {100 * result.decision.true_lift:+.1f} %"
    terminal.text(f"Simulated A/B test of the verdict: {result.decision.sentence}; {truth}.")
    for page in result.pages:
        terminal.page(page)
