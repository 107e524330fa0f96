"""Item columns of logs in several files."""

from dataclasses import replace

import numpy as np
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
    assert late.with_values((1, 2, 3)).items == parts.complete().items == logs.items


def test_item_columns_of_some_files_are_unknown_in_the_others(tmp_path):
    logs = make_logs()
    half = [logs.select(slice(0, 25)), logs.select(slice(25, 50)).arranged(logs.tasks, logs.features, ("margin",))]
    for name, part in zip("ab", half, strict=True):
        write_logs(part, tmp_path / name)
    parts = LogParts.open([tmp_path / "a", tmp_path / "b"])
    assert parts.items == next(parts.each_part()).items == ("brand", "margin")
    rest = half[0].num_rows
    wanted = logs.item_features.copy()
    wanted[rest:, 0] = np.nan
    assert_same(parts.read(), replace(logs, item_features=wanted))
    write_logs(half[1].arranged(logs.tasks, logs.features, ()), tmp_path / "b")
    assert np.isnan(LogParts.open([tmp_path / "b", tmp_path / "a"]).read().item_features[: half[1].num_rows]).all()
