"""The figures of the guide to clusters are those of the committed results."""

import json
from pathlib import Path

import pytest

from bench.report import cluster, results

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_the_committed_results_say():
    page = (ROOT / cluster.PAGE).read_text()
    assert cluster.with_figures(page, results.RESULTS) == page, "run python -m bench report"


def test_every_block_is_on_the_page():
    page = (ROOT / cluster.PAGE).read_text()
    assert [name for name in cluster.BLOCKS if f"<!-- {name}:begin" not in page] == []


def test_a_block_without_results_says_so_and_one_without_an_end_is_refused(tmp_path):
    begin = "<!-- kills:begin, written by python -m bench report -->"
    made = cluster.with_figures(f"a\n{begin}\nold\n<!-- kills:end -->\nb", tmp_path)
    assert made == f"a\n{begin}\nNot measured yet: `python -m bench.cluster.kills`\n<!-- kills:end -->\nb"
    with pytest.raises(ValueError, match="kills:begin has no kills:end"):
        cluster.with_figures(begin, tmp_path)


@pytest.mark.parametrize(("same", "said"), [(True, "every run ended with the same"), (False, "NOT every run ended")])
def test_kills_say_what_came_of_them(tmp_path, same, said):
    record = {
        "killed": {"worker": 3, "node": 1},
        "runs": [{}, {}, {}],
        "nodes": 3,
        "all_same": same,
        "expected": {"version": "abc"},
    }
    (tmp_path / "cluster_kills.json").write_text(json.dumps(record))
    text = cluster.kills(tmp_path)
    assert "of 2 pipelines on 3 nodes" in text and "3 workers, 1 node." in text and said in text and "`abc`" in text
