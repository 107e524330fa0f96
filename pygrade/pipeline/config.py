"""The options of a pipeline, one list for Python and the command line."""

from dataclasses import dataclass, field
from pathlib import Path

from pygrade.mtl import MtlConfig
from pygrade.prerank import PrerankConfig
from pygrade.training.train import TrainConfig


@dataclass(frozen=True)
class PipelineConfig:
    """What the stages do. Time is cut into consecutive parts, so that no part is judged by what it has seen:

    train | stop | calibrate | policy | evaluate: features are fitted and the models trained on the first, stop early by
    the second; the third calibrates the multi-task model; the policy learns from its predictions for the fourth; the
    rest judges.
    """

    train_share: float = 0.44
    """Share of the rows, the earliest, that trains prerank and the multi-task model and fits the features."""
    stop_share: float = 0.06
    """Share after it that tells both when to stop."""
    calibrate_share: float = 0.10
    """Share after it that calibrates the multi-task model."""
    policy_share: float = 0.20
    """Share after it that the policy learns from; what is left judges."""
    schema: Path | None = None
    """JSON file of a feature schema; None: one that fits the columns of the events."""
    tasks: tuple[str, ...] = ()
    """Kinds of feedback to predict and to fuse; none: all that are frequent enough."""
    min_events: int = 10
    """Events that a kind of feedback must have in each of train, stop, calibrate and what follows to be taken."""
    policy_requests: int = 20_000
    """Most requests that the policy learns from: a uniform sample of its part. Bounds the memory."""
    evaluate_requests: int = 20_000
    """Most requests that judge: a uniform sample of theirs."""
    negatives: bool = True
    """Candidates that were considered and not shown are candidates of the policy too, where the data has them."""
    candidates: int = 50
    """Items that prerank finds for each request of the policy's log, as candidates beside those shown; 0: none."""
    recall_at: tuple[int, ...] = (50, 100, 500)
    """Lengths of the lists whose recall is reported."""
    evidence_prior: float = 10.0
    """Events of a user that his scenario's weights are worth; 0: users without history get their own weights too."""
    seed: int = 0
    """Of everything that draws; it replaces the seeds of the parts."""
    prerank: PrerankConfig = field(default_factory=PrerankConfig)
    """The two-tower model and its index."""
    mtl: MtlConfig = field(default_factory=MtlConfig)
    """The multi-task model; without a funnel of its own it gets that of the data."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The fusion policy."""

    def __post_init__(self) -> None:
        shares = {
            name: getattr(self, name) for name in ("train_share", "stop_share", "calibrate_share", "policy_share")
        }
        for name, share in shares.items():
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} is {share}; want a share above 0 and below 1")
        if sum(shares.values()) >= 1.0:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}; want less than 1, the rest is to judge")
        for name in ("min_events", "policy_requests", "evaluate_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        if self.candidates < 0:
            raise ValueError(f"candidates is {self.candidates}; want 0 or more")
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at is {self.recall_at}; want at least one positive length")
        if not self.evidence_prior >= 0.0:
            raise ValueError(f"evidence_prior is {self.evidence_prior}; want 0 or more")
