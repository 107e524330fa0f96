"""The console of a finished run, on the requests that its training did not see or on others."""

import logging
from pathlib import Path

from pygrade._util.serialization import read_json
from pygrade.config.console import ConsoleConfig
from pygrade.console.collect import collect
from pygrade.console.page import write_page
from pygrade.console.pipeline import pipeline_report
from pygrade.console.run_files import UNRECORDED, download_run, find_run, stages_of
from pygrade.console.training import training_report
from pygrade.storage import Place

logger = logging.getLogger("pygrade")


def write_console(run: Place, out: Path, data: str | None = None, config: ConsoleConfig | None = None) -> Path:
    """Write the page of a run of `pygrade train`, `demo` or `pipeline`, see `find_run`; returns ``out``."""
    folder = download_run(run)
    judged = find_run(folder, data, config)
    if judged.in_sample is None:
        logger.warning(UNRECORDED)
    elif judged.in_sample:
        logger.warning("the policy was trained on all of these requests: what the console shows is no evidence")
    if stages_of(folder) is None:
        lead, sections = training_report(folder, judged)
    else:
        lead, sections = pipeline_report(folder, read_json(folder / "summary.json"), judged)
    write_page(out, folder.resolve().name, lead, sections, collect(judged, config or ConsoleConfig()))
    return out
