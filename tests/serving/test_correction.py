"""Pages by corrected predictions: the C++ core against Python's scores, and what a page tells of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.policy.alone import rank_by
from pygrade.serving.ranker import BlendedRanker
from tests.corrections import FEATURES, TASKS, random_correction
from tests.refusals import refuses

VALUES = (1.0, 3.0, 20.0, 0.5, 0.1)
EV = Baseline("expected value", "identity", VALUES, True, value_tasks=("order",))
CORRECTED = replace(EV, name="corrected expected value", corrected=True)
STATIC = Baseline("best static", "zlog", (0.1, 0.2, 0.5, 0.1, 0.1))
KNOTS = (((0.0, 0.3, 1.0), (0.0, 0.1, 0.9)),) * 5
NEW = {"corrected": True, "value_tasks": ("order", "like"), "indicators": ("age",)}
POLICIES = {
    "corrected expected value": ({}, Mixture(0.0, CORRECTED)),
    "challenger": ({}, Mixture(0.6, EV, challenger=CORRECTED)),
    "challenger alone": ({}, Mixture(1.0, EV, challenger=CORRECTED)),
    "plain challenger": ({}, Mixture(0.3, CORRECTED, challenger=replace(EV, calibration=KNOTS))),
    "static challenger": ({"trade_offs": True}, Mixture(0.5, EV, challenger=replace(STATIC, corrected=True))),
    "network": (NEW, None),
    "network of identity": (NEW | {"transform": "identity"}, None),
    "network, mixed": (NEW | {"trade_offs": True}, Mixture(0.5, CORRECTED)),
    "raw network, mixed": ({"indicators": ("visits", "hour")}, Mixture(0.5, CORRECTED)),
    "corrected network, mixed": (NEW | {"context_only": True}, Mixture(0.7, STATIC)),
}


def make_policy(name="challenger", form="marginal", trees=0, **changes):
    options, mixture = POLICIES[name]
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(**{"hidden": (8,), **options})), seed=3)
    policy.head.weight.data.mul_(40)  # so that requests differ
    share = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.3, 0.3]])
    policy.set_static_weights(share[0], {"search": share[1]})
    policy.mixture = mixture if mixture is None else replace(mixture, **changes)
    policy.correction = random_correction(6, form=form, trees=trees)
    return policy


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    context = rng.normal(size=(5, 3)).astype(np.float32)
    context[1, 1], context[2, 0] = np.nan, np.inf
    context[3] = np.nan, -np.inf, np.nan
    predictions = (rng.uniform(0.01, 0.9, (5, 30, 5)) ** 2).astype(np.float32)
    predictions[..., 1:4] *= predictions[..., :1]
    predictions[..., 4] *= 50
    items = rng.normal(size=(5, 30, 2)).astype(np.float32)
    items[0, :5] = np.nan, np.inf
    return {
        "context": context,
        "predictions": predictions,
        "item_values": rng.uniform(1, 9, (5, 30)).astype(np.float32),
        "items": items,
        "scenario": ["search", "", "search", "search", ""],
    }


def without(given, *names):
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize("items", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_a_page_is_the_ranking_by_the_policy_s_scores(requests, name, items):
    given = requests if items else without(requests, "items")
    policy = make_policy(name, trees=11)
    page = BlendedRanker(policy).rank(k=30, **given)
    scores = policy.scores(**given)
    assert page.values.tobytes() == np.take_along_axis(scores, page.indices, 1).tobytes()
    assert page.fallback.tolist() == [False, False, False, True, False]
    np.testing.assert_allclose(page.weights[3], [0.1, 0.1, 0.2, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("name", ["challenger", "network", "network, mixed"])
def test_candidates_with_a_missing_prediction_stay_out_of_the_correction(requests, name):
    broken = {key: np.copy(value) for key, value in requests.items() if key != "scenario"}
    broken["predictions"][:, 4, 0] = np.nan
    broken["predictions"][:, 9, 3] = np.inf
    others = np.delete(np.arange(30), [4, 9])
    ranker = BlendedRanker(make_policy(name, trees=11))
    page, scores = ranker.rank(k=30, **broken), ranker.policy.scores(**broken)
    assert np.isnan(scores[:, [4, 9]]).all()
    assert page.values[:, :28].tobytes() == np.take_along_axis(scores, page.indices, 1)[:, :28].tobytes()
    some = {
        key: value if key == "context" else value[:, others] for key, value in without(requests, "scenario").items()
    }
    less = ranker.rank(k=28, **some)
    assert np.array_equal(page.indices[:, :28], others[less.indices])
    assert page.values[:, :28].tobytes() == less.values.tobytes()
    assert np.isnan(page.values[:, 28:]).all()
    assert ranker.counters["missing_predictions"] == 10
    np.testing.assert_array_equal(page.contributions[:, :28], less.contributions)
    np.testing.assert_allclose(page.corrections, less.corrections, rtol=1e-6)


@pytest.mark.parametrize("name", ["challenger alone", "network, mixed"])
def test_jagged_requests_equal_each_request_alone(requests, name):
    policy, sizes = make_policy(name, trees=11), [30, 1, 0, 17, 30]
    keep = (np.arange(30) < np.array(sizes)[:, None]).reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = {
        key: requests[key].reshape(150, *requests[key].shape[2:])[keep]
        for key in ("predictions", "items", "item_values")
    }
    rows |= {"context": requests["context"], "scenario": requests["scenario"]}
    page = BlendedRanker(policy).rank(k=30, offsets=offsets, **rows)
    for b, size in enumerate(sizes):
        if size:
            one = {key: value[b : b + 1] for key, value in requests.items()}
            one |= {key: one[key][:, :size] for key in ("predictions", "items", "item_values")}
            alone = BlendedRanker(policy).rank(k=30, **one)
            assert alone.values.tobytes() == page.values[b : b + 1].tobytes()
            np.testing.assert_array_equal(alone.contributions[0], page.contributions[b])
    assert (page.indices[2] == -1).all() and (page.corrections[2] == 1.0).all()
    swapped = BlendedRanker(policy).rank(k=30, offsets=offsets, **{k: np.array(v).tolist() for k, v in rows.items()})
    assert swapped.values.tobytes() == page.values.tobytes()  # lists are converted


def test_no_context_is_a_row_of_unknown_features(requests):
    ranker, given = BlendedRanker(make_policy("network, mixed")), without(requests, "context")
    none = ranker.rank(None, k=30, **given)
    unknown = ranker.rank(np.full((5, 3), np.nan), k=30, **given)
    assert none.values.tobytes() == unknown.values.tobytes() and none.fallback.all()
    np.testing.assert_array_equal(none.contributions, unknown.contributions)
    scores = ranker.policy.scores(none.context, **given)
    np.testing.assert_allclose(np.take_along_axis(scores, none.indices, 1), none.values, rtol=1e-4, atol=1e-4)


def test_values_turn_an_expected_value_without_trade_offs(requests):
    policy = make_policy("challenger")
    ranker = BlendedRanker(policy)
    values = [{"order": 0.0}, {}, {"click": 0.0, "spend": 8.0 * VALUES[4]}, {"like": 2.5 * VALUES[3]}, {}]
    page = ranker.rank(k=30, values=values, **requests)
    u = [[1, 1, 0, 1, 1], [1] * 5, [0, 1, 1, 1, 8], [1, 1, 1, 2.5, 1], [1] * 5]
    np.testing.assert_array_equal(page.request_values, np.array(u, np.float32) * np.float32(VALUES))
    scores = policy.scores(values=values, **requests)
    assert np.take_along_axis(scores, page.indices, 1).tobytes() == page.values.tobytes()
    alone = BlendedRanker(make_policy("challenger alone")).rank(k=30, **requests)
    assert np.array_equal(page.indices[[1, 4]], alone.indices[[1, 4]])  # the corrected one, not the mixture
    assert not np.array_equal(page.indices[0], alone.indices[0])
    assert [entry.name for entry in page.ranked_by] == ["corrected expected value"]
    amounts = policy.correct(requests["context"], requests["predictions"], None, requests["items"]).astype(float)
    amounts[..., 2] *= requests["item_values"]
    parts = amounts * np.array(VALUES) * np.array(u)[:, None]
    found = np.take_along_axis(parts, page.indices[..., None].astype(int), 1)
    np.testing.assert_allclose(page.contributions, found, rtol=1e-5)
    assert not page.baseline_contribution.any() and not page.uses_network


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (Mixture(0.0, EV), "expected value"),
        (Mixture(0.0, EV, challenger=CORRECTED), "expected value"),  # which nothing proved
        (Mixture(0.5, EV, challenger=CORRECTED), "corrected expected value"),
        (Mixture(0.5, CORRECTED, challenger=EV), "corrected expected value"),
        (Mixture(0.5, EV, challenger=STATIC), "expected value"),
        (Mixture(1.0, EV, challenger=STATIC), None),
        (Mixture(0.5, EV), "expected value"),
        (Mixture(1.0, EV), None),
        (Mixture(0.5, STATIC), None),
        (Mixture(0.0, replace(STATIC, corrected=True)), None),
    ],
)
def test_the_expected_value_that_takes_values(requests, mixture, expected):
    policy = make_policy()
    policy.mixture = mixture
    ranker = BlendedRanker(policy)
    if expected is None:
        for rank in (lambda **given: ranker.rank(k=3, **given), policy.scores):
            refuses(ValueError, r"values .*trade_offs", rank, values={"order": 2.0}, **requests)
        assert ranker.counters["requests"] == 0
    else:
        page = ranker.rank(k=30, values={"order": 2.0}, **requests)
        assert [entry.name for entry in page.ranked_by] == [expected]
        scores = policy.scores(values={"order": 2.0}, **requests)
        assert np.take_along_axis(scores, page.indices, 1).tobytes() == page.values.tobytes()


@pytest.mark.parametrize("name", POLICIES)
def test_contributions_are_what_is_added_up(requests, name):
    policy = make_policy(name)
    page = BlendedRanker(policy).rank(k=30, **requests)
    total = page.contributions.sum(-1)
    if page.uses_network:
        np.testing.assert_allclose(total + page.baseline_contribution, page.values, rtol=1e-3, atol=1e-4)
        return
    entry = page.ranked_by[0]
    scores = rank_by(policy, entry).scores(**requests)
    found = np.log(total + policy.config.beta) if entry.logarithm else total
    np.testing.assert_allclose(found, np.take_along_axis(scores, page.indices, 1), rtol=1e-4, atol=1e-4)
    assert bool(page.baseline_contribution.any()) == (page.mixture_weight < 1.0)


@pytest.mark.parametrize("form", ["", "marginal", "conditional"])
def test_without_coefficients_corrected_expected_value_is_expected_value(requests, form):
    ratio = np.random.default_rng(1).uniform(0.01, 0.9, (5, 30, 3))
    requests["predictions"][..., 1:4] = requests["predictions"][..., :1] * ratio  # children
    requests["predictions"][..., 2] *= ratio[..., 0]
    plain, corrected = make_policy(), make_policy()
    plain.mixture, corrected.mixture = Mixture(0.0, EV), Mixture(0.0, CORRECTED)
    zeros = {"map_weights": np.zeros((5, 7)), "form": form}
    corrected.correction = random_correction(scale=0.0, **zeros)
    pages = [BlendedRanker(policy).rank(k=30, **requests) for policy in (plain, corrected)]
    np.testing.assert_allclose(pages[1].values, pages[0].values, rtol=1e-3, atol=1e-3)
    assert (pages[0].indices == pages[1].indices).mean() > 0.95


@pytest.mark.parametrize("values", [None, {"order": 3.0}])
@pytest.mark.parametrize("name", [name for name in POLICIES if "hallenger" in name or name.startswith("corrected exp")])
def test_a_page_without_weights_says_how_its_sums_make_the_scores(requests, name, values):
    if name == "static challenger" and values is not None:
        values = {"click": 1.0}  # it takes them as inputs
    page = BlendedRanker(make_policy(name)).rank(k=30, values=values, **requests)
    record = page.describe(0, "page")
    sums = np.array([item["sum"] for item in record["items"]])
    score = np.log(sums + 1e-7) if "the logarithm of the sum" in record["why"] else sums
    if "standardized over the candidates" in record["why"]:
        score = (score - score.mean()) / (score.std() + 1e-6)
    if "plus the share of" in record["why"]:
        score = page.mixture_weight * score + [item["baseline"] for item in record["items"]]
    assert not record["weighs"] and len(sums) == 30
    np.testing.assert_allclose(score, page.values[0], rtol=2e-3, atol=1e-4)


def test_a_correction_without_item_columns_takes_none(requests):
    policy = make_policy("challenger")
    policy.correction = random_correction(6, items=())
    given, ranker = without(requests, "items"), BlendedRanker(policy)
    page = ranker.rank(k=30, **given)
    empty = ranker.rank(k=30, items=np.empty((5, 30, 0), np.float32), **given)
    assert empty.values.tobytes() == page.values.tobytes()
    np.testing.assert_array_equal(empty.corrections, page.corrections)
    scores = policy.scores(items=np.empty((5, 30, 0)), **given)
    assert scores.tobytes() == policy.scores(**given).tobytes() and empty.log_rows().items == ()


def test_a_page_tells_what_the_correction_did(requests):
    weights = np.zeros_like(random_correction().weights)
    weights[2, 0, 0], weights[0, 0, 0] = np.log(1.8), np.log(0.9)
    policy = make_policy("challenger alone")
    policy.correction = random_correction(weights=weights, x_mean=np.zeros(5))
    requests["predictions"][..., 2] *= 1e-3  # rare, so that odds are probabilities
    page = BlendedRanker(policy).rank(k=10, **requests)
    np.testing.assert_allclose(page.corrections, np.tile([0.9, 0.9, 1.62, 0.9, 1.0], (5, 1)), rtol=0.05)
    first, *others = page.explain_correction(0).removesuffix(" for this request").split(", ")
    assert first == "order × 1.6" and {*others} < {"click × 0.9", "cart × 0.9", "like × 0.9"} and len(others) == 2
    assert "corrected expected value; order × 1.6" in page._repr_html_()
    assert page.explain(0, None).startswith("ranked by corrected expected value; order × 1.6, ")
    weights[2, 2, 0], weights[2, 4, 0], weights[0, 3, 0] = -1.0, 2.0, 0.3  # age, that hour is unknown, visits
    policy.correction = random_correction(weights=weights, x_mean=np.zeros(5), x_std=np.ones(5), median=np.zeros(3))
    requests["context"][:2] = [[0.5, -1.25, 2.0], [np.nan, 0.5, 2.0]]
    page = BlendedRanker(policy).rank(k=10, **requests)
    for request, cause in enumerate(("age -1.25", "hour unknown")):
        first, second, *_ = page.explain_correction(request).split(", ")
        assert first.startswith("order × ") and first.endswith(f" ({cause})") and second.endswith(" (visits 2)")
    assert "(" not in page.explain_correction(3)  # of which nothing is known
    assert policy.correction.find_cause(requests["context"][0], 2, up=False) == ""
    assert policy.correction.find_cause(requests["context"][1], 2, up=False) == "age 0.5"
    policy.correction = random_correction(scale=0.0)
    page = BlendedRanker(policy).rank(k=10, **requests)
    np.testing.assert_allclose(page.corrections, 1.0, rtol=0.049)
    assert page.explain_correction(0) == ""
    plain = make_policy("challenger", challenger=EV)
    assert BlendedRanker(plain).rank(k=10, **requests).corrections is None


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("items has", {"items": np.zeros((5, 30, 1), np.float32)}),
        ("items has", {"items": np.zeros((5, 29, 2), np.float32)}),
        ("items is no array", {"items": "abc"}),
        ("item_values is missing", {"item_values": None}),
    ],
)
def test_bad_input_is_named_and_counts_nothing(requests, message, change):
    ranker = BlendedRanker(make_policy("network"))
    refuses(ValueError, message, ranker.rank, k=3, **requests | change)
    assert ranker.counters["requests"] == 0


def test_scores_name_what_is_missing(requests):
    policy = make_policy("network")
    refuses(ValueError, "item_values is missing", lambda: policy.scores(**without(requests, "item_values")))
    policy.correction = None
    refuses(ValueError, "correct", policy.scores, **requests)


def test_a_policy_with_other_item_columns_is_not_published(requests):
    policy, other = make_policy("challenger"), make_policy("challenger")
    ranker = BlendedRanker(policy)
    other.correction = random_correction(6, items=("price", "age of the item"))
    refuses(ValueError, "item columns", ranker.publish, other)
    other.correction = random_correction(7)
    ranker.publish(other)
    assert ranker.version == other.version
