"""The study of whole pages: its search is the op's, and its results reach the docs."""

import json

import numpy as np
import pytest
import torch

from bench.study import further
from bench.study.report import PAGE, add_to_docs
from bench.study.tables import Section
from bench.study.whole_pages import BEAM, VALUES, Search, beam_pages
from bench.study.whole_pages_grpo import Problem, served, train
from bench.study.whole_pages_report import IN_GUIDE, grpo, targets, whole_pages
from pygrade import ops
from tests.documents import ROOT


@pytest.mark.parametrize("width", [1, BEAM])
def test_its_search_finds_the_pages_of_the_op(width):
    rng = np.random.default_rng(3)
    value = rng.uniform(0.1, 1.0, (20, 12)).astype(np.float32)
    category = rng.integers(0, 4, (20, 12)).astype(np.int32)
    pairs = rng.normal(0, 0.7, (4, 4)).astype(np.float32)
    attention = np.arange(1.0, 6) ** -0.6
    likeness = pairs[category[:, :, None], category[:, None]]
    page = beam_pages(value.astype(np.float64), likeness, attention, attention, width)
    curve = torch.from_numpy(attention.astype(np.float32))
    given = {"categories": torch.from_numpy(category), "pairs": torch.from_numpy(pairs), "beam": width}
    zero, root = torch.zeros(20, 12), torch.from_numpy(value)
    _, want = ops.search_page(zero, root, 5, curve, curve, **given)
    np.testing.assert_array_equal(page, want.numpy())


RECORD = {"seconds": {"pages": 2.0}, "lost": -12.0, "greedy": 0.7, "beam": 0.6, "mmr": 0.4}
RECORD |= {"greedy, true": 0.8, "beam, true": 0.7}
FOUND = [
    *({"part": "moderate", "world": w, "served": True, "lift": 0.6 + 0.1 * w, **RECORD} for w in (1, 2)),
    {"part": "nothing there, 2,000", "world": 3, "served": True, "lift": -0.2, "seconds": {"pages": 0.3}},
    {"part": "confounded, nothing there", "world": 4, "served": False, "seconds": {"pages": 4.0}},
]


def test_targets_are_judged_by_what_is_served():
    found = {name: (measured, met) for name, _, measured, met in targets(FOUND)}
    assert found["served, moderate"][1] and found["served, moderate"][0].startswith("+0.75")
    assert found["greedy over greedy with true effects, moderate"][1]
    assert found["nothing there"] == ("1 of 1, worst -0.20 %", False)
    assert found["confounded, nothing there"] == ("served in 0 of 1", True)
    assert found["fit of page terms, 20,000 requests"] == ("2.0 s", True)
    assert whole_pages([]) == []


def test_sections_reach_the_docs_in_the_order_of_the_page(tmp_path):
    old = [Section("", "# Results"), Section("The correction", "c"), Section("Findings", "f"), Section("", "foot")]
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / "summary.json"
    path.write_text(json.dumps({"settings": {}, "sections": [section._asdict() for section in old]}))
    for _ in range(2):  # again: replaced
        add_to_docs(tmp_path, whole_pages(FOUND))
    titles = [section["title"] for section in json.loads(path.read_text())["sections"]]
    assert titles == ["", "The correction", "Whole pages", "Targets of whole pages", "Findings", ""]
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| moderate | 20,000 | 2 | -12.00" in text and text.index("## Whole pages") < text.index("## Findings")
    assert "Whole pages" in PAGE


def test_the_guide_shows_what_page_terms_earn(tmp_path):
    """A row stays right while other parts are completed."""
    (tmp_path / "study").mkdir()
    (tmp_path / "guides").mkdir()
    guide = (ROOT / "docs/guides/pages.md").read_text(encoding="utf-8")
    (tmp_path / "guides/pages.md").write_text(guide)
    (tmp_path / "study/summary.json").write_text((ROOT / "docs/study/summary.json").read_text(encoding="utf-8"))
    further.main(tmp_path, [f"whole_pages={ROOT / 'bench/results/whole_pages.json'}"])
    written = (tmp_path / "guides/pages.md").read_text()
    now, then = (text.partition(IN_GUIDE[0])[2].partition(IN_GUIDE[1])[0].splitlines() for text in (written, guide))
    assert len(then) > 3 and set(then) <= set(now)
    assert written.partition(IN_GUIDE[1])[2] == guide.partition(IN_GUIDE[1])[2]


def test_the_guide_cites_what_grpo_earned():
    found = json.loads((ROOT / "bench/results/whole_pages_grpo.json").read_text(encoding="utf-8"))
    (section,) = grpo(found)
    guide = (ROOT / "docs/guides/pages.md").read_text(encoding="utf-8")
    cited = [row[6] for row in section.rows if row[:2] == ["strong", "600"]]
    assert len(cited) == 2 and all(figure in guide for figure in cited)
    assert ("is not served" in section.text) == ("no arm of GRPO is served" in guide)


class Satiation(Search):
    """Forty requests of twelve items in three categories; what is alike takes from what stands below."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.corrected = rng.uniform(0.05, 0.4, (40, 12, 6)).astype(np.float32)
        self.value = self.corrected @ VALUES
        self.examined = self.attention = np.arange(1.0, 5) ** -0.5
        self.category = rng.integers(0, 3, (40, 12))

    def learned(self, rows):
        return -1.5 * (self.category[rows, :, None] == self.category[rows, None]).astype(np.float32)


def test_grpo_finds_the_diversity_that_its_reward_wants():
    search = Satiation()
    problem = Problem(search, torch.from_numpy(search.value[:, :4].astype(np.float32)))
    _, multipliers, diversity = served(train(problem, 0.1, 120, seed=1), problem)
    assert np.median(diversity) > 0.25 and multipliers.shape == (40, 6)
    np.testing.assert_allclose(multipliers.sum(1), 6, rtol=1e-5)
    rows = np.arange(40)
    pages, worth = problem.pages(rows, np.full((40, 2, 6), 1 / 6), np.tile([1.0, 0.0], (40, 1)))
    np.testing.assert_array_equal(np.sort(-search.value, 1)[:, :4], -np.take_along_axis(search.value, pages[:, 1], 1))
    assert worth[:, 0].mean() > worth[:, 1].mean()


def test_grpo_is_served_only_if_it_earns_more_than_greedy_from_both_starts():
    record = {"part": "strong", "served": True, "steps": 600, "greedy": 3.0, "claim": 0.0, "diversity": 0.9}

    def verdict(from_near, from_far):
        more = {1.0: from_near, 0.3: from_far}
        found = [record | {"world": w, "start": s, "grpo": 3.0 + m + 0.01 * w} for s, m in more.items() for w in (1, 2)]
        (section,) = grpo(found)
        assert len(section.rows) == 2
        return "it is served" in section.text

    (section,) = grpo([record | {"world": 1, "start": 1.0, "steps": n, "grpo": n / 600} for n in (600, 2400)])
    assert "against 600 steps on the same world: +3.00 %" in section.text
    assert verdict(0.3, 0.3)
    assert not verdict(0.3, 0.0)
    assert not verdict(0.3, -0.3)
    assert grpo([]) == []
