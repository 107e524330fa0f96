"""Hybrid queries of search engines: each file evaluated as its engine documents it ranks as the policy does."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.config.policy import PolicyConfig
from pygrade.logs.prediction_scale import PredictionScale
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.serving.hybrid import TERMS, hybrid_weights, normalize_hits, write_hybrid

RETRIEVERS = ("lexical", "vector", "fresh")
WEIGHTS = (0.5, 0.2, 0.3)
HIGH = {"min_max": 1.0, "rrf": 1 / 61, "raw": 31.25}
FORMS = [f"{engine}:{terms}" for engine in TERMS for terms in TERMS[engine]]
STATIC = Baseline("best static", "identity", WEIGHTS)
NONE = float("nan")


def policy_of(terms="min_max", mixture=None, **config):
    config = {"transform": "identity", "context_only": True, "lower": 0.0, "upper": 1.0} | config
    policy = FusionPolicy(PolicySpec(RETRIEVERS, ("words",), PolicyConfig(**config)), np.array(WEIGHTS, np.float32))
    policy.scales = {name: PredictionScale(column=f"p_{name}", low=0.0, high=HIGH[terms]) for name in RETRIEVERS}
    policy.mixture = mixture
    return policy


def scores_of_hits(seed):
    """[N, 3] scores of the documents of one query; NaN where a retriever did not return one."""
    rng = np.random.default_rng(seed)
    scores = rng.gamma(2.0, 3.0, (40, 3))
    scores[rng.random((40, 3)) < 0.4] = NONE
    return scores[~np.isnan(scores).all(1)]


def ranks(scores):
    """[N] from 1; infinite: not returned."""
    order, result = (
        np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable"),
        np.full(len(scores), np.inf),
    )
    result[order] = 1 + np.arange(len(scores))
    return np.where(np.isnan(scores), np.inf, result)


def opensearch(text, scores):
    body = json.loads(text)
    assert set(body) == {"description", "phase_results_processors"}
    ((kind, options),) = body["phase_results_processors"][0].items()
    weights = options["combination"]["parameters"]["weights"]
    assert len(weights) == 3 and all(0 <= w <= 1 for w in weights) and sum(weights) == pytest.approx(1)  # as documented
    if kind == "score-ranker-processor":
        assert set(options) == {"combination"} and options["combination"]["technique"] == "rrf"
        return 1 / (options["combination"]["rank_constant"] + np.stack([ranks(s) for s in scores.T], 1)) @ weights
    assert kind == "normalization-processor" and options["normalization"] == {"technique": "min_max"}
    assert set(options["combination"]) == {"technique", "parameters"}
    assert options["combination"]["technique"] == "arithmetic_mean"
    low, high = np.nanmin(scores, 0), np.nanmax(scores, 0)
    return np.nan_to_num((scores - low) / (high - low)) @ weights / sum(weights)


def elasticsearch(text, scores):
    (retriever,) = json.loads(text)["retriever"].items()
    kind, options = retriever
    parts = options["retrievers"]
    weights = [part["weight"] for part in parts]
    queries = [part["retriever"]["standard"]["query"] for part in parts]
    assert queries == [{f"<{name}>": {}} for name in RETRIEVERS] and min(weights) >= 0
    assert options["rank_window_size"] >= 10
    if kind == "rrf":
        assert set(options) == {"retrievers", "rank_constant", "rank_window_size"}
        assert all(set(part) == {"retriever", "weight"} for part in parts)
        return 1 / (options["rank_constant"] + np.stack([ranks(s) for s in scores.T], 1)) @ weights
    assert kind == "linear" and set(options) == {"retrievers", "rank_window_size"}
    assert all(part["normalizer"] == "minmax" and len(part) == 3 for part in parts)
    low, high = np.nanmin(scores, 0), np.nanmax(scores, 0)
    return np.nan_to_num((scores - low) / (high - low)) @ weights


def qdrant(text, scores):
    body = json.loads(text)
    assert set(body) == {"prefetch", "query", "limit"} and set(body["query"]) == {"formula", "defaults"}
    value = {}
    for i, (name, own) in enumerate(zip(RETRIEVERS, body["prefetch"], strict=True)):
        assert own["limit"] >= body["limit"]
        if "prefetch" in own:
            (inner,) = own["prefetch"]
            assert inner["query"] == f"<{name}>" and set(own["query"]) == {"rrf"} and set(own["query"]["rrf"]) == {"k"}
            term = 1 / (own["query"]["rrf"]["k"] + ranks(scores[:, i]) - 1)  # its ranks begin at 0
            term[np.isnan(scores[:, i])] = NONE
        else:
            assert own["query"] == f"<{name}>"
            term = scores[:, i]
        value[f"$score[{i}]"] = np.where(np.isnan(term), body["query"]["defaults"][f"$score[{i}]"], term)
    (terms,) = body["query"]["formula"].values()
    assert list(body["query"]["formula"]) == ["sum"] and all(list(term) == ["mult"] for term in terms)
    return sum(weight * value[variable] for weight, variable in (term["mult"] for term in terms))


def vespa(text, scores):
    assert text.count("{") == text.count("}") and text.startswith("rank-profile hybrid {")
    weights = json.loads(re.search(r"query\(weights\) tensor<double>\(t\[3\]\): (.*)", text)[1])
    for name in RETRIEVERS:
        assert f"function {name}() {{\n        expression: <{name}>\n    }}" in text
    phase = "global-phase" if "normalize_linear" in text or "reciprocal_rank" in text else "first-phase"
    expression = re.search(rf"{phase} {{\n\s+expression: (.*)\n", text)[1]
    if phase == "global-phase":  # its functions are taken from the hits
        assert re.search(r"match-features \{\s+lexical\s+vector\s+fresh\s+\}", text) and "rerank-count: 100" in text
    column = dict(zip(RETRIEVERS, scores.T, strict=True))
    found = {
        "query": weights,
        "normalize_linear": lambda x: np.nan_to_num((x - np.nanmin(x)) / (np.nanmax(x) - np.nanmin(x))),
        "reciprocal_rank": lambda x, k: 1 / (k + ranks(x)),
        **(column if phase == "global-phase" else {name: np.nan_to_num(x) for name, x in column.items()}),
    }
    code = re.sub(r"query\(weights\)\{t:(\d)\}", r"query[\1]", expression)
    return eval(code, {"__builtins__": {}}, found)


ENGINES = {"opensearch": opensearch, "elasticsearch": elasticsearch, "qdrant": qdrant, "vespa": vespa}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mixture", [None, Mixture(0.0, STATIC), Mixture(1.0, STATIC, challenger=STATIC)])
def test_a_file_ranks_as_the_static_weights_on_the_same_terms(form, mixture):
    engine, terms = form.split(":")
    text = write_hybrid(hybrid_weights(policy_of(terms, mixture), form))
    for seed in range(3):
        scores = scores_of_hits(seed)
        own = np.nan_to_num(scores) if terms == "raw" else normalize_hits(scores, np.array([0, len(scores)]), terms)
        np.testing.assert_allclose(ENGINES[engine](text, scores), own @ np.float64(WEIGHTS), rtol=1e-4, atol=1e-8)


def test_weights_of_a_policy_are_those_of_unknown_queries_and_those_of_a_baseline_sum_to_one():
    hybrid = hybrid_weights(policy_of(), "opensearch:min_max")
    assert hybrid.per_query and hybrid.weights == pytest.approx(WEIGHTS, abs=1e-6)
    hybrid = hybrid_weights(policy_of("rrf", Mixture(0.0, replace(STATIC, weights=(2.0, 1.0, 1.0)))), "qdrant:rrf")
    assert not hybrid.per_query and hybrid.weights == (0.5, 0.25, 0.25) and hybrid.rank_constant == 60


REFUSED = {
    "qdrant has no minimum": ("qdrant:min_max", {}, "no minimum of a list, so train on rrf or raw"),
    "no such engine": (
        "solr:rrf",
        {},
        "engine is 'solr:rrf'; expected vespa, opensearch, or one of opensearch:min_max",
    ),
    "raw in opensearch": ("opensearch:raw", {}, "engine is 'opensearch:raw'"),
    "z-scores": ("vespa:min_max", {"transform": "zscore"}, "transform zscore; an engine adds up weight · term: train"),
    "predictions": (
        "vespa:min_max",
        {"context_only": False},
        "nobody has before the search; expected train --policy.con",
    ),
    "a mixture": ("vespa:min_max", {"mixture": Mixture(0.5, STATIC)}, "mixes two.*--cross-fit.mixture-weights 1"),
    "harm": (
        "vespa:min_max",
        {"mixture": Mixture(0.0, replace(STATIC, weights=(1.0, -1.0, 1.0)))},
        "a search engine needs weights of at least 0",
    ),
    "a map": (
        "vespa:min_max",
        {"mixture": Mixture(0.0, replace(STATIC, calibration=(((0.0, 1.0), (0.0, 1.0)),) * 3))},
        "'best static' is served, of predictions that are mapped first; train --no-correction.enabled",
    ),
    "corrected": ("vespa:min_max", {"mixture": Mixture(0.0, replace(STATIC, corrected=True))}, "are mapped first"),
    "raw terms": (
        "vespa:min_max",
        {"terms": "raw"},
        r"'lexical' went from 0 to 31.25; expected min_max terms, up to 1, as",
    ),
    "min_max terms": ("vespa:rrf", {}, "have the rank constant 0; expected 1 to 10,000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_cannot_express_is_refused_with_the_cure(name):
    form, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        hybrid_weights(policy_of(**options), form)


def test_a_scale_that_maps_the_terms_is_refused():
    policy = policy_of()
    policy.scales["vector"] = replace(policy.scales["vector"], kind="logit")
    with pytest.raises(ValueError, match="scale of 'vector' is logit, which maps it"):
        hybrid_weights(policy, "vespa:min_max")


def test_terms_of_hits():
    scores = np.array([[7.0, 0.2], [3.0, NONE], [NONE, 0.1], [5.0, 0.2], [2.0, NONE]])
    terms = normalize_hits(scores, np.array([0, 4, 5]))
    np.testing.assert_allclose(terms, [[1, 1], [0, 0], [0, 0], [0.5, 1], [1, 0]])  # one hit: 1
    terms = normalize_hits(scores, np.array([0, 4, 5]), "rrf", 9)
    np.testing.assert_allclose(terms, [[0.1, 0.1], [1 / 12, 0], [0, 1 / 12], [1 / 11, 1 / 11], [0.1, 0]], rtol=1e-6)
    assert normalize_hits(np.empty((0, 2)), np.array([0])).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.array([0, 3])), r"scores has shape \(3,\)"),
        ((np.zeros((3, 2)), np.array([0, 2])), r"offsets end at \[2\]; expected \[M, T\] and 0 to M"),
        ((np.zeros((3, 2)), np.array([0, 3]), "z_score"), "terms is 'z_score'"),
        ((np.zeros((3, 2)), np.array([0, 3]), "rrf", 0), "rank_constant 0; expected min_max or rrf, and at least 1"),
    ],
)
def test_wrong_hits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        normalize_hits(*arguments)


def test_command(tmp_path, capsys):
    policy_of("rrf").save(tmp_path / "policy")
    common = ["export", "--policy", str(tmp_path / "policy"), "--out", str(tmp_path / "out")]
    assert cli.main([*common, "--engine", "elasticsearch:rrf"]) == 0
    assert "lexical 0.500, vector 0.200, fresh 0.300" in (printed := capsys.readouterr().out)
    assert "static, those of a query: POST /v1/weights; not run against an engine" in printed
    assert json.loads((tmp_path / "out").read_text())["retriever"]["rrf"]["rank_constant"] == 60
    for options, message in (
        (["--engine", "qdrant:min_max"], "no minimum of a list"),
        (["--engine", "qdrant:rrf", "--k", "5"], "k is 5; expected it with another --engine alone"),
        (["--engine", "vespa", "--onnx"], "engine is vespa; expected it with --policy, without --onnx"),
        (["--log", "a.parquet"], "expected it with --engine vespa or opensearch alone"),
    ):
        assert cli.main([*common, *options]) == 2
        assert message in capsys.readouterr().err
