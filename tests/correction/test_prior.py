"""The correction of another market: what is asked of its policy, and that `train` takes it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.config.policy import PolicyConfig
from pygrade.correction.prior import load_prior
from pygrade.logs import write_logs
from pygrade.policy import FusionPolicy, PolicySpec
from tests.correction.test_fit import fitted, world
from tests.corrections import random_correction

TINY = "--policy.hidden 8 --reward.propensity 0.5 --static.iterations 2 --static.population 8 --static.elite 4"
TINY += (
    " --quiet --stage1.steps 2 --stage2.steps 2 --cross-fit.folds 2 --cross-fit.mixture-weights 0.5 --no-tensorboard"
)


def policy_of(correction, tasks=("click", "order"), features=("taste", "noise", "other")):
    policy = FusionPolicy(PolicySpec(tasks, features, PolicyConfig(hidden=(4,))))
    policy.correction = correction
    return policy


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A log, and policies with its correction, with none and with one of other tasks."""
    path = tmp_path_factory.mktemp("prior")
    logs = world(500, seed=6)
    write_logs(replace(logs, item_id=np.arange(logs.num_rows)), path / "logs")
    policy_of(fitted(world(3000, seed=5)).candidates[0].correction).save(path / "related")
    policy_of(None).save(path / "plain")
    other = random_correction(tasks=("watch", "like"), features=("taste", "noise", "other"), items=())
    policy_of(other, tasks=("watch", "like")).save(path / "other")
    (path / "damaged").mkdir()
    (path / "damaged" / "policy.json").write_text("{")
    return path


WRONG = {
    "nowhere": "expected the directory of a saved policy: ",
    "damaged": "expected the directory of a saved policy: ",
    "plain": "a policy without a correction; expected one with it",
    "other": "which has tasks watch, like; expected one of click, order",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_prior_must_be_a_policy_with_a_correction_of_a_common_task(place, name):
    with pytest.raises(ValueError, match=f"correction.prior is .*{name}.*{WRONG[name]}"):
        load_prior(str(place / name), ("click", "order"))


def test_a_prior_of_one_common_task_is_loaded_from_a_directory_or_bucket(place, s3):
    policy = FusionPolicy.load(place / "related")
    policy.save(f"{s3}/related")
    for there in (place / "related", f"{s3}/related"):
        assert load_prior(there, ("order", "rate")) == policy.correction


@pytest.mark.parametrize("flag", ["--prior", "--correction.prior"])
@pytest.mark.parametrize("name", ["nowhere", "plain", "other"])
def test_training_names_a_prior_that_does_not_fit_before_it_starts(place, capsys, tmp_path, flag, name):
    words = ["train", "--data", f"logs:{place / 'logs'}", "--out", str(tmp_path / "out"), *TINY.split()]
    assert cli.main([*words, flag, str(place / name)]) == 2
    assert f"correction.prior is {place / name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_training_starts_from_a_prior(place, capsys, tmp_path):
    words = ["train", "--data", f"logs:{place / 'logs'}", *TINY.split(), "--json"]
    names = []
    for out, more in (("alone", ()), ("with", ("--prior", str(place / "related")))):
        assert cli.main([*words, "--out", str(tmp_path / out), *more]) == 0
        names.append((json.loads(capsys.readouterr().out)["train"]["cross_fit"]["proof"] or {"name": ""})["name"])
    assert names == ["correction", "correction from the prior's"]
