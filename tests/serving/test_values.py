"""Values of the tasks in a request: a click worth -3 ranks as an expected value with that value, bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pygrade import BlendedRanker, FusionPolicy, _core
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs, write_logs
from pygrade.policy import PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from tests.corrections import random_correction
from tests.serving.test_embedding import CRanker

TASKS, FEATURES = ("click", "cart", "order", "like"), ("age", "intent")
VALUES = {"click": 1.0, "cart": 3.0, "order": 60.0, "like": 2.0}
COSTLY = {"click": -3.0, "like": 3.5}
KNOTS = ((0.0, 0.3, 1.0), (0.0, 0.2, 0.4))
KINDS = {
    "expected value": {},
    "calibrated": {"calibration": (KNOTS,) * 4},
    "priced": {"value_tasks": ("order",)},
    "corrected": {"corrected": True},
}


def policy_with(values, kind="expected value", mixture_weight=1.0, **options):
    """A policy that serves the expected value of these values alone, or a mixture with it below a weight of 1."""
    config = PolicyConfig(hidden=(8,), task_values=tuple(values.values()) if options else (), **options)
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    if kind == "corrected":
        made.correction = random_correction(tasks=TASKS, features=FEATURES, parents=(-1, 0, 1, 0))
    weights = tuple(values.values())
    baseline = Baseline("expected value", "identity", weights, min(weights) >= 0, **KINDS[kind])
    made.mixture = Mixture(mixture_weight, baseline, challenger=baseline if mixture_weight == 1.0 else None)
    return made


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def requests(kind):
    rng = np.random.default_rng(1)
    predictions = rng.uniform(0.01, 0.3, (5, 30, 4)).astype(np.float32)
    predictions[..., 1:] *= predictions[..., :1]  # carts, orders and likes follow clicks
    predictions[2, 7] = np.nan
    made = {"context": rng.normal(size=(5, 2)).astype(np.float32), "predictions": predictions}
    if kind == "priced":
        made["item_values"] = rng.uniform(0, 9, (5, 30)).astype(np.float32)
    if kind == "corrected":
        made["items"] = rng.normal(size=(5, 30, 2)).astype(np.float32)
    return made


def bits(page):
    return page.values.tobytes(), page.indices.tobytes()


# The last: a page that multipliers and shifts made, value · multiplier + shift.
@pytest.mark.parametrize(
    "values",
    [COSTLY, {"click": 0.5}, {"order": 100.0}, {"click": 1.0 * 3.0 - 4.0, "cart": 3.0 * 0.0, "order": 60.0 * 2.0}],
    ids=["below 0", "less", "more", "multiplied and shifted"],
)
@pytest.mark.parametrize("mixture_weight", [0.0, 0.6, 1.0])
def test_it_ranks_as_the_expected_value(kind, requests, values, mixture_weight):
    wanted = BlendedRanker(policy_with(VALUES | values, kind)).rank(**requests, k=10)
    ranker = BlendedRanker(policy_with(VALUES, kind, mixture_weight))
    found = ranker.rank(**requests, k=10, values=values)
    assert bits(found) == bits(wanted) != bits(ranker.rank(**requests, k=10))
    assert found.request_values.tolist() == [list((VALUES | values).values())] * 5
    table = np.array([[values.get(task, np.nan) for task in TASKS]] * 5, np.float32)
    assert bits(ranker.rank(**requests, k=10, values=table)) == bits(wanted)
    assert bits(ranker.rank(**requests, k=10, values=[values] * 5)) == bits(wanted)
    present = {name: array[[0, 1, 3, 4]] for name, array in requests.items()}
    scores = ranker.policy.scores(**present, values=values)
    assert scores.tobytes() == policy_with(VALUES | values, kind).scores(**present).tobytes()


def test_requests_have_values_of_their_own(kind, requests):
    """Some below 0, whose score is no logarithm, beside others."""
    each = [COSTLY, {}, {"click": 0.5}, {"order": 0.0, "click": -1.0}, {"cart": 4.0}]
    found = BlendedRanker(policy_with(VALUES, kind)).rank(**requests, k=10, values=each)
    for b, entry in enumerate(each):
        one = {name: array[b : b + 1] for name, array in requests.items()}
        wanted = BlendedRanker(policy_with(VALUES | entry, kind)).rank(**one, k=10)
        assert (found.values[b].tobytes(), found.indices[b].tobytes()) == bits(wanted)


def test_the_c_abi_ranks_as_python(kind, requests, tmp_path):
    policy_with(VALUES, kind, 0.6).save(tmp_path / "policy")
    wanted = BlendedRanker(policy_with(VALUES | COSTLY, kind)).rank(**requests, k=10)
    core = CRanker(tmp_path / "policy")
    table = np.array([COSTLY.get(task, np.nan) for task in TASKS], np.float32)
    for b in range(5):
        more = {name: np.ascontiguousarray(requests[name][b]) for name in ("item_values", "items") if name in requests}
        given = requests["context"][b], np.ascontiguousarray(requests["predictions"][b])
        _, _, page = core.rank(*given, 10, "", values=table, **more)
        assert page["values"].tobytes() == wanted.values[b].tobytes()
        assert page["indices"].tobytes() == wanted.indices[b].tobytes()


def body_of(requests, b, kind, **more):
    """The JSON of a request, whose candidates are the items 0, 1, …"""

    def numbers(row):
        return [None if np.isnan(x) else float(x) for x in row]

    body = {"user": 7, "k": 10, "items": list(range(30)), **more}
    body["predictions"] = {task: numbers(requests["predictions"][b, :, t]) for t, task in enumerate(TASKS)}
    body["context"] = dict(zip(FEATURES, map(float, requests["context"][b]), strict=True))
    if kind == "priced":
        body["item_values"] = numbers(requests["item_values"][b])
    if kind == "corrected":
        body["item_features"] = {name: numbers(requests["items"][b, :, i]) for i, name in enumerate(("price", "size"))}
    return body


def post(service, path, body):
    status, _, content, _ = service.handle("POST", path, json.dumps(body).encode())
    return status, json.loads(content)


def test_the_service_ranks_as_python(kind, requests, tmp_path):
    policy_with(VALUES, kind, 0.6).save(tmp_path / "policy")
    wanted = BlendedRanker(policy_with(VALUES | COSTLY, kind)).rank(**requests, k=10)
    arms = [{"name": "own", "share": 1.0}, {"name": "costs", "share": 0.0, "values": COSTLY}]
    service = _core.Service(str(tmp_path / "policy"), json.dumps({"arms": arms}))
    for b in range(5):
        for more in ({"values": COSTLY}, {"arm": "costs"}):
            status, page = post(service, "/v1/rank", body_of(requests, b, kind, **more))
            assert status == 200, page
            scores = np.array([np.nan if x is None else x for x in page["scores"]], np.float32)
            assert scores.tobytes() == wanted.values[b].tobytes() and page["items"] == wanted.indices[b].tolist()
            assert page["values"] == VALUES | COSTLY
        _, told = post(service, "/v1/explain", body_of(requests, b, kind, values=COSTLY))
        assert told["items"] == page["items"] and told["ranking"]["score"] == "the sum of the contributions"
        assert told["ranking"]["why"].startswith("expected value ranks alone, by the values of the request")
        first = told["explanation"][0]
        assert first["fused"] == pytest.approx(sum(first["contributions"].values()), rel=1e-5)
        _, parts = post(service, "/v1/weights", body_of(requests, b, kind, values=COSTLY))
        (part,) = parts["scores"]
        assert part["weights"] == VALUES | COSTLY == parts["values"] and not part["logarithm"]


def test_a_page_explains_and_logs_its_values(kind, requests, tmp_path):
    page = BlendedRanker(policy_with(VALUES, kind)).rank(**requests, k=10, values=COSTLY)
    text = page.explain(0, None)
    assert "score: the sum of the contributions" in text and "values: click -3, like 3.5" in text
    known = page.contributions[0]
    assert np.isfinite(known).all() and known.sum(1) == pytest.approx(page.values[0], rel=1e-4)
    assert (known[:, 0] < 0).all()
    write_logs(page.log_rows(), tmp_path / "logs")
    assert (read_logs(tmp_path / "logs").request_values == page.request_values).all()


def refused(policy, requests, values, message):
    """By the ranker and by the scores, before anything is counted."""
    ranker = BlendedRanker(policy)
    with pytest.raises(ValueError, match=message):
        ranker.rank(**requests, k=3, values=values)
    with pytest.raises(ValueError, match=message):
        policy.scores(**{name: array[:2] for name, array in requests.items()}, values=values)
    assert ranker.counters["requests"] == 0


@pytest.mark.parametrize("kind", ["expected value"])
def test_refused(kind, requests):
    policy = policy_with(VALUES)
    refused(policy, requests, {"clicks": 1.0}, "values names task 'clicks'")
    refused(policy, requests, {"click": np.inf}, "values is inf for task click")
    refused(policy, requests, np.zeros(3), "values has shape")
    refused(policy, requests, dict.fromkeys(TASKS, 0.0), "values is 0 for every task")
    alone = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(8,))))
    refused(alone, requests, COSTLY, "values is given")


@pytest.mark.parametrize("kind", ["expected value"])
def test_the_network_of_trade_offs_reads_values_over_those_of_its_training(kind, requests):
    policy = policy_with(VALUES, mixture_weight=0.5, trade_offs=True)
    policy.head.weight.data.mul_(40)
    ones = policy_with(VALUES, mixture_weight=0.5, trade_offs=True)  # its twin, which counts values from 1
    ones.load_state_dict(policy.state_dict())
    ones.spec = replace(ones.spec, config=replace(ones.config, task_values=()))
    ranker = BlendedRanker(policy)
    found = ranker.rank(**requests, k=10, values={"click": 0.5, "order": 120.0})
    wanted = BlendedRanker(ones).rank(**requests, k=10, values={"click": 0.5, "order": 2.0})
    assert bits(found) == bits(wanted) and found.request_values[0].tolist() == [0.5, 3.0, 120.0, 2.0]
    assert bits(found) != bits(ranker.rank(**requests, k=10))
    refused(policy, requests, COSTLY, r"values is -3\.0.* for task click")
    refused(policy, requests, dict.fromkeys(TASKS, 0.0), "values is 0 for every task")
    policy.spec = replace(policy.spec, config=replace(policy.config, task_values=(0.0, 3.0, 60.0, 2.0)))
    refused(policy, requests, {"click": 1.0}, r"values is 1\.0.* for task click")


@pytest.mark.parametrize("kind", ["expected value"])
def test_an_expected_value_trained_with_harm_takes_values(kind, requests):
    """--values click=-3 makes a baseline without a logarithm, which is an expected value all the same."""
    ranker = BlendedRanker(policy_with(VALUES | {"click": -3.0}))
    back = ranker.rank(**requests, k=10, values={"click": 1.0})
    order = BlendedRanker(policy_with(VALUES)).rank(**requests, k=10)
    assert back.indices.tobytes() == order.indices.tobytes()
    assert bits(ranker.rank(**requests, k=10, values={"click": -6.0})) == bits(
        BlendedRanker(policy_with(VALUES | {"click": -6.0})).rank(**requests, k=10)
    )
