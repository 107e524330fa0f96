"""The bench of the stores runs, and its committed results are complete."""

import json

from bench.report.results import RESULTS
from bench.system import stores
from tests.stores.servers import needs_redis

ROWS = {(op, store) for op in ("fill", "read", "update") for store in ("memory", "lmdb", "redis, socket", "redis, TCP")}


def rows_of(record):
    return {(row["op"], row["store"]) for row in record["rows"]}


@needs_redis
def test_the_bench_runs(tmp_path, monkeypatch, capsys):
    for name in ("USERS", "ITEMS"):
        monkeypatch.setattr(stores, name, 10_000)
    monkeypatch.setattr("sys.argv", ["bench.system.stores", "--quick", "--out", str(tmp_path)])
    assert stores.main() == 0
    record = json.loads((tmp_path / "stores.json").read_text())
    assert rows_of(record) == ROWS
    assert all(0.0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"] for row in record["rows"])
    assert {"processor", "lmdb", "redis-server"} <= set(record["machine"])
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS)


def test_the_committed_results_hold_every_op_and_store():
    assert rows_of(json.loads((RESULTS / "stores.json").read_text())) == ROWS
