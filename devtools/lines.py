"""Tracked lines of each folder against its budget in lines.toml: `python -m devtools.lines`.

A budget only goes down. `--set` writes what there is now where that is less.
"""

import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUDGET = Path(__file__).with_suffix(".toml")


def tracked_lines(root: Path, folders: list[str]) -> Counter[str]:
    """Newlines of tracked files, binary ones too, by the longest of the folders that holds them; "." is the root."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    lines: Counter[str] = Counter(dict.fromkeys(folders, 0))
    for name in names.split("\0")[:-1]:
        path = root / name
        if path.is_symlink() or not path.is_file():  # removed, but not yet from the index
            continue
        folder = max((entry for entry in folders if name.startswith(f"{entry}/")), key=len, default=".")
        lines[folder] += path.read_bytes().count(b"\n")
    return lines


def over_budget(lines: Counter[str], budget: dict[str, int]) -> list[str]:
    """A line for each folder with more than its budget."""
    return [
        f"{name}: {lines[name]} lines, the budget is {most}; remove what this replaces"
        for name, most in budget.items()
        if lines[name] > most
    ]


def main(arguments: list[str]) -> int:
    budget = tomllib.loads(BUDGET.read_text())["lines"]
    lines = tracked_lines(ROOT, list(budget))
    if arguments == ["--set"]:
        entries = (f'"{name}" = {min(most, lines[name])}\n' for name, most in budget.items())
        BUDGET.write_text("# The most tracked lines of each folder, see lines.py.\n[lines]\n" + "".join(entries))
        return 0
    faults = over_budget(lines, budget)
    print(*faults, f"{sum(lines.values())} tracked lines, budget {sum(budget.values())}", sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
