"""The arm that `train` serves of GRADE on raw predictions: mixed with the baseline as far as the log supports it."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.study.trial import ArmRanking, Options, Trial
from pygrade.config.training import CorrectionConfig, TrainConfig
from pygrade.evaluation.arms import GRADE
from pygrade.logs import Logs
from pygrade.training.train import TrainResult, train


def train_once(logs: Logs, config: TrainConfig) -> TrainResult:
    """`train` in one process, and a directory that is gone afterwards."""
    config = replace(config, tensorboard=False, checkpoint_every=10_000, trust=replace(config.trust, processes=1))
    with TemporaryDirectory() as directory:
        return train(logs, config, Path(directory))


def served(trial: Trial, options: Options) -> ArmRanking:
    """Its figures: the trust λ; the true lift over the baseline that the log chose, of what is served and of the policy
    alone, in per cent by the regime's judge; and the lift that the log estimated.
    """
    # `bench.study.corrected` has what is corrected
    result = train_once(trial.logs, replace(trial.config(options), correction=CorrectionConfig(on=False)))
    mixture = result.policy.mixture
    assert mixture is not None
    ranking = trial.serve(result.policy)
    alone, base = trial.serve(result.policies[GRADE]), trial.baseline(mixture.baseline)
    outcome, of_policy, of_baseline = (trial.outcome(entry) for entry in (ranking, alone, base))
    figures = {
        "trust": mixture.trust,
        "over_baseline": 100 * (outcome / of_baseline - 1),
        "policy_over_baseline": 100 * (of_policy / of_baseline - 1),
        f"baseline {mixture.baseline.name}": 1.0,
        f"verdict {mixture.verdict}": 1.0,
        f"policy {result.summary['trust']['policy']}": 1.0,
    }
    if lift := result.summary["trust"]["lift"]:
        figures |= {"estimated": 100 * lift["value"], "estimated_low": 100 * lift["low"]}
    return replace(ranking, figures=figures)
