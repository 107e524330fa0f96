"""The page's replay is that of pygrade.evaluation.replay, and its rankings are those of the core."""

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
from tests.console.node import call, needs_node
from tests.corrections import random_correction

WEIGHTS = np.array([0.3125, 0.6875], np.float32)


def sliders(weights=WEIGHTS, multipliers=(1.0, 1.0), mode="weights"):
    return {"mode": mode, "weights": weights, "multipliers": np.array(multipliers, np.float32)}


def page(record, moved, **rules):
    return {"call": "page", "record": record, "sliders": moved, "rules": rules}


def unpacked(content, folder):
    """What the page saves, as files."""
    with zipfile.ZipFile(io.BytesIO(content.tobytes())) as file:
        assert file.testzip() is None
        file.extractall(folder)
    return folder


def assert_equal(actual, expected, logs=None):
    """The same estimate and standard error, with the t of the log's users; of one estimate alone the same interval."""
    degrees = (expected.high - expected.low) / 2 / expected.standard_error
    if logs is not None:
        degrees = student_t(intervals.effective_number(numbered(logs.user_id)) - 1)
    reach = degrees * expected.standard_error
    for name, wanted in (("value", 0.0), ("low", -reach), ("high", reach)):
        assert actual[name] == pytest.approx(expected.value + wanted, rel=1e-9, abs=1e-12)


def replayed(found, logs, record, **scores):
    """The evaluation of scores or weights beside the record's baseline."""
    simple = simple_baselines(logs, found.policy, found.policy.mixture)
    scores[record["baseline"]] = baseline_scores(simple[record["baseline"]], logs, fusion_formula(found.policy.config))
    curve = found.propensity.known(10)
    transform = {"yours": fusion_formula(found.policy.config)}
    weights = {"yours": WEIGHTS} if "yours" not in scores else {}
    return evaluate(logs, weights, record["baseline"], scores=scores, k=CONFIG.k, transform=transform, propensity=curve)


@needs_node
def test_a_baseline_that_is_served_is_compared_with_production(tmp_path):
    run = make_run(tmp_path, trust=0.0)
    found = find_run(run, f"logs:{tmp_path / 'logs'}", CONFIG)
    record = collect(found, CONFIG)
    assert (record["names"]["served"], record["baseline"], record["over"]) == (*("expected value",) * 2, "production")
    (result,) = call(tmp_path, page(record, sliders(mode="served")))
    simple = simple_baselines(found.held_out, found.policy, found.policy.mixture)
    scores = {
        name: baseline_scores(simple[name], found.held_out, fusion_formula(found.policy.config))
        for name in ("production", "expected value")
    }
    curve = found.propensity.known(5)
    expected = evaluate(found.held_out, {}, "production", scores=scores, k=CONFIG.k, propensity=curve)
    assert_equal(result["lifts"]["value"], expected.lifts["expected value"]["value"], found.held_out)
    assert result["lifts"]["value"]["value"] != 0


@needs_node
def test_moved_weights_are_worth_what_python_says(tmp_path, found, record):
    (result,) = call(tmp_path, page(record, sliders()))
    evaluation = replayed(found, found.held_out, record)
    assert result["lifts"]["requests"] == found.held_out.num_requests == 120
    for metric in ("value", "ndcg"):
        assert_equal(result["lifts"][metric], evaluation.lifts["yours"][metric], found.held_out)
    assert not np.array_equal(result["pages"], result["scores"])


@needs_node
def test_moved_multipliers_are_worth_what_python_says(tmp_path, found, record, monkeypatch):
    u = (4.0, 0.5)
    (result,) = call(tmp_path, page(record, sliders(multipliers=u, mode="tradeoffs")))
    chosen = found.held_out.select(record["browsed"]["judged"])
    values = dict(zip(chosen.tasks, u, strict=True))
    ranked = BlendedRanker(found.policy, seed=0).rank(
        chosen.context,
        chosen.predictions,
        CONFIG.k,
        offsets=chosen.offsets,
        scenario=[str(name) for name in chosen.scenario],
        values=values,
        item_values=chosen.value,
    )
    assert np.array_equal(result["pages"], ranked.indices.reshape(-1))
    factor = browsing_factor(found.held_out)[np.isin(found.held_out.row_request, record["browsed"]["judged"])]
    monkeypatch.setattr("pygrade.evaluation.value.browsing_factor", lambda _: factor)  # fitted to all that is judged
    evaluation = replayed(found, chosen, record, yours=result["scores"])
    assert result["lifts"]["requests"] == chosen.num_requests == CONFIG.requests
    for metric in ("value", "ndcg"):
        assert_equal(result["lifts"][metric], evaluation.lifts["yours"][metric], chosen)


@needs_node
def test_all_rankings_have_the_order_of_the_core(tmp_path, record):
    (result,) = call(tmp_path, page(record, sliders()))
    assert [arm["name"] for arm in record["arms"]] == ["production", "expected value", "best static", "GRADE", "served"]
    rows = len(record["browsed"]["items"])
    assert result["check"] == {"same": 5 * rows, "all": 5 * rows}
    wrong = record["arms"][3]["ranks"].copy()
    wrong[[0, 1]] = wrong[[1, 0]]
    arms = [arm | {"ranks": wrong} if arm["name"] == "GRADE" else arm for arm in record["arms"]]
    (result,) = call(tmp_path, page(record | {"arms": arms}, sliders()))
    assert result["check"] == {"same": 5 * rows - 2, "all": 5 * rows}


def corrected_run(folder, mixture, **config):
    """The run of a policy that corrects predictions, with prices in its own formula."""
    run = make_run(folder, stages=False)
    policy = FusionPolicy.load(run / "policy")
    options = replace(policy.config, **({"trade_offs": False, "value_tasks": ("order",)} | config))
    made = FusionPolicy(PolicySpec(policy.tasks, policy.features, options), policy.static_weights, seed=4)
    made.mixture = mixture
    made.correction = random_correction(scale=0.4, tasks=policy.tasks, features=policy.features, items=())
    made.save(run / "policy")
    logs = read_logs(folder / "logs")
    TrainingRecord.of(logs.split(0.7)[0], made.version).save(run / "policy")
    return collect(find_run(run, f"logs:{folder / 'logs'}", CONFIG), CONFIG)


EXPECTED = Baseline("expected value", "identity", (1.0, 2.0), logarithm=True)
CORRECTED = replace(EXPECTED, name="corrected expected value", corrected=True)


@needs_node
@pytest.mark.parametrize(
    ("mixture", "serves", "kind"),
    [
        (Mixture(0.0, CORRECTED, "better", over="expected value"), "corrected expected value", "baseline"),
        (
            Mixture(0.4, EXPECTED, "better", challenger=CORRECTED),
            "0.4 corrected expected value + 0.6 expected value",
            "mixture",
        ),
        (Mixture(0.7, CORRECTED, "better"), "0.7 policy alone + 0.3 corrected expected value", "mixture"),
    ],
)
@pytest.mark.parametrize("corrected", [False, True])
def test_rankings_of_corrected_predictions_have_the_order_of_the_core(tmp_path, mixture, serves, kind, corrected):
    record = corrected_run(tmp_path, mixture, corrected=corrected)
    assert record["names"]["served"] == "served"
    found = find_run(tmp_path / "run", f"logs:{tmp_path / 'logs'}")
    assert found.evaluation["later"]["serves"] == serves
    assert record["baseline"] == found.evaluation["verdict"]["over"] == "expected value"
    assert record["arms"][-1]["name"] == "served" and record["arms"][-1]["kind"] == kind
    served, moved = call(
        tmp_path,
        page(record, sliders(mode="served")),
        page(record, sliders()),
    )
    assert served["check"]["same"] == served["check"]["all"] > 0
    # what the events above a row tell of its examination is fitted with corrected predictions in one, as logged in two
    lift = record["evaluation"]["lifts"]["served"]["value"]
    assert served["lifts"]["value"]["value"] == pytest.approx(lift["value"], rel=2e-3)
    own = record["judged"]["arms"]["served"]["value"]
    base = record["judged"]["arms"]["expected value"]["value"]
    assert lift["value"] == pytest.approx(own.mean() / base.mean() - 1, rel=2e-3)
    assert not np.array_equal(served["pages"], moved["pages"])
    policy = FusionPolicy.load(unpacked(moved["zip"], tmp_path / "saved"))  # the sliders correct nothing
    assert policy.correction is None and not policy.config.corrected and policy.config.value_tasks == ("order",)
    logs = find_run(tmp_path / "run", f"logs:{tmp_path / 'logs'}").held_out.select(record["browsed"]["judged"])
    ranked = BlendedRanker(policy).rank(
        logs.context, logs.predictions, CONFIG.k, offsets=logs.offsets, item_values=logs.value
    )
    assert np.array_equal(ranked.indices.reshape(-1), moved["pages"])


@needs_node
@pytest.mark.parametrize(
    ("mixture", "config"),
    [
        (Mixture(0.4, EXPECTED, "better", challenger=CORRECTED), {"value_tasks": ()}),
        (Mixture(1.0, EXPECTED, "better", challenger=CORRECTED), {}),
        (Mixture(0.7, CORRECTED, "better"), {"corrected": True}),
        (Mixture(1.0, CORRECTED, "better"), {"corrected": True, "value_tasks": ()}),
    ],
)
def test_multipliers_turn_what_ranks_by_corrected_predictions(tmp_path, mixture, config):
    record = corrected_run(tmp_path, mixture, trade_offs=True, **config)
    u = {"click": 4.0, "order": 0.5}
    plain, moved = call(
        tmp_path,
        page(record, sliders(mode="tradeoffs")),
        page(record, sliders(multipliers=tuple(u.values()), mode="tradeoffs")),
    )
    found = find_run(tmp_path / "run", f"logs:{tmp_path / 'logs'}")
    logs = found.held_out.select(record["browsed"]["judged"])
    for result, values in ((plain, None), (moved, u)):
        scores = found.policy.scores(logs.context, logs.predictions, logs.offsets, logs.scenario, values, logs.value)
        np.testing.assert_allclose(result["scores"], scores, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(plain["scores"], moved["scores"])


@needs_node
def test_contributions_are_centered_and_add_up_to_the_standardized_score(tmp_path, found, record):
    (result,) = call(tmp_path, page(record, sliders()))
    first = found.held_out.select(record["browsed"]["judged"][:1])
    simple = simple_baselines(found.held_out, found.policy, found.policy.mixture)
    scores = baseline_scores(simple["best static"], first, fusion_formula(found.policy.config))
    parts = result["contributions"][2].reshape(-1, 2)
    assert np.allclose(parts.mean(0), 0, atol=1e-6)
    assert np.allclose(parts.sum(1), (scores - scores.mean()) / scores.std(), atol=1e-4)


@needs_node
def test_caps_and_boosts_change_your_page_alone(tmp_path, record):
    groups = record["browsed"]["groups"]
    assert [group["name"] for group in groups] == ["price"]
    codes = groups[0]["codes"].astype(np.int32)
    boost = np.where(codes == 3, 100, 0).astype(np.float32)
    (boosted, capped) = call(
        tmp_path,
        page(record, sliders(), boostAdd=boost),
        page(record, sliders(), groups=codes, caps=np.array([1], np.int32)),
    )
    offsets = record["browsed"]["offsets"]
    for r, (high, few) in enumerate(zip(boosted["pages"].reshape(-1, 3), capped["pages"].reshape(-1, 3), strict=True)):
        own = codes[offsets[r] : offsets[r + 1]]
        assert (own[high] == 3).sum() == min(3, (own == 3).sum())
        kept = own[few[few >= 0]]
        assert len(set(kept.tolist())) == len(kept)
    assert boosted["check"]["same"] == boosted["check"]["all"]


@needs_node
def test_intervals_are_those_of_python(tmp_path):
    rng = np.random.default_rng(3)
    old, users = rng.random(60), numbered(rng.integers(0, 20, 60)).astype(np.int32)
    fresh = np.where(rng.random(60) < 0.2, np.nan, old + rng.normal(0, 0.1, 60))
    lift, mean, same, zero = call(
        tmp_path,
        {"call": "mean_lift", "fresh": fresh, "old": old, "users": users},
        {"call": "mean", "values": fresh, "users": users},
        {"call": "mean_lift", "fresh": old, "old": old, "users": users},
        {"call": "mean_lift", "fresh": old, "old": np.zeros(60), "users": users},
    )
    assert_equal(lift, intervals.simultaneous([intervals.mean_lift(fresh, old)], users)[0])
    assert_equal(mean, intervals.mean(fresh, users))
    assert same == {"value": 0, "low": 0, "high": 0}
    assert zero == {"value": None, "low": None, "high": None}
