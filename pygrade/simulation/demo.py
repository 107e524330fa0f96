"""The demo: a simulated marketplace's log → training → A/B test and its decision → report → ranked pages."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import __version__
from pygrade._typing import Ints
from pygrade._util.files import directory_lock
from pygrade._util.memory import peak_mib
from pygrade._util.progress import track
from pygrade._util.serialization import write_json
from pygrade.config.simulation import DemoConfig
from pygrade.console.run_files import find_run
from pygrade.console.training import write_report
from pygrade.console.weights import record_weights
from pygrade.evaluation.arms import EXPECTED_VALUE, PRODUCTION, SERVED
from pygrade.evaluation.verdict import plain_name, stored_verdict
from pygrade.logs import read_logs
from pygrade.policy.alone import rank_by
from pygrade.runs.fit import fit
from pygrade.runs.result import TrainingResult
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import SEGMENTS, Marketplace, Requests
from pygrade.simulation.simulate import AbTest, compare_pages, rank_pages, simulate_logs
from pygrade.simulation.simulated_test import SimulatedTest, run_test
from pygrade.training.evaluate_policy import is_new
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")
_STATE = "demo.json"  # names the options, and says whether the demo was finished


@dataclass(frozen=True)
class DemoResult:
    """Result of `demo`; its directory has the files."""

    summary: dict[str, Any]
    test: AbTest
    decision: SimulatedTest
    pages: list[dict[str, Any]]  # see `Page.describe`
    report: Path


def demo(
    config: DemoConfig,
    out: str | Path,
    resume: bool = True,
    on_verdict: Callable[[dict[str, Any]], None] = lambda _: None,
) -> DemoResult:
    """Run all steps in directory ``out``.

    Writes ``logs/`` (Parquet), ``training/`` (checkpoints, metrics, TensorBoard), ``policy/``, ``abtest.json``,
    ``decision.json``, ``weights.json``, ``pages.json``, ``report.html`` and, last, ``summary.json``, all atomically.
    ``on_verdict`` gets the verdict's record as soon as it is known, before the simulated truth is computed.
    With ``resume`` and the same options an interrupted demo continues; otherwise it starts again. ``ValueError`` if the
    directory is not a demo's, or another process runs one there.
    """
    run = Path(out)
    if run.is_dir() and any(run.iterdir()) and not (run / _STATE).exists():
        raise ValueError(f"{run} is not empty and not a demo's directory; expected a new path")
    with directory_lock(run, "demo"):
        return _demo(config, run, resume, on_verdict)


def _demo(config: DemoConfig, run: Path, resume: bool, on_verdict: Callable[[dict[str, Any]], None]) -> DemoResult:
    started = time.perf_counter()
    simulation, training = config.resolved()
    _prepare(run, config, resume)

    world = Marketplace(simulation.world, config.seed)
    if not (run / "logs").exists():
        logger.info(f"1/3 A simulated shop logs {config.requests:,} requests …")
        simulate_logs(simulation, run / "logs", world)
    logs = read_logs(run / "logs")
    logger.info(f"2/3 Train on {logs.num_rows:,} candidates of {run / 'logs'} …")
    seconds = {"logs": time.perf_counter() - started}

    result = fit(logs, training, run / "training")
    result.policy.save(run / "policy", extra={"trained_on": logs.num_requests, "seed": config.seed})
    TrainingRecord.of(logs, result.policy.version).save(run / "policy")
    verdict = stored_verdict(result.policy.mixture)
    on_verdict(verdict)
    seconds["training"] = time.perf_counter() - started - seconds["logs"]

    requests = world.requests(config.test_requests, config.seed, "test")
    test, arms, ranked = _test_arms(world, requests, result, config.seed)
    write_json(run / "abtest.json", test)
    control = verdict["control"] if verdict["control"] in ranked else test.baseline
    decision = run_test(world, requests, ranked[control], ranked[SERVED], name=plain_name(control), seed=config.seed)
    write_json(run / "decision.json", decision)
    _record_weights(run, logs.tasks, result, requests)
    seconds["ab_test"] = time.perf_counter() - started - sum(seconds.values())

    pages = rank_examples(run / "policy", requests, config.pages, result.static_weights.numpy())
    write_json(run / "pages.json", {"pages": pages})
    summary: dict[str, Any] = {
        "version": __version__,
        "seed": config.seed,
        "logged_requests": logs.num_requests,
        "test_requests": test.num_requests,
        "test_users": test.num_users,
        "policy_version": result.policy.version,
        "cross_fit": result.summary["cross_fit"],
        "verdict": verdict,
        "decision": {name: getattr(decision, name) for name in ("sentence", "action", "requests", "true_lift")},
        "baseline": _baseline(result),
        "resumed_from": result.summary.get("resumed_from"),
        "arms": arms,
        "seconds": seconds,
    }
    summary |= {"peak_memory_mib": peak_mib(), "wall_seconds": time.perf_counter() - started}
    write_json(run / "summary.json", summary)
    alone = result.policy.mixture is not None and not is_new(result.policy)  # the baseline is served
    title = "pygrade demo: weights learned from a simulated log"
    report = write_report(run, title, find_run(run), list(result.policies)[-1] if alone else SERVED)
    summary["wall_seconds"] = time.perf_counter() - started
    write_json(run / "summary.json", summary)
    _mark(run, config, "complete")
    return DemoResult(summary, test, decision, pages, report)


def _test_arms(
    world: Marketplace, requests: Requests, result: TrainingResult, seed: int
) -> tuple[AbTest, dict[str, Any], dict[str, Ints]]:
    """The A/B test against the strongest simple baseline, the lifts over it and over production, and each arm's pages
    [n, K].
    """
    logger.info(f"3/3 What {len(requests.user_id):,} requests of new users would earn, by the simulator's truth …")
    scores, baseline = _scores(result, requests), _baseline(result)
    with track("A/B test", total=len(scores) + 2) as bar:
        ranked = {}
        for arm, values in scores.items():
            ranked[arm] = rank_pages(values[..., None], (1.0,), world.config.page_size, "identity", arm)
            bar.advance(1, arm=arm)
        test = compare_pages(world, requests, ranked, baseline, seed=seed)
        bar.advance(1, arm=f"against {baseline}")
        against_production = compare_pages(world, requests, ranked, PRODUCTION, seed=seed)
        bar.advance(1, arm=f"against {PRODUCTION}")
    return test, _lifts(test, against_production), ranked


def _record_weights(run: Path, tasks: tuple[str, ...], result: TrainingResult, requests: Requests) -> None:
    """The weights that the policy serves on the test requests."""
    inputs = result.policy.request_inputs(requests.context, requests.p_hat)
    with torch.no_grad():
        alpha = result.policy(inputs, requests.scenario)
    record_weights(
        run,
        tasks,
        result.policy.serve(inputs, requests.scenario).numpy(),
        alpha.numpy(),
        result.static_weights.numpy(),
        {"segment": requests.segment, "scenario": requests.scenario},
    )


def _prepare(run: Path, config: DemoConfig, resume: bool) -> None:
    """Keep the files of an interrupted demo with the same options; otherwise remove the demo's files."""
    try:
        state = json.loads((run / _STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        state = None
    if resume and state == {"options": _fingerprint(config), "state": "running"}:
        logger.info(f"continuing the interrupted demo in {run}")
        return
    for name in ("logs", "training", "policy"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("abtest.json", "decision.json", "weights.json", "pages.json", "summary.json", "report.html"):
        (run / name).unlink(missing_ok=True)
    _mark(run, config, "running")


def _mark(run: Path, config: DemoConfig, state: str) -> None:
    write_json(run / _STATE, {"options": _fingerprint(config), "state": state})


def _fingerprint(config: DemoConfig) -> str:
    options = json.dumps([__version__, asdict(config)], sort_keys=True)
    return hashlib.sha256(options.encode()).hexdigest()[:16]


def _baseline(result: TrainingResult) -> str:
    """The strongest simple baseline that can rank new requests."""
    record = result.summary["cross_fit"]
    names = [baseline.name for baseline in result.baselines]
    return str(record["baseline"]) if record is not None and record["baseline"] in names else EXPECTED_VALUE


def _scores(result: TrainingResult, requests: Requests) -> dict[str, NDArray[np.float32]]:
    """Scores [n, C] of the test requests' candidates, by arm."""
    policy, items = result.policy, result.policy.item_columns(requests.item_id)
    inputs = requests.context, requests.p_hat, None, requests.scenario
    scores = {baseline.name: rank_by(policy, baseline).scores(*inputs, items=items) for baseline in result.baselines}
    policies = {**result.policies, SERVED: result.policy}
    for name, policy in policies.items():
        scores[name] = policy.scores(*inputs, items=items)
    return scores


def _lifts(baseline: AbTest, production: AbTest) -> dict[str, Any]:
    """arm → kind of test → metric → value, and lift over the baseline and over production with 95 % intervals."""
    first, second = baseline.to_dict(), production.to_dict()
    result: dict[str, Any] = {}
    for kind in ("expected", "sampled"):
        for arm, outcome in first[kind].items():
            result.setdefault(arm, {})[kind] = {
                metric: {
                    "value": value["value"],
                    "lift_over_baseline": outcome["lifts"].get(metric),
                    "lift_over_production": second[kind][arm]["lifts"].get(metric),
                }
                for metric, value in outcome["values"].items()
            }
    return result


def rank_examples(policy: Path, requests: Requests, count: int, static: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Pages of ``count`` requests by the saved policy, from as many user segments as possible."""
    ranker = BlendedRanker.load(policy, seed=0)
    chosen: list[int] = []
    for segment in (SEGMENTS * (1 + count // len(SEGMENTS)))[:count]:
        free = [int(i) for i in np.flatnonzero(requests.segment == segment) if int(i) not in chosen]
        chosen += free[:1]
    pages = []
    for index in chosen:
        page = ranker.rank(
            requests.context[index : index + 1],
            requests.p_hat[index : index + 1],
            10,
            scenario=str(requests.scenario[index]),
            item_id=requests.item_id[index : index + 1],
            user_id=requests.user_id[index : index + 1],
        )
        title = f"user {requests.user_id[index]} ({requests.segment[index]} segment), {requests.scenario[index]}"
        pages.append(page.describe(0, title, static))
    return pages
