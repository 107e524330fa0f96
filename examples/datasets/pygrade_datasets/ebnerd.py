"""EB-NeRD, the Ekstra Bladet News Recommendation Dataset, as raw events: impressions of a news site.

EB-NeRD: Kruse et al., RecSys Challenge 2024, arXiv 2410.03432, recsys.eb.dk; for research, under its own license,
which is accepted at download. A directory (demo, small or large) holds articles.parquet, train/ and
validation/; the test split has no clicks and is not read. What is read:

- behaviors.parquet: impression_id, impression_time, user_id, article_id (null: the front page), article_ids_inview,
  article_ids_clicked, device_type, is_sso_user, is_subscriber, gender, postcode, age; read_time (seconds on this page);
  next_read_time and next_scroll_percentage (of the article that was clicked).
- articles.parquet: article_id, published_time, premium, article_type, category, subcategory, topics, sentiment_score,
  sentiment_label, and the length of body. total_inviews, total_pageviews and total_read_time count what happened in the
  days after publication, and last_modified_time is later as well: never read.
- history.parquet, with `EbNerdConfig.history`: user_id, impression_time_fixed, article_id_fixed, read_time_fixed,
  scroll_percentage_fixed: clicks of the three weeks before.

An impression is a request. The authors shuffled the in-view lists: a slot is a place in the list, not a rank on the
page. A clicked article that is missing from the list is appended to it. If several were clicked, reading and scrolling
belong to the first. is_subscriber was fixed when the data were made, so it tells a little about the future.

``event_time``: the impression's time plus the time on the page, plus for a clicked article its reading time.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pygrade._util.optional_imports import require
from pygrade.config.data import EBNERD_TASK_VALUES, EbNerdConfig
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.tables import by_kind, column_names, read_batches, refuse_row

if TYPE_CHECKING:
    import polars as pl

LICENSE = "EB-NeRD license terms (research), recsys.eb.dk"

USER_KINDS = {"gender": "categorical", "postcode": "categorical", "age": "dense"}
ITEM_KINDS = {
    "published_time": "time",
    "premium": "categorical",
    "article_type": "categorical",
    "category": "categorical",
    "subcategory": "list",
    "topics": "list",
    "sentiment_score": "dense",
    "sentiment_label": "categorical",
    "body_length": "dense",
}
CONTEXT_KINDS = {"device_type": "categorical", "is_sso_user": "categorical", "is_subscriber": "categorical"}

_BEHAVIORS = by_kind(
    {
        "int": "impression_id user_id",
        "int?": "article_id device_type gender postcode age",
        "time": "impression_time",
        "ints": "article_ids_inview article_ids_clicked",
        "bool?": "is_sso_user is_subscriber",
        "float?": "read_time next_read_time next_scroll_percentage",
    }
)
_ARTICLES = by_kind(
    {
        "int": "article_id",
        "int?": "category",
        "time?": "published_time",
        "bool?": "premium",
        "text?": "article_type sentiment_label body",
        "ints?": "subcategory",
        "texts?": "topics",
        "float?": "sentiment_score",
    }
)
_HISTORY = {
    "user_id": "int",
    "impression_time_fixed": "times",
    "article_id_fixed": "ints",
    "read_time_fixed": "floats",
    "scroll_percentage_fixed": "floats",
}
_SOURCES = {"body_length": "body"}  # columns of other names
_INVIEW = 20  # articles of an impression, about


def import_ebnerd(directory: Path, writer: EventWriter, config: EbNerdConfig | None = None) -> None:
    """Writes the events of an EB-NeRD directory. Errors name file, row and column."""
    config = config or EbNerdConfig()
    articles = directory / "articles.parquet"
    splits = [directory / split for split in ("train", "validation")]
    splits = [split for split in splits if (split / "behaviors.parquet").is_file()]
    if not splits or not articles.is_file():
        raise FileNotFoundError(
            f"{directory} lacks articles.parquet, or train/behaviors.parquet and validation/behaviors.parquet; "
            "expected EB-NeRD's files"
        )
    history = splits[0] / "history.parquet"
    if config.history and not history.is_file():
        raise FileNotFoundError(f"{history} is missing, and history asks for it")
    for split in splits:
        path, rows = split / "behaviors.parquet", max(1, min(writer.rows, 500_000) // _INVIEW)
        for first, frame in read_batches(path, _BEHAVIORS, rows):
            _add_behaviors(path, first, frame, writer, config)
    if config.history:
        _read_history(history, writer, config)
    _read_articles(articles, writer)
    names = column_names(articles)
    kinds = {name: kind for name, kind in ITEM_KINDS.items() if _SOURCES.get(name, name) in names}
    source = EventSource(
        name="EB-NeRD",
        license=LICENSE,
        tasks=tuple(EBNERD_TASK_VALUES),
        task_values=tuple(float(config.task_values.get(task, 1.0)) for task in EBNERD_TASK_VALUES),
        funnel=(("click", "read"), ("click", "scroll")),
        users=USER_KINDS,
        items=kinds,
        context=CONTEXT_KINDS,
        measures=("read_seconds", "scroll_percent"),
        category="category" if "category" in kinds else None,
    )
    writer.finish(source)


def _add_behaviors(path: Path, first: int, frame: "pl.DataFrame", writer: EventWriter, config: EbNerdConfig) -> None:
    polars = require("polars", "pipeline")
    col = polars.col
    for column in ("article_ids_inview", "article_ids_clicked"):
        bad = frame[column].list.eval(polars.element().is_null()).list.any().fill_null(False).to_numpy()
        refuse_row(path, first, column, frame[column], bad, "whole numbers")
    for column in ("read_time", "next_read_time", "next_scroll_percentage"):
        refuse_row(path, first, column, frame[column], (frame[column] < 0).fill_null(False).to_numpy(), "0 or more")
    writer.add_attributes("user", frame.select("user_id", *USER_KINDS), frame["impression_time"])
    both = polars.concat_list("article_ids_inview", "article_ids_clicked")
    frame = frame.with_columns(
        both.list.unique(maintain_order=True).alias("item_id"),
        col("article_ids_clicked").list.first().alias("first_click"),
    ).filter(col("item_id").list.len() > 0)
    frame = frame.with_columns(polars.int_ranges(col("item_id").list.len()).alias("position"))
    rows = frame.explode("item_id", "position").with_columns(
        col("item_id").is_in(col("article_ids_clicked")).alias("clicked"),
        (col("item_id") == col("first_click")).fill_null(False).alias("read"),
    )
    read = polars.when("read").then("next_read_time")
    scroll = polars.when("read").then("next_scroll_percentage")
    front, article = polars.lit("front"), polars.lit("article")
    seconds = col("read_time").fill_null(0.0) + read.fill_null(0.0)
    writer.add_events(
        rows.select(
            col("impression_id").alias("request_id"),
            "user_id",
            "item_id",
            "position",
            col("impression_time").alias("timestamp"),
            (col("impression_time") + (seconds * 1000).cast(polars.Int64)).alias("event_time"),
            polars.when(col("article_id").is_null()).then(front).otherwise(article).alias("scenario"),
            *(col(name).cast(polars.Int64).cast(polars.String).alias(f"c_{name}") for name in CONTEXT_KINDS),
            read.alias("m_read_seconds"),
            scroll.alias("m_scroll_percent"),
            *_feedback(col("clicked"), read, scroll, config),
        )
    )


def _feedback(clicked: "pl.Expr", read: "pl.Expr", scroll: "pl.Expr", config: EbNerdConfig) -> "list[pl.Expr]":
    return [
        clicked.alias("y_click"),
        (clicked & (read >= config.read_seconds).fill_null(False)).alias("y_read"),
        (clicked & (scroll >= config.scroll_percent).fill_null(False)).alias("y_scroll"),
    ]


def _read_history(path: Path, writer: EventWriter, config: EbNerdConfig) -> None:
    """Clicks of the weeks before the first split, numbered -1, -2, …"""
    polars = require("polars", "pipeline")
    col, count = polars.col, 0
    lists = [name for name in _HISTORY if name != "user_id"]
    for first, frame in read_batches(path, _HISTORY, max(1, min(writer.rows, 500_000) // 200)):
        for name in lists[1:]:
            bad = (frame[name].list.len() != frame[lists[0]].list.len()).to_numpy()
            refuse_row(path, first, name, frame[name].list.len(), bad, f"as many entries as in {lists[0]}")
        rows = frame.explode(*lists).drop_nulls(["impression_time_fixed", "article_id_fixed"])
        read, scroll = col("read_time_fixed"), col("scroll_percentage_fixed")
        time = col("impression_time_fixed")
        writer.add_events(
            rows.select(
                (-1 - count - polars.int_range(polars.len())).alias("request_id"),
                "user_id",
                col("article_id_fixed").alias("item_id"),
                polars.lit(0).alias("position"),
                time.alias("timestamp"),
                (time + (read.fill_nan(None).fill_null(0.0).clip(0) * 1000).cast(polars.Int64)).alias("event_time"),
                polars.lit("history").alias("scenario"),
                *(polars.lit(None, polars.String).alias(f"c_{name}") for name in CONTEXT_KINDS),
                read.fill_nan(None).alias("m_read_seconds"),
                scroll.fill_nan(None).alias("m_scroll_percent"),
                *_feedback(polars.lit(True), read, scroll, config),
            )
        )
        count += len(rows)


def _read_articles(path: Path, writer: EventWriter) -> None:
    polars = require("polars", "pipeline")
    names = column_names(path)
    columns = {name: kind for name, kind in _ARTICLES.items() if name in names or name == "article_id"}
    for _, frame in read_batches(path, columns, min(writer.rows, 20_000)):
        frame = frame.rename({"article_id": "item_id"})
        if "body" in columns:
            frame = frame.with_columns(polars.col("body").str.len_chars().cast(polars.Float32).alias("body_length"))
        kinds = [name for name in ITEM_KINDS if name in frame.columns]
        flags = [polars.col("premium").cast(polars.Int64)] if "premium" in kinds else []
        writer.add_attributes("item", frame.with_columns(flags).select("item_id", *kinds))
