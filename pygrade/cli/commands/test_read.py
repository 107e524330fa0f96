"""pygrade test read"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.serialization import to_builtins
from pygrade.cli import terminal
from pygrade.config.abtest import TestReadOptions
from pygrade.config.ignored import refuse
from pygrade.config.option import Place
from pygrade.evaluation.abtest import PLANNED_UNITS, SampleRatio, read_test, sample_ratio
from pygrade.evaluation.decision import DecidedTest, decide_log
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.user_tables import load_test
from pygrade.logs import Logs, read_logs
from pygrade.metrics import intervals
from pygrade.metrics.texts import bounds_text, value_text

logger = logging.getLogger("pygrade")

ENOUGH_USERS = 100  # of an arm: with fewer, the intervals of skewed metrics are too narrow


_OF_LOG = ("control", "scores", "training")
_OF_TABLES = ("arms", "metrics", "before", "shares", "counts")


def run(options: TestReadOptions) -> dict[str, Any]:
    if options.log is not None:
        refuse(options, _OF_TABLES, "no log")
        return _read_log(options, options.log)
    refuse(options, _OF_LOG, "a log")
    if options.counts:
        refuse(options, ("arms", "metrics", "before", "planned_users"), "no --counts")
        return _split(options)
    if not options.arms:
        raise ValueError("no log, --arms or --counts is given; expected one of them")
    arms = _arms(options.arms)
    test = load_test(arms, options.metrics, options.before)
    counts = np.bincount(test.arm, minlength=len(arms)).tolist()
    ratio = sample_ratio(counts, options.shares)
    record: dict[str, Any] = {
        "control": test.names[0],
        "users": dict(zip(test.names, counts, strict=True)),
        "sample_ratio": to_builtins(ratio),
        "correction": "max-t",
        "values": None,
        "lifts": None,
    }
    if ratio.mismatch:
        if not options.json:
            _print_split(counts, ratio)
        return record
    if min(counts) < ENOUGH_USERS:
        logger.warning("an arm has %d users; intervals need at least %d", min(counts), ENOUGH_USERS)
    lifts = read_test(test.arm, test.names, test.metrics, options.planned_users)
    users = np.arange(len(test.arm))
    record["values"] = {
        name: {
            label: intervals.ratio(m.numerator[rows], m.denominator[rows], users[rows]).to_dict()
            for label, m in test.metrics.items()
        }
        for name, rows in ((name, test.arm == a) for a, name in enumerate(test.names))
    }
    record["lifts"] = to_builtins(
        {arm: {label: vars(lift) for label, lift in arm_lifts.items()} for arm, arm_lifts in lifts.items()}
    )
    if not options.json:
        _print(record, options.planned_users)
    return record


def _read_log(options: TestReadOptions, place: Place) -> dict[str, Any]:
    """All estimators of a log, the gate and the decision."""
    logs = read_logs(place)
    logs = _ranked(logs, options.scores) if options.scores else logs
    earlier = None if options.training is None else read_logs(options.training)
    planned = options.planned_users or PLANNED_UNITS
    decided = decide_log(logs, options.control, earlier=earlier, planned_requests=planned)
    if not options.json:
        _print_log(decided)
    return decided.to_dict()


def _print_log(decided: DecidedTest) -> None:
    test, gate, choice, returns = decided
    alarm = "" if returns is None else returns.alarm
    rows = [
        [name, estimator, metric, *(bounds_text(interval) for interval in (reading.fixed, reading.anytime))]
        for name, arm in test.arms.items()
        for estimator, metrics in arm.readings.items()
        for metric, reading in metrics.items()
    ]
    head = ["arm", "estimator", "", "lift", "at any time"]
    z = "; ".join(
        f"{name}: " + ", ".join(f"{estimator} {value:+.1f}" for estimator, value in arm.disagreement.items())
        for name, arm in test.arms.items()
    )
    left = "".join(f"; {count:,} requests {reason} left out" for reason, count in test.left_out.items())
    caption = f"{test.requests:,} requests of {test.users:,} users{left}; z against fewer assumptions: {z}; {gate}"
    terminal.table(
        f"Lift over {test.control} with 95 % intervals",
        head,
        rows,
        caption=f"{caption}; e(slot) {test.exposure_source}",
    )
    for text in filter(None, (alarm and f"Alarm: {alarm}.", f"{choice.action.capitalize()}. {choice.reason}")):
        terminal.text(text)


def _ranked(logs: Logs, scores: Sequence[str]) -> Logs:
    """The log with slots by columns of scores; pages as long as those that were shown."""
    length = np.bincount(logs.row_request, logs.shown, logs.num_requests)[logs.row_request]
    slots = {}
    for text in scores:
        name, _, column = text.partition("=")
        columns = {f"i_{item}": values for item, values in zip(logs.items, logs.item_columns.T, strict=True)}
        columns |= {} if logs.production_score is None else {"production_score": logs.production_score}
        if column not in columns or name in slots:
            raise ValueError(
                f"scores has {text!r}; expected ARM=COLUMN of distinct arms, one of {', '.join(columns) or 'none'}"
            )
        place = ranks(columns[column], logs.offsets)
        slots[name] = np.where(place < length, place, -1).astype(np.int32)
    return replace(logs, arms=tuple(slots), slots=np.stack(list(slots.values()), 1), arm_shares=None)


def _split(options: TestReadOptions) -> dict[str, Any]:
    """Only whether the users were split as planned."""
    ratio = sample_ratio(options.counts, options.shares)
    if not options.json:
        _print_split(options.counts, ratio)
    return {"sample_ratio": to_builtins(ratio)}


def _print_split(counts: Sequence[int], ratio: SampleRatio) -> None:
    verdict = "MISMATCH: do not read the test" if ratio.mismatch else "as planned"
    terminal.text(f"sample ratio of {list(counts)}: {verdict} (p = {ratio.p_value:.2g})")


def _print(record: dict[str, Any], planned_users: int | None) -> None:
    lifts, control = record["lifts"], record["control"]
    count = sum(map(len, lifts.values()))
    corrected = f", corrected for {count} lifts (max-t)" if count > 1 else ""
    users = ", ".join(f"{name} {size:,}" for name, size in record["users"].items())
    terminal.text(f"sample ratio: as planned (p = {record['sample_ratio']['p_value']:.2g}); users: {users}")
    head = ["", "arm", control, "arm's value", "lift", "CUPED saves"] + ["at any time"] * (planned_users is not None)
    rows, notes = [], []
    for metric in next(iter(lifts.values())):
        for arm, arm_lifts in lifts.items():
            lift = arm_lifts[metric]
            interval = lift["anytime"] or lift["corrected"]
            gain = "" if lift["cuped_gain"] is None else f"{100 * lift['cuped_gain']:.0f} %"
            cells = [value_text(record["values"][name][metric]) for name in (control, arm)]
            cells += [bounds_text(lift["corrected"]), gain]
            cells += [bounds_text(lift["anytime"])] if lift["anytime"] else []
            reason = lift["undecidable"]
            notes += [f"{metric} of {arm} is not decidable: {reason}"] if reason else []
            rows.append([metric, arm, *cells, "not decidable" if reason else _verdict(interval)])
    terminal.table(f"Lift over {control} with 95 % intervals{corrected}", [*head, "verdict"], rows)
    for note in notes:
        terminal.text(note)


def _verdict(interval: dict[str, Any]) -> str:
    low, high = interval["low"], interval["high"]
    return "undecided" if low is None or low <= 0 <= high else "higher" if low > 0 else "lower"


def _arms(named: Sequence[str]) -> dict[str, Path]:
    """NAME=FILE, or FILE, which is named by its stem."""
    arms = {}
    for text in named:
        name, _, path = text.rpartition("=")
        name = name or Path(path).stem
        if name in arms:
            raise ValueError(f"arms names {name!r} twice; expected NAME=FILE with a name for each")
        arms[name] = Path(path)
    if len(arms) < 2:
        raise ValueError(f"arms names {', '.join(named)}; expected at least 2, the control first")
    return arms
