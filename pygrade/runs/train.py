"""`train`: a table or a log becomes a ranker, judged on later requests, with its verdict and its page."""

from __future__ import annotations

import difflib
import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.files import directory_lock
from pygrade._util.progress import begin_phase
from pygrade._util.screen import show_progress
from pygrade.config.ignored import refuse_in_training
from pygrade.config.shared import check_finite
from pygrade.config.training import TrainConfig
from pygrade.logs import Logs
from pygrade.logs.dataset import read_short
from pygrade.logs.import_table import Columns
from pygrade.logs.log_parts import LogParts
from pygrade.logs.table import is_table
from pygrade.runs.fit import evaluate_fit, fit
from pygrade.runs.result import TrainingResult
from pygrade.runs.source import open_source
from pygrade.training.evaluate_policy import HOLDOUT_REQUESTS
from pygrade.training.evidence import refuse_positives
from pygrade.training.fit import OnStep
from pygrade.workers import LOCAL, Workers

_PHASES = 4
_NO_OPTIONS = ("logs", "table", "columns", "where")  # of `train` and `Logs.from_table`, which `train` fills


def train(
    logs: Any,
    config: TrainConfig | None = None,
    out_dir: str | Path | None = None,
    *,
    map: Columns | None = None,
    values: Mapping[str, float] | None = None,
    value_tasks: str | Sequence[str] = (),
    production: Mapping[str, float] | None = None,
    holdout: Any = 0.2,
    resume: bool = True,
    verbose: bool = True,
    on_step: OnStep | None = None,
    workers: Workers = LOCAL,
    **table: Any,
) -> TrainingResult:
    """Learn a ranker from logged requests, judge it, and say whether it is better than a simple baseline.

    It needs no ``if __name__ == "__main__":`` in a script: no process that it starts runs the script again.

    Args:
        logs: `Logs`; the path of a log, or several in order; files, directories and databases as ``pygrade doctor``
            reads them; or a table in memory with a row per candidate: pandas, polars, Arrow, a DuckDB relation, a
            `datasets.Dataset`, a dict of columns.
        config: options of the training; None: `TrainConfig()`.
        out_dir: directory of the run: ``policy/`` (what to serve), ``stage1/`` and ``stage2/`` (not mixed; none
            if GRADE is off), ``checkpoints/``, ``folds/``, ``metrics.jsonl``, ``train.json``, ``evaluation.json``. An
            interrupted run goes on there. None: a temporary one, which lasts as long as the result;
            `TrainingResult.save` copies it.
        map: what the columns of a table are, see ``columns`` of `Logs.from_table`.
        values: task → what one event is worth; others: as the log says, else 1.
        value_tasks: task, or tasks, whose events are worth that times the item's price.
        production: task → weight of the ranking that you have, Σ weight · prediction; None: what the log tells of it.
        holdout: share of the requests, the latest, that judges and trains nothing (0: none), or a log or a table that
            does, whose columns are those of ``logs``.
        resume: go on from checkpoints in ``out_dir``; False removes them.
        verbose: show phases and progress on standard error or in the notebook's cell.
        on_step: called with the name of each phase and 0 when it begins, and with stage and steps done after each step.
        workers: where folds run; the result has the same bits on any number of them.
        table: further options of `Logs.from_table`, such as ``fix=True`` or ``scale={"click": "logit"}``.

    Raises:
        ValueError: what is wrong with the table or the log, with column and row; no feedback at all; ``out_dir`` has
            the results of another command, or checkpoints of other logs or options.
    """
    with show_progress(verbose, _PHASES, on_step):
        begin_phase("reading")
        config = TrainConfig() if config is None else config
        config = config if production is None else replace(config, production=dict(production))
        priced = (value_tasks,) if isinstance(value_tasks, str) else value_tasks
        _check_kinds(config, values, priced, holdout)
        _check_options(table)
        if (values or priced) and (config.reward.task_values or config.reward.value_tasks):
            raise ValueError("values and config.reward both say what events are worth; expected values alone")
        check_finite(values or {})
        refuse_in_training(config)
        log, name = open_source(logs, map, values or {}, priced, config.history.enabled, **table)
        if is_table(holdout):
            worth = dict(zip(log.tasks, log.task_values, strict=True))
            holdout = Logs.from_table(holdout, values=worth, value_tasks=log.value_tasks, like=log, where="holdout")
        early, late = split_holdout(log, holdout, config.sample_requests)
        directory = Path(out_dir or tempfile.mkdtemp(prefix="pygrade-"))
        try:
            with directory_lock(directory, "train"):
                result = evaluate_fit(fit(early, config, directory, resume, on_step, late, workers, name))
        except BaseException:
            if out_dir is None:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        if out_dir is None:
            weakref.finalize(result, shutil.rmtree, directory, ignore_errors=True)
        return result


def _check_kinds(config: Any, values: Any, value_tasks: Any, holdout: Any) -> None:
    """``TypeError`` names an argument of another kind."""
    wanted = (
        ("config", config, TrainConfig, "a TrainConfig; the directory is out_dir"),
        ("values", values, Mapping | None, 'task → number, such as {"order": 20}'),
        ("value_tasks", value_tasks, list | tuple, "a task, or a list of tasks"),
        ("holdout", holdout, float | int | Logs, "a share of the requests, Logs, or a table"),
    )
    for name, value, kind, words in wanted:
        if not isinstance(value, kind) and not (name == "holdout" and is_table(value)):
            raise TypeError(f"{name} is {value!r}; expected {words}")


def _check_options(table: Mapping[str, Any]) -> None:
    """``TypeError`` names an option that neither `train` nor `Logs.from_table` has, and the one that is like it."""
    own = inspect.signature(train).parameters
    known = [name for name in {**own, **inspect.signature(Logs.from_table).parameters} if name not in _NO_OPTIONS]
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
            raise TypeError(f"train has no option {name!r}; {hint}")


def split_holdout(log: Logs | LogParts, holdout: float | Logs, limit: int) -> tuple[Logs | LogParts, Logs | None]:
    """The requests to learn from, in memory if they are no more than the limit, and the latest ones, which judge.

    ``ValueError`` before anything is written if those in memory have no feedback, or nothing else.
    """
    early, late = (log, holdout.complete()) if isinstance(holdout, Logs) else _split(log, holdout)
    early = read_short(early, limit)
    if isinstance(early, Logs):
        if not bool((early.feedback > 0).any()):
            raise ValueError("no shown row has feedback; join it to the log before training")
        refuse_positives(early)
    return early, late


def _split(log: Logs | LogParts, holdout: float) -> tuple[Logs | LogParts, Logs | None]:
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}; expected a share of the requests, 0 to below 1")
    early: Logs | LogParts
    early, later = log.split(1 - holdout) if holdout else (log, None)
    if not early.num_requests or (later is not None and not later.num_requests):
        few = f"the log has {log.num_requests} requests, and holdout {holdout} leaves nothing to "
        raise ValueError(
            few + ("train on" if not early.num_requests else "judge on; expected more requests, or holdout 0")
        )
    return early, later.sample(HOLDOUT_REQUESTS) if isinstance(later, LogParts) else later
