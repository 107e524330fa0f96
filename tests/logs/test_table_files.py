import csv
import gzip
import io
import json

import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from pygrade.logs import Logs  # noqa: E402
from pygrade.logs.table_files import read_table  # noqa: E402
from tests.logs.shop import shop  # noqa: E402
from tests.logs.test_logs import assert_same  # noqa: E402

SHOP = shop(30)
LINES = [dict(zip(SHOP, row, strict=True)) for row in zip(*SHOP.values(), strict=True)]


def write_csv(path, delimiter=","):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(SHOP)
    writer.writerows(zip(*SHOP.values(), strict=True))
    content = stream.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_json(path, whole=False):
    texts = [json.dumps({name: str(v) if name == "at" else v for name, v in line.items()}) for line in LINES]
    path.write_text(f"[{','.join(texts)}]" if whole else "\n".join(texts))


WRITERS = {
    "a.parquet": lambda path: parquet.write_table(pa.table(SHOP), path),
    "a.csv": write_csv,
    "b.csv": lambda path: write_csv(path, ";"),
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.csv.gz": write_csv,
    "a.jsonl": write_json,
    "a.json": lambda path: write_json(path, True),
    "a.arrow": lambda path: feather.write_feather(pa.table(SHOP), str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_log(tmp_path, name):
    WRITERS[name](tmp_path / name)
    table, where = read_table([tmp_path / name])
    assert where == name
    assert_same(Logs.from_table(table), Logs.from_table(SHOP))


def test_files_and_directories_are_put_together(tmp_path):
    table = pa.table(SHOP)
    (tmp_path / "day").mkdir()
    parquet.write_table(table.slice(0, 100), tmp_path / "day" / "a.parquet")
    parquet.write_table(table.slice(100).select(table.column_names[::-1]), tmp_path / "day" / "b.parquet")
    whole, where = read_table([tmp_path / "day"])
    assert where == "day" and whole.equals(table)
    whole, where = read_table(sorted((tmp_path / "day").iterdir()))
    assert where == "a.parquet and 1 more" and whole.equals(table)


def test_types_that_change_after_the_first_block_of_a_csv_file(tmp_path):
    rows = 200_000
    text = "x\n" + "1\n" * rows + "0.5\n"
    (tmp_path / "long.csv").write_text(text * 1)
    table, _ = read_table([tmp_path / "long.csv"])
    assert table.column("x").type == pa.float64() and len(table) == rows + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 cut", "a.parquet is not a complete .parquet file"),
        ("a.csv", b"a,b\n1,2\n1\n", "a.csv is not a complete .csv file"),
        ("a.jsonl", b'{"a": 1}\n{"a":', "a.jsonl is not a complete .jsonl file"),
        ("a.arrow", b"ARROW1 cut", "a.arrow is not a complete .arrow file"),
        ("a.xlsx", b"x", "want a file ending in .parquet"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table([tmp_path / name])


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_table([tmp_path / "a.csv"])
    with pytest.raises(ValueError, match="holds no file of a kind"):
        read_table([tmp_path])
    with pytest.raises(ValueError, match="files is empty"):
        read_table([])
