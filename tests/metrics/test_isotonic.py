import numpy as np

from pygrade.metrics.isotonic import isotonic, isotonic_rates


def test_isotonic_is_the_nearest_rising_sequence():
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal(40), rng.random(40) + 0.1
    fitted = isotonic(values, weights)
    assert (np.diff(fitted) >= 0).all()
    distance = (weights * (values - fitted) ** 2).sum()
    for _ in range(200):
        other = np.sort(fitted + 0.3 * rng.standard_normal(40))
        assert (weights * (values - other) ** 2).sum() >= distance


def test_rates_of_a_monotone_truth_are_found():
    rng = np.random.default_rng(1)
    x, exposure = rng.random(200_000), rng.random(200_000)
    events = (rng.random(200_000) < x**2 * exposure).astype(float)
    mean, rate = isotonic_rates(x, events, exposure)
    assert (np.diff(mean) > 0).all() and (np.diff(rate) > 0).all()
    np.testing.assert_allclose(rate, mean**2, atol=0.04)
