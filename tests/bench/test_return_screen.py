"""The screen of KuaiRand-Pure, against its committed figures."""

import json
import os
from pathlib import Path

import pytest

from bench.evidence.return_screen import return_screen

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif("PYGRADE_DATA" not in os.environ, reason="PYGRADE_DATA names no directory of data sets")
@pytest.mark.slow
def test_return_within_three_days_on_kuairand(tmp_path):
    record = json.loads((ROOT / "bench" / "results" / "return_screen.json").read_text())
    found = return_screen(Path(os.environ["PYGRADE_DATA"]) / "kuairand_pure", tmp_path)
    assert found["exposures"] == record["exposures"] and found["last_day"] == record["last_day"] == "2022-05-01"
    for name, entry in record["behaviors"].items():
        for kind in ("alone", "given_activity"):
            assert found["behaviors"][name][kind]["value"] == pytest.approx(entry[kind]["value"], abs=1e-6), name
