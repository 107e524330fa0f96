"""What training learns from: a log in memory, or in shards on disk if it has more requests than one shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pygrade.logs import Logs
from pygrade.logs.log_parts import LogParts
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.storage import Place
from pygrade.training.reward import CompositeReward, RewardConfig
from pygrade.training.sharded_log import ShardedLog, sharded
from pygrade.training.static_weights import CemConfig
from pygrade.training.training_record import TrainingRecord
from pygrade.training.training_set import TrainingSet
from pygrade.workers import Workers

Source = Logs | LogParts | Place | Sequence[Place]
"""A log: in memory, or its Parquet files and directories."""


def opened(source: Source, limit: int) -> Logs | LogParts:
    """The log; read if it has no more requests than the limit."""
    if isinstance(source, Logs):
        return source
    parts = source if isinstance(source, LogParts) else LogParts.open(source)
    return parts.read(0, parts.num_requests) if parts.num_requests <= limit else parts


@dataclass(frozen=True)
class HeldLog:
    """A log in memory, ready for training; `ShardedLog` has the same names for one in shards."""

    data: TrainingSet
    sample: Logs  # all of it
    digest: str = ""

    @property
    def sample_data(self) -> TrainingSet:
        return self.data

    def searched(self, search: CemConfig) -> TrainingSet:
        """What the search for static weights draws its requests from."""
        return self.data

    def fit_normalization(self, policy: FusionPolicy, seed: int, workers: Workers) -> None:
        """Sets the mean and deviation of the policy's inputs."""
        policy.fit_normalization(self.data.inputs_seen(seed).cpu())

    def record(self, policy_version: str) -> TrainingRecord:
        """Of a policy that learned from it."""
        return TrainingRecord.of(self.sample, policy_version)


Prepared = HeldLog | ShardedLog


def prepare(
    log: Logs | LogParts,
    spec: PolicySpec,
    reward: RewardConfig,
    folder: Path,
    shard_requests: int,
    sample_requests: int,
    workers: Workers,
    device: str,
) -> Prepared:
    """The log with the values of events that count; shards, if it has several, are written below ``folder``."""
    if log.num_requests > shard_requests:
        return sharded(log, spec, reward, folder, shard_requests, sample_requests, workers, device)
    logs = log if isinstance(log, Logs) else log.read(0, log.num_requests)
    return HeldLog(CompositeReward(reward).build(logs, spec).to(device), logs)
