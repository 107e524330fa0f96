"""Trains on a log of a foreign world, and judges what is served by the exact truth of later requests."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pygrade import BlendedRanker
from pygrade._typing import Bools, Floats, Ints
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import LOGGED_ORDER
from pygrade.evaluation.verdict import verdict_of
from pygrade.runs.fit import fit
from pygrade.runs.result import TrainingResult
from pygrade.training.baselines import baseline_scores
from ..settings import override, parse_changes
from .market import Market
from .nulls import KINDS, Null
from .pages import Requests, World
from .shops import EFFECTS, UNITS, Shop, Units

LATER = 4_000  # requests that judge
_ALONE = {"tensorboard": False, "checkpoint_every": 10_000, "cross_fit.processes": 1}
_LIGHT = {"stage1.steps": 20, "stage2.steps": 10, "static.iterations": 5}
FAMILIES: dict[str, Callable[[int], World]] = {
    **{f"roots-{effect}": partial(Shop, effect=effect) for effect in EFFECTS},
    **{f"units-{unit}": partial(Units, unit=unit) for unit in UNITS},
    "factors": partial(Market, cascade=True),
    "network": partial(Market, network=True),
    "drift": partial(Market, drift=0.6, newcomers=0.3),
    "prices": partial(Market, price_spread=1.2, zipf=1.0),
    "budget": partial(Market, once=True),
    "censored": partial(Market, delay=0.15),
    "strong": lambda seed: Market(seed, network=seed % 2 == 1, cascade=seed % 2 == 0, knowing=True),
    **{f"null-{kind}": partial(Null, kind=kind) for kind in KINDS},
}


def configured(light: bool, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The options of `train`: the defaults in one process, with changes by dotted name; light: hardly any GRADE."""
    return override(TrainConfig(), _ALONE | (_LIGHT if light else {}) | dict(changes or {}))


def evaluate(family: str, seed: int, requests: int, config: TrainConfig, later: int = LATER) -> dict[str, Any]:
    """Compare the verdict of `train` on the log of a family and seed with the truth. Lifts are in per cent."""
    world = FAMILIES[family](seed)
    log, new = world.draw(requests, later)
    record: dict[str, Any] = {"family": family, "seed": seed, "requests": requests}
    for name, page in (("production", new.ranking(new.production)), ("oracle", new.oracle())):
        record[name] = lift_of(new.earned(page), new.earned(new.predicted()))[0]
    started = time.process_time()
    with TemporaryDirectory() as directory:
        try:
            result = fit(log.logs, config, Path(directory))
        except Exception as error:
            return record | {"verdict": "error", "sentence": f"{type(error).__name__}: {error}"[:300]}
        seconds = time.process_time() - started
        ranker = BlendedRanker.load(Path(directory) / "policy")
    return record | _said(result, world) | _true(ranker, result, new) | {"seconds": round(seconds, 1)}


def _said(result: TrainingResult, world: World) -> dict[str, Any]:
    mixture, record = result.policy.mixture, result.summary["cross_fit"]
    said, proof = verdict_of(mixture), record.get("proof") or {}
    claim = None if said.lift is None else [said.lift.value, said.lift.low, said.lift.high]
    task, columns = world.cause or ("", ())
    return {
        "verdict": said.verdict,
        "sentence": said.sentence,
        "served": record["served"],
        "control": said.control,
        "claim": claim and [round(100 * bound, 3) for bound in claim],
        "marked": getattr(mixture, "unproven", None),
        "z": proof.get("z"),
        "z_value": proof.get("z_value"),
        "reasons": list(said.reasons),
        "named": any(line.startswith(task) and any(name in line for name in columns) for line in said.reasons),
        "warnings": [sentence[:160] for sentence in result.summary["warnings"]],
    }


def _true(ranker: BlendedRanker, result: TrainingResult, new: Requests) -> dict[str, Any]:
    """True lifts of what is served: of whole pages, and of re-ordered ones of production (`within`)."""
    shown, among = new.ranking(new.production), np.zeros(new.production.shape, bool)
    np.put_along_axis(among, shown, True, 1)
    served, found = _served(ranker, new), dict[str, Any]()
    for name, base in (("lift", new.predicted()), ("over_production", shown)):
        found[name], found[f"{name}_error"] = lift_of(served, new.earned(base))
    for name, rows in (("true", None), ("within", among.reshape(-1))):
        page = _comparator(result, new, rows)
        found[name] = None if page is None else lift_of(_served(ranker, new, rows), new.earned(page))[0]
    return found


def _served(ranker: BlendedRanker, new: Requests, among: Bools | None = None) -> Floats:
    """Return the expected value of the served pages, of all candidates or those among [M], of shape [R]."""
    page = ranker.rank_log(new.logs, len(new.browsing.look), mask=among)
    return new.earned(np.asarray(page.indices, np.int64))


def _comparator(result: TrainingResult, new: Requests, among: Bools | None) -> Ints | None:
    """The page of the ranking that the verdict's lift is over; None: not one that later requests have."""
    policy, name = result.policy, verdict_of(result.policy.mixture).control
    if name == LOGGED_ORDER:
        return new.ranking(new.production, among)
    base = next((entry for entry in result.baselines if entry.name == name), None)
    if base is None:
        return None
    return new.ranking(baseline_scores(base, new.logs, policy.config, policy.correction), among)


def lift_of(value: Floats, base: Floats) -> tuple[float, float]:
    """Lift of values [R] over others, in per cent, with its standard error over requests."""
    ratio = float(value.sum() / base.sum())
    error = np.std(value - ratio * base) / np.sqrt(len(base)) / base.mean()
    return round(100 * (ratio - 1), 3), round(100 * float(error), 3)


def run(
    out: Path, families: Sequence[str], seeds: range, requests: int, light: bool, changes: Sequence[str] = ()
) -> None:
    """A JSON line a log, on standard output and added to `out`, which keeps what it has. changes: KEY=VALUE."""
    logging.getLogger("pygrade").setLevel(logging.ERROR)
    config, options = configured(light, parse_changes(changes)), {"light": light, "changes": list(changes)}
    done = [record for record in read(out) if record.items() >= options.items()] if out.exists() else []
    keys = {(record["family"], record["seed"], record["requests"]) for record in done}
    for family in families:
        for seed in seeds:
            if (family, seed, requests) not in keys:
                line = json.dumps(evaluate(family, seed, requests, config) | options)
                with out.open("a", encoding="utf-8") as file:
                    print(line, file=file)
                print(line, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
