"""What the page ranks, replays and saves is what Python says and serves."""

import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from pygrade.console.collect import collect
from pygrade.console.run_files import find_run
from pygrade.evaluation.browsing import browsing_factor
from pygrade.evaluation.replay import evaluate
from pygrade.logs import numbered, read_logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import student_t
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.policy.spec import fusion_formula
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.baselines import baseline_scores
from pygrade.training.evaluate_policy import simple_baselines
from pygrade.training.training_record import TrainingRecord
from tests.console.conftest import CONFIG, make_run
from tests.console.node import WEIGHTS, call, needs_node, page, sliders
from tests.corrections import random_correction

EXPECTED = Baseline("expected value", "identity", (1.0, 2.0), logarithm=True)
CORRECTED = replace(EXPECTED, name="corrected expected value", corrected=True)


def unpacked(content, folder):
    """What the page saves, as files."""
    with zipfile.ZipFile(io.BytesIO(content.tobytes())) as file:
        assert file.testzip() is None
        file.extractall(folder)
    return folder


def shown_by(found, record):
    """The requests that the page holds."""
    ids = found.held_out.request_id.astype(str).tolist()
    return found.held_out.select(np.array([ids.index(name) for name in record["requests"]["names"]]))


def assert_equal(actual, expected, logs):
    """The same estimate and standard error, with the t of the log's users."""
    degrees = student_t(intervals.effective_number(numbered(logs.user_id)) - 1)
    reach = degrees * expected.standard_error
    for name, wanted in (("value", 0.0), ("low", -reach), ("high", reach)):
        assert actual[name] == pytest.approx(expected.value + wanted, rel=1e-9, abs=1e-12)


def replayed(found, logs, over, monkeypatch, **scores):
    """The evaluation of scores or weights beside a baseline, with corrections fitted to all that is judged."""
    simple = simple_baselines(logs, found.policy, found.policy.mixture)
    scores[over] = baseline_scores(simple[over], logs, found.policy.config)
    rows = np.isin(found.held_out.request_id, logs.request_id)[found.held_out.row_request]
    factor = browsing_factor(found.held_out)[rows]
    monkeypatch.setattr("pygrade.evaluation.value.browsing_factor", lambda _: factor)
    weights = {} if "yours" in scores else {"yours": WEIGHTS}
    curve, formula = found.propensity.known(10), fusion_formula(found.policy.config)
    return evaluate(logs, weights, over, scores=scores, k=CONFIG.k, transform={"yours": formula}, propensity=curve)


@needs_node
def test_a_baseline_that_is_served_is_compared_with_production(tmp_path, monkeypatch):
    run = make_run(tmp_path, mixture_weight=0.0)
    found = find_run(run, f"logs:{tmp_path / 'logs'}", CONFIG)
    record = collect(found, CONFIG)
    assert (record["served"], record["baseline"], record["control"]) == (*("expected value",) * 2, "production")
    (result,) = call(tmp_path, page(record, sliders(mode="served")))
    logs = shown_by(found, record)
    simple = simple_baselines(logs, found.policy, found.policy.mixture)
    own = baseline_scores(simple["expected value"], logs, found.policy.config)
    expected = replayed(found, logs, "production", monkeypatch, yours=own)
    assert_equal(result["lifts"]["value"], expected.lifts["yours"]["value"], logs)
    assert result["lifts"]["value"]["value"] != 0


@needs_node
def test_moved_weights_are_worth_what_python_says_and_are_served_once_saved(tmp_path, found, record, monkeypatch):
    (result,) = call(tmp_path, page(record, sliders()))
    logs = shown_by(found, record)
    evaluation = replayed(found, logs, record["control"], monkeypatch)
    assert result["lifts"]["requests"] == logs.num_requests == CONFIG.requests
    for metric in ("value", "ndcg"):
        assert_equal(result["lifts"][metric], evaluation.lifts["yours"][metric], logs)
    folder = unpacked(result["zip"], tmp_path / "saved")
    ranker = BlendedRanker.load(folder, seed=1)
    served = ranker.rank(logs.context, logs.predictions, CONFIG.k, offsets=logs.offsets)
    assert np.array_equal(served.weights, np.tile(WEIGHTS, (CONFIG.requests, 1)))
    assert np.array_equal(served.indices.reshape(-1), result["pages"])
    without = ranker.rank(None, logs.predictions, CONFIG.k, offsets=logs.offsets, scenario="buy")
    assert np.array_equal(without.indices, served.indices)
    policy = FusionPolicy.load(folder)
    assert policy.schema_hash() == found.policy.schema_hash()
    BlendedRanker(found.policy).publish(policy)
    assert f'"version": "{policy.version}"' in (folder / "policy.json").read_text(encoding="utf-8")
    explored = ranker.rank(np.tile(logs.context[:1], (4000, 1)), np.ones((4000, 1, 2)), 1, explore=True, seed=3)
    assert explored.explored.all() and explored.weights.mean(0) == pytest.approx(WEIGHTS, abs=0.02)


@needs_node
def test_moved_multipliers_are_worth_what_python_says_and_are_served_once_saved(tmp_path, found, record, monkeypatch):
    u = (4.0, 0.5)
    (result,) = call(tmp_path, page(record, sliders(multipliers=u, mode="tradeoffs")))
    logs = shown_by(found, record)
    ranked = BlendedRanker(found.policy, seed=0).rank_log(logs, CONFIG.k, values=dict(zip(logs.tasks, u, strict=True)))
    assert np.array_equal(result["pages"], ranked.indices.reshape(-1))
    values = np.tile(np.float32(u), (logs.num_requests, 1))
    scores = found.policy.scores(logs.context, logs.predictions, logs.offsets, logs.scenario, values, logs.value)
    evaluation = replayed(found, logs, record["control"], monkeypatch, yours=scores)
    for metric in ("value", "ndcg"):
        assert_equal(result["lifts"][metric], evaluation.lifts["yours"][metric], logs)
    folder = unpacked(result["zip"], tmp_path / "saved")
    assert np.array_equal(BlendedRanker.load(folder, seed=1).rank_log(logs, CONFIG.k).indices, ranked.indices)
    policy = FusionPolicy.load(folder)
    assert policy.config.values == {"click": 4.0, "order": 0.5} and policy.mixture == found.policy.mixture
    assert f'"version": "{policy.version}"' in (folder / "policy.json").read_text(encoding="utf-8")


@needs_node
def test_all_rankings_have_the_order_of_the_core(tmp_path, record):
    (result,) = call(tmp_path, page(record, sliders()))
    assert [arm["name"] for arm in record["arms"]] == ["production", "expected value", "best static", "GRADE", "served"]
    rows = len(record["requests"]["item"])
    assert result["check"] == {"same": 5 * rows, "all": 5 * rows}
    wrong = record["arms"][3]["ranks"].copy()
    wrong[[0, 1]] = wrong[[1, 0]]
    arms = [arm | {"ranks": wrong} if arm["name"] == "GRADE" else arm for arm in record["arms"]]
    (result,) = call(tmp_path, page(record | {"arms": arms}, sliders()))
    assert result["check"] == {"same": 5 * rows - 2, "all": 5 * rows}


def corrected_run(folder, mixture, **config):
    """The run of a policy that corrects predictions, with prices in its own formula, and its record."""
    run = make_run(folder, stages=False)
    policy = FusionPolicy.load(run / "policy")
    options = replace(policy.config, **({"trade_offs": False, "value_tasks": ("order",)} | config))
    made = FusionPolicy(PolicySpec(policy.tasks, policy.features, options), policy.static_weights, seed=4)
    made.mixture = mixture
    made.correction = random_correction(scale=0.4, tasks=policy.tasks, features=policy.features, items=())
    made.save(run / "policy")
    logs = read_logs(folder / "logs")
    TrainingRecord.of(logs.split(0.7)[0], made.version).save(run / "policy")
    found = find_run(run, f"logs:{folder / 'logs'}", CONFIG)
    return found, collect(found, CONFIG)


@needs_node
@pytest.mark.parametrize(
    ("mixture", "serves"),
    [
        (Mixture(0.0, CORRECTED, "better", control="expected value"), "corrected expected value"),
        (Mixture(0.4, EXPECTED, "better", challenger=CORRECTED), "0.4 corrected expected value + 0.6 expected value"),
        (Mixture(0.7, CORRECTED, "better"), "0.7 policy alone + 0.3 corrected expected value"),
    ],
)
@pytest.mark.parametrize("corrected", [False, True])
def test_rankings_of_corrected_predictions_have_the_order_of_the_core(tmp_path, mixture, serves, corrected):
    found, record = corrected_run(tmp_path, mixture, corrected=corrected)
    assert record["served"] == "served" and found.evaluation["later"]["serves"] == serves
    assert record["baseline"] == found.evaluation["verdict"]["control"] == "expected value"
    served, moved = call(tmp_path, page(record, sliders(mode="served")), page(record, sliders()))
    assert served["check"]["same"] == served["check"]["all"] > 0
    assert served["lifts"]["value"] == pytest.approx(
        {name: record["evaluation"]["lifts"]["served"]["value"][name] for name in served["lifts"]["value"]}
    )
    assert_contributions(served, found, record, tmp_path)
    assert not np.array_equal(served["pages"], moved["pages"])
    policy = FusionPolicy.load(unpacked(moved["zip"], tmp_path / "saved"))  # the sliders correct nothing
    assert policy.correction is None and not policy.config.corrected and policy.config.value_tasks == ("order",)
    pages = BlendedRanker(policy).rank_log(shown_by(found, record), CONFIG.k).indices
    assert np.array_equal(pages.reshape(-1), moved["pages"])


def assert_contributions(result, found, record, folder):
    """Those of the first request are `Page.contributions` of all of its candidates, centered."""
    first = shown_by(found, record).select(slice(0, 1))
    for arm, shown in zip(record["arms"], result["contributions"], strict=True):
        tensors = record["tensors"][arm["policy"]["tensors"]].tobytes()
        place = folder / f"arm {arm['name']}"
        place.mkdir()
        (place / "policy.json").write_text(arm["policy"]["json"], encoding="utf-8")
        (place / f"policy-{hashlib.sha256(tensors).hexdigest()[:16]}.safetensors").write_bytes(tensors)
        served = BlendedRanker.load(place).rank_log(first, first.num_rows, page_terms=False)
        expected = served.contributions[0][np.argsort(served.indices[0])]
        assert np.abs(expected).max() > 0
        assert np.allclose(shown, expected - expected.mean(0), atol=1e-5 * np.abs(expected).max()), arm["name"]


@needs_node
def test_contributions_are_those_of_a_served_page_and_add_up_to_the_score(tmp_path, found, record):
    (result,) = call(tmp_path, page(record, sliders()))
    assert_contributions(result, found, record, tmp_path)
    first = shown_by(found, record).select(slice(0, 1))
    simple = simple_baselines(found.held_out, found.policy, found.policy.mixture)
    scores = baseline_scores(simple["best static"], first, found.policy.config)
    parts = np.array(result["contributions"][2])
    assert np.allclose(parts.mean(0), 0, atol=1e-6)
    assert np.allclose(parts.sum(1), scores - scores.mean(), atol=1e-4)
    simple = baseline_scores(simple["expected value"], first, found.policy.config)
    values = np.array(result["contributions"][1]).sum(1)
    assert np.argsort(-values).tolist() == np.argsort(-simple).tolist()


@needs_node
def test_intervals_are_those_of_python(tmp_path):
    rng = np.random.default_rng(3)
    old, users = rng.random(60), numbered(rng.integers(0, 20, 60)).astype(np.int32)
    fresh = np.where(rng.random(60) < 0.2, np.nan, old + rng.normal(0, 0.1, 60))
    pairs = ((fresh, old), (old, old), (old, np.zeros(60)))
    lift, same, zero = call(tmp_path, *({"call": "mean_lift", "fresh": a, "old": b, "users": users} for a, b in pairs))
    expected = intervals.simultaneous([intervals.mean_lift(fresh, old)], users)[0]
    assert lift == pytest.approx({name: getattr(expected, name) for name in lift}, rel=1e-9)
    assert same == {"value": 0, "low": 0, "high": 0}
    assert zero == {"value": None, "low": None, "high": None}


@needs_node
def test_shares_are_exact_and_sum_to_one(tmp_path):
    rng = np.random.default_rng(0)
    wishes = [rng.random(n).tolist() for n in (1, 2, 7, 64)] + [[0.0, 0.0], [1.0, 0.0, 0.0], [1e-9, 1.0]]
    for wanted, weights in zip(wishes, call(tmp_path, *({"call": "exact", "wanted": w} for w in wishes)), strict=True):
        assert weights.sum(dtype=np.float64) == 1.0 and (weights >= 0).all()
        target = np.array(wanted) / sum(wanted) if sum(wanted) else np.full(len(wanted), 1 / len(wanted))
        assert np.abs(weights - target).max() <= 1 / 4096
