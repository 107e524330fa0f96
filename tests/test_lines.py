"""The budget of lines: counts by the longest folder, and what is over it."""

import subprocess

from devtools.lines import over_budget, tracked_lines


def test_lines_of_the_longest_folder(tmp_path):
    for name, lines in {"a/x": 3, "a/b/y": 2, "c/z": 4, "w": 1}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("line\n" * lines)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "untracked").write_text("line\n")
    lines = tracked_lines(tmp_path, ["a", "a/b", "."])
    assert lines == {"a": 3, "a/b": 2, ".": 5}
    assert over_budget(lines, {"a": 3, "a/b": 1, ".": 5}) == [
        "a/b: 2 lines, the budget is 1; remove what this replaces"
    ]
