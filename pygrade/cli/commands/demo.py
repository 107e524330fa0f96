"""pygrade demo"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.run_directory import check_out, write_options
from pygrade.cli.verdict import print_verdict
from pygrade.config.simulation import DemoConfig, DemoOptions
from pygrade.console.tables import METRIC_LABELS, lift_table
from pygrade.evaluation.arms import PRODUCTION, SERVED
from pygrade.simulation.demo import demo


def run(options: DemoOptions) -> dict[str, Any]:
    config = DemoConfig(options.requests, options.test_requests, options.seed, options.pages)
    check_out(options.out, "demo")
    result = demo(config, options.out, options.resume)
    write_options(options, "demo", options.out)
    if not options.json:
        for page in result.pages:
            terminal.page(page)
        test, base = result.test.to_dict(), result.test.baseline
        extra = f"value over {PRODUCTION}"
        expected = {
            arm: outcome["lifts"] | {extra: result.summary["arms"][arm]["expected"]["value"]["lift_over_production"]}
            for arm, outcome in test["expected"].items()
        }
        columns = METRIC_LABELS | {extra: extra}
        terminal.table(f"What all users would do: lift over {base}, ± 95 %", *lift_table(expected, columns), SERVED)
        print_verdict(result.summary["verdict"])
        truth = f"the truth, which a simulation has, is {100 * result.decision.true_lift:+.1f} %"
        terminal.text(f"Simulated A/B test of the verdict: {result.decision.sentence}; {truth}.")
        terminal.text(f"policy: {options.out / 'policy'}    summary: {options.out / 'summary.json'}")
        terminal.text(f"report: {result.report}    open it in a browser: {result.report.absolute().as_uri()}")
    return result.summary | {"report": str(result.report)}
