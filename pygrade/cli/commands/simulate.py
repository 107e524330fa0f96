"""pygrade simulate"""

import logging
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.cli import terminal
from pygrade.cli.options import sub_config
from pygrade.cli.run_directory import write_options
from pygrade.config.simulation import SimulateConfig, SimulateOptions
from pygrade.console.tables import METRIC_LABELS, lift_table
from pygrade.evaluation.abtest import sequential_interval
from pygrade.evaluation.arms import EQUAL, PRODUCTION, SERVED, STATIC
from pygrade.logs.parquet import refuse_foreign_files
from pygrade.policy import FusionPolicy
from pygrade.policy.spec import fusion_formula
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import FEATURES, TASKS, Marketplace, Requests
from pygrade.simulation.simulate import compare_pages, rank_pages, simulate_logs
from pygrade.storage import Folder, Place, is_url, publishing
from pygrade.training.static_weights import equal_weights

logger = logging.getLogger("pygrade")

_OF_A_TEST = ("requests", "seed", "weights", "world")  # the other fields of SimulateConfig make a log


def run(options: SimulateOptions) -> dict[str, Any]:
    if (options.out is None) == (not options.ab):
        raise ValueError("simulate needs either --out (write a log) or --ab (test policies)")
    return _write_log(options, options.out) if options.out else _test(options)


def _write_log(options: SimulateOptions, place: Place) -> dict[str, Any]:
    if options.baseline is not None:
        raise ValueError(f"baseline is {options.baseline!r}; expected it with --ab alone")
    config = sub_config(SimulateConfig, options)
    logger.info("simulating %s requests …", f"{config.requests:,}")
    if is_url(place):
        refuse_foreign_files(str(place), Folder.at(place).names())
    with publishing(place) as out:
        logs = simulate_logs(config, out)
        write_options(options, "simulate", out)
    events = dict(zip(logs.tasks, logs.feedback.sum(0, dtype=float).tolist(), strict=True))
    if not options.json:
        terminal.text(f"{logs.num_requests:,} requests with {logs.num_rows:,} candidates in {place}")
        terminal.text("events: " + ", ".join(f"{int(count):,} {task}" for task, count in events.items()))
    return {
        "out": str(place),
        "requests": logs.num_requests,
        "users": len(np.unique(logs.user_id)),
        "rows": logs.num_rows,
        "tasks": list(logs.tasks),
        "features": list(logs.features),
        "seed": config.seed,
        "events": events,
    }


def _served_pages(policy: FusionPolicy, world: Marketplace, requests: Requests, size: int) -> NDArray[np.int64]:
    """Return the pages [n, K] of a ranker, with page terms if the policy has them and the world's items interact."""
    page_inputs: dict[str, Any] = {}
    if world.page_effects and policy.correction is not None and policy.correction.page_terms is not None:
        item = world.page_effects.columns(requests.item_id.ravel())
        page_inputs = {"categories": item["category"].reshape(requests.item_id.shape)}
        if policy.correction.page_terms.dimension:
            page_inputs["embeddings"] = world.page_effects.vectors[requests.item_id]
    page = BlendedRanker(policy).rank(
        requests.context,
        requests.p_hat,
        size,
        scenario=requests.scenario.tolist(),
        item_id=requests.item_id.astype(np.int64),
        **page_inputs,
    )
    return np.asarray(page.indices, np.int64)


def _test(options: SimulateOptions) -> dict[str, Any]:
    for field in fields(SimulateConfig):
        if field.name not in _OF_A_TEST and getattr(options, field.name) != field.default:
            raise ValueError(f"{field.name} is {getattr(options, field.name)}; expected it with --out alone")
    if len({path if isinstance(path, str) else path.resolve() for path in options.ab}) < len(options.ab):
        raise ValueError(f"ab names a directory twice: {', '.join(map(str, options.ab))}; expected each once")
    policies = [FusionPolicy.load(path) for path in options.ab]
    world = Marketplace(options.world, options.seed)
    requests = world.requests(options.requests, options.seed, "test")
    first, baseline, size = policies[0], options.baseline or PRODUCTION, options.world.page_size
    pages = {
        EQUAL: rank_pages(requests.p_hat, equal_weights(len(first.tasks)), size),
        PRODUCTION: rank_pages(requests.known_to_production, options.weights, size),
        STATIC: rank_pages(requests.p_hat, first.static_weights, size, fusion_formula(first.config)),
    }
    for path, policy in zip(options.ab, policies, strict=True):
        if policy.tasks != TASKS or policy.features != FEATURES:
            raise ValueError(f"the policy in {path} has other tasks or features than the simulated marketplace")
        name = SERVED if len(policies) == 1 else str(path)
        pages[name] = _served_pages(policy, world, requests, size)
    logger.info(f"{len(pages)} arms ranked {options.requests:,} requests")
    test = compare_pages(world, requests, pages, baseline, seed=options.seed)
    record, users = test.to_dict(), test.num_users
    record["sequential"] = {
        arm: {
            metric: sequential_interval(lift.value, lift.standard_error, users, planned_units=users).to_dict()
            for metric, lift in result.lifts.items()
        }
        for arm, result in test.sampled.items()
    }
    if not options.json:
        for kind, title in (("sampled", "Sampled users"), ("expected", "Closed form")):
            lifts = {arm: result["lifts"] for arm, result in record[kind].items()}
            terminal.table(f"{title}: lift over {baseline}, ± 95 %", *lift_table(lifts, METRIC_LABELS), SERVED)
        title = "Sampled users, anytime-valid intervals (a test may be stopped after any user)"
        terminal.table(title, *lift_table(record["sequential"], METRIC_LABELS), SERVED)
    return {"seed": options.seed, **record}
