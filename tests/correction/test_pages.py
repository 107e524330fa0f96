"""Page terms: what is above an item, the fit, the gate and the guard."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pygrade.config.marketplace import MarketplaceConfig, PageEffects
from pygrade.config.simulation import SimulateConfig
from pygrade.correction import pages as module
from pygrade.correction.inputs import DesignInputs, InputScaling, TaskRows
from pygrade.correction.pages import (
    BEAM,
    LEAST_CLAIM,
    PageGain,
    can_fit,
    choose_beam,
    fit_pages,
    missing_shuffles,
    root_of,
)
from pygrade.logs import Logs
from pygrade.metrics.texts import count_text
from pygrade.policy.page_terms import PageTerms
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.cross_fit import fold_of_requests

CURVE = np.arange(1.0, 11) ** -0.7
PARENTS = (-1, 0, 1, 0, 0, 0)


@cache
def log_of(strength: float, complement: float = 0.0) -> Logs:
    effects = PageEffects(strength=strength, complement=complement)
    world = MarketplaceConfig(log_users=3000, items=1500, pages=effects)
    return simulate_logs(SimulateConfig(requests=2500, seed=9608, similarity=True, world=world))


def fit(logs: Logs):
    cluster = logs.user_number
    fold = fold_of_requests(cluster, 4, 0)
    return fit_pages(logs, logs.predictions, PARENTS, CURVE, fold, cluster)


def small_log(seed: int = 0) -> Logs:
    """Jagged requests whose shown items may lack a category or a vector, and whose slots have gaps."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, 30)
    rows = int(sizes.sum())
    position = np.concatenate([np.where(rng.random(n) < 0.8, rng.permutation(10)[:n], -1) for n in sizes])
    return Logs(
        tasks=("click",),
        features=("hour",),
        request_id=np.arange(30),
        user_id=np.arange(30),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        context=rng.normal(size=(30, 1)).astype(np.float32),
        item_id=np.arange(rows),
        position=position.astype(np.int32),
        predictions=rng.uniform(0.1, 0.5, (rows, 1)).astype(np.float32),
        feedback=np.where(position >= 0, rng.random(rows) < 0.3, 0).astype(np.float32)[:, None],
        category=rng.choice(np.array(["a", "b", "c", ""], object), rows),
        embedding=rng.integers(-1, 6, rows).astype(np.int32),
        embeddings=rng.normal(size=(6, 3)).astype(np.float32),
    )


def test_sums_of_what_is_above_are_those_of_a_loop():
    logs = small_log()
    sums = module._Sums(logs, CURVE)
    shown = np.flatnonzero(logs.shown)
    same, cosine, whole, pairs = (np.zeros(len(shown)) for _ in range(4))
    coefficients = np.random.default_rng(1).normal(size=(3, 3))
    for (n, i), (_, j) in itertools.permutations(enumerate(shown), 2):
        if logs.row_request[i] != logs.row_request[j]:
            continue
        one, other = (logs.embeddings[logs.embedding[k]] * (logs.embedding[k] >= 0) for k in (i, j))
        similarity = max(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9), 0)
        alike = logs.category[i] == logs.category[j] != ""
        whole[n] += alike * CURVE[logs.position[shown]].mean()
        if logs.position[j] < logs.position[i]:
            same[n] += alike * CURVE[logs.position[j]]
            cosine[n] += similarity * CURVE[logs.position[j]]
            if logs.category[i] and logs.category[j]:
                above, below = (sums.categories.index(logs.category[k]) for k in (j, i))
                pairs[n] += coefficients[above, below] * CURVE[logs.position[j]]
    np.testing.assert_allclose(sums.back(sums.same[0]), same, atol=1e-9)
    np.testing.assert_allclose(sums.back(sums.same[1]), whole, atol=1e-9)
    np.testing.assert_allclose(sums.back(sums.cosine[0]), cosine, atol=1e-6)
    np.testing.assert_allclose(sums.back(sums.pairs) @ coefficients.reshape(-1), pairs, atol=1e-9)


def test_gradient_and_information_are_those_of_the_likelihood():
    logs = small_log()
    scaling = InputScaling.of(logs, logs.predictions, (-1,))
    inputs, theta = scaling.inputs(logs, logs.predictions), CURVE[logs.position[logs.shown]]
    extra = np.random.default_rng(2).normal(size=(int(logs.shown.sum()), 2))
    rows = TaskRows(0, scaling, DesignInputs(inputs.z, inputs.u, inputs.base - 1.0), logs, theta, extra=extra)
    vector = 0.1 * np.random.default_rng(3).normal(size=inputs.z.shape[1] * inputs.u.shape[1] + 2)

    def likelihood(at):
        mean = rows.mean(at)
        return (rows.y * np.log(mean) - mean).sum()

    mean, step = rows.mean(vector), 1e-6
    moves = step * np.eye(len(vector))
    slope = [(likelihood(vector + move) - likelihood(vector - move)) / (2 * step) for move in moves]
    np.testing.assert_allclose(rows.gradient(mean), slope, rtol=1e-5, atol=1e-5)
    bend = [(rows.gradient(rows.mean(vector + m)) - rows.gradient(rows.mean(vector - m))) / (-2 * step) for m in moves]
    np.testing.assert_allclose(rows.information(mean)[0], bend, rtol=1e-4, atol=1e-4)
    parts = np.arange(len(rows.request)) % 3
    np.testing.assert_allclose(rows.information(mean, parts, 3).sum(0), rows.information(mean)[0], rtol=1e-9)


def test_satiation_is_found_and_may_be_served():
    found = fit(log_of(1.5))
    assert found.gain.passes, found.gain.text
    assert found.terms.categories == tuple(f"category {k}" for k in range(6))
    own = np.diag(found.terms.pairs)
    assert (own > -1.6).all() and (own < -0.5).all()  # truth: -.9
    assert -1.2 < found.terms.cosine < -0.1  # truth: -.6
    assert len(found.folds) == 4 and found.folds[0] != found.terms
    assert (np.diff(found.slots) < 0.1).all()


def test_one_number_is_served_where_pairs_add_nothing():
    logs = log_of(0.0)
    sums = module._Sums(logs, CURVE)
    kept = np.ones(logs.num_rows)
    kept[logs.shown] = np.exp(-0.9 * sums.back(sums.same[0]))  # of the events below items of their category
    kept = np.random.default_rng(1).random(logs.num_rows) < kept
    found = fit(replace(logs, feedback=logs.feedback * kept[:, None]))
    number = found.terms.pairs[0, 0]
    assert found.gain.passes and -1.3 < number < -0.5 and found.terms.cosine == 0
    np.testing.assert_array_equal(found.terms.pairs, number * np.eye(6, dtype=np.float32))


def test_where_nothing_is_there_no_terms_are_served():
    found = fit(log_of(0.0))
    assert not found.gain.passes, found.gain.text
    assert np.abs(found.terms.pairs).max() < 0.15


def test_complements_are_found_by_pair_and_worth_a_search():
    logs = log_of(1.5, 0.4)
    found = fit(logs)
    follows = [found.terms.pairs[k, (k + 1) % 6] for k in range(6)]
    assert np.mean(follows) > 0.2, follows  # truth: .6
    assert choose_beam(found.terms, logs, logs.predictions, PARENTS, CURVE) > LEAST_CLAIM
    by_name = replace(logs, embedding=None, embeddings=None)  # categories alone
    assert choose_beam(replace(found.terms, cosine=0.0, dimension=0), by_name, logs.predictions, PARENTS, CURVE) > 0
    satiates = replace(found.terms, pairs=np.minimum(found.terms.pairs, 0))
    assert choose_beam(satiates, logs, logs.predictions, PARENTS, CURVE) == 0.0
    assert BEAM == 8


def test_the_guard_refuses_help_that_shuffled_pages_do_not_show():
    logs = log_of(0.0)
    fold = fold_of_requests(logs.user_number, 4, 0)
    scaling = InputScaling.of(logs, logs.predictions, PARENTS)
    task = module._PageFit(logs, logs.predictions, scaling, 0, CURVE, fold, logs.user_number)
    null, mean = task._fit({}, None)
    helps, satiates = (
        task._coefficients(np.concatenate([null.vector, [s], np.zeros(36), [-0.06]]), task.blocks) for s in (0.8, -0.8)
    )
    pairs, cosine, shuffled, by_help = task._guarded(helps, mean)
    assert by_help < -1 and not pairs.any() and cosine == -0.06 and shuffled > -1  # what helps is left out
    assert task._guarded(satiates, mean)[2] < -1 and task._guarded(satiates, mean)[3] is None
    assert task._guard((np.zeros((6, 6)), 0.0), mean) == 0
    assert not PageGain(5.0, 5.0, -1.1).passes and PageGain(5.0, 5.0, -0.9).passes
    assert not PageGain(5.0, 5.0, 1.0, empty=True).passes
    assert not PageGain(5.0, 1.9, 1.0).passes and not PageGain(1.9, 5.0, 1.0).passes


def test_without_shuffled_pages_no_terms_are_served_and_doctor_says_why():
    logs = replace(log_of(1.5), exploration=None)
    found = fit(logs)
    assert found.gain.z > 2 and found.gain.z_shuffled is None and not found.gain.passes
    assert "too few shuffled pages" in found.gain.text
    events = int((logs.feedback[logs.shown, 0] > 0).sum())
    said = missing_shuffles(logs)
    assert said.startswith("0 events of click on shuffled pages, expected 100")
    assert f"about {count_text(100 / (0.02 * events / 2500))} more requests with 2 % of the" in said
    some = np.where(np.arange(2500) % 100 < 1, "shuffle", "none").astype(object)
    own = int((logs.feedback[:, 0] * (some[logs.row_request] == "shuffle")).sum())
    more = count_text((100 - own) / (0.01 * events / 2500))
    said = missing_shuffles(replace(logs, exploration=some))
    assert 0 < own < 100 and f"about {more} more requests with 1 % of the pages shuffled" in said
    untold = replace(logs, category=None, embedding=None, embeddings=None)
    assert missing_shuffles(log_of(1.5)) == missing_shuffles(untold) == ""


def test_logs_that_cannot_have_terms_say_why():
    logs = log_of(1.5)
    bare = replace(logs, category=None, embedding=None, embeddings=None)
    assert can_fit(logs) == "" and can_fit(bare) == "the log has no category and no embedding of items"
    assert can_fit(replace(logs, slots_known=False)) == "the slots are unknown"
    with pytest.raises(ValueError, match="no page terms: the log has no category"):
        fit(bare)


def test_the_root_is_that_of_most_value():
    logs = log_of(0.0)
    assert root_of(logs, PARENTS, (False,) * 6) == 0
    assert root_of(logs, (-1, -1, 1, 0, 0, 0), (False,) * 6) == 1  # orders follow carts
    assert root_of(logs, (-1,) * 6, (True,) * 6) == -1


def test_one_kind_of_similarity_is_enough():
    logs = log_of(1.5)
    by_name = fit(replace(logs, embedding=None, embeddings=None))
    assert by_name.terms.cosine == 0 and by_name.terms.dimension == 0 and by_name.gain.passes
    by_vector = fit(replace(logs, category=None))
    assert by_vector.terms.categories == () and by_vector.terms.cosine < -0.5


def test_rare_categories_share_the_coefficient_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "_PAIRED", 3)
    found = fit(log_of(1.5))
    assert sorted(np.unique(np.diag(found.terms.pairs), return_counts=True)[1]) == [1, 1, 1, 3]
    assert isinstance(found.terms, PageTerms) and found.gain.passes
