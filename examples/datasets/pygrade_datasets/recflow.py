"""RecFlow as raw events: Kuaishou's requests with the candidates that each stage let through or dropped.

RecFlow: An Industrial Full Flow Recommendation Dataset (ICLR 2025), github.com/RecFlow-ICLR/RecFlow; CC BY-SA 4.0. What
is read of ``all_stage/YYYY-MM-DD.feather`` (or ``realshow/``, only the exposed videos), in the directory or its data/:

- request_id, request_timestamp (ms), user_id, device_id, age, gender, province;
- video_id, author_id, category_level_one, category_level_two, upload_type, upload_timestamp (s), duration (ms);
- the stage: realshow (1: exposed), rerank_pos, rerank_neg, rank_pos, rank_neg, coarse_neg, prerank_neg; rerank_index;
- of exposed videos: playing_time (ms), effective_view (30 % watched), long_view (all watched), like, follow, forward,
  comment.

The other files repeat these rows and are not read. An exposed video's slot is its place among the request's exposed
videos by rerank_index; the other candidates have neither slot nor feedback. ``stage`` names the last
stage that a candidate reached. ``event_time`` is the request's time plus what was played up to and including the video.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pygrade._util.optional_imports import require
from pygrade.config.data import RECFLOW_STAGES, RECFLOW_TASK_VALUES, RecFlowConfig
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.tables import by_kind, read_batches, refuse_row

if TYPE_CHECKING:
    import polars as pl

LICENSE = "CC BY-SA 4.0"
USER_KINDS = {"device_id": "hashed", "age": "categorical", "gender": "categorical", "province": "categorical"}
ITEM_KINDS = {
    "author_id": "hashed",
    "category_level_one": "categorical",
    "category_level_two": "categorical",
    "upload_type": "categorical",
    "upload_time": "time",
    "duration": "dense",
}
"""upload_time: ms since 1970. duration: seconds."""

_COLUMNS = by_kind(
    {
        "int": "request_id request_timestamp user_id video_id",
        "int?": "device_id age gender province author_id category_level_one category_level_two upload_type "
        "upload_timestamp rerank_index " + " ".join(RECFLOW_TASK_VALUES),
        "binary?": " ".join(RECFLOW_STAGES),
        "float?": "duration playing_time",
    }
)


def import_recflow(directory: Path, writer: EventWriter, config: RecFlowConfig | None = None) -> None:
    """Writes the events of a RecFlow directory. Errors name file, row and column."""
    config = config or RecFlowConfig()
    for path in find_files(directory):
        for first, frame in read_batches(path, _COLUMNS, min(writer.rows, 100_000)):
            _add(path, first, frame, writer, config)
    funnel = ("effective_view", "long_view")
    source = EventSource(
        name="RecFlow",
        license=LICENSE,
        tasks=config.tasks,
        task_values=tuple(float(config.task_values.get(task, 1.0)) for task in config.tasks),
        funnel=(funnel,) if set(funnel) <= set(config.tasks) else (),
        users=USER_KINDS,
        items=ITEM_KINDS,
        measures=("play",),
        utc_offset_hours=8.0,
        category="category_level_two",
    )
    writer.finish(source, _arrange)


def find_files(directory: Path) -> list[Path]:
    """The days in order. FileNotFoundError if there are none; ValueError for a file whose name is no day."""
    places = [place / name for name in ("all_stage", "realshow") for place in (directory, directory / "data")]
    found = next((sorted(place.glob("*.feather")) for place in places if any(place.glob("*.feather"))), [])
    if not found:
        raise FileNotFoundError(
            f"{directory} holds neither all_stage/*.feather nor realshow/*.feather, RecFlow's files"
        )
    for path in found:
        _day_of(path)
    return found


def _day_of(path: Path) -> int:
    try:
        return (date.fromisoformat(path.stem) - date(1970, 1, 1)).days
    except ValueError as error:
        raise ValueError(f"{path}: expected a file named by its day, YYYY-MM-DD.feather") from error


def _add(path: Path, first: int, frame: "pl.DataFrame", writer: EventWriter, config: RecFlowConfig) -> None:
    polars = require("polars", "pipeline")
    time = frame["request_timestamp"]
    away = np.abs((time.to_numpy() + 8 * 3_600_000) // 86_400_000 - _day_of(path)) > 1
    refuse_row(path, first, "request_timestamp", time, away, "ms of the file's day in UTC+8, give or take one")
    shown = (frame["realshow"] == 1).fill_null(False)
    for task in config.tasks:
        bad = shown & ~frame[task].is_in([0, 1]).fill_null(False)
        refuse_row(path, first, task, frame[task], bad.to_numpy(), "0 or 1 for an exposed video")
    play = frame["playing_time"]
    refuse_row(path, first, "playing_time", play, (shown & (play < 0).fill_null(False)).to_numpy(), "0 or more")
    stage = polars.coalesce(polars.when(polars.col(name) == 1).then(polars.lit(name)) for name in RECFLOW_STAGES)
    frame = frame.with_columns(stage.alias("stage"), shown.alias("shown"))
    lost = frame["stage"].is_null().to_numpy()
    refuse_row(path, first, "realshow", frame["realshow"], lost, "a 1 in one of " + ", ".join(RECFLOW_STAGES))
    frame = frame.filter(polars.col("shown") | polars.col("stage").is_in(config.stages))

    def shown_only(value: "pl.Expr") -> "pl.Expr":
        chosen: pl.Expr = polars.when(polars.col("shown")).then(value)
        return chosen

    slot = polars.col("rerank_index").fill_null(2**31 - 1).clip(0, 2**31 - 1)  # a number from 0 on comes from _arrange
    writer.add_events(
        frame.select(
            "request_id",
            "user_id",
            "stage",
            polars.col("video_id").alias("item_id"),
            polars.col("request_timestamp").alias("timestamp"),
            polars.col("request_timestamp").alias("event_time"),
            shown_only(slot).alias("position"),
            shown_only(polars.col("playing_time") / 1000.0).alias("m_play"),
            *(shown_only(polars.col(task)).alias(f"y_{task}") for task in config.tasks),
        ),
        str(path),
    )
    since = frame["request_timestamp"]
    writer.add_attributes("user", frame.select("user_id", *USER_KINDS), since, str(path))
    writer.add_attributes(
        "item",
        frame.select(
            polars.col("video_id").alias("item_id"),
            *(name for name in ITEM_KINDS if name not in ("upload_time", "duration")),
            (polars.col("upload_timestamp") * 1000).alias("upload_time"),
            (polars.col("duration") / 1000.0).cast(polars.Float32),
        ),
        since,
        str(path),
    )


def _arrange(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Each video once in a request, exposed ones before others; slots 0, 1, … and the time at which each was over."""
    polars = require("polars", "pipeline")
    frame = frame.unique(["request_id", "item_id"], keep="first", maintain_order=True)
    shown = polars.col("position").is_not_null()
    slot = polars.int_range(polars.len()).over("request_id")
    played = (polars.col("m_play").fill_null(0.0).cast(polars.Float64) * 1000.0).cum_sum().over("request_id")
    over = polars.col("timestamp") + played.cast(polars.Int64)
    return frame.with_columns(
        polars.when(shown).then(slot).cast(polars.Int32).alias("position"),
        polars.when(shown).then(over).otherwise("timestamp").alias("event_time"),
    )
