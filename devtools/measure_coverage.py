"""Lines that tests run: `python -m devtools.measure_coverage` writes bench/results/coverage.json (`make coverage`).

Python by coverage.py over the tests of PARTS, which leave out what runs in other processes or takes minutes; C++ by
gcov over ctest in the preset "coverage": baseline kernels, no tests through Python. `python` or `cpp` names one. With
`fuzz SECONDS` it runs libFuzzer's program of the preset "libfuzzer" instead: bench/results/libfuzzer.json.
"""

import datetime
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench/results/coverage.json"
FUZZED = ROOT / "bench/results/libfuzzer.json"
PARTS = (
    "config correction data doctor evaluation features logs metrics mtl policy prerank runs serving simulation "
    "stores training util"
)
CTEST = "--preset coverage -j 2 -E ^consumer|^fuzz"
PYTHON = "-n 2 -q --cov=pygrade --cov-report=json:build/coverage.json"
TREE = ROOT / "build/coverage"
FOLDERS = ("csrc/src/", "csrc/include/")


def python_lines(report: dict[str, Any]) -> dict[str, list[int]]:
    """Folder of the package → its statements that ran, and all of them."""
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in report["files"].items():
        counts = folders["/".join(Path(name).parts[:2]) if name.count("/") > 1 else "pygrade"]
        counts[0] += file["summary"]["covered_lines"]
        counts[1] += file["summary"]["num_statements"]
    return dict(sorted(folders.items()))


def cpp_lines(reports: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Folder of the core → its lines that ran in one of the objects, and all that are code in one of them."""
    runs: dict[tuple[str, int], int] = defaultdict(int)
    for report in reports:
        for file in report["files"]:
            path = Path(report["current_working_directory"], file["file"]).resolve()
            name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
            if name.startswith(FOLDERS):
                for line in file["lines"]:
                    runs[name, line["line_number"]] += line["count"]
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (name, _), count in runs.items():
        counts = folders[name.rsplit("/", 1)[0]]
        counts[0] += count > 0
        counts[1] += 1
    return dict(sorted(folders.items()))


def share(folders: dict[str, list[int]]) -> dict[str, Any]:
    """Per cent of all lines of a language, the counts, and per cent of each folder."""
    ran, all_lines = (sum(counts[i] for counts in folders.values()) for i in (0, 1))
    return {
        "percent": round(100 * ran / all_lines, 1),
        "ran": ran,
        "lines": all_lines,
        "folders": {name: round(100 * counts[0] / counts[1], 1) for name, counts in folders.items() if counts[1]},
    }


def measure_python() -> dict[str, Any]:
    """Coverage of the package by pytest."""
    _run(sys.executable, "-m", "pytest", *PYTHON.split(), *(f"tests/{part}" for part in PARTS.split()))
    report = json.loads((ROOT / "build/coverage.json").read_text(encoding="utf-8"))
    return {"tests": f"pytest, tests/ of {PARTS}", **share(python_lines(report))}


def measure_cpp() -> dict[str, Any]:
    """Coverage of the core by ctest."""
    for counters in TREE.rglob("*.gcda"):
        counters.unlink()
    _run(str(Path(sys.executable).with_name("ctest")), *CTEST.split())
    reports = []
    for counters in sorted(TREE.rglob("*.gcda")):
        made = _run("gcov", "--json-format", "--stdout", str(counters), output=True)
        reports += [json.loads(line) for line in made.splitlines()]
    return {"tests": f"ctest {CTEST}", **share(cpp_lines(reports))}


def main(languages: list[str]) -> None:
    """Measure the named languages, or both; the figures of the other one stay."""
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for language in languages or ("python", "cpp"):
        kept[language] = _dated({"python": measure_python, "cpp": measure_cpp}[language]())
    _write(RESULT, "make coverage", kept)


def fuzz(seconds: str) -> None:
    """Run libFuzzer's program from an empty corpus; the fault and its input are printed if there is one."""
    tree = TREE.with_name("libfuzzer")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=4096"]
        made = subprocess.run([tree / "csrc/tests/fuzz", *options, corpus], cwd=tree, stderr=subprocess.PIPE, text=True)
        inputs = len(list(corpus.iterdir()))
    if made.returncode != 0:
        raise SystemExit(made.stderr[-4000:])
    figures = _dated({**fuzz_figures(made.stderr), "kept": inputs})
    _write(FUZZED, f"python -m devtools.measure_coverage fuzz {seconds}", figures)


def fuzz_figures(log: str) -> dict[str, int]:
    """Inputs that ran, by libFuzzer's last lines, branches of the program that they reached, and of how many."""
    (_, counters), edges = re.findall(r"Loaded (\d+) modules +\((\d+) inline", log)[0], re.findall(r" cov: (\d+) ", log)
    (ran,) = re.findall(r"number_of_executed_units: (\d+)", log)
    return {"executions": int(ran), "branches": int(edges[-1]), "of": int(counters)}


def _dated(result: dict[str, Any]) -> dict[str, Any]:
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **result}


def _write(path: Path, command: str, result: dict[str, Any]) -> None:
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in ({"command": command} | result).items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def _run(*command: str, output: bool = False) -> str:
    made = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE if output else None)
    return made.stdout or ""


if __name__ == "__main__":
    fuzz(sys.argv[2]) if sys.argv[1:2] == ["fuzz"] else main(sys.argv[1:])
