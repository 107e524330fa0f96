"""`pygrade front`, end to end on a tiny log."""

import json

import pytest

from pygrade.cli import main as cli
from pygrade.logs import write_logs
from pygrade.policy import FusionPolicy
from pygrade.training.train import train
from pygrade.training.trust import TrustConfig
from tests.learning import tiny_logs
from tests.training.test_trade_offs import FAMILY
from tests.training.test_train import SMALL, replace

OFF = TrustConfig(folds=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("front")
    logs = tiny_logs(200)
    write_logs(logs, path / "logs")
    write_logs(logs.split(0.7)[0], path / "early")
    train(logs.split(0.7)[0], replace(FAMILY, trust=OFF), path / "run")
    train(logs.split(0.7)[0], replace(SMALL, trust=OFF), path / "plain")
    return path


def arguments(place, *options, policy="run/policy", log="logs"):
    command = ["front", "--data", f"logs:{place / log}", "--policy", str(place / policy), "--quiet"]
    return [*command, "--propensity", "0.5", "--k", "5", *options]


def test_front_and_multipliers(capsys, place, tmp_path):
    options = ("--keep", "click=1.0", "--most", "order", "--picture", str(tmp_path / "front.png"))
    assert cli.main(arguments(place, *options, "--save", str(tmp_path / "mine"), "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["in_sample"] is False and (record["left_out"], record["front"]["num_requests"]) == (140, 60)
    assert record["front"]["tasks"] == ["click", "order"]
    values = record["solution"]["values"]
    saved = FusionPolicy.load(tmp_path / "mine")
    assert saved.config.values == values and saved.version != record["policy_version"]
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(arguments(place, *options)) == 0
    printed = capsys.readouterr().out
    assert "Events over production, 60 requests" in printed and "an event is worth: click 1, order 2" in printed
    assert "Multipliers that keep click and earn most order" in printed
    # What the saved policy was trained on is still known.
    again = arguments(tmp_path, "--tasks", "click", "--json", policy="mine")
    again[2] = f"logs:{place / 'logs'}"
    assert cli.main(again) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 140


def test_multipliers_of_a_scenario(place, tmp_path):
    options = ("--keep", "order=0.5", "--scenario", "buy", "--save", str(tmp_path / "mine"))
    assert cli.main(arguments(place, *options)) == 0
    config = FusionPolicy.load(tmp_path / "mine").config
    assert set(config.scenario_values) == {"buy"} and config.values == {}


def test_a_level_out_of_reach_and_requests_of_the_training(capsys, place):
    assert cli.main(arguments(place, "--keep", "click=9", log="early")) == 0
    printed = capsys.readouterr().out
    assert "in-sample, not evidence: Events over production" in printed
    assert "click +800.00 % is out of reach: the front goes to" in printed


@pytest.mark.parametrize(
    ("options", "policy", "named"),
    [
        ((), "plain/policy", "policy has no trade_offs; want one trained with them"),
        (("--keep", "dwell=1"), "run/policy", "keep names 'dwell'; want one of click, order, value"),
        (("--keep", "click=1", "--most", "dwell"), "run/policy", "most names 'dwell'"),
        (("--tasks", "dwell"), "run/policy", "tasks names 'dwell'; want one of click, order"),
        (("--keep", "click"), "run/policy", "keep is 'click'; want TASK=SHARE"),
        (("--save", "x"), "run/policy", "save is for the multipliers found; want --keep"),
        (("--scenario", "night"), "run/policy", "scenario is 'night'; want one of browse, buy"),
        (("--search-requests", "0"), "run/policy", "search_requests is 0"),
    ],
)
def test_errors_name_the_option(capsys, place, options, policy, named):
    assert cli.main(arguments(place, *options, policy=policy)) == 2
    assert named in capsys.readouterr().err
