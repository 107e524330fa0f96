import gc
import weakref

import pytest

pytest.importorskip("pyarrow")

from bench.system import doctor
from pygrade.logs import Logs
from pygrade.logs.import_table import import_table
from pygrade.logs.table_files import read_table


def test_the_shop_is_read_as_it_is_written_and_freed_once_it_is_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "BLOCK", 60)
    doctor.write_shop(tmp_path / "shop.parquet", 150)
    table, where = read_table([tmp_path / "shop.parquet"])
    assert len(table) == 150 * doctor.CANDIDATES
    imported = import_table(table, where=where)
    logs = Logs.from_imported(imported)
    assert logs.num_requests == 150 and logs.tasks == ("click", "order") and logs.num_slots == doctor.PAGE
    assert {"tenure_days", "hour", "device=app"} <= set(logs.features)
    freed = weakref.ref(table)
    del table
    gc.collect()
    assert freed() is None and imported.row_name(3) == "3 of shop.parquet"
