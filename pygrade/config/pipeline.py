"""Options of a pipeline and of its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pygrade.config.data import EbNerdConfig, KuaiRandEventConfig, LogsEventConfig, RawEventsConfig, RecFlowConfig
from pygrade.config.mtl import MtlConfig
from pygrade.config.option import Options, Place, option
from pygrade.config.prerank import PrerankConfig
from pygrade.config.shared import Cluster, Output, Tracking, Unproven
from pygrade.config.training import TrainConfig

_CANDIDATES = 50  # the default, which own predictions make 0


@dataclass(frozen=True)
class PipelineConfig(Unproven):
    """Settings of the stages. Time is cut into consecutive parts, so that every part is judged on later requests:

    train | stop | calibrate | policy | evaluate: features are fitted and the models trained on the first, with early
    stopping on the second; the third calibrates the multi-task model; the policy learns from its predictions for the
    fourth; the rest judges.
    """

    train_share: float = option(0.44, "share of the rows, the earliest, that fits models and features", gt=0, lt=1)
    stop_share: float = option(0.06, "share after it that decides when both stop", gt=0, lt=1)
    calibrate_share: float = option(0.10, "share after it that calibrates the multi-task model", gt=0, lt=1)
    policy_share: float = option(0.20, "share after it that the policy learns from; the rest judges", gt=0, lt=1)
    schema: Path | None = option(
        None, "JSON file of a feature schema; default: one that fits the columns of the events"
    )
    leak_checks: int = option(2, "moments from which the log is altered, to find features of the future; 0: none", ge=0)
    tasks: tuple[str, ...] = option((), "kinds of feedback to predict and to fuse; default: all, see min_events")
    min_events: int = option(
        10,
        "events that a kind of feedback needs in each of train, stop, calibrate and rest to be valued and judged. Of a "
        "rarer one the prediction alone is read, by the correction and the policy; an event of it is worth 0.",
        ge=1,
    )
    policy_requests: int = option(0, "most requests that the policy learns from, a uniform sample; 0: all", ge=0)
    candidates: int = option(_CANDIDATES, "items that prerank adds to each request of both logs; 0: none", ge=0)
    evidence_prior: float = option(10.0, "weight of the scenario prior, in events of a user; 0: off", ge=0)
    predictions: Literal["mtl", "own"] = option(
        "mtl",
        "Whose predictions the policy fuses: mtl, a multi-task model that is trained here; own, the "
        "columns p_<task> of the log (logs: data only), for the log's candidates alone. Serving then asks "
        "your model: Pipeline.load(predict=…).",
        alias="--mtl",
    )
    ranks: int = option(1, "processes that train each model together; their number changes it within the noise", ge=1)
    keep_prerank: bool = option(False, "publish the two towers even if the most popular items are better candidates")
    seed: int = option(0, "seed of everything that draws; it replaces the seeds of the parts")
    prerank: PrerankConfig = option(PrerankConfig(), "the two-tower model and its index")
    mtl: MtlConfig = option(MtlConfig(), "the multi-task model; default funnel: that of the data")
    train: TrainConfig = option(
        TrainConfig(), "the fusion policy; the table [pipeline.train] of a file takes every option of pygrade train"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.history.enabled and self.policy_requests:
            raise ValueError(
                f"policy_requests is {self.policy_requests}, but train.history.enabled needs all rows; expected 0"
            )
        shares = self.train_share + self.stop_share + self.calibrate_share + self.policy_share
        if shares >= 1.0:
            raise ValueError(f"the shares sum to {shares:g}; expected less than 1, the rest judges")
        if self.predictions == "own" and self.mtl != MtlConfig():
            raise ValueError("mtl.… are options of a multi-task model, and predictions is 'own'; expected one of them")
        if self.predictions == "own" and self.candidates not in (0, _CANDIDATES):
            raise ValueError(
                f"candidates is {self.candidates}, and predictions is 'own': nothing predicts them; expected 0"
            )


@dataclass(frozen=True)
class CheckConfig(Options):
    """The options of `serve_check`."""

    requests: int = option(200, "requests, evenly over those that judged the policy", ge=1)
    candidates: int = option(500, "candidates of each; own predictions (--predictions own): those of the log", ge=1)
    k: int = option(10, "items a page", ge=1)


@dataclass(frozen=True, kw_only=True)
class PipelineOptions(Output, Cluster, Tracking, PipelineConfig):
    """The whole system from raw events: features, prerank, multi-task model, fusion policy, judgment, store, report.

    Each stage is done once: the same command again does nothing, another option redoes the stages that it decides, and
    an interrupted one continues. The directory gets a directory a stage, artifact/, summary.json and report.html.

    --check RUN instead replays requests of a finished one from materialized features and from a store with real-time
    updates: every page must be equal bit for bit, else the exit code is not 0. It prints the skew of the features and
    the latencies.

    Example: pygrade pipeline --data kuairand:KuaiRand-1K --out runs/kuairand

    Example: pygrade pipeline --data logs:runs/shop/logs --predictions own --out runs/shop_system

    Example: pygrade pipeline --check runs/kuairand
    """

    ESSENTIAL: ClassVar = (
        *("store", "check", "tasks", "policy_requests", "candidates", "schema", "leak_checks", "seed"),
        *("predictions", "track", "cluster"),
    )
    FLAGS: ClassVar = {
        "train": (
            *("policy.transform", "policy.slope", "policy.trade_offs", "policy.evidence_prior", "reward.page_size"),
            *("static.iterations", "grade", "stage1.steps", "stage2.steps", "cross_fit.folds", "correction.enabled"),
            *("history.enabled", "guardrails.limits", "device", "checkpoint_every", "tensorboard"),
        )
    }

    data: str = option(
        "", "SCHEME:PATH of raw events, e.g. events:shop/events.toml, logs:runs/demo/logs", unless="check"
    )
    out: Place = option("", "directory to write", unless="check")
    store: str | None = option(
        None, "address of the store to fill, lmdb:DIR or redis://HOST:PORT/DB; default: in --out. Of --check: empty"
    )
    check: Place | None = option(None, "directory of a pipeline, whose pages are checked; nothing is trained")
    check_requests: int = option(200, "requests of --check, evenly over those that judged the policy", ge=1)
    kuairand: KuaiRandEventConfig = option(KuaiRandEventConfig(), "options of kuairand: data")
    recflow: RecFlowConfig = option(RecFlowConfig(), "options of recflow: data")
    ebnerd: EbNerdConfig = option(EbNerdConfig(), "options of ebnerd: data")
    logs: LogsEventConfig = option(LogsEventConfig(), "options of logs: data")
    events: RawEventsConfig = option(RawEventsConfig(), "options of events: data")
