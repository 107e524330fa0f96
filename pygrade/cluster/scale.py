"""How many replicas of a service run."""

from dataclasses import dataclass
from typing import Any

_TARGET = 16.0  # requests of a replica at once, which autoscaling aims at


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many copies of the service run: a fixed number, or as many as the requests need."""

    replicas: int | None = None  # none: 1, or as `max_replicas` says
    min_replicas: int | None = None  # of autoscaling; none: 1
    max_replicas: int | None = None  # of autoscaling
    target_ongoing_requests: float | None = None  # of a replica at once, which autoscaling aims at

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            wanted = (int, float) if name == "target_ongoing_requests" else int
            if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
                raise TypeError(f"{name} is {value!r}; want a number")
        if self.replicas is not None and self.max_replicas is not None:
            raise ValueError("replicas and max_replicas rule each other out; want one of them")
        for name in ("min_replicas", "target_ongoing_requests"):
            if getattr(self, name) is not None and self.max_replicas is None:
                raise ValueError(f"{name} is {getattr(self, name):g}; want it with max_replicas alone")
        for name in ("replicas", "min_replicas", "max_replicas"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10_000:
                raise ValueError(f"{name} is {value}; want 1 to 10000")
        if self.max_replicas is not None and self.least > self.max_replicas:
            raise ValueError(f"min_replicas is {self.least}; want at most max_replicas, {self.max_replicas}")
        if self.target_ongoing_requests is not None and not self.target_ongoing_requests > 0:
            raise ValueError(f"target_ongoing_requests is {self.target_ongoing_requests:g}; want more than 0")

    @property
    def least(self) -> int:
        """Replicas that always run."""
        return (self.replicas if self.max_replicas is None else self.min_replicas) or 1

    def options(self) -> dict[str, Any]:
        """As Ray Serve takes them."""
        if self.max_replicas is None:
            return {"num_replicas": self.least}
        target = self.target_ongoing_requests or _TARGET
        scaling = {"min_replicas": self.least, "max_replicas": self.max_replicas, "target_ongoing_requests": target}
        return {"autoscaling_config": scaling}
