"""No log yet: expected value is served with shuffled pages, and its log decides, by the options of --cold-start."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pygrade import _core
from pygrade.cli.config_file import read_table
from pygrade.cli.main import main
from pygrade.config.training import CrossFitConfig
from pygrade.doctor.first_log import DAYS, plan_first_log, plan_sentence
from pygrade.logs import read_logs
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from pygrade.simulation.marketplace import FEATURES, TASK_VALUES, TASKS, Marketplace, MarketplaceConfig
from pygrade.training.propensity import TARGET, shuffled_error
from tests.learning import tiny_logs
from tests.training.test_train import SMALL

REQUESTS, SLOTS, NOW = 1200, 6, 1_764_000_000_000


def serve(service, requests):
    """[n, SLOTS] candidates of each page, as an engine with names asks for it."""
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
        status, _, answer, _ = service.handle("POST", "/v1/rank", json.dumps(body).encode())
        assert status == 200, answer
        pages[r] = [names.index(name) for name in json.loads(answer)["items"]]
    return pages


def events_of(world, requests, pages):
    """Feedback of the simulated users on the pages, an event each."""
    _, feedback = world.sample(requests, pages, 0)
    for r, slot, t in np.argwhere(feedback > 0):
        item, time = f"item-{requests.item_id[r, pages[r, slot]]}", NOW + int(r) + 1000
        number = {"request_id": f"r{r}", "event_id": f"{r}/{slot}/{t}"}
        yield {"user": f"user-{requests.user_id[r]}", "item": item, "task": TASKS[t], "timestamp": time} | number


def test_from_no_log_to_a_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    worth = dict(zip(TASKS, TASK_VALUES, strict=True))
    words = ["--values", ",".join(f"{task}={value}" for task, value in worth.items()), "--features", *FEATURES]
    assert main(["doctor", "--cold-start", *words, "--k", str(SLOTS), "--shuffle", "0.3", "--out", "first"]) == 0
    said = capsys.readouterr().out
    assert (
        "Not tested: there is no log yet, and expected value is served." in said and "pygrade serve --run first" in said
    )

    config = tmp_path / "first" / "pygrade.toml"
    options = read_table(config, "serve") | {"seed": 1}
    service = _core.Service(str(tmp_path / "first"), json.dumps(options))
    world = Marketplace(MarketplaceConfig(log_users=400, test_users=10, items=300, candidates=20, page_size=SLOTS))
    requests = world.requests(REQUESTS, 0)
    pages = serve(service, requests)
    events = list(events_of(world, requests, pages))
    for start in range(0, len(events), 500):
        body = json.dumps({"events": events[start : start + 500]}).encode()
        assert service.handle("POST", "/v1/update", body)[0] == 200
    del service  # its logs are complete

    assert main(["join", "--config", str(config), "--out", "early"]) == 0
    assert "no page is complete yet: each waits 60 minutes for its feedback" in capsys.readouterr().out
    assert main(["join", "--config", str(config), "--feedback-delay-ms", "60000", "--final", "--json"]) == 0
    logs = read_logs(tmp_path / "first" / "served")
    assert logs.num_requests == REQUESTS and logs.feedback.sum() == len(events) and set(logs.features) == set(FEATURES)
    shuffled = logs.exploration == "shuffle"
    assert abs(shuffled.mean() - 0.3) < 0.05
    expected = (logs.predictions * [worth[task] for task in logs.tasks]).sum(1).reshape(REQUESTS, -1)
    best = np.argsort(-expected, axis=1, kind="stable")[:, :SLOTS]
    slots = np.argsort(np.where(logs.shown, logs.position, 99).reshape(REQUESTS, -1), axis=1, kind="stable")[:, :SLOTS]
    np.testing.assert_array_equal(slots[~shuffled], best[~shuffled], err_msg="expected value is served")
    assert (slots[shuffled] != best[shuffled]).any()
    assert main(["doctor", "--config", str(config), "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["profile"]["estimates"]["value by position"]["possible"] and record["values"] == worth

    follows = tomllib.loads(config.read_text())["train"]
    assert follows["data"] == "logs:served" and follows["values"] == worth
    small = replace(SMALL, cross_fit=CrossFitConfig(folds=2), reward=replace(SMALL.reward, propensity="estimate"))
    result = fit(logs.with_values(tuple(worth.values())), small, tmp_path / "next")
    assert result.propensity.source in ("shuffled pages", "all pages")
    assert result.policy.mixture.verdict in ("better", "undecided", "worse")


def test_prices_and_values_of_the_policy(tmp_path):
    words = ["--values", "click=1,order=2", "--value-tasks", "order", "--out", str(tmp_path / "first"), "--json"]
    assert main(["doctor", "--cold-start", *words]) == 0
    policy = FusionPolicy.load(tmp_path / "first" / "policy")
    predictions, offsets = np.float32([[0.5, 0.1], [0.1, 0.2]]), np.array([0, 2])
    prices = np.float32([1, 10])
    scores = policy.scores(np.zeros((1, 0), np.float32), predictions, offsets, item_values=prices)
    assert scores[1] > scores[0], "0.1 + 2 · 0.2 · 10 against 0.5 + 2 · 0.1 · 1"
    assert policy.mixture.verdict == "untested" and policy.mixture.mixture_weight == 0


def test_the_plan_is_that_of_the_estimate():
    plan = plan_first_log(5, requests_a_day=3000, rates={"click": 0.1, "order": 0.01})
    logs = tiny_logs(400, page=5)
    rate = (logs.feedback[logs.shown] > 0).any(1).mean()
    pages = plan_first_log(5, rates={"click": rate})["pages"]
    assert 1.96 * shuffled_error(logs, 5, pages) == pytest.approx(TARGET, rel=0.01)

    chosen = plan["chosen"]
    assert plan["pages"] == -(-plan["events"] // 0.5) and chosen["pages_a_day"] == 3000 * plan["shuffle"]
    cheaper = [row for row in plan["rows"] if row["share"] < plan["shuffle"]]
    assert chosen["days"] <= DAYS and all(row["days"] > DAYS for row in cheaper)
    assert chosen["cost"] == pytest.approx(plan["shuffle"] * (1 - np.mean(np.arange(1, 6) ** -0.7)))
    assert "train can decide" in plan_sentence(plan) and "days" in plan_sentence(plan)
    busy = plan_first_log(10, requests_a_day=1e6, rates={"click": 0.05})
    assert busy["full"] == 0.02 and busy["chosen"]["pages_a_day"] == pytest.approx(1e6 * busy["shuffle"] * 0.02)
    guide = Path(__file__).parents[2] / "docs" / "guides" / "first-log.md"
    assert plan_sentence(plan_first_log(10, 20_000, {"click": 0.05})) in guide.read_text()
    assert plan_first_log(10)["shuffle"] == 0.02 and "events on shuffled pages" in plan_sentence(plan_first_log(10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--values", "click=0"], "values is {'click': 0.0}; expected each task with its worth"),
        (["--values", "click=1", "--value-tasks", "order"], "value_tasks names 'order'; expected one of click"),
        (["--values", "click=1", "--rates", "click=5"], "rates has click=5.0; expected events per shown item"),
        (["--values", "click=1", "--k", "1"], "k is 1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, capsys, words, said):
    assert main(["doctor", "--cold-start", *words, "--out", str(tmp_path / "first")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "first").exists()
