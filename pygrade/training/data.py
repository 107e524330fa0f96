"""A log ready for training: `TrainingData`.

A step draws its requests over the whole log. Their tensors are held where they are those of the sample that judges,
too; of a longer log they are made for each batch. So a log costs 4 bytes of memory for each input of the policy and
request, beside the sample.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Bools, Ints
from pygrade.config.training import CemConfig, RewardConfig
from pygrade.correction.fit import correct_by_fold
from pygrade.logs import Logs
from pygrade.logs.dataset import CHUNK, Dataset
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.correction import Correction
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import CompositeReward, LogFigures, policy_inputs

_SHUFFLED, _PLAIN = 50_000, 30_000  # pages of a longer log than the sample that tell of the slot propensity


class Corrected(NamedTuple):
    """A correction of the predictions, and those of the log without each fold: policies learn from predictions under
    the one that a request did not teach.
    """

    correction: Correction
    folds: tuple[Correction, ...] = ()
    fold: Ints | None = None  # [R] of the dataset; None: policies learn from the predictions as they are


def estimate_propensity(dataset: Dataset, sample: Dataset, config: RewardConfig) -> SlotPropensity:
    """Slot propensity of a dataset: by the sample if that is all of it, else by its shuffled and other pages."""
    if sample is dataset:
        return slot_propensity(dataset.read(), config)
    exploration = dataset.logs.exploration
    mixed = np.zeros(dataset.num_requests, bool) if exploration is None else dataset.of_subset(exploration) == "shuffle"
    pages = np.union1d(dataset.draw(_SHUFFLED, mixed), dataset.draw(_PLAIN, ~mixed))
    return slot_propensity(dataset.read(pages), config)


@dataclass(frozen=True)
class TrainingData:
    """The requests that both stages draw from, and a sample of them for all that is not learning."""

    tensors: RequestTensors  # of the sample; what does not go by request is that of the whole log
    inputs: Tensor  # [R, D] raw policy inputs
    rewarded: Tensor  # int64 [n], requests whose logged page has feedback of positive value, which stage 1 learns from
    build: Callable[[Ints], RequestTensors] | None = None  # of some requests; None: the sample is all of them

    @classmethod
    def of(cls, tensors: RequestTensors) -> "TrainingData":
        """Data of requests in memory."""
        return cls(tensors, tensors.inputs, tensors.rewarded().cpu())

    @classmethod
    def prepare(
        cls,
        dataset: Dataset,
        sample: Dataset,
        spec: PolicySpec,
        reward: RewardConfig,
        propensity: SlotPropensity,
        corrected: Corrected | None = None,
        device: str = "cpu",
    ) -> "TrainingData":
        """The dataset's requests, with the values of events that count, under corrected predictions if there are any.

        sample: some of its requests, or the dataset itself; reward: with the prior's weight.
        """
        composite = CompositeReward(reward)

        def read(requests: Ints | None) -> Logs:
            logs = dataset.read(requests)
            if corrected is None or corrected.fold is None:
                return logs
            fold = corrected.fold if requests is None else corrected.fold[requests]
            return replace(logs, predictions=correct_by_fold(corrected.folds, logs, fold))

        if sample is dataset:
            logs = read(None)
            return cls.of(composite.build(logs, spec, LogFigures.of(logs, reward, propensity)).to(device))
        logs = read(dataset.draw(sample.num_requests))
        figures = _whole(dataset, LogFigures.of(logs, reward, propensity))
        tensors = composite.build(logs, spec, figures).to(device)

        def build(requests: Ints) -> RequestTensors:
            built = composite.build(read(requests), spec, figures).to(device)
            return replace(built, component_weights=tensors.component_weights)

        inputs, rewarded = [], []
        for start in range(0, dataset.num_requests, CHUNK):
            chunk = read(np.arange(start, min(start + CHUNK, dataset.num_requests)))
            inputs.append(policy_inputs(chunk, spec))
            rewarded.append(start + np.flatnonzero(_has_value(chunk, bool(spec.config.trade_offs))))
        return cls(tensors, torch.cat(inputs).to(device), torch.from_numpy(np.concatenate(rewarded)), build)

    @property
    def num_requests(self) -> int:
        return len(self.inputs)

    def batch(self, requests: Tensor) -> tuple[RequestTensors, Tensor]:
        """Tensors that have the requests [b], and their rows in these."""
        if self.build is None:
            return self.tensors, requests.to(self.tensors.scores.device)
        distinct, rows = torch.unique(requests, return_inverse=True)
        return self.build(distinct.numpy()), rows.to(self.inputs.device)

    def for_search(self, search: CemConfig) -> RequestTensors:
        """The requests that the search for static weights scores on, or draws these from."""
        if self.build is None:
            return self.tensors
        count = min(search.subsample, self.num_requests)
        return self.build(np.sort(np.random.default_rng(search.seed).choice(self.num_requests, count, replace=False)))

    def fit_normalization(self, policy: FusionPolicy, seed: int) -> None:
        """Sets the mean and deviation of the policy's inputs, as training sees them."""
        values = self.tensors.draw_values(seed, 0, 0, self.num_requests)
        every = torch.arange(self.num_requests)
        policy.fit_normalization(replace(self.tensors, inputs=self.inputs).inputs_at(every, values).cpu())

    def fingerprint(self) -> str:
        """Changes with whatever is learned from."""
        digest = hashlib.sha256()
        more = [] if self.build is None else [self.inputs, self.rewarded]
        for tensor in [*self.tensors.by_request().values(), *more]:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _whole(dataset: Dataset, figures: LogFigures) -> LogFigures:
    """Figures with the sizes of all requests."""
    logs = dataset.logs
    sizes, position, starts = dataset.of_subset(np.diff(logs.offsets)), logs.position, logs.offsets[:-1]
    pages = dataset.of_subset(np.add.reduceat(position >= 0, starts, dtype=np.int64))
    longest, last = int(sizes.max()), int(dataset.of_subset(np.maximum.reduceat(position, starts)).max())
    padded = bool((sizes < longest).any())
    return replace(figures, candidates=longest, padded=padded, slots=max(int(pages.max()), 1), last_slot=max(last, 0))


def _has_value(logs: Logs, by_task: bool) -> Bools:
    """Return whether the logged page has feedback of positive value, of some task or of all together, bool [R]."""
    values = logs.feedback * logs.event_values
    worth = np.where(logs.shown, values.max(1) if by_task else values.sum(1), 0.0)
    return np.asarray(np.maximum.reduceat(worth, logs.offsets[:-1]) > 0)
