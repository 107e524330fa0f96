"""Options that another one rules out are errors, before anything is written."""

import pytest

from pygrade.cli import main as cli

EVALUATE = ["evaluate", "--policy", "x", "--data", "logs:x"]
TRAIN = ["train", "--data", "logs:x", "--out", "y"]
PIPELINE = ["pipeline", "--data", "logs:x", "--out", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "--policy", "x", "--data", "logs:x", "--seed", "3"], "seed is 3; want it with --explore alone"),
        (["rank", "--run", "x", "--user", "3", "--seed", "3"], "seed is 3; want it with --explore alone"),
        ([*EVALUATE, "--trade-offs", "--most", "buy"], "most is buy; want it with --keep alone"),
        ([*EVALUATE, "--most", "buy"], "most is buy; want it with --trade-offs alone"),
        (["evaluate", "a", "b", "--k", "3"], "k is 3; want it with no runs alone"),
        (["rank", "--policy", "x", "--data", "logs:x", "--candidates", "3"], "candidates is 3; want it with --run and"),
        (["rank", "--run", "x", "--user", "3", "--requests", "3"], "want it with no --run alone"),
        (["pipeline", "--check", "x", "--candidates", "3"], "candidates is 3; want it with no --check alone"),
        ([*PIPELINE, "--check-requests", "3"], "check_requests is 3; want it with --check alone"),
        (["doctor", "x", "--rates", "click=0.1"], "want it with --day0 alone"),
        (
            ["doctor", "--day0", "--values", "click=1", "--out", "y", "--fix"],
            "fix is True; want it with no --day0 alone",
        ),
        (["test", "read", "--counts", "3", "3", "--metrics", "x"], "want it with no --counts alone"),
        (["export", "--model", "x", "--out", "y", "--k", "3"], "k is 3; want it with --policy alone"),
        ([*TRAIN, "--reward.values-spread", "2"], "reward.values_spread is 2.0; want it with --policy.trade-offs"),
        ([*TRAIN, "--policy.evidence-feature", "n"], "policy.evidence_feature is n; want it with"),
        ([*TRAIN, "--policy.slope", "2"], "policy.slope is 2.0; want it with --policy.transform log1p"),
        (
            [*TRAIN, "--reward.prior-weight", "0", "--reward.prior-calibration", "slope"],
            "prior_calibration is slope; want it with a --reward.prior-weight",
        ),
        ([*TRAIN, "--grade", "off", "--stage1.steps", "5"], "stage1.steps is 5; want it with --grade on alone"),
        ([*TRAIN, "--correction.no-on", "--prior", "z"], "correction.prior is z; want it with --correction.on alone"),
        ([*TRAIN, "--trust.folds", "0", "--prior", "z"], "prior is z; want it with --trust.folds above 0 alone"),
        ([*TRAIN, "--correction.prior", "z", "--prior", "z"], "--prior and --correction.prior both name a policy"),
        ([*PIPELINE, "--recflow.tasks", "like"], "options --recflow.… are for recflow: data; data is logs:x"),
        ([*PIPELINE, "--train.seed", "3"], "train.seed is 3; want --seed"),
        ([*PIPELINE, "--train.policy.slope", "2"], "train.policy.slope is 2.0; want it with --train.policy.transform"),
        (
            [*PIPELINE, "--train.policy.evidence-prior", "2", "--evidence-prior", "3"],
            "evidence_prior is 3.0; want it with --train.policy.evidence-prior 0 alone",
        ),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())
