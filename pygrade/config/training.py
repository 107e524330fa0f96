"""Options of training: reward, static weights, both stages, trust, correction, online learning."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pygrade.config.policy import PolicyConfig

Engine = Literal["auto", "fused", "torch"]

_SMALL = 5_000  # requests, up to which the prior weighs as much as the feedback


def check_engine(engine: str) -> None:
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; want one of {', '.join(get_args(Engine))}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; want a positive number")
    if getattr(config, "steps", 0) < 0:
        raise ValueError(f"steps is {config.steps}; want 0 or more")


@dataclass(frozen=True)
class RewardConfig:
    """Components of the composite reward and how they are measured. A weight of 0 switches a component off."""

    posterior: Literal["ips", "raw", "none"] = "ips"  # logged value, debiased by slot or not; none: off
    posterior_weight: float = 1.0  # of the logged value
    # Of the predicted value; None: by the size of the log, 1 up to 5,000 requests, 0.5 beyond.
    prior_weight: float | None = None
    # slope: scale each task's predictions by the regression slope of feedback on prediction (shrinks over-confident
    # tasks, drops uninformative ones); none: unscaled.
    prior_calibration: Literal["none", "slope"] = "none"
    format_weight: float = 0.03  # share of a page's value that 0.1 of weight outside the box costs
    # q(slot) = (slot + 1)^-exponent: the exponent, or estimated from the log, see `propensity`.
    propensity: Literal["estimate"] | float = "estimate"
    propensity_floor: float = 0.15  # smallest q that a label is divided by
    discount: Literal["attention", "dcg"] = "attention"  # D(r), what rank r counts: q of the slot, or 1 / log2(r + 2)
    page_size: int = 10  # ranks that count
    task_values: tuple[float, ...] | None = None  # value of one event of each task; None: what the log says
    value_tasks: tuple[str, ...] = ()  # tasks whose events are worth their value times the item's `value` (its price)
    # Multipliers u of the tasks' values, drawn for each request and step if the policy has `trade_offs`.
    values_spread: float = 1.0  # standard deviation of log u
    plain_share: float = 0.25  # share of the requests with u = 1

    def __post_init__(self) -> None:
        choices = {
            "posterior": ("ips", "raw", "none"),
            "discount": ("attention", "dcg"),
            "prior_calibration": ("none", "slope"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; want one of {', '.join(allowed)}")
        for name in ("posterior_weight", "prior_weight", "format_weight", "values_spread"):
            if not (getattr(self, name) is None or getattr(self, name) >= 0.0):
                raise ValueError(f"{name} is {getattr(self, name)}; want a number >= 0")
        if not self.has_posterior and self.prior_weight == 0.0:
            raise ValueError("posterior and prior are both off; want at least one of them")
        if isinstance(self.propensity, str):
            if self.propensity != "estimate":
                raise ValueError(f"propensity is {self.propensity!r}; want 'estimate' or an exponent")
        elif not 0.0 <= self.propensity <= 3.0:
            raise ValueError(f"propensity is {self.propensity}; want an exponent from 0 to 3")
        if not 0.0 < self.propensity_floor <= 1.0:
            raise ValueError(f"propensity_floor is {self.propensity_floor}; want a number in (0, 1]")
        if not 0.0 <= self.plain_share <= 1.0:
            raise ValueError(f"plain_share is {self.plain_share}; want a share from 0 to 1")
        if self.page_size < 1:
            raise ValueError(f"page_size is {self.page_size}; want at least 1")

    @property
    def has_posterior(self) -> bool:
        return self.posterior != "none" and self.posterior_weight > 0.0

    def sized(self, requests: int) -> "RewardConfig":
        """The same with the prior's weight for a log of so many requests."""
        return self if self.prior_weight is not None else replace(self, prior_weight=1.0 if requests <= _SMALL else 0.5)


@dataclass(frozen=True)
class CemConfig:
    """Search for the best static weights."""

    # cem: cross-entropy method; cmaes: CMA-ES of the `cmaes` package, which needs three times the iterations. Both
    # search over log-weights.
    method: Literal["cem", "cmaes"] = "cem"
    iterations: int = 10  # rounds of the search
    population: int = 32  # weight vectors tried in an iteration
    elite: int = 8  # of them, how many shape the next iteration (cem)
    subsample: int = 20000  # requests to score on, drawn once; all if there are fewer
    # The prior's weight in the search, as a share of its weight in the composite. Static weights have so few degrees of
    # freedom that the posterior alone determines them well; the prior only adds the bias of the predictions.
    prior_share: float = 0.0
    seed: int = 0  # of the draws and of the subsample

    def __post_init__(self) -> None:
        if self.method not in ("cem", "cmaes"):
            raise ValueError(f"method is {self.method!r}; want 'cem' or 'cmaes'")
        if not self.prior_share >= 0.0:
            raise ValueError(f"prior_share is {self.prior_share}; want a number >= 0")
        if min(self.iterations, self.subsample) < 1 or not 2 <= self.elite <= self.population:
            raise ValueError(
                f"iterations {self.iterations}, subsample {self.subsample}, elite {self.elite}, population "
                f"{self.population}; want iterations and subsample >= 1 and 2 <= elite <= population"
            )


@dataclass(frozen=True)
class Stage1Config:
    """Supervised start: LambdaLoss on the logged page."""

    steps: int = 400  # 0 leaves the stage out
    batch_size: int = 256  # requests a step, of those with any feedback
    learning_rate: float = 2e-3  # falls linearly to a tenth
    labels: Literal["ips", "raw"] = "ips"  # logged value divided by the slot's propensity, or as it is
    temperature: float = 1.0  # of the fused score
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size", "learning_rate", "temperature", "max_grad_norm")
        if self.labels not in ("ips", "raw"):
            raise ValueError(f"labels is {self.labels!r}; want 'ips' or 'raw'")


@dataclass(frozen=True)
class Stage2Config:
    """Group-relative fine-tuning (GRPO) with Dirichlet exploration."""

    steps: int = 500  # 0 leaves the stage out
    batch_size: int = 256  # requests a step
    group_size: int = 16  # G, weight vectors sampled for each
    inner_epochs: int = 2  # updates on one batch of samples
    learning_rate: float = 6e-4  # falls linearly to a tenth
    clip: float = 0.2  # ratios are cut to 1 ± clip
    clip_high: float | None = None  # another bound upwards; None: the same
    kl_coefficient: float = 0.01  # of KL(new ‖ stage 1), nats
    entropy_coefficient: float = 0.0  # of a bonus for wide exploration
    weight_floor: float = 1e-5  # weights are raised to it before both log-probabilities
    normalize: Literal["batch", "group", "component", "none"] = "batch"  # of the advantage, see `group_advantage`
    leave_one_out: bool = False  # a sample's baseline is the mean of the others
    advantage_clip: float | None = 5.0  # advantages are cut to ± this; None: not
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size", "group_size", "inner_epochs", "learning_rate", "clip", "max_grad_norm")


@dataclass(frozen=True)
class TrustConfig:
    """Cross-fitting: whether the policy is better than the strongest simple baseline, and how far to trust it."""

    folds: int = 4  # parts of the users; 0: off, the policy is served and nothing says that it beats a baseline
    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)  # λ tried; 1: the policy alone
    processes: int = 2  # that train folds at the same time, without --cluster

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}; want 0, or 2 or more")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares is {self.shares}; want numbers above 0, up to 1")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}; want 1 or more")


@dataclass(frozen=True)
class CorrectionConfig:
    """Correction of the predictions by context, before anything is weighed."""

    on: bool = True  # learn a correction, and let the gate decide whether it is served
    maps: bool = True  # let each prediction bend first, where the log shows that it has to
    items: bool = True  # levels of items, where their own held-out likelihood asks for them
    policy: bool = True  # GRADE learns from corrected predictions where they are licensed
    prior: str = ""  # directory of a policy of another market, whose correction is a start


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what `train` learns, and how it runs."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    static: CemConfig = field(default_factory=CemConfig)  # search for the static weights the policy starts from
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    trust: TrustConfig = field(default_factory=TrustConfig)
    correction: CorrectionConfig = field(
        default_factory=CorrectionConfig
    )  # of the predictions, before they are weighed
    seed: int = 0  # of the network, the batches and the draws
    device: str = "cpu"  # cpu or cuda
    engine: Engine = "auto"  # of network and Adam: fused, the C++ core; torch; auto, the core if it covers the policy
    # Requests of a logical shard. A log of more is never in memory: it is prepared on disk, and a step's gradient is a
    # sum over its shards, up to 64.
    shard_requests: int = 100_000
    # Requests of such a log, a uniform sample, that the simple baselines are fitted to and that trust is judged by.
    sample_requests: int = 20_000
    threads: int = 1  # of torch on the CPU; more do not help networks of this size
    checkpoint_every: int = 50  # steps between checkpoints
    heldout_every: int = 50  # steps between figures of the learning curves on held-out requests
    tensorboard: bool = True  # scalars, where tensorboard is installed

    def __post_init__(self) -> None:
        _check_positive(self, "threads", "checkpoint_every", "heldout_every", "shard_requests", "sample_requests")
        check_engine(self.engine)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; want 0 or more")


@dataclass(frozen=True)
class OnlineConfig:
    """How an `OnlineLearner` learns, and what it is held to."""

    window: int = 10_000  # newest requests with complete feedback to learn from
    min_requests: int = 1_000  # in the window before the first update
    feedback_delay_ms: int = 3_600_000  # after which a request's feedback counts as complete; later events are dropped
    max_pending_events: int = 100_000  # events kept whose request is not known yet
    max_amount: float = 1e6  # largest amount of one event; a larger one is refused as damaged
    max_regression: float = 0.02  # share of the reference's value by which a version may be worse
    confidence: float = 0.95  # of the interval that must lie below -max_regression to refuse or roll back
    # Half that interval as a share of the reference's value, above which learning pauses: at 1 the guard would not even
    # find a version that earns nothing. Lower, it protects more and learns less.
    max_reach: float = 1.0
    # Tasks that happen at most once on an item of a page, such as clicks: several events count as one. Beside the
    # service those of which the training log had only 0 and 1 are added.
    single_tasks: tuple[str, ...] = ()
    judge_window: int = 4_000  # newest requests of the window that judge; older ones may be stale
    min_effective_samples: int = 100  # of an estimate that may refuse or roll back
    holdout_fraction: float = 0.5  # of the requests with drawn weights: they judge and are never learned from
    # Learn the correction of the predictions anew, too, each time that there are min_requests new requests.
    correction: bool = False
    seed: int = 0  # of the batches and the draws
    engine: Engine = "auto"  # of network and Adam: fused, the C++ core; torch; auto, the core if it covers the policy
    reward: RewardConfig = field(default_factory=RewardConfig)
    step: Stage2Config = field(default_factory=lambda: Stage2Config(steps=25))  # of an update, at a constant rate

    def __post_init__(self) -> None:
        check_engine(self.engine)
        object.__setattr__(self, "single_tasks", tuple(self.single_tasks))
        for name in ("window", "min_requests", "max_pending_events", "judge_window", "min_effective_samples"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        for name in ("feedback_delay_ms", "max_regression", "max_amount", "max_reach"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a number >= 0")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; want a share between 0 and 1")
        if not 0 <= self.holdout_fraction <= 1:
            raise ValueError(f"holdout_fraction is {self.holdout_fraction}; want a share from 0 to 1")
