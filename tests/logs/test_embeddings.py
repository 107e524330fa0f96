"""Categories and embeddings of items in logs."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pygrade.logs import Logs, concatenate, read_logs, write_logs
from pygrade.logs.embeddings import join_tables, read_lists, write_lists
from tests.refusals import refuses

TABLE = {
    "request": ["a", "a", "b", "b", "c", "c"],
    "user": ["u", "u", "v", "v", "u", "u"],
    "item": [7, 8, 7, 9, 8, 7],
    "category": ["news", "sport", "news", None, "sport", "news"],
    "embedding": [[0.6, 0.8], [1.0, 0.0], None, None, None, [0.0, 2.0]],
    "slot": [0, 1, 1, 0, 0, 1],
    "click": [1, 0, 0, 0, 0, 1],
    "p_click": [0.2, 0.1, 0.3, 0.2, 0.3, 0.1],
}


def log_of(**changes) -> Logs:
    return Logs.from_table({**TABLE, **changes}, "request=request")


def vectors_of(logs: Logs) -> list:
    return [None if place < 0 else logs.embeddings[place].tolist() for place in logs.embedding]


def test_a_table_gives_a_category_and_a_vector_of_each_row():
    logs = log_of()
    assert logs.category.tolist() == ["news", "sport", "news", "", "sport", "news"]
    found = np.asarray([v or (0, 0) for v in vectors_of(logs)])
    np.testing.assert_array_almost_equal(found, [[0.6, 0.8], [1, 0], [0.6, 0.8], [0, 0], [1, 0], [0, 2]])
    assert vectors_of(logs)[3] is None  # item 9 has none anywhere
    assert len(logs.embeddings) == 3


def test_a_log_of_several_files_comes_back(tmp_path):
    logs = log_of()
    write_logs(logs, tmp_path / "log", rows_per_file=2)
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 3
    again = read_logs(tmp_path / "log")
    assert again.category.tolist() == logs.category.tolist()
    assert vectors_of(again) == vectors_of(logs)


def test_a_file_holds_a_vector_once_an_item(tmp_path):
    logs = log_of(embedding=[[0.6, 0.8], [1.0, 0.0], [0.6, 0.8], [1.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    assert len(logs.embeddings) == 3
    write_logs(logs, tmp_path / "log")
    column = pq.read_table(tmp_path / "log")["embedding"]
    assert column.null_count == 3
    assert pa.types.is_list(column.type)


def test_selections_and_logs_of_several_days_keep_the_vectors():
    logs = log_of()
    early, late = logs.select([0]), logs.select([2, 1])
    whole = concatenate([early, replace(late, embeddings=logs.embeddings.copy())])
    assert vectors_of(whole) == [vectors_of(logs)[row] for row in (0, 1, 4, 5, 2, 3)]
    assert len(whole.embeddings) == 3
    assert concatenate([early, replace(late, embedding=None, embeddings=None)]).embedding is None


def test_vectors_that_no_row_has_are_dropped_when_tables_join():
    one = np.array([0, -1], np.int32), np.array([[1, 2], [3, 4]], np.float32)
    other = np.array([1], np.int32), np.array([[5, 6], [1, 2]], np.float32)
    place, vectors = join_tables([one, other])
    assert (place.tolist(), vectors.tolist()) == ([0, -1, 0], [[1, 2]])


def test_vectors_of_an_item_may_change():
    item, place = np.array([1, 2, 1, 1, 2]), np.array([0, 1, 0, 2, 1], np.int32)
    vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    column = write_lists(place, vectors, item)
    assert [entry is not None for entry in column.to_pylist()] == [True, True, False, True, False]
    again, found = read_lists(pa.chunked_array([column]), item)
    np.testing.assert_array_equal(found[again], vectors[place])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding": [[0.6, 0.8], [1.0], None, None, None, None]}, r"row 1 .*1 numbers; expected 2 finite numbers"),
        ({"embedding": [[0.6, 0.8], [0.0, 0.0], None, None, None, None]}, r"row 1 .*a vector that is 0"),
        ({"embedding": [[0.6, np.nan], [0.0, 1.0], None, None, None, None]}, r"row 0 .*not finite"),
        ({"embedding": [[0.5] * 257, None, None, None, None, None]}, r"row 0 .*257 numbers"),
    ],
)
def test_lists_that_are_no_vectors_are_refused(changes, said):
    refuses(ValueError, said, log_of, **changes)


def test_fields_that_do_not_fit_are_refused(tmp_path):
    logs = log_of()
    refuses(ValueError, "the log has embeddings alone", replace, logs, embedding=None)
    refuses(ValueError, r"embeddings has shape \(3, 300\)", replace, logs, embeddings=np.ones((3, 300), np.float32))
    with pytest.raises(ValueError, match="column 'embedding', row 0: 9"):
        write_logs(replace(logs, embedding=np.full(6, 9, np.int32)), tmp_path / "log")


def test_a_category_is_an_item_column_too_but_in_a_log_of_pygrades_own(tmp_path, caplog):
    rows = 40
    table = {
        "request": np.repeat(np.arange(rows), 2),
        "user": np.repeat(np.arange(rows) % 9, 2),
        "item": np.tile([7, 8], rows),
        "genre": ["news", "sport"] * rows,
        "slot": np.tile([0, 1], rows),
        "click": np.tile([1, 0], rows),
        "p_click": np.tile([0.2, 0.1], rows),
    }
    with caplog.at_level(logging.WARNING, logger="pygrade"):
        logs = Logs.from_table(table)
    assert logs.category.tolist() == table["genre"]
    assert logs.items == ("genre=news", "genre=sport")
    write_logs(logs, tmp_path / "log")
    again = Logs.from_table(pq.read_table(tmp_path / "log"))
    assert (again.items, again.category.tolist()) == (logs.items, table["genre"])
