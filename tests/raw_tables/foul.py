"""Foul raw tables: each has a fault that must be read right, or refused with file, column and cure."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from tests.raw_tables.shops import clock, comma, flag, ids, write_csv, write_lines
from tests.raw_tables.world import DAYS, START, make_rows


def plain(rows, **columns):
    """A table with a row per candidate and plain names, some of them replaced."""
    names = {
        "request_id": pl.col("request"), "user_id": pl.col("user"), "item_id": pl.col("item"),
        "position": pl.col("slot"), "ts": pl.col("time"), "price": pl.col("price"), "is_member": pl.col("member"),
        "category": pl.col("kind"), "p_click": pl.col("p_click"), "p_order": pl.col("p_order"),
        "clicked": pl.col("y_click"), "ordered": pl.col("y_order"),
    }  # fmt: skip
    names |= columns
    return rows.select(**{name: column for name, column in names.items() if column is not None})


def log_odds(name):
    return (pl.col(name) / (1 - pl.col(name))).log()


def margins(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    plain(
        rows, p_click=None, p_order=None,
        gbm_click=(log_odds("p_click") * 0.6 + 2.0).round(4), gbm_order=(log_odds("p_order") * 0.6 + 2.5).round(4),
        legacy_rank_score="production",
    ).write_parquet(folder / "impressions.parquet")  # fmt: skip
    return rows


def hourly_partitions(folder, requests, seed):
    rows = make_rows(requests, seed, "item").with_columns(ids("{}", "u{}", "{}"))
    hour = (pl.col("time") - START) // (DAYS * 1_800_000)  # of two days, so that a test has few files
    rows = rows.with_columns(time=START + hour * 3_600_000)
    parts = sorted(plain(rows, ts=pl.col("time")).partition_by("ts", as_dict=True).items())
    for number, ((moment,), part) in enumerate(parts):
        directory = folder / f"{datetime.fromtimestamp(moment / 1000, UTC):dt=%Y-%m-%d/hh=%H}"
        directory.mkdir(parents=True)
        part = part.drop("ts").with_columns(pl.col("item_id").cast(pl.Int64 if number == 20 else pl.String))
        part.write_parquet(directory / "part-0.parquet")
        if number % 10 == 3:  # the task ran again
            part.write_parquet(directory / "part-0-attempt1.parquet")
    part.clear().write_parquet(directory / "part-1.parquet")
    return rows


def session_leaks(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    rng = np.random.default_rng(seed)
    others = [pl.Series(values) for values in (rng.poisson(0.1, requests), rng.gamma(2.0, 20.0, requests))]
    number = rows["request"].str.slice(1).cast(pl.Int64)
    orders = pl.col("y_order").sum().over("request") + others[0][number]
    seconds = (30 + pl.col("y_click").sum().over("request") * 45 + others[1][number]).round()
    plain(rows, session_orders=orders, session_seconds=seconds).write_parquet(folder / "shop.parquet")
    return rows


def ads_given_click(folder, requests, seed):
    tasks = {"click": -0.8, "conversion": -1.6}
    rows = make_rows(requests, seed, tasks=tasks, given=True).with_columns(ids("a{}", "ck{}", "ad{}"))
    table = rows.select(
        auction_id="request", cookie_id="user", ad_id="item", slot=pl.col("slot") + 1, ts=pl.col("time") // 1000,
        retargeted="member", campaign_type="kind", bid="price", pctr="p_click", pcvr="conditional",
        win_price=pl.when(pl.col("slot").is_not_null()).then((pl.col("price") * 0.7).round(2)),
        click="y_click", conversion="y_conversion",
        conversion_ts=pl.when(flag("conversion")).then(pl.col("time") // 1000 + 40_000),
    )  # fmt: skip
    write_csv(table, folder / "auctions.csv.gz", "gzip")
    return rows


def latin1(folder, requests, seed):
    rows = make_rows(requests, seed, "item").with_columns(ids())
    table = plain(rows, category=pl.col("kind").replace("basics", "vêtements"), brand=pl.lit("Société Générale"))
    write_csv(table, folder / "recherches.csv", encoding="latin-1", separator=";")
    return rows


def duplicate_names(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    table = plain(rows, p_click=None, p_order=None, score_1="p_click", score_2="p_order")
    text = table.write_csv().replace("score_1", "score", 1).replace("score_2", "score", 1)
    (folder / "export.csv").write_text(text, encoding="utf-8-sig")
    return rows


def sentinels(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    rng = np.random.default_rng(seed)
    timed_out = pl.Series(rng.random(requests) < 0.2)[rows["request"].str.slice(1).cast(pl.Int64)]
    place = pl.int_range(pl.len())
    plain(
        rows, position=pl.col("slot").fill_null(-1), clicked=pl.col("y_click").fill_null(-1),
        ordered=pl.col("y_order").fill_null(-1), price=pl.when(place % 50 == 7).then(-1.0).otherwise("price"),
        p_click=pl.when(place % 97 == 5).then(np.nan).when(place % 311 == 9).then(np.inf).otherwise("p_click"),
        p_order=pl.when(timed_out).then(-1.0).otherwise("p_order"),
    ).write_parquet(folder / "serving.parquet")  # fmt: skip
    return rows


def honest_logits(folder, requests, seed):
    rows = make_rows(requests, seed, "hour").with_columns(ids())
    logits = {name: log_odds(name).round(5) for name in ("p_click", "p_order")}
    write_csv(plain(rows, is_member=None, evening="evening", **logits), folder / "scored.csv.gz", "gzip")
    return rows


def shared_score(folder, requests, seed):
    rows = make_rows(requests, seed, "item", {"click": -2.0, "save": -2.0}, (1.0, 3.0), priced=False, shared=True)
    rows = rows.with_columns(ids())
    saved = plain(rows, p_click=None, p_order=None, ordered=None, score="p_click", saved="y_save")
    write_lines(saved, folder / "feed.jsonl")
    return rows


def lost_feedback(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    kept = pl.col("time") < START + 5 * 86_400_000  # then the tracker was blocked
    clicks = [pl.when(kept).then(name).alias(label) for name, label in (("y_click", "clicked"), ("y_order", "ordered"))]
    plain(rows, clicked=clicks[0], ordered=clicks[1]).write_parquet(folder / "joined.parquet")
    return rows.filter(kept)


def mixed_times(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids())
    third = (pl.col("time") - START) * 3 // (DAYS * 86_400_000)
    forms = (pl.col("time") // 1000, pl.col("time") * 1000, clock("%Y-%m-%dT%H:%M:%S+09:00", hours=9))
    for number, form in enumerate(forms):
        write_csv(plain(rows.filter(third == number), ts=form), folder / f"part-{number}.csv")
    return rows


def number_codes(folder, requests, seed):
    kinds = dict(zip(("basics", "outdoor", "sale", "toys"), ("010", "10", "1E1", "7"), strict=True))
    code = pl.col("item")
    zeros = pl.when(code % 3 == 0).then(pl.lit("0")).when(code % 3 == 1).then(pl.lit("00")).otherwise(pl.lit(""))
    rows = make_rows(requests, seed, "item").with_columns(
        *ids("{}", "0{}")[:2],
        pl.format("{}{}", zeros, code // 3 + 1).alias("item"),
        pl.col("kind").replace_strict(kinds),
    )
    table = plain(rows, category=None, item_class="kind", price=comma("price", 2))
    write_csv(table, folder / "codes.csv", separator=";")
    return rows
