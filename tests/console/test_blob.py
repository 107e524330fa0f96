"""Records and arrays travel to the page whole."""

import numpy as np
import pytest

from pygrade.console.blob import pack, sparse
from tests.console.node import call, needs_node


@needs_node
def test_arrays_arrive_with_their_bits(tmp_path):
    values = np.array([1.5, np.nan, -0.0, 1e-42], np.float32)
    records = [{"call": "echo", "value": values}, {"call": "echo", "value": {"old": [np.arange(5, dtype=np.uint8), 7]}}]
    same, nested = call(tmp_path, *records)
    assert same.tobytes() == values.tobytes() and nested["old"][0].tolist() == [0, 1, 2, 3, 4]


def test_equal_records_are_equal_texts_and_unknown_arrays_are_refused():
    record = {"a": [np.arange(3, dtype=np.int32), {"b": np.float64([1, np.inf])}], "c": "ü", "d": float("nan")}
    assert pack(record) == pack(record)
    with pytest.raises(TypeError, match="int64"):
        pack({"a": np.arange(3)})


def test_a_sparse_column_has_its_numbers():
    column = sparse(np.array([0.0, 2.0, 0.0, -1.0]))
    assert column["places"].tolist() == [1, 3] and column["values"].tolist() == [2.0, -1.0]
