"""pygrade serve-check"""

from typing import Any

from pygrade.cli import console
from pygrade.cli.options import sub_config
from pygrade.config.pipeline import CheckConfig, ServeCheckOptions
from pygrade.console.pipeline import difference, high_percentile
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.stages import SHOWN
from pygrade.serving.run_copy import local_run
from pygrade.storage import upload_directory


def run(options: ServeCheckOptions) -> dict[str, Any]:
    folder = local_run(options.run, "events-*/**/*", "features-*/**/*", "logs-*/evaluate/**/*", "policy-*/**/*")
    record = serve_check(folder, sub_config(CheckConfig, options), options.store)
    upload_directory(options.run, folder, *SHOWN)
    if not options.json:
        different = {name: entry for name, entry in record["skew"].items() if entry["equal"] < 1.0}
        skew = [[name, f"{entry['equal']:.4%}", difference(entry)] for name, entry in different.items()]
        if skew:
            console.table("Materialized against served", ["", "equal", "largest difference"], skew)
        total = len(record["skew"])
        console.text(f"{total - len(different)} of {total} features have the same bits both ways")
        times = [
            [name, f"{entry['p50_ms']:.2f}", f"{entry['p99_ms']:.2f}"] for name, entry in record["latency"].items()
        ]
        heads = ["milliseconds", "p50", high_percentile(record["requests"])]
        console.table(f"{record['candidates']} candidates", heads, times, "in all")
        console.text(f"{record['equal_pages']:,} of {record['requests']:,} pages are equal bit for bit")
    return record
