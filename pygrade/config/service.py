"""Options of the join and of learning beside the service."""

from dataclasses import dataclass, field

from pygrade.config.training import OnlineConfig


@dataclass(frozen=True)
class JoinConfig:
    """How exposures and feedback are joined."""

    feedback_delay_ms: int = 3_600_000  # how long after its page an event may happen
    max_amount: float = 1e6  # largest amount of one event; a larger one is malformed
    rows_per_part: int = 500_000  # candidates that are joined at once, about

    def __post_init__(self) -> None:
        for name, least in (("feedback_delay_ms", 0), ("max_amount", 0), ("rows_per_part", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name):g}; want at least {least}")


@dataclass(frozen=True)
class ServiceConfig:
    """How the process follows the logs."""

    every_seconds: float = 60.0  # between updates
    save_seconds: float = 600.0  # between saves of the state, which also follow each publication
    exposure_delay_ms: int = 900_000  # within which exposures are in a complete file; events wait so long for them
    planned_users: int = 10_000  # of all arms, at which the lifts' intervals are narrowest; choose it in advance
    learn: bool = True  # else only the arms are read
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        limits = {"every_seconds": 0.01, "save_seconds": 0.0, "exposure_delay_ms": 0, "planned_users": 2}
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name):g}; want at least {least:g}")
