"""A training that reads the log's history: what it earns, what it keeps, and that it is not ranked without."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.training import HistoryConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.evaluation.policy_estimates import fitted
from pygrade.logs import Logs
from pygrade.logs.history import without_columns
from pygrade.policy import FusionPolicy
from pygrade.runs.train import train
from pygrade.serving.export import export_policy
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.correction_proof import permute_feedback
from tests.learning import logs_of
from tests.runs.test_train import FAST

MINUTE = 60_000
CONFIG = replace(
    FAST,
    grade=False,
    stage1=Stage1Config(),
    stage2=Stage2Config(),
    history=HistoryConfig(enabled=True, feedback_delay_seconds=120.0),
)


def tired_log(
    fatigue: float = 0.15, requests: int = 1_200, users: int = 40, items: int = 60, by_item: bool = False
) -> Logs:
    """Users return every hour to pages of 5 of 10 items in random order; what they saw before is clicked less."""
    rng = np.random.default_rng(3)
    rows = np.stack([rng.choice(items, 10, replace=False) for _ in range(requests)])
    user = np.arange(requests) % users
    predictions = rng.uniform(0.1, 0.7, items)[rows, None] if by_item else rng.uniform(0.1, 0.7, (requests, 10, 1))
    position = np.where(np.arange(10) < 5, np.arange(10), -1) * np.ones((requests, 1), np.int64)
    seen, again = np.zeros((users, items), bool), np.zeros((requests, 10), bool)
    for r in range(requests):
        again[r] = seen[user[r], rows[r]]
        seen[user[r], rows[r][:5]] = True
    true = predictions[..., 0] * np.where(again, fatigue, 1.0)
    feedback = (rng.random(true.shape) < true) & (position >= 0)
    return logs_of(
        predictions,
        position,
        feedback[..., None],
        user_id=user,
        item_id=rows.reshape(-1),
        timestamp=1_700_000_000_000 + np.arange(requests) * MINUTE * 60 // users,
        exploration=np.full(requests, "shuffle"),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    return train(tired_log(), CONFIG, tmp_path_factory.mktemp("run"))


def test_what_was_seen_is_learned_and_kept(trained) -> None:
    policy = trained.policy
    assert policy.history is not None and trained.summary["cross_fit"]["proof"]["name"].endswith("history")
    assert "seen" in policy.correction.items and "user_shown" in policy.features
    again = FusionPolicy.load(trained.directory / "policy")
    assert again.history == policy.history and again.version == policy.version
    # The later requests, whose history goes on from the earlier ones.
    log = tired_log()
    whole = fitted(policy, log)
    late = trained.heldout
    np.testing.assert_array_equal(whole.select(slice(-late.num_requests, None)).item_features, late.item_features)
    seen = late.item_features[:, late.items.index("seen")] > 0
    corrected = policy.correct(late.context, late.predictions, late.offsets, late.item_features)[:, 0]
    ratio = corrected / late.predictions[:, 0]
    assert ratio[seen].mean() < 0.6 * ratio[~seen].mean()


def test_it_is_not_ranked_without(trained) -> None:
    policy, late = trained.policy, trained.heldout
    page = BlendedRanker(policy).rank_log(late, 5)
    assert page.indices.shape[0] == late.num_requests
    bare = without_columns(late, policy.history)
    predictions = bare.predictions.reshape(-1, 10, 1)
    with pytest.raises(ValueError, match="context lacks user_a"):
        BlendedRanker(policy).rank(None, predictions, 5)
    context = np.zeros((late.num_requests, len(policy.features)), np.float32)
    with pytest.raises(ValueError, match="items lacks"):
        BlendedRanker(policy).rank(context, predictions, 5)
    broken = np.array(late.item_features).reshape(-1, 10, len(late.items))
    broken[-1, -1, late.items.index("seen")] = np.nan
    with pytest.raises(ValueError, match="items lacks seen"):
        BlendedRanker(policy).rank(context, predictions, 5, items=broken)
    with pytest.raises(ValueError, match="no frame of candidates holds"):
        trained.rank({"item_id": [1, 2], "p_a": [0.1, 0.2]})


@pytest.mark.parametrize("log", [tired_log(1.0), permute_feedback(tired_log(), 0)], ids=["no fatigue", "dealt"])
def test_where_nothing_is_to_be_told_nothing_reads_history(log, tmp_path) -> None:
    result = train(log, CONFIG, tmp_path)
    assert result.policy.history is None and not result.policy.features
    assert result.heldout.item_features is None


def test_all_that_was_shown_has_to_be_there(tmp_path) -> None:
    log = tired_log(requests=100)
    partly = replace(log, candidates=np.where(np.arange(100) % 2, 10, 11))
    with pytest.raises(ValueError, match="50 of 100 requests"):
        train(partly, CONFIG, tmp_path)


def test_what_reads_history_is_not_exported(trained, tmp_path) -> None:
    with pytest.raises(ValueError, match="reads history"):
        export_policy(trained.policy, tmp_path / "page")


def test_a_mapped_log_has_the_same_columns(trained, tmp_path) -> None:
    config: TrainConfig = replace(CONFIG, sample_requests=500)
    mapped = train(tired_log(), config, tmp_path)
    counts = [
        mapped.heldout.items.index(name) for name in ("seen", "seen_recently", "seen_a", "item_shown", "item_age")
    ]
    for column in counts:  # ratios have levels and priors of the sample
        wanted = trained.heldout.item_features[:, column]
        np.testing.assert_array_equal(mapped.heldout.item_features[:, column], wanted)
