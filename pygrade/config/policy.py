"""Options of a fusion policy."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pygrade import _core
from pygrade.config.option import Options, option

if TYPE_CHECKING:
    Transform = str
else:
    Transform = Literal[tuple(_core.transforms)]  # the core's table: its names are the choices
EvidenceScale = Literal["count", "log", "log1p"]


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Network, exploration, fusion formula and weight bounds of a `FusionPolicy`."""

    PYTHON_ONLY: ClassVar = (  # not on the command line
        *("concentration_floor", "task_values", "beta", "epsilon", "corrected", "value_tasks", "indicators", "boosts"),
        *("scenario_boosts",),
    )

    hidden: tuple[int, ...] = option((64, 64), "widths of the MLP's hidden layers", ge=1)
    concentration_floor: float | None = option(None, "α_min > 0; None: 0.3 / T", gt=0, lt=math.inf)
    total_concentration: float = option(
        10.0,
        "κ > 0: the larger, the less draws explore. Above about 60 small logit changes make large probability "
        "ratios (× 22 at 300).",
        gt=0,
        lt=math.inf,
    )
    transform: Transform = option("zlog", "f_t of the fused score Σ_t w_t f_t(p_t)")
    beta: float = option(1e-7, "added to predictions before the logarithm", gt=0, lt=math.inf)
    epsilon: float = option(1e-3, "added to the standard deviation of a z-score", gt=0, lt=math.inf)
    slope: float | tuple[float, ...] = option(
        1.0, "≥ 0, for all tasks or one each: log1p is log(1 + slope_t p_t)", ge=0, lt=math.inf
    )
    context_only: bool = option(
        False,
        "Leave out the inputs from the predictions: mean and std over the candidates of log(p + beta), "
        "per task. Such a policy can be evaluated beside the model that makes the predictions.",
    )
    trade_offs: bool = option(
        False, "the network reads what the tasks are worth in a request, v, as log(v over the log's value + beta)"
    )
    task_values: tuple[float, ...] = option((), "values of the tasks in the training, with trade_offs; default: 1 each")
    corrected: bool = option(False, "the inputs from the predictions, and its scores, take corrected predictions")
    value_tasks: tuple[str, ...] = option((), "tasks whose prediction is multiplied by the item's price in its scores")
    indicators: tuple[str, ...] = option((), "features whose missingness is an extra 0/1 input")
    lower: float | tuple[float, ...] = option(0.005, "smallest weight served, for all tasks or one each")
    upper: float | tuple[float, ...] = option(0.70, "largest weight served, for all tasks or one each")
    minimum: dict[str, float] = option({}, "smallest weight of single tasks, above `lower`")
    frozen: dict[str, float] = option({}, "weights of single tasks that are not learned")
    values: dict[str, float] = option({}, "What an event of a task is worth, if a request does not say it.")
    scenario_values: dict[str, dict[str, float]] = option({}, "the same for single scenarios")
    boosts: dict[str, float] = option(
        {}, "Added to the score, standardized within the request, of items by item column, times the column."
    )
    scenario_boosts: dict[str, dict[str, float]] = option({}, "the same for single scenarios")
    scenario_exploration: dict[str, float] = option(
        {}, "Factor on the concentration by scenario: below 1 explores more widely, above 1 less."
    )
    # Shrinkage of the served weights for users of whom little is known.
    evidence_feature: str = option("", "name of the context feature that holds n, the evidence; below 0 or NaN: 0")
    evidence_scale: EvidenceScale = option("count", "the feature is n (count), log(n) (log) or log(1 + n) (log1p)")
    evidence_prior: float = option(
        0.0, "m, the evidence that the scenario's weights are worth; 0: off", ge=0, lt=math.inf
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise ValueError("hidden is (); expected at least one width")
        for scenario, factor in self.scenario_exploration.items():
            if not (factor > 0.0 and math.isfinite(factor)):
                raise ValueError(f"scenario_exploration[{scenario!r}] is {factor}; expected a number above 0")
        for name, table in {"boosts": self.boosts, **self.scenario_boosts}.items():
            if wrong := [column for column, boost in table.items() if not math.isfinite(boost)]:
                raise ValueError(f"{name} is {table[wrong[0]]} for {wrong[0]!r}; expected a finite number")
        if self.slope == ():
            raise ValueError("slope is (); expected one number or one per task")
