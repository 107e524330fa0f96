"""Runs the study unit by unit: one unit is one arm on one world with one training seed, kept in a file of its own.

A run that was killed goes on with the units that are missing. A unit's file carries a fingerprint of everything that
decides its numbers; a file of other settings is computed again.
"""

import hashlib
import json
import logging
import multiprocessing
import platform
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pygrade import __version__
from pygrade._util.files import atomic_file
from pygrade._util.progress import hushed
from pygrade._util.threads import torch_threads
from pygrade.ops.info import collect
from pygrade.study.arm_kinds import run_arm
from pygrade.study.settings import MAIN, STABILITY, TUNING, Arm, Regime, Settings, merged, parse_changes
from pygrade.study.trial import Trial

logger = logging.getLogger("pygrade")
FORMAT = 1
_SEEDLESS = ("fixed", "static", "estimates")  # kinds that no training seed changes
_QUICK_WORLD = {"log_users": 2000, "test_users": 1000, "items": 1000}
_QUICK_REQUESTS, _QUICK_STEPS = 2000, 40
# The largest value of each.
_QUICK_OPTIONS = {"steps": _QUICK_STEPS, "window": 600, "interval": 100, "intervals": 6, "truth": 500}


@dataclass(frozen=True)
class StudyConfig:
    """Which part of the study to run. The numbers themselves are decided by `settings.json`."""

    full: bool = False  # also the other regimes, the further arms, the stability trainings and the tuning
    quick: bool = False  # a tiny setting on development worlds, in two minutes: shows that it runs, judges nothing
    arms: tuple[str, ...] = ()  # only these arms; none: all
    regimes: tuple[str, ...] = ()  # only these parts (regimes, stability, tuning); none: main, with --full all
    world_seed: tuple[int, ...] = ()  # your own worlds instead of the judging worlds
    world_set: tuple[str, ...] = ()  # KEY=VALUE changes of the worlds' constants, e.g. session=0.5 errors.bias=[0,…]
    jobs: int = 1  # processes, one thread each

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}; want at least 1")
        if any(seed < 0 for seed in self.world_seed):
            raise ValueError(f"world_seed is {self.world_seed}; want numbers >= 0")

    @property
    def publishable(self) -> bool:
        """The frozen settings and judging worlds, if not all of them."""
        return not (self.quick or self.world_seed or self.world_set)


@dataclass(frozen=True)
class Unit:
    """One measurement to make."""

    regime: Regime
    world: int
    seed: int
    arm: Arm
    variant: dict[str, Any] = field(default_factory=dict)  # of the arm's options, in the tuning

    @property
    def name(self) -> str:
        """The arm, and what is varied."""
        return "+".join([self.arm.name, *(f"{key}={value}" for key, value in self.variant.items())])

    @property
    def options(self) -> dict[str, Any]:
        return merged(self.arm.options, self.variant)

    def path(self, out: Path) -> Path:
        """Where its result is kept."""
        return out / "units" / self.regime.name / f"world-{self.world}-seed-{self.seed}" / f"{self.name}.json"

    def fingerprint(self, settings: Settings) -> str:
        """Of everything that decides its numbers."""
        regime = {
            key: value for key, value in asdict(self.regime).items() if key not in ("name", "title", "arms", "worlds")
        }
        what = [FORMAT, regime, self.arm.kind, self.options, asdict(settings.train), settings.test_requests]
        what += [settings.oracle_requests] if self.arm.kind == "oracle" else []
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def scaled(settings: Settings, config: StudyConfig) -> Settings:
    """The settings with the worlds that the config asks for, made tiny for a quick run."""
    changes = parse_changes(config.world_set)
    regimes = {
        name: replace(regime, world={**regime.world, **changes}) for name, regime in settings.regimes.items()
    }  # fmt: skip
    worlds = config.world_seed or settings.judging_worlds
    if not config.quick:
        settings = replace(settings, regimes=regimes, judging_worlds=worlds)
    else:
        train = settings.train
        tuning = {**settings.tuning, "worlds": settings.development_worlds[:2]}
        settings = replace(
            settings,
            judging_worlds=config.world_seed or settings.development_worlds[:2],
            training_seeds=settings.training_seeds[:1],
            test_requests=_QUICK_REQUESTS,
            oracle_requests=_QUICK_REQUESTS,
            stability={**settings.stability, "seeds": 2},
            tuning=tuning,
            train=replace(
                train,
                stage1=replace(train.stage1, steps=_QUICK_STEPS),
                stage2=replace(train.stage2, steps=_QUICK_STEPS),
                static=replace(train.static, iterations=4),
            ),
            arms={name: replace(arm, options=_shortened(arm.options)) for name, arm in settings.arms.items()},
            regimes={
                name: replace(regime, requests=min(regime.requests, _QUICK_REQUESTS),
                              world={**_QUICK_WORLD, **regime.world})
                for name, regime in regimes.items()
            },
        )  # fmt: skip
    for regime in settings.regimes.values():
        _ = regime.marketplace  # an unknown constant is named before anything runs
    return settings


def _shortened(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _shortened(value) if isinstance(value, dict) else min(value, _QUICK_OPTIONS.get(key, value))
        for key, value in options.items()
    }


def plan(settings: Settings, config: StudyConfig) -> list[Unit]:
    """Every unit of the asked parts, in the order they run. Settings as `scaled` leaves them."""
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
            seeds: Iterable[int] = range(settings.stability["seeds"])
        else:
            regime, seeds = settings.regimes[name], settings.training_seeds
        worlds = settings.judging_worlds
        if regime.worlds and config.publishable:
            worlds = tuple(range(worlds[0], worlds[0] + regime.worlds))
        wanted = [settings.arms[a] for a in regime.arms if not config.arms or a in config.arms]
        units += [
            Unit(regime, world, seed, arm)
            for world, seed in product(worlds, seeds)
            for arm in wanted
            if (seed == settings.training_seeds[0] or arm.kind not in _SEEDLESS)
            and (config.full or _is_asked(arm, config) or not arm.extra)
        ]
    return units


def _is_asked(arm: Arm, config: StudyConfig) -> bool:
    """An extra arm runs without --full where it is named."""
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


def run_units(units: list[Unit], settings: Settings, out: Path, jobs: int = 1) -> list[dict[str, Any]]:
    """The results of all units, in their order; those that are kept in ``out`` already are not computed again."""
    missing = [unit for unit in units if load_unit(unit, settings, out) is None]
    if len(missing) < len(units):
        logger.info(f"{len(units) - len(missing)} of {len(units)} results are there already")
    groups = list(_groups(missing))
    done = 0
    if jobs == 1:
        for group in groups:
            for line in _run_group(settings, group, out):
                done += 1
                logger.info(f"[{done}/{len(missing)}] {line}")
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            try:
                for future in as_completed([pool.submit(_work, settings, group, out) for group in groups]):
                    for line in future.result():
                        done += 1
                        logger.info(f"[{done}/{len(missing)}] {line}")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    results = [load_unit(unit, settings, out) for unit in units]
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def load_unit(unit: Unit, settings: Settings, out: Path) -> dict[str, Any] | None:
    """The kept result, or None where there is none of these settings."""
    try:
        record: dict[str, Any] = json.loads(unit.path(out).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if record.get("fingerprint") == unit.fingerprint(settings) else None


def _groups(units: list[Unit]) -> Iterator[list[Unit]]:
    """Units that share a world, a log and what is learned from it first."""
    table: dict[tuple[str, int, int], list[Unit]] = {}
    for unit in units:
        table.setdefault((unit.regime.name, unit.world, unit.seed), []).append(unit)
    yield from table.values()


def _work(settings: Settings, group: list[Unit], out: Path) -> list[str]:
    logger.setLevel(logging.WARNING)
    return list(_run_group(settings, group, out))


def _run_group(settings: Settings, group: list[Unit], out: Path) -> Iterator[str]:
    """Compute and keep each unit of a group; yields a line on each."""
    with torch_threads(1):
        first = group[0]
        trial = Trial(settings, first.regime, first.world, first.seed)
        for unit in group:
            yield _run_unit(settings, trial, unit, out)


def _run_unit(settings: Settings, trial: Trial, unit: Unit, out: Path) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {
        "regime": unit.regime.name, "world": unit.world, "seed": unit.seed, "arm": unit.arm.name,
        "variant": unit.variant, "fingerprint": unit.fingerprint(settings),
    }  # fmt: skip
    with hushed():
        served = run_arm(trial, unit.arm.kind, unit.options)
    record["seconds"] = round(time.perf_counter() - wall, 2)
    record["cpu_seconds"] = round(time.process_time() - cpu, 2)
    record |= trial.measure(served)
    with atomic_file(unit.path(out)) as partial:
        partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    lift = record["lifts"]["expected"]["value"][0]
    where = f"{unit.regime.name}, world {unit.world}, seed {unit.seed}, {unit.name}"
    return f"{where}: value {100 * (lift or 0.0):+.2f} % over production, {record['seconds']:.1f} s"


def machine() -> dict[str, str | int]:
    """Where the numbers come from."""
    cpu = collect()["cpu"]
    return {
        "cpu": cpu["model"], "cores": cpu["cores"], "instruction_set": cpu["instruction_set"], "pygrade": __version__,
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
