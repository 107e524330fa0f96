"""`pygrade evaluate --trade-offs`, end to end on tiny logs."""

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.config.training import CrossFitConfig
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE
from pygrade.evaluation.pareto_front import AS_TRAINED
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.evaluation.replay import ranks
from pygrade.logs import write_logs
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from tests.cli.test_cli import result
from tests.correction.test_fit import world
from tests.learning import tiny_logs
from tests.training.test_trade_offs import FAMILY
from tests.training.test_train import SMALL, replace

FOLDS, OFF = CrossFitConfig(folds=2, mixture_weights=(0.5,)), CrossFitConfig(folds=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("front")
    logs = tiny_logs(200)
    write_logs(logs, path / "logs")
    write_logs(logs.split(0.7)[0], path / "early")
    fit(logs.split(0.7)[0], replace(FAMILY, cross_fit=FOLDS), path / "run")
    fit(logs.split(0.7)[0], replace(SMALL, cross_fit=OFF), path / "plain")
    return path


def arguments(place, *options, policy="run/policy", log="logs"):
    command = ["evaluate", "--data", f"logs:{place / log}", "--policy", str(place / policy), "--quiet"]
    return [*command, "--trade-offs", "--propensity", "0.5", "--k", "5", *options]


def test_front_and_values(capsys, place, tmp_path):
    options = ("--keep", "click=1.0", "--maximize", "order", "--plot", str(tmp_path / "front.svg"))
    record = result(capsys, *arguments(place, *options, "--save", str(tmp_path / "mine")))
    assert record["in_sample"] is False and (record["left_out"], record["pareto_front"]["num_requests"]) == (140, 60)
    assert record["pareto_front"]["tasks"] == ["click", "order"] and record["searched_on"] == 140  # by cross-fitting
    values = record["solution"]["values"]
    saved = FusionPolicy.load(tmp_path / "mine")
    assert saved.config.values == values and saved.version != record["policy_version"]
    assert (tmp_path / "front.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")
    assert cli.main(arguments(place, *options)) == 0
    printed = capsys.readouterr().out
    assert "Events over production, 60 requests" in printed and "an event is worth: click 1, order 2" in printed
    assert "Values that keep click and earn most order" in printed
    # What the saved policy was trained on is still known.
    again = arguments(tmp_path, "--tasks", "click", policy="mine")
    again[2] = f"logs:{place / 'logs'}"
    assert result(capsys, *again)["left_out"] == 140
    record = result(capsys, *again, "--keep", "click=1.0")
    assert record["searched_on"] + record["pareto_front"]["num_requests"] == 60  # no folds: half of the users


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A run whose policy serves the expected value of corrected predictions."""
    path = tmp_path_factory.mktemp("shop")
    logs = world(1800, effect=1.2)
    logs = replace(logs, item_id=np.arange(logs.num_rows))
    write_logs(logs, path / "logs")
    fit(logs.split(0.8)[0], replace(SMALL, cross_fit=FOLDS), path / "run")
    return path


def test_a_corrected_policy_takes_values(capsys, shop, tmp_path):
    policy = FusionPolicy.load(shop / "run" / "policy")
    assert policy.mixture is not None and policy.mixture.baseline.name == CORRECTED_EXPECTED_VALUE
    options = ("--keep", "click=0.9", "--maximize", "order", "--plot", str(tmp_path / "front.svg"))
    record = result(capsys, *arguments(shop, *options, "--save", str(tmp_path / "mine")))
    assert (record["left_out"], record["pareto_front"]["num_requests"]) == (1440, 360)
    assert record["searched_on"] == 1440  # by cross-fitting
    trained, solution = record["pareto_front"]["marks"][AS_TRAINED], record["solution"]
    assert solution["judged"]["events"]["order"]["value"] > trained["events"]["order"]["value"]
    saved, logs = FusionPolicy.load(tmp_path / "mine"), world(50, seed=8)
    turned = policy.scores(logs.context, logs.predictions, logs.offsets, values=solution["values"])
    orders = [ranks(scores, logs.offsets) for scores in (policy_scores(saved, logs), turned)]
    assert (orders[0] == orders[1]).mean() > 0.99  # float32 scores of two formulas
    # What was saved is served without values, and others count from there: the folds beside it do not fit.
    assert (
        cli.main(arguments(shop, "--save", str(shop / "run" / "mine"), "--keep", "click=0.9", "--maximize", "order"))
        == 0
    )
    again = result(capsys, *arguments(shop, policy="run/mine"))["pareto_front"]["marks"]
    for name, entry in again[AS_TRAINED]["events"].items():
        assert entry["value"] == pytest.approx(solution["judged"]["events"][name]["value"], abs=2e-3)
    record = result(capsys, *arguments(shop, "--keep", "click=0.9", policy="run/mine"))
    assert record["searched_on"] + record["pareto_front"]["num_requests"] == 360
    own = ("--keep", "click=0.9", "--scenario", "night", "--save", str(tmp_path / "night"))
    assert cli.main(arguments(shop, *own)) == 2
    assert "own values can be saved in a policy trained with --policy.trade-offs alone" in capsys.readouterr().err


def test_values_are_judged_over_the_values_as_they_are(capsys, shop):
    options = ("--compare", "click=-0.5", "click=0.5,order=4")
    record = result(capsys, *arguments(shop, *options))["pareto_front"]["compared"]
    assert list(record) == ["click -0.5", "click 0.5, order 4"]
    costly = record["click -0.5"]
    assert costly["values"] == {"click": -0.5} and costly["predicted"]["click"] < -0.01
    assert costly["events"]["click"]["low"] < costly["events"]["click"]["value"] < costly["events"]["click"]["high"]
    assert cli.main(arguments(shop, *options)) == 0
    assert "Values over the values as they are" in capsys.readouterr().out
    for word, named in (("click", "expected TASK=NUMBER"), ("clicks=1", "values names task 'clicks'")):
        assert cli.main(arguments(shop, "--compare", word)) == 2
        assert named in capsys.readouterr().err


def test_values_of_a_scenario(place, tmp_path):
    options = ("--keep", "order=0.5", "--scenario", "buy", "--save", str(tmp_path / "mine"))
    assert cli.main(arguments(place, *options)) == 0
    config = FusionPolicy.load(tmp_path / "mine").config
    assert set(config.scenario_values) == {"buy"} and config.values == {}


def test_a_level_out_of_reach_and_requests_of_the_training(capsys, place):
    assert cli.main(arguments(place, "--keep", "click=9", log="early")) == 0
    printed = capsys.readouterr().out
    assert "in-sample, not evidence: Events over production" in printed
    assert "click +800.00 % is out of reach: the Pareto front goes to" in printed


@pytest.mark.parametrize(
    ("options", "policy", "named"),
    [
        ((), "plain/policy", "policy has no trade_offs and ranks by no expected value"),
        (("--keep", "click"), "run/policy", "keep is 'click'; expected TASK=SHARE"),
        (("--save", "x"), "run/policy", "save is for the values found; expected --keep"),
        (("--scenario", "night"), "run/policy", "scenario is 'night'; expected one of browse, buy"),
    ],
)
def test_errors_name_the_option(capsys, place, options, policy, named):
    assert cli.main(arguments(place, *options, policy=policy)) == 2
    assert named in capsys.readouterr().err
