"""Training with a correction: what is learned from, what is served, what the artifact keeps."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pygrade.config.training import CorrectionConfig, CrossFitConfig, OnlineConfig
from pygrade.correction.fit import CALIBRATED
from pygrade.correction.inputs import InputScaling
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE, EXPECTED_VALUE, PRODUCTION
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs.dataset import Dataset
from pygrade.logs.keys import hashes
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import ItemEffects
from pygrade.policy.page_terms import PageTerms
from pygrade.runs.fit import fit
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.baselines import corrected_expected_value
from pygrade.training.correction_proof import accept_pages, misses_of, page_line, permute_feedback
from pygrade.training.cross_fit import fold_of_requests
from pygrade.training.evidence import correct_log, prepare_log
from pygrade.training.online import OnlineLearner
from pygrade.workers import LOCAL
from tests.correction.test_fit import fitted, world
from tests.correction.test_pages import CURVE, log_of
from tests.training.test_cross_fit import FAST as SHORT

FAST = replace(SHORT, cross_fit=CrossFitConfig(folds=2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return fit(world(2500, effect=1.0), FAST, folder), folder


def test_corrected_expected_value_is_served(trained):
    result, folder = trained
    policy, record = result.policy, result.summary["cross_fit"]
    assert record["verdict"] == "better" and record["proof"]["z"] > 2 and record["proof"]["name"] == "correction"
    assert CORRECTED_EXPECTED_VALUE in (record["served_baseline"], record["challenger"])
    assert policy.config.corrected and policy.correction is not None
    assert "likelihood z" in policy.mixture.sentence + policy.mixture.detail
    assert policy.mixture.reasons[0].startswith("order: ") and "taste" in policy.mixture.reasons[0]
    loaded = FusionPolicy.load(folder / "policy")
    assert loaded.correction == policy.correction and loaded.version == policy.version
    assert FusionPolicy.load(folder / "stage2").correction == policy.correction


def test_what_is_served_follows_the_planted_effect(trained):
    policy = trained[0].policy
    logs = world(400, seed=4, effect=1.0)
    taste = np.sign(np.repeat(logs.context[:, 0], 20))
    given = logs.predictions[:, 1] / logs.predictions[:, 0]
    odds = np.log(given / (1 - given))
    truth = 1 / (1 + np.exp(-odds - taste * (odds + 1.0)))
    worth = logs.predictions[:, 0] * (1 + 8 * truth)

    def value(scores):  # type: ignore[no-untyped-def]
        order = np.argsort(-scores.reshape(-1, 20), 1)[:, :5]
        return np.take_along_axis(worth.reshape(-1, 20), order, 1).sum()

    scores = policy.scores(logs.context, logs.predictions, logs.offsets)
    plain, best = value(logs.predictions @ np.array([1.0, 8.0])), value(worth)
    assert value(scores) - plain > 0.25 * (best - plain)


def test_the_ranker_serves_what_the_policy_scores(trained):
    policy = trained[0].policy
    logs = world(30, seed=5)
    scores = policy.scores(logs.context, logs.predictions, logs.offsets).reshape(-1, 20)
    page = BlendedRanker(policy, seed=0).rank(logs.context, logs.predictions, 8, offsets=logs.offsets)
    np.testing.assert_array_equal(page.indices, np.argsort(-scores, 1, kind="stable")[:, :8])


def test_without_grade_the_correction_is_served_all_the_same(trained, tmp_path):
    result = fit(world(2500, effect=1.0), replace(FAST, grade=False), tmp_path)
    record, policy = result.summary["cross_fit"], result.policy
    assert record["verdict"] == "better" and record["proof"] == trained[0].summary["cross_fit"]["proof"]
    assert CORRECTED_EXPECTED_VALUE in (record["served_baseline"], record["challenger"])
    assert policy.correction == trained[0].policy.correction and not policy.config.corrected
    folds = [FusionPolicy.load(path) for path in tmp_path.glob("folds/*/policy")]
    assert len(folds) == 2 and all(fold.correction and fold.mixture == policy.mixture for fold in folds)
    OnlineLearner(policy, OnlineConfig(correction=True))  # goes on from it


def test_without_a_correction_the_policy_learns_from_raw_predictions(tmp_path):
    logs = world(600)
    result = fit(logs, replace(FAST, correction=CorrectionConfig(enabled=False)), tmp_path)
    assert result.policy.correction is None and not result.policy.config.corrected
    assert result.summary["cross_fit"]["proof"] is None


def test_predictions_that_nothing_corrects_are_served_as_they_are(tmp_path):
    result = fit(world(1200, effect=0.0), FAST, tmp_path)
    record = result.summary["cross_fit"]
    assert record["proof"] is None and result.policy.correction is None
    assert record["served_baseline"] == EXPECTED_VALUE or record["verdict"] == "better"


def test_features_that_may_be_missing_get_indicators(tmp_path):
    logs = world(900)
    context = logs.context.copy()
    context[::3, 1] = np.nan
    policy = fit(replace(logs, context=context), FAST, tmp_path).policy
    assert policy.config.indicators == ("noise",) and policy.num_inputs == 3 + 1 + 4
    page = BlendedRanker(policy, seed=0).rank(context[:3], logs.predictions[:60].reshape(3, 20, 2), 5)
    assert not any(page.fallback)


@pytest.mark.slow
def test_a_log_beyond_the_sample_is_corrected_by_all_of_it(tmp_path):
    logs = world(2500, effect=1.0)
    config = replace(FAST, sample_requests=2000)
    result = fit(logs, config, tmp_path)
    assert result.summary["cross_fit"]["verdict"] == "better" and result.policy.correction is not None
    whole = fit(logs, FAST, tmp_path / "whole").policy.correction
    some = world(200, seed=8)
    one, other = (c.apply(some.context, some.predictions, some.offsets) for c in (result.policy.correction, whole))
    assert np.corrcoef(np.log(one[:, 1]), np.log(other[:, 1]))[0, 1] > 0.98


def test_the_ranker_looks_levels_up_by_the_items_id(trained):
    policy = copy.deepcopy(trained[0].policy)
    levels = ItemEffects(
        np.sort(hashes(np.arange(50))), np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    )
    policy.correction = policy.correction.with_item_effects(levels)
    logs = world(20, seed=5)
    logs = replace(logs, item_id=logs.item_id % 60)
    ranker = BlendedRanker(policy, seed=0)
    scores = policy_scores(policy, logs).reshape(-1, 20)
    page = ranker.rank(logs.context, logs.predictions, 8, offsets=logs.offsets, item_id=logs.item_id)
    np.testing.assert_array_equal(page.indices, np.argsort(-scores, 1, kind="stable")[:, :8])
    plain = trained[0].policy.scores(logs.context, logs.predictions, logs.offsets).reshape(-1, 20)
    without = ranker.rank(logs.context, logs.predictions, 8, offsets=logs.offsets)
    np.testing.assert_array_equal(without.indices, np.argsort(-plain, 1, kind="stable")[:, :8])
    assert (without.indices != page.indices).any()


def test_page_terms_are_part_of_the_correction_that_is_served(monkeypatch):
    monkeypatch.setattr("pygrade.training.evidence.passing_permuted_control", lambda *_: None)  # passes in `trained`
    logs = log_of(1.5)
    plain = replace(FAST, correction=CorrectionConfig(calibration=False, item_effects=False))
    dataset = Dataset(logs)
    evidence = prepare_log(dataset, dataset, plain)
    found = evidence.accepted
    assert found is not None and found.proof.pages.passes
    assert found.proof.page_line.startswith("whole pages: click 0.")
    served = correct_log(evidence, plain, LOCAL).correction
    assert served.page_terms == found.page_terms and served.page_terms.root == "click"
    assert served.page_terms.beam == 1  # nothing helps
    off = replace(plain, correction=replace(plain.correction, page_terms=False))
    assert found.of_fold(1).page_terms == found.fold_terms[1] != found.page_terms
    assert not corrected_expected_value(logs, served).logarithm  # of which page terms move a part
    assert corrected_expected_value(logs, replace(served, page_terms=None)).logarithm
    without = prepare_log(dataset, dataset, off).accepted
    assert without.page_terms is None and without.proof.pages is None and without.proof.page_line == ""


def test_page_terms_stand_on_predictions_that_nothing_corrects(tmp_path, monkeypatch):
    monkeypatch.setattr("pygrade.training.evidence.accept_correction", lambda *_: (None, ()))
    logs = log_of(1.5)
    result = fit(logs, replace(FAST, correction=CorrectionConfig(calibration=False, item_effects=False)), tmp_path)
    correction, record = result.policy.correction, result.summary["cross_fit"]
    assert correction is not None and correction.page_terms is not None and correction.parents[1] == 0
    np.testing.assert_allclose(
        correction.apply(logs.context, logs.predictions, logs.offsets)[:, 0], logs.predictions[:, 0], rtol=1e-5
    )
    assert record["proof"]["name"] == "as predicted" and record["served_baseline"] == CORRECTED_EXPECTED_VALUE
    assert record["sentence"].startswith(
        "Test the new ranking: its whole pages are better; on re-ordered pages it earns "
    )
    assert (
        record["control"] == PRODUCTION and "over expected value" not in record["sentence"]
    )  # no replay tells them apart
    assert record["detail"].split("; ")[1].startswith("likelihood z ")
    # the log's own order is not better because each item suffered from what stood above it there
    assert abs(record["lift"]["value"]) < 1e-4 and abs(record["baselines"][PRODUCTION]["value"]) < 0.01
    assert record["reasons"][0].startswith("whole pages: click 0.")
    some = logs.select(np.arange(50))
    ranker = BlendedRanker(FusionPolicy.load(tmp_path / "policy"), seed=0)
    page, plain = ranker.rank_log(some, 10), ranker.rank_log(some, 10, page_terms=False)
    assert page.searched.all() and (page.indices != plain.indices).any()
    kinds = some.category.reshape(50, -1)
    pages = [np.take_along_axis(kinds, found.indices.astype(int), 1) for found in (page, plain)]
    assert sum(len({*row}) for row in pages[0]) > sum(len({*row}) for row in pages[1])  # more categories on a page
    flat = log_of(0.0)
    fold, scaling = fold_of_requests(flat.user_number, 2, 0), InputScaling.of(flat, flat.predictions)
    assert accept_pages(flat, None, scaling, CURVE, fold, flat.user_number, 10) is None  # nothing is there


@pytest.mark.parametrize(
    ("beam", "cosine", "said"),
    [
        (
            1,
            -0.5,
            "whole pages: click 0.5 times as likely below an item of its category, 0.61 times as likely below an ",
        ),
        (8, 0.0, "whole pages: click 0.5 times as likely below an item of its category, 2 times for case below phone"),
    ],
)
def test_page_terms_are_said_in_a_line(beam, cosine, said):
    pairs = np.array([[np.log(0.5), 0.0], [np.log(2), np.log(0.5)]])
    terms = PageTerms("click", np.ones(3), ("case", "phone"), pairs, cosine, beam, 4 if cosine else 0)
    assert page_line(terms).startswith(said)


def test_dealt_feedback_keeps_its_pages_and_supports_nothing():
    logs = world(2500, effect=1.0)
    dealt = permute_feedback(logs, 0)
    rows, after = (part.feedback[np.lexsort((part.position, part.row_request))] for part in (logs, dealt))
    pages = [sorted(map(bytes, part.reshape(-1, 20, 2)[:, -8:])) for part in (rows, after)]
    assert pages[0] == pages[1] and (np.sort(dealt.position) == np.sort(logs.position)).all()
    assert fitted(logs, calibration=False).accepted is not None
    # production's order is that of the predictions: dealt slot by slot, its feedback would still follow them
    assert fitted(dealt).accepted is None


@pytest.mark.parametrize("of_dealt", [False, True])
def test_misses_that_change_no_order_are_said_unless_dealt_feedback_proves_them_too(tmp_path, monkeypatch, of_dealt):
    logs = replace(world(2500, effect=0.0), task_values=(0.01, 8.0))
    low = logs.context[logs.row_request, 0] < 0
    few = low & (np.random.default_rng(3).random(logs.num_rows) < 0.7)  # a page's orders, all of its items alike
    feedback = logs.feedback * np.stack([np.ones_like(few), ~few], 1)
    if of_dealt:
        monkeypatch.setattr("pygrade.training.correction_proof.passing_permuted_control", lambda *_: "a candidate")
    result = fit(replace(logs, feedback=feedback.astype(np.float32)), replace(FAST, grade=False), tmp_path)
    record = result.summary["cross_fit"]
    assert record["proof"] is None and result.policy.correction is None
    missed = "your model misses this, though no better order is proven: order: "
    said = any(line.startswith(missed) and "where taste is above" in line for line in record["reasons"])
    assert said is not of_dealt and bool(record["reasons"]) is not of_dealt


def test_no_column_is_missed_by_predictions_that_calibration_alone_betters():
    """Markets of foreign worlds with dealt feedback: 8 of 8 logs had named columns, by which the predictions differ."""
    proven = SimpleNamespace(name=CALIBRATED, gain=SimpleNamespace(better_predictions=True))
    logs, nobody = world(200, effect=0.0), np.zeros(200, np.int64)
    assert misses_of(logs, SimpleNamespace(candidates=[proven]), nobody, nobody, fitted, 0) == ()
