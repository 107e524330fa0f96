"""`pygrade evaluate` tells the truth: in-sample requests, values of events, what cannot differ, what cannot be said."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.cli import main as cli
from pygrade.config.training import CemConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.evaluation.arms import ALONE, GRADE, SERVED, STAGE1
from pygrade.logs import Logs, request_keys, write_logs
from pygrade.policy import Baseline, FusionPolicy, Mixture
from pygrade.runs.fit import fit
from pygrade.training.evaluate_policy import policies_of, served_name
from pygrade.training.training_record import FILE, TrainingRecord
from tests.cli.test_cli import result
from tests.learning import logs_of

SEEDS = (0, 1, 2)
FAST = {"static": CemConfig(iterations=3), "stage2": Stage2Config(steps=0), "tensorboard": False}


def noise(seed: int, requests: int = 400, page: int = 10) -> Logs:
    """Feedback that nothing predicts; the whole of each page is shown."""
    rng = np.random.default_rng(seed)
    rows, shape = requests * page, (requests, page, 2)
    columns = {
        "tasks": ("click", "buy"),
        "features": tuple("abcdefghijkl"),
        "user_id": rng.integers(0, requests // 2, requests),
        "context": rng.normal(size=(requests, 12)).astype(np.float32),
        "item_id": rng.permutation(rows),
    }
    predictions, feedback = rng.beta(1, 9, shape), rng.random(shape) < 0.1
    value = rng.uniform(1, 9, rows).astype(np.float32)
    return logs_of(predictions, np.tile(np.arange(page), requests), feedback, value=value, **columns)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """For each seed a directory with the log, its earlier part, and a policy trained on that."""
    places = []
    for seed in SEEDS:
        place = tmp_path_factory.mktemp("noise")
        logs = noise(seed)
        write_logs(logs, place / "logs")
        early = logs.split(0.8)[0]
        write_logs(early, place / "early")
        reward = RewardConfig(task_values=(1.0, 5.0), value_tasks=("buy",))
        stage1 = Stage1Config(steps=150, batch_size=64, learning_rate=0.01)
        fit(early, TrainConfig(stage1=stage1, reward=reward, seed=seed, **FAST), place)
        places.append(place)
    return places


def evaluated(capsys, place, *options, log="logs"):
    arguments = ["evaluate", "--data", f"logs:{place / log}", "--policy", str(place / "policy"), *options]
    record = result(capsys, *arguments, "--quiet")
    assert cli.main([*arguments, "--quiet"]) == 0
    return record, capsys.readouterr()


def test_noise_is_no_lift_on_requests_that_the_policy_has_not_seen(capsys, trained):
    for place in trained:
        fresh, printed = evaluated(capsys, place, "--k", "5")
        assert fresh["in_sample"] is False and (fresh["left_out"], fresh["num_requests"]) == (320, 80)
        assert "in-sample" not in printed.out
        for metric in ("ndcg", "value"):
            lift = fresh["lifts"]["GRADE"][metric]
            assert lift["low"] < 0
        kept = FusionPolicy.load(place / "policy").mixture
        assert fresh["verdict"]["sentence"] == kept.sentence and kept.sentence in printed.out.splitlines()
        assert fresh["later"]["text"].startswith("later requests: ") and fresh["later"]["text"] in printed.out
        assert list(fresh["weights"]) == [STAGE1, GRADE]  # as the training calls them


def test_requests_of_the_training_alone_are_called_no_evidence(capsys, trained):
    for place in trained:
        seen, printed = evaluated(capsys, place, "--k", "5", log="early")
        assert seen["in_sample"] is True and (seen["left_out"], seen["num_requests"]) == (0, 320)
        assert seen["verdict"]["sentence"] == FusionPolicy.load(place / "policy").mixture.sentence
        assert seen["later"]["text"].startswith("in-sample, not evidence: ") and seen["later"]["text"] in printed.out
        assert "in-sample, not evidence: Replay" in printed.out and "trained on all of these" in printed.err


def test_names_mean_the_same_as_in_the_training(trained, tmp_path):
    place = trained[0] / "policy"
    policy = FusionPolicy.load(place)
    assert list(policies_of(policy, place)) == [STAGE1, GRADE]
    expected = Baseline("expected value", "identity", (1.0, 5.0))
    policy.mixture = Mixture(0.4, expected, "better", "Test the new ranking.")
    policy.save(tmp_path / "run/policy")
    moved = policies_of(policy, tmp_path / "run/policy")  # without its training, whose stages have names
    assert list(moved) == [ALONE, SERVED] == list(policies_of(policy))
    assert moved[SERVED] is policy and moved[ALONE].mixture is None
    assert served_name(moved, policy.mixture) == SERVED
    for stage in ("stage1", "stage2"):
        shutil.copytree(trained[0] / stage, tmp_path / "run" / stage)
    beside = policies_of(policy, tmp_path / "run/policy")
    assert list(beside) == [STAGE1, GRADE, SERVED] and beside[SERVED] is policy
    policy.mixture = Mixture(0.0, expected, "worse", "Keep what you have.")
    assert served_name(policies_of(policy), policy.mixture) == "expected value"
    with torch.no_grad():
        policy.head.bias.add_(1.0)  # of another training than the stages beside it
    assert list(policies_of(policy, tmp_path / "run/policy")) == [ALONE]


def test_events_are_worth_what_the_policy_was_trained_for(capsys, trained):
    record, printed = evaluated(capsys, trained[0], "--k", "5")
    assert record["task_values"] == {"click": 1.0, "buy": 5.0} and record["value_tasks"] == ["buy"]
    assert "an event is worth: click 1, buy 5 × price; every slot counts equally" in printed.out
    logs = noise(SEEDS[0]).split(0.8)[1].with_values((1.0, 5.0), ("buy",))
    every, printed = evaluated(capsys, trained[0])
    pages = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
    value = every["rankers"]["GRADE"]["value"]["value"]
    assert pages.mean() / np.log2(11) < value < pages.mean()  # ranks count as in DCG, as the slots' effect is unknown
    assert every["lifts"]["GRADE"]["value"]["value"] is not None and "cannot differ" not in printed.out
    other, _ = evaluated(capsys, trained[0], "--k", "5", "--values", "click=0,buy=1", "--propensity", "0.5")
    assert other["task_values"] == {"click": 0.0, "buy": 1.0} and other["value_tasks"] == ["buy"]
    assert other["propensity"] == pytest.approx(np.arange(1, 6) ** -0.5)


def test_values_given_replace_those_of_the_log_task_by_task(capsys, trained, tmp_path):
    values = ["--values", "buy=20", "--value-tasks", "click"]
    fast = ["--stage1.steps", "1", "--stage2.steps", "1", "--static.iterations", "1", "--cross-fit.folds", "0"]
    data = ["--data", f"logs:{trained[0] / 'logs'}", "--out", str(tmp_path / "run")]
    record = result(capsys, "train", *data, "--no-tensorboard", *fast, *values, "--quiet")
    for part in (record["train"], record["evaluation"]):
        assert part["task_values"] == {"click": 1.0, "buy": 20.0} and part["value_tasks"] == ["click"]
    policy = FusionPolicy.load(tmp_path / "run" / "policy")
    learned = TrainingRecord.load(tmp_path / "run" / "policy", policy.version)
    assert learned.task_values == (1.0, 20.0) and learned.value_tasks == ("click",)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--values", "like=1"], "values names task 'like'; expected one of click, buy"),
        (["--value-tasks", "like"], "value-tasks names task 'like'; expected one of click, buy"),
        (["--values", "click=0,buy=0"], "every event worth 0 (click, buy)"),
    ],
)
def test_values_that_fit_no_task_or_are_all_zero_are_named(capsys, trained, option, message):
    arguments = ["--data", f"logs:{trained[0] / 'logs'}", "--policy", str(trained[0] / "policy"), *option]
    assert cli.main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_off_policy_table_that_cannot_be_filled_says_why(capsys, trained):
    record, printed = evaluated(capsys, trained[0], "--k", "5")
    assert record["off_policy"] == {} and "shuffle" in record["off_policy_note"] and "dirichlet" in printed.out
    record, printed = evaluated(capsys, trained[0], "--k", "5", "--propensity", "0.5")
    assert set(record["off_policy"]) == {"value", "lift", "position", "position, model"}
    assert record["off_policy_note"] == "" and "position, model" not in printed.out
    assert (
        "position, model" in evaluated(capsys, trained[0], "--k", "5", "--propensity", "0.5", "--all-estimates")[1].out
    )


def test_a_record_of_another_policy_is_not_believed_and_a_damaged_one_is_named(capsys, trained, tmp_path):
    place = trained[0]
    for file in (place / "policy").iterdir():
        (tmp_path / "policy").mkdir(exist_ok=True)
        (tmp_path / "policy" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "logs").symlink_to(place / "logs")
    (tmp_path / "policy" / FILE).write_bytes((trained[1] / "policy" / FILE).read_bytes())
    record, printed = evaluated(capsys, tmp_path)
    assert record["in_sample"] is None and record["left_out"] == 0 and "cannot be left out" in printed.err
    (tmp_path / "policy" / FILE).write_bytes((place / "policy" / FILE).read_bytes()[:100])
    assert cli.main(["evaluate", "--data", f"logs:{tmp_path / 'logs'}", "--policy", str(tmp_path / "policy")]) == 2
    assert FILE in capsys.readouterr().err


def test_requests_are_recognized_by_who_saw_what():
    logs = noise(0, requests=50)
    keys = request_keys(logs)
    assert len(set(keys.tolist())) == 50
    text = {name: getattr(logs, name).astype(str).astype(object) for name in ("request_id", "user_id", "item_id")}
    assert (request_keys(replace(logs, **text)) == request_keys(replace(logs, **text).select(slice(None)))).all()
    again = replace(logs, predictions=logs.predictions / 2, feedback=0 * logs.feedback).select(np.arange(50)[::-1])
    assert (request_keys(again)[::-1] == keys).all()
    assert not np.isin(request_keys(noise(1, requests=50)), keys).any()  # the same request ids
