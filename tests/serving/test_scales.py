"""Predictions on the scale of a shop's own table: read by training, and by every face of the server in the same way."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from pygrade import BlendedRanker, FusionPolicy, _core, reference
from pygrade.config.policy import PolicyConfig
from pygrade.logs import Logs, concatenate, read_logs, write_logs
from pygrade.logs.prediction_scale import PredictionScale, complete_scales, read_predictions
from pygrade.policy import Baseline, Mixture, PolicySpec
from pygrade.serving import export, expressions
from tests.refusals import refuses
from tests.serving.test_embedding import CRanker

REQUESTS, SIZE, K = 400, 8, 4
TASKS, FEATURES = ("click", "order"), ("hour",)


def logit(p):
    return np.log(p / (1 - p))


# What the table holds for P(click) and P(order), and what `scale` must say of it.
SCALES = {
    "probability": (lambda click, order: (click, order), {}),
    "logit": (lambda click, order: (logit(click), logit(order)), {"click": "logit", "order": "logit"}),
    "percent": (lambda click, order: (100 * click, 100 * order), {"click": "percent", "order": "percent"}),
    "log": (lambda click, order: (click, np.log(order)), {"order": "log"}),
    "score": (lambda click, order: (click, 3 * logit(order) + 7), {"order": "score"}),
    "given": (lambda click, order: (click, order / click), {"order": "given:click"}),
    "percent given": (
        lambda click, order: (logit(click), 100 * order / click),
        {"click": "logit", "order": "percent:given:click"},
    ),
}


@pytest.fixture(params=SCALES)
def name(request):
    return request.param


def world(seed=0):
    """P(click) and P(order) [R, N], and events: orders follow clicks."""
    rng = np.random.default_rng(seed)
    click, bought = (1 / (1 + np.exp(1.0 - rng.normal(0, 1.5, (REQUESTS, SIZE)))) for _ in range(2))
    clicked = rng.random(click.shape) < click
    return click, click * bought, clicked, clicked & (rng.random(click.shape) < bought)


def table_of(name):
    """The shop's table, every candidate shown."""
    click, order, clicked, ordered = world()
    p_click, p_order = SCALES[name][0](click, order)
    rng, rows = np.random.default_rng(1), REQUESTS * SIZE
    return {
        "request_id": np.repeat(np.arange(REQUESTS), SIZE),
        "user_id": np.repeat(np.arange(REQUESTS) % 50, SIZE),
        "item_id": np.arange(rows),
        "position": np.argsort(rng.random((REQUESTS, SIZE)), 1).ravel(),
        "x_hour": np.repeat(rng.random(REQUESTS), SIZE),
        **{"p_click": p_click.ravel(), "p_order": p_order.ravel(), "y_click": clicked.ravel() * 1.0},
        "y_order": ordered.ravel() * 1.0,
    }


def logs_of(name):
    return Logs.from_table(table_of(name), scale=SCALES[name][1])


def policy_of(logs):
    """A policy that knows how the log's table was read."""
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(8,))), seed=3)
    policy.head.weight.data.mul_(40)
    policy.scales = complete_scales(logs.scales, logs.tasks, logs.predictions, logs.feedback)
    return policy


def raw_of(name):
    """[R, N, T] as the shop's models make them."""
    table = table_of(name)
    return np.stack([table[f"p_{task}"] for task in TASKS], -1).reshape(REQUESTS, SIZE, 2).astype(np.float32)


def test_every_face_of_a_server_reads_predictions_as_training_did(name, tmp_path):
    logs, raw = logs_of(name), raw_of(name)
    policy_of(logs).save(tmp_path / "policy")
    ranker = BlendedRanker.load(tmp_path / "policy")
    wanted = ranker.rank_log(logs, K)
    np.testing.assert_allclose(wanted.rows, logs.predictions)
    page = ranker.rank(logs.context, raw, K)
    core, service = CRanker(tmp_path / "policy"), _core.Service(str(tmp_path), "{}")
    kind = "application/safetensors"
    for r in range(0, REQUESTS, 40):
        _, _, c_page = core.rank(logs.context[r], raw[r], K, "")
        body = {"user": "ann", "k": K, "context": {"hour": float(logs.context[r, 0])}}
        lists = {task: raw[r, :, t].tolist() for t, task in enumerate(TASKS)}
        answers = [
            service.handle(
                "POST", "/v1/rank", json.dumps(body | {"items": [*range(SIZE)], "predictions": lists}).encode()
            ),
            service.handle(
                "POST",
                "/v1/rank",
                save({"items": np.arange(SIZE), "predictions": raw[r]}, {"request": json.dumps(body)}),
                kind,
            ),
        ]
        alone = ranker.rank(logs.context[r : r + 1], raw[r : r + 1], K)
        for values, indices in (
            (page.values[r], page.indices[r]),
            (alone.values[0], alone.indices[0]),
            (c_page["values"], c_page["indices"]),
            *((np.float32(json.loads(a[2])["scores"]), np.array(json.loads(a[2])["items"])) for a in answers),
        ):
            assert indices.tolist() == wanted.indices[r].tolist()
            assert values.tobytes() == wanted.values[r].tobytes()


def test_the_core_reads_as_the_reference_in_double_precision():
    rng = np.random.default_rng(0)
    knots = (-4.0, -1.0, 0.5, 6.0), (-5.0, -3.0, -1.0, 2.0)
    scales = {
        "a": PredictionScale("logit"),
        "b": PredictionScale("percent", given="a"),
        "c": PredictionScale("score", given="b", x=knots[0], y=knots[1]),
        "d": PredictionScale("log", amount=True),
        "e": PredictionScale("score", amount=True, x=knots[0], y=knots[1]),
    }
    tasks = ("c", "b", "x", "a", "d", "e")
    raw = rng.normal(0, 5, (600, 6)).astype(np.float32)
    raw[:, 1] = np.abs(raw[:, 1])
    raw[::7, 3], raw[3, 0], raw[4, 0], raw[5] = np.inf, 300.0, -300.0, np.nan
    kinds = [scales[task].kind if task in scales else "probability" for task in tasks]
    maps = [tuple(map(torch.tensor, knots)) if kind == "score" else None for kind in kinds]
    maps = [None if knots is None else tuple(side.double() for side in knots) for knots in maps]
    amounts = [task in "de" for task in tasks]
    wanted = reference.read_predictions(torch.from_numpy(raw).double(), kinds, (1, 3, -1, -1, -1, -1), amounts, maps)
    found = read_predictions(scales, tasks, raw)
    np.testing.assert_allclose(found, wanted.float().numpy(), rtol=2e-6, atol=1e-30)
    assert np.isnan(found[5]).all() and np.isnan(found[::7, 0]).all() and found[3, 0] > 0


REFUSED = {
    "logits where probabilities were": (
        "probability",
        (-1.2, 0.1),
        "-1.2 at candidate 2, task 'click'; expected a probability",
    ),
    "percentages where probabilities were": (
        "probability",
        (0.3, 20.0),
        "20 at candidate 2, task 'order'; expected a prob",
    ),
    "more than 100 %": (
        "percent",
        (120.0, 1.0),
        "120 at candidate 2, task 'click'; expected a percentage from 0 to 100",
    ),
    "a positive log": ("log", (0.1, 0.5), "0.5 at candidate 2, task 'order'; expected a logarithm up to 0"),
    "a percentage as P(order | click)": (
        "given",
        (0.1, 3.0),
        "3 at candidate 2, task 'order'; expected a probability from 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_scale_cannot_have_is_refused_and_named(case, tmp_path):
    name, values, message = REFUSED[case]
    logs, raw = logs_of(name), raw_of(name)[:3].copy()
    task = next(task for task in TASKS if task in message)
    low, high = logs.scales[task].low, logs.scales[task].high
    message = f"predictions is {message}"
    learned = f"(column 'p_{task}', {low:.5g} to {high:.5g})"
    raw[1, 2] = values
    policy_of(logs).save(tmp_path / "policy")
    ranker, service = BlendedRanker.load(tmp_path / "policy"), _core.Service(str(tmp_path), "{}")
    refuses(ValueError, "request 1: " + re.escape(message), ranker.rank, logs.context[:3], raw, K)
    refuses(ValueError, re.escape(learned), ranker.rank, logs.context[1:2], raw[1:2], K)
    assert ranker.counters["requests"] == 0
    with pytest.raises(AssertionError, match=re.escape(message)):
        CRanker(tmp_path / "policy").rank(logs.context[1], raw[1], K, "")
    lists = {t: raw[1, :, n].tolist() for n, t in enumerate(TASKS)}
    body = {"user": "ann", "k": K, "context": {"hour": 0.5}, "items": [*range(SIZE)], "predictions": lists}
    for path in ("/v1/rank", "/v1/explain", "/v1/weights"):
        status, _, answer, _ = service.handle("POST", path, json.dumps(body).encode())
        error = json.loads(answer)["error"]
        assert status == 400 and error["argument"] == "predictions" and error["message"].startswith(message)
    raw[1, 2] = np.nan  # which is a missing one, as ever
    assert ranker.rank(logs.context[:3], raw, SIZE).indices[1, -1] == 2


def test_amounts_have_no_end_but_0():
    table = table_of("probability")
    table["y_order"] = table["y_order"] * 37.5
    table["p_order"] = table["p_order"] * 40
    logs = Logs.from_table(table)
    assert logs.scales["order"].amount and not logs.scales["click"].amount
    ranker = BlendedRanker(policy_of(logs))
    raw = logs.predictions.reshape(REQUESTS, SIZE, 2)[:1].copy()
    raw[0, 3, 1] = 1e6
    assert np.isfinite(ranker.rank(logs.context[:1], raw, SIZE).values).all()
    raw[0, 3, 1] = -1e-3
    refuses(ValueError, "-0.001 at candidate 3, task 'order'", ranker.rank, logs.context[:1], raw, K)


def test_logs_keep_the_scales_from_the_table_to_the_server_and_back(name, tmp_path):
    logs, raw = logs_of(name), raw_of(name)
    write_logs(logs, tmp_path / "logs")
    again = read_logs(tmp_path / "logs")
    assert again.scales == logs.scales and set(again.scales) == set(TASKS)
    assert concatenate([again.select([0]), again.select([1])]).scales == logs.scales
    policy_of(again).save(tmp_path / "policy")
    ranker = BlendedRanker.load(tmp_path / "policy")
    assert ranker.policy.scales == logs.scales
    page = ranker.rank(logs.context, raw, K)
    served = page.log_rows()
    np.testing.assert_array_equal(served.predictions, logs.predictions)
    assert served.scales == logs.scales
    wanted = ranker.rank_log(logs, K)
    np.testing.assert_array_equal(page.contributions, wanted.contributions)
    service = _core.Service(str(tmp_path), json.dumps({"exposures": str(tmp_path / "log"), "exposure_share": 1.0}))
    lists = {task: raw[0, :, t].tolist() for t, task in enumerate(TASKS)}
    body = {"user": "ann", "k": K, "context": {"hour": 0.5}, "items": [*range(SIZE)], "predictions": lists}
    assert service.handle("POST", "/v1/rank", json.dumps(body).encode())[0] == 200
    explained = json.loads(service.handle("POST", "/v1/explain", json.dumps(body).encode())[2])
    for entry in explained["explanation"]:
        read = np.float32([entry["predictions"][task] for task in TASKS])
        assert read.tobytes() == logs.predictions[entry["item"]].tobytes()
    service.drain()
    exposures = read_logs(tmp_path / "log")
    np.testing.assert_array_equal(exposures.predictions, logs.predictions[exposures.item_id])
    assert exposures.scales == logs.scales


def test_exports_read_predictions_too(name):
    logs, raw = logs_of(name), raw_of(name)
    policy = policy_of(logs)
    wanted = BlendedRanker(policy).rank_log(logs, K)
    page = export.PolicyPage(policy, K)
    scores, indices, _ = page(torch.from_numpy(logs.context), torch.from_numpy(raw))
    assert (indices.numpy() == wanted.indices).mean() > 0.999
    np.testing.assert_allclose(scores.detach().numpy(), wanted.values, rtol=1e-4, atol=1e-5)
    policy.mixture = Mixture(0.0, Baseline("expected value", "identity", (1.0, 5.0)))
    expression = expressions.express(policy)
    documents = {f"p_{task}": raw[0, :, t] for t, task in enumerate(TASKS)}
    score = logs.predictions[:SIZE] @ np.array([1.0, 5.0])
    np.testing.assert_allclose(expression.evaluate(documents, {})["score"], score, rtol=1e-5)
    assert expressions.compare(policy, expression, logs, K, exact=True)["equal"] > 0.99
