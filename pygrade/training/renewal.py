"""A correction learned anew from recent requests, with the served one as its prior, behind the same gate."""

from dataclasses import replace

import numpy as np

from pygrade._typing import Floats, Floats32
from pygrade.config.training import CorrectionConfig, RewardConfig
from pygrade.correction.fit import correct, fit_correction
from pygrade.correction.gate import JointLikelihood, PageValues, zscore
from pygrade.correction.inputs import MIN_EVENTS, amounts_of
from pygrade.evaluation.cautions import winsor_factors
from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.training.correction_proof import accept_correction
from pygrade.training.cross_fit import fold_of_requests, insufficient_data
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import slot_propensity

_FOLDS, _BETTER = 4, 2.0  # standard errors over the old correction


def renew_correction(policy: FusionPolicy, logs: Logs, reward: RewardConfig, seed: int = 0) -> Correction | None:
    """Fit the policy's correction again; None if the new one is not proven better.

    logs: in the order of the policy's tasks and features, with the values of events that count. A new correction has
    the item columns, the chain and the page terms of the old one. It needs a proof, as in training, and has to beat
    the old one by 2 standard errors, by held-out likelihood and by the value given the page.
    """
    old = policy.correction
    if old is None:
        raise ValueError("the policy has no correction to learn anew")
    logs = replace(logs, items=old.items, item_features=item_inputs(policy, logs))
    cluster = clusters_of(logs)
    fold = fold_of_requests(cluster, _FOLDS, seed)
    propensity = slot_propensity(logs, reward, warn=False)
    if propensity.source == "none" or insufficient_data(logs, fold, cluster) or not _shows(logs, old):
        return None
    theta = propensity.examine(logs)[logs.shown]
    options = CorrectionConfig(calibration=bool(old.form))
    fitted = fit_correction(logs, theta, fold, cluster, options, prior=old, parents=old.parents)
    pages = PageReplay(logs, reward, winsor_factors(logs, cluster))
    accepted, _ = accept_correction(logs, fitted, fold, cluster, pages, propensity)
    if accepted is None:
        return None
    predictions, served = accepted.predictions, correct(old, logs)
    likelihood = JointLikelihood(logs, fitted.scaling.parents, theta, fitted.cases)
    new, before = (likelihood.shares(_given(corrected, old.parents, logs)) for corrected in (predictions, served))
    values = PageValues(logs, theta)
    value = values.gain(*(values.rank(logs.value_of(corrected), True) for corrected in (predictions, served)))
    if min(zscore(likelihood.gain(new, before), cluster), zscore(value, cluster)) < _BETTER:
        return None
    return replace(accepted.candidate.correction, page_terms=old.page_terms)


def _shows(logs: Logs, old: Correction) -> bool:
    """The log has the same kinds of feedback, and events enough of each task that the old correction moves."""
    events = (logs.feedback[logs.shown] > 0).sum(0)
    moved = old.weights.any((1, 2))
    return amounts_of(logs) == old.amounts and bool((events[moved] >= MIN_EVENTS).all())


def _given(predictions: Floats32, parents: tuple[int, ...], logs: Logs) -> Floats:
    """Return predictions [M, T] of the shown rows given the parent's event, of shape [S, T]."""
    shown = predictions[logs.shown].astype(np.float64)
    return np.stack([shown[:, t] / (shown[:, s] if s >= 0 else 1.0) for t, s in enumerate(parents)], 1)
