"""Times the columns of history of a page of 500: `python -m bench --suite history [--quick] [--out DIRECTORY]`

history_bench.cpp says of what. ``least_us``, the least median of tenths of the calls, is the figure.
"""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from pygrade._util.json_text import json_text

from ..cpu import core, machine
from ..report.results import write_json


def main(quick: bool, out: Path | None) -> int:
    """Builds the program, runs it and prints its row; ``out``: directory of the result, None: no file."""
    program = core.executable("pygrade_history_bench")
    if program is None:
        return 1
    machine.prepare(1)
    with TemporaryDirectory() as directory:
        command = [str(program), directory, "500", "2000" if quick else "20000"]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    facts = machine.facts() | machine.versions(("lmdb",))
    record = {"suite": "history", "machine": facts, **row}
    if out is not None:
        write_json(out / f"history-{facts['isa']}.json", record)
    print(json_text(record))
    return 0
