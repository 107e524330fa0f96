"""python -m bench.study.foreign FAMILY … --seeds A:B --requests N [--light]: logs of foreign worlds, and the truth.

FAMILY is a family or how several begin, such as `roots` or `null`. Each log adds a JSON line to --out, which keeps what
it has; `--sums` adds up such files by family and size, and `--report` turns either into tables against the targets of
docs/STUDY.md.
"""

import argparse
import json
from pathlib import Path

from .evaluate import FAMILIES, read, run
from .report import report, summed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.foreign", description=__doc__)
    parser.add_argument("family", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--seeds", default="0:3", help="A:B, without B; 0 to 19 are for development")
    parser.add_argument("--requests", type=int, default=5_000, help="of each log")
    parser.add_argument("--light", action="store_true", help="hardly any steps of GRADE")
    parser.add_argument(
        "--set", nargs="+", default=(), help="KEY=VALUE options of train, such as correction.enabled=false"
    )
    parser.add_argument("--out", type=Path, default=Path("foreign.jsonl"), help="of the lines")
    parser.add_argument("--report", type=Path, nargs="+", help="files of lines or sums: only print their tables")
    parser.add_argument("--sums", type=Path, nargs="+", help="files of lines: only print their sums, a JSON line each")
    options = parser.parse_args()
    if files := options.report or options.sums:
        lines = [line for path in files for line in read(path)]
        rows = [line for line in lines if "logs" in line] + summed([line for line in lines if "logs" not in line])
        print(report(rows) if options.report else "\n".join(map(json.dumps, rows)))
        return
    families = [name for name in FAMILIES if any(name.startswith(word) for word in options.family)]
    if not families:
        parser.error(
            f"family is {' '.join(options.family)!r}; expected some of {', '.join(FAMILIES)}, or how they begin"
        )
    first, last = map(int, options.seeds.split(":"))
    run(options.out, families, range(first, last), options.requests, options.light, options.set)


if __name__ == "__main__":
    main()
