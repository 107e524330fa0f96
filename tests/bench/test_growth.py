import gc
import json
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")

from bench.system import growth  # noqa: E402
from pygrade.logs import Logs  # noqa: E402
from pygrade.logs.import_table import import_table  # noqa: E402
from pygrade.logs.table_files import read_table  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_the_shop_is_read_as_it_is_written_and_freed_once_it_is_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "BLOCK", 60)
    growth.write_shop(tmp_path / "shop.parquet", 150)
    before = pa.total_allocated_bytes()
    table, where = read_table([tmp_path / "shop.parquet"])
    assert len(table) == 150 * growth.CANDIDATES
    imported = import_table(table, where=where)
    logs = Logs.from_imported(imported)
    assert logs.num_requests == 150 and logs.tasks == ("click", "order") and logs.num_slots == growth.PAGE
    assert {"tenure_days", "hour", "device=app"} <= set(logs.features)
    size = table.nbytes
    del table
    gc.collect()
    assert pa.total_allocated_bytes() - before < size / 5 and imported.row_name(3) == "3 of shop.parquet"


def test_the_guide_has_the_figures_of_the_result():
    record = json.loads((ROOT / "bench/results/doctor.json").read_text(encoding="utf-8"))
    guide = " ".join((ROOT / "docs/reference/log-format.md").read_text(encoding="utf-8").split())
    small, large = record["runs"][1:]
    start = record["start"]["cpu_seconds"]
    assert f"take {small['cpu_seconds']:.0f} s of CPU time, of which {start:.0f} s are" in guide
    assert f"and {small['peak_mib'] / 1024:.1f} GB; four times as many take {large['cpu_seconds']:.0f} s" in guide
    assert large["rows"] == 4 * small["rows"] and f"{large['peak_mib'] / 1024:.1f} GB ([`doctor.json`]" in guide
