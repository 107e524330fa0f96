"""pygrade pipeline"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import sub_config, workers_of
from pygrade.cli.pipeline_check import check
from pygrade.cli.run_directory import RECORD, check_output, record_options
from pygrade.cli.run_metrics import report_run
from pygrade.cli.verdict import print_verdict
from pygrade.config.ignored import refuse, refuse_in_training
from pygrade.config.pipeline import PipelineConfig, PipelineOptions
from pygrade.data.events import CONFIGS, parse_spec
from pygrade.pipeline.run import run_pipeline
from pygrade.storage import join_path, prepare_directory, upload_directory
from pygrade.training.mlflow_run import MlflowRun


def run(options: PipelineOptions) -> dict[str, Any]:
    if options.check is not None:
        return check(options.check, options)
    refuse(options, ("check_requests",), "--check")
    scheme = options.data.partition(":")[0]
    for name, kind in CONFIGS.items():
        if name != scheme and getattr(options, name) != kind():
            raise ValueError(f"options --{name}.… are for {name}: data; data is {options.data}")
    source = getattr(options, scheme, None)
    if seed := options.train.seed:
        raise ValueError(f"train.seed is {seed}; expected --seed, which decides for all parts")
    if options.train.policy.evidence_prior:
        refuse(options, ("evidence_prior",), "--train.policy.evidence-prior 0")
    refuse_in_training(options.train, "train.")
    path = parse_spec(options.data)[1]
    check_output(options.out, "pipeline", path)
    tracked = None if options.track is None else MlflowRun(options.track)
    out, config = prepare_directory(options.out, "pipeline"), sub_config(PipelineConfig, options)
    with workers_of(options.cluster, out, path) as workers, record_options(options, "pipeline", out):
        record = run_pipeline(options.data, options.out, config, source, options.store, workers=workers)
    upload_directory(options.out, out, RECORD)
    if tracked is not None:
        stages = record["stages"]
        steps = out / f"policy-{stages['policy']['key']}" / "training" / "metrics.jsonl"
        report_run(tracked, "pipeline", options, out, out / "artifact", stages["publish"]["version"], steps)
    if not options.json:
        _print(record)
        terminal.text(
            f"report: {join_path(options.out, 'report.html')}    summary: {join_path(options.out, 'summary.json')}"
        )
    return record


def _print(record: dict[str, Any]) -> None:
    stages = record["stages"]
    for note in stages["events"].get("notes") or ():
        terminal.text(f"note: {note}")
    replay = stages["evaluate"]["replay"]
    print_verdict(replay["verdict"], replay["later"])  # each warning stands above, where it was found
