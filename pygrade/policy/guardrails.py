"""Guardrails of a policy: the limits that it keeps, and what was last measured of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pygrade.config.guardrails import Limit
from pygrade.metrics.texts import count_text
from pygrade.policy.mixture import Baseline

Tables = dict[str, Any]  # values, scenario_values, boosts and scenario_boosts of a `PolicyConfig`
_LEAST = 1e-3  # distance of an estimate from a limit that is told from 0
ALARM = "LIMITS"  # what begins the sentence of limits that are not kept
TABLES = ("values", "scenario_values", "boosts", "scenario_boosts")


@dataclass(frozen=True)
class LimitState:
    """A limit as measured on a log."""

    limit: str
    level: float
    value: float  # the estimate, in the limit's units: a share of production's events, or of the slots' attention
    bound: float  # the lower confidence bound of it, of an upper limit the upper one
    holds: bool  # the bound keeps the limit

    @property
    def word(self) -> str:
        """The state in words: "holds" by the bound, "is broken" by the estimate, or "is not proved": the estimate keeps
        the limit and the bound does not.
        """
        beyond = self.value <= self.level if Limit.parse(self.limit).upper else self.value >= self.level
        return "holds" if self.holds else "is not proved" if beyond else "is broken"

    def needs(self, requests: int, value: float | None = None) -> float:
        """Number of requests, like those measured, whose bound would keep the limit, if value (None: the estimate) were
        the estimate: bounds come closer with the root of the number.
        """
        beyond = abs((self.value if value is None else value) - self.level)
        return requests * ((self.value - self.bound) / max(beyond, _LEAST)) ** 2


@dataclass(frozen=True)
class Guardrails:
    """Limits, and the state of each on the pages where they were last solved; no part of what decides what is served.

    base: the policy's values and boosts without guardrails, from which the next solution starts. production: the
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
        """The states of the limits that the estimates break."""
        return tuple(state for state in self.states if state.word == "is broken")

    @property
    def unproved(self) -> tuple[LimitState, ...]:
        """The states of the limits that the estimates keep and the bounds do not."""
        return tuple(state for state in self.states if state.word == "is not proved")

    @property
    def sentence(self) -> str:
        """A sentence that reports for those who decide which limits hold."""
        kinds = [word for word, part in (("broken", self.broken), ("not proved", self.unproved)) if part]
        said = "limits hold" if self.hold else f"{ALARM}: limits are {' and '.join(kinds)}"
        if self.kept:
            said = f"{ALARM}: no price keeps all limits, and the policy in use stays"
        sure = f", with {100 * self.confidence:g} % for all at once" if self.confidence else ""
        return f"{said}: {'; '.join(map(self._said, self.states))}; on {self.num_requests:,} requests{sure}"

    def _said(self, state: LimitState) -> str:
        more = ""
        if state in self.unproved:
            more = (
                f"; about {count_text(max(state.needs(self.num_requests), 1.1 * self.num_requests))} requests would do"
            )
        return f"{state.limit} {state.word} ({state.value:.4g}, bound {state.bound:.4g}{more})"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Guardrails":
        """Read guardrails back from a `to_dict`."""
        production = None if record["production"] is None else Baseline(**record["production"])
        states = tuple(LimitState(**state) for state in record["states"])
        return cls(**{**record, "states": states, "production": production})
