"""The stages: events → features → prerank → multi-task model → log → policy → judgment → artifact, store → report."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pygrade import __version__
from pygrade._util.files import directory_lock
from pygrade._util.memory import peak_mib
from pygrade._util.serialization import read_json, to_builtins, write_json
from pygrade._util.text import distinct
from pygrade.config.pipeline import PipelineConfig
from pygrade.console.pipeline import write_pipeline_report
from pygrade.data.events import EventLog, importer_hash, parse_spec, places_of
from pygrade.features import FeatureSchema, FeatureSet
from pygrade.logs.history import History
from pygrade.mtl import TimeSplit
from pygrade.pipeline.features import check_leaks, make_events, make_features
from pygrade.pipeline.history import make_history
from pygrade.pipeline.logs import LogsStage
from pygrade.pipeline.mtl import fit_mtl, own_tasks
from pygrade.pipeline.policy import make_judgment, make_policy, policy_options
from pygrade.pipeline.prerank import POPULAR, fit_prerank
from pygrade.pipeline.publish import make_artifact, publish
from pygrade.pipeline.stages import Runner, content_hash
from pygrade.serving.run_copy import check_proven
from pygrade.storage import Place, download, prepare_directory
from pygrade.stores import open_store, without_secret
from pygrade.training.fit import OnStep
from pygrade.workers import LOCAL, Workers, error_context

logger = logging.getLogger("pygrade")

DEFAULT_STORE = "lmdb:{run}/store"


def run_pipeline(
    data: str,
    out: Place,
    config: PipelineConfig | None = None,
    source: Any = None,
    store: str | None = None,
    on_step: OnStep | None = None,
    workers: Workers = LOCAL,
) -> dict[str, Any]:
    """Runs every stage that is not done in directory ``out``; returns the content of its ``summary.json``.

    data: SCHEME:PATH or SCHEME:URL; ``out`` may be a URL, too: stages are made in a local directory (`work_directory`)
    and published one by one. source: the scheme's options (`data.events.CONFIGS`). A stage is done again only if the
    data, its options, the code or a stage before it changed. store: address of the store to fill, default an LMDB store
    in ``out``. ``on_step`` is called after each step of the policy's training. workers: where the jobs of the stages
    run; the result is the same. ``warnings`` of the summary are sentences that a reader must not miss.
    """
    config = config or PipelineConfig()
    run = prepare_directory(out, "pipeline")
    started = time.perf_counter()
    with directory_lock(run, "pipeline"):
        runner = Runner(run, out)
        _run_stages(runner, data, config, source, store or DEFAULT_STORE, on_step, workers)
        log = EventLog.open(runner.done["events"].path / "log")
        for sentence in warnings_of({name: done.record for name, done in runner.done.items()}, log):
            logger.warning(sentence)
        finished = _finished(run, runner)
        if finished is not None:
            logger.info("nothing to do: %s is complete", run)
            return finished
        summary = _summary(runner, data, config, store or DEFAULT_STORE, time.perf_counter() - started)
        write_json(run / "summary.json", summary)
        write_pipeline_report(run, summary, PipelineConfig())
        runner.show()
    return summary


def _run_stages(
    runner: Runner, data: str, config: PipelineConfig, source: Any, store: str, on_step: OnStep | None, workers: Workers
) -> None:
    """All stages in order: each with what makes it, the options that decide its content, and the stages it reads."""
    schema = None if config.schema is None else FeatureSchema.load(config.schema)
    data, scheme, files = _find_data(runner, data, workers)
    address = store.replace("{run}", str(runner.out))
    runner.store(address)
    open_store(address, create=True).close()  # a bad address costs no training

    run = runner.stage
    recipe = [scheme, source, importer_hash(scheme)]
    events = run("events", lambda out: make_events(out, data, source), recipe, [files])
    if not sum(events.record["positives"].values()):
        raise ValueError(f"{data}: no shown row has feedback; join it to the log (0 may stand for what is not known)")
    log = EventLog.open(events.path / "log")

    shares = [config.train_share, config.stop_share, config.calibrate_share, config.policy_share]
    options: Any = [shares, None if schema is None else schema.hash]
    made = run("features", lambda out: make_features(out, log, schema, config, workers), options, [events])
    features = FeatureSet.open(made.path / "set")
    timeline, policy_end = TimeSplit(**made.record["timeline"]), int(made.record["policy_end"])
    if config.leak_checks:
        options = [config.leak_checks, config.seed]
        run("leaks", lambda _: check_leaks(log, features.schema, config), options, [made])

    options = [config.prerank, config.ranks, config.keep_prerank, config.seed]
    train_prerank = partial(fit_prerank, features, timeline, log.task_values, config, workers=workers)
    prerank = run("prerank", train_prerank, options, [made], True)

    own = config.predictions == "own"
    options = [config.predictions, config.mtl, config.ranks, config.tasks, config.min_events, config.seed]
    train_model = partial(fit_mtl, features, log, timeline, config, workers=workers)
    choose = partial(own_tasks, features, log, timeline, config)
    model = run("mtl", (lambda _: choose()) if own else train_model, options, [made], True)

    searched = bool(config.candidates) and not own
    options = [config.policy_requests, config.candidates]
    stage = LogsStage.of(log, features, model, prerank if searched else None, config, workers)
    periods = (timeline.calibrate_end, policy_end), (policy_end, None)
    sources = [made, model, prerank] if searched else [made, model]
    logs = run("logs", lambda out: stage.make(out, *periods), options, sources)

    training, history = policy_options(config, features), None
    if training.history.enabled:
        options = [training.history, training.sample_requests]
        make = partial(make_history, logs=logs.path, stage=stage, timeline=timeline, config=training)
        past = run("history", make, options, [*sources, logs])
        if "history" in past.record:
            logs, history = past, History.from_dict(past.record["history"])
        else:
            training = replace(training, history=replace(training.history, enabled=False))
    learn = partial(make_policy, logs=logs.path, config=training, on_step=on_step, workers=workers, history=history)
    policy = run("policy", learn, training, [logs], True)
    run("evaluate", lambda out: make_judgment(out, logs.path, policy.path, training.reward), None, [logs, policy])
    check_proven(policy.path / "training" / "policy", config.allow_unproven)
    parts = prerank, model, policy
    published = run("publish", lambda out: make_artifact(out, features, *parts), None, parts)
    publish(runner, published, log, features, store)


def _find_data(runner: Runner, data: str, workers: Workers) -> tuple[str, str, str]:
    """SCHEME:PATH of a local copy (events: the schema's place), the scheme, and a hash of the files."""
    scheme, place = parse_spec(data)
    memory, pattern = runner.out / ".hashes.json", "*.parquet" if scheme == "logs" else "**/*"
    with error_context("data", data):
        places = places_of(scheme, place)
        paths = [download(one) for one in places]  # of a URL a copy, checked and kept
    files = [content_hash(path, memory, without=runner.out, pattern=pattern, workers=workers) for path in paths]
    if scheme == "events":
        return f"{scheme}:{place}", scheme, " ".join(files)
    return f"{scheme}:{paths[0]}", scheme, files[0]


def _finished(run: Path, runner: Runner) -> dict[str, Any] | None:
    """The summary of an earlier run of the very same stages, if there is one."""
    if not all(done.cached for done in runner.done.values()) or not (run / "report.html").is_file():
        return None
    try:
        summary = read_json(run / "summary.json")
        keys = {name: stage["key"] for name, stage in summary["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if keys != {name: done.key for name, done in runner.done.items()}:
        return None
    for stage in summary["stages"].values():
        stage["cached"] = True
    return summary


def _summary(runner: Runner, data: str, config: PipelineConfig, store: str, seconds: float) -> dict[str, Any]:
    stages = {
        name: {
            "key": done.key,
            "seconds": done.seconds,
            "peak_mib": done.peak_mib,
            "cached": done.cached,
            **done.record,
        }
        for name, done in runner.done.items()
    }
    scheme, _, path = data.partition(":")
    return {
        "version": __version__,
        "data": f"{scheme}:{Path(path).name}",
        "seed": config.seed,
        "store": without_secret(store).partition(":")[0],
        "wall_seconds": seconds,
        "stage_seconds": sum(done.seconds for done in runner.done.values()),
        "peak_memory_mib": peak_mib(),
        "warnings": warnings_of(stages, EventLog.open(runner.done["events"].path / "log")),
        "options": to_builtins(config),
        "stages": stages,
    }


def warnings_of(stages: Mapping[str, Mapping[str, Any]], log: EventLog | None = None) -> list[str]:
    """Sentences that a reader of the stages' records must not miss; with the names that the log of events gives."""
    sentences = []
    leaks = stages.get("leaks", {}).get("leaks", [])
    if leaks:
        names = ", ".join(dict.fromkeys(leak["feature"] for leak in leaks))
        sentences.append(
            f"LEAK: the features {names} change with events after their request. Everything below is too good to be "
            "true; repair the schema or the log before you use it."
        )
    sentences += _prerank(stages["prerank"])
    if reason := stages.get("history", {}).get("reason"):
        sentences.append(f"HISTORY: the policy is trained without, as {reason}.")
    sentences += stages.get("policy", {}).get("warnings", [])
    sentences += stages.get("evaluate", {}).get("replay", {}).get("warnings", [])
    return distinct(sentences if log is None else map(log.name_ids, sentences))


def _prerank(record: Mapping[str, Any]) -> list[str]:
    losing = [cutoff for cutoff in record["recall"] if (cutoff["difference"]["high"] or 0.0) < 0.0]
    if not losing:
        return []
    worst = max(losing, key=lambda cutoff: cutoff["n"])
    gap = worst["difference"]
    finding = (
        f"Prerank is worse than popularity: recall@{worst['n']} is {worst['recall']['value']:.3f}, that of the "
        f"most popular items {worst['popularity_recall']['value']:.3f} (difference {gap['value']:+.3f}, 95 %: "
        f"{gap['low']:+.3f} … {gap['high']:+.3f})."
    )
    if record.get("published") == POPULAR:
        return [
            f"{finding} The most popular items are published as candidates, the same for every user; --keep-prerank "
            "publishes the two towers instead. Train them on more data, or give your own item_ids."
        ]
    return [f"{finding} The two towers are published. Train them on more data, or take popular items as candidates."]
