"""The correction: the C++ core against its float64 specification, and properties of both."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrade import reference
from pygrade.policy import Correction
from pygrade.policy.correction import FORMS, ItemEffects
from pygrade.reference.tolerances import assert_close
from tests.corrections import AMOUNTS, FEATURES, PARENTS, TASKS, random_correction, random_requests
from tests.refusals import refuses

SIZES = (1, 40, 500, 7, 33)


def expected(correction: Correction, requests: dict[str, np.ndarray]) -> torch.Tensor:
    """The reference, request by request, of float64."""
    options = {
        f.name: torch.from_numpy(value.copy()).double() if isinstance(value, np.ndarray) else value
        for f in fields(correction)
        if (value := getattr(correction, f.name)) is not None and f.name not in ("tasks", "features", "items")
    }
    parts = []
    context, items = requests.get("context"), requests.get("items")
    for r, (a, b) in enumerate(zip(requests["offsets"], requests["offsets"][1:], strict=False)):
        x = None if context is None else torch.from_numpy(context[r]).double()
        i = None if items is None else torch.from_numpy(items[a:b]).double()
        parts.append(reference.correct(x, torch.from_numpy(requests["predictions"][a:b]).double(), i, **options))
    return torch.cat(parts)


def applied(correction: Correction, requests: dict[str, np.ndarray]) -> np.ndarray:
    return correction.apply(*(requests.get(name) for name in ("context", "predictions", "offsets", "items")))


CASES = {
    "plain": {},
    "without items": {"items": ()},
    "without context": {"features": (), "indicators": ()},
    "without indicators": {"indicators": ()},
    "one task": {"tasks": ("only",), "items": ()},
    "roots": {"parents": (-1,) * 5},
    "trees": {"trees": 40},
    "a chain backwards": {"parents": (1, 2, 3, -1, -1)},
    "many": {
        "tasks": tuple(f"t{i}" for i in range(12)),
        "features": tuple(f"f{i}" for i in range(20)),
        "items": tuple(f"i{i}" for i in range(9)),
        "parents": (-1, 0, 1, -1, 3, 3, 4, -1, 0, 0, -1, -1),
        "amounts": (False,) * 7 + (True,) + (False,) * 4,
        "scale": 0.05,
        "trees": 11,
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_the_core_agrees_with_the_reference(name, form):
    correction = random_correction(3, form=form, **CASES[name])
    requests = random_requests(correction, SIZES)
    found = applied(correction, requests)
    assert_close(torch.from_numpy(found), expected(correction, requests))
    assert not np.allclose(found, requests["predictions"], rtol=0.05)
    for missing in ("context", "items"):
        some = {key: value for key, value in requests.items() if key != missing}
        assert_close(torch.from_numpy(applied(correction, some)), expected(correction, some))


@pytest.mark.parametrize("form", FORMS)
def test_the_core_agrees_with_the_reference_at_the_ends(form):
    correction = random_correction(4, 0.6, form=form)
    ends = np.array([0.0, 1e-9, 1e-6, 0.5, 1.0 - 2**-20, 1.0, 1.5, -0.0], np.float32)
    rows = np.stack(np.meshgrid(*[ends] * 3), -1).reshape(-1, 3)
    predictions = np.concatenate([rows, rows[::-1, :1], 1e3 * rows[:, 1:2]], 1)
    requests = random_requests(correction, (256, 256), 5) | {"predictions": predictions}
    requests["context"] = np.array([[1e30, -1e30, np.inf], [np.nan, 3.0, -np.inf]], np.float32)
    requests["items"][::7] = np.inf
    found = applied(correction, requests)
    assert_close(torch.from_numpy(found), expected(correction, requests))
    probabilities = found[:, ~np.array(AMOUNTS)]
    assert (probabilities >= 0).all() and (probabilities <= 1).all() and (found[:, 4] > 1).any()
    for task, parent in enumerate(PARENTS):
        assert parent < 0 or (found[:, task] <= found[:, parent]).all()


def test_trees_read_the_same_inputs_beside_more_item_columns():
    correction, requests = random_correction(7, trees=30), random_requests(random_correction(7), SIZES)
    found = applied(correction, requests)
    assert (found != applied(random_correction(7), requests)).any(1).all()
    more = correction.with_items(("age", "price"))
    assert more.items == ("price", "size", "age") and more.trees == 30
    items = np.concatenate([requests["items"], np.ones((len(found), 1), np.float32)], 1)
    np.testing.assert_array_equal(applied(more, requests | {"items": items}), found)
    effects = more.with_item_effects(ItemEffects(np.zeros(0, np.uint64), np.zeros((0, 5), np.float32)))
    items = np.concatenate([items, np.zeros((len(found), 5), np.float32)], 1)
    np.testing.assert_array_equal(applied(effects, requests | {"items": items}), found)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tree_inputs", 33, r"the input of tree 1, node 2 is 33.*expected the place of an input, below 26"),
        ("tree_inputs", 0.5, "the input of tree 1, node 2 is 0.5"),
        ("tree_masks", 0, "the mask of tree 1, node 2 is 0.*expected a number from 1 to 255"),
        ("tree_masks", 256, "the mask of tree 1, node 2 is 256"),
        ("tree_thresholds", np.inf, "tree_thresholds holds NaN or infinity"),
    ],
)
def test_wrong_trees_are_named(field, value, message):
    correction = random_correction(trees=3)
    wrong = getattr(correction, field).copy()
    wrong[1, 2] = value
    refuses(ValueError, message, replace, correction, **{field: wrong})


def test_without_coefficients_predictions_stay():
    correction = random_correction(scale=0.0)
    requests = random_requests(correction, SIZES)
    ratio = requests["predictions"][:, 1:4] / requests["predictions"][:, [0, 1, 0]]
    usual = ((ratio > 1e-4) & (ratio < 0.95)).all(1) & (requests["predictions"][:, 0] > 1e-3)
    assert usual.mean() > 0.5
    found = applied(correction, requests)[usual]
    np.testing.assert_allclose(found, requests["predictions"][usual], rtol=2e-3, atol=1e-7)  # ratios are of p + 1e-7


def test_a_level_alone_moves_odds():
    weights = np.zeros((5, 11 + 3, 8), np.float32)[:, : random_correction().weights.shape[1]]
    weights[1, 0, 0] = np.log(2.0)
    correction = random_correction(weights=weights)
    requests = random_requests(correction, (50,))
    found, given = applied(correction, requests).astype(float), requests["predictions"].astype(float)
    before = np.clip(given[:, 1] / (given[:, 0] + 1e-7), 1e-4, 0.95)
    after = found[:, 1] / found[:, 0]
    np.testing.assert_allclose(after / (1 - after), 2 * before / (1 - before), rtol=1e-3)
    np.testing.assert_allclose(found[:, 0], given[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 4], given[:, 4], rtol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 70), st.sampled_from(FORMS))
def test_permuting_candidates_permutes_the_result(seed, count, form):
    correction = random_correction(seed, form=form)
    requests = random_requests(correction, (count,), seed)
    order = np.random.default_rng(seed).permutation(count)
    moved = requests | {name: requests[name][order] for name in ("predictions", "items")}
    found, other = applied(correction, requests)[order], applied(correction, moved)
    assert_close(torch.from_numpy(other), torch.from_numpy(found))


def test_requests_do_not_see_each_other_and_threads_change_nothing(monkeypatch):
    correction = random_correction(7)
    requests = random_requests(correction, SIZES * 20, 7)
    together, offsets = applied(correction, requests), requests["offsets"]
    for r in (0, 1, 3, 99):
        part = slice(offsets[r], offsets[r + 1])
        alone = correction.apply(
            requests["context"][r : r + 1],
            requests["predictions"][part],
            np.array([0, part.stop - part.start]),
            requests["items"][part],
        )
        assert alone.tobytes() == together[part].tobytes()
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert applied(correction, requests).tobytes() == together.tobytes()


def test_what_is_unknown_counts_as_the_specification_says():
    correction = random_correction(1)
    requests = random_requests(correction, (20, 20), 2)
    unknown = np.full_like(requests["context"], np.nan)
    none = applied(correction, requests | {"context": None})
    assert applied(correction, requests | {"context": unknown}).tobytes() == none.tobytes()
    gaps = unknown.copy()
    gaps[:, 1] = 0.5  # the indicators of the others count
    filled = np.tile(np.array([correction.median[0], 0.5, correction.median[2]], np.float32), (2, 1))
    told, hidden = (applied(correction, requests | {"context": context}) for context in (gaps, filled))
    assert not np.allclose(told, hidden)
    blind = replace(correction, weights=np.where(np.isin(np.arange(13), (4, 5))[None, :, None], 0, correction.weights))
    told, hidden = (applied(blind, requests | {"context": context}) for context in (gaps, filled))
    assert not np.allclose(told, applied(correction, requests | {"context": gaps}))
    np.testing.assert_array_equal(told, hidden)


def test_equal_corrections_are_equal_and_keep_their_arrays():
    one, two = random_correction(), random_correction()
    assert one == two and hash(one) == hash(two) and one != random_correction(1) and one != "one"
    assert one != replace(one, l_mean=one.l_mean + np.float32(1e-6)) and one != replace(one, parents=(-1,) * 5)
    with pytest.raises(ValueError, match="read-only"):
        one.weights[0] = 1.0
    assert replace(one, map_mean=one.map_mean + 1) == one  # without a form maps do not count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": (*TASKS[:4], "click")}, "tasks .* distinct"),
        ({"items": ("price", "price")}, "items .* distinct"),
        ({"parents": (-1, 0)}, "parents .* 2 entries; expected 5"),
        ({"parents": (-1, 0, 5, 0, -1)}, "the correction is wrong: the parent of task 2 is 5, no task"),
        ({"amounts": (True,)}, "amounts .* 1 entries"),
        ({"form": "other"}, "form is 'other'"),
        ({"median": np.zeros(2)}, r"median .* shape \(2,\); expected \(3,\)"),
        ({"weights": np.zeros((5, 13, 7))}, r"weights .* expected \(5, 13, 8\)"),
        ({"l_mean": np.full(7, np.nan)}, "l_mean holds NaN or infinity"),
    ],
    ids=str,
)
def test_wrong_fields_are_named(change, message):
    good = random_correction()
    with pytest.raises(ValueError, match=message):
        replace(good, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((9, 4))}, "predictions has shape"),
        ({"context": np.zeros((2, 2))}, r"context has shape \(2, 2\); expected \(2, 3\)"),
        ({"items": np.zeros((9, 1))}, r"items has shape \(9, 1\); expected \(9, 2\)"),
        ({"offsets": np.array([0, 4, 8])}, "offsets"),
        ({"predictions": np.full((9, 5), np.nan)}, "predictions is nan"),
    ],
)
def test_wrong_requests_are_named(change, message):
    correction = random_correction()
    with pytest.raises(ValueError, match=message):
        applied(correction, random_requests(correction, (4, 5)) | change)


def test_log_odds_of_a_child_are_given_its_parent():
    p = torch.tensor([[0.5, 0.1, 0.09, 0.5, 3.0], [0.0, 0.2, 0.3, 1e-9, 0.0]], dtype=torch.float64)
    odds = reference.conditional_log_odds(p, PARENTS, AMOUNTS)
    ratio = torch.tensor([[0.2, 0.9, 0.95], [0.95, 0.95, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(odds[:, 1:4], torch.logit(ratio), rtol=1e-5, atol=1e-5)
    assert odds[0, 0] == 0.0 and odds[0, 4] == np.log(3.0) and odds[1, 4] == np.log(1e-6)
    assert len(FEATURES) == 3
