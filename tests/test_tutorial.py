"""The tutorial, from its first command to its last, on small data."""

import re

from tests.documents import ROOT, blocks, run, run_shell

PAGE = ROOT / "docs/tutorial.md"


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    order = re.findall(r"^```(sh|python)$", PAGE.read_text(encoding="utf-8"), re.M)
    shell, python = iter(blocks(PAGE, "sh")), iter(blocks(PAGE, "python"))
    for language in order:
        if language == "sh":
            run_shell(next(shell))
        else:
            run(next(python), PAGE.name)
    assert (tmp_path / "runs/shop/pygrade.toml").is_file() and (tmp_path / "runs/mine/report.html").is_file()
    assert "weights" in capsys.readouterr().out
