"""Mixtures with a baseline and values of requests: the page of the C++ core against Python's scores."""

import numpy as np
import pytest
import torch

from pygrade import _core, ops
from pygrade._util.html_table import html_table
from pygrade.cli import terminal
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.mixture import EPSILON, Baseline, Mixture
from pygrade.policy.spec import fusion_formula
from pygrade.serving.page_table import page_table
from pygrade.serving.ranker import BlendedRanker

TASKS, FEATURES = ("click", "order", "like"), ("a", "b")
VALUES = {"values": {"order": 2.0}, "scenario_values": {"search": {"click": 0.5}}}
KNOTS = (((0.0, 0.2, 0.5, 1.0), (0.0, 0.1, 0.1, 0.9)), ((0.0, 0.6), (0.01, 0.3)), ((0.0, 0.01, 0.7), (0.0, 0.2, 2.0)))
BASELINES = {
    "expected value": Baseline("expected value", "identity", (1.0, 5.0, 0.2), logarithm=True),
    "harm": Baseline("expected value", "identity", (1.0, 5.0, -0.2)),
    "calibrated": Baseline("expected value, calibrated", "identity", (1.0, 5.0, 0.2), True, calibration=KNOTS),
    "priced": Baseline("expected value", "identity", (1.0, 5.0, 0.2), True, value_tasks=("order",)),
    "both": Baseline("ev", "identity", (1.0, 5.0, 0.2), True, value_tasks=("like", "order"), calibration=KNOTS),
    **{name: Baseline(name, name, (0.2, 0.5, 0.3)) for name in ("log", "zscore", "zlog", "rank", "log1p")},
}


def make_policy(baseline="expected value", mixture_weight=0.7, **options):
    config = PolicyConfig(**{"hidden": (8,), "trade_offs": True, **VALUES, **options})
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    made.head.weight.data.mul_(40)  # so that requests differ
    made.set_static_weights(torch.tensor([0.4, 0.4, 0.2]), {"search": torch.tensor([0.1, 0.6, 0.3])})
    made.mixture = Mixture(mixture_weight, BASELINES[baseline], "better", "better than it")
    return made


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    predictions = rng.uniform(0.01, 0.9, (4, 12, 3)).astype(np.float32)
    return rng.normal(size=(4, 2)).astype(np.float32), predictions, rng.uniform(0, 9, (4, 12)).astype(np.float32)


def expected_scores(page, predictions, prices):
    """Scores [B, N] by the ops, under the weights of a page."""
    policy, u = page.policy, torch.from_numpy(page.request_values)
    batch, count, tasks = predictions.shape
    rows, prices = torch.from_numpy(predictions.reshape(-1, tasks)), torch.from_numpy(prices.reshape(-1))
    formula = fusion_formula(policy.config) | {"offsets": torch.arange(batch + 1) * count}
    entry, mixture_weight = policy.mixture.baseline, policy.mixture.mixture_weight
    amounts = rows.clone()
    for t, (x, y) in enumerate(entry.calibration):
        mapped = torch.empty(len(rows))
        _core.piecewise_linear(rows[:, t].contiguous(), x, y, mapped)
        amounts[:, t] = mapped
    for t in map(policy.tasks.index, entry.value_tasks):
        amounts[:, t] *= prices
    base = ops.fuse_scores(amounts, torch.tensor(entry.weights) * u, **formula | {"transform": entry.transform})
    if entry.logarithm:
        base = ops.transform_scores(base[:, None], **formula | {"transform": "log"})[:, 0]
    fused = ops.fuse_scores(rows, torch.from_numpy(page.weights), **formula) if mixture_weight else base
    shares = torch.tensor([[1 - mixture_weight, mixture_weight]]).repeat(batch, 1)
    mixed = formula | {"transform": "zscore", "epsilon": EPSILON}
    return ops.fuse_scores(torch.stack([base, fused], 1), shares, **mixed).reshape(batch, count)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("mixture_weight", [0.0, 0.3])
def test_a_page_is_the_ranking_by_the_mixture_s_scores(requests, name, mixture_weight):
    context, predictions, prices = requests
    context[3] = np.nan  # a fallback is mixed, too
    policy = make_policy(name, mixture_weight)
    ranker = BlendedRanker(policy)
    rng = np.random.default_rng(1)
    rules = {"boost_add": rng.normal(size=(4, 12)).astype(np.float32), "mask": rng.uniform(size=(4, 12)) < 0.9}
    rules |= {"groups": rng.integers(0, 4, (4, 12, 1)).astype(np.int32), "caps": np.array([2], np.int32)}
    for explore in (False, True):
        page = ranker.rank(
            context,
            predictions,
            8,
            scenario=["search", "", "search", "feed"],
            values=[{"like": 3.0}, {}, {"click": 0.0, "order": 1.5}, {"order": 0.1}],
            item_values=prices,
            explore=explore,
            seed=7 if explore else None,
            **rules,
        )
        u = [[0.5, 2.0, 3.0], [1.0, 2.0, 1.0], [0.0, 1.5, 1.0], [1.0, 0.1, 1.0]]
        np.testing.assert_array_equal(page.request_values, np.array(u, np.float32))
        scores = expected_scores(page, predictions, prices)
        same = {key: torch.from_numpy(value) for key, value in rules.items()}
        expected = ops.rank(scores[:, :, None], torch.ones(4, 1), 8, **same)
        assert page.values.tobytes() == expected.values.numpy().tobytes()
        assert np.array_equal(page.indices, expected.indices.numpy())
        assert page.explored.tolist() == [explore] * 3 + [False] and page.fallback.tolist() == [False] * 3 + [True]


@pytest.mark.parametrize("name", BASELINES)
def test_contributions_add_up_to_the_scores(requests, name):
    context, predictions, prices = requests
    rows, offsets = predictions.reshape(-1, 3)[:40], [0, 12, 12, 15, 40]
    page = BlendedRanker(make_policy(name)).rank(
        context, rows, 13, offsets=offsets, item_values=prices.reshape(-1)[:40], values={"like": 2.0}
    )
    assert page.contributions.shape == (4, 13, 3) and page.baseline_contribution.shape == (4, 13)
    filled = page.indices >= 0
    total = page.contributions.sum(-1) + page.baseline_contribution
    np.testing.assert_allclose(total[filled], page.values[filled], rtol=1e-6, atol=1e-6)
    assert (total[~filled] == 0.0).all() and filled.sum() == 28
    assert np.abs(page.baseline_contribution[filled]).max() > 0.05
    assert (page.mixture_weight, page.baseline, page.verdict) == (0.7, BASELINES[name].name, "better")


def test_full_trust_serves_the_policy_alone(requests):
    context, predictions, _ = requests
    trusted, alone = make_policy("priced", 1.0), make_policy()
    alone.mixture = None
    page, expected = (BlendedRanker(policy).rank(context, predictions, 9) for policy in (trusted, alone))
    assert page.values.tobytes() == expected.values.tobytes() and np.array_equal(page.indices, expected.indices)
    np.testing.assert_array_equal(page.contributions, expected.contributions)
    assert not page.baseline_contribution.any()
    assert (expected.mixture_weight, expected.baseline, expected.verdict) == (1.0, "", "")


def test_a_saved_mixture_ranks_as_before_and_as_scores_says(requests, tmp_path):
    context, predictions, prices = requests
    policy = make_policy("both", hidden=(8,), frozen={"like": 0.1}, context_only=True)
    loaded = BlendedRanker.load(policy.save(tmp_path))
    assert loaded.policy.mixture == policy.mixture and loaded.policy.config == policy.config
    request = {"scenario": ["search", "a", "b", "search"], "item_values": prices, "values": [3.0, np.nan, 1.0]}
    page = loaded.rank(context, predictions, 12, **request)
    assert page.values.tobytes() == BlendedRanker(policy).rank(context, predictions, 12, **request).values.tobytes()
    scores = np.take_along_axis(policy.scores(context, predictions, **request), page.indices, 1)
    np.testing.assert_allclose(page.values, scores, atol=1e-4)
    np.testing.assert_allclose(page.weights[:, 2], 0.1, atol=1e-7)


def test_the_log_tells_how_a_page_was_made(requests, tmp_path):
    context, predictions, prices = requests
    policy = make_policy("both")
    page = BlendedRanker(policy, seed=5).rank(
        context, predictions, 12, explore=True, scenario="search", values={"like": 3.0}, item_values=prices
    )
    write_logs(page.log_rows(), tmp_path / "log")
    log = read_logs(tmp_path / "log")
    assert (
        set(log.mixture_weight) == {np.float32(0.7)} and set(log.baseline) == {"ev"} and set(log.verdict) == {"better"}
    )
    np.testing.assert_array_equal(log.request_values, np.tile(np.array([0.5, 2.0, 3.0], np.float32), (4, 1)))
    np.testing.assert_array_equal(log.value, prices.reshape(-1))
    for r in range(4):  # the density of the draw is exact
        alpha, seed = torch.from_numpy(log.concentration[r : r + 1]), int(log.seed[r])
        drawn = ops.dirichlet_sample(alpha, 1, seed >> 32, offset=seed & 0xFFFFFFFF)
        assert np.array_equal(log.weights[r], drawn.weights[0, 0].numpy())
    again = BlendedRanker(policy, seed=5).rank_log(log, 12, explore=True, values=log.request_values)
    assert again.weights.tobytes() == log.weights.tobytes() and again.indices.tobytes() == page.indices.tobytes()


@pytest.mark.parametrize(
    ("name", "baseline", "change"),
    [
        ("values names task 'buy'", "harm", {"values": {"buy": 1.0}}),
        ("values is -1.0.* for task like", "harm", {"values": {"like": -1.0}}),
        ("values is 0 for every task", "harm", {"values": [0, 0, 0]}),
        ("values is 0 for every task", "harm", {"values": {"click": 0, "like": 0}, "scenario": "zero"}),
        ("values has 3 mappings", "harm", {"values": [{}, {}, {}]}),
        ("values has shape", "harm", {"values": np.ones((3, 3))}),
        ("item_values is missing", "priced", {}),
        ("item_values has shape", "priced", {"item_values": np.ones(3)}),
        ("item_values is nan at candidate 1", "priced", {"item_values": np.full((4, 12), np.nan)}),
        ("item_values is -1.0", "priced", {"item_values": np.full((4, 12), -1)}),
        ("request 2: predictions is negative at candidate 0, task 1", "log", {}),
        ("request 2: predictions is negative at candidate 0, task 1", "expected value", {}),
    ],
)
def test_bad_input_is_named_and_counts_nothing(requests, name, baseline, change):
    context, predictions, _ = requests
    scenario_values = {"zero": {"order": 0.0}}
    ranker = BlendedRanker(
        make_policy(baseline, transform="identity", context_only=True, scenario_values=scenario_values)
    )
    if name.startswith("item_values is nan"):
        change["item_values"][0, 0] = 1.0
    if "predictions" in name:
        predictions[2, 0, 1] = -0.1
    with pytest.raises(ValueError, match=name):
        ranker.rank(context, predictions, 3, **change)
    assert ranker.counters["requests"] == 0


def test_values_need_a_policy_that_takes_them(requests):
    context, predictions, _ = requests
    ranker = BlendedRanker(make_policy("zlog", trade_offs=False, values={}, scenario_values={}))
    assert ranker.rank(context, predictions, 3).request_values is None
    with pytest.raises(ValueError, match=r"values is given; .*trade_offs"):
        ranker.rank(context, predictions, 3, values={"order": 2.0})


def as_html(record):
    page = page_table(record)
    return html_table(page.head, page.texts(), texts=2)


def test_an_explained_page_names_trust_baseline_and_values(requests, capsys):
    context, predictions, prices = requests
    page = BlendedRanker(make_policy("both")).rank(context[:1], predictions[:1], 2, item_values=prices[:1])
    record = page.describe(0, "request 0", np.full(3, 0.3, np.float32))
    assert record["why"].endswith("; values: order 2; mixture weight 0.70 against ev (verdict: better)")
    assert (record["mixture_weight"], record["baseline"], record["verdict"]) == (0.7, "ev", "better")
    parts = [sum(item["contributions"]) + item["baseline"] for item in record["items"]]
    np.testing.assert_allclose(parts, page.values[0], atol=1e-5)
    alone = BlendedRanker(make_policy("harm", 0.0)).rank(context, predictions, 2)
    why = "ranked by expected value alone, not by weights (verdict: better); "
    assert alone.explain(1, None) == why + "score: the sum of the contributions, standardized over the candidates"
    bare = BlendedRanker(make_policy("harm", 0.0)).rank(context[:1], predictions[:1], 2).describe(0, "alone")
    terminal.page(bare)
    for text in (as_html(bare), capsys.readouterr().out):
        assert "expected value" not in text.replace(bare["why"], "") and "weight" not in text.replace(bare["why"], "")
    terminal.page(record)
    out = capsys.readouterr().out
    for text in (as_html(record), out):
        assert "ev" in text and f"{record['items'][0]['baseline']:+.3f}" in text
