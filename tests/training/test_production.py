"""What made the log's pages, and that nothing which loses against it is served without a mark."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.config.training import (
    CemConfig,
    CorrectionConfig,
    CrossFitConfig,
    RewardConfig,
    Stage1Config,
    Stage2Config,
    TrainConfig,
)
from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER, PRODUCTION, PRODUCTION_SCORE
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import write_logs
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from pygrade.serving.run_copy import check_proven
from pygrade.training.production import MARGIN, find_production, page_lift
from pygrade.training.propensity import slot_propensity
from tests.cli.test_cli import result
from tests.production_world import EXPONENT, VALUES, Shop, shop

REQUESTS = 3_000
FAST = TrainConfig(
    static=CemConfig(iterations=2),
    stage1=Stage1Config(steps=6, batch_size=32),
    stage2=Stage2Config(steps=4, batch_size=32),
    correction=CorrectionConfig(enabled=False),
    cross_fit=CrossFitConfig(folds=2, mixture_weights=(1.0,), processes=1),
    tensorboard=False,
)
HAND_TUNED = (1.0, 5.0)


@pytest.fixture(scope="module")
def knowing() -> Shop:
    """Production knows more than its predictions."""
    return shop(requests=REQUESTS, knows=0.2)


@pytest.fixture(scope="module")
def ordinary() -> Shop:
    """Production weighs its predictions by hand."""
    return shop(requests=2 * REQUESTS, weights=HAND_TUNED)


def scored(world: Shop):
    """The log with what production ranked by."""
    return replace(world.logs, production_score=world.scores.ravel().astype(np.float32))


def judged(logs, config: TrainConfig = FAST):
    """Whole pages by expected value beside production's."""
    found, propensity = find_production(logs, config), slot_propensity(logs, RewardConfig(), warn=False)
    pages = page_lift(logs, found, logs.value_of(logs.predictions), logs.user_number, propensity, 10)
    assert pages is not None
    return pages


def test_hand_tuned_weights_are_found_or_said(ordinary, knowing):
    found = find_production(ordinary.logs, FAST)
    assert found.control == PRODUCTION and found.baseline is not None and found.baseline.transform == "identity"
    np.testing.assert_allclose(found.baseline.weights, np.array(HAND_TUNED) / sum(HAND_TUNED), atol=0.02)
    said = find_production(ordinary.logs, replace(FAST, production={"click": 1.0, "order": 5.0}))
    assert (
        said.baseline is not None
        and said.baseline.weights == HAND_TUNED
        and (said.control, said.caution) == (PRODUCTION, "")
    )
    wrong = find_production(ordinary.logs, replace(FAST, production={"click": 1.0}))
    assert wrong.control == LOGGED_ORDER and wrong.caution.startswith("PRODUCTION: --production explains ")
    assert find_production(knowing.logs, FAST)[1:3] == (LOGGED_ORDER, None)
    assert find_production(scored(knowing), FAST)[1:3] == (PRODUCTION_SCORE, None)
    with pytest.raises(ValueError, match="production names task 'buy'"):
        find_production(ordinary.logs, replace(FAST, production={"buy": 1.0}))


@pytest.mark.parametrize("transform", ["log", "zlog"])
def test_weights_of_other_forms_are_found(transform):
    world = shop(requests=400)
    log = np.log(world.logs.predictions.reshape(400, -1, 2))
    log = (log - log.mean(1, keepdims=True)) / log.std(1, keepdims=True) if transform == "zlog" else log
    order = np.argsort(np.argsort(-log @ [0.7, 0.3], axis=1), axis=1)
    position = np.where(order < 8, order, -1).ravel().astype(np.int32)
    feedback = np.where(position[:, None] < 0, 0, world.logs.feedback)
    found = find_production(replace(world.logs, position=position, feedback=feedback, exploration=None), FAST).baseline
    assert found is not None and found.transform == transform
    np.testing.assert_allclose(found.weights, [0.7, 0.3], atol=0.02)


def test_whole_pages_show_what_a_replay_misses(knowing, ordinary):
    truth = knowing.lift(knowing.logs.predictions.reshape(REQUESTS, -1, 2) @ np.array(VALUES))
    ordered, score = judged(knowing.logs), judged(scored(knowing))
    for pages in (ordered, score):
        assert truth < -0.05 and pages.lift.low < truth < pages.lift.high < 0 and not pages.proven
    assert score.z > 4  # what production ranked by differs within a slot
    cents = judged(knowing.logs.with_values(tuple(100 * value for value in VALUES)))
    assert cents.lift.low == pytest.approx(ordered.lift.low) and cents.z == pytest.approx(ordered.z)
    unknown = judged(replace(knowing.logs, exploration=None))  # no page tells the slots' effect from knowledge
    assert not unknown.proven and unknown.lift.standard_error > judged(knowing.logs).lift.standard_error
    for logs in (ordinary.logs, replace(ordinary.logs, exploration=None)):  # but where weights make the pages
        assert judged(logs).proven and abs(judged(logs).z) < 2
    same = judged(shop(requests=300).logs)
    assert same.proven and same.lift.value == 0 and same.shared == 1


def test_what_loses_against_production_is_marked_and_refused(tmp_path, capsys, knowing):
    trained = fit(knowing.logs, FAST, tmp_path / "run")
    mixture, place = trained.policy.mixture, tmp_path / "run" / "policy"
    assert mixture is not None and "costs about" in mixture.unproven and mixture.unproven in mixture.sentence
    assert (
        mixture.sentence.startswith("Keep what you have")
        and trained.summary["cross_fit"]["unproven"] == mixture.unproven
    )
    assert FusionPolicy.load(place).mixture == mixture
    with pytest.raises(ValueError, match="is not proven: expected value costs"):
        check_proven(place, False)
    write_logs(knowing.logs.select(slice(0, 3)), tmp_path / "logs")
    words = ["rank", "--data", f"logs:{tmp_path / 'logs'}", "--policy", str(place), "--quiet"]
    assert cli.main(words) == 2 and "is not proven: expected value costs" in capsys.readouterr().err
    assert result(capsys, *words, "--allow-unproven")["pages"]


def test_weights_that_make_the_pages_are_served_where_nothing_is_proven_against_them(tmp_path):
    few = shop(requests=60, weights=HAND_TUNED)
    trained = fit(few.logs, FAST, tmp_path)
    record = trained.summary["cross_fit"]
    assert (record["verdict"], record["served_baseline"], record["unproven"]) == ("undecidable", PRODUCTION, "")
    scores = policy_scores(trained.policy, few.logs).reshape(60, -1)
    np.testing.assert_array_equal(np.argsort(-scores, 1)[:, :8], np.argsort(-few.scores, 1)[:, :8])


def test_the_first_number_is_over_production(tmp_path):
    world = shop(requests=2_500, weights=(1.0, 0.0))
    options = replace(FAST, production={"click": 2.0}, reward=RewardConfig(propensity=EXPONENT))
    trained = fit(world.logs, options, tmp_path)
    mixture = trained.policy.mixture
    assert mixture is not None and mixture.sentence.startswith("Rank by expected value: +") and mixture.unproven == ""
    assert mixture.sentence.endswith(" over your pages.") and (mixture.control, mixture.baseline.name) == (
        PRODUCTION,
        EXPECTED_VALUE,
    )
    assert mixture.lift is not None and mixture.lift[0] > 0
    assert PRODUCTION in [entry.name for entry in mixture.baselines]


@pytest.mark.slow
@pytest.mark.parametrize("knows", [0.08, 0.3])
def test_no_unmarked_policy_is_below_production_by_a_hundredth(tmp_path, knows):
    below = []
    for seed in range(2):
        world = shop(seed, knows=knows, members=3.0)
        for part, logs in {"order": world.logs, "score": scored(world)}.items():
            policy = fit(logs, FAST, tmp_path / f"{seed}-{part}").policy
            scores = policy_scores(policy, logs).reshape(world.scores.shape)
            below += [] if policy.mixture.unproven else [world.lift(scores)]
    assert all(lift >= -MARGIN for lift in below)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [VALUES, HAND_TUNED])
def test_ordinary_policies_are_not_marked(tmp_path, weights):
    marks = [fit(shop(seed, weights=weights).logs, FAST, tmp_path / str(seed)).policy.mixture for seed in range(2)]
    assert [mixture.unproven for mixture in marks] == [""] * 2
