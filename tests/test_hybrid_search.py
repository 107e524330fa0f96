"""The example of hybrid search on a made-up corpus: it runs, and says where nothing is to be learned per query."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.documents import ROOT
from tests.service.conftest import needs_server

SCRIPT = ROOT / "examples/python/hybrid_search.py"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """400 packages in the format of apt's lists: each of a topic, with words and tags of it."""
    rng, blocks = np.random.default_rng(0), []
    for i in range(400):
        topic = i % 8
        text = " ".join(f"t{topic}w{w}" if rng.random() < 0.7 else f"w{w}" for w in rng.integers(0, 30, 6))
        tags = ", ".join({f"use::{topic}", f"works::{topic}-{rng.integers(4)}", f"role::{rng.integers(3)}"})
        fields = {"Package": f"lib{topic}-{i}", "Source": f"s{i // 2}", "Depends": f"d{topic}, e{i % 5} (>= 1)"}
        fields |= {"Section": f"sec{topic}", "Description": text, "Tag": tags}
        blocks.append("\n".join(f"{name}: {value}" for name, value in fields.items()))
    file = tmp_path_factory.mktemp("corpus") / "Packages"
    file.write_text("\n\n".join(blocks) + "\n")
    return file


def run(corpus, tmp_path, *arguments):
    command = [sys.executable, SCRIPT, "--corpus", corpus, "--out", tmp_path, "--result", tmp_path / "result.json"]
    done = subprocess.run([*map(str, command), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "result.json").read_text()), done.stdout


@pytest.mark.slow
def test_the_example_runs_and_writes_the_files_of_engines(corpus, tmp_path):
    needs_server()
    result, printed = run(corpus, tmp_path, "--requests", "600")
    assert result["verdict"] in printed and len(SCRIPT.read_text().splitlines()) <= 150
    assert 0 < result["weights_latency"]["p50_us"] <= result["weights_latency"]["p99_us"]
    processor = json.loads((tmp_path / "opensearch.json").read_text())["phase_results_processors"][0]
    weights = processor["normalization-processor"]["combination"]["parameters"]["weights"]
    assert sum(weights) == pytest.approx(1) and len(weights) == 3
    assert (tmp_path / "elasticsearch.json").is_file() and (tmp_path / "vespa.profile").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("world", ["same", "random"])
def test_nothing_to_learn_per_query_keeps_one_set_of_weights(corpus, tmp_path, world):
    result, _ = run(corpus, tmp_path, "--requests", "1000", "--world", world, "--no-server")
    assert not result["per_query"] and not result["verdict"].startswith("Test the new ranking")
    if world == "random":
        assert result["verdict"].startswith(("Keep what you have", "Not decidable"))
        assert all(abs(value) < 1e-6 for value, _, _ in result["lifts"].values())  # all clicks are alike


def test_a_machine_without_packages_gets_a_hint(tmp_path):
    (tmp_path / "empty").write_text("")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--corpus", tmp_path / "empty"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1 and "expected 300: run apt-get update, or --corpus FILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1
