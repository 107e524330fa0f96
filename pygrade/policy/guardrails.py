"""Guardrails of a policy: the limits that it keeps, and what was last measured of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pygrade.policy.mixture import Baseline

Tables = dict[str, Any]  # values, scenario_values, boosts and scenario_boosts of a `PolicyConfig`
ALARM = "LIMITS"  # what begins the sentence of limits that are not kept
TABLES = ("values", "scenario_values", "boosts", "scenario_boosts")


@dataclass(frozen=True)
class LimitState:
    """What was measured of a limit."""

    limit: str
    level: float
    value: float  # the estimate, in the limit's units: a share of production's events, or of the slots' attention
    bound: float  # the lower confidence bound of it, of an upper limit the upper one
    holds: bool  # the bound keeps the limit

    def __str__(self) -> str:
        return f"{self.limit} {'holds' if self.holds else 'is broken'} ({self.value:.4g}, bound {self.bound:.4g})"


@dataclass(frozen=True)
class Guardrails:
    """Limits, and the state of each on the pages where they were last solved; no part of what decides what is served.

    base: the policy's multipliers and boosts without guardrails, from which the next solution starts. production: the
    ranking whose events the limits on tasks are shares of; None: the log's order.
    """

    states: tuple[LimitState, ...]
    confidence: float  # that all bounds hold at once
    num_requests: int  # on which they were measured
    base: Tables = field(default_factory=dict)
    production: Baseline | None = None
    kept: bool = False  # limits could not be met, and this is the policy that was in use

    @property
    def hold(self) -> bool:
        """All limits are kept."""
        return all(state.holds for state in self.states)

    @property
    def broken(self) -> tuple[LimitState, ...]:
        """The states of the limits that are not."""
        return tuple(state for state in self.states if not state.holds)

    @property
    def sentence(self) -> str:
        """Whether the limits hold, for those who decide."""
        if self.kept:
            return f"{ALARM}: no price keeps all limits, and the policy in use stays; {self._states}"
        return f"limits hold: {self._states}" if self.hold else f"{ALARM}: limits are broken: {self._states}"

    @property
    def _states(self) -> str:
        return "; ".join(map(str, self.states))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Guardrails":
        """Of what `to_dict` gave."""
        production = None if record["production"] is None else Baseline(**record["production"])
        states = tuple(LimitState(**state) for state in record["states"])
        return cls(**{**record, "states": states, "production": production})
