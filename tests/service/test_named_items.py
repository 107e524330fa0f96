"""Items with names keep their item effects, and their names, in Python, the C ABI and over HTTP: the same bits."""

import ctypes
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from pygrade import BlendedRanker, FusionPolicy
from pygrade._util.hashing import stable_id
from pygrade.logs import Logs, read_logs
from pygrade.logs.keys import hashes
from pygrade.policy import PolicySpec
from pygrade.policy.correction import Correction, ItemEffects
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.runs.fit import fit
from tests.correction.test_fit import world
from tests.correction.test_train import FAST
from tests.documents import ROOT
from tests.service.conftest import needs_server, serving
from tests.serving.test_embedding import library

TASKS, K, N = ("click", "order"), 5, 12
QUICK = ("--log", "none", "--deadline-ms", "60000")
# Decimal digits are a number wherever they come from; no number: a 0 in front, a sign, more than 63 bits.
NAMES = ["p7", "ü 漢 \U0001f600", "7", "0", "007", "-3", "9007199254740993", str(2**63 - 1), str(2**63)]
CATALOG = np.array([*NAMES, *(f"sku-{i}" for i in range(40))])


def leveled_policy(known):
    """A policy that ranks by corrected expected value, with random levels of the items of a catalog."""
    values = np.random.default_rng(4).normal(size=(len(known), len(TASKS))).astype(np.float32)
    keys = hashes(known)
    order = np.argsort(keys)
    policy = FusionPolicy(PolicySpec(TASKS, ("hour",)))
    policy.correction = Correction.identity(TASKS, ("hour",)).with_item_effects(ItemEffects(keys[order], values[order]))
    policy.mixture = Mixture(0.0, Baseline("corrected", "identity", (1.0, 8.0), True, corrected=True))
    return policy


def requests_of(catalog, count=40):
    rng = np.random.default_rng(3)
    return Logs(
        tasks=TASKS,
        features=("hour",),
        request_id=np.arange(count),
        user_id=np.array([f"u{r}" for r in range(count)]),
        offsets=np.arange(count + 1) * N,
        context=rng.normal(size=(count, 1)).astype(np.float32),
        item_id=np.concatenate([rng.choice(catalog, N, replace=False) for _ in range(count)]),
        position=np.full(count * N, -1, np.int32),
        predictions=rng.uniform(0.05, 0.3, (count * N, 2)).astype(np.float32),
        feedback=np.zeros((count * N, 2), np.float32),
    )


def ask_json(server, logs, r):
    """The items and the scores of a page over HTTP."""
    rows = slice(logs.offsets[r], logs.offsets[r + 1])
    body = {"user": str(logs.user_id[r]), "k": K, "items": logs.item_id[rows].tolist()}
    body["predictions"] = {task: logs.predictions[rows, t].tolist() for t, task in enumerate(logs.tasks)}
    body["context"] = dict(zip(logs.features, logs.context[r].tolist(), strict=True))
    page = server.answer("/v1/rank", body)
    return page["items"], np.float32(page["scores"])


def ask_tensors(server, logs, r):
    """The same with ids and predictions as tensors."""
    rows = slice(logs.offsets[r], logs.offsets[r + 1])
    tensors = {"items": np.array([stable_id(name) for name in logs.item_id[rows].tolist()]), "context": logs.context[r]}
    request = {"request": json.dumps({"user": str(logs.user_id[r]), "k": K})}
    kind = "application/safetensors"
    body = save(tensors | {"predictions": logs.predictions[rows]}, request)
    status, _, content = server.ask("POST", "/v1/rank", body, {"Content-Type": kind, "Accept": kind})
    assert status == 200, content
    page = load(content)
    return page["items"].tolist(), page["scores"]


def ask_c(ranker, core, logs, r):
    rows = slice(logs.offsets[r], logs.offsets[r + 1])
    names = [name.encode() for name in logs.item_id[rows].tolist()]
    ids = (ctypes.c_int64 * N)(*(ranker.core.pygrade_stable_id(name, len(name)) for name in names))
    floats = [(ctypes.c_float * a.size)(*a.ravel().tolist()) for a in (logs.context[r], logs.predictions[rows])]
    request = core.Request(context=floats[0], features=1, predictions=floats[1], candidates=N, tasks=2, item_ids=ids)
    page = ranker.rank(request, K)
    return [names[page.indices[i]].decode() for i in range(K)], np.float32(page.values[:K])


@pytest.fixture
def run(tmp_path):
    needs_server()
    leveled_policy(CATALOG[::2]).save(tmp_path / "run" / "policy")
    return tmp_path / "run"


def test_every_face_serves_the_page_of_the_log(run, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "python")
    core = importlib.import_module("rank")
    logs, ranker = requests_of(CATALOG), BlendedRanker.load(run / "policy")
    pages, without = ranker.rank_log(logs, K), ranker.rank(logs.context, logs.predictions, K, offsets=logs.offsets)
    assert (pages.indices != without.indices).any(1).mean() > 0.9
    ids = np.array([stable_id(name) for name in logs.item_id.tolist()])
    for given in (logs.item_id, logs.item_id.tolist(), ids):
        own = ranker.rank(logs.context, logs.predictions, K, offsets=logs.offsets, item_id=given)
        assert np.array_equal(own.values, pages.values) and np.array_equal(own.indices, pages.indices)
    in_c = core.Ranker(str(library()), str(run / "policy"))
    with serving(run, run / "log", *QUICK) as server:
        for r in range(logs.num_requests):
            names, scores = pages.items[r].tolist(), pages.values[r]
            for items, values in (ask_json(server, logs, r), ask_c(in_c, core, logs, r)):
                assert items == names and np.array_equal(values, scores)
            items, values = ask_tensors(server, logs, r)
            assert items == [stable_id(name) for name in names] and np.array_equal(values, scores)
        unknown = (~np.isin(logs.item_id, CATALOG[::2])).sum()
        text = server.ask("GET", "/metrics")[2].decode()
        assert f"\npygrade_correction_unknown_items_total {2 * unknown}\n" in text
        mixed = {"user": 1, "k": 2, "items": [7, "p7"], "predictions": {task: [0.9, 0.0] for task in TASKS}}
        assert server.answer("/v1/rank", mixed)["items"] == [7, "p7"]


@pytest.mark.slow
def test_what_is_learned_of_named_items_is_served(tmp_path):
    needs_server()
    logs, level = world(5000), 0.9 * np.random.default_rng(2).normal(size=300)
    logs = replace(logs, item_id=np.random.default_rng(9).random((5000, 300)).argsort(1)[:, :20].ravel())
    more = np.random.default_rng(5).random(logs.num_rows) < np.clip(0.35 * level[logs.item_id], 0, 0.9)
    orders = np.maximum(logs.feedback[:, 1], more * logs.feedback[:, 0])
    logs = replace(logs, feedback=np.stack([logs.feedback[:, 0], orders], 1))
    named = replace(logs, item_id=np.char.add("p", logs.item_id.astype(str)))
    policy = fit(named, FAST, tmp_path / "run").policy
    assert policy.correction is not None and policy.correction.item_effects is not None
    late, ranker = named.select(np.arange(1000)), BlendedRanker.load(tmp_path / "run" / "policy")
    pages = ranker.rank_log(late, K)
    without = ranker.rank(late.context, late.predictions, K, offsets=late.offsets)
    assert (pages.indices != without.indices).any(1).mean() > 0.5
    exposures = ["--exposures", tmp_path / "log", "--exposure-share", "1"]
    with serving(tmp_path / "run", tmp_path / "stderr", *QUICK, *exposures) as server:
        for r in range(1000):
            items, scores = ask_json(server, late, r)
            assert items == pages.items[r].tolist() and np.array_equal(scores, pages.values[r])
    # The next training reads the log of these pages, which holds ids and no levels.
    again = read_logs(tmp_path / "log")
    assert not again.items and again.num_requests == 1000
    assert set(hashes(late.item_id)) == set(hashes(again.item_id))
