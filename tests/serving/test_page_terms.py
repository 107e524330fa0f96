"""Pages by page terms: the C++ ranker against the float64 search of the parts of Python's scores."""

import ctypes
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade import _core, reference
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy, Mixture, PageTerms, PolicySpec
from pygrade.serving import export
from pygrade.serving.ranker import BlendedRanker
from tests.corrections import FEATURES, TASKS, random_correction
from tests.serving.test_correction import CORRECTED as LOGARITHMIC
from tests.serving.test_correction import EV
from tests.serving.test_embedding import CRanker

K, COUNT, DIMENSION = 8, 30, 5
CATEGORIES = ("shoes", "bags", "hats")
THROUGH = np.array([1.0, 1.0, 1.0, 1.0, 0.0])  # tasks that need the click; spend is a root of its own
CORRECTED = replace(LOGARITHMIC, logarithm=False)
IDENTITY = {"corrected": True, "transform": "identity", "value_tasks": ("order",)}
POLICIES = {
    "expected value": ({}, Mixture(0.0, CORRECTED)),
    "challenger": ({}, Mixture(0.6, EV, challenger=CORRECTED)),
    "challenger alone": ({}, Mixture(1.0, EV, challenger=CORRECTED)),
    "network": (IDENTITY, None),
    "network, mixed": (IDENTITY, Mixture(0.5, CORRECTED)),
    "raw network, mixed": ({}, Mixture(0.7, CORRECTED)),
}
WITHOUT_ROOT = {
    "logarithm": ({}, Mixture(0.0, LOGARITHMIC)),
    "uncorrected": ({}, Mixture(1.0, CORRECTED, challenger=EV)),
    "raw network": ({"transform": "identity"}, None),
    "z-scores": (IDENTITY | {"transform": "zscore"}, None),
}
PAIRS = np.random.default_rng(1).uniform(-1.2, 0.6, (3, 3))
TERMS = PageTerms("click", [1.0, 0.8, 0.5, 0.4], CATEGORIES, PAIRS, cosine=-0.7, beam=1, dimension=DIMENSION)


def make_policy(name="expected value", **terms):
    options, mixture = (POLICIES | WITHOUT_ROOT)[name]
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(**{"hidden": (8,), **options})), seed=3)
    policy.mixture = mixture
    policy.correction = random_correction(6, page_terms=replace(TERMS, **terms))
    return policy


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    predictions = (rng.uniform(0.05, 0.9, (3, COUNT, 5)) ** 2).astype(np.float32)
    predictions[..., 1:4] *= predictions[..., :1]
    predictions[0, 3, 1] = np.nan
    names = np.array([*CATEGORIES, "socks", "", None], object)
    embeddings = rng.normal(size=(3, COUNT, DIMENSION)).astype(np.float32)
    embeddings[1, :4] = 0.0
    embeddings[2, 5, 1] = np.inf
    return {
        "context": rng.normal(size=(3, 3)).astype(np.float32),
        "predictions": predictions,
        "item_values": rng.uniform(1, 9, (3, COUNT)).astype(np.float32),
        "categories": names[rng.integers(0, 6, (3, COUNT))],
        "embeddings": embeddings,
    }


def parts_of(policy, given):
    """The scores of the policy, [B, N] float64, and what of them needs the click; NaN of missing predictions."""
    mixture, shape = policy.mixture, given["predictions"].shape[:2]
    whole, root = np.full(shape, np.nan), np.full(shape, np.nan)
    for b in range(shape[0]):
        known = np.isfinite(given["predictions"][b]).all(1)
        own = {name: given[name][b : b + 1] for name in ("context", "item_values", "predictions")}
        own |= {name: own[name][:, known] for name in ("item_values", "predictions")}
        corrected = policy.correct(own["context"], own["predictions"])[0].astype(float)
        amounts = corrected * np.where(np.array(TASKS) == "order", own["item_values"][0, :, None], 1.0)
        weights = policy.serve(policy.request_inputs(own["context"], own["predictions"])).numpy()[0]
        whole[b, known] = policy.scores(**own)[0]
        shares = []  # of the sources with a root part, and their weights
        if mixture is None or (mixture.uses_network and policy.config.transform == "identity"):
            shares.append((1.0 if mixture is None else mixture.mixture_weight, weights))
        for entry, share in (
            ()
            if mixture is None
            else ((mixture.challenger, mixture.mixture_weight), (mixture.baseline, 1 - mixture.mixture_weight))
        ):
            if entry is not None and entry.corrected and share > 0:
                shares.append((share, np.array(entry.weights)))
        mixed = mixture is not None and mixture.mixture_weight < 1
        root[b, known] = 0.0
        for share, values in shares:
            deviation = (amounts @ values).std() + 1e-6 if mixed else 1.0
            root[b, known] += (share if mixed else 1.0) * (amounts * THROUGH) @ values / deviation
    return whole, root


def search(policy, given, k=K, **rules):
    terms = policy.correction.page_terms
    whole, root = map(torch.from_numpy, parts_of(policy, given))
    vectors = given["embeddings"].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    codes = terms.codes(given["categories"]) if "categories" in given else None
    attention = torch.tensor([*terms.attention, *[terms.attention[-1]] * k][:k]).double()
    return reference.search_page(
        whole - root,
        root,
        k,
        attention,
        attention,
        categories=None if codes is None else torch.from_numpy(codes),
        pairs=None if codes is None else torch.from_numpy(terms.pairs.astype(float)),
        embeddings=torch.from_numpy(np.nan_to_num(units, nan=0.0, posinf=0.0)),
        cosine=terms.cosine,
        beam=terms.beam,
        **rules,
    )


@pytest.mark.parametrize("beam", [1, 8])
@pytest.mark.parametrize("name", POLICIES)
def test_a_page_is_the_search_of_the_parts_of_its_scores(requests, name, beam):
    policy = make_policy(name, beam=beam)
    page = BlendedRanker(policy).rank(k=K, **requests)
    values, indices = search(policy, requests)
    np.testing.assert_array_equal(page.indices, indices.numpy())
    np.testing.assert_allclose(page.values, values.numpy(), rtol=1e-4, atol=1e-4)
    assert page.searched.all()
    by_score = BlendedRanker(policy).rank(k=K, page_terms=False, **requests)
    assert (by_score.indices != page.indices).any(1).all() and not by_score.searched.any()


@pytest.mark.parametrize("name", POLICIES)
def test_rules_hold_on_a_searched_page(requests, name):
    rng = np.random.default_rng(2)
    groups = rng.integers(-1, 5, (3, COUNT, 1)).astype(np.int32)
    rules = {
        "mask": rng.uniform(size=(3, COUNT)) < 0.8,
        "boost_mul": rng.uniform(0.5, 2, (3, COUNT)).astype(np.float32),
        "boost_add": rng.normal(size=(3, COUNT)).astype(np.float32) * 0.1,
        "groups": groups,
        "caps": np.array([2], np.int32),
    }
    policy = make_policy(name)
    page = BlendedRanker(policy).rank(k=K, **requests, **rules)
    _, indices = search(policy, requests, **{name: torch.from_numpy(rule) for name, rule in rules.items()})
    np.testing.assert_array_equal(page.indices, indices.numpy())


@pytest.mark.parametrize("name", [*WITHOUT_ROOT, "expected value"])
def test_a_page_is_sorted_where_no_term_counts(requests, name):
    policy = make_policy(name)
    known = {name: value for name, value in requests.items() if name not in ("categories", "embeddings")}
    plain = BlendedRanker(policy).rank(k=K, **known)
    for given in [requests] if name in WITHOUT_ROOT else [requests | {"page_terms": False}, known]:
        page = BlendedRanker(policy).rank(k=K, **given)
        assert page.values.tobytes() == plain.values.tobytes() and np.array_equal(page.indices, plain.indices)
        assert not page.searched.any() and not page.effects.any() and page.explain_move(0, 0) == ""


def test_drawn_weights_make_a_sorted_page(requests):
    ranker = BlendedRanker(make_policy("network"))
    page = ranker.rank(k=K, explore=True, seed=5, **requests)
    plain = ranker.rank(k=K, explore=True, seed=5, page_terms=False, **requests)
    assert page.explored.all() and not page.searched.any()
    np.testing.assert_array_equal(page.indices, plain.indices)


def test_unknown_categories_and_embeddings_add_no_term(requests):
    policy = make_policy()
    unknown = requests | {"categories": np.full((3, COUNT), "socks"), "embeddings": np.zeros((3, COUNT, DIMENSION))}
    page = BlendedRanker(policy).rank(k=K, **unknown)
    assert page.searched.all() and not page.effects.any()
    np.testing.assert_array_equal(page.indices, BlendedRanker(policy).rank(k=K, page_terms=False, **requests).indices)


def test_values_count_in_both_parts(requests):
    policy, values = make_policy(), {"spend": 0.0, "order": 60.0}
    scaled = replace(CORRECTED, weights=(1.0, 3.0, 60.0, 0.5, 0.0))
    other = make_policy()
    other.mixture = Mixture(1.0, EV, challenger=scaled)
    page = BlendedRanker(policy).rank(k=K, values=values, **requests)
    np.testing.assert_array_equal(page.indices, BlendedRanker(other).rank(k=K, **requests).indices)


def test_a_page_explains_what_moved_an_item():
    terms = PageTerms("click", [1.0], ("bags", "shoes"), [[-1.0, 0.0], [0.0, 0.0]])
    policy = FusionPolicy(PolicySpec(("click",), (), PolicyConfig(context_only=False)))
    policy.correction = random_correction(
        tasks=("click",),
        features=(),
        items=(),
        indicators=(),
        parents=(-1,),
        amounts=(False,),
        scale=0.0,
        page_terms=terms,
    )
    policy.mixture = Mixture(0.0, replace(CORRECTED, weights=(1.0,), value_tasks=()))
    clicks = np.array([[[0.5], [0.45], [0.4], [0.3]]], np.float32)
    given = {"categories": [["bags", "bags", "shoes", "bags"]]}
    page = BlendedRanker(policy).rank(None, clicks, 4, **given)
    assert page.indices.tolist() == [[0, 2, 1, 3]]
    np.testing.assert_allclose(page.effects, [[0.0, 0.0, -1.0, -2.0]], rtol=1e-6)
    assert [page.explain_move(0, slot) for slot in range(4)] == [
        "",
        "moved up 1",
        "moved down 1: 1 like it above, click × 0.37",
        "2 like it above, click × 0.14",
    ]
    assert page.explain(0, None).endswith("; page terms moved 2 of 4 items")
    short = BlendedRanker(policy).rank(None, clicks, 2, **given)
    assert short.explain_move(0, 1) == "not on the page by its score"
    assert short.describe(0, "")["items"][1]["move"] == "not on the page by its score"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["bags"]}, "categories"),
        ({"categories": np.zeros((3, COUNT), int)}, "categories"),
        ({"embeddings": np.zeros((3, COUNT, 4))}, "embeddings has"),
        ({"embeddings": np.zeros((3, COUNT - 1, 5))}, "embeddings has"),
        ({"embeddings": "much"}, "embeddings is no array"),
    ],
)
def test_wrong_arguments_are_named(requests, change, message):
    with pytest.raises(ValueError, match=message):
        BlendedRanker(make_policy()).rank(k=K, **requests | change)


def test_a_policy_without_page_terms_ignores_what_they_read(requests):
    policy = make_policy()
    policy.correction = replace(policy.correction, page_terms=None)
    page = BlendedRanker(policy).rank(k=K, **requests)
    assert not page.searched.any()


@pytest.mark.parametrize("name", ["expected value", "network, mixed"])
def test_the_c_abi_searches_the_same_page(requests, tmp_path, name):
    policy = make_policy(name, beam=8)
    policy.save(tmp_path)
    ranker, pages = (
        CRanker(tmp_path),
        [BlendedRanker(policy).rank(k=K, page_terms=terms, **requests) for terms in (True, False)],
    )
    for b in range(3):
        names = [None if name is None else name.encode() for name in requests["categories"][b]]
        for page, flags in zip(pages, (0, 4), strict=True):
            _, result, arrays = ranker.rank(
                requests["context"][b],
                requests["predictions"][b],
                K,
                "",
                item_values=requests["item_values"][b],
                categories=ctypes.cast((ctypes.c_char_p * COUNT)(*names), ctypes.c_void_p),
                embeddings=np.ascontiguousarray(requests["embeddings"][b]),
                embedding_size=DIMENSION,
                flags=flags,
            )
            assert result.searched == int(flags == 0) == int(page.searched[b])
            assert arrays["indices"].tobytes() == page.indices[b].tobytes()
            assert arrays["values"].tobytes() == page.values[b].tobytes()


def body_of(given, b=0, **changes):
    rows = np.isfinite(given["predictions"][b]).all(1)
    predictions = given["predictions"][b][rows].astype(float)
    body = {
        "user": 1,
        "k": K,
        "items": list(range(100, 100 + rows.sum())),
        "predictions": dict(zip(TASKS, predictions.T.tolist(), strict=True)),
        "context": dict(zip(FEATURES, given["context"][b].astype(float).tolist(), strict=True)),
        "item_values": given["item_values"][b][rows].astype(float).tolist(),
        "categories": [name or None for name in given["categories"][b][rows]],
        "embeddings": given["embeddings"][b][rows].astype(float).tolist(),
    }
    return body | changes


def answers(policy, folder, *bodies, path="/v1/rank", **options):
    policy.save(folder / "policy")
    service = _core.Service(str(folder), json.dumps(options))
    return [json.loads(service.handle("POST", path, json.dumps(body).encode())[2]) for body in bodies]


def test_the_service_serves_and_explains_the_page(requests, tmp_path):
    policy, body = make_policy(), body_of(requests)
    (served, plain) = answers(policy, tmp_path, body, body | {"page_terms": False})
    known = {name: value for name, value in requests.items() if name != "context"}
    rows = np.isfinite(requests["predictions"][0]).all(1)
    one = {name: np.asarray(value)[:1][:, rows] for name, value in known.items()}
    page = BlendedRanker(policy).rank(requests["context"][:1], k=K, **one)
    assert served["items"] == (100 + page.indices[0]).tolist() and served["searched"] and not plain["searched"]
    np.testing.assert_array_equal(np.float32(served["scores"]), page.values[0])
    assert plain["scores"] == sorted(plain["scores"], reverse=True)
    (explained,) = answers(policy, tmp_path, body, path="/v1/explain")
    assert [entry["page"]["why"] for entry in explained["explanation"]] == [page.explain_move(0, i) for i in range(K)]
    np.testing.assert_allclose(
        [entry["page"]["effect"] for entry in explained["explanation"]], page.effects[0], rtol=1e-5
    )
    order = plain["items"]
    for entry in explained["explanation"]:
        place = entry["page"]["sorted_position"]
        assert (order[place] if place >= 0 else None) == (entry["item"] if entry["item"] in order else None)


def test_pins_and_demotions_of_the_service_hold_on_a_searched_page(requests, tmp_path):
    policy, body = make_policy(), body_of(requests)
    (plain,) = answers(policy, tmp_path, body)
    first, last = plain["items"][0], next(item for item in body["items"] if item not in plain["items"])
    rules = {"pins": [{"item": last, "position": 2}], "demote": [first]}
    (page, all_of_it) = answers(
        policy, tmp_path, body | {"rules": rules}, body | {"rules": rules, "k": len(body["items"])}
    )
    assert page["searched"] and page["items"][2] == last and page["pinned"] == [last]
    assert first not in page["items"] and page["demoted"] == []
    assert all_of_it["items"][-1] == first and all_of_it["demoted"] == [first]
    assert sorted(all_of_it["items"]) == body["items"]
    codes = policy.correction.page_terms.codes(np.array(body["categories"], object))
    pin = body["items"].index(last)  # it counts as standing above
    terms = replace(policy.correction.page_terms, cosine=0.0, dimension=0, pairs=np.eye(3) * -8)
    strong = make_policy(cosine=0.0, dimension=0, pairs=np.eye(3) * -8)
    assert terms.categories == strong.correction.page_terms.categories
    (below,) = answers(strong, tmp_path, body | {"rules": {"pins": [{"item": last, "position": 0}]}})
    alike = [i for i, item in enumerate(below["items"][1:4]) if codes[body["items"].index(item)] == codes[pin] >= 0]
    assert below["items"][0] == last and not alike


@pytest.mark.parametrize(
    ("change", "argument", "message"),
    [
        ({"categories": ["shoes"]}, "categories", "one value for each"),
        ({"categories": [1]}, "categories[0]", "a text"),
        ({"embeddings": [[1.0]]}, "embeddings", "one value for each"),
        ({"embeddings": [[1.0], [1.0, 2.0]]}, "embeddings", "vectors of one length"),
        ({"embeddings": [[0.0] * 300]}, "embeddings", "at most 256"),
        ({"embeddings": [[1.0, 2.0]] * 29}, "embeddings", "expected 29 × 5"),
        ({"embeddings": "much"}, "embeddings", "a list"),
        ({"page_terms": 0}, "page_terms", "true or false"),
        ({"category": ["shoes"]}, "category", "unknown"),
    ],
)
def test_the_service_names_what_is_wrong(requests, tmp_path, change, argument, message):
    (answer,) = answers(make_policy(), tmp_path, body_of(requests, **change), strict=True)
    assert answer["error"]["argument"].startswith(argument) and message in answer["error"]["message"]


def test_null_vectors_and_names_are_unknown(requests, tmp_path):
    body = body_of(requests)
    nothing = {"categories": [None] * 29, "embeddings": [None] * 29}
    some = {"embeddings": [None, None, *body["embeddings"][2:]]}
    zeros = {"embeddings": [[0.0] * DIMENSION] * 2 + body["embeddings"][2:]}
    first, second, third = answers(make_policy(), tmp_path, body | nothing, body | some, body | zeros)
    assert first["searched"] and second["items"] == third["items"]
    assert first["scores"] == sorted(first["scores"], reverse=True)


def test_the_logs_have_category_and_embedding_again(requests, tmp_path):
    policy = make_policy()
    page = BlendedRanker(policy).rank(k=K, item_id=np.arange(3 * COUNT).reshape(3, COUNT), **requests)
    rows = page.log_rows(timestamp=np.array([1_700_000_000_000] * 3))
    write_logs(rows, tmp_path / "logs")
    logs = read_logs(tmp_path / "logs")
    kept = np.isfinite(requests["predictions"].reshape(-1, 5)).all(1)
    names = [name or "" for name in requests["categories"].reshape(-1)[kept]]
    assert logs.category.tolist() == names
    again = BlendedRanker(policy).rank_log(logs, K)
    np.testing.assert_array_equal(again.searched, True)
    np.testing.assert_allclose(again.values, page.values, rtol=1e-6)
    exposures = tmp_path / "exposures"
    body = body_of(requests)
    answers(policy, tmp_path, body, exposures=str(exposures), exposure_share=1.0)
    assert read_logs(exposures).category.tolist() == [name or "" for name in body["categories"]]


def test_an_export_says_that_it_leaves_page_terms_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export, "_write", lambda page, ports, outputs, record, out, onnx: record)
    with caplog.at_level(logging.WARNING, "pygrade"):
        record = export.export_policy(make_policy(), tmp_path / "policy.pt2")
    assert "order of the scores" in record["page_terms"] and "left out" in caplog.text
