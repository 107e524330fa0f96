"""Arms on corrected predictions: their expected value with and without the gate, GRADE on them, what `train` serves."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.study.served import train_once
from bench.study.trial import ArmRanking, Array, Options, Trial
from bench.study.worlds import RELATED, related_market
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import Candidate, Fitted, fit_correction
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.keys import hashes
from pygrade.policy.correction import Correction
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.cross_fit import fold_of_requests
from pygrade.training.license import License, license_correction
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity, slot_propensity

_FOLDS = TrainConfig().trust.folds
_MARKET_REQUESTS = 20_000  # that the correction of another market learns from


@dataclass(frozen=True)
class Learned:
    """What a log gives: corrections and, if the gate and the replay let one pass, which one."""

    fitted: Fitted
    predictions: NDArray[np.float32]  # [M, T] of the log, cross-fitted, by the first candidate
    licensed: Candidate | None
    license: License | None

    @property
    def figures(self) -> dict[str, float]:
        first = self.fitted.candidates[0]
        figures = {"z": first.gain.z, "z by value": first.gain.z_value, "licensed": float(self.licensed is not None)}
        figures |= {f"z of {form} maps": z for form, z in self.fitted.forms.items()}
        return figures | {f"first {first.name}": 1.0} | ({f"passed {self.license.name}": 1.0} if self.license else {})


def learn(logs: Logs, propensity: SlotPropensity | None = None, prior: Correction | None = None) -> Learned:
    """The corrections of a log with the values of events that count, as `train` fits and licenses them."""
    reward = TrainConfig().reward
    propensity = slot_propensity(logs, reward) if propensity is None else propensity
    cluster = clusters_of(logs)
    fold = fold_of_requests(cluster, _FOLDS, 0)
    fitted = fit_correction(logs, propensity.examine(logs)[logs.shown], fold, cluster, prior=prior)
    found, _ = license_correction(logs, fitted, fold, cluster, PageReplay(logs, reward), propensity)
    first = fitted.candidates[0].cross_fitted(logs, fold)
    return Learned(fitted, first, None, None) if found is None else Learned(fitted, first, found[0], found[2])


def corrected(trial: Trial, options: Options) -> ArmRanking:
    """Expected value of corrected predictions; ``gate``: where it licenses none, of the predictions as they are."""
    learned = _learned(trial)
    chosen = learned.licensed if options.get("gate") else learned.fitted.candidates[0]
    p = trial.requests.p_hat if chosen is None else _corrected_test(trial, chosen.correction)
    return ArmRanking(p @ trial.values.numpy(), figures=learned.figures)


def grade_corrected(trial: Trial, options: Options) -> ArmRanking:
    """GRADE that learns from the cross-fitted corrected predictions, without a gate."""
    learned = _learned(trial)
    policy = trial.trained(trial.config(options), replace(trial.logs, predictions=learned.predictions))
    test = _corrected_test(trial, learned.fitted.candidates[0].correction)
    scores = policy.scores(trial.requests.context, test, scenario=trial.requests.scenario)
    return ArmRanking(scores.numpy())


def served_by_default(trial: Trial, options: Options) -> ArmRanking:
    """What `train` leaves with all options at their defaults, but for the values of the regime."""
    requests, config = trial.requests, TrainConfig(seed=trial.seed)
    reward = replace(config.reward, task_values=trial.config({}).reward.task_values)
    result = train_once(trial.logs, replace(config, reward=reward))
    policy, found = result.policy, result.summary["trust"]
    assert policy.mixture is not None
    scores = policy.scores(
        requests.context, requests.p_hat, scenario=requests.scenario, items=_test_columns(trial, policy.correction)
    )
    served = {"corrected": float(CORRECTED_EXPECTED_VALUE in (found["served_baseline"], found["challenger"]))}
    figures = {f"verdict {policy.mixture.verdict}": 1.0, "trust": policy.mixture.trust, **served}
    if lift := found["lift"]:
        figures |= {"estimated": 100 * lift["value"], "low": 100 * lift["low"], "high": 100 * lift["high"]}
    return ArmRanking(scores.numpy(), figures=figures)


def _learned(trial: Trial) -> Learned:
    """Fitted once for all arms of a trial."""
    if trial.learned is None:
        values = trial.config({}).reward.task_values
        trial.learned = learn(trial.logs.valued(values), trial.data.propensity, _prior(trial))
    assert isinstance(trial.learned, Learned)
    return trial.learned


def _corrected_test(trial: Trial, correction: Correction) -> Array:
    requests = trial.requests
    n, size, tasks = requests.p_hat.shape
    rows = np.ascontiguousarray(requests.p_hat.reshape(-1, tasks))
    columns = _test_columns(trial, correction)
    return correction.apply(requests.context, rows, np.arange(n + 1) * size, columns).reshape(n, size, tasks)


def _test_columns(trial: Trial, correction: Correction | None) -> Array | None:
    """Item columns [M, I] of the test requests' candidates; levels of items are looked up by their ids."""
    if correction is None:
        return None
    items = trial.test_items
    known = {} if items is None else dict(zip(trial.logs.items, items.reshape(-1, items.shape[-1]).T, strict=True))
    return correction.item_columns(known, hashes(trial.requests.item_id.ravel().astype(np.int64)))


def _prior(trial: Trial) -> Correction | None:
    """The correction of the regime's other market."""
    if not trial.regime.prior:
        return None
    market = related_market(trial.world)
    config = SimulateConfig(requests=_MARKET_REQUESTS, seed=market.seed, world=market.config)
    logs = simulate_logs(config, world=market)
    correction = learn(logs).fitted.candidates[0].correction
    return correction if trial.regime.prior == RELATED else exchanged(correction, market.seed)


def exchanged(correction: Correction, seed: int) -> Correction:
    """A correction of the same size without meaning: its tasks and features stand for others."""
    rng = np.random.default_rng([seed, 12])
    tasks, x = len(correction.tasks), len(correction.x_mean)
    task, feature = rng.permutation(tasks), rng.permutation(x)
    place = np.arange(correction.weights.shape[1])
    place[1 : 1 + x] = 1 + feature
    place[1 + x : 1 + x + tasks] = 1 + x + task
    column = np.arange(correction.weights.shape[2])
    column[1 : 1 + tasks] = 1 + task
    return replace(correction, weights=correction.weights[np.ix_(task, place, column)])
