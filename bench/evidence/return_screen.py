"""Which behaviors of KuaiRand-Pure go with return within three days, given activity: `python -m
bench.evidence.return_screen DIR` writes bench/results/return_screen.json.

The log has ten days, so exposures from 25 April to 1 May have a label. A return is a further session, after a gap of
30 minutes. Activity: the user's sessions so far, the exposures in the session so far, the day, and the exposures from 8
to 24 April. It shows no effect of any behavior.
"""

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report.results import write_json
from pygrade._typing import Array
from pygrade.data.downstream import DAY_MS
from pygrade.data.events import import_events
from pygrade.evaluation.return_screen import NO_EFFECT, screen

RESULT = Path("bench/results/return_screen.json")
DAYS, GAP_MINUTES = 3, 30
TASKS = ("click", "long_view", "like", "comment", "follow", "forward", "profile_enter")
SCHEMA = """
name = "KuaiRand-Pure"
license = "CC BY-SA 4.0"
utc_offset_hours = 8.0
requests = "session"
gap_minutes = {gap}
downstream = {{ return = {{ days = {days} }} }}

[[events]]
files = "{data}/log_standard_4_25_to_5_04_pure.csv"
form = "wide"
user = "user_id"
item = "video_id"
time = "time_ms"
exposure = "every row"
measures = {{ play = "play_time_ms / 1000", duration = "duration_ms / 1000" }}
tasks = {{ {tasks} }}
"""


def return_screen(data: Path, scratch: Path) -> dict[str, Any]:
    """The record of the screen; data: the directory of KuaiRand-Pure."""
    columns = {task: "long_view" if task == "long_view" else f"is_{task}" for task in TASKS}
    tasks = ", ".join(f'{task} = "{column}"' for task, column in columns.items())
    schema = scratch / "events.toml"
    schema.write_text(SCHEMA.format(data=data, gap=GAP_MINUTES, days=DAYS, tasks=tasks), encoding="utf-8")
    log = import_events(f"events:{schema}", scratch / "log")
    frame = log.scan().collect().sort("user_id", "timestamp", "position")
    users, time = frame["user_id"].to_numpy(), frame["timestamp"].to_numpy()
    history = pl.read_csv(data / "user_history_before_4_25.csv").select("user_id", "history_exposures")
    before = frame.join(history, "user_id", "left", maintain_order="left")["history_exposures"].fill_null(0)
    behaviors = {task: frame[f"y_{task}"].to_numpy() for task in TASKS}
    play, duration = frame["m_play"].to_numpy(), frame["m_duration"].to_numpy()
    behaviors["play_seconds"] = np.log1p(play)
    behaviors["short_play"] = (play < np.minimum(3.0, duration)).astype(float)
    label = frame["y_return"].to_numpy()
    found = screen(behaviors, label, _activity(frame, before.to_numpy()), users)
    last = datetime.fromtimestamp(int(time.max()) / 1000, UTC) + timedelta(hours=8)
    return {
        "data": "KuaiRand-Pure",
        "days": DAYS,
        "exposures": len(frame),
        "users": int(frame["user_id"].n_unique()),
        "last_day": last.date().isoformat(),
        "returned": float(label.mean()),
        "behaviors": {
            name: {
                "counted": entry.counted,
                "mean": entry.mean,
                "deviation": entry.deviation,
                "alone": entry.alone.to_dict(),
                "given_activity": entry.given_activity.to_dict(),
            }
            for name, entry in found.items()
        },
        "said": NO_EFFECT,
    }


def _activity(frame: pl.DataFrame, before: Array) -> dict[str, Array]:
    """By exposure: what its user has done so far. The frame is in order of user and time."""
    session = pl.col("request_id").rle_id().cast(pl.Int64)
    counted = frame.select(
        sessions=session - session.min().over("user_id"),
        in_session=pl.int_range(pl.len()).over("request_id"),
        day=pl.col("timestamp") // DAY_MS,
    )
    return {name: counted[name].to_numpy() for name in counted.columns} | {"before": before}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        record = return_screen(Path(sys.argv[1]).resolve(), Path(scratch))
    write_json(RESULT, record)
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
