"""In a test every request is ranked by all arms: exposures hold the slots that each arm's policy gives a joined log."""

import ctypes
import json

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from pygrade import BlendedRanker, FusionPolicy, _core
from pygrade._util.hashing import stable_id
from pygrade.config.policy import PolicyConfig
from pygrade.config.service import JoinConfig
from pygrade.logs import read_logs
from pygrade.policy import PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.service.join import join_logs
from tests.corrections import random_correction
from tests.service.served import by_request
from tests.serving.test_embedding import CPage, CRanker
from tests.serving.test_exposures import CLog

TASKS, ITEMS, K, N, START = ("click", "order"), ("margin", "stock", "age"), 6, 40, 1_764_000_000_000
ARMS = [{"name": "old", "share": 0.25}, {"name": "new", "share": 0.75, "policy": "other"}]


def policy_of(seed):
    """A mixture of the policy's network and corrected expected value; each reads other item columns."""
    policy = FusionPolicy(PolicySpec(TASKS, ("hour",), PolicyConfig(hidden=(4,))), seed=seed)
    policy.correction = random_correction(
        seed, tasks=TASKS, features=("hour",), items=ITEMS[seed : seed + 2], indicators=()
    )
    policy.mixture = Mixture(0.2 + 0.3 * seed, Baseline("corrected", "identity", (1.0, 8.0), True, corrected=True))
    return policy


@pytest.fixture
def run(tmp_path):
    policy_of(0).save(tmp_path / "policy")
    policy_of(1).save(tmp_path / "other")
    return tmp_path


def serve(run, **options):
    options = {"test": True, "exposures": "logs", "exposure_share": 1.0, "arms": ARMS, "max_explore": 1.0} | options
    return _core.Service(str(run), json.dumps(options))


def ask(service, body, path="/v1/rank"):
    status, _, content, _ = service.handle("POST", path, json.dumps(body).encode())
    return status, json.loads(content)


def page_of(r, rng):
    items, clicks = rng.choice(10 * N, N, replace=False), rng.beta(2, 8, N)
    pinned, demoted = rng.choice(N, 2, replace=False)
    names = [f"item {item}" for item in items]
    rules = {"mask": (rng.random(N) < 0.9).tolist(), "boost_mul": rng.uniform(0.8, 1.5, N).tolist()}
    rules |= {"groups": {"seller": rng.integers(0, 5, N).tolist()}, "caps": {"seller": 2}}
    rules |= {"pins": [{"item": names[pinned], "position": r % K}], "demote": [names[demoted]]} if r % 3 == 0 else {}
    return {
        "user": f"u{r % 997}",
        "items": names,
        "predictions": {"click": clicks.tolist(), "order": (clicks * rng.beta(2, 8, N)).tolist()},
        "context": {"hour": float(rng.normal())},
        "item_features": {name: rng.normal(size=N).tolist() for name in ITEMS},
        "rules": rules,
        "k": K,
        "timestamp": START + r,
        "request_id": f"r{r:06d}",
    }


def rules_of(bodies):
    """The rules of requests as `BlendedRanker.rank_log` takes them."""
    rules = [body["rules"] for body in bodies]
    pins, demoted = np.full((len(bodies), K), -1, np.int32), np.zeros((len(bodies), N), bool)
    for b, body in enumerate(bodies):
        for pin in body["rules"].get("pins", ()):
            pins[b, pin["position"]] = body["items"].index(pin["item"])
        demoted[b, [body["items"].index(name) for name in body["rules"].get("demote", ())]] = True
    return {
        "mask": np.concatenate([rule["mask"] for rule in rules]),
        "boost_mul": np.concatenate([rule["boost_mul"] for rule in rules]).astype(np.float32),
        "groups": np.concatenate([rule["groups"]["seller"] for rule in rules])[:, None],
        "caps": [2],
        "pins": pins,
        "demoted": demoted.ravel(),
    }


@pytest.mark.parametrize("pages", [300, pytest.param(2600, marks=pytest.mark.slow)])  # of 40 candidates
def test_slots_are_those_of_each_policy_on_the_joined_log(run, pages):
    rng, bodies = np.random.default_rng(0), []
    service = serve(run, explore={"weights": 0.1, "shuffle": 0.1}, seed=1)
    for r in range(pages):
        bodies.append(page_of(r, rng))
        status, page = ask(service, bodies[-1])
        assert status == 200, page
    service.drain()
    join_logs(run / "logs", [], run / "joined", JoinConfig(feedback_delay_ms=0), 1 << 60)
    logs = by_request(read_logs(run / "joined"))
    assert logs.request_id.tolist() == [body["request_id"] for body in bodies] and logs.num_rows == pages * N
    assert logs.arms == ("old", "new") and (logs.arm_shares == np.float32([0.25, 0.75])).all()
    assert set(logs.exploration) == {"none", "dirichlet", "shuffle"}
    for a, folder in enumerate(("policy", "other")):
        ranked = BlendedRanker.load(run / folder).rank_log(logs, K, **rules_of(bodies)).indices
        slots = np.full((pages, N), -1, np.int32)
        request, slot = np.nonzero(ranked >= 0)
        slots[request, ranked[request, slot]] = slot
        np.testing.assert_array_equal(logs.slots[:, a], slots.ravel())
        own = np.repeat((logs.arm == logs.arms[a]) & (logs.exploration == "none"), N)
        np.testing.assert_array_equal(logs.position[own], logs.slots[own, a])
        assert (logs.position != logs.slots[:, a])[~own].any()
    assert (logs.slots[:, 0] != logs.slots[:, 1]).reshape(pages, N).any(1).mean() > 0.9


def table_of(run):
    """The exposures, with the columns of any of their files."""
    tables = [parquet.read_table(file) for file in sorted((run / "logs").glob("*.parquet"))]
    table = pyarrow.concat_tables(tables, promote_options="default")
    return {name: np.array(column) for name, column in table.to_pydict().items()}


def series(service, name):
    text = service.handle("GET", "/metrics", b"")[2].decode()
    return {line.split('"')[1]: float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{")}


def test_rows_of_a_log_in_part_are_on_some_page(run):
    service = serve(run, exposure_share=0, arm_by="request")
    rng, arms = np.random.default_rng(1), set()
    for r in range(40):
        body = page_of(r, rng)
        _, page = ask(service, body)
        _, explained = ask(service, body, "/v1/explain")
        arms.add(page["arm"])
        slots = [item["slots"][page["arm"]] for item in explained["explanation"]]
        assert page["arm"] == explained["arm"] and slots == list(range(K))
    service.drain()
    assert arms == {"old", "new"} and set(read_logs(run / "logs").arm) == arms
    logs = table_of(run)
    slots = np.stack([logs["slot_old"], logs["slot_new"]], 1).astype(float)
    assert not np.isnan(slots).all(1).any()
    for arm in range(2):
        assert np.array_equal(np.sort(slots[:, arm].reshape(-1))[: 40 * K], np.repeat(np.arange(K), 40))
    different = 40 - sum((slots[rows][:, 0] == slots[rows][:, 1]).all() for rows in _requests(logs["request_id"]))
    assert series(service, "pygrade_test_pages_total") == {"old": 40, "new": 40}
    assert series(service, "pygrade_test_different_pages_total") == {"old": 0, "new": different}
    assert series(service, "pygrade_test_different_share") == {"old": 0, "new": different / 40}


def _requests(ids):
    return [np.flatnonzero(ids == name) for name in np.unique(ids)]


def test_production_is_an_arm(run):
    arms = [{"name": "production", "share": 0.5, "ranking": "production"}, {"name": "new", "share": 0.5}]
    service = serve(run, arms=arms, exposure_share=0.3)
    rng, scores = np.random.default_rng(2), {}
    for r in range(60):
        body = page_of(r, rng) | {"rules": {}, "arm": ("production", "new")[r % 2]}
        given = np.float32(1e-6 * rng.lognormal(sigma=3, size=N))
        if r % 10 != 1:
            body["production_scores"] = given.tolist()
            scores[body["request_id"]] = dict(zip([stable_id(name) for name in body["items"]], given, strict=True))
        status, page = ask(service, body)
        assert status == 200, page
        if r % 2 == 0:
            assert page["items"] == [body["items"][place] for place in np.argsort(-given)[:K]]
            assert np.array_equal(np.float32(page["scores"]), np.sort(given)[::-1][:K])
    status, refused = ask(service, page_of(99, rng) | {"arm": "production"})
    assert status == 400 and refused["error"]["argument"] == "production_scores"
    for wrong in ([1.0], ["a"] * N, [1e40] * N):
        _, refused = ask(service, page_of(99, rng) | {"production_scores": wrong})
        assert "production_scores" in refused["error"]["argument"]
    service.drain()
    logs = table_of(run)
    for rows in _requests(logs["request_id"]):
        known = scores.get(logs["request_id"][rows[0]])
        slots, share = logs["slot_production"][rows], logs["share_production"][rows]
        if known is None:
            assert all(slot is None for slot in slots) and np.isnan(share).all()
            continue
        wanted = np.array([known[item] for item in logs["item_id"][rows]])
        assert np.array_equal(np.float32(logs["production_score"][rows]), wanted) and (share == 0.5).all()
        order = np.argsort(-wanted)[:K]
        assert slots[order].tolist() == list(range(K)) and sum(slot is not None for slot in slots) == K
    assert series(service, "pygrade_test_unranked_pages_total") == {"production": 6, "new": 0}
    join_logs(run / "logs", [], run / "joined", JoinConfig(feedback_delay_ms=0), 1 << 60)
    joined = read_logs(run / "joined")
    assert joined.production_score is None and joined.arms == ("production", "new")


def test_arms_that_cannot_rank_are_logged_without_slots(run):
    service = serve(run)
    body = page_of(0, np.random.default_rng(3))
    assert ask(service, body | {"deadline_ms": 0})[1]["degraded"] == "deadline"
    service.drain()
    logs = table_of(run)
    assert all(np.isnan(logs[f"share_{arm}"]).all() and not logs[f"slot_{arm}"].any() for arm in ("old", "new"))
    assert series(service, "pygrade_test_unranked_pages_total") == {"old": 1, "new": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": [{"name": "only"}]}, "test is true, and arms has 1; expected two or more"),
        ({"exposures": None}, "test is true without exposures"),
        ({"arms": [*ARMS[:1], {"name": "new", "share": 0.75}]}, "arm 'new' ranks as arm 'old'"),
        ({"arm_by": "day"}, 'arm_by is "day"; expected "request" or "user"'),
    ],
)
def test_a_test_needs_two_arms_and_a_log(run, options, message):
    with pytest.raises(ValueError, match=message):
        serve(run, **options)


def test_an_embedder_logs_a_test(run):
    """Through the C ABI, of two rankers."""
    rng, names = np.random.default_rng(4), [b"old", b"new"]
    rankers = [CRanker(run / folder) for folder in ("policy", "other")]
    arms = {"arms": (ctypes.c_char_p * 2)(*names), "shares": (ctypes.c_float * 2)(0.25, 0.75), "num_arms": 2}
    arms = {name: ctypes.cast(value, ctypes.c_void_p) if name != "num_arms" else value for name, value in arms.items()}
    log = CLog(rankers[0], run / "logs", 0.0, **arms)
    pages = []
    for r in range(20):
        context, predictions = np.float32(rng.normal(size=1)), np.float32(rng.uniform(0.01, 0.9, (N, 2)))
        ranked = [ranker.rank(context, predictions, K, "") for ranker in rankers]
        given = [ctypes.pointer(page) for _, page, _ in ranked]
        given[1] = given[1] if r else None
        log.append(*ranked[0][:2], f"r{r}", (ctypes.POINTER(CPage) * 2)(*given))
        pages.append([arrays["indices"].tolist() if r or not a else [] for a, (_, _, arrays) in enumerate(ranked)])
    log.call("flush", log.log, None, 0)
    log.close()
    logs = table_of(run)
    for r, own in enumerate(pages):
        rows = np.flatnonzero(logs["request_id"] == f"r{r}")
        assert set(logs["item_id"][rows]) == {*own[0], *own[1]}
        for a, arm in enumerate(("old", "new")):
            slots = {logs["item_id"][row]: logs[f"slot_{arm}"][row] for row in rows}
            assert [slots[item] for item in own[a]] == list(range(len(own[a])))
            assert sum(slot is not None for slot in slots.values()) == len(own[a])
        assert np.isnan(logs["share_new"][rows]).all() == (r == 0) and (logs["share_old"][rows] == 0.25).all()
