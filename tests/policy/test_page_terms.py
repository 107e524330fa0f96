"""Page terms: their checks, and their way through the policy's files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pygrade.policy import FusionPolicy, PageTerms, PolicySpec
from pygrade.policy.file import encode
from tests.corrections import FEATURES, TASKS, random_correction

TERMS = PageTerms(
    "click", [1.0, 0.7, 0.4], ("shoes", "bags"), [[-0.5, 0.25], [0.0, -1.0]], cosine=-0.3, beam=8, dimension=4
)
WRONG = {
    "categories": [("shoes", "shoes"), ("shoes", "")],
    "attention": [[], [0.5, 0.4], [1.0, -0.1], [1.0, np.nan], [[1.0]]],
    "pairs": [np.zeros((2, 3)), [[9.0, 0.0], [0.0, 0.0]], [[np.nan, 0.0], [0.0, 0.0]]],
    "cosine": [np.inf, -9.0, 0.0],
    "beam": [0, 2],
    "dimension": [0, -1, 257],
}


def policy_with(terms: PageTerms | None) -> FusionPolicy:
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES))
    policy.correction = random_correction(page_terms=terms)
    return policy


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_field_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}|and {name}"):
        replace(TERMS, **{name: value})


@pytest.mark.parametrize("root", ["cart", "spend", "unknown"])
def test_the_root_is_a_probability_without_a_parent(root):
    with pytest.raises(ValueError, match=r"root of the page terms is '\w+'"):
        random_correction(page_terms=replace(TERMS, root=root))


@pytest.mark.parametrize("terms", [TERMS, replace(TERMS, categories=(), pairs=np.zeros((0, 0))), None])
def test_a_saved_policy_has_them_again(tmp_path, terms):
    policy = policy_with(terms)
    policy.save(tmp_path)
    loaded = FusionPolicy.load(tmp_path)
    assert loaded.correction.page_terms == terms and loaded.correction == policy.correction
    assert loaded.version == policy.version
    assert (policy.version == policy_with(None).version) == (terms is None)


def test_codes_are_places_of_names():
    np.testing.assert_array_equal(TERMS.codes(np.array([["bags", "hats"], ["shoes", ""]])), [[1, -1], [0, -1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "'page_terms' has \"unknown\""),
        ({"root": "order"}, "root of the page terms"),
        ({"beam": 3}, "beam must be"),
        ({"slots": 2}, "attention"),
        ({"dimension": 0}, "cosine must be"),
        ({"categories": ["shoes", "shoes"]}, "distinct"),
        ({"cosine": "much"}, "cosine"),
    ],
)
def test_the_core_refuses_what_it_does_not_know(change, message):
    from pygrade import _core

    policy = policy_with(TERMS)
    record = json.loads(policy.artifact()[0])
    record["served"]["correction"]["page_terms"] |= change
    with pytest.raises(ValueError, match=message):
        _core.Policy(*encode(record, policy._tensors()))
