"""Options of a console."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsoleConfig:
    """How much a console holds."""

    requests: int = 300  # requests whose candidates it holds, evenly spaced over the held-out ones
    judge: int = 4000  # held-out requests, the latest, that judge its weights
    k: int = 10  # ranks that count
    propensity: float | None = None  # exponent of the slots' propensity; none: estimate it from the log

    def __post_init__(self) -> None:
        for name in ("requests", "judge", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
