"""`BlendedRanker`: serving, falling back, exploring, logging."""

import gc
import json
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade import ops, reference
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.spec import fusion_formula
from pygrade.serving.ranker import BlendedRanker

TASKS, FEATURES = ("click", "order", "like"), ("a", "b")
MISSING = (np.nan, np.inf, -np.inf)
VECTOR = Path(__file__).resolve().parents[1] / "vectors/policy"


@pytest.fixture
def policy():
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(8,))), np.array([0.5, 0.3, 0.2]), seed=3)
    made.head.weight.data.mul_(40)  # so that requests differ
    made.set_static_weights(torch.tensor([0.4, 0.4, 0.2]), {"search": torch.tensor([0.1, 0.6, 0.3])})
    return made


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 2)).astype(np.float32), rng.uniform(0.01, 0.9, (4, 12, 3)).astype(np.float32)


def test_a_page_is_the_reference_ranking_under_the_served_weights(policy, requests):
    context, predictions = requests
    page = BlendedRanker(policy).rank(context, predictions, 5)
    weights = policy.serve(policy.request_inputs(context, predictions))
    np.testing.assert_allclose(page.weights, weights.numpy(), rtol=1e-5)  # the C++ network against torch's
    assert len(np.unique(page.weights[:, 0])) == 4
    values, indices = reference.rank(torch.from_numpy(predictions), weights, 5, "zlog")
    assert np.array_equal(page.indices, indices.numpy())
    np.testing.assert_allclose(page.values, values.numpy(), rtol=1e-4, atol=1e-5)
    assert not page.fallback.any() and not page.explored.any()


def test_little_evidence_moves_a_page_to_the_scenario_s_and_its_log_tells_the_density(policy, requests):
    context, predictions = requests
    context[:, 1] = [0.0, 1.0, 4.0, -2.0]
    config = PolicyConfig(hidden=(8,), evidence_feature="b", evidence_prior=1.0)
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config))
    made.load_state_dict(policy.state_dict() | {"scenario_table": made.scenario_table})
    made.set_static_weights(policy.static_weights, policy.scenario_weights)
    page = BlendedRanker(made).rank(context, predictions, 5, scenario="search")
    unshrunk = BlendedRanker(policy).rank(context, predictions, 5).weights
    share = np.array([1.0, 0.5, 0.2, 1.0])[:, None]
    expected = share * np.array([0.1, 0.6, 0.3]) + (1 - share) * unshrunk
    np.testing.assert_allclose(page.weights, expected, rtol=1e-5)
    assert not page.fallback.any()
    drawn = BlendedRanker(made, seed=1).rank(context, predictions, 5, scenario="search", explore=True)
    alpha = made(made.request_inputs(context, predictions), ["search"] * 4).detach().numpy()
    np.testing.assert_allclose(drawn.concentration, alpha, rtol=1e-5)


@pytest.mark.parametrize("slope", [3.0, (0.0, 2.5, 30.0)])
def test_a_product_form_goes_through_the_artifact(requests, tmp_path, slope):
    context, predictions = requests
    config = PolicyConfig(transform="log1p", slope=slope, hidden=(8,))
    made = FusionPolicy(PolicySpec(("click", "cart", "order"), ("hour", "intent"), config))
    ranker = BlendedRanker.load(made.save(tmp_path))
    assert ranker.policy.config == config
    page = ranker.rank(context, predictions, 5)
    fused = ops.fuse_topk(torch.from_numpy(predictions), torch.from_numpy(page.weights), 5, **fusion_formula(config))
    assert page.values.tobytes() == fused.values.numpy().tobytes()
    assert np.array_equal(page.indices, fused.indices.numpy())
    np.testing.assert_allclose(page.contributions.sum(-1), page.values, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="request 1: predictions is negative at candidate 2, task 0"):
        negative = predictions.copy()
        negative[1, 2, 0] = -0.5
        ranker.rank(context, negative, 5)


def test_mask_boost_and_caps_reach_the_op(policy, requests):
    context, predictions = requests
    mask = np.ones((4, 12), bool)
    mask[:, 5] = False
    boost = np.zeros((4, 12), np.float32)
    boost[:, 9] = 1e3
    groups = np.zeros((4, 12, 1), np.int32)
    groups[:, 9] = 1
    page = BlendedRanker(policy).rank(context, predictions, 6, mask=mask, boost_add=boost, groups=groups, caps=[2])
    assert (page.indices[:, 0] == 9).all()
    assert (page.indices != 5).all()
    assert ((page.indices >= 0).sum(1) == 3).all()  # the boosted one, and two of the capped group
    rules = {"groups": np.arange(48, dtype=np.int32).reshape(4, 12, 1) % 3, "cap_slots": [4], "decay": [0.25]}
    page = BlendedRanker(policy).rank(context, predictions, 6, caps=[2], **rules)
    tensors = torch.from_numpy(predictions), torch.from_numpy(page.weights)
    wanted = ops.rank(*tensors, 6, "zlog", caps=[2], **rules | {"groups": torch.from_numpy(rules["groups"])})
    assert page.values.tobytes() == wanted.values.numpy().tobytes()
    plain = BlendedRanker(policy).rank(context, predictions, 6)
    assert (page.indices != plain.indices).any()


def test_pins_and_demoted_items_have_their_places(policy, requests):
    ranker = BlendedRanker(policy)
    plain, pins = ranker.rank(*requests, 12).indices, np.full((4, 12), -1)
    pins[:, 1] = plain[:, 5]
    demoted = np.zeros((4, 12), bool)
    np.put_along_axis(demoted, plain[:, :1], True, 1)
    page = ranker.rank(*requests, 12, pins=pins, demoted=demoted)
    order = [1, 5, 2, 3, 4, *range(6, 12), 0]
    assert np.array_equal(page.indices, plain[:, order])
    (name,) = {"pins": pins}  # a name that is not interned
    assert np.array_equal(ranker.rank(*requests, 12, **{"".join(name): pins}).indices[:, 1], plain[:, 5])


def test_explored_weights_can_be_drawn_again_from_the_log(policy, requests, tmp_path):
    context, predictions = requests[0].copy(), requests[1]
    context[2] = np.nan
    ranker = BlendedRanker(policy, seed=11)
    first = ranker.rank(context, predictions, 4, explore=True, item_id=np.arange(48).reshape(4, 12) + 100)
    second = ranker.rank(context, predictions, 4, explore=True)
    assert not np.array_equal(first.weights[0], second.weights[0])
    assert first.explored.tolist() == [True, True, False, True]
    feedback = np.zeros((4, 4, 3), np.float32)
    feedback[:, 0, 0] = 1
    write_logs(first.log_rows(feedback), tmp_path / "log")
    log = read_logs(tmp_path / "log")
    assert log.policy_version.tolist() == [policy.version] * 4
    assert log.exploration.tolist() == ["dirichlet", "dirichlet", "none", "dirichlet"]
    assert np.isnan(log.concentration[2]).all()
    for r in (0, 1, 3):
        seed = int(log.seed[r])
        alpha = torch.from_numpy(log.concentration[r : r + 1])
        drawn = ops.dirichlet_sample(alpha, 1, seed >> 32, offset=seed & 0xFFFFFFFF)
        assert np.array_equal(log.weights[r], drawn.weights[0, 0].numpy())
    assert log.position.reshape(4, 12).max(1).tolist() == [3] * 4
    top = log.position == 0
    assert np.array_equal(log.item_id[top], first.indices[:, 0] + 100 + 12 * np.arange(4))
    assert (log.feedback[top, 0] == 1).all() and log.feedback.sum() == 4


def test_a_seed_of_the_call_repeats_its_draws(policy, requests):
    ranker = BlendedRanker(policy)
    one, two = (ranker.rank(*requests, 4, explore=True, seed=5) for _ in range(2))
    assert np.array_equal(one.weights, two.weights)
    assert len(np.unique(one.weights[:, 0])) == 4
    later = ranker.rank(*(part[1:] for part in requests), 4, explore=True, draw=int(one.seed[1]))
    assert np.array_equal(later.weights, one.weights[1:])


@pytest.mark.parametrize("missing", MISSING)
def test_shown_candidates_with_a_missing_prediction_are_logged_with_the_lowest(policy, requests, tmp_path, missing):
    context, predictions = requests[0], requests[1].copy()
    predictions[0, 4, 1] = missing
    predictions[2, :, 0] = missing
    log = BlendedRanker(policy).rank(context, predictions, 12).log_rows()
    write_logs(log, tmp_path / "log")
    assert np.array_equal(read_logs(tmp_path / "log").predictions, log.predictions)
    assert log.predictions[4, 1] == np.delete(predictions[0, :, 1], 4).min()
    assert log.predictions[4, 0] == predictions[0, 4, 0]
    assert (log.predictions[24:36, 0] == 0).all()
    predictions[2] = 0.5
    short = BlendedRanker(policy).rank(context, predictions, 3).log_rows()
    assert short.num_rows == 47  # not shown: left out


def test_every_page_names_the_policy_that_made_it_while_threads_publish(policy, requests):
    other = FusionPolicy(policy.spec, np.array([0.1, 0.1, 0.8]), seed=4)
    both = {made.version: (made, BlendedRanker(made).rank(*requests, 2).weights) for made in (policy, other)}
    ranker, wrong, made, done = BlendedRanker(policy), [], set(), threading.Event()

    def work():
        while not done.is_set():
            page = ranker.rank(*requests, 2)
            expected, weights = both[page.policy_version]
            made.add(page.policy_version)
            if page.policy is not expected or not np.array_equal(page.weights, weights):
                wrong.append(page)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for swap in range(200):
        ranker.publish((other, policy)[swap % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong and len(made) == 2
    assert ranker.policy is policy and ranker.version == policy.version


def test_a_policy_that_was_replaced_is_let_go(policy, requests):
    old = FusionPolicy(policy.spec, np.array([0.1, 0.1, 0.8]), seed=4)
    ranker = BlendedRanker(old)
    page, gone = ranker.rank(*requests, 2), weakref.ref(old)
    ranker.publish(policy)
    del old
    gc.collect()
    assert gone() is page.policy
    del page
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("predictions", {"predictions": np.ones((4, 12, 2))}),
        ("context", {"context": np.ones((3, 2))}),
        ("k", {"k": 0}),
        ("explore", {"explore": "no"}),
        ("page_terms", {"page_terms": np.array([True, False])}),
        ("mask", {"mask": np.ones((4, 11), bool)}),
        ("groups", {"groups": np.zeros((4, 12, 1))}),
        ("groups", {"groups": np.zeros((4, 12, 1)), "caps": [1, 2]}),
        ("scenario", {"scenario": ["a"]}),
        ("item_id", {"item_id": [1]}),
        ("seed", {"seed": -1}),
        ("draw", {"draw": -1}),
        ("pins", {"pins": np.zeros((4, 2), int)}),
        ("pins", {"pins": np.full((4, 3), 12)}),
        ("demoted", {"demoted": np.zeros((4, 11), bool)}),
        ("caps_of_seller", {"caps_of_seller": [1]}),
        ("k", {"k": 3.7}),
        ("k", {"k": 1 << 63}),
        ("seed", {"seed": 1.5}),
        ("caps", {"groups": np.zeros((4, 12, 1), np.int32), "caps": (1.7,)}),
        ("groups", {"groups": np.full((4, 12, 1), np.nan), "caps": [1]}),
        ("groups", {"groups": np.full((4, 12, 1), 1 << 40), "caps": [1]}),
        ("offsets", {"predictions": np.ones((9, 3)), "offsets": [0, 1.5, 3, 4, 9]}),
        ("boost_add", {"boost_add": ["a"] * 48}),
        ("context", {"context": torch.eye(4)[:, :2].to_sparse()}),
        ("predictions", {"predictions": np.ma.masked_array(np.ones((4, 12, 3), np.float32))}),
        ("context", {"context": np.ma.masked_array(np.ones((4, 2), np.float32))}),
        ("mask", {"mask": np.ma.masked_array(np.ones((4, 12), bool))}),
        ("item_id", {"item_id": np.ma.masked_array(np.arange(48))}),
    ],
)
def test_bad_input_is_named_and_counts_nothing(policy, requests, name, change):
    ranker = BlendedRanker(policy)
    arguments = {"context": requests[0], "predictions": requests[1], "k": 3} | change
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        ranker.rank(**arguments)
    assert ranker.counters["requests"] == 0


def test_a_seed_of_numpy_starts_the_same_stream(policy, requests):
    draws = [BlendedRanker(policy, seed=seed).rank(*requests, 4, explore=True).seed for seed in (7, np.int32(7))]
    assert draws[0].tolist() == draws[1].tolist() == [(7 << 32) + b for b in range(4)]


def test_the_repr_of_a_page_is_a_line(policy, requests):
    page = BlendedRanker(policy).rank(*requests, 5)
    assert repr(page) == f"Page(requests=4, k=5, tasks={TASKS}, policy_version={policy.version!r})"


def test_the_policy_of_the_vectors_ranks_the_recorded_page():
    """The same bits on every machine."""
    ranker = BlendedRanker.load(VECTOR)
    record = json.loads((VECTOR / "page.json").read_text())
    context, predictions = np.array([record["context"]], np.float32), np.array([record["predictions"]], np.float32)
    more = {name: np.array([record[name]], np.float32) for name in ("values", "item_values", "items") if name in record}
    for kind in ("served", "explored", "fallback"):
        expected = record[kind]
        k, features = len(expected["indices"]), None if kind == "fallback" else context
        draw = {"explore": True, "seed": expected["draw"] >> 32} if "draw" in expected else {}
        page = ranker.rank(features, predictions, k, scenario=record["scenario"], **draw, **more)
        for name in expected.keys() - {"draw"}:
            values = getattr(page, name)[0]
            assert np.array_equal(values, np.array(expected[name], values.dtype)), (kind, name)
