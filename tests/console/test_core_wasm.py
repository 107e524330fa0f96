"""The console's WebAssembly gives the bits of the core, and is what its sources make."""

import hashlib
import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import pygrade
from devtools import console_wasm
from pygrade import ops
from pygrade.console.arms import network_record
from pygrade.console.collect import collect
from pygrade.console.run_files import find_run
from pygrade.ops.fusion import TRANSFORMS
from pygrade.policy import PageTerms
from pygrade.policy.alone import baseline_alone
from pygrade.policy.mixture import EPSILON, Baseline
from pygrade.serving.ranker import BlendedRanker
from tests.console.conftest import CONFIG, make_run
from tests.console.node import SOURCES, call, needs_node
from tests.goldens import load

FORMULA = {"beta": 1e-7, "epsilon": 1e-3}


def formula(transform="identity", slope=None):
    return {"transform": TRANSFORMS.index(transform), "slope": slope, **FORMULA}


def core(name, *given):
    return {"call": "core", "name": name, "given": list(given)}


def same_bits(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected).reshape(-1)
    missing = np.isnan(actual) & np.isnan(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert bool(((actual.view(np.int32) == expected.view(np.int32)) | missing).all())


@needs_node
def test_goldens_of_fusion_have_the_same_bits(tmp_path):
    calls, wanted = [], []
    for golden in load("fusion"):
        given = golden.arguments
        if golden.op != "fuse_scores" or given["scores"].dtype != torch.float32 or "mask" in given:
            continue
        scores, weights, result = given["scores"], given["weights"], golden.outputs[""].numpy()
        offsets = given.get("offsets", torch.arange(len(scores) + 1) * scores.shape[1]).numpy().astype(np.int32)
        weights = weights[None] if weights.dim() == 2 else weights.transpose(0, 1)  # of each sample
        if "offsets" not in given:
            result = result.reshape(len(scores), len(weights), -1).swapaxes(0, 1)
        how, rows = formula(given.get("transform", "identity")), scores.numpy().reshape(-1)
        for sample, expected in zip(weights.contiguous().numpy(), result, strict=True):
            calls.append(core("fuse", rows, offsets, scores.shape[-1], sample, how))
            wanted.append(expected)
    assert len(calls) >= 28
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        same_bits(actual, expected)


@needs_node
def test_random_requests_have_the_bits_of_the_ops(tmp_path):
    rng = np.random.default_rng(0)
    calls, wanted = [], []
    for transform in TRANSFORMS:
        for tasks in (1, 3, 6, 17):
            sizes = rng.integers(1, 300, 7)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            rows = rng.choice([0.0, 1e-30, 1e-4, 0.2, 0.5, 1.0, np.nan], (offsets[-1], tasks)).astype(np.float32)
            rows[::2] = rng.random((len(rows[::2]), tasks)).astype(np.float32)
            weights = rng.dirichlet(np.ones(tasks), 7).astype(np.float32)
            slope = rng.uniform(0, 50, tasks).astype(np.float32)
            given = torch.from_numpy(rows), torch.from_numpy(weights)
            options = {"transform": transform, "offsets": torch.from_numpy(offsets), "slope": torch.from_numpy(slope)}
            wanted.append(pygrade.transform_scores(given[0], **options).numpy())
            wanted += [
                pygrade.fuse_scores(given[0], w, **options).numpy() for w in (given[1], given[1][:1].repeat(7, 1))
            ]
            start, how = [rows.reshape(-1), offsets.astype(np.int32), tasks], formula(transform, slope.tolist())
            calls += [core("transform", *start, how), core("fuse", *start, weights, how)]
            calls.append(core("fuse", *start, weights[0], how))
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        same_bits(actual, expected)


@needs_node
def test_pages_with_caps_and_boosts_are_those_of_rank(tmp_path):
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.integers(-9, 9, (4, 50)).astype(np.float32) / 8)
    multiply = torch.from_numpy(rng.choice([1.0, 0.5, 1.2, 3.0], (4, 50)).astype(np.float32))
    add = torch.from_numpy(rng.choice([0.0, 0.25], (4, 50)).astype(np.float32))
    groups, caps = (
        torch.from_numpy(rng.integers(0, 4, (4, 50, 1)).astype(np.int32)),
        torch.tensor([2], dtype=torch.int32),
    )
    offsets = np.arange(5, dtype=np.int32) * 50
    rules = {"boostMul": multiply.numpy(), "boostAdd": add.numpy(), "groups": groups.numpy(), "caps": caps.numpy()}
    expected = pygrade.rank(
        scores[..., None], torch.ones(4, 1), 12, boost_mul=multiply, boost_add=add, groups=groups, caps=caps
    )
    plain = pygrade.rank(scores[..., None], torch.ones(4, 1), 60)
    first, second = call(
        tmp_path, core("rank", scores.numpy(), offsets, 12, rules), core("rank", scores.numpy(), offsets, 60)
    )
    assert np.array_equal(first, expected.indices.numpy().reshape(-1)) and -1 in first
    assert np.array_equal(second, plain.indices.numpy().reshape(-1))


@needs_node
@pytest.mark.parametrize("beam", [1, 8])
def test_pages_by_page_terms_are_those_of_the_search(tmp_path, beam):
    rng = np.random.default_rng(4)
    scores, root = (rng.random(90).astype(np.float32) * scale for scale in (np.float32(2), np.float32(1)))
    codes = rng.integers(-1, 3, 90).astype(np.int32)
    units = rng.normal(size=(90, 5)).astype(np.float32)
    units[7] = 0
    pairs = rng.uniform(-1, 0.5, (3, 3)).astype(np.float32)
    attention = np.array([1.0, 0.6, 0.3], np.float32)
    offsets = np.array([0, 40, 41, 90], np.int32)
    terms = {"attention": attention, "pairs": pairs.reshape(-1), "categories": 3, "dimension": 5, "beam": beam}
    terms["cosine"] = -0.25
    scale = np.linalg.norm(units.astype(float), axis=1, keepdims=True)
    given = {
        "categories": torch.from_numpy(codes),
        "embeddings": torch.from_numpy((units / np.where(scale > 0, scale, 1)).astype(np.float32)),
        "pairs": torch.from_numpy(pairs),
        "cosine": -0.25,
        "beam": beam,
        "offsets": torch.from_numpy(offsets.astype(np.int64)),
    }
    slots = torch.from_numpy(attention[[0, 1, 2, 2, 2, 2]])
    calls, wanted = [], []
    for strength in (1.0, 0.5):
        calls.append(core("search", terms, strength, scores, root, codes, units.reshape(-1), offsets, 6))
        found = pygrade.search_page(
            torch.from_numpy(scores - root), torch.from_numpy(root), 6, slots * strength, slots, **given
        )
        wanted.append(found.indices.numpy().reshape(-1))
    calls.append(core("search", terms, 0.0, scores, root, codes, None, offsets, 6))
    wanted.append(
        pygrade.rank(torch.from_numpy(scores)[:, None], torch.ones(3, 1), 6, offsets=given["offsets"]).indices
    )
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        assert np.array_equal(actual, np.asarray(expected).reshape(-1))
    assert not np.array_equal(wanted[0], wanted[1])


@needs_node
def test_the_slider_of_page_terms_goes_from_the_order_of_the_scores_to_the_served_page(tmp_path):
    terms = PageTerms("click", [1.0, 0.7], ("bags", "shoes"), [[-2.0, 0.1], [0.0, -1.5]])
    run = make_run(tmp_path, trade_offs=False, requests=120, stages=False, page_terms=terms)
    found = find_run(run, f"logs:{tmp_path / 'logs'}", CONFIG)
    record = collect(found, CONFIG)
    sliders = {"mode": "served", "weights": np.array([0.5, 0.5], np.float32), "multipliers": np.ones(2, np.float32)}
    moved = [{"call": "page", "record": record, "sliders": sliders | {"strength": s}} for s in (1.0, 0.0)]
    searched, by_scores = call(tmp_path, *moved)
    ids = found.held_out.request_id.astype(str).tolist()
    logs = found.held_out.select(np.array([ids.index(name) for name in record["browsed"]["requests"]]))
    ranker = BlendedRanker(found.policy)
    assert searched["check"]["same"] == searched["check"]["all"] > 0
    assert np.array_equal(searched["pages"], ranker.rank_log(logs, 3).indices.reshape(-1))
    assert np.array_equal(by_scores["pages"], ranker.rank_log(logs, 3, page_terms=False).indices.reshape(-1))
    assert not np.array_equal(searched["pages"], by_scores["pages"])


@needs_node
def test_baselines_and_mixtures_have_the_same_bits(tmp_path):
    rng = np.random.default_rng(2)
    offsets = np.array([0, 30, 31, 90])
    rows = rng.random((90, 2)).astype(np.float32)
    prices = rng.uniform(1, 9, 90).astype(np.float32)
    multipliers = np.array([0.5, 4.0], np.float32)
    knots = (((0.0, 0.5, 1.0), (0.0, 0.1, 0.9)), ((0.0, 1.0), (0.0, 0.5)))
    made = [
        Baseline("a", "identity", (1.0, 20.0), True, ("order",), knots),
        Baseline("b", "zlog", (0.3, 0.7)),
        Baseline("c", "identity", (1.0, -2.0), calibration=knots),
    ]
    calls, wanted = [], []
    options = {"transform": "zlog", "slope": 1.0, **FORMULA}
    for entry in made:
        turned = replace(entry, weights=tuple((np.float32(entry.weights) * multipliers).tolist()))
        alone = baseline_alone(turned, ("click", "order"), options)
        wanted.append(alone.scores(None, rows, offsets, item_values=prices))
        record = {"weights": list(entry.weights), "logarithm": entry.logarithm, "calibration": entry.calibration}
        priced = [task in entry.value_tasks for task in ("click", "order")]
        small = offsets.astype(np.int32)
        form = formula(entry.transform)
        calls.append(core("baseline", rows.reshape(-1), small, 2, record, form, multipliers, priced, prices))
    for trust in (0.0, 0.3, 1.0 - 2**-20):
        base, fused = wanted[0], wanted[1]
        calls.append(core("mix", base, fused, small, trust))
        pair, weights = torch.from_numpy(np.stack([base, fused], 1)), torch.tensor([[1.0 - trust, trust]])
        mixed = {"offsets": torch.from_numpy(offsets), "transform": "zscore", "epsilon": EPSILON}
        wanted.append(ops.fuse_scores(pair, weights.repeat(3, 1), **mixed).numpy())
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        same_bits(actual, expected)


@needs_node
def test_the_network_serves_the_weights_of_the_ranker(tmp_path, found):
    logs, policy = found.held_out, found.policy
    context = logs.context.copy()
    context[3, 0] = np.nan
    scenario = [str(name) for name in logs.scenario]
    calls, wanted = [], []
    for u in ([1.0, 1.0], [8.0, 0.125], [0.0, 3.0]):
        page = BlendedRanker(policy, seed=0).rank(
            context,
            logs.predictions,
            1,
            offsets=logs.offsets,
            scenario=scenario,
            values=dict(zip(policy.tasks, u, strict=True)),
        )
        wanted.append(page.weights)
        given = [
            context.reshape(-1),
            logs.predictions.reshape(-1),
            logs.offsets.astype(np.int32),
            np.array([policy.scenarios.index(name) for name in scenario], np.int32),
            np.array(u, np.float32),
        ]
        call_of = {"call": "policy_weights", "network": network_record(policy), "tasks": 2, "given": given}
        calls.append(call_of | {"formula": formula(policy.config.transform)})
    for actual, expected in zip(call(tmp_path, *calls), wanted, strict=True):
        same_bits(actual, expected)


@needs_node
def test_hashes_and_errors(tmp_path):
    (digits,) = call(tmp_path, core("sha256", np.frombuffer(b"pygrade", np.uint8)))
    assert digits == hashlib.sha256(b"pygrade").hexdigest()
    rows = np.array([-1.0, 0.5], np.float32)
    with pytest.raises(AssertionError, match="scores is negative at request 0, candidate 0, task 0"):
        call(tmp_path, core("transform", rows, np.array([0, 2], np.int32), 1, formula("log")))


def test_the_wasm_is_made_from_the_sources():
    record = json.loads((SOURCES / "core.json").read_text(encoding="utf-8"))
    content = (SOURCES / "core.wasm").read_bytes()
    assert record["wasm_sha256"] == hashlib.sha256(content).hexdigest()
    assert record["sources_sha256"] == console_wasm.source_hash(), "run python -m devtools.console_wasm"
    assert "csrc/src/simd/fuse.hpp" in console_wasm.sources() and "csrc/src/util/parallel.hpp" in console_wasm.sources()


@pytest.mark.slow
def test_the_sources_make_the_wasm_again(tmp_path):
    record = json.loads((SOURCES / "core.json").read_text(encoding="utf-8"))
    if importlib.util.find_spec("ziglang") is None or importlib.metadata.version("ziglang") != record["ziglang"]:
        pytest.skip(f"ziglang {record['ziglang']} is not installed")
    assert console_wasm.build(tmp_path / "core.wasm") == (SOURCES / "core.wasm").read_bytes()
