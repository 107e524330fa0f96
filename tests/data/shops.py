"""Shops with foreign names whose tables become raw events, and the events that they stand for."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
PAGE = 6


@dataclass
class World:
    """Exposures of pages, in order of time, with their clicks and purchases."""

    users: pl.DataFrame  # user, country, age, since
    items: pl.DataFrame  # item, color, tags, price, vector
    exposures: pl.DataFrame  # page, user, item, slot, time (ms), surface, click, order, click_time, order_time, amount


def make_world(pages: int = 300, users: int = 40, items: int = 60, seed: int = 0) -> World:
    """Pages of PAGE items; a click follows within 50 s, a purchase of what was clicked within 10 minutes."""
    rng = np.random.default_rng(seed)
    start = int(START.timestamp() * 1000)
    time = start + np.sort(rng.integers(0, 12 * 86_400_000, pages))
    quality = rng.normal(size=items)
    taste = rng.normal(size=(users, 3))
    vector = rng.normal(size=(items, 3)).round(3)
    user = rng.integers(0, users, pages)
    rows = []
    for page in range(pages):
        shown = rng.permutation(items)[:PAGE]
        for slot, item in enumerate(shown.tolist()):
            seen = int(time[page]) + 100 * slot
            logit = quality[item] + taste[user[page]] @ vector[item] - 0.2 * slot
            click = bool(rng.random() < 1 / (1 + np.exp(-logit)))
            order = click and bool(rng.random() < 0.4)
            at, bought = seen + int(rng.integers(2_000, 50_000)), seen + int(rng.integers(60_000, 600_000))
            surface = ("home", "search")[int(user[page] + page) % 2]
            amount = round(float(rng.uniform(3, 90)), 2)
            rows.append((page, int(user[page]), item, slot, seen, surface, click, order, at, bought, amount))
    names = ("page", "user", "item", "slot", "time", "surface", "click", "order", "click_time", "order_time", "amount")
    exposures = pl.DataFrame(rows, schema=names, orient="row")
    people = pl.DataFrame(
        {
            "user": range(users),
            "country": rng.choice(["DE", "AT", "CH"], users),
            "age": rng.integers(18, 80, users),
            "since": [START - timedelta(days=int(d)) for d in rng.integers(1, 900, users)],
        }
    )
    goods = pl.DataFrame(
        {
            "item": range(items),
            "color": rng.choice(["red", "blue", "green"], items),
            "tags": [
                rng.choice(["cotton", "wool", "new", "sale"], n, replace=False).tolist()
                for n in rng.integers(1, 4, items)
            ],
            "price": rng.uniform(3, 90, items).round(2),
            "vector": vector.tolist(),
        }
    )
    return World(people, goods, exposures)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def write_long_shop(folder: Path, world: World) -> Path:
    """A German shop: text ids, a row per event, text dates, pages named, slots from 1."""
    folder.mkdir(parents=True)
    rows = []
    for row in world.exposures.iter_rows(named=True):
        head = (f"K-{row['user']:03d}", f"A{row['item']:04d}", f"S{row['page']}")
        rows.append((*head, "Einblendung", _iso(row["time"]), row["slot"] + 1, row["surface"], None))
        if row["click"]:
            rows.append((*head, "Klick", _iso(row["click_time"]), None, row["surface"], None))
        if row["order"]:
            rows.append((*head, "Kauf", _iso(row["order_time"]), None, None, row["amount"]))
    names = ("Kundennr", "Artikelnr", "Sitzung", "Ereignis", "Zeitpunkt", "Platz", "Seite", "Betrag")
    events = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    events.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(folder / "ereignisse.parquet", row_group_size=500)
    world.users.select(
        pl.format("K-{}", pl.col("user").cast(pl.String).str.zfill(3)).alias("Kundennr"),
        pl.col("country").alias("Land"),
        pl.col("age").alias("Alter"),
        pl.col("since").dt.strftime("%Y-%m-%d").alias("Kunde seit"),
    ).write_csv(folder / "kunden.csv", separator=";")
    world.items.select(
        pl.format("A{}", pl.col("item").cast(pl.String).str.zfill(4)).alias("Artikelnr"),
        pl.col("color").alias("Farbe"),
        pl.col("tags").list.join(", ").alias("Schlagworte"),
        pl.col("price").alias("Preis"),
        pl.col("vector").cast(pl.List(pl.Float32)).alias("Vektor"),
    ).write_parquet(folder / "artikel.parquet")
    return folder


LONG_SCHEMA = """
name = "Laden"
requests = "column"
values = { Klick = 1.0, Kauf = 20.0 }
category = "Farbe"

[[events]]
files = "ereignisse.parquet"
form = "long"
user = "Kundennr"
item = "Artikelnr"
time = "Zeitpunkt"
kind = "Ereignis"
exposure = "Einblendung"
tasks = { Klick = "Klick", Kauf = "Kauf" }
request = "Sitzung"
slot = "Platz"
scenario = "Seite"
measures = { Betrag = "Betrag" }

[[users]]
files = "kunden.csv"
id = "Kundennr"
attributes = { Land = "categorical", Alter = "dense", Kunde_seit = { column = "Kunde seit", kind = "time" } }

[[items]]
files = "artikel.parquet"
id = "Artikelnr"
attributes = { Farbe = "categorical", Schlagworte = "list", Preis = "dense" }
"""


def write_wide_shop(folder: Path, world: World) -> Path:
    """A French shop: numbers as ids, a row per exposure, seconds, purchases in a file of their own without a page."""
    folder.mkdir(parents=True)
    shown = world.exposures.select(
        pl.col("page").alias("requête"),
        pl.col("user").alias("id_utilisateur"),
        pl.col("item").alias("produit"),
        (pl.col("time") // 1000).alias("horodatage"),
        pl.col("slot").alias("rang"),
        pl.when(pl.col("click")).then(pl.lit("yes")).otherwise(pl.lit("no")).alias("cliqué"),
    )
    half = len(shown) // 2
    (folder / "affichages").mkdir()
    shown[half:].write_parquet(folder / "affichages" / "1.parquet")
    shown[:half].write_parquet(folder / "affichages" / "2.parquet")
    world.exposures.filter("order").select(
        pl.col("user").alias("id_utilisateur"),
        pl.col("item").alias("produit"),
        (pl.col("order_time") // 1000).alias("horodatage"),
        pl.col("amount").alias("montant"),
    ).write_ndjson(folder / "achats.jsonl")
    world.items.select(
        pl.col("item").alias("produit"), pl.col("color").alias("couleur"), pl.col("price").alias("prix")
    ).write_parquet(folder / "produits.parquet")
    return folder


WIDE_SCHEMA = """
requests = "column"

[[events]]
files = "affichages"
form = "wide"
user = "id_utilisateur"
item = "produit"
time = "horodatage"
request = "requête"
slot = "rang"
exposure = "every row"
tasks = { clic = "cliqué" }

[[events]]
files = "achats.jsonl"
form = "long"
user = "id_utilisateur"
item = "produit"
time = "horodatage"
tasks = { achat = "every row" }
measures = { montant = "montant" }

[[items]]
files = "produits.parquet"
id = "produit"
attributes = { couleur = "categorical", prix = "dense" }
"""
