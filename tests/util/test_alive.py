"""Signs of life: the first before anything heavy is imported, others while a step takes long, none among results."""

import re
import subprocess
import sys
import time

import pytest

from pygrade._util import alive
from tests.logs.shop import shop

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_signs_name_the_step_until_the_block_ends(capsys, monkeypatch):
    monkeypatch.setattr(alive, "EVERY", 0.01)
    monkeypatch.setattr(alive, "PLAIN", 0.01)
    with alive.step_lines("doctor"):
        alive.show_step("reading a.csv")
        time.sleep(0.2)
        with alive.without_step_lines():
            capsys.readouterr()
            time.sleep(0.1)
            assert capsys.readouterr().err == ""
        alive.show_step("writing")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[-1].startswith("doctor: writing, ")
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_step_is_said_again_and_again_on_a_terminal_alone(capsys, monkeypatch, terminal):
    monkeypatch.setattr(alive, "EVERY", 0.01)
    monkeypatch.setattr(alive, "PLAIN", 0.25)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with alive.step_lines("doctor"):
        for step in ("reading a.csv", "writing"):
            alive.show_step(step)
            time.sleep(0.4)
    signs = [sign for sign in re.split(r"\r\x1b\[2K|\n", capsys.readouterr().err) if sign]
    said = [sign.partition(",")[0] for sign in signs]
    assert list(dict.fromkeys(said)) == ["doctor: starting", "doctor: reading a.csv", "doctor: writing"]
    assert len(said) > 8 if terminal else 4 <= len(said) <= 7


def test_doctor_shows_its_first_sign_at_once(tmp_path):
    """Half a second after the start, or before a third of a run on a machine that is busy with other things."""
    parquet.write_table(pa.table(shop(20)), tmp_path / "shop.parquet")
    command = [sys.executable, "-m", "pygrade.cli.main", "doctor", str(tmp_path / "shop.parquet")]
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        first = process.stderr.readline()
        sign = time.monotonic() - began
        text = process.communicate()[0]
    whole = time.monotonic() - began
    assert process.returncode == 0 and first == "doctor: starting\n" and "You can train: yes" in text
    assert sign < max(0.5, whole / 3)
