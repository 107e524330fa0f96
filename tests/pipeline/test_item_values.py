"""Prices of the candidates in `Pipeline.rank`: a mapping, a function, or an array, for a policy that needs them."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.policy import Baseline, Mixture
from pygrade.serving.pipeline import Pipeline, load_models, open_artifact, store_address
from pygrade.serving.ranker import BlendedRanker
from pygrade.stores import open_store
from tests.pipeline.world import copy

NOW = 1_700_003_000_000
ITEMS = np.array([5, 9, 2, 31, 14, 77])
PRICES = np.array([3.0, 40.0, 1.0, 2.5, 9.0, 0.5], np.float32)


@pytest.fixture(scope="module")
def system(run, tmp_path_factory):
    """A pipeline whose policy is mixed with an expected value that prices orders."""
    folder = copy(run, tmp_path_factory.mktemp("priced") / "run")
    models = load_models(open_artifact(folder / "artifact"))
    baseline = Baseline("expected value", "identity", (1.0, 2.0, 10.0), value_tasks=("order",))
    models.policy.mixture = Mixture(0.3, baseline)
    system = Pipeline(models, open_store(store_address(folder, None)), "", seed=0)
    yield system
    system.close()


@pytest.mark.parametrize(
    "given",
    [
        dict(zip(ITEMS.tolist(), PRICES.tolist(), strict=True)),
        PRICES,
        lambda ids: [dict(zip(ITEMS.tolist(), PRICES.tolist(), strict=True))[item] for item in ids.tolist()],
    ],
    ids=["mapping", "array", "function"],
)
def test_the_page_is_the_rankers_with_the_same_prices(system, given):
    served = system.rank(3, k=4, item_ids=ITEMS, timestamp=NOW, item_values=given)
    ranker = BlendedRanker(system.models.policy, seed=0)
    batch = served.features
    page = ranker.rank(batch.request_dense, served.predictions, 4, offsets=batch.offsets, item_values=PRICES)
    assert page.values.tobytes() == served.page.values.tobytes()
    assert page.indices.tobytes() == served.page.indices.tobytes()
    assert np.array_equal(served.page.item_values, PRICES)
    assert np.array_equal(served.page.log_rows().value, PRICES)
    parts = served.page.contributions.sum(-1) + served.page.baseline_contribution
    assert np.allclose(parts, served.page.values, atol=1e-5)
    cheap = system.rank(3, k=4, item_ids=ITEMS, timestamp=NOW, item_values=np.ones(6))
    assert cheap.scores.tobytes() != served.scores.tobytes()


def test_prices_of_what_prerank_finds(system):
    served = system.rank(3, k=4, candidates=20, timestamp=NOW, item_values=lambda ids: ids.astype(float))
    assert np.array_equal(served.page.item_values, served.features.item_id.astype(np.float32))


def test_prices_that_do_not_fit_are_named(system):
    with pytest.raises(ValueError, match="item_values has no price of item 31"):
        system.rank(3, item_ids=ITEMS, timestamp=NOW, item_values={5: 1.0, 9: 1.0, 2: 1.0})
    with pytest.raises(ValueError, match=r"item_values has shape \(2,\)"):
        system.rank(3, item_ids=ITEMS, timestamp=NOW, item_values=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"item_values has shape \(2,\)"):
        system.rank(3, timestamp=NOW, item_values=[1.0, 2.0])
    with pytest.raises(ValueError, match="item_values"):
        system.rank(3, item_ids=ITEMS, timestamp=NOW)  # the policy needs them
    with pytest.raises(ValueError, match="item_values"):
        system.rank(3, item_ids=ITEMS, timestamp=NOW, item_values=lambda ids: [1.0])
    assert replace(system.models).policy.mixture.baseline.value_tasks == ("order",)
