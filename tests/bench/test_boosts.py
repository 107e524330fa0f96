from pathlib import Path

import numpy as np
import pytest

from bench.report import boosts


def test_the_picture_shows_what_the_rule_does():
    scores = np.linspace(2, -2, 30, dtype=np.float32)
    assert min(boosts.places_gained(scores, by_product=False)[15:]) == 0 < max(boosts.places_gained(scores, False)[15:])
    assert min(boosts.places_gained(scores, by_product=True)[15:]) < 0
    assert boosts.places_gained(scores, True)[:15] == boosts.places_gained(scores, False)[:15]


def test_the_page_has_the_picture():
    pytest.importorskip("matplotlib")
    assert boosts.picture().startswith(b"\x89PNG") and boosts.TARGET.stat().st_size > 10_000
    assert boosts.TARGET.name in Path(boosts.TARGET.parent / "rules.md").read_text(encoding="utf-8")
