"""Options of training: reward, static weights, both stages, cross-fitting, correction, online learning."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.option import Options, Place, option, required
from pygrade.config.policy import PolicyConfig
from pygrade.config.shared import Cluster, LogOptions, Output, Tracking

Engine = Literal["auto", "fused", "torch"]

_SMALL = 5_000  # requests, up to which the prior weighs as much as the feedback


def check_engine(engine: str) -> None:
    """``ValueError`` if there is no such engine."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; expected one of {', '.join(get_args(Engine))}")


@dataclass(frozen=True)
class RewardConfig(Options):
    """Components of the composite reward and how they are measured. A weight of 0 switches a component off."""

    PYTHON_ONLY: ClassVar = ("posterior_weight", "format_weight", "propensity_floor")  # not on the command line

    posterior_weight: float = option(1.0, "weight of the logged value, debiased by slot", ge=0)
    prior_weight: float | None = option(
        None, "Of the predicted value; None: by the size of the log, 1 up to 5,000 requests, 0.5 beyond.", ge=0
    )
    prior_calibration: Literal["none", "slope"] = option(
        "none",
        "slope: scale each task's predictions by the regression slope of feedback on prediction (shrinks "
        "over-confident tasks, drops uninformative ones); default: unscaled.",
    )
    format_weight: float = option(0.03, "share of a page's value that 0.1 of weight outside the box costs", ge=0)
    propensity: Literal["estimate"] | float = option(
        "estimate",
        "q(slot) = (slot + 1)^-exponent: the exponent, or estimated from the log, see `propensity`.",
        ge=0,
        le=3,
    )
    propensity_floor: float = option(0.15, "smallest q that a label is divided by", gt=0, le=1)
    page_size: int = option(10, "ranks that count", ge=1)
    task_values: tuple[float, ...] | None = option(None, "value of one event of each task; None: what the log says")
    value_tasks: tuple[str, ...] = option((), "tasks whose events are worth that times the item's `value` (its price)")
    # Multipliers u of the tasks' values, drawn for each request and step if the policy has `trade_offs`.
    values_spread: float = option(1.0, "standard deviation of log u", ge=0)
    plain_share: float = option(0.25, "share of the requests with u = 1", ge=0, le=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.posterior_weight == 0.0 == self.prior_weight:
            raise ValueError("posterior and prior are both off; expected at least one of them")
        if isinstance(self.propensity, str) and self.propensity != "estimate":
            raise ValueError(f"propensity is {self.propensity!r}; expected 'estimate' or an exponent")

    def sized(self, requests: int) -> "RewardConfig":
        """A copy with the prior's weight for a log of so many requests."""
        return self if self.prior_weight is not None else replace(self, prior_weight=1.0 if requests <= _SMALL else 0.5)


@dataclass(frozen=True)
class CemConfig(Options):
    """Search for the best static weights: cross-entropy method over log-weights."""

    PYTHON_ONLY: ClassVar = ("seed",)  # not on the command line

    iterations: int = option(10, "rounds of the search", ge=1, le=10_000)
    population: int = option(32, "weight vectors tried in a round", le=100_000)
    elite: int = option(8, "best samples, from which the next round is drawn", ge=2)
    subsample: int = option(20000, "requests to score on, drawn once; all if there are fewer", ge=1)
    seed: int = option(0, "seed of the draws and of the subsample")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elite > self.population:
            raise ValueError(f"elite is {self.elite}; expected at most the population, {self.population}")


@dataclass(frozen=True)
class Stage1Config(Options):
    """Supervised start: LambdaLoss on the logged page."""

    PYTHON_ONLY: ClassVar = ("temperature",)  # not on the command line

    steps: int = option(150, "steps of the optimizer; 0: skip the stage", ge=0, le=1_000_000)
    batch_size: int = option(512, "requests a step, of those with any feedback", gt=0)
    learning_rate: float = option(2.8e-3, "initial rate, which falls linearly to a tenth", gt=0)
    labels: Literal["ips", "raw"] = option("ips", "ips: logged value divided by the slot's propensity; raw: as logged")
    temperature: float = option(1.0, "temperature of the fused score", gt=0)


@dataclass(frozen=True)
class Stage2Config(Options):
    """Group-relative fine-tuning (GRPO) with Dirichlet exploration."""

    # not on the command line
    PYTHON_ONLY: ClassVar = ("inner_epochs", "clip_high", "entropy_coefficient", "weight_floor", "leave_one_out")

    steps: int = option(100, "steps of the optimizer; 0: skip the stage", ge=0, le=1_000_000)
    batch_size: int = option(512, "requests a step", gt=0)
    group_size: int = option(16, "G, weight vectors sampled for each", gt=0)
    inner_epochs: int = option(2, "updates on one batch of samples", gt=0)
    learning_rate: float = option(8.5e-4, "initial rate, which falls linearly to a tenth", gt=0)
    clip: float = option(0.2, "ratios are cut to 1 ± clip", gt=0)
    clip_high: float | None = option(None, "upper bound where it differs; None: clip")
    kl_coefficient: float = option(0.01, "weight of KL(new ‖ stage 1), in nats")
    entropy_coefficient: float = option(0.0, "weight of a bonus for wide exploration")
    weight_floor: float = option(1e-5, "least weight that a log-probability is taken of")
    normalize: Literal["batch", "group", "component", "none"] = option(
        "batch", "of the advantage, see `group_advantage`"
    )
    leave_one_out: bool = option(False, "a sample's baseline is the mean of the others")
    advantage_clip: float | None = option(5.0, "advantages are cut to ± this; None: not")


@dataclass(frozen=True)
class CrossFitConfig(Options):
    """Cross-fitting: whether the policy is better than the strongest simple baseline, and the share to serve."""

    folds: int = option(4, "number of folds, split by user; 0: no cross-fitting and no comparison with baselines", ge=0)
    mixture_weights: tuple[float, ...] = option((0.2, 0.4, 0.6, 0.8, 1.0), "λ tried; 1: policy alone", gt=0, le=1)
    processes: int = option(2, "processes that train folds at the same time, without --cluster", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1 or not self.mixture_weights:
            given = f"folds is {self.folds}, mixture_weights {self.mixture_weights}"
            raise ValueError(f"{given}; expected 0, or 2 or more folds, and mixture_weights")


@dataclass(frozen=True)
class CorrectionConfig(Options):
    """Correction of the predictions by context, before anything is weighed."""

    PYTHON_ONLY: ClassVar = ("policy",)  # not on the command line

    enabled: bool = option(True, "learn a correction, and let the gate decide whether it is served")
    calibration: bool = option(True, "recalibrate each prediction first, if held-out feedback prefers it")
    item_effects: bool = option(True, "item effects, where their own held-out likelihood supports them")
    page_terms: bool = option(
        True, "page terms: what stands above an item, by category and embedding, where the gate lets them pass"
    )
    trees: bool = option(
        False, "trees on top of it (LightGBM), where whole pages are better by them, held out and on later requests"
    )
    policy: bool = option(True, "GRADE learns from corrected predictions where they are accepted")
    prior: str = option("", "directory of a policy of another market, whose correction is a start")


@dataclass(frozen=True)
class HistoryConfig(Options):
    """Inputs from earlier exposures and feedback of the same log: of the user, the item, and both."""

    PYTHON_ONLY: ClassVar = ("exposure_delay_seconds",)  # not on the command line

    enabled: bool = option(
        False, "make these columns, and let their own held-out likelihood decide whether they are read"
    )
    exposure_delay_seconds: float = option(60.0, "seconds after which an exposure counts", gt=0)
    feedback_delay_seconds: float = option(3600.0, "seconds after which feedback counts; later, never", gt=0)
    half_life_seconds: float = option(86_400.0, "half-life of an item's recent value, in seconds", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feedback_delay_seconds < self.exposure_delay_seconds:
            raise ValueError(
                f"history.feedback_delay_seconds is {self.feedback_delay_seconds}; expected at least "
                f"history.exposure_delay_seconds, {self.exposure_delay_seconds}"
            )


@dataclass(frozen=True)
class TrainConfig(Options):
    """Everything that decides what `train` learns, and how it runs."""

    PYTHON_ONLY: ClassVar = ("heldout_every",)  # not on the command line

    policy: PolicyConfig = option(PolicyConfig(), "the network, and what its weights mean")
    reward: RewardConfig = option(RewardConfig(), "what feedback and predictions of a page are worth")
    static: CemConfig = option(CemConfig(), "search for the static weights the policy starts from")
    grade: bool = option(
        True,
        "Learn personal weights in both stages, and judge them. Without, simple rankings and the correction are judged "
        "alone, and the network stays at its start, near the best static weights.",
    )
    stage1: Stage1Config = option(Stage1Config(), "LambdaLoss on logged pages")
    stage2: Stage2Config = option(Stage2Config(), "GRPO on sampled weights")
    cross_fit: CrossFitConfig = option(CrossFitConfig(), "cross-fitting, which decides what is served")
    correction: CorrectionConfig = option(CorrectionConfig(), "correction of the predictions, before they are weighed")
    history: HistoryConfig = option(HistoryConfig(), "inputs from earlier exposures and feedback of the log")
    guardrails: GuardrailConfig = option(GuardrailConfig(), "limits that what is served keeps")
    production: dict[str, float] = option(
        {},
        "Weights of production's ranking, Σ weight · prediction, e.g. click=0.3,order=0.7; default: the log.",
    )
    seed: int = option(0, "seed of the network, the batches and the draws", ge=0)
    device: str = option("cpu", "cpu or cuda")
    engine: Engine = option(
        "auto", "of network and Adam: fused, the C++ core; torch; auto, the core if it covers the policy"
    )
    sample_requests: int = option(
        100_000,
        "Requests that are held in memory. Of a longer log, a uniform sample of so many judges; all of it is learned "
        "from.",
        ge=1,
    )
    threads: int = option(1, "threads of torch on the CPU; more do not help networks of this size", ge=1)
    checkpoint_every: int = option(50, "steps between checkpoints", ge=1)
    heldout_every: int = option(25, "steps between figures of the learning curves on held-out requests", ge=1)
    tensorboard: bool = option(True, "scalars, where tensorboard is installed")


@dataclass(frozen=True)
class OnlineConfig(Options):
    """Steps of an `OnlineLearner`, and the limits that it is held to."""

    # not on the command line
    PYTHON_ONLY: ClassVar = ("max_pending_events", "max_amount", "holdout_fraction", "engine", "reward")

    window: int = option(10_000, "newest requests with complete feedback to learn from", ge=1)
    min_requests: int = option(1_000, "requests in the window before the first update", ge=1)
    feedback_delay_ms: int = option(
        3_600_000, "ms after which feedback counts as complete; later events are dropped", ge=0
    )
    max_pending_events: int = option(100_000, "events kept whose request is not known yet", ge=1)
    max_amount: float = option(1e6, "largest amount of one event; a larger one is refused as damaged", ge=0)
    max_regression: float = option(0.02, "share of the reference's value by which a version may be worse", ge=0)
    confidence: float = option(
        0.95, "confidence of the interval below -max_regression that refuses or rolls back", gt=0, lt=1
    )
    max_reach: float = option(
        1.0,
        "Half that interval as a share of the reference's value, above which learning pauses: at 1 the "
        "guard would not even find a version that earns nothing. Lower, it protects more and learns less.",
        ge=0,
    )
    single_tasks: tuple[str, ...] = option(
        (),
        "Tasks that happen at most once on an item of a page, such as clicks: several events count as "
        "one. Beside the service those of which the training log had only 0 and 1 are added.",
    )
    min_effective_samples: int = option(100, "effective samples of an estimate that may refuse or roll back", ge=1)
    holdout_fraction: float = option(
        0.5, "of the requests with drawn weights: they judge and are never learned from", ge=0, le=1
    )
    correction: bool = option(
        False, "Learn the correction of the predictions anew, too, each time that there are min_requests new requests."
    )
    seed: int = option(0, "seed of the batches and the draws")
    engine: Engine = option(
        "auto", "of network and Adam: fused, the C++ core; torch; auto, the core if it covers the policy"
    )
    reward: RewardConfig = option(RewardConfig(), "what feedback and predictions of a page are worth")
    guardrails: GuardrailConfig = option(
        GuardrailConfig(), "Limits that every version keeps; those that it was trained with are the default."
    )
    step: Stage2Config = option(
        Stage2Config(steps=25, batch_size=256, learning_rate=6e-4), "of an update, at a constant rate"
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LogOptions, Output, Cluster, Tracking, TrainConfig):
    """Train a fusion policy on logged requests, ask by cross-fitting whether it beats the strongest simple baseline,
    and judge it on the latest requests.

    The directory gets policy/ (what to serve: the new ranking, as far as the log supports it), stage1/ and stage2/ (not
    mixed, none with --no-grade), metrics.jsonl, checkpoints/, folds/, evaluation.json and report.html. An interrupted
    training continues from its last checkpoint if the data and the options are the same.

    Example: pygrade train --data logs:runs/demo/logs --out runs/mine
    """

    ESSENTIAL: ClassVar = (
        *("values", "value_tasks", "prior", "production", "holdout", "resume", "seed", "device", "threads"),
        *("track", "cluster"),
    )

    out: Place = required("directory to write")
    prior: Place | None = option(None, "policy of another market, whose correction is a start for this one's")
    holdout: float = option(
        0.2, "share of the requests, the latest, that judges and trains nothing; 0: none", ge=0, lt=1
    )
    resume: bool = option(True, "continue from the checkpoints in --out; --no-resume removes them")
