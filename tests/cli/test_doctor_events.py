"""`pygrade doctor` on several tables: what each is, a schema that pipeline reads, and what it loses."""

import json
import tomllib

import numpy as np
import polars as pl
import pytest

from pygrade.cli import main as cli
from pygrade.data.events import import_events
from tests.data.shops import make_world, write_long_shop, write_wide_shop

WORLD = make_world()


def examined(capsys, *arguments):
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.main(["doctor", *map(str, arguments), "--quiet"])
    return (code, *capsys.readouterr())


def proposed(capsys, out, *arguments):
    """The schema and the record of tables that are understood."""
    code, text, error = examined(capsys, *arguments, "--out", out, "--json")
    assert code == 0, error
    return tomllib.loads((out / "events.toml").read_text(encoding="utf-8")), json.loads(text)


GERMAN = "user=Kundennr,item=Artikelnr,time=Zeitpunkt,exposure=Einblendung,request=Sitzung,slot=Platz,scenario=Seite"
ENGLISH = {
    "Kundennr": "user_id",
    "Artikelnr": "item_id",
    "Zeitpunkt": "time",
    "Ereignis": "event",
    "Sitzung": "session",
}
ENGLISH |= {"Platz": "slot", "Seite": "surface", "Betrag": "amount", "Farbe": "genre", "Preis": "price"}


@pytest.mark.parametrize("mapped", [True, False])
def test_three_tables_of_a_shop_by_a_map_and_by_exact_names(capsys, tmp_path, mapped):
    shop = write_long_shop(tmp_path / "laden", WORLD)
    names = {} if mapped else ENGLISH
    for path in sorted(shop.iterdir()):
        csv = path.suffix == ".csv"
        frame = pl.read_csv(path, separator=";") if csv else pl.read_parquet(path)
        frame = frame.rename(names, strict=False)
        if "event" in frame.columns:
            frame = frame.with_columns(pl.col("event").replace({"Einblendung": "Impression"}))
        frame.write_csv(path) if csv else frame.write_parquet(path)
    files = [shop / name for name in ("kunden.csv", "ereignisse.parquet", "artikel.parquet")]
    words = ["--map", GERMAN] if mapped else ["--value-tasks", "kauf"]
    schema, record = proposed(capsys, tmp_path / "out", *files, "--values", "kauf=20", *words)
    (events,), (users,), (items,) = schema["events"], schema["users"], schema["items"]
    wanted = {"user": "Kundennr", "item": "Artikelnr", "time": "Zeitpunkt", "kind": "Ereignis", "request": "Sitzung"}
    wanted = {key: names.get(name, name) for key, name in (wanted | {"slot": "Platz", "scenario": "Seite"}).items()}
    wanted |= {"form": "long", "exposure": ["Einblendung" if mapped else "Impression"]}
    wanted |= {"tasks": {"klick": "Klick", "kauf": "Kauf"}}
    assert {key: events[key] for key in wanted} == wanted
    assert {name: entry["kind"] for name, entry in users["attributes"].items()} == {
        "land": "categorical",
        "alter": "dense",
        "kunde_seit": "time",
    }
    kinds = {name: e if isinstance(e, str) else e["kind"] for name, e in items["attributes"].items()}
    assert sorted(kinds.values()) == ["categorical", "dense", "embedding"]
    assert schema["requests"] == "column" and schema["values"] == {"klick": 1.0, "kauf": 20.0}
    if not mapped:
        assert (schema["price"], schema["category"], schema["value_tasks"]) == ("price", "genre", ["kauf"])
        assert events["measures"] == {"amount": "amount"}
    assert record["num_requests"] == 300 and record["positives"]["kauf"] == WORLD.exposures["order"].sum()
    log = import_events(f"events:{tmp_path / 'out' / 'events.toml'}", tmp_path / "log")
    assert log.num_requests == 300 and log.task_values == (1.0, 20.0)
    config = tomllib.loads((tmp_path / "out" / "pygrade.toml").read_text(encoding="utf-8"))
    assert config["defaults"]["data"] == "events:events.toml"  # relative to the file
    can, _, command = record["summary"]
    assert can.startswith("You can train: yes, by pygrade pipeline") and " pipeline --config " in command


FRENCH = "user=id_utilisateur,item=produit,time=horodatage,request=requête,slot=rang"


def test_a_shop_in_a_directory_with_purchases_apart(capsys, tmp_path):
    shop = write_wide_shop(tmp_path / "magasin", WORLD)
    places = [shop / name for name in ("achats.jsonl", "produits.parquet", "affichages")]
    schema, record = proposed(capsys, tmp_path / "out", *places, "--map", FRENCH)
    bought, shown = sorted(schema["events"], key=lambda table: table["form"])
    assert shown["tasks"] == {"cliqué": "cliqué"} and shown["request"] == "requête" and shown["slot"] == "rang"
    assert bought["form"] == "long" and bought["tasks"] == {"achats": "every row"} and bought["exposure"] == []
    assert record["positives"] == {"achats": WORLD.exposures["order"].sum(), "cliqué": WORLD.exposures["click"].sum()}


def write_odd_shop(folder):
    """Names that say nothing, ids as text, no requests and no slots, prices and users' plans that change."""
    folder.mkdir()
    seen = WORLD.exposures.select(
        pl.format("k{}", "user").alias("wer"),
        pl.format("x{}", "item").alias("was"),
        pl.from_epoch("time", "ms").dt.strftime("%d.%m.%Y %H:%M:%S").alias("wann"),
        pl.col("click").cast(pl.Int8).alias("is_clicked"),
        pl.when("click").then(pl.lit(3)).otherwise(pl.lit(0)).alias("watch_s"),
        pl.when(pl.col("user") % 3 == 0).then(pl.lit("web")).otherwise(pl.lit("app")).alias("gerät"),
        pl.lit(1).alias("version"),
    )
    seen.write_csv(folder / "log.tsv", separator="\t")
    pl.DataFrame(
        {
            "id": [f"k{n // 3}" for n in range(120)],
            "since": [f"2026-0{1 + n % 3}-01" for n in range(120)],
            "plan": [("free", "gold")[n % 2] for n in range(120)],
        }
    ).write_csv(folder / "users.csv")
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {"id": [f"x{n}" for n in range(60)], "score": rng.choice([1.5, 2.5, 0.0, 9.25], 60), "leer": [None] * 60}
    ).write_parquet(folder / "items.parquet")
    return [folder / name for name in ("log.tsv", "users.csv", "items.parquet")]


def test_a_shop_of_odd_names_sessions_by_gaps_and_plans_that_change(capsys, tmp_path):
    files = write_odd_shop(tmp_path / "shop")
    mapped = ("--map", "user=wer,item=was,scenario=gerät")
    schema, record = proposed(capsys, tmp_path / "out", *files, *mapped)  # other ids by the files' names
    (events,), (users,), (items,) = schema["events"], schema["users"], schema["items"]
    assert schema["requests"] == "session" and events["tasks"] == {"clicked": "is_clicked"} and events["time"] == "wann"
    assert events["scenario"] == "gerät" and users["id"] == "id" and users["time"] == "since"
    assert users["attributes"] == {"plan": "categorical"} and items["attributes"] == {"score": "dense"}
    assert record["context"] == {"plan": "categorical"}
    _, text, _ = examined(capsys, *files, *mapped)
    for part in ("log.tsv: events, wide form, 1,800 rows", "watch_s: say what it is", "requests are sessions"):
        assert part in text


def test_tables_without_ids_are_named_all_at_once(capsys, tmp_path):
    log, *_ = write_odd_shop(tmp_path / "shop")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1.5,x\n")
    code, _, error = examined(capsys, log, other)
    assert code == 2 and "log.tsv has no column known for ids" in error and "other.csv has no column" in error
    assert "--map user=COLUMN,item=COLUMN" in error


def test_ratings_are_said_to_tell_only_what_they_can(capsys, tmp_path):
    rng = np.random.default_rng(1)
    pairs = rng.permutation(30 * 40)[:600]
    frame = {"userId": pairs // 40, "movieId": pairs % 40, "rating": rng.integers(1, 11, 600) / 2}
    pl.DataFrame(frame | {"timestamp": 1_112_486_027 + 700 * np.arange(600)}).write_csv(tmp_path / "ratings.csv")
    out = tmp_path / "out"
    schema, record = proposed(capsys, out, tmp_path / "ratings.csv", "--events")
    assert schema["events"][0]["tasks"] == {"liked": '"rating" >= 4'} and record["measures"] == ["rating"]
    assert record["positives"]["liked"] == (frame["rating"] >= 4).sum()
    assert "not what they would choose, as nobody knows what they passed over" in record["notes"][0]


def test_purchases_alone_are_refused_with_what_would_help(capsys, tmp_path):
    shop = write_wide_shop(tmp_path / "magasin", WORLD)
    out = tmp_path / "out"
    code, _, error = examined(
        capsys, shop / "achats.jsonl", shop / "produits.parquet", "--out", out, "--map", FRENCH.partition(",request")[0]
    )
    assert code == 2 and "no kind of event is an exposure (achats)" in error and "--map exposure=KIND" in error
    assert "# ! no kind of event is an exposure" in (out / "events.toml").read_text(encoding="utf-8")


def test_files_of_one_table_are_one_log_as_before(capsys, tmp_path):
    shop = write_wide_shop(tmp_path / "magasin", WORLD)
    code, _, error = examined(capsys, shop / "affichages" / "1.parquet", shop / "affichages" / "2.parquet")
    assert code == 2 and "no column is known for" in error  # of a log of pages: there are no predictions
    code, _, error = examined(capsys, shop / "affichages", "--events", "--scale", "click=logit")
    assert code == 2 and "scale" in error


@pytest.mark.parametrize(
    ("mapped", "message"),
    [
        ("time=when", "map names 'when', and no table has such a column"),
        ("user=wer", "map names 'wer', and no table has such a column"),
        ("exposure=Anzeige", "map names 'Anzeige', and no table has such a kind, table or column"),
        ("exposure=Einblendun", "no table has such a kind, table or column; did you mean 'Einblendung'?"),
    ],
)
def test_a_wrong_map_is_named(capsys, tmp_path, mapped, message):
    shop = write_long_shop(tmp_path / "laden", WORLD)
    code, _, error = examined(capsys, shop / "ereignisse.parquet", shop / "artikel.parquet", "--map", mapped)
    assert code == 2 and message in error


def test_nested_events_and_lists_of_items_are_read(capsys, tmp_path):
    rng = np.random.default_rng(2)
    rows, pages = [], []
    for page in range(60):
        user, items = f"u-{page % 9}", [f"P{n}" for n in rng.permutation(30)[:4]]
        pages.append(
            {
                "page_id": f"p{page}",
                "user": user,
                "time": 1_772_000_000 + 900 * page,
                "list": items,
                "clicked": [1, 0, 0, 0],
            }
        )
        for item in items:
            head = {"meta": {"ts": 1_772_000_000 + 900 * page, "session": f"s{page}"}, "user": {"id": user}}
            rows.append(head | {"product": {"sku": item}, "action": "shown"})
        rows.append(head | {"product": {"sku": items[0]}, "action": "click"})
    for name, lines in (("stream.jsonl", rows), ("pages.jsonl", pages)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "users.csv").write_text("user_id,age\n" + "".join(f"u-{n},{20 + n}\n" for n in range(9)))
    for name, mapped in (
        ("stream.jsonl", ("--map", "user=id")),
        ("pages.jsonl", ("--map", "item=list,request=page_id")),
    ):
        out = tmp_path / f"of {name}"
        _, record = proposed(capsys, out, tmp_path / name, tmp_path / "users.csv", *mapped)
        assert record["num_requests"] == 60 and record["num_rows"] == 240
        assert list(record["positives"].values()) == [60]


def write_apart(folder, kind=None):
    """Showings and acts in tables of their own, with a kind in each if named; returns what was done to the items."""
    folder.mkdir()
    rng, seen, acts = np.random.default_rng(4), [], []
    for page in range(80):
        head = {"search_id": page, "user_id": f"u{page % 9}", "time": 1_772_000_000 + 900 * page}
        items = [f"P{n}" for n in rng.permutation(30)[:5]]
        seen += [head | {"sku": item, "rang": place + 1, "art": "IMPR"} for place, item in enumerate(items)]
        acts += [head | {"sku": items[0], "art": "VIEW"}, head | {"sku": items[1], "art": "HIDDEN_ITEM"}]
        acts += [head | {"sku": None, "art": "PAGE_TIME"}, head | {"sku": items[2], "art": "SCROLL_PING"}]
    for name, lines in (("affichages", seen), ("actions", acts)):
        frame = pl.DataFrame(lines).rename({"art": kind or "art"})
        (frame if kind or name == "actions" else frame.drop("art")).write_parquet(folder / f"{name}.parquet")
    return [folder / "affichages.parquet", folder / "actions.parquet"]


@pytest.mark.parametrize(
    ("kind", "mapped"),
    [
        ("event", ()),
        (None, ("--map", "kind=art")),
        ("art", ("--map", "exposure=IMPR")),
        (None, ("--map", "kind=art,exposure=affichages")),
    ],
)
def test_the_densest_table_is_what_was_shown_however_it_is_named(capsys, tmp_path, kind, mapped):
    schema, record = proposed(capsys, tmp_path / "out", *write_apart(tmp_path / "shop", kind), *mapped)
    assert (record["num_requests"], record["num_shown"]) == (80, 400)
    assert record["positives"] == {"view": 80, "hidden_item": 80}  # neither pings nor rows without an item
    assert schema["values"] == {"view": 1.0, "hidden_item": -1.0}
    assert [table.get("slot") for table in schema["events"] if table.get("exposure")] == ["rang"]


def test_where_two_readings_remain_there_is_one_question_with_a_proposal(capsys, tmp_path):
    shown, acts = write_apart(tmp_path / "shop", "event")
    frame = pl.read_parquet(acts)
    pl.concat([frame, *[frame.filter(pl.col("event") == "VIEW").with_columns(pl.col("time") + n) for n in (1, 2, 3)]]
    ).write_parquet(acts)  # fmt: skip
    code, _, error = examined(capsys, shown, acts)
    assert code == 2 and "what was shown, IMPR (5 rows an hour of a user) or VIEW (4)?" in error
    assert "Say --map exposure=IMPR" in error


def test_more_than_half_of_the_feedback_lost_is_an_error(capsys, tmp_path):
    shown, acts = write_apart(tmp_path / "shop", "event")
    frame = pl.read_parquet(acts)
    frame.with_columns(pl.format("{}x", "user_id").alias("user_id")).write_parquet(acts)
    code, _, error = examined(capsys, shown, acts)
    assert code == 2 and "160 of 160 events of feedback (100 %) are left out" in error
    assert "are these the exposures (affichages.parquet: IMPR)?" in error


def test_a_kind_that_the_map_says_is_none_is_no_task(capsys, tmp_path):
    schema, _ = proposed(capsys, tmp_path / "out", *write_apart(tmp_path / "shop", "event"), "--map", "view=none")
    assert list(schema["values"]) == ["hidden_item"]
