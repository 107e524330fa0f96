"""Limits that the served ranking keeps."""

import math
import re
from dataclasses import dataclass

from pygrade.config.option import Options, option

_LIMIT = re.compile(r"(?:([^:<>=]+):\s*)?(share\s+)?([^\s<>=]+)\s*(>=|<=)\s*(\S+)")
_WANTED = (
    "expected 'TASK >= SHARE' of production's events, such as 'click >= 0.98', or 'share COLUMN >= SHARE' of the "
    "slots, such as 'share new >= 0.1', with <= or a scenario, 'search: click >= 0.98'"
)


@dataclass(frozen=True)
class Limit:
    """A bound that what is served keeps: of a task's events, as a share of production's, or of the share of the slots'
    attention that items with an item column get.
    """

    name: str  # a task, or "value"; with `share` an item column
    level: float
    upper: bool = False  # it is an upper bound
    share: bool = False
    scenario: str | None = None  # of its requests alone; None: of all

    def __str__(self) -> str:
        scope = "" if self.scenario is None else f"{self.scenario}: "
        return f"{scope}{'share ' if self.share else ''}{self.name} {'<=' if self.upper else '>='} {self.level:g}"

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Parse its text; ``ValueError`` says what is wrong with it.

        >>> Limit.parse("search: share new >= 0.1")
        Limit(name='new', level=0.1, upper=False, share=True, scenario='search')
        """
        match = _LIMIT.fullmatch(text.strip())
        try:
            level = math.nan if match is None else float(match[5])
        except ValueError:
            level = math.nan
        if match is None or not math.isfinite(level):
            raise ValueError(f"limits has {text!r}; {_WANTED}")
        share = match[2] is not None
        if not (0 < level < 1 if share else level > 0):
            wanted = "a share of the slots between 0 and 1" if share else "a share of production's events above 0"
            raise ValueError(f"limits has {text!r}; expected {wanted}")
        return cls(match[3], level, match[4] == "<=", share, None if match[1] is None else match[1].strip())


@dataclass(frozen=True)
class GuardrailConfig(Options):
    """Limits that the served ranking keeps, with a lower confidence bound on pages that nothing was learned from."""

    limits: tuple[str, ...] = option(
        (),
        "Events of a task as a share of production's, 'click >= 0.98'; the slots' attention that items with an item "
        "column get, 'share new >= 0.1'; of one scenario, 'search: click >= 0.98'.",
    )
    confidence: float = option(0.99, "confidence that all limits hold at once where they are measured", gt=0.5, lt=1)
    current_policy: str = option("", "directory of the policy served now, which stays where the limits cannot be met")

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = self.parsed
        scopes = [(limit.scenario, limit.share, limit.name, limit.upper) for limit in limits]
        for scope, limit in zip(scopes, limits, strict=True):
            if scopes.count(scope) > 1:
                raise ValueError(f"limits has {limit} beside another bound of the same; expected each once")
            other = [n for n in limits if scope[:3] == (n.scenario, n.share, n.name) and n.upper and not limit.upper]
            if other and other[0].level <= limit.level:
                raise ValueError(f"limits has {limit} and {other[0]}, which nothing meets")

    @property
    def parsed(self) -> tuple[Limit, ...]:
        """The limits."""
        return tuple(Limit.parse(text) for text in self.limits)
