"""A prerank that loses to popularity is not published, unless it is asked for."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.pipeline import CheckConfig
from pygrade.pipeline import prerank
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.prerank import POPULAR, TOWERS, loses
from pygrade.pipeline.run import run_pipeline, warnings_of
from pygrade.serving.pipeline import Pipeline
from tests.pipeline.test_run import summary_of
from tests.pipeline.world import CONFIG, copy


def recall(n, low, high):
    gap = {"value": None if low is None else (low + high) / 2, "low": low, "high": high}
    return {"n": n, "recall": {"value": 0.1}, "popularity_recall": {"value": 0.2}, "difference": gap}


def test_the_longest_list_decides():
    assert loses([recall(50, 0.1, 0.2), recall(500, -0.2, -0.1)])
    assert not loses([recall(500, -0.2, 0.1), recall(50, -0.2, -0.1)])
    assert not loses([recall(500, None, None)])


def test_the_sentence_says_what_is_published():
    record = {"recall": [recall(500, -0.2, -0.1)], "published": POPULAR}
    (sentence,) = warnings_of({"prerank": record})
    assert "difference -0.150, 95 %: -0.200 … -0.100" in sentence and "--keep-prerank" in sentence
    (sentence,) = warnings_of({"prerank": record | {"published": TOWERS}})
    assert "The two towers are published" in sentence
    assert warnings_of({"prerank": {"recall": [recall(500, -0.2, 0.1)], "published": TOWERS}}) == []


@pytest.mark.parametrize("keep", [False, True])
def test_what_loses_is_replaced_and_pages_stay_equal(run, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(prerank, "loses", lambda recalls: True)
    other = copy(run, tmp_path / "run")
    config = replace(CONFIG, keep_prerank=keep, prerank=replace(CONFIG.prerank, seed=0, dropout=0.2))
    record = run_pipeline(f"logs:{run.parent / 'log'}", other, config)["stages"]["prerank"]
    assert record["published"] == (TOWERS if keep else POPULAR)
    assert f"Published: {record['published']}." in (other / "report.html").read_text()
    found = serve_check(other, CheckConfig(requests=8, candidates=30, k=5))
    assert found["equal_pages"] == 8 and found["equal_candidates"] == 8
    system = Pipeline.load(other, seed=0)
    lists = [system.rank(user, candidates=30, timestamp=1_700_003_000_000).features.item_id for user in (3, 17)]
    assert np.array_equal(*lists) != keep
    system.close()


def test_the_world_of_these_tests_says_what_it_published(run):
    stages = summary_of(run)["stages"]
    assert stages["prerank"]["published"] == (POPULAR if loses(stages["prerank"]["recall"]) else TOWERS)
