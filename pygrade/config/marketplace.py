"""The constants of the synthetic marketplace."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from pygrade.config.option import Options, option

PerTask = tuple[float, float, float, float, float, float]
PerTrait = PerTask

TASKS = ("click", "cart", "order", "like", "share", "dwell")
TASK_VALUES: PerTask = (1.0, 3.0, 60.0, 2.0, 4.0, 2.0)  # business value of one event
PRODUCTION_WEIGHTS: PerTask = (0.20, 0.25, 0.30, 0.05, 0.05, 0.15)  # hand-tuned, for z-scored log predictions
SEGMENTS = ("buy", "price", "browse", "social", "casual")
TRAITS = ("intent", "price", "browse", "social", "quality", "patience")
SCENARIOS = ("feed", "category", "search")  # by rising specificity of the query
SEGMENT_TRAITS = (  # mean of TRAITS in each segment
    (1.1, -0.3, -0.5, -0.4, 0.3, 0.0),
    (0.2, 1.2, -0.2, -0.2, -0.2, 0.4),
    (-0.7, -0.2, 1.0, 0.1, 0.0, 0.5),
    (-0.3, -0.3, 0.4, 1.4, 0.0, 0.1),
    (-0.5, 0.0, 0.1, -0.2, 0.0, -0.8),
)
TRAIT_SPREAD = 0.6  # sd of a trait within its segment
MATCH_DIMENSIONS = 6  # of the taste and need vectors
LOG_HISTORY_SD = 1.1  # sd over users of the log of their past interactions
FREQUENCY_EXPONENT = 0.6  # a user's requests ∝ history^this
SPECIFICITY_INTENT = 0.9  # a fully specific query raises intent by this, an empty one lowers it
SPECIFICITY_BROWSE = -0.5  # the same for browsing
SESSION_SPREAD = (0.6, 0.3, 0.5, 0.3, 0.15, 0.15)  # sd of each trait's shift in a session
SCENARIO_BOUNDS = (1 / 3, 2 / 3)  # specificity from which one is category, search
SHOPPING_SLOPE = 1.6  # shopping = sigmoid(slope · (intent - browse · trade))
SHOPPING_BROWSE_TRADE = 0.6  # how much browsing offsets intent
QUALITY_SENSITIVITY = (0.5, 0.5)  # a + b · tanh(trait)
PRICE_SENSITIVITY = (0.25, 0.35)  # a + b · softplus(trait)
ENTERTAINMENT_SENSITIVITY = (0.15, 0.35)  # a + b · softplus(browse trait)
SOCIAL_SENSITIVITY = (0.1, 0.5)  # a + b · softplus(social trait)
HYPE_QUALITY_CORRELATION = -0.35  # negative: hyped items tend to be poor
PRICE_QUALITY_CORRELATION = 0.3  # positive: good items cost more
PRERANK_MATCH = 0.5  # prerank score = this · (taste + need) + …
PRERANK_QUALITY = 0.35  # … + this · quality
PRERANK_HYPE = 0.25  # … + this · hype
PRERANK_NOISE = 0.8  # … + this · noise
ATTENTION_EXPONENT = 0.45  # an item in 1-based slot k gets attention with k^-this, if reached
LEAVE_INTERCEPT = -2.3  # logit of leaving after an item
LEAVE_PATIENCE = -0.5  # change of it with the user's patience
LEAVE_HYPE = 0.30  # with the item's hype
LEAVE_MATCH = -0.25  # with the mean of its taste and need match
LEAVE_QUALITY = -0.15  # with the item's quality
TRAIT_NOISE = 0.35  # sd of the permanent error of an observed trait
TRAIT_NOISE_COLD = 1.4  # further sd / √(1 + history)
TRAIT_NOISE_SESSION = 0.3  # sd of a new error in each request
SEGMENT_WRONG = 0.25  # share of wrong segment guesses
SEGMENT_WRONG_COLD = 0.3  # further share / √(1 + history)
SPECIFICITY_NOISE = 0.15  # sd of the error of the observed specificity
MOST_SLOTS = 12  # with effects between the items of a page, which are summed over all sets of items looked at
PARENT = (-1, 0, 1, 0, 0, 0)  # click → cart → order; like, share and dwell follow a click


@dataclass(frozen=True)
class Effects(Options):
    """Coefficients of the logit of each event given its parent event, one per task (click, cart, order, like, share,
    dwell). `shopping` is the session's mode, 0 (browsing) to 1; `_shopping` terms are added times the mode.
    """

    intercept: PerTask = option((-3.0, -3.2, -2.9, -2.2, -3.5, -1.0), "base rate")
    taste: PerTask = option((1.0, 0.1, 0.0, 0.5, 0.4, 0.8), "match of user and item in content")
    taste_shopping: PerTask = option((-0.75, 0.0, 0.0, 0.0, 0.0, 0.0), "added to taste, times the mode")
    need: PerTask = option((0.25, 0.8, 0.6, 0.0, 0.0, 0.0), "match of user and item in purchase need")
    need_shopping: PerTask = option((0.75, 0.0, 0.0, 0.0, 0.0, 0.0), "added to need, times the mode")
    hype: PerTask = option((0.45, -0.30, -0.50, 0.0, 0.0, -0.40), "clickbait: gains clicks, loses later events")
    quality: PerTask = option((0.15, 0.0, 0.0, 0.0, 0.0, 0.0), "effect of the item, the same for all users")
    quality_by_user: PerTask = option((0.0, 0.7, 0.6, 0.0, 0.0, 0.0), "times the user's sensitivity to quality")
    price_by_user: PerTask = option((-0.45, -0.8, -0.7, 0.0, 0.0, 0.0), "the price, times the user's sensitivity to it")
    entertainment: PerTask = option((0.0, 0.0, 0.0, 0.5, 0.3, 0.0), "effect of the item, the same for all users")
    entertainment_by_user: PerTask = option((0.91, 0.0, 0.0, 0.0, 0.0, 0.9), "times the user's sensitivity to it")
    entertainment_by_user_shopping: PerTask = option((-0.7, 0.0, 0.0, 0.0, 0.0, 0.0), "added to it, times the mode")
    social_by_user: PerTask = option((0.0, 0.0, 0.0, 0.9, 1.2, 0.0), "social appeal, times the user's liking of it")
    intent: PerTask = option((0.0, 1.1, 1.1, 0.0, 0.0, -0.4), "the user's intent itself")
    browse: PerTask = option((0.2, 0.0, 0.0, 0.0, 0.0, 0.6), "the user's inclination to browse")
    social: PerTask = option((0.0, 0.0, 0.0, 0.7, 0.8, 0.0), "the user's inclination to share")


# Effects at the end of a drift: orders dry up, clicks follow hype, and former buyers browse and share.
LATER = Effects(
    intercept=(-3.0, -2.6, -5.4, -1.6, -2.0, -0.6),
    taste=(1.4, 0.1, 0.0, 0.5, 0.4, 0.8),
    hype=(1.2, -0.9, -1.2, 0.0, 0.0, -1.2),
    social_by_user=(0.0, 0.0, 0.0, 1.3, 1.8, 0.0),
    intent=(0.0, 0.2, 0.2, 0.0, 0.4, 0.4),
)


@dataclass(frozen=True)
class PredictionErrors(Options):
    """Errors of the multi-task model, one number per task: logit_hat = bias + slope · (logit of shrunk long-term
    traits + hype · item hype) + item · e_item + (pair + cold / √(1 + history)) · noise.
    """

    bias: PerTask = option((0.0, 0.15, 0.35, 0.5, 0.6, 0.3), "added to the logit; positive: overestimates")
    slope: PerTask = option((0.95, 0.9, 0.75, 1.1, 1.15, 1.0), "below 1: underconfident, above 1: overconfident")
    item: PerTask = option((0.20, 0.30, 0.40, 0.30, 0.30, 0.25), "sd of an item's permanent error")
    pair: PerTask = option((0.25, 0.35, 0.45, 0.35, 0.35, 0.30), "sd of the error of a request and item")
    cold: PerTask = option((0.2, 0.5, 0.9, 0.4, 0.4, 0.3), "further sd for users with little history")
    hype: PerTask = option((0.0, 0.35, 0.60, 0.0, 0.0, 0.35), "hype that the model fails to discount")
    shrink: PerTask = option((0.3, 0.3, 0.5, 0.3, 0.3, 0.3), "0: knows the user's traits, 1: the population mean")


@dataclass(frozen=True)
class PageEffects(Options):
    """Effect of an item that the user looked at on the clicks on an item below it: their probability is multiplied by
    exp(strength · (same_category · same category + similarity · max(0, cosine of their vectors) + complement · the
    item's category goes with that of the one above)). Later events follow the click.
    """

    strength: float = option(0.0, "0: no item's outcome depends on the others; 0.5 is moderate, 1.5 strong", ge=0)
    same_category: float = option(-0.6, "below 0: similar items satiate")
    similarity: float = option(-0.4, "times the cosine of the items' taste and need, if positive")
    complement: float = option(
        0.0, "effect of an item whose category goes with that of the one above; positive: it helps"
    )
    session_taste: float = option(
        0.0,
        "Sd of the session's taste for each category, as a log factor of all events, which production's order knows "
        "and the logged predictions miss.",
        ge=0,
    )


@dataclass(frozen=True)
class Dynamics(Options):
    """A marketplace with a clock: requests are in the order of time, users of the log return, items die and others take
    their places, their appeal drifts, and what a user was shown loses: the probability of each event given its parent
    is multiplied by exp(-fatigue · Σ 2^(-hours since an earlier exposure / recovery)) over the exposures of this item
    to this user.
    """

    clock: bool = option(False, "users return in the order of time, even if nothing below is on")
    days: int = option(28, "days that the clock runs", ge=1)
    lifetime: float = option(
        0.0, "mean days until an item dies and a new one takes its place; 0: items live on", ge=0, lt=math.inf
    )
    fatigue: PerTask = option(
        (0.0,) * 6, "log factor lost by an exposure, of each event given its parent", ge=0, lt=math.inf
    )
    recovery: float = option(24.0, "hours until half of an exposure's fatigue is gone", gt=0, lt=math.inf)
    item_drift: float = option(
        0.0, "sd of an item's appeal, a log factor of its events that changes day by day", ge=0, lt=math.inf
    )
    trend: float = option(0.0, "sd of a category's appeal, likewise", ge=0, lt=math.inf)
    half_life: float = option(3.0, "days until half of an appeal is gone", gt=0, lt=math.inf)
    known: float = option(
        0.0, "share of what earlier requests tell of these log factors that the predictions include", ge=0, le=1
    )

    @property
    def on(self) -> bool:
        """Return whether the world has a clock."""
        return bool(self.clock or self.lifetime or any(self.fatigue) or self.item_drift or self.trend)


@dataclass(frozen=True)
class MarketplaceConfig(Options):
    """The world's constants. Traits and item attributes are in standard deviations."""

    # not on the command line
    PYTHON_ONLY: ClassVar = ("segment_shares", "log_history_mean", "dynamics", "effects", "later", "errors")

    log_users: int = option(20_000, "users that appear in the log", ge=1)
    test_users: int = option(10_000, "users of test requests only", ge=1)
    items: int = option(6_000, "items in the catalog", ge=1)
    pool: int = option(120, "items drawn per request, before the prerank")
    candidates: int = option(40, "kept by the prerank, to be ranked", ge=1)
    page_size: int = option(10, "items shown", ge=1)

    segment_shares: tuple[float, float, float, float, float] = option(
        (0.15, 0.25, 0.30, 0.15, 0.15), "of SEGMENTS", ge=0
    )
    heterogeneity: float = option(1.0, "scales all differences between users' traits")
    log_history_mean: float = option(2.0, "log of a user's past interactions")

    session: float = option(1.0, "scales all session shifts; 0: sessions have the user's long-term traits")

    pages: PageEffects = option(PageEffects())
    dynamics: Dynamics = option(Dynamics())
    drift: float = option(0.0, "0: constant effects; 1: the effects are `later` at time 1", ge=0, le=1)
    effects: Effects = option(Effects())
    later: Effects = option(LATER, "unknown to the multi-task model")
    errors: PredictionErrors = option(PredictionErrors())

    def __post_init__(self) -> None:
        super().__post_init__()
        # a few of the drawn items may be duplicates, which are dropped: hence twice the candidates
        if not self.page_size <= self.candidates <= self.pool // 2 or self.pool > self.items:
            raise ValueError(
                f"page_size {self.page_size}, candidates {self.candidates}, pool {self.pool}, items {self.items}; "
                "expected page_size ≤ candidates ≤ pool / 2 and pool ≤ items"
            )
        if self.pages.strength and self.page_size > MOST_SLOTS:
            raise ValueError(
                f"page_size is {self.page_size}, pages.strength {self.pages.strength}; expected at most {MOST_SLOTS} "
                "slots where items act on those below, or strength 0"
            )
        if abs(sum(self.segment_shares) - 1) > 1e-6:
            raise ValueError(f"segment_shares are {self.segment_shares}; expected shares that sum to 1")

    def effects_at(self, time: float) -> Effects:
        """Effects at a time from 0 to 1, interpolated between `effects` and `later`."""
        share = self.drift * time
        if share == 0:
            return self.effects
        pairs = {f.name: (getattr(self.effects, f.name), getattr(self.later, f.name)) for f in fields(Effects)}
        moved = {
            name: tuple((1 - share) * a + share * b for a, b in zip(*pair, strict=True)) for name, pair in pairs.items()
        }
        return Effects(**moved)
