import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.training import CemConfig, CrossFitConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.correction.fit import later_requests
from pygrade.evaluation.arms import (
    ALONE,
    CORRECTED_EXPECTED_VALUE,
    EXPECTED_VALUE,
    GRADE,
    LOGGED_ORDER,
    PRODUCTION,
    STAGE1,
    STATIC,
)
from pygrade.logs import Logs, numbered
from pygrade.metrics.intervals import Interval
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from pygrade.training import cross_fit, folds
from pygrade.training.correction_proof import CorrectionProof
from pygrade.training.cross_fit import FoldRankings, choose_mixture, fold_of_requests
from pygrade.training.production import find_production
from pygrade.training.propensity import SlotPropensity
from pygrade.training.tracking import read_metrics
from tests.learning import logs_of

KNOWN = SlotPropensity(0.5, "given")
FAST = TrainConfig(
    reward=RewardConfig(propensity=0.5),
    static=CemConfig(iterations=2),
    stage1=Stage1Config(steps=6, batch_size=32),
    stage2=Stage2Config(steps=4, batch_size=32),
    cross_fit=CrossFitConfig(folds=3),
    tensorboard=False,
)


def log(seed: int = 0, requests: int = 600, page: int = 6, hidden: int = 2, ordered: bool = False) -> Logs:
    """Clicks follow the first prediction of each candidate and the slot; the second prediction is noise.

    Candidates are listed as production ranks them: at random, or ordered by the first prediction.
    """
    rng = np.random.default_rng(seed)
    shape = (requests, page + hidden)
    predictions = rng.uniform(0.01, 0.6, (*shape, 2)).astype(np.float32)
    predictions[..., 0] = -np.sort(-predictions[..., 0], 1) if ordered else predictions[..., 0]
    position = np.tile(np.where(np.arange(shape[1]) < page, np.arange(shape[1]), -1), (requests, 1))
    looks = np.where(position >= 0, (np.maximum(position, 0) + 1.0) ** -0.5, 0.0)
    click = rng.random(shape) < predictions[..., 0] * looks
    return logs_of(
        predictions,
        position,
        np.stack([click, 0 * click], -1),
        tasks=("click", "buy"),
        features=("mode",),
        user_id=rng.integers(0, requests // 3, requests),
        context=rng.normal(size=(requests, 1)).astype(np.float32),
        item_id=rng.permutation(position.size),
        timestamp=np.arange(requests) * 3_600_000 + 1_700_000_000_000,
    )


def production(logs: Logs) -> np.ndarray:
    """[M]: scores of its ranking, which are close to each other."""
    return -0.0085 * (np.arange(logs.num_rows) % 8)


def rare() -> Logs:
    """Some 60 clicks, too few to estimate slot propensities from."""
    logs = log()
    return replace(logs, feedback=logs.feedback * (np.arange(logs.num_rows) % 10 == 0)[:, None].astype(np.float32))


def judged(logs: Logs, baseline, policy, propensity=KNOWN, corrected=None, proof=None, static=None, requests=None):
    """The verdict on rankings by given scores [M] of all rows; policy: None without GRADE; static: by default as the
    baseline."""
    cluster = numbered(logs.user_id)
    fold, known = fold_of_requests(cluster, 2, 0), find_production(logs, TrainConfig())
    parts = []
    for requests_of in (fold == 0, fold == 1, later_requests(logs)):
        rows = requests_of[logs.row_request]
        scored = {
            name: np.float32(scores[rows])
            for name, scores in zip("bpcsk", (baseline, policy, corrected, static, known.servable), strict=True)
            if scores is not None
        }
        simple = {EXPECTED_VALUE: scored["b"], STATIC: scored.get("s", scored["b"])}
        simple |= {CORRECTED_EXPECTED_VALUE: scored["c"]} if "c" in scored else {}
        simple |= {PRODUCTION: scored["k"]} if "k" in scored else {}
        parts.append(FoldRankings(simple, {STAGE1: scored["b"], GRADE: scored["p"]} if "p" in scored else {}))
    options = CrossFitConfig(folds=2), RewardConfig(page_size=6), propensity, known
    later = parts.pop()
    return choose_mixture(logs, fold, cluster, parts, later, *options, proof=proof, requests=requests)


def test_folds_hold_whole_users_and_are_of_equal_size():
    logs = log()
    cluster = numbered(logs.user_id)
    fold = fold_of_requests(cluster, 4, 1)
    for user in np.unique(logs.user_id):
        assert len(set(fold[logs.user_id == user])) == 1
    sizes = [len(np.unique(logs.user_id[fold == n])) for n in range(4)]
    assert max(sizes) - min(sizes) <= 1 and (fold == fold_of_requests(cluster, 4, 1)).all()


def test_the_verdict_follows_what_the_log_proves():
    logs = log(requests=1500)
    good, noise = logs.predictions[:, 0], np.random.default_rng(3).random(logs.num_rows)
    better = judged(logs, noise, good)
    assert (better.verdict.verdict, better.policy, better.baseline) == ("better", GRADE, EXPECTED_VALUE)
    assert better.mixture_weight > 0.5 and better.lift is not None and better.lift.low > 0
    assert better.sentence.startswith("Test the new ranking: it earns +") and " An A/B test of " in better.sentence
    assert "users per arm" in better.verdict.detail
    sampled = judged(logs, noise, good, requests=15_000)  # of a log of ten times the traffic
    assert sampled.verdict.weeks == pytest.approx(better.verdict.weeks / 10, abs=0.4)
    simple = judged(logs, good, noise)
    assert (simple.verdict.verdict, simple.served, simple.verdict.control) == ("better", EXPECTED_VALUE, LOGGED_ORDER)
    assert simple.sentence.startswith("Rank by expected value: +") and simple.sentence.endswith("over your pages.")
    assert simple.mixtures[GRADE].high < 0 and set(simple.baselines) == {STATIC, LOGGED_ORDER}
    ordered = log(requests=1500, ordered=True)
    worse = judged(ordered, ordered.predictions[:, 0], noise)
    assert (worse.verdict.verdict, worse.mixture_weight, worse.lift) == ("worse", 0.0, None)
    assert worse.sentence.startswith("Keep what you have: the new ranking is worse than your pages (-")
    same = judged(ordered, ordered.predictions[:, 0], ordered.predictions[:, 0])
    assert (same.verdict.verdict, same.mixture_weight, same.verdict.unproven) == ("undecided", 0.0, "")
    other = judged(logs, noise, np.random.default_rng(4).random(logs.num_rows))
    assert other.verdict.verdict == "undecided" and "more requests" in other.sentence


def test_a_stronger_baseline_takes_the_place_of_expected_value():
    logs = log(requests=1500)
    order = np.where(logs.shown, -logs.position, -99).astype(np.float32)
    result = judged(logs, order, logs.predictions[:, 0])
    assert result.baseline == EXPECTED_VALUE and result.verdict.verdict == "better"  # the order of slots is no merit
    backwards = judged(logs, -order, -order)
    assert backwards.baseline in (EXPECTED_VALUE, LOGGED_ORDER)


def test_corrected_predictions_need_a_proof_and_give_it_to_the_verdict():
    logs = log(requests=1500)
    plain, good = production(logs), logs.predictions[:, 0]
    noise = np.random.default_rng(3).random(logs.num_rows)
    proof = CorrectionProof("correction", 5.0, 4.0, 2.0, Interval(0.01, 0.01, -0.01, 0.03))
    small = plain + 0.03 * (0.15 * good + 0.85 * noise)  # better by less than the pages can show
    found = judged(logs, plain, plain, corrected=small, proof=proof)
    assert (found.verdict.verdict, found.served, found.mixture_weight) == ("better", CORRECTED_EXPECTED_VALUE, 0.0)
    assert "its predictions are better; on re-ordered pages it earns +" in found.sentence
    assert "likelihood z 5.0, by value 4.0" in found.verdict.detail and found.lift is not None and found.lift.low < 0
    assert judged(logs, plain, plain, corrected=good, proof=proof).served == CORRECTED_EXPECTED_VALUE
    mixed = judged(logs, noise, good, corrected=small, proof=proof)
    assert (
        mixed.served_baseline == CORRECTED_EXPECTED_VALUE and mixed.challenger == GRADE and mixed.mixture_weight > 0.5
    )
    # Where a simple ranking is proven to be better than expected value by more, it is the anchor.
    static = judged(logs, noise, noise, corrected=small, proof=proof, static=good)
    assert (static.baseline, static.served_baseline) == (STATIC, STATIC)


def test_what_later_requests_contradict_is_not_served():
    logs = log(requests=3000)
    noise = np.random.default_rng(3).random(logs.num_rows)
    late = logs.row_request > 0.8 * logs.num_requests
    turned = np.where(late, -logs.predictions[:, 0], logs.predictions[:, 0])
    assert judged(logs, noise, logs.predictions[:, 0]).verdict.verdict == "better"
    found = judged(logs, noise, turned)
    assert (found.verdict.verdict, found.mixture_weight) == ("undecided", 0.0)
    assert "say the contrary" in found.verdict.sentence
    simple = judged(logs, noise, noise, static=turned)
    assert simple.verdict.verdict != "better" and simple.served == EXPECTED_VALUE


def test_another_simple_ranking_is_named_if_it_is_better():
    logs = log(requests=1500)
    noise = np.random.default_rng(3).random(logs.num_rows)
    found = judged(logs, noise, noise, static=logs.predictions[:, 0])
    assert found.sentence.startswith("Rank by best static weights: +") and found.served == STATIC


def test_unsure_propensities_make_an_unsure_verdict():
    logs = replace(log(requests=6000), exploration=np.full(6000, "shuffle"))  # has no logged order
    # Ranking by slot is worth much if the slots are taken as nearly equally seen, nothing at the true exponent.
    order = np.where(logs.shown, -logs.position, -99).astype(np.float32)
    noise = np.random.default_rng(3).random(logs.num_rows)
    sure = judged(logs, noise, order, SlotPropensity(0.2, "given"))
    assert sure.verdict.verdict == "better"
    unsure = judged(logs, noise, order, SlotPropensity(0.2, "regression EM", standard_error=0.25))
    assert unsure.verdict.verdict != "better" and unsure.mixture_weight == 0.0


def test_noise_is_seldom_better():
    count = 0
    for seed in range(60):
        logs, rng = log(seed, requests=200), np.random.default_rng(seed)
        scores = [rng.random(logs.num_rows) for _ in range(3)]
        count += judged(logs, scores[0], scores[1], static=scores[2]).verdict.verdict == "better"
    assert count <= 4  # 2 % of 60 are 1.2; more than 4 have a probability of 0.8 %


def test_training_serves_the_mixture_and_keeps_the_verdict(tmp_path):
    logs = log()
    result = fit(logs, FAST, tmp_path)
    record = json.loads((tmp_path / "train.json").read_text())["cross_fit"]
    served = FusionPolicy.load(tmp_path / "policy")
    assert served.version == result.policy.version and served.mixture == result.policy.mixture
    assert served.mixture is not None and served.mixture.sentence == record["sentence"]
    assert (
        served.mixture.mixture_weight == record["mixture_weight"]
        and served.mixture.baseline.name == record["served_baseline"]
    )
    assert {entry.name for entry in result.baselines} >= {EXPECTED_VALUE, STATIC}
    assert len(record["mixtures"]) == 11 and record["folds"] == 3
    assert FusionPolicy.load(tmp_path / "stage2").mixture is None
    assert FusionPolicy.load(tmp_path / "stage1").version == result.policies[STAGE1].version


def test_without_grade_no_network_is_learned_or_judged(tmp_path):
    logs = log()
    assert (fit(logs, FAST, tmp_path).policies.keys(), (tmp_path / "stage2").is_dir()) == ({STAGE1, GRADE}, True)
    result = fit(logs, replace(FAST, grade=False), tmp_path, resume=False)
    record = result.summary["cross_fit"]
    assert list(result.policies) == [ALONE] == [record["policy"]] and record["mixture_weight"] in (
        0.0,
        *FAST.cross_fit.mixture_weights,
    )
    assert not any(STAGE1 in name or GRADE in name for name in record["mixtures"])
    assert not [name for name in ("stage1", "stage2") if (tmp_path / name).exists() or name in result.summary]
    assert not read_metrics(tmp_path / "metrics.jsonl")
    served = FusionPolicy.load(tmp_path / "policy")
    assert served.version == result.policy.version and not served.mixture.uses_network
    weights = served.serve(served.request_inputs(logs.context, logs.predictions, logs.offsets))
    assert torch.allclose(weights, result.static_weights.expand_as(weights), atol=0.02)  # as before any step
    assert {path.parent.name for path in tmp_path.glob("folds/*/policy")} == {f"{n}-of-3" for n in (1, 2, 3)}


def test_the_verdict_without_grade_names_what_is_better_or_that_nothing_is():
    logs = log(requests=1500)
    good, noise = logs.predictions[:, 0], np.random.default_rng(3).random(logs.num_rows)
    ordered = log(requests=1500, ordered=True)
    found = judged(ordered, ordered.predictions[:, 0], None, static=np.random.default_rng(3).random(ordered.num_rows))
    assert (found.verdict.verdict, found.served, found.policy) == ("undecided", EXPECTED_VALUE, ALONE)
    assert found.sentence.startswith("Keep what you have")
    assert judged(logs, noise, None, static=good).sentence.startswith("Rank by best static weights: +")
    proof = CorrectionProof("correction", 5.0, 4.0, 2.0, Interval(0.01, 0.01, -0.01, 0.03))
    assert judged(logs, noise, None, corrected=good, proof=proof).served == CORRECTED_EXPECTED_VALUE


def test_a_training_killed_between_folds_ends_with_the_same_verdict(tmp_path, monkeypatch):
    logs = log()
    straight = fit(logs, FAST, tmp_path / "straight")
    run, done = folds.run_fold, []

    def dies(job):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(job)
        return run(job)

    monkeypatch.setattr(folds, "run_fold", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(logs, FAST, tmp_path / "killed")
    monkeypatch.setattr(folds, "run_fold", run)
    again = fit(logs, FAST, tmp_path / "killed")
    assert (
        again.policy.version == straight.policy.version and again.summary["cross_fit"] == straight.summary["cross_fit"]
    )


def test_another_number_of_folds_continues_in_the_same_directory(tmp_path):
    fit(log(), FAST, tmp_path)
    result = fit(log(), replace(FAST, cross_fit=CrossFitConfig(folds=2)), tmp_path)
    assert result.summary["cross_fit"]["folds"] == 2
    assert sorted(path.parent.name for path in tmp_path.glob("folds/*/policy")) == ["1-of-2", "2-of-2"]


@pytest.mark.parametrize(
    ("logs", "reward", "reason"),
    [
        (log(requests=60), FAST.reward, "too little data"),
        (rare(), RewardConfig(), "slot propensities are unknown"),
        (replace(log(), feedback=np.zeros_like(log().feedback)), FAST.reward, "too little data"),
        (
            replace(log(), items=("dwell",), item_features=log().feedback[:, :1].copy()),
            FAST.reward,
            "a column holds the feedback and must be left out: item column dwell tells the feedback of",
        ),
    ],
    ids=["few users", "no propensities", "no feedback", "a column with the feedback"],
)
def test_what_cannot_be_decided_serves_the_baseline_and_says_why(tmp_path, logs, reward, reason):
    result = fit(logs, replace(FAST, reward=reward), tmp_path)
    found = result.summary["cross_fit"]
    assert (found["verdict"], found["mixture_weight"], found["served_baseline"]) == ("undecidable", 0.0, EXPECTED_VALUE)
    assert found["mixtures"] == {} and found["lift"] is None and reason in found["sentence"].lower()
    scores = result.policy.scores(logs.context, logs.predictions, logs.offsets)
    worth = logs.predictions.sum(1)
    for start, stop in zip(logs.offsets[:3], logs.offsets[1:4], strict=True):
        assert (np.argsort(-scores[start:stop]) == np.argsort(-worth[start:stop])).all()


def test_without_folds_the_policy_is_served_and_the_log_says_so(tmp_path, caplog):
    result = fit(log(), replace(FAST, cross_fit=CrossFitConfig(folds=0)), tmp_path)
    assert result.policy.mixture is None and result.summary["cross_fit"] is None
    assert result.policy.version == result.policies[GRADE].version
    assert "nothing says" in caplog.text


@pytest.mark.slow
def test_processes_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cross_fit, "_POOL_REQUESTS", 1)
    one = fit(log(), replace(FAST, cross_fit=CrossFitConfig(folds=3, processes=1)), tmp_path / "one")
    two = fit(log(), replace(FAST, cross_fit=CrossFitConfig(folds=3, processes=2)), tmp_path / "two")
    assert one.summary["cross_fit"] == two.summary["cross_fit"] and one.policy.version == two.policy.version


@pytest.mark.parametrize("options", [{"folds": 1}, {"mixture_weights": ()}])
def test_one_fold_and_no_share_are_refused(options):
    with pytest.raises(ValueError, match="expected 0, or 2 or more folds, and mixture_weights"):
        CrossFitConfig(**options)
