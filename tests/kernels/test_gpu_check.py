"""The script that a GPU machine runs: its steps exist and name files that exist, and failures are reported."""

import sys
from pathlib import Path

import pytest

from bench.gpu import check

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_steps_name_what_exists(where, tmp_path):
    steps = check.steps(where, tmp_path)
    names = "machine card parity emulator device bench numeric memcheck racecheck"
    assert [step.name for step in steps] == names.split()
    for step in steps:
        assert 0 < step.seconds < 600
        for word in step.command:
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), word
        modules = [step.command[i + 1] for i, word in enumerate(step.command) if word == "-m"]
        for module in modules:
            path = ROOT / module.replace(".", "/")
            assert module == "pytest" or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
        if "--device" in step.command:
            assert step.command[step.command.index("--device") + 1] == where


def test_a_step_that_fails_hangs_or_is_missing_is_reported(tmp_path):
    def result(*command, seconds=60):
        return check.run(check.Step("x", command, seconds), tmp_path / "x.log", {})

    assert result(sys.executable, "-c", "print('fine')") == "passed"
    assert (tmp_path / "x.log").read_text() == "fine\n"
    assert result(sys.executable, "-c", "raise SystemExit(3)") == "failed: exit code 3"
    assert result(sys.executable, "-c", "while True: pass", seconds=1) == "timed out after 1 s"
    assert result("no-such-program") == "skipped: no-such-program is not on the PATH"


def test_a_failed_step_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    made = [
        check.Step("one", (sys.executable, "-c", "raise SystemExit(1)"), 60),
        check.Step("two", (sys.executable, "-c", "print('second')"), 60),
    ]
    monkeypatch.setattr(check, "steps", lambda device, out: made)
    monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", "--out", str(tmp_path)])
    assert check.main() == 1
    shown = capsys.readouterr().out
    assert "second" in shown and shown.endswith("one        failed: exit code 1\ntwo        passed\n")
    monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", "--steps", "three", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        check.main()
