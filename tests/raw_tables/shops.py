"""Raw tables of shops: nested JSON, lists in cells, feedback apart, CSV of a Spanish office, exports of warehouses."""

import polars as pl
import pyarrow as pa

from tests.raw_tables.world import make_rows


def ids(request="r{}", user="u{}", item="i{}"):
    """Ids as text."""
    return [pl.format(text, name).alias(name) for name, text in (("request", request), ("user", user), ("item", item))]


def date(delay=0):
    """The time of the request, or ``delay`` seconds later."""
    return pl.from_epoch(pl.col("time") + delay * 1000, time_unit="ms")


def clock(pattern, hours=0):
    """The same as text, of another zone."""
    return date(hours * 3600).dt.strftime(pattern)


def words(name, yes, no):
    is_true = pl.col(name) if isinstance(name, str) else name
    return pl.when(is_true).then(pl.lit(yes)).when(is_true.is_not_null()).then(pl.lit(no))


def flag(task):
    return pl.col(f"y_{task}") > 0


def comma(name, digits):
    return pl.col(name).round(digits).cast(pl.String).str.replace(".", ",", literal=True)


def write_csv(table, path, compression=None, encoding="utf-8", **options):
    with pa.output_stream(str(path), compression=compression) as stream:
        stream.write(table.write_csv(**options).encode(encoding))


def write_lines(table, path, compression=None):
    with pa.output_stream(str(path), compression=compression) as stream:
        stream.write(table.write_ndjson().encode())


def german_nested(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(*ids("S-{}", "K{}", "A-{}"), pl.col("p_click", "p_order").round(4))
    percents = rows.with_columns(pl.col("p_click", "p_order") * 100)
    treffer = pl.struct(
        artikelnr="item", platz=pl.col("slot") + 1, warengruppe="kind", preis_cent=(pl.col("price") * 100).round(),
        klickwahrscheinlichkeit=pl.col("p_click").round(2), geklickt=flag("click"), gekauft=flag("order"),
        kaufwahrscheinlichkeit=pl.format("{} %", comma("p_order", 2)),
    )  # fmt: skip
    kunde = pl.struct(nr="user", stammkunde=words("member", "ja", "nein"), geraet="device").first()
    suche = pl.struct(id="request", zeit=clock("%d.%m.%Y %H:%M:%S")).first()
    pages = percents.group_by("request", maintain_order=True).agg(suche=suche, kunde=kunde, treffer=treffer)
    write_lines(pages.drop("request"), folder / "suchen.jsonl")
    return rows


def list_columns(folder, requests, seed):
    rows = make_rows(requests, seed, "item").with_columns(ids("q{}", "m{}", "p{}"))
    page = pl.col("item").filter(pl.col("slot").is_not_null()).sort_by(pl.col("slot").drop_nulls())
    pages = rows.group_by("request", maintain_order=True).agg(
        member_id=pl.col("user").first(), requested_at=date().first(), device=pl.col("device").first(),
        ab_bucket=words("shuffled", "shuffle", "prod").first(), candidates="item", click_prob="p_click",
        order_prob="p_order", prices="price", categories="kind", page=page,
        clicks=pl.col("item").filter(flag("click")), orders=pl.col("item").filter(flag("order")),
    )  # fmt: skip
    pages.rename({"request": "query_id"}).write_parquet(folder / "queries.parquet")
    return rows


def separate_tables(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(ids("{}", "c{}", "p{}")).filter(pl.col("slot").is_not_null())
    key = {"search_id": pl.col("request").cast(pl.Int64), "product_id": pl.col("item")}
    rows.select(
        **key, customer_id="user", position=pl.col("slot") + 1, shown_at=date(),
        p_click="p_click", p_order="p_order", price="price", is_member="member",
    ).write_parquet(folder / "impressions.parquet")  # fmt: skip
    for task, at, seconds in (("click", "clicked_at", 20), ("order", "ordered_at", 900)):
        rows.filter(flag(task)).select(**key, **{at: date(seconds)}).write_parquet(folder / f"{task}s.parquet")
    return rows


def spanish_csv(folder, requests, seed):
    rows = make_rows(requests, seed).with_columns(*ids("b{}", "c{}", "p{}"), pl.col("p_click", "p_order").round(5))
    rows = rows.with_columns(pl.col("time") // 60_000 * 60_000)
    table = rows.select(
        pl.col("request").alias("búsqueda"), pl.col("user").alias("cliente"), pl.col("item").alias("producto"),
        (pl.col("slot") // 4 + 1).alias("página"), (pl.col("slot") % 4 + 1).alias("posición"),
        clock("%d/%m/%Y %H:%M").alias("fecha"), pl.format("{} EUR", comma("price", 2)).alias("precio"),
        comma("p_click", 5).alias("prob_clic"), comma("p_order", 5).alias("prob_compra"),
        words(flag("click"), "sí", "no").alias("clic"), words(flag("order"), "sí", "no").alias("compra"),
        words("member", "sí", "no").alias("es_socio"), pl.col("kind").alias("familia"),
    )  # fmt: skip
    write_csv(table, folder / "busquedas.csv", separator=";")
    return rows


def snowflake_variant(folder, requests, seed):
    rows = make_rows(requests, seed, "hour").with_columns(ids("{}", "V{}", "SKU{}"))
    table = rows.select(
        EVENT_ID=pl.format("{}-{}", "request", "item"), SEARCH_REQUEST_ID="request", VISITOR_ID="user", SKU_ID="item",
        RESULT_RANK=pl.col("slot") + 1, EVENT_TS=clock("%Y-%m-%d %H:%M:%S.000 +0100", hours=1),
        MODEL_SCORES=pl.struct(click="p_click", purchase="p_order").struct.json_encode(),
        SESSION_ATTRS=pl.struct(loyalty_member="member", evening="evening", device="device").struct.json_encode(),
        PRICE_USD="price", IS_CLICKED=flag("click"), IS_PURCHASED=flag("order"),
    )  # fmt: skip
    half = int(rows["request"].cast(pl.Int64).eq(requests // 2).arg_max())
    for part, piece in enumerate((table[:half], table[half:])):
        write_csv(piece, folder / f"data_0_{part}_0.csv.gz", "gzip", quote_style="non_numeric", null_value="\\N")
    return rows


def bigquery_nested(folder, requests, seed):
    rows = make_rows(requests, seed, "item").with_columns(ids("{}", "{}.173", "SKU_{}"))
    micros = (pl.col("time") + 9_000) * 1000
    events = [
        pl.when(flag(task)).then(pl.concat_list(pl.struct(name=pl.lit(name), micros=micros))).otherwise(pl.lit([]))
        for task, name in (("click", "click"), ("order", "purchase"))
    ]
    impression = pl.struct(
        item=pl.struct(item_id="item", item_category="kind", price="price"), position="slot",
        scores=pl.struct(click="p_click", purchase="p_order"), events=pl.concat_list(events),
    )  # fmt: skip
    pages = rows.group_by("request", maintain_order=True).agg(
        event_timestamp=date().dt.cast_time_unit("us").first(), user_pseudo_id=pl.col("user").first(),
        device=pl.struct(category="device", loyalty="member").first(), impressions=impression,
    )  # fmt: skip
    pages = pages.with_columns(pl.col("request").cast(pl.Int64)).rename({"request": "page_view_id"})
    pages.write_parquet(folder / "page_views-000000000000.parquet")
    return rows
