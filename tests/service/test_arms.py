"""The documented A/B test and roll-back serve what they say: the control is what the verdict compared with."""

import json
import subprocess
import tomllib

import numpy as np
import pytest

from pygrade import BlendedRanker, FusionPolicy, _core
from pygrade.config.policy import PolicyConfig
from pygrade.policy import PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from tests.corrections import random_correction
from tests.documents import ROOT, blocks
from tests.service.conftest import command_of, needs_server, serving

TASKS, FEATURES, N, K, REQUESTS = ("click", "order"), ("hour",), 30, 8, 500
PLAIN = Baseline("expected value", "identity", (1.0, 20.0), True)
BEST = Baseline("corrected expected value", "identity", (1.0, 20.0), True, corrected=True)
USED = Baseline("production", "identity", (1.0, 0.0))


def policy_of(mixture):
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(4,))), seed=1)
    policy.correction = random_correction(tasks=TASKS, features=FEATURES, items=())
    policy.mixture = mixture
    return policy


SERVED = Mixture(0.0, BEST, "better", "Test the new ranking", baselines=(PLAIN, USED), control=PLAIN.name)


@pytest.fixture
def run(tmp_path):
    policy_of(SERVED).save(tmp_path / "run" / "policy")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(6)
    return rng.normal(size=(REQUESTS, 1)), rng.uniform(0.01, 0.5, (REQUESTS, N, 2))


def own_pages(requests, baseline):
    ranker = BlendedRanker(policy_of(Mixture(0.0, baseline)))
    return ranker.rank(requests[0].astype(np.float32), requests[1].astype(np.float32), K).indices


def ask(service, path, body):
    status, _, content, _ = service.handle("POST", path, json.dumps(body).encode())
    assert status == 200, content
    return json.loads(content)


def ask_pages(service, requests, count=REQUESTS, **more):
    """The pages [count, K] of an arm, in batches."""
    bodies = [
        {"user": r, "k": K, "items": list(range(N)), "context": {"hour": float(requests[0][r, 0])}, **more}
        | {"predictions": {task: requests[1][r, :, t].tolist() for t, task in enumerate(TASKS)}}
        for r in range(count)
    ]
    batches = [{"requests": bodies[start : start + 100]} for start in range(0, count, 100)]
    return np.array([page["items"] for batch in batches for page in ask(service, "/v1/rank", batch)["pages"]])


def documented_service(page, run):
    """The service with the documented arms."""
    (text,) = [table for table in blocks(ROOT / "docs/guides" / page, "toml") if "serve.arms" in table]
    return _core.Service(str(run), json.dumps(tomllib.loads(text)["serve"] | {"deadline_ms": 60_000}))


def test_the_documented_test_compares_two_rankings(run, requests):
    service = documented_service("serve.md", run)
    old, new = (ask_pages(service, requests, arm=arm, explore=False) for arm in ("control", "grade"))
    assert np.array_equal(old, own_pages(requests, PLAIN)) and np.array_equal(new, own_pages(requests, BEST))
    assert (old != new).any(1).mean() > 0.9
    status = json.loads(service.handle("GET", "/v1/status", b"")[2])
    assert [arm["ranking"] for arm in status["arms"]] == [[PLAIN.name], [BEST.name]] and not status["warnings"]
    assert [arm["verdict"] for arm in status["arms"]] == [None, "better"]
    body = {"user": 1, "arm": "control", "items": [1, 2], "predictions": {task: [0.1, 0.2] for task in TASKS}}
    why = ask(service, "/v1/explain", body)["ranking"]
    assert why["by"] == [PLAIN.name] and "Test the new" not in why["why"]


def test_the_documented_roll_back_serves_what_the_verdict_compared_with(run, requests):
    pages = ask_pages(documented_service("operate.md", run), requests, 50)
    assert np.array_equal(pages, own_pages(requests, PLAIN)[:50])


def test_an_unproved_policy_is_served_if_told(tmp_path):
    needs_server()
    marked, reason = tmp_path / "marked", "production is not reproduced: about -5 %"
    policy_of(Mixture(0.0, PLAIN, unproven=reason)).save(marked / "policy")
    assert BlendedRanker.load(marked / "policy").policy.mixture.unproven == reason
    refused = subprocess.run(
        command_of(marked, unproven=False), capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode in (1, 2) and "is not prov" in refused.stderr and reason in refused.stderr
    with serving(marked, tmp_path / "log") as server:
        assert server.answer("/v1/status")["warnings"] == [f"arm 'main' has a policy that is not proven: {reason}"]
