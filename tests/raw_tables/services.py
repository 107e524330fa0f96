"""Raw tables of other services: a video feed, a news app, a Kafka dump, a marketplace, hotel search, French events."""

import duckdb
import numpy as np
import polars as pl

from tests.raw_tables.shops import clock, date, flag, ids, words, write_csv, write_lines
from tests.raw_tables.world import make_rows


def video_feed(folder, requests, seed):
    rows = make_rows(requests, seed, "user", {"skip": -1.0, "like": -2.6}, worth=(-1.0, 4.0), priced=False)
    rng, count = np.random.default_rng(seed), len(rows)
    predicted = pl.Series(np.round(np.exp(rng.normal(2.2, 0.5, count)), 2))
    watched = pl.Series(np.round(rng.exponential(8.0, count), 1))
    watched = pl.when(pl.col("y_skip") > 0).then(1.2).when(pl.col("slot").is_not_null()).then(watched)
    rows = rows.with_columns(
        *ids("f{}", "v{}", "clip{}"), p_watch=predicted, y_watch=watched, length=predicted * 4 // 1
    )
    feed = rows.select(
        feed_session="request", viewer_id="user", clip_id="item", position="slot", served_at=date(),
        is_subscriber="member", channel_kind="kind", clip_length_s="length",
        predicted_like="p_like", predicted_skip="p_skip", predicted_watch_seconds="p_watch",
        liked=flag("like"), skipped=flag("skip"), watch_seconds="y_watch",
    )  # fmt: skip
    with duckdb.connect(str(folder / "feed.duckdb")) as database:
        database.register("frame", feed.to_arrow())
        database.execute("create table feed_impressions as select * from frame")
    return rows


def news_scroll(folder, requests, seed):
    rows = make_rows(requests, seed, "hour", {"open": -1.2, "share": -3.6}, (1.0, 8.0), slots=9, priced=False)
    rows = rows.with_columns(ids("{}", "n{}", "{}"))
    page = pl.col("slot") // 3
    table = rows.select(
        scroll_id="request", reader_id="user", article_id="item", page=page + 1, position=pl.col("slot") % 3 + 1,
        loaded_ms=pl.col("time") + page.fill_null(0) * 30_000, section="kind", evening="evening",
        p_open="p_open", p_share="p_share", opened="y_open", shared="y_share",
    )  # fmt: skip
    # The app sends a page when it was left: lines of different users are mixed, pages come late.
    order = np.argsort(table["loaded_ms"].to_numpy() + np.random.default_rng(seed).integers(0, 90_000, len(table)))
    write_lines(table[order], folder / "impressions.jsonl.gz", "gzip")
    return rows


def kafka_dump(folder, requests, seed):
    rows = make_rows(requests, seed, worth=(1.0, 9.0), priced=False).with_columns(ids("{}", "u{}", "i{}"))
    rows = rows.filter(pl.col("slot").is_not_null())
    rng = np.random.default_rng(seed)
    common = dict(request_id=pl.col("request"), user_id=pl.col("user"), item_id=pl.col("item"), ts=pl.col("time"))
    events = rows.select(type=pl.lit("impression"), **common, position="slot", member="member", p_click="p_click",
                         p_order="p_order").to_dicts()  # fmt: skip
    for task, delay in (("click", 15_000), ("order", 600_000)):
        events += rows.filter(flag(task)).select(**common | {"ts": common["ts"] + delay}, type=pl.lit(task)).to_dicts()
    events += [events[place] for place in rng.integers(0, len(events), len(events) // 30)]  # delivered twice
    arrival = np.array([event["ts"] for event in events]) + rng.exponential(60_000, len(events)).astype(int)
    messages = [
        {"topic": "shop.events", "partition": offset % 3, "offset": offset // 3, "timestamp": int(arrival[place]),
         "key": events[place]["request_id"], "value": events[place]}
        for offset, place in enumerate(np.argsort(arrival))
    ]  # fmt: skip
    write_lines(pl.DataFrame(messages, infer_schema_length=None), folder / "shop.events.jsonl")
    return rows


def marketplace_returns(folder, requests, seed):
    rows = make_rows(requests, seed, "item").with_columns(ids("v-{}", "b-{}", "l-{}"))
    draw = pl.Series(np.random.default_rng(seed).random(len(rows)))
    returns = [(pl.col(f"{kind}_order") * 0.15).alias(f"{kind}_return") for kind in ("p", "true")]
    cost = [(pl.col(value) - pl.col(f"{kind}_order") * 0.15 * 5).alias(value) for kind, value in
            (("p", "expected_value"), ("true", "true_value"))]  # fmt: skip
    rows = rows.with_columns(*returns, *cost, y_return=pl.col("y_order") * (draw < 0.15))
    table = rows.select(
        visit_id="request", buyer_id="user", listing_id="item", rank=pl.col("slot") + 1,
        seen_at=clock("%Y-%m-%dT%H:%M:%S+05:30", hours=5.5), bucket=words("shuffled", "shuffle", "control"),
        listing_kind="kind", price="price", p_click="p_click", p_order="p_order", p_return="p_return",
        clicked="y_click", ordered="y_order", returned="y_return", cancelled=pl.col("y_order") * (draw > 0.9),
    )  # fmt: skip
    write_csv(table, folder / "visits.csv.zst", "zstd")
    return rows


def hotel_currencies(folder, requests, seed):
    rows = make_rows(requests, seed, tasks={"click": -1.6, "book": -4.2}).with_columns(ids("{}", "t{}", "{}"))
    rates = {"USD": 1.0, "EUR": 0.9, "JPY": 150.0}  # a search is in one currency
    code = (pl.col("request").cast(pl.Int64) % 3).replace_strict(dict(enumerate(rates)), return_dtype=pl.String)
    rows = rows.with_columns(stars=pl.col("item").cast(pl.Int64) % 5 + 1, code=code)
    table = rows.select(
        srch_id="request", traveler_id="user", prop_id="item", display_position=pl.col("slot") + 1,
        search_time=clock("%Y-%m-%d %H:%M:%S+00:00"), random_bool=pl.col("shuffled").cast(pl.Int8),
        loyalty_bool=pl.col("member").cast(pl.Int8), star_rating="stars", currency="code",
        price_local=(pl.col("price") * pl.col("code").replace_strict(rates)).round(2), price_usd="price",
        p_click="p_click", p_book="p_book", click_bool="y_click", book_bool="y_book",
        gross_bookings_usd=pl.when(flag("book")).then(pl.col("price") * 1.1).otherwise(0.0),
    )  # fmt: skip
    write_csv(table, folder / "searches.csv.gz", "gzip")
    return rows


def french_events(folder, requests, seed):
    rows = make_rows(requests, seed, tasks={"detail": -1.6, "order": -4.2}, worth=(1.0, 9.0), priced=False)
    rows = rows.with_columns(ids("{}", "V{}", "A{}")).filter(pl.col("slot").is_not_null())

    def events(frame, kind, delay=0):
        return frame.select(
            visite=pl.col("request").cast(pl.Int64), id_visiteur="user", id_article="item", horodatage=date(delay),
            type=pl.lit(kind), rang=pl.col("slot") + 1,
        )  # fmt: skip

    events(rows, "IMPR").write_parquet(folder / "affichages.parquet")
    orders = rows.filter(flag("order"))
    kinds = (
        events(rows.filter(flag("detail")), "DETAIL_OPEN", 20),
        events(orders, "ORDER_PLACED", 600),
        events(orders.filter(pl.int_range(pl.len()) % 8 == 0), "ORDER_CANCELLED", 86_400),
        events(rows.group_by("request").first(), "PAGE_PING", 1).with_columns(id_article=pl.lit(None, pl.String)),
    )
    pl.concat(kinds).sort("horodatage").drop("rang").write_parquet(folder / "actions.parquet")
    customers = rows.group_by("user").agg(pl.col("member").first()).sort("user")
    customers.select(id_visiteur="user", fidele="member").write_parquet(folder / "visiteurs.parquet")
    return rows
