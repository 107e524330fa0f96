"""The study of experiments over weeks: the guide shows its committed tables, and a small experiment runs."""

import json

import numpy as np
import pytest

from bench.study import longterm, longterm_tables


def test_the_guide_shows_the_committed_tables():
    record = json.loads(longterm_tables.RESULT.read_text(encoding="utf-8"))
    guide = longterm_tables.GUIDE.read_text(encoding="utf-8")
    shown = guide.partition(longterm_tables.BEGIN)[2].partition(longterm_tables.END)[0]
    assert shown.strip() == longterm_tables.markdown(record).strip()
    for name, part in record.items():
        assert part["settings"] == longterm.SETTINGS["parts"][name]  # run as the protocol has it


def test_shares_and_targets_come_from_the_cells():
    entries = [{"chosen": 1.0, "gain": 0.03, "best": 0.04}, {"chosen": 0.0, "gain": 0.0, "best": 0.04}]
    cell = longterm.summed(entries)
    assert cell["share"] == 0.375 and cell["chosen"] == 0.5 and cell["experiments"] == 2
    record = {"effect 0.3": {"cells": {"30000 28-day money": cell, "30000 meaningless labels, 28-day money": cell}}}
    assert longterm_tables.meaningless(record) == (1, 2)
    met = {name: met for name, _, _, met in longterm_tables.targets(record)}
    assert not met["28-day money, effect 0.3, 30,000 users"] and len(met) == 2


@pytest.mark.slow
def test_every_part_runs_on_a_development_world(monkeypatch):
    small = {"real_users": 300, "sessions": 1500, "logged_requests": 1000, "true_users": 2000}
    monkeypatch.setattr(longterm, "SETTINGS", longterm.SETTINGS | small)
    shared = {"worlds": [[9601, "daily"]], "grid": "price", "guard": 0.5, "effects": [0.6], "seed": 1}
    parts = [
        {"part": "main", "pool": 4000, "pools": 1, "sizes": [2000], "most": 2},
        {"part": "segments", "users": 30_000, "runs": 1},
        {"part": "cohorts", "users": 8000, "runs": 1, "pages": "assumed"},
    ]
    for part in parts:
        cells = longterm.run(shared | part)
        assert cells and all(np.isfinite(list(cell.values())).all() for cell in cells.values())
