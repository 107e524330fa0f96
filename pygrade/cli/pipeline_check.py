"""`pygrade pipeline --check RUN`: the same pages offline and online."""

from dataclasses import fields
from typing import Any

from pygrade.cli import terminal
from pygrade.config.ignored import refuse
from pygrade.config.pipeline import CheckConfig, PipelineOptions
from pygrade.config.shared import Output
from pygrade.console.pipeline import check_sections
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.stages import SHOWN
from pygrade.serving.run_copy import local_run
from pygrade.storage import Place, upload_directory


def check(run: Place, options: PipelineOptions) -> dict[str, Any]:
    """Replays requests of a finished pipeline and prints what differs; PagesDifferError if a page does."""
    names = {field.name for field in fields(PipelineOptions)} - {field.name for field in fields(Output)}
    refuse(options, names - {"check", "check_requests", "store"}, "no --check")
    folder = local_run(run, "events-*/**/*", "features-*/**/*", "logs-*/evaluate/**/*", "policy-*/**/*")
    record = serve_check(folder, CheckConfig(requests=options.check_requests), options.store)
    upload_directory(run, folder, *SHOWN)
    if not options.json:
        terminal.sections(check_sections(record))
    return record
