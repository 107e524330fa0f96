"""Options of a pipeline and of its check."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pygrade.config.mtl import MtlConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.config.training import TrainConfig

_CANDIDATES = 50  # the default, which own predictions make 0


@dataclass(frozen=True)
class PipelineConfig:
    """What the stages do. Time is cut into consecutive parts, so that every part is judged on later requests:

    train | stop | calibrate | policy | evaluate: features are fitted and the models trained on the first, with early
    stopping on the second; the third calibrates the multi-task model; the policy learns from its predictions for the
    fourth; the rest judges.
    """

    train_share: float = 0.44  # share of the rows, the earliest, that trains the models and fits the features
    stop_share: float = 0.06  # share after it that decides when both stop
    calibrate_share: float = 0.10  # share after it that calibrates the multi-task model
    policy_share: float = 0.20  # share after it that the policy learns from; the rest judges
    schema: Path | None = None  # JSON file of a feature schema; none: one that fits the columns of the events
    leak_checks: int = 2  # moments after which the log is altered, to find features that know the future; 0: none
    leak_rows: int = 100_000  # rows of the log, the earliest, that this check reads
    tasks: tuple[str, ...] = ()  # kinds of feedback to predict and to fuse; none: all that are frequent enough
    min_events: int = 10  # events that a kind of feedback needs in each of train, stop, calibrate and the rest
    policy_requests: int = 0  # most requests that the policy learns from, a uniform sample; 0: all
    evaluate_requests: int = 0  # most requests of the later log, a uniform sample; 0: all; up to 50,000 of them judge
    negatives: bool = True  # candidates that were considered and not shown are candidates of the policy, if logged
    candidates: int = _CANDIDATES  # items that prerank adds to each request of both logs; 0: none
    recall_at: tuple[int, ...] = (50, 100, 500)  # lengths of the lists whose recall is reported
    evidence_prior: float = 10.0  # events of a user that his scenario's weights are worth; 0: no shrinkage
    # Whose predictions the policy fuses: mtl, a multi-task model that is trained here; own, the columns p_<task> of the
    # log (logs: data only), for the log's candidates alone. Serving then asks your model: Pipeline.load(predict=…).
    predictions: Literal["mtl", "own"] = "mtl"
    ranks: int = 1  # processes that train each model together; the models depend on their number, within the noise
    keep_prerank: bool = False  # publish the two towers even if the most popular items are the better candidates
    seed: int = 0  # of everything that draws; it replaces the seeds of the parts
    prerank: PrerankConfig = field(default_factory=PrerankConfig)  # the two-tower model and its index
    mtl: MtlConfig = field(default_factory=MtlConfig)  # the multi-task model; default funnel: that of the data
    train: TrainConfig = field(default_factory=TrainConfig)  # the fusion policy

    def __post_init__(self) -> None:
        shares = {
            name: getattr(self, name) for name in ("train_share", "stop_share", "calibrate_share", "policy_share")
        }
        for name, share in shares.items():
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} is {share}; want a share above 0 and below 1")
        if sum(shares.values()) >= 1.0:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}; want less than 1, the rest judges")
        for name in ("ranks", "leak_rows", "min_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        for name in ("leak_checks", "candidates", "policy_requests", "evaluate_requests"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; want 0 or more")
        if self.predictions not in ("mtl", "own"):
            raise ValueError(f"predictions is {self.predictions!r}; want 'mtl' or 'own'")
        if self.predictions == "own" and self.mtl != MtlConfig():
            raise ValueError("mtl.… are options of a multi-task model, and predictions is 'own'; want one of them")
        if self.predictions == "own" and self.candidates not in (0, _CANDIDATES):
            raise ValueError(
                f"candidates is {self.candidates}, and predictions is 'own': nothing predicts them; want 0"
            )
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at is {self.recall_at}; want at least one positive length")
        if not self.evidence_prior >= 0.0:
            raise ValueError(f"evidence_prior is {self.evidence_prior}; want 0 or more")


@dataclass(frozen=True)
class CheckConfig:
    """The options of `serve_check`."""

    requests: int = 200  # requests, evenly over those that judged the policy
    candidates: int = 500  # candidates of each; own predictions (--mtl own): those of the log
    k: int = 10  # items a page

    def __post_init__(self) -> None:
        for name in ("requests", "candidates", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
