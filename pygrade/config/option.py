"""Fields of options: default, text, range and choices of each stand in one place."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
_MOST = 2**63  # whole numbers are below
Place = str | Path  # a path, or a URL as text


class Range(NamedTuple):
    """The numbers that an option takes."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value: float) -> bool:
        """True if the value is in the range. NaN is in none, infinity in none with an end (``lt=inf`` is one, too)."""
        return (
            (value >= self.ge if self.ge is not None else self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        """The range in words: from 0 to 1, from 0 to below 1, above 0 and up to 1, above 0, at least 1."""
        upper = self.le is not None or self.lt not in (None, math.inf)
        high = f"below {self.lt}" if self.le is None else f"{self.le}"
        if self.ge is None:
            return f"above {self.gt}" + (f" and {high if self.le is None else f'up to {high}'}" if upper else "")
        return f"from {self.ge} to {high}" if upper else f"at least {self.ge}"


def option(
    default: T,
    text: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    alias: str = "",
    unless: str = "",
    positional: bool = False,
) -> T:
    """A field with a default: its text for help and documentation, and the range of its number or numbers.

    A mapping is copied for each instance. alias: another name on the command line. unless: the option that has to be
    given on the command line if this one is not. positional: as of `required`.
    """
    extra: dict[str, Any] = {"text": text, "alias": alias, "unless": unless, "positional": positional}
    if (limits := Range(ge, gt, le, lt)) != Range():
        extra["range"] = limits
    if isinstance(default, Mapping):
        made: T = field(default_factory=lambda: type(default)(default), metadata=extra)  # type: ignore[call-arg]
        return made
    return field(default=default, metadata=extra)


def required(text: str, *, positional: bool = False) -> Any:
    """A field without a default. positional: on the command line it may come first, without its name."""
    return field(metadata={"text": text, "positional": positional})


def field_types(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return _hints(kind)


_hints = cache(get_type_hints)


def default_of(entry: Field[Any]) -> Any:
    """The default of a field; dataclasses.MISSING if it is required."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The choices of a ``Literal``, alone or beside other types; () for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) if get_origin(part) is Literal for choice in get_args(part))


@dataclass(frozen=True)
class Options:
    """Base of all options: a list becomes a tuple, as JSON and TOML have no tuples; ``ValueError`` names the first
    option that is out of its range or none of its choices.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, hint = getattr(self, entry.name), field_types(type(self))[entry.name]
            if isinstance(value, list):
                object.__setattr__(self, entry.name, value := tuple(value))
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(f"{entry.name} is {value!r}; expected one of {', '.join(map(str, get_args(hint)))}")
            limits = entry.metadata.get("range")
            numbers = value if isinstance(value, tuple) else (value,)
            if limits and not all(limits.holds(x) for x in numbers if isinstance(x, int | float)):
                kind = "" if str(limits).startswith("at least") else "numbers " if value is numbers else "a number "
                raise ValueError(f"{entry.name} is {value}; expected {kind}{limits}")
            whole = hint in (int, int | None, tuple[int, ...])
            if whole and any(x % 1 != 0 or abs(x) >= _MOST for x in numbers if isinstance(x, int | float)):
                raise ValueError(f"{entry.name} is {value}; expected a whole number below 2^63")
