"""The loop of those who bring predictions: a policy is served, its log and the feedback are joined and trained on."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from pygrade.cli.main import main
from pygrade.config.service import ServiceConfig
from pygrade.config.training import OnlineConfig, Stage2Config, TrustConfig
from pygrade.logs import read_logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.service.online import OnlineService
from pygrade.simulation.marketplace import FEATURES, TASK_VALUES, TASKS, Marketplace, MarketplaceConfig
from pygrade.training.train import train
from tests.service.conftest import needs_server, serving
from tests.training.test_train import SMALL

REQUESTS, SLOTS, NOW, DELAY = 1500, 6, 1_764_000_000_000, 60_000


@pytest.fixture(scope="module")
def world():
    return Marketplace(MarketplaceConfig(log_users=400, test_users=10, items=300, candidates=20, page_size=SLOTS))


def ask_pages(rank, requests, **more):
    """[n, SLOTS] candidates of each page, as an engine with names asks ``rank(body)`` for it; more: other keys [n]."""
    pages = np.empty((len(requests), SLOTS), np.int64)
    for r in range(len(requests)):
        names = [f"item-{item}" for item in requests.item_id[r]]
        body = {
            "user": f"user-{requests.user_id[r]}",
            "items": names,
            "k": SLOTS,
            "predictions": {task: requests.p_hat[r, :, t].tolist() for t, task in enumerate(TASKS)},
            "context": dict(zip(FEATURES, requests.context[r].tolist(), strict=True)),
            "timestamp": NOW + r,
            "request_id": f"r{r}",
        }
        answer = rank(body | {key: str(values[r]) for key, values in more.items()})
        pages[r] = [names.index(name) for name in answer["items"]]
    return pages


def events_of(world, requests, pages):
    """Feedback of the simulated users on the pages, an event each."""
    _, feedback = world.sample(requests, pages, 0)
    for r, slot, t in np.argwhere(feedback > 0):
        item, time = f"item-{requests.item_id[r, pages[r, slot]]}", NOW + int(r) + 1000
        number = {"request_id": f"r{r}", "event_id": f"{r}/{slot}/{t}"}
        yield {"user": f"user-{requests.user_id[r]}", "item": item, "task": TASKS[t], "timestamp": time} | number


@pytest.mark.slow
def test_the_log_of_a_served_policy_decides_the_next_verdict(world, tmp_path):
    needs_server()
    FusionPolicy(PolicySpec(tasks=TASKS, features=FEATURES)).save(tmp_path / "run" / "policy")
    path = tmp_path / "pygrade.toml"
    path.write_text(
        '[serve]\nexposures = "exposures"\nexposure_share = 1.0\nfeedback = "feedback"\nlog = "none"\nseed = 1\n'
        'max_explore = 0.5\nexplore = {shuffle = 0.2}\narms = [{name = "main", share = 1.0, explore = 0.2}]\n'
    )
    requests = world.requests(REQUESTS, 0)
    with serving(tmp_path / "run", tmp_path / "log", "--config", path) as server:
        pages = ask_pages(partial(server.answer, "/v1/rank"), requests, scenario=requests.scenario)
        events = list(events_of(world, requests, pages))
        for start in range(0, len(events), 200):
            server.answer("/v1/update", {"events": events[start : start + 200]})

    words = ["--exposures", tmp_path / "run" / "exposures", "--feedback", tmp_path / "run" / "feedback"]
    words += ["--out", tmp_path / "joined", "--feedback-delay-ms", DELAY, "--final", "--json"]
    assert main(["join", *map(str, words)]) == 0
    logs = read_logs(tmp_path / "joined")
    assert logs.num_requests == REQUESTS and logs.feedback.sum() == len(events)
    order = np.argsort([int(name[1:]) for name in logs.request_id])
    logs = logs.select(order)
    np.testing.assert_array_equal(logs.predictions.reshape(requests.p_hat.shape), requests.p_hat)
    np.testing.assert_array_equal(logs.context, requests.context)
    shown = np.argsort(np.where(logs.shown, logs.position, 99).reshape(REQUESTS, -1), axis=1)[:, :SLOTS]
    np.testing.assert_array_equal(shown, pages)
    shares = {name: (logs.exploration == name).mean() for name in ("none", "shuffle", "dirichlet")}
    assert abs(shares["shuffle"] - 0.2) < 0.05 and 0.1 < shares["dirichlet"] < 0.25 and sum(shares.values()) == 1
    assert np.isfinite(logs.concentration[logs.exploration == "dirichlet"]).all()

    config = replace(SMALL, trust=TrustConfig(folds=2), reward=replace(SMALL.reward, propensity="estimate"))
    result = train(logs.valued(TASK_VALUES), config, tmp_path / "next")
    assert result.propensity.source in ("shuffled pages", "all pages")
    verdict = result.policy.mixture
    assert verdict.verdict in ("better", "undecided", "worse"), verdict.sentence

    folders = tmp_path / "run" / "exposures", [tmp_path / "run" / "feedback"]
    online = OnlineConfig(min_requests=100, feedback_delay_ms=DELAY, step=Stage2Config(steps=2))
    learning = OnlineService(tmp_path / "run", *folders, ServiceConfig(online=online))
    assert learning.step(NOW + REQUESTS + DELAY) is not None
    assert learning.learner.num_requests > 0 and learning.learner.counters["joined"] == len(events)
    assert (tmp_path / "run" / "online" / "policy" / "policy.json").is_file()
