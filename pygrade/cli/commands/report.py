"""pygrade report"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import sub_config
from pygrade.config.console import ConsoleConfig, ReportOptions
from pygrade.console.run_console import write_console
from pygrade.storage import join_path, place_of, publishing

FILE = "console.html"


def run(options: ReportOptions) -> dict[str, Any]:
    out = join_path(options.run, FILE) if options.out is None else options.out
    with publishing(place_of(str(out))) as path:
        write_console(options.run, path, options.data, sub_config(ConsoleConfig, options))
        size = path.stat().st_size
    if not options.json:
        terminal.text(f"console: {out}")
    return {"run": str(options.run), "out": str(out), "bytes": size}
