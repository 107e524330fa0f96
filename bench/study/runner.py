"""Runs the study in units: one arm on one world with one training seed, with its result in one file.

A run that was killed continues with the missing units. A unit's file carries a fingerprint of everything that decides
its numbers; a result of other settings is computed again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade._util.progress import progress_disabled
from pygrade._util.threads import torch_threads
from pygrade.workers import LOCAL, LocalWorkers, Workers, wait_for_all
from .arms import run_arm
from .settings import MAIN, Arm, Regime, Settings, merged, parse_changes
from .trial import Trial

logger = logging.getLogger("pygrade")
FORMAT = 3  # of a unit's numbers: raise it if the default of an option changes
_SEEDED = "grade"  # the kind that runs with every training seed
_QUICK_WORLD = {"log_users": 2000, "test_users": 1000, "items": 1000}
_QUICK_REQUESTS, _QUICK_STEPS = 2000, 40


@dataclass(frozen=True)
class StudyConfig:
    """The parts of the study to run; `settings.json` decides their numbers."""

    full: bool = False  # every regime
    quick: bool = False  # two minutes with tiny settings on development worlds: shows that it runs, no evidence
    arms: tuple[str, ...] = ()  # only these arms; empty: all
    regimes: tuple[str, ...] = ()  # only these regimes; empty: main, with --full all
    world_seed: tuple[int, ...] = ()  # your own worlds instead of the judging worlds
    world_set: tuple[str, ...] = ()  # KEY=VALUE changes of the worlds' constants: session=0.5 errors.bias=[0,…]
    jobs: int = 1  # processes, one thread each, without --cluster

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; expected at least 1")
        if any(seed < 0 for seed in self.world_seed):
            raise ValueError(f"world_seed is {self.world_seed}; expected numbers >= 0")

    @property
    def judging(self) -> bool:
        """Return whether the settings are the frozen ones, on judging worlds."""
        return not (self.quick or self.world_seed or self.world_set)


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    regime: Regime
    world: int
    seed: int
    arm: Arm

    def __str__(self) -> str:
        return f"{self.regime.name}, world {self.world}, seed {self.seed}, {self.arm.name}"

    def path(self, out: Path) -> Path:
        """The file of its result."""
        return out / "units" / self.regime.name / f"world-{self.world}-seed-{self.seed}" / f"{self.arm.name}.json"

    def fingerprint(self, settings: Settings) -> str:
        """Hash of everything that decides its numbers."""
        regime = [self.regime.requests, self.regime.world, self.regime.reward, self.regime.metric]
        inputs = [FORMAT, regime, self.arm.kind, self.arm.options, settings.train, settings.test_requests]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def scaled(settings: Settings, config: StudyConfig) -> Settings:
    """The settings with the config's worlds; tiny for a quick run."""
    changes = parse_changes(config.world_set)
    worlds = config.world_seed or (settings.development_worlds if config.quick else ())
    regimes = {
        name: replace(regime, world=regime.world | changes, worlds=worlds or regime.worlds)
        for name, regime in settings.regimes.items()
    }
    if config.quick:
        steps = {"steps": _QUICK_STEPS}
        train = merged(settings.train, {"stage1": steps, "stage2": steps, "static": {"iterations": 4}})
        regimes = {
            name: replace(regime, requests=min(regime.requests, _QUICK_REQUESTS), world=_QUICK_WORLD | regime.world)
            for name, regime in regimes.items()
        }
        arms = {name: replace(arm, options=_shortened(arm.options)) for name, arm in settings.arms.items()}
        small: dict[str, Any] = {"training_seeds": settings.training_seeds[:1], "test_requests": _QUICK_REQUESTS}
        settings = replace(settings, train=train, arms=arms, **small)
    for regime in regimes.values():
        _ = regime.marketplace  # an unknown constant is named before anything runs
    return replace(settings, regimes=regimes, judging_worlds=worlds or settings.judging_worlds)


def _shortened(options: dict[str, Any]) -> dict[str, Any]:
    most = {"steps": _QUICK_STEPS, "rounds": 40}
    return {
        key: _shortened(value) if isinstance(value, dict) else min(value, most.get(key, value))
        for key, value in options.items()
    }


def plan(settings: Settings, config: StudyConfig) -> list[Unit]:
    """Every unit of the requested regimes in running order, under `scaled` settings."""
    for label, names, known in (("arm", config.arms, settings.arms), ("regime", config.regimes, settings.regimes)):
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is not a {label} of the study; expected one of {', '.join(known)}")
    units: list[Unit] = []
    for name in config.regimes or (settings.regimes if config.full else (MAIN,)):
        regime = settings.regimes[name]
        seeds = settings.training_seeds[: 1 if regime.name.startswith("served-") else None]
        arms = [settings.arms[arm] for arm in regime.arms if not config.arms or arm in config.arms]
        units += [
            Unit(regime, world, seed, arm)
            for world, seed in product(regime.worlds or settings.judging_worlds, seeds)
            for arm in arms
            if seed == seeds[0] or arm.kind == _SEEDED
        ]
    return units


def run_units(
    units: Sequence[Unit], settings: Settings, out: Path, jobs: int = 1, workers: Workers = LOCAL
) -> list[dict[str, Any]]:
    """The results of all units in their order; those in ``out`` are not computed again. jobs: processes of this
    machine, if no workers are given."""
    missing = [unit for unit in units if load_unit(unit, settings, out) is None]
    if len(missing) < len(units):
        logger.info(f"{len(units) - len(missing)} of {len(units)} results are already there")
    groups: dict[tuple[str, int, int], list[Unit]] = {}
    for unit in missing:
        groups.setdefault((unit.regime.name, unit.world, unit.seed), []).append(unit)
    jobs_of = [_Group(settings, tuple(group), out) for group in groups.values()]
    wait_for_all((LocalWorkers(jobs) if workers is LOCAL else workers).map(_run_group, jobs_of, "study"))
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


@dataclass(frozen=True)
class _Group:
    """A job: units that share a world, its log and stage 1."""

    settings: Settings
    units: tuple[Unit, ...]
    out: Path

    def __str__(self) -> str:
        return str(self.units[0]).rpartition(", ")[0]


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
    record |= {"arm": unit.arm.name, "fingerprint": unit.fingerprint(settings)}
    with progress_disabled():
        ranking = run_arm(trial, unit.arm.kind, unit.arm.options)
    record["seconds"] = round(time.perf_counter() - wall, 2)
    record["cpu_seconds"] = round(time.process_time() - cpu, 2)
    record |= trial.measure(ranking)
    with atomic_file(unit.path(out)) as partial:
        partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return f"{unit}: value {record['expected']['value']:.4f} a request, {record['seconds']:.1f} s"
