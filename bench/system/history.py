"""Times the columns of history of a page of 500: `python -m bench --suite history [--quick] [--out DIRECTORY]`

history_bench.cpp says of what. ``least_us``, the least median of tenths of the calls, is the figure.
"""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from pygrade._util.json_text import json_text
from ..cpu import machine
from ..report.results import write_json


def main(quick: bool, out: Path | None) -> int:
    """Builds the program, runs it and prints its row; ``out``: directory of the result, None: no file."""
    build, target = machine.BUILD / "release", "pygrade_history_bench"
    configure = ["-S", str(machine.ROOT), "-B", str(build), "-DPYGRADE_BUILD_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["--build", str(build), "--target", target, "--parallel", "2"]):
        subprocess.run(["cmake", *command], stdout=subprocess.DEVNULL, check=True)
    machine.prepare(1)
    with TemporaryDirectory() as directory:
        command = [str(build / target), directory, "500", "2000" if quick else "20000"]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    facts = machine.facts() | machine.versions(("lmdb",))
    record = {"suite": "history", "machine": facts, **row}
    if out is not None:
        write_json(out / f"history-{facts['isa']}.json", record)
    print(json_text(record))
    return 0
