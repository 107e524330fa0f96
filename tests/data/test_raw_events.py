"""Tables of one's own as raw events: requests, joins, attributes as they were known, and what is lost on the way."""

import re

import numpy as np
import polars as pl
import pytest

from pygrade._util.hashing import stable_id
from pygrade.config.data import RawEventsConfig
from pygrade.data.event_tables import read_batches
from pygrade.data.events import import_events
from pygrade.doctor.schema_file import group_tables
from tests.data.shops import LONG_SCHEMA, PAGE, WIDE_SCHEMA, make_world, write_long_shop, write_wide_shop
from tests.data.test_events_jobs import digest
from tests.refusals import refuses

WORLD = make_world()


def imported(folder, schema, name="log", config=None, **options):
    (folder / "events.toml").write_text(schema, encoding="utf-8")
    return import_events(f"events:{folder / 'events.toml'}", folder.parent / name, config, **options)


@pytest.fixture
def german(tmp_path):
    return write_long_shop(tmp_path / "laden", WORLD)


@pytest.fixture
def french(tmp_path):
    return write_wide_shop(tmp_path / "magasin", WORLD)


def test_long_events_with_text_ids_become_the_pages_that_were_shown(german):
    log = imported(german, LONG_SCHEMA)
    truth, events = WORLD.exposures, log.scan().collect()
    assert log.num_requests == truth["page"].n_unique() and log.num_rows == len(truth) == log.source["num_shown"]
    assert log.tasks == ("Klick", "Kauf") and log.task_values == (1.0, 20.0) and log.source["measures"] == ["Betrag"]
    ids = {kind: {stable_id(name): n for n, name in enumerate(names)} for kind, names in named(truth).items()}
    found = events.with_columns(
        pl.col("request_id").replace_strict(ids["request"]),
        pl.col("user_id").replace_strict(ids["user"]),
        pl.col("item_id").replace_strict(ids["item"]),
    ).sort("request_id", "position")
    wanted = truth.sort("page", "slot")
    assert found["request_id"].to_list() == wanted["page"].to_list()
    assert found["user_id"].to_list() == wanted["user"].to_list()
    assert found["item_id"].to_list() == wanted["item"].to_list()
    assert found["position"].to_list() == wanted["slot"].to_list()  # from 1 in the table
    assert found["scenario"].to_list() == wanted["surface"].to_list()
    assert found["y_Klick"].to_list() == wanted["click"].cast(pl.Float32).to_list()
    assert found["y_Kauf"].to_list() == wanted["order"].cast(pl.Float32).to_list()
    paid = wanted.select(pl.when("order").then("amount")).to_series().cast(pl.Float32)
    assert found["m_Betrag"].to_list() == paid.to_list()
    first = wanted.select(pl.col("time").min().over("page")).to_series()
    assert found["timestamp"].to_list() == first.to_list()
    known = pl.when("order").then(pl.max_horizontal("click_time", "order_time"))
    known = wanted.select(known.otherwise(pl.when("click").then("click_time").otherwise("time"))).to_series()
    assert found["event_time"].to_list() == known.to_list()


def named(truth):
    return {
        "user": [f"K-{n:03d}" for n in range(truth["user"].max() + 1)],
        "item": [f"A{n:04d}" for n in range(truth["item"].max() + 1)],
        "request": [f"S{n}" for n in range(truth["page"].max() + 1)],
    }


def test_attributes_have_the_types_of_their_kinds(german):
    log = imported(german, LONG_SCHEMA.replace("category", 'price = "Preis"\nvalue_tasks = "Kauf"\ncategory'))
    assert log.source["price"] == "Preis" and log.source["value_tasks"] == ["Kauf"]
    assert log.source["users"] == {"Land": "categorical", "Alter": "dense", "Kunde_seit": "time"}
    users, items = log.users(), log.items()
    order = users["user_id"].replace_strict({stable_id(f"K-{n:03d}"): n for n in range(40)})
    users = users.with_columns(order.alias("n")).sort("n")
    assert users["Land"].to_list() == WORLD.users["country"].to_list()
    assert users["Alter"].to_list() == WORLD.users["age"].to_list() and users.schema["Alter"] == pl.Float32
    days = WORLD.users["since"].dt.truncate("1d").dt.epoch("ms")
    assert users["Kunde_seit"].to_list() == days.to_list()
    assert items.schema["Schlagworte"] == pl.List(pl.String) and log.source["category"] == "Farbe"
    item = items.filter(pl.col("item_id") == stable_id("A0007")).row(0, named=True)
    assert item["Schlagworte"] == WORLD.items["tags"][7].to_list()


def test_wide_events_and_feedback_without_a_page_meet(french):
    log = imported(french, WIDE_SCHEMA, config=RawEventsConfig(task_values={"achat": 9.0}))
    truth = WORLD.exposures.sort("page", "slot")
    events = log.scan().collect().sort("request_id", "position")
    assert log.task_values == (1.0, 9.0)
    for column, name in (("request_id", "page"), ("user_id", "user"), ("item_id", "item"), ("position", "slot")):
        assert events[column].to_list() == truth[name].to_list()
    assert events["y_clic"].to_list() == truth["click"].cast(pl.Float32).to_list()
    assert events["y_achat"].to_list() == truth["order"].cast(pl.Float32).to_list()
    assert log.has_names("user") is False and log.items()["item_id"].to_list() == list(range(60))


def test_the_log_depends_on_the_rows_alone(german):
    whole = digest(imported(german, LONG_SCHEMA))
    events = pl.read_parquet(german / "ereignisse.parquet")
    (german / "ereignisse.parquet").unlink()
    (german / "ereignisse.parquet").mkdir()
    events[1000:].reverse().write_parquet(german / "ereignisse.parquet" / "a.parquet", row_group_size=300)
    events[:1000].write_parquet(german / "ereignisse.parquet" / "b.parquet")
    assert digest(imported(german, LONG_SCHEMA, "parts", rows=600)) == whole


def test_requests_are_sessions_and_days_where_nobody_names_them(french):
    schema = re.sub(r"request = .*\nslot = .*\n", "", WIDE_SCHEMA).replace('"column"', '"session"\ngap_minutes = 10')
    log = imported(french, schema)
    truth = WORLD.exposures.with_columns(pl.col("time") // 1000 * 1000).sort("user", "time")
    new = (pl.col("time").diff().over("user").fill_null(10**9) > 600_000) & (pl.col("time") != 0)
    sessions = truth.with_columns(new.cum_sum().alias("session"))
    assert log.num_requests == sessions["session"].max() > 200
    events = log.scan().collect()
    sizes = events.group_by("request_id").len()["len"].value_counts().sort("len")
    assert sizes.equals(sessions.group_by("session").len()["len"].value_counts().sort("len"))
    assert events.filter(pl.col("position") != pl.int_range(pl.len()).over("request_id")).is_empty()
    by_day = imported(french, schema.replace('"session"', '"day"') + "\n", "day")
    days = truth.with_columns(pl.col("time") // 86_400_000).select("user", "time").unique()
    assert by_day.num_requests == len(days)


def test_slots_that_begin_again_end_a_request(french):
    schema = WIDE_SCHEMA.replace('request = "requête"\n', "").replace('"column"', '"session"\ngap_minutes = 100000')
    log = imported(french, schema)
    assert log.num_requests == WORLD.exposures["page"].n_unique()
    assert log.scan().select("request_id").collect().group_by("request_id").len()["len"].unique().to_list() == [PAGE]


def test_what_is_known_later_is_not_known_before(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    hour = 3_600_000
    shown = [(1, 5, 10 * hour), (1, 6, 20 * hour), (2, 5, 30 * hour), (1, 7, 40 * hour)]
    pl.DataFrame([(*row, 1) for row in shown], ["u", "i", "t", "y"], orient="row").with_columns(
        pl.col("t") + 1_700_000_000_000
    ).write_parquet(folder / "shown.parquet")
    user = [(1, 0, "free"), (1, 15, "gold"), (1, 40, "old"), (2, 31, "gold")]
    item = [(5, 5, 1.0), (5, 25, 2.0), (6, 21, 3.0), (8, 1, 4.0), (8, 2, 5.0)]
    for name, rows, columns in (("plan", user, ["u", "since", "plan"]), ("price", item, ["i", "since", "price"])):
        frame = pl.DataFrame(rows, columns, orient="row")
        frame.with_columns(pl.col("since") * hour + 1_700_000_000_000).write_parquet(folder / f"{name}.parquet")
    log = imported(
        folder,
        """
requests = "session"
value_tasks = "y"
[[events]]
files = "shown.parquet"
form = "wide"
user = "u"
item = "i"
time = "t"
exposure = "every row"
tasks = { y = "y" }
[[users]]
files = "plan.parquet"
id = "u"
time = "since"
attributes = { plan = "categorical" }
[[items]]
files = "price.parquet"
id = "i"
time = "since"
attributes = { price = "dense" }
""",
    )
    events = log.scan().collect()
    assert events.select("user_id", "item_id", "c_plan").rows() == [
        (1, 5, "free"),
        (1, 6, "gold"),
        (2, 5, None),  # gold an hour later
        (1, 7, "old"),
    ]
    assert log.source["context"] == {"plan": "categorical"} and log.users() is None
    assert (log.source["price"], log.source["value_tasks"]) == ("price", ["y"])
    assert dict(log.items().rows()) == {5: 1.0, 8: 5.0}  # 6 has a price only after its exposure
    assert "price.parquet: 1 ids have no row before their first event: unknown" in log.source["notes"]


def test_what_is_lost_is_counted_and_named(german):
    events = pl.read_parquet(german / "ereignisse.parquet")
    foul = pl.concat(
        [
            events,
            events[:3],  # again
            events.filter(pl.col("Ereignis") == "Kauf")[:4].with_columns(pl.lit("A9999").alias("Artikelnr")),
            events[:5].with_columns(pl.lit(None, pl.String).alias("Kundennr")),
            events[:2].with_columns(pl.lit("Storno").alias("Ereignis")),
            events[:1].with_columns(pl.lit("gestern").alias("Zeitpunkt")),
        ]
    )
    foul.write_parquet(german / "ereignisse.parquet")
    kunden = pl.read_csv(german / "kunden.csv", separator=";")
    pl.concat([kunden[2:], kunden[5:6].with_columns(pl.lit("FR").alias("Land"))]).write_csv(german / "kunden.csv")
    refuses(ValueError, r"'Zeitpunkt' .time. is 'gestern' in row", imported, german, LONG_SCHEMA)
    log = imported(german, LONG_SCHEMA.replace('kind = "Ereignis"', 'kind = "Ereignis"\nunknown = ["gestern"]'))
    orders = WORLD.exposures["order"].sum()
    clicks = WORLD.exposures["click"].sum()
    notes = log.source["notes"]
    for wanted in (
        "ereignisse.parquet: 5 rows have no user ('Kundennr') and are left out",
        "ereignisse.parquet: 1 rows have no time ('Zeitpunkt') and are left out",
        "ereignisse.parquet: neither exposure nor feedback, left out: 'Storno' (2 rows)",
        "3 events repeat others in every column: each is counted once",
        f"4 of {orders + clicks + 4:,} events of feedback",
        "kunden.csv: 1 ids have several rows that differ, and no time: the smallest counts",
        "kunden.csv, artikel.parquet: no time, so its values are taken as known before the first event",
    ):
        assert any(wanted in note for note in notes), (wanted, notes)
    users = next(note for note in notes if "users of the events" in note)
    assert users.startswith("2 of 40 users of the events") and "K-000" in users and "K-001" in users
    assert any("1 of 61 items of the events (4 rows)" in note and "A9999" in note for note in notes)


def test_requests_of_one_exposure_are_said(german):
    """Users and items are swapped: nothing fails, and hardly a request has an order."""
    events = LONG_SCHEMA.partition("[[users]]")[0].replace('category = "Farbe"\n', "").replace('slot = "Platz"\n', "")
    events = events.replace('requests = "column"', 'requests = "session"').replace('request = "Sitzung"\n', "")
    assert not any("have one exposure" in note for note in imported(german, events).source["notes"])
    swapped = events.replace('user = "Kundennr"\nitem = "Artikelnr"', 'user = "Artikelnr"\nitem = "Kundennr"')
    notes = imported(german, swapped, "swapped").source["notes"]
    assert any("have one exposure, of which there is no order to learn: are users and items" in n for n in notes)


def test_ratings_are_explicit_feedback_if_the_schema_says_so(tmp_path):
    folder = tmp_path / "ratings"
    folder.mkdir()
    rng = np.random.default_rng(3)
    pairs = rng.permutation(20 * 50)[:400]
    rating = rng.integers(1, 11, 400) / 2
    lines = ["userId,movieId,rating,timestamp"]
    lines += [
        f"{p // 50 + 1},{p % 50 + 1},{r},{1_112_486_027 + 977 * n}"
        for n, (p, r) in enumerate(zip(pairs, rating, strict=True))
    ]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    (folder / "movies.csv").write_text(
        "movieId,title,genres\n"
        + "".join(
            f'{n},"Film, The ({1960 + n})",{"Drama|War" if n % 2 else "(no genres listed)"}\n' for n in range(1, 51)
        )
    )
    schema = """
requests = "day"
[[events]]
files = "ratings.csv"
form = "wide"
user = "userId"
item = "movieId"
time = "timestamp"
exposure = "every row"
tasks = { liked = "rating >= 4" }
measures = { rating = "rating" }
[[items]]
files = "movies.csv"
id = "movieId"
attributes = { genres = "list" }
unknown = ["(no genres listed)"]
"""
    log = imported(folder, schema)
    events = log.scan().collect()
    assert log.num_rows == 400 and events["y_liked"].sum() == (rating >= 4).sum()
    assert sorted(events["m_rating"].to_list()) == sorted(rating.tolist())
    genres = dict(log.items().rows())
    assert genres[1] == ["Drama", "War"] and genres[2] is None


BAD = {
    "a key": ("slot = ", "slto = ", r"\[\[events\]\] has an unknown key 'slto'; did you mean 'slot'"),
    "a column": (
        '"Platz"',
        '"Plaz"',
        r"\[\[events\]\] slot: ereignisse.parquet has no column 'Plaz'; did you mean 'Pla",
    ),
    "no exposure": ('exposure = "Einblendung"\n', "", "no table of events has exposures, so nobody knows what users"),
    "a kind": ('"list"', '"words"', r"attributes is .*; expected a kind of 'Schlagworte', one of dense, categorical"),
    "a value": ("Kauf = 20.0", "Kauff = 20.0", "values names 'Kauff'; expected some of the tasks Klick, Kauf"),
    "a file": ('"kunden.csv"', '"kundn.csv"', r"\[\[users\]\] files: .*kundn.csv does not exist"),
    "a request": (
        'request = "Sitzung"\n',
        "",
        'lacks request, the column of its requests; or set requests = "session"',
    ),
    "a price": (
        'category = "Farbe"',
        'price = "Farbe"',
        "price is 'Farbe'; expected an item attribute of the kind dense: Preis",
    ),
    "no toml": ("[[items]]", "[[items]", "not a TOML file"),
    "slots": ('"Platz"', '"Betrag"', r"no exposure has a slot"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD)
def test_a_bad_schema_is_refused_before_anything_is_written(german, old, new, message):
    refuses(ValueError, message, lambda: imported(german, LONG_SCHEMA.replace(old, new)))
    assert not (german.parent / "log").exists()


def test_all_problems_are_in_one_message(german):
    schema = (
        LONG_SCHEMA.replace("slot = ", "slto = ")
        .replace('form = "long"\n', "")
        .replace("[[items]]\nfiles", "[[items]]\nfile")
    )
    with pytest.raises(ValueError) as caught:
        imported(german, schema)
    for part in ("(1)", "'slto'", "lacks form", "unknown key 'file'", "[[items]] lacks files"):
        assert part in str(caught.value)
    schema = LONG_SCHEMA.replace('"Platz"', '"Plaz"').replace('"Alter"', "x").replace("Farbe = ", "Farbee = ")
    refuses(ValueError, "category is 'Farbe'", imported, german, schema)


def test_amounts_are_no_flags(french):
    with pytest.raises(ValueError, match=r'produits.parquet|expected 0 and 1, or a condition: clic = "rang > 0"'):
        imported(french, WIDE_SCHEMA.replace('"cliqué"', '"rang"'))


def test_a_delta_table_is_read_as_one(tmp_path):
    """Rows that were deleted are in its files, and not in the table."""
    deltalake = pytest.importorskip("deltalake")
    place = tmp_path / "events"
    deltalake.write_deltalake(str(place), pl.DataFrame({"id": range(6)}).to_arrow())
    deltalake.DeltaTable(str(place)).delete("id >= 4")
    assert len(list(place.glob("*.parquet"))) == 2 and group_tables([place]) == [[place]]
    assert sum(map(len, read_batches(place))) == 4
    assert sum(map(len, read_batches(f"{place}@v0"))) == 6
    refuses(ValueError, "is in the Delta table", lambda: next(read_batches(next(place.glob("*.parquet")))))
