"""pygrade serve-check"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import sub_config
from pygrade.config.pipeline import CheckConfig, ServeCheckOptions
from pygrade.console.tables import latency_table, skew_table
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.stages import SHOWN
from pygrade.serving.run_copy import local_run
from pygrade.storage import upload_directory


def run(options: ServeCheckOptions) -> dict[str, Any]:
    folder = local_run(options.run, "events-*/**/*", "features-*/**/*", "logs-*/evaluate/**/*", "policy-*/**/*")
    record = serve_check(folder, sub_config(CheckConfig, options), options.store)
    upload_directory(options.run, folder, *SHOWN)
    if not options.json:
        skew, equal = skew_table(record)
        if skew[1]:
            terminal.table("Materialized against served", *skew)
        terminal.text(equal)
        terminal.table(f"{record['candidates']} candidates", *latency_table(record), "in all")
        terminal.text(f"{record['equal_pages']:,} of {record['requests']:,} pages are equal bit for bit")
    return record
