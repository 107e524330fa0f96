"""python -m bench.evidence.noise OUT.json [KIND=FIRST-LAST …]: verdicts of `train` on logs that nothing predicts.

1,000 requests of 20 candidates, ten shown in slots of exponent .5, four tasks; every second log has a chain of tasks.
The kinds are those of the protocol. OUT keeps what it has. GRADE is trained for 20 steps a stage, so that 100 logs of
each kind can be run.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.study.served import train_once
from pygrade.config.training import Stage1Config, Stage2Config, TrainConfig
from pygrade.logs import Logs

PLAIN, COPIES, WHALE, BOTS = "plain", "copies", "one user with 90 %", "bots"
KINDS = (PLAIN, COPIES, WHALE, BOTS)
LOGS = 100
_REQUESTS, _CANDIDATES, _SLOTS, _FEATURES = 1_000, 20, 10, 8
_COPIES = 4  # each request of a log of copies
_SEED = 9703  # the runs of 9701 and 9702 led to wider bounds: see the protocol


def noise_log(kind: str, number: int) -> Logs:
    """A log whose feedback depends on the slot alone."""
    rng = np.random.default_rng([_SEED, KINDS.index(kind), number])
    distinct = _REQUESTS // _COPIES if kind == COPIES else _REQUESTS
    chain = number % 2 == 0
    predictions = 1 / (1 + np.exp(np.array([1.5, 2.0, 2.5, 1.5]) - rng.standard_normal((distinct, _CANDIDATES, 4))))
    if chain:
        predictions[..., 1] *= predictions[..., 0]
        predictions[..., 2] *= predictions[..., 1]
    context = rng.standard_normal((distinct, _FEATURES))
    score = np.log(predictions).sum(-1) + rng.standard_normal((distinct, _CANDIDATES))
    shuffled = rng.random(distinct) < 0.2
    order = np.argsort(-score, 1)[:, :_SLOTS]
    order[shuffled] = rng.permuted(order[shuffled], axis=1)
    position = np.full((distinct, _CANDIDATES), -1, np.int32)
    np.put_along_axis(position, order, np.broadcast_to(np.arange(_SLOTS, dtype=np.int32), order.shape), 1)
    look = (rng.random((distinct, _CANDIDATES)) < np.maximum(position + 1.0, 1.0) ** -0.5) & (position >= 0)
    feedback = np.stack([look & (rng.random(look.shape) < rate) for rate in (0.2, 0.1, 0.1, 0.15)], -1)
    if chain:
        feedback[..., 1] = feedback[..., 0] & (rng.random(look.shape) < 0.4)
        feedback[..., 2] = feedback[..., 1] & (rng.random(look.shape) < 0.4)
    events = feedback.astype(np.float32)
    user = rng.integers(0, 330, distinct)
    if kind == BOTS:
        bot = user < 7  # a fiftieth of the users
        shown = position >= 0
        events[bot] = np.where(shown[bot][..., None], 1.0, 0.0)
        page = int(rng.integers(distinct))
        events[page, order[page, 0]] = (1.0, 1.0, 1_000.0, 1.0)
    if kind == WHALE:
        user = np.where(rng.random(distinct) < 0.9, 0, user)
    times = _COPIES if kind == COPIES else 1
    order_of = np.tile(np.arange(distinct), times)
    users = np.concatenate([user + 1_000 * copy for copy in range(times)])
    return _log(
        context[order_of], predictions[order_of], position[order_of], events[order_of], users, shuffled[order_of]
    )


def _log(
    context: NDArray[Any],
    predictions: NDArray[Any],
    position: NDArray[Any],
    events: NDArray[Any],
    user: NDArray[Any],
    shuffled: NDArray[Any],
) -> Logs:
    count, size, tasks = predictions.shape
    return Logs(
        tasks=("click", "cart", "order", "like"),
        features=tuple(f"f{i}" for i in range(context.shape[1])),
        request_id=np.arange(count),
        user_id=user.astype(np.int64),
        offsets=np.arange(count + 1) * size,
        context=context.astype(np.float32),
        item_id=np.tile(np.arange(size), count),
        position=position.reshape(-1),
        predictions=predictions.reshape(-1, tasks).astype(np.float32),
        feedback=events.reshape(-1, tasks),
        task_values=(1.0, 3.0, 10.0, 2.0),
        exploration=np.where(shuffled, "shuffle", "none"),
    )


def verdict(logs: Logs) -> dict[str, Any]:
    """What `train` says and serves."""
    steps = {"stage1": Stage1Config(steps=20), "stage2": Stage2Config(steps=20)}
    result = train_once(logs, TrainConfig(**steps))
    assert result.policy.mixture is not None
    license = result.summary["trust"].get("license")
    return {
        "verdict": result.policy.mixture.verdict,
        "licensed": license is not None,
        "trust": result.policy.mixture.trust,
    }


def main(out: Path, wanted: list[str]) -> None:
    logging.getLogger("pygrade").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"noise": {}}
    for kind in KINDS:
        spans = [word.split("=")[1] for word in wanted if word.split("=")[0] == kind] if wanted else [f"0-{LOGS - 1}"]
        for span in spans:
            first, last = map(int, span.split("-"))
            found = record["noise"].setdefault(kind, {})
            for number in range(first, last + 1):
                if str(number) not in found:
                    found[str(number)] = verdict(noise_log(kind, number))
                    out.write_text(json.dumps(record) + "\n", encoding="utf-8")
            print(kind, counts(found), flush=True)


def counts(found: dict[str, Any]) -> dict[str, int]:
    names = [entry["verdict"] for entry in found.values()]
    return {name: names.count(name) for name in sorted(set(names))} | {
        "licensed": sum(entry["licensed"] for entry in found.values())
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
