"""The study's frozen configuration: `settings.json` beside this module."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from bench.study.worlds import Shape
from pygrade.config.marketplace import MarketplaceConfig
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CemConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig

MAIN, STABILITY, TUNING = "main", "stability", "tuning"
Config = TypeVar("Config")


@dataclass(frozen=True)
class Arm:
    """A way to rank and how it is learned."""

    name: str
    title: str
    kind: str  # of `arm_kinds`
    extra: bool = False  # runs only with --full
    package: str = ""  # without it the arm is left out
    options: dict[str, Any] = field(default_factory=dict)  # of the kind, and changes of the frozen training config


@dataclass(frozen=True)
class Regime:
    """A kind of log and world."""

    name: str
    title: str
    requests: int  # logged requests to learn from
    arms: tuple[str, ...]
    world: dict[str, Any] = field(default_factory=dict)  # changes of `MarketplaceConfig`, nested names with dots
    reward: dict[str, Any] = field(default_factory=dict)  # changes of `RewardConfig`
    noise_tasks: int = 0  # useless predictions appended, of value 0
    judge: str = "value"  # the metric that decides
    family: str = ""  # the world of regimes that differ in the number of requests; "": not compared so
    sized: bool = False  # one of a family's further sizes: in its tables only
    worlds: int = 0  # number of worlds from the first one on; 0: the judging worlds
    first_world: int = 0  # of a part with worlds of its own; 0: the first judging world
    bend: str = ""  # of the predictions, see `worlds.Shape`
    truth: str = ""  # see `worlds.Shape`
    item_noise: float | None = None  # sd of the noise of the items' attributes that the log has; None: it has none
    prior: str = ""  # another market whose correction is known: related or unrelated; "": none
    group: str = ""  # the row of the tables on fresh worlds; "": not one of these

    @property
    def fresh(self) -> bool:
        """Whether it is of the worlds that judge the correction."""
        return bool(self.group)

    @property
    def shape(self) -> Shape:
        """How its world differs from the marketplace."""
        return Shape(self.bend, self.truth)

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
    oracle_requests: int  # logged requests with known true values for the oracles, in every regime
    train: TrainConfig
    arms: dict[str, Arm]
    regimes: dict[str, Regime]
    stability: dict[str, Any]
    tuning: dict[str, Any]

    @property
    def families(self) -> dict[str, list[Regime]]:
        """The regimes of each world by their number of requests."""
        result: dict[str, list[Regime]] = {}
        for regime in sorted(self.regimes.values(), key=lambda regime: regime.requests):
            if regime.family:
                result.setdefault(regime.family, []).append(regime)
        return {name: result[name] for name in dict.fromkeys(r.family for r in self.regimes.values() if r.family)}


@cache
def load_settings() -> Settings:
    """The frozen settings."""
    record = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
    arms = {
        name: Arm(
            name, entry.pop("title"), entry.pop("kind"), entry.pop("extra", False), entry.pop("package", ""), entry
        )
        for name, entry in (record["arms"] | record["beyond_arms"] | record["fresh"]["arms"]).items()
    }
    default = {MAIN: tuple(record["arms"])}
    regimes = {
        name: Regime(name, arms=tuple(entry.pop("arms", default.get(name, record["regime_arms"]))), **entry)
        for name, entry in record["regimes"].items()
    }
    regimes |= _sizes(record["sizes"], regimes)
    regimes |= _fresh(record["fresh"], regimes)
    parts = {
        "policy": PolicyConfig,
        "reward": RewardConfig,
        "static": CemConfig,
        "stage1": Stage1Config,
        "stage2": Stage2Config,
    }
    # The engine that the committed results were computed with: another one differs in the last bits.
    train = TrainConfig(engine="torch", **{name: kind(**record["train"][name]) for name, kind in parts.items()})
    rest = {name: record[name] for name in ("test_requests", "oracle_requests", "stability", "tuning")}
    rest |= {name: tuple(record[name]) for name in ("development_worlds", "judging_worlds", "training_seeds")}
    return Settings(train=train, arms=arms, regimes=regimes, **rest)


def _sizes(record: Mapping[str, Any], regimes: Mapping[str, Regime]) -> dict[str, Regime]:
    """Regimes again with other numbers of logged requests: ``accurate-2k``."""
    result = {}
    for base in record["of"]:
        for size, entry in record["regimes"].items():
            regime = regimes[base]
            changes = {"reward": merged(regime.reward, entry.get("reward", {})), "arms": tuple(record["arms"])}
            title = f"{regime.title}, {entry['title']}"
            result[f"{base}-{size}"] = replace(
                regime, **{**entry, **changes, "name": f"{base}-{size}", "title": title, "sized": True}
            )
    return result


def _fresh(record: Mapping[str, Any], regimes: Mapping[str, Regime]) -> dict[str, Regime]:
    """Regimes on worlds of their own, by size: ``fresh-default-2k``."""
    result = {}
    for group, entry in record["regimes"].items():
        base, changes = regimes[entry["like"]], entry.get("changes", {})
        for requests in entry["requests"]:
            small = {"prior_weight": 1.0} if requests <= record["small"] else {}
            arms = [*record["common"], *(entry.get("arms", {}).get(str(requests), []))]
            size = f"{requests // 1000}k" if requests >= 1000 else str(requests)
            name = f"fresh-{group.replace(' ', '-').replace(',', '')}-{size}"
            result[name] = replace(
                base,
                name=name,
                title=f"{group}, {requests:,} requests",
                requests=requests,
                arms=tuple(arms),
                reward=merged(base.reward, small),
                family="",
                sized=True,
                group=group,
                first_world=record["first_world"],
                worlds=entry.get("worlds", record["worlds"]),
                **changes,
            )
    return result


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A frozen dataclass with changed fields; ``a.b`` is field b of the dataclass in field a. Lists become tuples.

    ``ValueError`` for a name that is not a field.

    >>> override(MarketplaceConfig(), {"items": 500, "errors.bias": [0, 0, 0, 0, 0, 0]}).errors.bias
    (0, 0, 0, 0, 0, 0)
    """
    assert is_dataclass(config) and not isinstance(config, type)
    names = {entry.name for entry in fields(config)}
    values: dict[str, Any] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if name not in names:
            raise ValueError(f"{key!r} is not an option of {type(config).__name__}; want one of {', '.join(names)}")
        if rest:
            value = override(values.get(name, getattr(config, name)), {rest: value})
        old = values.get(name, getattr(config, name))
        if isinstance(old, tuple) and (not isinstance(value, list | tuple) or len(value) != len(old)):
            raise ValueError(f"{key!r} is {value!r}; want {len(old)} values, as in {list(old)}")
        number = isinstance(old, int | float) and not isinstance(old, bool) and value is not None
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{key!r} is {value!r}; want a number")
        values[name] = _tuples(value)
    try:
        return replace(config, **values)
    except TypeError as error:
        raise ValueError(f"{dict(changes)} does not fit {type(config).__name__}: {error}") from error


def changed(config: Any, unread: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, so that a new option changes no fingerprint.

    >>> changed(CemConfig(population=64))
    {'population': 64}
    """
    result = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if entry.name not in unread and value != default:
            result[entry.name] = changed(value) if is_dataclass(value) else value
    return result


def merged(base: Mapping[str, Any], *more: Mapping[str, Any]) -> dict[str, Any]:
    """Options overridden by others; nested options are merged, and ``a.b`` is option b of a.

    >>> merged({"stage2": {"steps": 5}}, {"stage2.clip": 0.1})
    {'stage2': {'steps': 5, 'clip': 0.1}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for changes in more:
        for key, value in changes.items():
            name, _, rest = key.partition(".")
            if rest:
                result[name] = merged(result.get(name, {}), {rest: value})
            elif isinstance(value, Mapping):
                result[name] = merged(result.get(name, {}), value)
            else:
                result[name] = value
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
