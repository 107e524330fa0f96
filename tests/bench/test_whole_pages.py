"""The study of whole pages: its search is the op's, and its results reach the docs."""

import json

import numpy as np
import pytest
import torch

from bench.study.report import PAGE, add_to_docs
from bench.study.tables import Section
from bench.study.whole_pages import BEAM, beam_pages
from bench.study.whole_pages_report import targets, whole_pages
from pygrade import ops


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
