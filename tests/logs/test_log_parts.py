"""Item columns of logs in several files."""

import pytest

from pygrade.logs import write_logs
from pygrade.logs.log_parts import LogParts
from tests.logs.test_logs import assert_same, make_logs

pytest.importorskip("pyarrow")


def test_item_columns_go_with_their_rows(tmp_path):
    logs = make_logs()
    write_logs(logs, tmp_path / "log", rows_per_file=40)
    parts = LogParts.open(tmp_path / "log")
    assert parts.items == logs.items == ("brand", "margin") and len(parts.parts) > 3
    assert_same(parts.read(), logs)
    assert_same(parts.sample(50), logs)
    late = parts.split(0.6)[1]
    assert_same(late.read(), logs.split(0.6)[1])
    assert late.valued((1, 2, 3)).items == parts.complete().items == logs.items


def test_files_keep_the_item_columns_that_all_have(tmp_path):
    logs = make_logs()
    half = [logs.select(slice(0, 25)), logs.select(slice(25, 50)).arranged(logs.tasks, logs.features, ("margin",))]
    for name, part in zip("ab", half, strict=True):
        write_logs(part, tmp_path / name)
    parts = LogParts.open([tmp_path / "a", tmp_path / "b"])
    assert parts.items == ("margin",)
    assert next(parts.each_part()).items == ("margin",), "whatever a file alone has"
    assert_same(parts.read(), logs.arranged(logs.tasks, logs.features, ("margin",)))
    write_logs(half[1].arranged(logs.tasks, logs.features, ()), tmp_path / "b")
    assert LogParts.open([tmp_path / "a", tmp_path / "b"]).read().item_features is None
