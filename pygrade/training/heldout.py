"""Learning curves on requests that train nothing: the debiased value of their logged pages as the policy orders them.

It reads the policy and the requests alone, draws nothing and changes nothing, so that a training with it ends with the
same bits as one without.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Floats
from pygrade.config.training import RewardConfig
from pygrade.logs import Logs, evenly_spaced
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.policy import FusionPolicy
from pygrade.policy.spec import PolicySpec
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward

FIGURES = ("heldout_lift", "heldout_low", "heldout_high")  # over the best static weights, 0.01 = 1 %
_REQUESTS = 2_000  # at most, evenly over the held-out ones: a figure costs milliseconds


class HeldOut:
    """The lift of a policy's weights over the best static ones, with its 95 % interval clustered by user."""

    def __init__(
        self,
        logs: Logs,
        spec: PolicySpec,
        static: Tensor,
        reward: RewardConfig,
        propensity: SlotPropensity,
        device: str,
    ) -> None:
        """propensity: of the training's requests, as the training divides by it."""
        logs = logs.select(evenly_spaced(logs.num_requests, _REQUESTS))
        posterior = replace(reward, posterior_weight=1.0, prior_weight=0.0, format_weight=0.0)
        options = replace(posterior, propensity=propensity.exponent)
        self._data = CompositeReward(options).build(logs, spec).to(device)
        self._scenario, self._users = logs.scenario, clusters_of(logs)
        self._static = self._values(static.to(device).expand(self._data.num_requests, -1))
        self.requests = logs.num_requests

    def __call__(self, policy: FusionPolicy) -> dict[str, float]:
        """`FIGURES`; none if the static weights earn nothing."""
        values = self._values(policy.serve(self._data.inputs, self._scenario))
        (lift,) = intervals.simultaneous([intervals.mean_lift(values, self._static)], self._users)
        figures = dict(zip(FIGURES, (lift.value, lift.low, lift.high), strict=True))
        return figures if np.isfinite(list(figures.values())).all() else {}

    @torch.no_grad()
    def _values(self, weights: Tensor) -> Floats:
        """Return rewards [R] of weights [R, T]."""
        every = torch.arange(self._data.num_requests, device=weights.device)
        parts = [self._data.rewards(rows, weights[rows][:, None])[:, 0, 0] for rows in torch.split(every, 1024)]
        return np.asarray(torch.cat(parts).double().cpu().numpy())
