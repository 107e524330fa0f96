"""The console's WebAssembly serves the pages of `BlendedRanker`, bit for bit, and is what its sources make."""

import base64
import dataclasses
import gzip
import hashlib
import importlib.util
import json

import numpy as np
import pytest
import torch

from devtools import console_wasm
from pygrade.config.policy import PolicyConfig
from pygrade.console.collect import collect
from pygrade.console.run_files import find_run
from pygrade.ops.fusion import TRANSFORMS
from pygrade.policy import Baseline, FusionPolicy, Mixture, PageTerms, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from tests.console.conftest import CONFIG, make_run
from tests.console.node import SOURCES, call, needs_node, page, sliders
from tests.corrections import random_correction
from tests.learning import tiny_logs

KNOTS = (((0.0, 0.5, 1.0), (0.0, 0.1, 0.9)), ((0.0, 1.0), (0.0, 0.5)))
PRICED = Baseline("a", "identity", (1.0, 20.0), True, ("order",), KNOTS)


def policies(logs):
    """One of each formula, mixed with baselines, corrected, and with prices."""
    mixtures = (None, Mixture(0.3, PRICED), Mixture(0.0, Baseline("b", "zlog", (0.3, 0.7)), challenger=PRICED))
    for number, transform in enumerate(TRANSFORMS):
        config = PolicyConfig(hidden=(8,), transform=transform, trade_offs=number % 2 == 0)
        policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config), [0.4, 0.6], seed=number)
        policy.mixture = mixtures[number % 3]
        policy.set_static_weights(torch.tensor([0.5, 0.5]), {"buy": torch.tensor([0.2, 0.8])})
        yield policy
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig(value_tasks=("order",))), seed=9)
    policy.correction = random_correction(tasks=logs.tasks, features=logs.features, items=())
    policy.mixture = Mixture(0.6, dataclasses.replace(PRICED, corrected=True))
    yield policy


@needs_node
def test_pages_scores_and_weights_have_the_bits_of_the_ranker(tmp_path):
    logs = tiny_logs(60, jagged=True)
    rng = np.random.default_rng(0)
    prices = rng.uniform(1, 9, logs.num_rows).astype(np.float32)
    context, rows = logs.context.copy(), logs.predictions.copy()
    context[3], rows[7, 0], rows[20:25, 1] = np.nan, np.nan, 1e-30
    logs = dataclasses.replace(logs, value=prices)
    requests = {
        "predictions": rows,
        "context": context,
        "item_values": prices,
        "offsets": logs.offsets.astype(np.int32),
    }
    calls, wanted = [], []
    for policy in policies(logs):
        text, tensors = policy.artifact()
        files = {"json": text.decode(), "tensors": np.frombuffer(tensors, np.uint8)}
        known = list(policy.scenarios)
        places = [known.index(name) if name in known else -1 for name in logs.scenario.tolist()]
        named = requests | {"scenario": {"names": known, "places": np.array(places, np.int32)}}
        calls.append({"call": "rank", "policy": files, "requests": named, "tasks": 2, "k": 12, "search": False})
        names = [str(name) for name in logs.scenario]
        given = {"offsets": logs.offsets, "scenario": names, "item_values": prices, "as_logged": True}
        wanted.append(BlendedRanker(policy, seed=0).rank(context, rows, 12, **given))
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        assert np.array_equal(actual["indices"], expected.indices.reshape(-1))
        for name, values in (("scores", expected.values), ("weights", expected.weights)):
            assert np.array_equal(actual[name], np.asarray(values).reshape(-1), equal_nan=True), name


@needs_node
def test_the_served_page_is_searched_by_page_terms(tmp_path):
    terms = PageTerms("click", [1.0, 0.7], ("bags", "shoes"), [[-2.0, 0.1], [0.0, -1.5]])
    run = make_run(tmp_path, trade_offs=False, requests=120, stages=False, page_terms=terms)
    found = find_run(run, f"logs:{tmp_path / 'logs'}", CONFIG)
    record = collect(found, CONFIG)
    (result,) = call(tmp_path, page(record, sliders(mode="served")))
    ids = found.held_out.request_id.astype(str).tolist()
    logs = found.held_out.select(np.array([ids.index(name) for name in record["requests"]["names"]]))
    searched, by_scores = (BlendedRanker(found.policy).rank_log(logs, 3, page_terms=on).indices for on in (True, False))
    assert result["check"]["same"] == result["check"]["all"] > 0
    assert np.array_equal(result["pages"], searched.reshape(-1))
    assert not np.array_equal(searched, by_scores)


@needs_node
def test_hashes_and_errors(tmp_path, record):
    (digits,) = call(tmp_path, {"call": "sha256", "content": np.frombuffer(b"pygrade", np.uint8)})
    assert digits == hashlib.sha256(b"pygrade").hexdigest()
    files = record["arms"][0]["policy"]
    given = {"call": "rank", "requests": record["requests"], "tasks": 2, "k": 3, "search": False}
    tensors = record["tensors"][files["tensors"]]
    with pytest.raises(AssertionError, match="damaged or edited"):
        edited = {"json": files["json"].replace("best", "rest").replace("0.5", "0.7"), "tensors": tensors}
        call(tmp_path, given | {"policy": edited})
    with pytest.raises(AssertionError, match="truncated"):
        call(tmp_path, given | {"policy": {"json": files["json"], "tensors": tensors[:-4]}})


def wasm():
    return gzip.decompress(base64.b64decode((SOURCES / "core.txt").read_text(encoding="utf-8")))


def test_the_wasm_is_made_from_the_sources():
    record = json.loads((SOURCES / "core.json").read_text(encoding="utf-8"))
    assert record["wasm_sha256"] == hashlib.sha256(wasm()).hexdigest()
    assert record["sources_sha256"] == console_wasm.source_hash(), "run python -m devtools.console_wasm"
    assert "csrc/src/simd/fuse.hpp" in console_wasm.sources() and "csrc/src/util/parallel.hpp" in console_wasm.sources()


@pytest.mark.slow
def test_the_sources_make_the_wasm_again(tmp_path):
    record = json.loads((SOURCES / "core.json").read_text(encoding="utf-8"))
    if importlib.util.find_spec("ziglang") is None or importlib.metadata.version("ziglang") != record["ziglang"]:
        pytest.skip(f"ziglang {record['ziglang']} is not installed")
    assert console_wasm.build(tmp_path / "core.wasm") == wasm()
