"""The stages: events → features → prerank → multi-task model → log → policy → judgment → artifact, store → report."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pygrade import __version__
from pygrade._util.files import directory_lock
from pygrade._util.memory import peak_mib
from pygrade._util.serialization import read_json, to_builtins
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import TrainConfig
from pygrade.console.pipeline import write_pipeline_report
from pygrade.console.training import write_text
from pygrade.data.events import EventLog, import_events, parse_spec
from pygrade.features import FeatureCenter, FeatureSchema, FeatureSet, default_schema, find_leaks, materialize
from pygrade.mtl import Timeline
from pygrade.pipeline.candidates import Finder
from pygrade.pipeline.evaluate_holdout import evaluate_holdout
from pygrade.pipeline.logs_stage import EVALUATE, POLICY, LogsStage, holdout_log
from pygrade.pipeline.models import KNOWN, ModelPredictions, cut_times, fit_mtl, fit_prerank, own_tasks
from pygrade.pipeline.own_predictions import OwnPredictions
from pygrade.pipeline.policy_log import Predict
from pygrade.pipeline.serving_files import write_item_names, write_reference
from pygrade.pipeline.stages import Done, Runner, content_hash
from pygrade.pipeline.warnings import warnings_of
from pygrade.policy import FusionPolicy
from pygrade.serving.artifact import open_artifact, write_artifact
from pygrade.serving.names import names_record
from pygrade.serving.pipeline import EVIDENCE, STORE, Models, load_models
from pygrade.storage import Place, download, prepare_directory
from pygrade.stores import open_store, without_secret
from pygrade.training.evaluate_policy import policies_of
from pygrade.training.train import train
from pygrade.workers import LOCAL, Workers, error_context

logger = logging.getLogger("pygrade")

OnStep = Callable[[str, int], None]
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
        _stages(runner, data, config, source, store or DEFAULT_STORE, on_step, workers)
        for sentence in warnings_of({name: done.record for name, done in runner.done.items()}):
            logger.warning(sentence)
        finished = _finished(run, runner)
        if finished is not None:
            logger.info("nothing to do: %s is complete", run)
            return finished
        summary = _summary(runner, data, config, store or DEFAULT_STORE, time.perf_counter() - started)
        write_text(run / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_pipeline_report(run, summary, PipelineConfig())
        runner.show()
    return summary


def _stages(
    runner: Runner,
    data: str,
    config: PipelineConfig,
    source: Any,
    store: str,
    on_step: OnStep | None,
    workers: Workers,
) -> None:
    scheme, place = parse_spec(data)
    with error_context("data", data):
        path = download(place)  # of a URL a copy, checked and kept
    data = f"{scheme}:{path}"
    schema = None if config.schema is None else FeatureSchema.load(config.schema)
    pattern = "*.parquet" if scheme == "logs" else "**/*"
    files = content_hash(path, runner.out / ".hashes.json", without=runner.out, pattern=pattern, workers=workers)
    address = store.replace("{run}", str(runner.out))
    runner.store(address)
    open_store(address, create=True).close()  # a bad address costs no training

    def make_events(out: Path) -> dict[str, Any]:
        log = import_events(data, out / "log", source, workers=workers)
        facts = ("name", "license", "num_requests", "num_rows", "num_shown", "positives", "first_time", "last_time")
        return {"tasks": list(log.tasks)} | {name: log.source.get(name) for name in facts}

    events = runner.stage("events", make_events, [scheme, source], [files])
    if not sum(events.record["positives"].values()):
        raise ValueError(f"{data}: no shown row has feedback; join it to the log (0 may stand for what is not known)")
    log = EventLog.open(events.path / "log")

    def make_features(out: Path) -> dict[str, Any]:
        timeline, policy_end = cut_times(log, config, workers)
        chosen = default_schema(log) if schema is None else schema
        window = int(log.source["first_time"]), timeline.train_end
        for left in out.glob(".set.partial-*"):  # of a killed run; what its workers did is used
            shutil.rmtree(left)
        made = materialize(log, chosen, out / "set", window, workers=workers)
        return {
            "requests": made.num_requests,
            "rows": made.num_rows,
            "schema_hash": chosen.hash,
            "features": len(chosen.features),
            "timeline": asdict(timeline),
            "policy_end": policy_end,
        }

    shares = [config.train_share, config.stop_share, config.calibrate_share, config.policy_share]
    schema_hash = None if schema is None else schema.hash
    features = runner.stage("features", make_features, [shares, schema_hash], [events], resumable=True)
    materialized = FeatureSet.open(features.path / "set")
    timeline, policy_end = Timeline(**features.record["timeline"]), int(features.record["policy_end"])

    def check_leaks(_out: Path) -> dict[str, Any]:
        leaks = find_leaks(log, materialized.schema, config.leak_checks, config.seed, config.leak_rows)
        return {"moments": config.leak_checks, "rows": config.leak_rows, "leaks": [asdict(leak) for leak in leaks]}

    if config.leak_checks:
        runner.stage("leaks", check_leaks, [config.leak_checks, config.leak_rows, config.seed], [features])

    prerank = runner.stage(
        "prerank",
        lambda out: fit_prerank(materialized, timeline, log.task_values, config, out, workers),
        [config.prerank, config.ranks, config.recall_at, config.keep_prerank, config.seed],
        [features],
        resumable=True,
    )
    own = config.predictions == "own"

    def make_model(out: Path) -> dict[str, Any]:
        if own:
            return own_tasks(materialized, log, timeline, config)
        return fit_mtl(materialized, log, timeline, config, out, workers)

    options = [config.predictions, config.mtl, config.ranks, config.tasks, config.min_events, config.seed]
    model = runner.stage("mtl", make_model, options, [features], resumable=True)

    candidates = prerank if config.candidates and not own else None

    def make_logs(out: Path) -> dict[str, Any]:
        tasks = tuple(model.record["tasks"])
        values = tuple(log.task_values[log.tasks.index(task)] for task in tasks)

        predict: Predict
        if own:
            predict, raw = OwnPredictions(log, tasks), None
        else:
            folder = model.path / "mtl"
            predict, raw = ModelPredictions(folder), ModelPredictions(folder, calibrated=False)

        find = None
        if candidates is not None:
            folder = candidates.path
            find = Finder(folder / "prerank", folder / KNOWN, materialized.schema.hash, config.candidates)
        stage = LogsStage(log, materialized, find, predict, raw, tasks, values, config, workers)
        return stage.make(out, (timeline.calibrate_end, policy_end), (policy_end, None))

    sizes = [config.policy_requests, config.evaluate_requests, config.negatives, config.candidates]
    sources = [features, model] if candidates is None else [features, model, candidates]
    logs = runner.stage("logs", make_logs, sizes, sources)

    training = policy_options(config, materialized)

    def make_policy(out: Path) -> dict[str, Any]:
        late = holdout_log(logs.path / EVALUATE)
        learned = train(logs.path / POLICY, training, out / "training", on_step=on_step, heldout=late, workers=workers)
        return learned.summary

    policy = runner.stage("policy", make_policy, training, [logs], resumable=True)

    def make_judgment(out: Path) -> dict[str, Any]:
        late = holdout_log(logs.path / EVALUATE)
        place = policy.path / "training" / "policy"
        learned = FusionPolicy.load(place)
        policies = policies_of(learned, place)
        history = late.context[:, late.features.index(EVIDENCE)] if EVIDENCE in late.features else None
        record = evaluate_holdout(late, learned, policies, training.reward, history)
        record["judged_requests"] = late.num_requests
        write_text(out / "evaluation.json", json.dumps(record, indent=2) + "\n")
        return record

    runner.stage("evaluate", make_judgment, None, [logs, policy])
    _publish(runner, log, materialized, prerank, model, policy, store)


def policy_options(config: PipelineConfig, features: FeatureSet) -> TrainConfig:
    """The options of the policy's training: the pipeline's seed, and shrinkage by evidence if the schema has it."""
    options = replace(config.train, seed=config.seed)
    if options.policy.evidence_prior or EVIDENCE not in features.schema.request_features:
        return options
    shrunk = replace(options.policy, evidence_feature=EVIDENCE, evidence_prior=config.evidence_prior)
    return replace(options, policy=shrunk)


def _publish(
    runner: Runner, log: EventLog, features: FeatureSet, prerank: Done, model: Done, policy: Done, store: str
) -> None:
    """The artifact, as a stage; then ``RUN/artifact`` points to it and the store serves its version."""

    def make_artifact(out: Path) -> dict[str, Any]:
        folder = out / "features"
        folder.mkdir()
        for name in ("schema.json", "fitted.safetensors"):
            shutil.copy(features.path / name, folder / name)
        parts = {
            "features": folder,
            "prerank": prerank.path / "prerank",
            "policy": policy.path / "training" / "policy",
        }
        if (model.path / "mtl").exists():  # else the log's own predictions are fused
            parts["mtl"] = model.path / "mtl"
        made = write_artifact(out / "artifact", parts, features.schema.hash, {"tasks": model.record["tasks"]})
        return {"version": made.version}

    published = runner.stage("publish", make_artifact, None, [prerank, model, policy])
    artifact = open_artifact(published.path / "artifact")
    address, models = store.replace("{run}", str(runner.out)), load_models(artifact)
    fill_store(address, models, log, features, artifact.version)
    write_reference(runner.out, log, models, address, artifact.version)
    write_item_names(runner.out, log)
    record = {"store": without_secret(store), "version": artifact.version, **names_record(log, runner.out)}
    _write_where_new(runner.out / STORE, json.dumps(record) + "\n")
    runner.show(address)
    runner.link("artifact", published.path / "artifact")


def _write_where_new(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def fill_store(address: str, models: Models, log: EventLog, features: FeatureSet, version: str) -> None:
    """Makes a store serve everything up to the end of the log as ``version``, unless it does already."""
    with open_store(address, create=True) as store:
        if store.current() == version:
            logger.info("store: serves version %s already", version)
            return
        if version in store.versions() and store.versions()[version] != "filling":
            store.drop(version)  # it is of the time before another version took its place
        logger.info("store: filling version %s", version)
        center = FeatureCenter(models.schema, models.fitted, store)
        center.publish(features.state(), log.users(), log.items(), version)


def _finished(run: Path, runner: Runner) -> dict[str, Any] | None:
    """The summary of an earlier run of the very same stages, if there is one."""
    if not all(done.cached for done in runner.done.values()) or not (run / "report.html").is_file():
        return None
    try:
        summary = read_json(run / "summary.json")
        keys = {name: entry["key"] for name, entry in summary["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if keys != {name: done.key for name, done in runner.done.items()}:
        return None
    for entry in summary["stages"].values():
        entry["cached"] = True
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
        "warnings": warnings_of(stages),
        "options": to_builtins(config),
        "stages": stages,
    }
