"""Runs the study in units: one arm on one world with one training seed, with its result in one file.

A run that was killed continues with the missing units. A unit's file carries a fingerprint of everything that decides
its numbers; a result of other settings is computed again.
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.study.arm_kinds import run_arm
from bench.study.settings import MAIN, STABILITY, TUNING, Arm, Regime, Settings, changed, merged, parse_changes
from bench.study.trial import Trial
from pygrade import __version__
from pygrade._util.files import atomic_file
from pygrade._util.progress import progress_disabled
from pygrade._util.threads import torch_threads
from pygrade.config.training import TrainConfig
from pygrade.ops.info import collect
from pygrade.workers import LOCAL, LocalWorkers, Workers, wait_for_all

logger = logging.getLogger("pygrade")
FORMAT = 2  # of a unit's numbers: raise it if the default of an option changes
# Kinds that run once in a world: they do not depend on the training seed, or (from boosted on) cost too much.
_ONE_SEED = ("fixed", "baseline", "static", "estimates", "corrected", "boosted", "trust", "family", "kept", "served")
# Fields of a regime that do not decide a unit's numbers, or are in the unit's path.
_UNREAD = ("name", "title", "arms", "family", "sized", "worlds", "first_world", "group")
# Defaults when FORMAT was raised that the frozen settings name, and that are others today.
_FORMER: dict[str, dict[str, Any]] = {
    "reward": {"prior_weight": 0.5},
    "stage1": {"steps": 400, "batch_size": 256, "learning_rate": 2e-3},
    "stage2": {"steps": 500, "batch_size": 256, "learning_rate": 6e-4},
}
_QUICK_WORLD = {"log_users": 2000, "test_users": 1000, "items": 1000}
_QUICK_REQUESTS, _QUICK_STEPS = 2000, 40
# The largest value of each.
_QUICK_OPTIONS = {"steps": _QUICK_STEPS, "window": 600, "interval": 100, "intervals": 6, "truth": 500, "rounds": 40}


@dataclass(frozen=True)
class StudyConfig:
    """The parts of the study to run; `settings.json` decides their numbers."""

    full: bool = False  # also the other regimes, the further arms, the stability trainings and the tuning
    quick: bool = False  # two minutes with tiny settings on development worlds: shows that it runs, no evidence
    arms: tuple[str, ...] = ()  # only these arms; empty: all
    regimes: tuple[str, ...] = ()  # only these parts (regimes, stability, tuning); empty: main, with --full all
    world_seed: tuple[int, ...] = ()  # your own worlds instead of the judging worlds
    world_set: tuple[str, ...] = ()  # KEY=VALUE changes of the worlds' constants: session=0.5 errors.bias=[0,…]
    jobs: int = 1  # processes, one thread each, without --cluster

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; want at least 1")
        if any(seed < 0 for seed in self.world_seed):
            raise ValueError(f"world_seed is {self.world_seed}; want numbers >= 0")

    @property
    def publishable(self) -> bool:
        """Whether the settings are the frozen ones, on judging worlds."""
        return not (self.quick or self.world_seed or self.world_set)


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    regime: Regime
    world: int
    seed: int
    arm: Arm
    variant: dict[str, Any] = field(default_factory=dict)  # changed options of the arm, in the tuning

    @property
    def name(self) -> str:
        """The arm and the changed options."""
        return "+".join([self.arm.name, *(f"{key}={value}" for key, value in self.variant.items())])

    @property
    def options(self) -> dict[str, Any]:
        return merged(self.arm.options, self.variant)

    def path(self, out: Path) -> Path:
        """The file of its result."""
        return out / "units" / self.regime.name / f"world-{self.world}-seed-{self.seed}" / f"{self.name}.json"

    def fingerprint(self, settings: Settings) -> str:
        """Hash of everything that decides its numbers."""
        regime = changed(self.regime, unread=_UNREAD)
        train = changed(_as_at_format(settings.train), unread=("engine",))  # always torch
        inputs = [FORMAT, regime, self.arm.kind, self.options, train, settings.test_requests]
        inputs += [settings.oracle_requests] if self.arm.kind == "oracle" else []
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _as_at_format(train: TrainConfig) -> TrainConfig:
    """With today's default where it says what was the default when FORMAT was raised."""
    for part, former in _FORMER.items():
        options = getattr(train, part)
        today = {n: getattr(type(options)(), n) for n, value in former.items() if getattr(options, n) == value}
        train = replace(train, **{part: replace(options, **today)})
    return train


def scaled(settings: Settings, config: StudyConfig) -> Settings:
    """The settings with the config's worlds; tiny for a quick run."""
    changes = parse_changes(config.world_set)
    regimes = {name: replace(regime, world=regime.world | changes) for name, regime in settings.regimes.items()}
    settings = replace(settings, regimes=regimes, judging_worlds=config.world_seed or settings.judging_worlds)
    if config.quick:
        settings = _quick(settings, config)
    for regime in settings.regimes.values():
        _ = regime.marketplace  # an unknown constant is named before anything runs
    return settings


def _quick(settings: Settings, config: StudyConfig) -> Settings:
    train, worlds = settings.train, settings.development_worlds[:2]
    train = replace(
        train,
        stage1=replace(train.stage1, steps=_QUICK_STEPS),
        stage2=replace(train.stage2, steps=_QUICK_STEPS),
        static=replace(train.static, iterations=4),
    )
    regimes = {
        name: replace(regime, requests=min(regime.requests, _QUICK_REQUESTS), world=_QUICK_WORLD | regime.world)
        for name, regime in settings.regimes.items()
    }
    return replace(
        settings,
        judging_worlds=config.world_seed or worlds,
        training_seeds=settings.training_seeds[:1],
        test_requests=_QUICK_REQUESTS,
        oracle_requests=_QUICK_REQUESTS,
        stability={**settings.stability, "seeds": 2},
        tuning={**settings.tuning, "worlds": worlds},
        train=train,
        arms={name: replace(arm, options=_shortened(arm.options)) for name, arm in settings.arms.items()},
        regimes=regimes,
    )


def _shortened(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _shortened(value) if isinstance(value, dict) else min(value, _QUICK_OPTIONS.get(key, value))
        for key, value in options.items()
    }


def plan(settings: Settings, config: StudyConfig) -> list[Unit]:
    """Every unit of the requested parts in running order, under `scaled` settings."""
    parts = (*settings.regimes, STABILITY, TUNING)
    for label, names, known in (("arm", config.arms, settings.arms), ("part", config.regimes, parts)):
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is not a {label} of the study; want one of {', '.join(known)}")
    chosen = config.regimes or (parts if config.full else (MAIN,))
    units: list[Unit] = []
    for name in chosen:
        if name == TUNING:
            units += _tuning(settings, config)
            continue
        if name == STABILITY:
            main = settings.regimes[MAIN]
            regime = replace(main, name=STABILITY, arms=tuple(settings.stability["arms"]))
            seeds: Sequence[int] = range(settings.stability["seeds"])
        else:
            regime, seeds = settings.regimes[name], settings.training_seeds
        seeds = seeds[:1] if regime.fresh else seeds
        worlds = settings.judging_worlds
        if regime.worlds and config.publishable:
            first = regime.first_world or worlds[0]
            worlds = tuple(range(first, first + regime.worlds))
        wanted = [settings.arms[a] for a in regime.arms if not config.arms or a in config.arms]
        units += [
            Unit(regime, world, seed, arm)
            for world, seed in product(worlds, seeds)
            for arm in wanted
            if (seed == settings.training_seeds[0] or arm.kind not in _ONE_SEED)
            and (config.full or _is_asked(arm, config) or not arm.extra)
        ]
    return units


def _is_asked(arm: Arm, config: StudyConfig) -> bool:
    """An extra arm runs without --full only if it or its part is named."""
    return arm.name in config.arms or bool(config.regimes)


def _tuning(settings: Settings, config: StudyConfig) -> list[Unit]:
    regime = replace(settings.regimes[MAIN], name=TUNING)
    return [
        Unit(regime, world, settings.training_seeds[0], settings.arms[arm], {key: value})
        for world in settings.tuning["worlds"]
        for arm, grid in settings.tuning["arms"].items()
        if not config.arms or arm in config.arms
        for key, values in grid.items()
        for value in values
    ]


def run_units(
    units: list[Unit], settings: Settings, out: Path, jobs: int = 1, workers: Workers = LOCAL
) -> list[dict[str, Any]]:
    """The results of all units in their order; those in ``out`` are not computed again. jobs: processes of this
    machine, if no workers are given."""
    missing = [unit for unit in units if load_unit(unit, settings, out) is None]
    if len(missing) < len(units):
        logger.info(f"{len(units) - len(missing)} of {len(units)} results are already there")
    groups = [_Group(settings, tuple(group), out) for group in _groups(missing)]
    wait_for_all((LocalWorkers(jobs) if workers is LOCAL else workers).map(_run_group, groups, "study"))
    results = [load_unit(unit, settings, out) for unit in units]
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def load_unit(unit: Unit, settings: Settings, out: Path) -> dict[str, Any] | None:
    """The kept result, or None if there is none with these settings."""
    try:
        record: dict[str, Any] = json.loads(unit.path(out).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if record.get("fingerprint") == unit.fingerprint(settings) else None


def _groups(units: list[Unit]) -> Iterator[list[Unit]]:
    """Units that share a world, its log and stage 1."""
    table: dict[tuple[str, int, int], list[Unit]] = {}
    for unit in units:
        table.setdefault((unit.regime.name, unit.world, unit.seed), []).append(unit)
    yield from table.values()


@dataclass(frozen=True)
class _Group:
    """A job: units that share a world, its log and stage 1."""

    settings: Settings
    units: tuple[Unit, ...]
    out: Path

    def __str__(self) -> str:
        first = self.units[0]
        return f"{first.regime.name}, world {first.world}, seed {first.seed}"


def _run_group(group: _Group) -> None:
    """Compute and write each unit of a group; a line of each goes to the log."""
    with torch_threads(1):
        first = group.units[0]
        trial = Trial(group.settings, first.regime, first.world, first.seed)
        for unit in group.units:
            logger.info(_run_unit(group.settings, trial, unit, group.out))


def _run_unit(settings: Settings, trial: Trial, unit: Unit, out: Path) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {"regime": unit.regime.name, "world": unit.world, "seed": unit.seed}
    record |= {"arm": unit.arm.name, "variant": unit.variant, "fingerprint": unit.fingerprint(settings)}
    with progress_disabled():
        ranking = run_arm(trial, unit.arm.kind, unit.options)
    record["seconds"] = round(time.perf_counter() - wall, 2)
    record["cpu_seconds"] = round(time.process_time() - cpu, 2)
    record |= trial.measure(ranking)
    with atomic_file(unit.path(out)) as partial:
        partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    lift = record["lifts"]["expected"]["value"][0]
    where = f"{unit.regime.name}, world {unit.world}, seed {unit.seed}, {unit.name}"
    return f"{where}: value {100 * (lift or 0.0):+.2f} % over production, {record['seconds']:.1f} s"


def machine() -> dict[str, str | int]:
    """The machine and versions behind the numbers."""
    cpu = collect()["cpu"]
    versions = {"pygrade": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": cpu["model"], "cores": cpu["cores"], "instruction_set": cpu["instruction_set"]} | versions
