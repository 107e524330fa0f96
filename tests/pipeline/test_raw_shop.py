"""A shop's own tables, from `pygrade doctor` to a page: text ids, tags, embeddings, prices, a schema between."""

import json

import pytest

from pygrade.cli import main as cli
from pygrade.pipeline.run import run_pipeline
from tests.data.shops import make_world, write_long_shop
from tests.pipeline.world import CONFIG


@pytest.mark.slow
def test_a_shop_is_served_from_its_own_tables(tmp_path, capsys):
    world = make_world(pages=700, users=60, items=120)
    shop = write_long_shop(tmp_path / "shop", world)
    files = [str(shop / name) for name in ("kunden.csv", "artikel.parquet", "ereignisse.parquet")]
    out, run = tmp_path / "doctor", tmp_path / "run"
    mapped = "user=Kundennr,item=Artikelnr,time=Zeitpunkt,exposure=Einblendung,request=Sitzung,slot=Platz,value=Preis"
    words = ["--map", f"{mapped},scenario=Seite", "--value-tasks", "kauf", "--quiet"]
    assert cli.main(["doctor", *files, "--out", str(out), *words]) == 0
    summary = run_pipeline(f"events:{out / 'events.toml'}", run, CONFIG)
    events = summary["stages"]["events"]
    assert events["num_requests"] == 700 and events["positives"]["klick"] == world.exposures["click"].sum()
    assert any("no time, so its values are taken as known" in note for note in events["notes"])
    features = json.loads((run / "artifact" / "features" / "schema.json").read_text())["features"]
    sources = {feature.get("source") for feature in features}
    assert {"farbe", "schlagworte", "preis", "vektor", "land", "alter", "kunde_seit"} <= {
        str(source).removeprefix("log1p(").rstrip(")") for source in sources
    }
    again = run_pipeline(f"events:{out / 'events.toml'}", run, CONFIG)
    assert all(stage["cached"] for stage in again["stages"].values())
    capsys.readouterr()
    words = ["rank", "--allow-unproven", "--run", str(run), "--user", "K-007", "--repeat", "1", "--json"]
    assert cli.main(words) == 0
    page = json.loads(capsys.readouterr().out)["pages"][0]["items"]
    assert all(item["name"].startswith("A0") for item in page)
