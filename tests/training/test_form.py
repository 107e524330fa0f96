"""Whether static weights do better in another form than in the policy's."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.policy import PolicyConfig
from pygrade.evaluation.arms import LINEAR, LOG1P, STATIC
from pygrade.metrics import intervals
from pygrade.runs.fit import fit
from pygrade.training.form import TransformChoice, choose_transform
from tests.training.test_cross_fit import FAST, log


def worth(lift: float, noise: float = 0.3, count: int = 2000):
    """The values of pages under weights of the policy's form, and under others that earn so much more."""
    rng = np.random.default_rng(0)
    own = rng.exponential(size=count)
    return {STATIC: own, LINEAR: own * (1 + lift) + noise * rng.normal(size=count), LOG1P: own * (1 - lift)}


def test_the_form_of_most_value_is_named_with_its_paired_interval():
    values, users = worth(0.1), np.arange(2000) // 2
    found = choose_transform(values, users)
    assert found is not None and found.transform == "identity"
    estimate = intervals.mean_lift(values[LINEAR], values[STATIC])
    assert found.lift == intervals.interval(estimate.value, estimate.influence, users)
    assert found.lift.low < 0.1 < found.lift.high
    best = choose_transform(values | {LOG1P: values[STATIC] * 1.3 + 0.01 * values[LINEAR]}, users)
    assert best is not None and best.transform == "log1p"


@pytest.mark.parametrize(("lift", "noise"), [(0.0, 0.3), (-0.1, 0.3), (0.02, 1.0)])
def test_a_form_that_is_not_better_by_two_standard_errors_is_not_named(lift, noise):
    values = worth(lift, noise)
    del values[LOG1P]
    assert choose_transform(values, np.arange(2000)) is None


def test_requests_of_one_user_are_no_evidence():
    assert choose_transform(worth(0.1), np.zeros(2000, np.int64)) is None


def test_the_sentence_names_both_forms_and_the_option():
    found = TransformChoice("identity", intervals.Interval(0.0701, 0.01, 0.0512, 0.089))
    assert found.sentence("zlog") == (
        "static weights in linear form do 7.0 % (5.1 to 8.9) better than in z-log form: try --policy.transform identity"
    )
    assert " better than in rank form" in found.sentence("rank")


def additive(requests: int = 1500):
    """Two tasks, each common on few candidates: value is the sum of predictions, which a sum of logarithms misses."""
    logs = log(requests=requests, page=8)
    rng = np.random.default_rng(4)
    p = np.where(rng.random((logs.num_rows, 2)) < 0.3, rng.uniform(0.2, 0.8, (logs.num_rows, 2)), 1e-4)
    looks = np.where(logs.position >= 0, (np.maximum(logs.position, 0) + 1.0) ** -0.5, 0.0)
    feedback = rng.random(p.shape) < p * looks[:, None]
    return replace(logs, predictions=p.astype(np.float32), feedback=feedback.astype(np.float32))


def test_training_says_so_if_another_form_does_better(tmp_path):
    result = fit(additive(), replace(FAST, policy=PolicyConfig(hidden=(8,))), tmp_path)
    said = [sentence for sentence in result.summary["warnings"] if sentence.startswith("FORM: ")]
    found = result.summary["cross_fit"]["better_transform"]
    lift = intervals.Interval(**found["lift"])
    assert said == [f"FORM: {TransformChoice(found['transform'], lift).sentence('zlog')}"]
