"""The worlds in which the readings of a test are judged, and the figures that the guide has of them."""

import re
from pathlib import Path

import numpy as np

from bench.study import page_tests
from pygrade.evaluation.decision import MARGIN, deciding_estimator
from pygrade.evaluation.plan_readings import items_compete
from pygrade.evaluation.readings import DIFFER, ESTIMATORS, ITEMS, PREDICTED


def test_where_visits_buy_one_thing_what_earns_nothing_reads_better_by_slots_and_whole_pages_decide():
    pool = page_tests.make_pool("buy23", 4_000, 0)
    control, new = page_tests.tune(pool, 0.0, 0, price=-0.3)
    earned = page_tests.expected(pool, control).sum()
    assert abs(page_tests.lift_of(pool, control, new)) < 1e-3
    assert min(page_tests.closed_form(pool, control, new)) / earned > MARGIN
    rng = np.random.default_rng(0)
    for world, compete in (("buy4", True), ("buy23", True), ("prices", False), ("effects", False)):
        pool = page_tests.make_pool(world, 2_000, 1)
        page = page_tests.rank(np.log(pool.guess))
        gate = items_compete(page_tests.log_of(pool, [page, page], np.zeros(2_000, int), rng))
        assert gate.compete == compete and deciding_estimator({ITEMS: 0.0, DIFFER: 0.0}, gate.compete) == (
            PREDICTED if compete else ITEMS
        )


def test_the_guide_has_the_figures_of_the_study():
    root = Path(__file__).parents[3]
    results, needed = page_tests.RESULTS.read_text(encoding="utf-8"), page_tests.needed_requests().values()
    guide = (root / "docs/guides/ab-tests.md").read_text(encoding="utf-8")
    table = "".join(re.findall(r"^\| (?:whole|below|slots|item) .*\| ([\d,; ]+) \|$", guide, re.M)).replace(";", "")
    said = [int(text.replace(",", "")) for text in re.findall(r"\d+,\d+", table.replace("000", "000 "))]
    assert said == [round(number, -3) for number in needed] and len(said) == len(ESTIMATORS)
    named = {w: int(n) for w, n in re.findall(r"gate, (\w+): competes (\d+) of 40", results)}
    assert named == {"prices": 1, "effects": 1, "returning": 0, "buy4": 40, "buy23": 40, "buy68": 40}
