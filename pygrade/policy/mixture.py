"""Mixture of a policy and a simple baseline.

    score_j = (1 - λ) · z(b_j) + λ · z(Σ_t w_t f_t(p_jt)),    z(s) = (s - mean) / (sd + 10⁻⁶) within the request

λ is the `mixture_weight`: 0 serves the baseline alone, 1 the policy alone. The baseline's score of candidate j is
b_j = Σ_t v_t g_t(price_j · c_t(p_jt)), or its logarithm where no value is below 0: an expected value, or a fusion by
static weights, of the predictions or of corrected ones. A challenger is such a ranking, too, in the place of
the policy's network.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import _core
from pygrade.ops.fusion import TRANSFORMS

Knots = tuple[tuple[float, ...], tuple[float, ...]]
Verdict = Literal["better", "undecided", "worse", "undecidable", "untested"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
_NAME_BYTES = 64  # of a baseline in the C ABI's page, with a closing 0
_REASONS = 3
_SERVED = ("mixture_weight", "baseline", "challenger")
EPSILON = 1e-6  # added to the standard deviation of the scores: small, as expected values are


@dataclass(frozen=True)
class Baseline:
    """A ranking that needs no policy."""

    name: str
    transform: str  # g of `ops.fuse_scores`; expected value: identity
    weights: tuple[float, ...]  # [T] values of events, or static weights
    logarithm: bool = False  # the score is log(score + beta), for an expected value
    value_tasks: tuple[str, ...] = ()  # tasks whose prediction is multiplied by the item's value (its price)
    # Per task the knots (x, y) of a piecewise linear map of its predictions, x[0] = 0; none: as they are.
    calibration: tuple[Knots, ...] = ()
    corrected: bool = False  # of predictions that the policy's correction corrected

    def __post_init__(self) -> None:
        for name in ("weights", "value_tasks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        knots = tuple((tuple(x), tuple(y)) for x, y in self.calibration)
        object.__setattr__(self, "calibration", knots)
        if not 1 <= len(self.name.encode()) < _NAME_BYTES:
            raise ValueError(f"name is {self.name!r}; expected 1 to {_NAME_BYTES - 1} bytes of UTF-8")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform is {self.transform!r}; expected one of {', '.join(TRANSFORMS)}")
        if not self.weights or not all(map(math.isfinite, self.weights)) or not any(self.weights):
            raise ValueError(f"weights is {self.weights}; expected finite numbers, not all 0")
        if self.logarithm and (min(self.weights) < 0 or self.transform != "identity"):
            raise ValueError(f"logarithm needs the identity and weights ≥ 0; got {self.transform}, {self.weights}")
        if knots and len(knots) != len(self.weights):
            raise ValueError(f"calibration has {len(knots)} maps; expected one for each of {len(self.weights)} tasks")
        for x, y in knots:
            rising = len(x) == len(y) >= 2 and x[0] == 0 and bool((np.diff(np.array(x, np.float32)) > 0).all())
            if not rising or min(y) < 0 or bool((np.diff(y) < 0).any()) or not all(map(math.isfinite, (*x, *y))):
                raise ValueError(f"calibration has knots {x}, {y}; expected x from 0, rising, and y ≥ 0, not falling")

    @property
    def is_expected_value(self) -> bool:
        """It is an expected value, so that it holds for other values of the tasks; none else has weights below 0."""
        return self.transform == "identity" and (self.logarithm or self.corrected or min(self.weights) < 0)

    def at(self, values: Sequence[float]) -> "Baseline":
        """The expected value at other values [T] of the tasks."""
        return replace(self, weights=tuple(values), logarithm=self.logarithm and min(values) >= 0)


@dataclass(frozen=True)
class Mixture:
    """The baseline that a policy is mixed with, and the log's evidence for the policy."""

    mixture_weight: float  # λ
    baseline: Baseline
    verdict: str = "untested"  # one of `VERDICTS`: what is served against the baseline
    sentence: str = ""  # the verdict for those who decide
    baselines: tuple[Baseline, ...] = field(default=(), compare=False)  # the others that were tried, for evaluations
    challenger: Baseline | None = None  # in the place of the policy's network
    detail: str = ""  # the verdict for engineers, one line
    reasons: tuple[str, ...] = ()  # what moved it, at most three lines
    lift: tuple[float, float, float] | None = None  # of what is judged, over `control`: value, low, high; .01 is 1 %
    weeks: float | None = None  # of the log's own traffic that an A/B test takes
    control: str = ""  # the ranking that lift and verdict are over; "": the baseline
    unproven: str = ""  # why what is served is not shown to be as good as production, in words; "": it is

    def __post_init__(self) -> None:
        for name in ("reasons", "lift"):
            if isinstance(getattr(self, name), list):  # of JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.reasons) > _REASONS:
            raise ValueError(f"reasons has {len(self.reasons)} lines; expected at most {_REASONS}")
        if self.lift is not None and not (len(self.lift) == 3 and all(map(math.isfinite, self.lift))):
            raise ValueError(f"lift is {self.lift}; expected a value, a lower and an upper bound")
        if self.weeks is not None and not 0 < self.weeks < math.inf:
            raise ValueError(f"weeks is {self.weeks}; expected a positive number, or None")
        if not 0.0 <= self.mixture_weight <= 1.0:
            raise ValueError(f"mixture_weight is {self.mixture_weight}; expected a number from 0 to 1")
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is {self.verdict!r}; expected one of {', '.join(VERDICTS)}")

    @property
    def ranked_by(self) -> tuple[Baseline, ...]:
        """Those whose scores count: the challenger unless mixture_weight is 0, the baseline unless it is 1."""
        challenger = () if self.challenger is None or self.mixture_weight == 0.0 else (self.challenger,)
        return challenger if self.mixture_weight == 1.0 else (*challenger, self.baseline)

    @property
    def uses_network(self) -> bool:
        """The scores of the policy's network count."""
        return self.mixture_weight > 0.0 and self.challenger is None

    @property
    def expected_value(self) -> Baseline | None:
        """The ranking of requests that give task values, if the policy has no trade-offs; None if there is none."""
        return max((b for b in self.ranked_by if b.is_expected_value), key=lambda b: b.corrected, default=None)

    def served(self) -> dict[str, Any]:
        """The part that decides what is served, as JSON."""
        return {name: value for name, value in asdict(self).items() if name in _SERVED}

    def described(self) -> dict[str, Any]:
        """The other part; without `unproven` if that is "", as before there was one."""
        left_out = _SERVED if self.unproven else (*_SERVED, "unproven")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Mixture":
        """Read a mixture back from the JSON of a policy, both parts together."""
        challenger = record["challenger"]
        made = {
            "baseline": Baseline(**record["baseline"]),
            "baselines": tuple(Baseline(**entry) for entry in record["baselines"]),
            "challenger": None if challenger is None else Baseline(**challenger),
        }
        return cls(**{**record, **made})


def mix_scores(
    base: NDArray[Any], other: NDArray[Any], mixture_weight: float, offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the scores of a mixture, (1 - λ) · z(base) + λ · z(other), as the core's ranker makes them, float32 [M].

    base, other [M]: scores of the candidates of requests, which end at offsets [R + 1]; mixture_weight: λ.
    """
    first, second = (np.ascontiguousarray(scores, np.float32) for scores in (base, other))
    result = np.empty(len(first), np.float32)
    _core.mix_scores(first, second, mixture_weight, offsets, result, torch.get_num_threads())
    return result


def request_values(
    values: Mapping[str, float] | NDArray[Any] | Any | None, tasks: tuple[str, ...], count: int
) -> NDArray[np.float32] | None:
    """v [count, T] of requests: a mapping task → v, an array [T] or [count, T], or a list of mappings; NaN: not given.

    ValueError names an unknown task and a shape that does not fit; `_core` refuses numbers.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return np.tile(_row(values, tasks), (count, 1))
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], Mapping):
        if len(values) != count:
            raise ValueError(f"values has {len(values)} mappings; expected one, or one for each of {count} requests")
        return np.stack([_row(entry, tasks) for entry in values])
    try:
        table = np.array(values, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"values is {values!r}; expected a mapping of tasks to numbers, or an array") from error
    if table.shape == (len(tasks),):
        table = np.tile(table, (count, 1))
    if table.shape != (count, len(tasks)):
        raise ValueError(f"values has shape {table.shape}; expected {(len(tasks),)} or {(count, len(tasks))}")
    return table


def _row(values: Mapping[str, float], tasks: tuple[str, ...]) -> NDArray[np.float32]:
    unknown = [task for task in values if task not in tasks]
    if unknown:
        raise ValueError(f"values names task {unknown[0]!r}; expected one of {', '.join(tasks)}")
    return np.array([values.get(task, np.nan) for task in tasks], np.float32)
