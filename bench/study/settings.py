"""The study's frozen configuration: `settings.json` beside this module."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pygrade.config.marketplace import MarketplaceConfig
from pygrade.config.option import Options

MAIN = "main"
Config = TypeVar("Config", bound=Options)


@dataclass(frozen=True)
class Arm:
    """A way to rank and how it is learned."""

    name: str
    title: str
    kind: str  # of `arms`
    package: str = ""  # without it the arm is left out
    options: dict[str, Any] = field(default_factory=dict)  # of the kind, and changes of the frozen training config


@dataclass(frozen=True)
class Regime:
    """A kind of world with a number of logged requests."""

    name: str
    of: str  # the kind of world
    requests: int  # logged requests to learn from
    arms: tuple[str, ...]
    world: dict[str, Any] = field(default_factory=dict)  # changes of `MarketplaceConfig`, nested names with dots
    reward: dict[str, Any] = field(default_factory=dict)  # changes of `RewardConfig`
    metric: str = "value"  # the metric that decides
    worlds: tuple[int, ...] = ()  # of its own; else the judging worlds
    wanted: float | None = None  # lift of what is served over expected value, in per cent

    @property
    def title(self) -> str:
        """Kind of world and size, for tables."""
        return f"{self.of}, {self.requests:,} logged requests"

    @property
    def marketplace(self) -> MarketplaceConfig:
        """The world's constants."""
        return override(MarketplaceConfig(), self.world)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the study's numbers."""

    development_worlds: tuple[int, ...]
    judging_worlds: tuple[int, ...]
    training_seeds: tuple[int, ...]
    test_requests: int
    train: dict[str, dict[str, Any]]  # changes of `TrainConfig`, by its parts
    arms: dict[str, Arm]
    regimes: dict[str, Regime]


@cache
def load_settings() -> Settings:
    """The frozen settings."""
    record = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
    arms = {
        name: Arm(name, entry.pop("title"), entry.pop("kind"), entry.pop("package", ""), entry)
        for name, entry in record["arms"].items()
    }
    named = record["paper"] | record["history"] | record["on top"]
    regimes = {name: _regime(record, name, **entry) for name, entry in named.items()}
    served = record["served"]
    for of in served["of"]:
        names = [*served["arms"], *(served["more"]["arms"] if of in served["more"]["of"] else ())]
        goals = served["wanted"].get(of, [None] * len(served["requests"]))
        for requests, wanted in zip(served["requests"], goals, strict=True):
            name = f"served-{of.replace(' ', '-')}-{requests // 1000}k"
            regimes[name] = _regime(record, name, of, requests, names, worlds=tuple(served["worlds"]), wanted=wanted)
    rest = {name: record[name] for name in ("test_requests", "train")}
    rest |= {name: tuple(record[name]) for name in ("development_worlds", "judging_worlds", "training_seeds")}
    return Settings(arms=arms, regimes=regimes, **rest)


def _regime(record: Mapping[str, Any], name: str, of: str, requests: int, arms: Sequence[str], **more: Any) -> Regime:
    """A regime of a kind of world, which may be like another one; small logs have another reward."""
    world, small = merged(record["worlds"][of], {"world": more.pop("world", {})}), record["small"]
    if "like" in world:
        world = merged(record["worlds"][world.pop("like")], world)
    reward = merged(world.get("reward", {}), small["reward"] if requests <= small["requests"] else {})
    return Regime(name, of, requests, tuple(arms), **(world | {"reward": reward} | more))


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A frozen dataclass with changed fields; ``a.b`` is field b of the dataclass in field a. Lists become tuples.

    ``ValueError`` for a name that is not a field.

    >>> override(MarketplaceConfig(), {"items": 500, "errors.bias": [0, 0, 0, 0, 0, 0]}).errors.bias
    (0, 0, 0, 0, 0, 0)
    """
    values, known = dict[str, Any](), vars(config)
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if name not in known:
            raise ValueError(f"{key!r} is not an option of {type(config).__name__}; expected one of {', '.join(known)}")
        old = values.get(name, known[name])
        if rest:
            value = override(old, {rest: value})
        elif isinstance(old, tuple) and (not isinstance(value, list | tuple) or len(value) != len(old)):
            raise ValueError(f"{key!r} is {value!r}; expected {len(old)} values, as in {list(old)}")
        elif type(old) in (int, float) and value is not None and type(value) not in (int, float):
            raise ValueError(f"{key!r} is {value!r}; expected a number")
        values[name] = _tuples(value)
    return replace(config, **values)


def merged(base: Mapping[str, Any], *more: Mapping[str, Any]) -> dict[str, Any]:
    """Options overridden by others; nested options are merged.

    >>> merged({"stage2": {"steps": 5}}, {"stage2": {"clip": 0.1}})
    {'stage2': {'steps': 5, 'clip': 0.1}}
    """
    result = dict(base)
    for changes in more:
        for key, value in changes.items():
            result[key] = merged(result.get(key, {}), value) if isinstance(value, Mapping) else value
    return result


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words with values in JSON.

    >>> parse_changes(["session=0.5", "errors.bias=[0,0,0,0,0,0]"])
    {'session': 0.5, 'errors.bias': [0, 0, 0, 0, 0, 0]}
    """
    result = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            if not equals:
                raise ValueError
            result[key] = json.loads(value)
        except ValueError:
            raise ValueError(f"{word!r} is not KEY=VALUE with a JSON value (a number or a list of them)") from None
    return result


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
