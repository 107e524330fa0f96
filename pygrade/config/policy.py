"""Options of a fusion policy."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

Transform = Literal["identity", "log", "zscore", "zlog", "rank", "log1p"]
EvidenceScale = Literal["count", "log", "log1p"]


@dataclass(frozen=True)
class PolicyConfig:
    """Network, exploration, fusion formula and weight bounds of a `FusionPolicy`."""

    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    concentration_floor: float | None = None  # α_min > 0; None: 0.3 / T
    # κ > 0, the width of exploration. Above about 60 small logit changes make large probability ratios (× 22 at 300).
    total_concentration: float = 10.0
    transform: Transform = "zlog"  # f_t of the fused score Σ_t w_t f_t(p_t)
    beta: float = 1e-7  # added to predictions before the logarithm
    epsilon: float = 1e-3  # added to the standard deviation of a z-score
    slope: float | tuple[float, ...] = 1.0  # ≥ 0, for all tasks or one each: log1p is log(1 + slope_t p_t)
    # Leave out the inputs from the predictions: mean and std over the candidates of log(p + beta), per task. Such a
    # policy can be evaluated beside the model that makes the predictions.
    context_only: bool = False
    trade_offs: bool = False  # the policy takes multipliers u of the tasks' values: log(u + beta) of each is an input
    corrected: bool = False  # the inputs from the predictions, and its scores, take corrected predictions
    value_tasks: tuple[str, ...] = ()  # tasks whose prediction is multiplied by the item's price in its scores
    indicators: tuple[str, ...] = ()  # features of which it is an input, 1 or 0, that they are missing
    lower: float | tuple[float, ...] = 0.005  # smallest weight served, for all tasks or one each
    upper: float | tuple[float, ...] = 0.70  # largest weight served, for all tasks or one each
    minimum: dict[str, float] = field(default_factory=dict)  # smallest weight of single tasks, above `lower`
    frozen: dict[str, float] = field(default_factory=dict)  # weights of single tasks that are not learned
    # Multipliers of the tasks' values, if a request gives none.
    values: dict[str, float] = field(default_factory=dict)
    scenario_values: dict[str, dict[str, float]] = field(default_factory=dict)  # the same for single scenarios
    # Factor on the concentration by scenario: below 1 explores more widely, above 1 less.
    scenario_exploration: dict[str, float] = field(default_factory=dict)
    # Shrinkage of the served weights for users of whom little is known.
    evidence_feature: str = ""  # name of the context feature that holds n, the evidence; below 0 or NaN: 0
    evidence_scale: EvidenceScale = "count"  # the feature is n (count), log(n) (log) or log(1 + n) (log1p)
    evidence_prior: float = 0.0  # m ≥ 0, the evidence that the scenario's weights are worth; 0: off

    def __post_init__(self) -> None:
        for name in ("hidden", "slope", "lower", "upper", "value_tasks", "indicators"):  # JSON gives lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {self.hidden}; want at least one positive width")
        positive = {"total_concentration": self.total_concentration, "beta": self.beta, "epsilon": self.epsilon}
        if self.concentration_floor is not None:
            positive["concentration_floor"] = self.concentration_floor
        positive |= {f"scenario_exploration[{key!r}]": factor for key, factor in self.scenario_exploration.items()}
        for name, value in positive.items():
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; want a positive number")
        if self.transform not in get_args(Transform):
            raise ValueError(f"transform is {self.transform!r}; want one of {', '.join(get_args(Transform))}")
        if self.evidence_scale not in get_args(EvidenceScale):
            raise ValueError(
                f"evidence_scale is {self.evidence_scale!r}; want one of {', '.join(get_args(EvidenceScale))}"
            )
        if not (self.evidence_prior >= 0.0 and math.isfinite(self.evidence_prior)):
            raise ValueError(f"evidence_prior is {self.evidence_prior}; want a number ≥ 0")
        if (self.values or self.scenario_values) and not self.trade_offs:
            raise ValueError("values and scenario_values need trade_offs: a policy that takes multipliers")
        slopes = self.slope if isinstance(self.slope, tuple) else (self.slope,)
        if not slopes or not all(slope >= 0.0 and math.isfinite(slope) for slope in slopes):
            raise ValueError(f"slope is {self.slope}; want one number ≥ 0 or one per task")
