"""`FusionEstimator` is what scikit-learn calls an estimator, without scikit-learn."""

import pickle
import sys
import warnings

import numpy as np
import pytest

import pygrade
from pygrade import FusionEstimator
from tests.learning import tiny_logs
from tests.refusals import refuses
from tests.runs.test_train import FAST, MAP, SCALE, table


@pytest.fixture(scope="module")
def fitted():
    return FusionEstimator(k=3, config=FAST, map=MAP, values={"order": 2}, scale=SCALE).fit(table())


def test_it_ranks_as_train_does(fitted):
    trained = pygrade.train(table(), FAST, map=MAP, values={"order": 2}, scale=SCALE)
    assert fitted.policy_.version == trained.policy.version and str(fitted.verdict_) == str(trained.verdict)
    assert fitted.tasks_ == ("click", "order") and fitted.features_ == ("mode",)
    some = trained.heldout.select([0, 1, 2])
    page = fitted.rank(some.predictions.reshape(3, -1, 2), context=some.context, as_logged=True)
    assert page.indices.tolist() == trained.rank(some, k=3).indices.tolist() == fitted.rank(some).indices.tolist()


def test_a_pickled_one_ranks_the_same_pages(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    predictions, context = np.random.default_rng(0).random((2, 9, 2), np.float32), np.ones((2, 1), np.float32)
    assert copy.rank(predictions, context).indices.tolist() == fitted.rank(predictions, context).indices.tolist()
    assert copy.result_ is None and copy.get_params() == fitted.get_params()
    assert repr(pickle.loads(pickle.dumps(FusionEstimator(k=4)))) == "FusionEstimator(k=4)"


def test_a_saved_one_ranks_the_same_frame(fitted, tmp_path):
    frame, names = table(20).to_pandas(), {"names": ("place", "score")}
    ranked = fitted.rank(frame, **names)
    assert ranked["place"].notna().sum() == 3 * 20
    again = FusionEstimator.load(fitted.save(tmp_path / "run"), k=3)
    assert again.rank(frame, **names).equals(ranked) and again.result_ is None
    bare = FusionEstimator.load(again.save(tmp_path / "bare"))
    assert bare.policy_.version == fitted.policy_.version and bare.k == 10
    refuses(FileExistsError, "bare, which exists", again.save, tmp_path / "bare")
    refuses(ValueError, r"expected fit\(log\) before save", FusionEstimator().save, tmp_path / "none")


def test_parameters():
    ranker = FusionEstimator(k=3)
    assert ranker.set_params(k=5, holdout=0.3) is ranker and (ranker.k, ranker.holdout) == (5, 0.3)
    assert repr(ranker) == "FusionEstimator(k=5, holdout=0.3)"
    refuses(ValueError, "'depth' is no parameter of FusionEstimator", ranker.set_params, depth=3)


def test_what_it_refuses():
    refuses(ValueError, "not fitted", lambda: FusionEstimator().rank(np.zeros((1, 2, 2), np.float32)))
    refuses(ValueError, "y is given", lambda: FusionEstimator().fit(tiny_logs(50), [0, 1]))
    for k in (0, 2.5):
        with pytest.raises(ValueError, match=rf"k is {k}; expected a whole number from 1 on"):
            FusionEstimator(k=k).fit(tiny_logs(50))


def test_scikit_learn_takes_it_for_an_estimator(fitted):
    """Of its checks only that of clones runs: the others fit matrices of samples, which a log is none. Those that need
    no data are called one by one."""
    pytest.importorskip("sklearn", "1.6")
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.utils import estimator_checks as checks
    from sklearn.utils.validation import check_is_fitted

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it can't make up data for this one
        results = checks.check_estimator(FusionEstimator(), on_skip=None)
    assert [result["status"] for result in results] == ["passed"]
    for name in (
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ):
        getattr(checks, name)("FusionEstimator", FusionEstimator())
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    check_is_fitted(fitted)
    with pytest.raises(NotFittedError):
        check_is_fitted(again)
    with pytest.raises(NotFittedError):
        again.rank(np.zeros((1, 2, 2), np.float32))


def test_it_needs_no_scikit_learn(fitted, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    copy = pickle.loads(pickle.dumps(fitted.set_params(k=3)))
    assert copy.rank(np.zeros((1, 4, 2), np.float32)).indices.shape == (1, 3)
    refuses(ValueError, "not fitted", lambda: FusionEstimator().rank(np.zeros((1, 4, 2), np.float32)))


def test_dir_shows_public_names_alone():
    assert {name for name in dir(pygrade) if not name.startswith("__")} == set(pygrade.__all__) - {"__version__"}
