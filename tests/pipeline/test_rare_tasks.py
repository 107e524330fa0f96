"""Kinds of feedback that are too rare to be valued: their predictions are inputs of training and serving alike."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade import _core
from pygrade.config.pipeline import CheckConfig
from pygrade.features import FeatureSet
from pygrade.logs import read_logs
from pygrade.mtl import TimeSplit
from pygrade.pipeline import mtl
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.mtl import TaskChoice, choose_tasks
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import FusionPolicy
from pygrade.serving.pipeline import Pipeline
from tests.pipeline.test_c_abi import CPipeline, of_python, same
from tests.pipeline.test_run import stage, summary_of
from tests.pipeline.world import CONFIG, copy

TASKS = ("click", "like", "order")


def fewest_events(run):
    """Of each task, in the part of the time that has fewest."""
    features = FeatureSet.open(stage(run, "features") / "set")
    timeline = TimeSplit(**summary_of(run)["stages"]["features"]["timeline"])
    parts = [list(features.batches(*span)) for span in timeline.parts.values()]
    counts = [sum(np.nansum(batch.feedback, 0) for batch in batches) for batches in parts]
    return dict(zip(TASKS, np.min(counts, 0).astype(int).tolist(), strict=True)), features, timeline


@pytest.fixture(scope="module")
def rare(run, tmp_path_factory):
    """A run that values what is more frequent than orders. Do not write into it."""
    counts, *_ = fewest_events(run)
    assert counts["order"] < counts["click"]
    folder = copy(run, tmp_path_factory.mktemp("rare") / "run")
    run_pipeline(f"logs:{run.parent / 'log'}", folder, replace(CONFIG, min_events=counts["order"] + 1))
    return folder


def test_tasks_are_predicted_from_few_events_and_valued_from_more(run, monkeypatch):
    counts, features, timeline = fewest_events(run)
    few = replace(CONFIG, min_events=counts["order"] + 1)
    unvalued = tuple(task for task in TASKS if counts[task] <= counts["order"])
    assert choose_tasks(features, timeline, few) == TaskChoice(TASKS, unvalued, ())
    assert choose_tasks(features, timeline, few, {"click", "order"}).left_out == ("like",)  # nobody predicts it
    monkeypatch.setattr(mtl, "FEWEST", 10**6)
    kept = tuple(task for task in TASKS if task not in unvalued)
    assert choose_tasks(features, timeline, few) == TaskChoice(kept, (), unvalued)
    assert choose_tasks(features, timeline, few, TASKS) == TaskChoice(TASKS, unvalued, ())  # somebody else predicts it
    with pytest.raises(ValueError, match="tasks names 'order', which has"):
        choose_tasks(features, timeline, replace(few, tasks=("click", "order")))


def test_a_rare_task_is_an_input_worth_nothing_and_the_report_names_it(run, rare):
    found = summary_of(rare)["stages"]["mtl"]
    assert found["tasks"] == list(TASKS) and "order" in found["unvalued"] and "click" not in found["unvalued"]
    page, names = (rare / "report.html").read_text(), ", ".join(found["unvalued"])
    assert re.search(
        rf">too rare to be valued: predictions are read, events are worth 0</th><td[^>]*>{names}</td>", page
    )
    for name in ("policy", "evaluate"):
        logs, before = (read_logs(stage(folder, "logs") / name) for folder in (rare, run))
        assert logs.tasks == TASKS and logs.predictions[:, 2].std() > 0
        worth = [0.0 if t in found["unvalued"] else v for t, v in zip(TASKS, before.task_values, strict=True)]
        assert list(logs.task_values) == worth and before.task_values[2] > 0
        assert np.array_equal(logs.feedback, before.feedback)
    assert FusionPolicy.load(rare / "artifact/policy").tasks == TASKS


@pytest.mark.skipif("lmdb" not in [kind for kind, *_, built in _core.store_kinds() if built], reason="needs LMDB")
def test_it_is_served_like_every_other(rare, tmp_path):
    record = serve_check(copy(rare, tmp_path / "checked"), CheckConfig(requests=10, k=5))
    assert record["equal_pages"] == record["requests"] == 10
    mine = copy(rare, tmp_path / "run")
    system = Pipeline.load(mine, seed=0)  # one process opens a store in Python or in C++, not in both at once
    pages = {user: of_python(system, user) for user in (3, 4, 10**12)}
    system.close()
    assert pages[3].predictions.shape == (40, 3) and pages[3].predictions[:, 2].std() > 0
    core = CPipeline(mine / "artifact", f"lmdb:{mine / 'store'}")
    try:
        assert all(same(core.rank(user)[1], page) for user, page in pages.items())
    finally:
        core.close()
