"""What a service leaves on disk: exposures and feedback, made up."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pygrade.config.policy import PolicyConfig
from pygrade.logs import Logs
from pygrade.logs.parquet import write_part
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving.artifact import PARTS, write_artifact

TASKS = ("click", "buy")
START = 1_700_000_000_000
DELAY = 60_000


def write_pipeline(folder, seed):
    """An artifact of a pipeline as far as its policy goes: the other parts hold a file each that nobody reads."""
    with TemporaryDirectory() as place:
        parts = {name: Path(place) / name for name in PARTS}
        for name, part in parts.items():
            part.mkdir()
            (part / f"{name}.json").write_text("{}")
        (parts["policy"] / "policy.json").unlink()
        policy = FusionPolicy(PolicySpec(("click", "like", "order"), ("hour",), PolicyConfig(hidden=(4,))), seed=seed)
        policy.save(parts["policy"])
        return write_artifact(folder, parts, "1df255d409abbd96", {})


def pages(count, seed=0, first=0, size=6, shown=3, items=40, names="r{}", tasks=TASKS, features=("hour",)):
    """Pages of drawn weights, one a second; the last candidates of each are not shown."""
    rng = np.random.default_rng(seed)
    rows, many = count * size, len(tasks)
    position = np.tile(np.r_[np.arange(shown), np.full(size - shown, -1)], count).astype(np.int32)
    concentration = rng.uniform(2, 5, (count, many)).astype(np.float32)
    weights = np.stack([rng.dirichlet(row) for row in concentration]).astype(np.float32)
    number = np.arange(first, first + count)
    return Logs(
        tasks=tasks,
        features=features,
        request_id=np.array([names.format(n) for n in number]),
        user_id=np.array([f"u{n % 17}" for n in number]),
        offsets=np.arange(count + 1) * size,
        context=rng.normal(size=(count, len(features))).astype(np.float32),
        item_id=np.concatenate([rng.choice(items, size, replace=False) for _ in number]).astype(np.int64),
        position=position,
        predictions=rng.uniform(0.05, 0.6, (rows, many)).astype(np.float32),
        feedback=np.zeros((rows, many), np.float32),
        weights=weights,
        concentration=concentration,
        seed=number.astype(np.uint64),
        policy_version=np.full(count, "v1"),
        exploration=np.full(count, "dirichlet"),
        timestamp=START + 1000 * number,
        candidates=np.full(count, size),
        arm=np.where(number % 2 == 0, "main", "new"),
        items=("margin",),
        item_features=np.random.default_rng([seed, 2]).random((rows, 1), dtype=np.float32),
    )


def write_exposures(logs, folder, name):
    """A file as the core names it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_part(vars(logs), folder / f"exposures-{name}.parquet")


def events_of(logs, seed=0):
    """A record of each of some events on the pages, in the order of their times, and the feedback that they make."""
    rng = np.random.default_rng([seed, 1])
    amounts = (rng.random(logs.feedback.shape) < 0.4) * rng.integers(1, 4, logs.feedback.shape)
    amounts = np.where(logs.shown[:, None], amounts, 0)
    records = []
    for row, task in zip(*np.nonzero(amounts), strict=True):
        request = int(logs.row_request[row])
        records.append(
            {
                "user": str(logs.user_id[request]),
                "item": int(logs.item_id[row]),
                "task": logs.tasks[task],
                "timestamp": int(logs.timestamp[request] + rng.integers(0, DELAY)),
                "amount": float(amounts[row, task]),
                "request_id": str(logs.request_id[request]),
                "event_id": f"e{logs.request_id[request]}-{row}-{task}",
            }
        )
    return sorted(records, key=lambda record: record["timestamp"]), amounts.astype(np.float32)


def write_feedback(records, folder, name, mode="w"):
    folder.mkdir(parents=True, exist_ok=True)
    with (Path(folder) / f"{name}.jsonl").open(mode) as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)


def by_request(logs):
    """The log in the order of its ids."""
    return logs.select(np.argsort(np.array([str(name) for name in logs.request_id]), kind="stable"))
