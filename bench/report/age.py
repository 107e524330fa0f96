"""Finds results that were measured on sources of long ago."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from .summary import OPS, Summary

SOURCES = ("csrc", "kernels", "pygrade/ops", ":!csrc/tests")
MOST_BEHIND = 100  # commits that changed these, merges not counted
TIMED = ("page-*.json", "http-*.json", "server.json")  # files besides the summary that hold times of them


def commits_of(directory: Path, ops: Summary) -> Iterator[tuple[str, str]]:
    """Name and commit of every result that times the ops: of each suite of the summary, and of the other files."""
    for isa, entry in ops.items():
        yield from ((f"{OPS}, {isa}, {suite}", commit) for suite, commit in entry["commits"].items())
    for path in (path for pattern in TIMED for path in sorted(directory.glob(pattern))):
        yield path.name, json.loads(path.read_text(encoding="utf-8"))["machine"].get("commit", "")


def stale(root: Path, commits: Iterable[tuple[str, str]], most: int = MOST_BEHIND) -> list[str] | None:
    """A line for each result that is more than ``most`` commits of the sources behind HEAD, or no ancestor of it.

    None: the history is not there (no git, no repository, or a shallow clone).
    """
    if _git(root, "rev-parse", "--is-shallow-repository") != "false":
        return None
    lines = []
    for name, commit in commits:
        state = commit.removesuffix("+")  # changed since
        if not state or _git(root, "merge-base", "--is-ancestor", state, "HEAD") is None:
            lines.append(f"{name}: commit {commit or '(none)'} is no ancestor of HEAD")
            continue
        behind = int(_git(root, "rev-list", "--count", "--no-merges", f"{state}..HEAD", "--", *SOURCES) or 0)
        if behind > most:
            lines.append(
                f"{name}: commit {commit} is {behind} commits of the sources behind HEAD; expected at most {most}"
            )
    return lines


def _git(root: Path, *words: str) -> str | None:
    """Output of git; None if it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
