"""The figures of runs on a cluster are those of the committed results."""

import json
from pathlib import Path

import pytest

from bench.report import cluster, results, summary

COMMITTED = summary.read_summary(results.RESULTS / summary.CLUSTER)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", cluster.PAGES)
def test_a_page_says_what_the_committed_results_say(page):
    text = (ROOT / page).read_text()
    assert cluster.with_figures(text, COMMITTED) == text, "run python -m bench report"


def test_every_block_is_on_a_page():
    text = "".join((ROOT / page).read_text() for page in cluster.PAGES)
    assert [name for name in cluster.BLOCKS if f"<!-- {name}:begin" not in text] == []


def test_a_block_without_results_says_so_and_one_without_an_end_is_refused():
    begin = "<!-- kills:begin, written by python -m bench report -->"
    made = cluster.with_figures(f"a\n{begin}\nold\n<!-- kills:end -->\nb", {})
    assert made == f"a\n{begin}\nNot measured yet: `python -m bench.cluster.kills`\n<!-- kills:end -->\nb"
    with pytest.raises(ValueError, match="kills:begin and no kills:end"):
        cluster.with_figures(begin, {})


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
    summary.update(tmp_path, tmp_path, {})
    text = cluster.kills(summary.read_summary(tmp_path / summary.CLUSTER)["kills"])
    assert "of 2 pipelines on 3 nodes" in text and "3 workers, 1 node." in text and said in text and "`abc`" in text


def test_the_cost_is_that_of_the_shortest_and_the_longest_log(tmp_path):
    seconds = {"alone": 4.0, "local:1": 6.0, "local:2": 4.8}
    run = {name: {"seconds": value, "largest_mib": 90.4} for name, value in seconds.items()}
    record = {"machine": {"processor": "P", "torch": "2"}, "runs": [{"rows": 1000, **run}]}
    (tmp_path / "cluster_throughput.json").write_text(json.dumps(record))
    summary.update(tmp_path, tmp_path, {})
    text = cluster.throughput(summary.read_summary(tmp_path / summary.CLUSTER)["throughput"])
    assert "(P)" in text and "1.2 × as fast as one on 1,000 rows;" in text
    assert "takes 50 % longer" in text and "90 MiB" in text
