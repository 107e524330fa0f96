"""Bad input, and options that another one rules out: one line that names the argument, before anything is written."""

import shlex

import pytest

from pygrade.cli import main as cli

EVALUATE, RANK = "evaluate --policy x --data logs:x ", "rank --policy x --data logs:x "
TRAIN, PIPELINE, READ = "train --data logs:x --out y ", "pipeline --data logs:x --out y ", "test read --arms a.csv "
CASES = {
    "prophesy": "prophesy",
    "demo --requests many": "--requests is 'many'; expected a whole number",
    "demo --requests 0": "requests is 0",
    "train --data logs:nowhere --out x": "nowhere",
    "train --data nonsense --out x": "nonsense",
    "evaluate --data logs:nowhere --policy missing": "missing",
    "simulate --ab missing": "missing",
    "simulate": "either --out (write a log) or --ab (test policies)",
    "simulate --out x --ab y": "either --out",
    "simulate --ab x x": "ab names a directory twice",
    "simulate --ab x --days 3": "days is 3; expected it with --out alone",
    "simulate --out x --baseline z": "baseline is 'z'; expected it with --ab alone",
    "rank --policy missing --data logs:nowhere": "missing",
    "rank --run missing --user 3": "missing",
    RANK + "--user 3": "user is given alone; expected --run and --user",
    RANK + "--seed 3": "seed is 3; expected it with --explore alone",
    RANK + "--candidates 3": "candidates is 3; expected it with --run and",
    "rank --run x --user 3 --seed 3": "seed is 3; expected it with --explore alone",
    "rank --run x --user 3 --requests 3": "expected it with no --run alone",
    "test plan --data logs:nowhere": "nowhere",
    "test read --counts 5": "at least 2 arms",
    "test read --counts 3 3 --metrics x": "expected it with no --counts alone",
    "test read --arms x=a.csv x=b.csv": "names 'x' twice",
    READ: "expected at least 2",
    READ + "b.csv": "a.csv",
    READ + "b.csv --planned-users 0": "planned_users is 0",
    EVALUATE + "--trade-offs --maximize buy": "maximize is buy; expected it with --keep alone",
    EVALUATE + "--maximize buy": "maximize is buy; expected it with --trade-offs alone",
    EVALUATE + "--values buy=2 click": "'click' is not KEY=NUMBER",
    EVALUATE + "--values =1": "'=1' is not KEY=NUMBER",
    EVALUATE + "--values click=": "--values.click is ''; expected a number",
    EVALUATE + "--values click=one": "--values.click is 'one'; expected a number",
    EVALUATE + "--values click=nan": "values has click=nan; expected finite numbers",
    EVALUATE + "--values click=inf": "values has click=inf; expected finite numbers",
    "evaluate a b --k 3": "k is 3; expected it with no runs alone",
    "doctor x --rates click=0.1": "expected it with --cold-start alone",
    "doctor --cold-start --values click=1 --out y --fix": "fix is True; expected it with no --cold-start alone",
    "doctor a.csv --quiet b.csv": "doctor has no option b.csv",
    "export --model x --out y --k 3": "k is 3; expected it with --policy alone",
    TRAIN + "--reward.values-spread 2": "reward.values_spread is 2.0; expected it with --policy.trade-offs",
    TRAIN + "--policy.evidence-feature n": "policy.evidence_feature is n; expected it with",
    TRAIN + "--policy.slope 2": "policy.slope is 2.0; expected it with --policy.transform log1p",
    TRAIN
    + "--reward.prior-weight 0 --reward.prior-calibration slope": "expected it with --reward.prior-weight above 0",
    TRAIN + "--no-grade --stage1.steps 5": "stage1.steps is 5; expected it with --grade alone",
    TRAIN + "--correction.enabled=1": "no option --correction.enabled=1; a flag has no value",
    TRAIN + "--no-correction.enabled --prior z": "correction.prior is z; expected it with --correction.enabled alone",
    TRAIN + "--cross-fit.folds 0 --prior z": "prior is z; expected it with --cross-fit.folds above 0 alone",
    TRAIN + "--correction.prior z --prior z": "--prior and --correction.prior both name a policy",
    TRAIN + "--values click=1 --reward.task-values 1 2": "--values and --reward.task-values",
    PIPELINE + "--recflow.tasks like": "options --recflow.… are for recflow: data; data is logs:x",
    PIPELINE + "--train.policy.slope 2": "train.policy.slope is 2.0; expected it with --train.policy.transform",
    PIPELINE + "--train.policy.evidence-prior 2 --evidence-prior 3": "evidence_prior is 3.0; expected it with",
    PIPELINE
    + "--train.stage2.clip 0.3": "no option --train.stage2.clip; a file takes it: [pipeline.train.stage2] clip",
    PIPELINE + "--check-requests 3": "check_requests is 3; expected it with --check alone",
    "pipeline --check x --candidates 3": "candidates is 3; expected it with no --check alone",
    "pipeline --data logs:nowhere --out x": "nowhere",
    "docs --config": "needs one value",
    "docs --config a --config b": "twice",
    "docs --config=absent": "config absent does not exist",
    "--print-completion tcsh": "expected one of bash, zsh, fish",
}


@pytest.mark.parametrize(("words", "named"), CASES.items())
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(words)) == 2
    printed = capsys.readouterr()
    error = printed.err.removeprefix("doctor: starting\n")  # its sign of life
    assert printed.out == "" and error.count("\n") == 1
    assert error.startswith("pygrade: ") and named in error and not list(tmp_path.iterdir())
