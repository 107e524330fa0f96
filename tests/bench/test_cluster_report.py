"""The figures of runs on a cluster are those of the committed results."""

from pathlib import Path

import pytest

from bench.report import cluster, results

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", cluster.PAGES)
def test_a_page_says_what_the_committed_results_say(page):
    text = (ROOT / page).read_text()
    assert cluster.with_figures(text, results.RESULTS) == text, "run python -m bench report"


def test_every_block_is_on_a_page():
    text = "".join((ROOT / page).read_text() for page in cluster.PAGES)
    assert [name for name in cluster.BLOCKS if f"<!-- {name}:begin" not in text] == []


def test_a_block_without_results_says_so_and_one_without_an_end_is_refused(tmp_path):
    begin = "<!-- kills:begin, written by python -m bench report -->"
    made = cluster.with_figures(f"a\n{begin}\nold\n<!-- kills:end -->\nb", tmp_path)
    assert made == f"a\n{begin}\nNot measured yet: `python -m bench.cluster.kills`\n<!-- kills:end -->\nb"
    with pytest.raises(ValueError, match="kills:begin and no kills:end"):
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
    text = cluster.kills(record)
    assert "of 2 pipelines on 3 nodes" in text and "3 workers, 1 node." in text and said in text and "`abc`" in text
