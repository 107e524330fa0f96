"""The bench of the stores runs, and what is committed of it is whole."""

import csv
import json
from pathlib import Path

from bench.system import stores
from tests.stores.servers import needs_redis

ROOT = Path(__file__).parents[2]
OPS = {"fill", "read", "update"}


def pairs(rows):
    return {(row["op"], row["store"]) for row in rows}


@needs_redis
def test_the_bench_runs(tmp_path, monkeypatch, capsys):
    for name, value in {"USERS": 10_000, "ITEMS": 10_000}.items():
        monkeypatch.setattr(stores, name, value)
    monkeypatch.setattr("sys.argv", ["bench.system.stores", "--quick", "--out", str(tmp_path)])
    assert stores.main() == 0
    record = json.loads((tmp_path / "stores.json").read_text())
    assert pairs(record["rows"]) == {(o, s) for o in OPS for s in ("memory", "lmdb", "redis, socket", "redis, TCP")}
    assert all(0.0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"] for row in record["rows"])
    assert {"processor", "lmdb", "redis", "redis-server"} <= set(record["machine"])
    assert capsys.readouterr().out == (tmp_path / "stores.csv").read_text()


def test_the_committed_csv_says_what_the_json_says():
    record = json.loads((ROOT / "bench/results/stores.json").read_text())
    with (ROOT / "bench/results/stores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{name: str(row[name]) for name in stores.FIELDS} for row in record["rows"]]
    assert pairs(rows) == {(o, s) for o in OPS for s in ("memory", "lmdb", "redis, socket", "redis, TCP")}
