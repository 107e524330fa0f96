"""What the subcommands do; their results are tables or one JSON object."""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import ops
from pygrade._util.files import claimed
from pygrade._util.optional_imports import require
from pygrade._util.progress import say, set_quiet, show_log
from pygrade._util.serialization import plain
from pygrade.aot import build as aot
from pygrade.cli import console
from pygrade.cli.options import (
    Abtest,
    Aot,
    Demo,
    Evaluate,
    Info,
    Pipeline,
    Rank,
    Reproduce,
    ServeCheck,
    Simulate,
    Train,
)
from pygrade.evaluation.arms import EQUAL, GRADE, PRODUCTION, STAGE1, STATIC
from pygrade.evaluation.judgment import check_counts, plan_test, policy_estimates, sequential_lifts
from pygrade.evaluation.replay import Evaluation, evaluate
from pygrade.logs import Logs, write_logs
from pygrade.ops.info import collect
from pygrade.pipeline.check import CheckConfig, serve_check
from pygrade.pipeline.config import PipelineConfig
from pygrade.pipeline.names import Names
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import FusionPolicy
from pygrade.reports.pipeline import difference
from pygrade.reports.training import record_weights, write_report, write_text
from pygrade.serving import pipeline as serve
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.demo import DemoConfig, demo, describe_pages
from pygrade.simulation.marketplace import FEATURES, PRODUCTION_WEIGHTS, TASKS, Marketplace
from pygrade.simulation.simulate import SimulateConfig, ab_test, simulate_logs
from pygrade.study import StudyConfig, reproduce, tables
from pygrade.training.propensity import slot_propensity
from pygrade.training.reward import RewardConfig
from pygrade.training.static_weights import equal_weights, production_weights
from pygrade.training.train import TrainConfig, train

METRICS = ("value", "orders", "opm", "ctr", "cvr")
Config = TypeVar("Config")


def run(command: str, arguments: list[str]) -> None:
    """Parse the options of a command and run it; the result goes to standard output."""
    options, handler = _HANDLERS[command]
    tyro = require("tyro")
    args: Any = tyro.cli(
        options, args=arguments, prog=f"pygrade {command}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    set_quiet(args.quiet)
    show_log(args.quiet)
    result = handler(args)
    text = json.dumps(plain(result), allow_nan=False)
    if args.json is True or args.json == Path("-"):
        print(text)
    elif args.json:
        write_text(args.json, text + "\n")
    sys.stdout.flush()


def _demo(args: Demo) -> dict[str, Any]:
    config = DemoConfig(args.requests, args.test_requests, args.seed, args.pages)
    result = demo(config, args.out, args.resume)
    if not args.json:
        for page in result.pages:
            console.page(page)
        test = result.test.to_dict()
        sampled = {arm: entry["lifts"] for arm, entry in test["sampled"].items()}
        extra = f"value over {STATIC}"
        expected = {
            arm: entry["lifts"] | {extra: result.summary["arms"][arm]["expected"]["value"]["lift_over_best_static"]}
            for arm, entry in test["expected"].items()
        }
        console.lifts(f"Sampled A/B test: lift over {PRODUCTION}, ± 95 %", sampled, METRICS, GRADE)
        console.lifts(f"Closed-form A/B test: lift over {PRODUCTION}, ± 95 %", expected, (*METRICS, extra), GRADE)
        console.text(
            f"report: {result.report}    policy: {args.out / 'policy'}    summary: {args.out / 'summary.json'}"
        )
    return result.summary | {"report": str(result.report)}


def _simulate(args: Simulate) -> dict[str, Any]:
    config = _part(SimulateConfig, args)
    say(f"simulating {config.num_requests:,} requests …")
    logs = simulate_logs(config, args.out)
    record: dict[str, Any] = {
        "out": str(args.out), "requests": logs.num_requests, "users": len(np.unique(logs.user_id)),
        "rows": logs.num_rows, "tasks": list(logs.tasks), "features": list(logs.features), "seed": config.seed,
        "events": dict(zip(logs.tasks, logs.feedback.sum(0, dtype=float).tolist(), strict=True)),
    }  # fmt: skip
    if not args.json:
        console.text(f"{logs.num_requests:,} requests with {logs.num_rows:,} candidates in {args.out}")
        console.text("events: " + ", ".join(f"{int(n):,} {task}" for task, n in record["events"].items()))
    return record


def _train(args: Train) -> dict[str, Any]:
    if not 0 <= args.holdout < 1:
        raise ValueError(f"holdout is {args.holdout}; want a share from 0 to below 1")
    config = _part(TrainConfig, args)
    logs = args.load()
    early, late = logs.split(1 - args.holdout) if args.holdout else (logs, None)
    if not early.num_requests or (late is not None and not late.num_requests):
        raise ValueError(f"holdout {args.holdout} of {logs.num_requests} requests leaves one part empty; want another")
    with claimed(args.out, "train"):
        record = _train_and_judge(args, config, early, late)
    if not args.json:
        if late is not None:
            _print_evaluation(record["evaluation"])
        console.text(f"policy: {record['policy']}    report: {record['report']}")
    return record


def _train_and_judge(args: Train, config: TrainConfig, early: Logs, late: Logs | None) -> dict[str, Any]:
    result = train(early, config, args.out, args.resume)
    record: dict[str, Any] = {
        "data": args.data, "out": str(args.out), "policy": str(args.out / "policy"), "train": result.summary
    }  # fmt: skip
    if late is not None:
        rankers = {
            STAGE1: _served(result.stage1_policy, late),
            GRADE: _served(result.policy, late),
        }
        found = _replay(late, early, result.policy, rankers, config.reward, config.reward.page_size)
        record["evaluation"] = found.to_dict()
        write_text(args.out / "evaluation.json", json.dumps(found.to_dict(), indent=2) + "\n")
        with torch.no_grad():
            alpha = result.policy(result.policy.request_inputs(late.context, late.predictions, late.offsets))
        record_weights(
            args.out, late.tasks, rankers[GRADE], alpha.numpy(), ops.dirichlet_entropy(alpha).numpy(),
            result.static_weights.numpy(), {} if late.scenario is None else {"scenario": late.scenario},
        )  # fmt: skip
    record["report"] = str(write_report(args.out, f"pygrade train: {args.data}"))
    return record


def _evaluate(args: Evaluate) -> dict[str, Any]:
    if not 0 < args.last <= 1:
        raise ValueError(f"last is {args.last}; want a share above 0, up to 1")
    policy = FusionPolicy.load(args.policy)
    logs = args.load()
    chosen = logs.split(1 - args.last)[1] if args.last < 1 else logs
    reward = RewardConfig(propensity="estimate" if args.propensity is None else args.propensity, page_size=args.k)
    found = _replay(chosen, logs, policy, {GRADE: _served(policy, chosen)}, reward, args.k).to_dict()
    curve = slot_propensity(logs, reward).known(int(logs.position.max()) + 1)
    found["off_policy"] = {name: own.to_dict() for name, own in policy_estimates(policy, chosen, curve, args.k).items()}
    if not args.json:
        _print_evaluation(found)
        rows = [
            [name, console.interval(own), f"{own['effective_sample_size']:,.0f}", own["warning"] or ""]
            for name, own in found["off_policy"].items()
        ]
        console.table("Off-policy: value per request of the policy, ± 95 %", ["", "value", "ESS", "warning"], rows)
    return {"data": args.data, "policy": str(args.policy), "policy_version": policy.version, **found}


def _served(policy: FusionPolicy, logs: Logs) -> NDArray[np.float32]:
    _check_schema(policy, logs)
    inputs = policy.request_inputs(logs.context, logs.predictions, logs.offsets)
    return np.asarray(policy.serve(inputs, logs.scenario).numpy())


def _check_schema(policy: FusionPolicy, logs: Logs) -> None:
    for name, own, theirs in (("tasks", policy.tasks, logs.tasks), ("features", policy.features, logs.features)):
        if own != theirs:
            raise ValueError(f"the data has {name} {', '.join(theirs)}; the policy wants {', '.join(own)}")


def _replay(
    logs: Logs, explored: Logs, policy: FusionPolicy, rankers: dict[str, Any], reward: RewardConfig, k: int
) -> Evaluation:
    """Replay of the rankers beside static ones; propensities come from the shuffled pages of ``explored``."""
    arms: dict[str, Any] = {EQUAL: equal_weights(len(logs.tasks)).numpy(), STATIC: policy.static_weights.numpy()}
    production = production_weights(logs)
    if production is not None:
        arms[PRODUCTION] = production.numpy()
    curve = slot_propensity(explored, reward).known(k)
    arms |= rankers
    formulas = dict.fromkeys(arms, policy.config.formula)
    return evaluate(
        logs, arms, STATIC, k=k, transform=formulas, propensity=curve, propensity_floor=reward.propensity_floor
    )


def _print_evaluation(record: dict[str, Any]) -> None:
    tasks = [
        [task, f"{int(own['events']):,}", f"{own['rate']:.2%}", f"{own['mean_prediction']:.2%}",
         *(console.interval(own[name]) for name in ("auc", "gauc"))]
        for task, own in record["predictions"].items()
    ]  # fmt: skip
    size = f"{record['num_requests']:,} requests of {record['num_users']:,} users"
    console.table(f"Predictions, {size}", ["task", "events", "rate", "predicted", "AUC", "GAUC"], tasks)
    names = {"ndcg": f"NDCG@{record['k']}", "value": f"value@{record['k']}"}
    lifted = {name: record["lifts"].get(name, {}) for name in record["rankers"]}
    rows = [
        [name, *(console.interval(own[m]) for m in names), *(console.lift(lifted[name].get(m)) for m in names)]
        for name, own in record["rankers"].items()
    ]
    head = ["", *names.values(), *(f"{label} lift" for label in names.values())]
    console.table(f"Replay of the shown items; lift over {record['baseline']}, ± 95 %", head, rows, GRADE)


def _abtest(args: Abtest) -> dict[str, Any]:
    policies = [FusionPolicy.load(path) for path in args.policy]
    world = Marketplace(args.world, args.seed)
    requests = world.requests(args.requests, args.seed, "test")
    first = policies[0]
    arms: dict[str, Any] = {
        EQUAL: equal_weights(len(first.tasks)).numpy(),
        PRODUCTION: np.array(PRODUCTION_WEIGHTS, np.float32),
        STATIC: first.static_weights.numpy(),
    }
    transforms: dict[str, Any] = dict.fromkeys(arms, "zlog") | {STATIC: first.config.formula}
    for path, policy in zip(args.policy, policies, strict=True):
        if policy.tasks != TASKS or policy.features != FEATURES:
            raise ValueError(f"the policy in {path} has other tasks or features than the simulated marketplace")
        name = GRADE if len(policies) == 1 else str(path)
        arms[name] = policy.serve(policy.request_inputs(requests.context, requests.p_hat), requests.scenario).numpy()
        transforms[name] = policy.config.formula
    say(f"{len(arms)} arms rank {args.requests:,} requests …")
    record = ab_test(world, requests, arms, args.baseline, transform=transforms, seed=args.seed).to_dict()
    if not args.json:
        for kind, title in (("sampled", "Sampled users"), ("expected", "Closed form")):
            entries = {arm: entry["lifts"] for arm, entry in record[kind].items()}
            console.lifts(f"{title}: lift over {args.baseline}, ± 95 %", entries, METRICS, GRADE)
    users = record["num_users"]
    plan = plan_test(record["sampled"][args.baseline]["values"], users, args.effect, args.power)
    record["plan"] = {"effect": args.effect, "power": args.power, "metrics": plan}
    record["sequential"] = {
        arm: sequential_lifts(entry["lifts"], users, users) for arm, entry in record["sampled"].items()
    }
    if args.counts:
        record["sample_ratio"] = check_counts(args.counts)
    if not args.json:
        console.lifts("Sampled users, looked at after every user: lift", record["sequential"], METRICS, GRADE)
        rows = [
            [name, f"{own['users'] or 0:,.0f}", f"{100 * (own['detectable_lift'] or 0):.2f} %"]
            for name, own in plan.items()
        ]
        head = ["", f"users for {100 * args.effect:g} %", f"lift that {users:,} find"]
        console.table(f"A test of separate users, power {args.power:g}", head, rows)
        if args.counts:
            found = record["sample_ratio"]
            verdict = "MISMATCH: do not read the test" if found["mismatch"] else "as planned"
            console.text(f"sample ratio of {list(args.counts)}: {verdict} (p = {found['p_value']:.2g})")
    return {"seed": args.seed, **record}


def _rank(args: Rank) -> dict[str, Any]:
    if (args.run is None) == (args.policy is None):
        raise ValueError("rank got both of --run and --policy, or neither; want one of them")
    if args.run is not None:
        return _rank_user(args, args.run)
    assert args.policy is not None
    if not args.data:
        raise ValueError("data is empty; want SCHEME:PATH of the requests that the policy ranks")
    ranker = BlendedRanker.load(args.policy, args.seed, args.impute)
    logs = args.load()
    _check_schema(ranker.policy, logs)
    for index in args.requests:
        if not 0 <= index < logs.num_requests:
            raise ValueError(f"requests names {index}; want 0 … {logs.num_requests - 1}")
    chosen = logs.select(list(args.requests))
    page = ranker.rank(
        chosen.context, chosen.predictions, args.k, offsets=chosen.offsets, explore=args.explore,
        scenario=None if chosen.scenario is None else [str(name) for name in chosen.scenario],
        request_id=chosen.request_id, user_id=chosen.user_id, item_id=chosen.item_id,
    )  # fmt: skip
    titles = [f"request {r}, user {u}" for r, u in zip(chosen.request_id, chosen.user_id, strict=True)]
    pages = describe_pages(page, titles, ranker.policy.static_weights.numpy())
    if args.log is not None:
        write_logs(page.log_rows(task_values=logs.task_values), args.log)
    if not args.json:
        for record in pages:
            console.page(record)
    return {"policy_version": ranker.version, "pages": pages, "counters": ranker.counters}


def _rank_user(args: Rank, run: Path) -> dict[str, Any]:
    if args.user is None:
        raise ValueError("user is missing; want the id of the user to rank for")
    if args.repeat < 1:
        raise ValueError(f"repeat is {args.repeat}; want at least 1")
    with contextlib.closing(serve.Pipeline.load(run, args.store, args.seed)) as system:
        names = Names.of(run)
        user = names.user_id(args.user)
        kinds = system.models.schema.context
        context = {name: _context(name, value, kinds.get(name)) for name, value in args.context.items()}
        made = [
            system.rank(
                user, k=args.k, candidates=args.candidates, context=context, scenario=args.scenario,
                timestamp=args.timestamp, explore=args.explore,
            )
            for _ in range(args.repeat)
        ]  # fmt: skip
        served, counters = made[-1], system.counters
    unknown = [name for name in kinds if name not in context]
    steps = [*serve.STEPS, "in all"]
    seconds = np.array([[*own.seconds.values(), sum(own.seconds.values())] for own in made])
    times = {
        name: {"p50_ms": 1e3 * float(np.median(own)), "max_ms": 1e3 * float(own.max())}
        for name, own in zip(steps, seconds.T, strict=True)
    }
    title = f"user {args.user}, {len(served.predictions)} candidates"
    (page,) = describe_pages(served.page, [title], system.models.policy.static_weights.numpy())
    for item, name in zip(page["items"], names.items(served.items), strict=True):
        if name is not None:
            item["name"] = name
    if served.degraded:
        page["why"] = "the store failed: default features, static weights"
    elif served.history == 0:
        page["why"] = f"no event of this user is known: default features; {page['why']}"
    if unknown:
        page["why"] += f"; unknown, as --context does not give them: {', '.join(unknown)}"
    if args.log is not None:
        write_logs(served.page.log_rows(), args.log)
    if not args.json:
        console.page(page)
        rows = [[name, f"{own['p50_ms']:.2f}", f"{own['max_ms']:.2f}"] for name, own in times.items()]
        console.table(f"Where the time goes, of {len(made)} times", ["milliseconds", "p50", "max"], rows, "in all")
    return {
        "version": system.version,
        "pages": [page],
        "times": times,
        "history": served.history,
        "unknown_context": unknown,
        "degraded": served.degraded,
        "counters": counters,
    }


def _context(name: str, value: str, kind: str | None) -> float | str:
    try:
        return float(value) if kind == "float" else value
    except ValueError as error:
        raise ValueError(f"context gives {name} as {value!r}; want a number") from error


def _pipeline(args: Pipeline) -> dict[str, Any]:
    scheme = args.data.partition(":")[0]
    record = run_pipeline(args.data, args.out, _part(PipelineConfig, args), getattr(args, scheme, None), args.store)
    if not args.json:
        stages = record["stages"]
        rows = [
            [name, f"{own['seconds']:.1f} s", "done before" if own["cached"] else ""] for name, own in stages.items()
        ]
        console.table(f"{record['wall_seconds']:.1f} s", ["stage", "took", "done"], rows)
        recall = [
            [f"recall@{own['n']}", console.interval(own["recall"]), console.interval(own["popularity_recall"])]
            for own in stages["prerank"]["recall"]
        ]
        console.table("Prerank: later positives found", ["", "two towers", "popularity"], recall)
        tasks = [
            [task, f"{own['positives']:,}", *(_number(own[name]) for name in
             ("auc", "gauc", "log_loss_before", "log_loss", "ece_before", "ece"))]
            for task, own in stages["logs"]["predictions"].items()
        ]  # fmt: skip
        head = ["task", "events", "AUC", "GAUC", "log-loss", "calibrated", "ECE", "calibrated"]
        console.table("Multi-task model on later requests", head, tasks)
        _print_evaluation(stages["evaluate"]["replay"])
        for sentence in record["warnings"]:
            console.text(f"WARNING: {sentence}")
        console.text(f"report: {args.out / 'report.html'}    summary: {args.out / 'summary.json'}")
    return record


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _serve_check(args: ServeCheck) -> dict[str, Any]:
    record = serve_check(args.run, _part(CheckConfig, args), args.store)
    if not args.json:
        off = {name: own for name, own in record["skew"].items() if own["equal"] < 1.0}
        skew = [[name, f"{own['equal']:.4%}", difference(own)] for name, own in off.items()]
        if skew:
            console.table("Materialized against served", ["", "equal", "largest difference"], skew)
        console.text(f"{len(record['skew']) - len(off)} of {len(record['skew'])} features have the same bits both ways")
        times = [[name, f"{own['p50_ms']:.2f}", f"{own['p99_ms']:.2f}"] for name, own in record["latency"].items()]
        console.table(f"{record['candidates']} candidates", ["milliseconds", "p50", "p99"], times, "in all")
        console.text(f"{record['equal_pages']:,} of {record['requests']:,} pages are equal bit for bit")
    return record


def _reproduce(args: Reproduce) -> dict[str, Any]:
    config = _part(StudyConfig, args)
    arms, regimes = (
        tuple(word for entry in names for word in entry.split(",")) for names in (config.arms, config.regimes)
    )
    record = reproduce(replace(config, arms=arms, regimes=regimes), args.out, args.docs)
    if args.json != Path("-"):
        for title, head, rows in tables(record):
            console.table(title, head, rows, GRADE)
        console.text(f"report: {args.out / 'RESULTS.md'}    results: {args.out / 'results.json'}")
    return record


def _aot(args: Aot) -> dict[str, Any]:
    manifest = aot.build(args.out, args.arch.split(","), args.only, say)
    if not args.json:
        binaries = manifest["binaries"]
        size = sum(file["bytes"] for binary in binaries for file in binary["files"])
        console.text(f"{len(binaries)} binaries, {size / 1e6:.1f} MB, and manifest.json in {args.out}")
    return {"out": str(args.out), **manifest}


def _info(args: Info) -> dict[str, Any]:
    record = collect()
    if not args.json:
        cpu = record["cpu"]
        missing = [name for name, found in record["packages"].items() if found is None]
        rows = [
            ["pygrade", record["pygrade"]],
            ["python", record["python"]],
            ["packages", ", ".join(f"{name} {v}" for name, v in record["packages"].items() if v is not None)],
            ["not installed", ", ".join(missing) or "none"],
            ["CPU", f"{cpu['model']}, {cpu['cores']} cores, {cpu['torch_threads']} torch threads"],
            ["instruction set", f"{cpu['instruction_set']} (of {', '.join(cpu['instruction_sets_available'])})"],
            ["GPU", record["gpu"] or "none"],
            *([f"backend {name}", state] for name, state in record["backends"].items()),
        ]
        for name, value in rows:
            console.text(f"{name:<18} {value}")
    return record


def _part(kind: type[Config], args: Any) -> Config:
    """The config whose fields the command's options repeat."""
    return kind(**{entry.name: getattr(args, entry.name) for entry in fields(kind)})  # type: ignore[arg-type]


_HANDLERS: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    "demo": (Demo, _demo),
    "simulate": (Simulate, _simulate),
    "train": (Train, _train),
    "evaluate": (Evaluate, _evaluate),
    "abtest": (Abtest, _abtest),
    "rank": (Rank, _rank),
    "pipeline": (Pipeline, _pipeline),
    "serve-check": (ServeCheck, _serve_check),
    "reproduce": (Reproduce, _reproduce),
    "aot": (Aot, _aot),
    "info": (Info, _info),
}
