"""The tutorial, from its first command to its last, on small data."""

import json
import re

import pytest

from tests.documents import ROOT, Shell, blocks, run

PAGE = ROOT / "docs/tutorial.md"


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lmdb", reason="lmdb is not installed")
    monkeypatch.chdir(tmp_path)
    order = re.findall(r"^```(sh|python)$", PAGE.read_text(encoding="utf-8"), re.M)
    code = {language: iter(blocks(PAGE, language)) for language in ("sh", "python")}
    shell = Shell()
    try:
        for language in order:
            if language == "sh":
                shell.run(next(code["sh"]))
            else:
                run(next(code["python"]), PAGE.name)
    finally:
        shell.close()
    assert (tmp_path / "runs/shop/pygrade.toml").is_file() and (tmp_path / "runs/mine/report.html").is_file()
    pages = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"request_id"')]
    assert [len(page["items"]) for page in pages] == [2, 5] and pages[0]["items"][0] in ("p7", "p8", "p9")
    assert all(page["degraded"] is None for page in pages)
