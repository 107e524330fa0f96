import csv
import gzip
import io
import json

import pytest

from tests.refusals import refuses

pa = pytest.importorskip("pyarrow")
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from pygrade.logs import Logs  # noqa: E402
from pygrade.logs.table import Table  # noqa: E402
from pygrade.logs.table_files import read_pages, read_table  # noqa: E402
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


# Without a time: the parameters name the tests, and all workers must find the same names.
CUT_CSV = gzip.compress(b"a,b\n" + b"1,2\n" * 9999, mtime=0)[:-30]
CUT_LINES = gzip.compress(b'{"a": 1}\n' * 9999, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 cut", "a.parquet is not a complete .parquet file"),
        (
            "a.csv",
            b"a,b\n1,2\n\n1\n",
            r"a.csv, line 4: 1 columns, expected 2 as in line 1 \(is the file cut off\?\): '1'",
        ),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"line 3: 3 columns, .*\(is a text with the delimiter not quoted\?\): '1,2,3'"),
        ("a.csv", b'a,b\n1,"x\n2,y\n', "a.csv, line 2: a quote is opened and not closed: '1,"),
        ("a.csv", b'a,b\n"x,1\n2,y\n', "a.csv, line 2: a quote is opened and not closed: "),
        (
            "a.csv",
            b'a,b,c\n0,u,1\n1,"v,2\n2,w,3\n3,x",4\n',
            r"a.csv, line 3: a quote is opened at 'v,2.*' and closed 2 lines below, all as one row",
        ),
        (
            "a.csv",
            "a,b\n1,café\n".encode("latin-1"),
            r"a.csv, line 2: byte 0xe9 after '1,caf' is no UTF-8; save .*iconv",
        ),
        ("a.csv", "a,prénom\n1,2\n".encode("latin-1"), r"a.csv, line 1: byte 0xe9 after 'a,pr' is no UTF-8; save .*"),
        ("a.csv", b"a,b,a\n1,2,3\n", "a.csv, line 1: column 'a' is there more than once"),
        ("a.csv", b"1,2\n3,4\n", "a.csv, line 1: '1, 2' are no names of columns; expected a line of names"),
        ("a.csv.gz", CUT_CSV, "a.csv.gz is not a complete .csv file: Trunc"),
        ("a.jsonl", b'{"a": 1}\n\n{"a":', r"a.jsonl, line 3: '\{\"a\":' is no JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', "a.jsonl, line 2: 'a' is a str, and a number in lines before"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl, line 2: '.2.'; expected an object with names"),
        ("a.jsonl", '{"a": "é"}\n'.encode("latin-1"), "a.jsonl, line 1: byte 0xe9 after .* is no UTF-8"),
        ("a.jsonl.gz", CUT_LINES, "a.jsonl.gz is not a complete .jsonl file: Trunc"),
        ("a.arrow", b"ARROW1 cut", "a.arrow is not a complete .arrow file"),
        ("a.xlsx", b"x", "expected a file ending in .parquet"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refuses(ValueError, message, read_table, [tmp_path / name])


def test_every_row_of_a_file_is_read(tmp_path):
    """Line breaks and quotes in a text, blank lines, files that were put together, and UTF-16."""
    text = 'a,b,c\n1,"hello, you\nand, me, too",2\n\n2,in"ches,3\n3,"say ""no""",4\n'
    files = {"a.csv": text.encode(), "b.csv": text.encode("utf-16"), "c.csv.gz": gzip.compress(text.encode())}
    files["c.csv.gz"] = gzip.compress(text[:6].encode()) + gzip.compress(text[6:].encode())
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        table, _ = read_table([tmp_path / name])
        assert table.column("b").to_pylist() == ["hello, you\nand, me, too", 'in"ches', 'say "no"']


def test_nothing_to_read(tmp_path):
    refuses(FileNotFoundError, "does not exist", read_table, [tmp_path / "a.csv"])
    refuses(ValueError, "holds no file of a kind", read_table, [tmp_path])
    refuses(ValueError, "files is empty", read_table, [])


def test_of_several_files_rows_and_types_are_named_by_file(tmp_path):
    """Integers beside text are text; a file without rows is left out; two types that are not one are refused."""
    for name, text in {"a.csv": "item,at\n7,1\n8,2\n", "b.csv": "item,at\n007,3\n", "c.csv": ""}.items():
        (tmp_path / name).write_text(text)
    table, where = read_table([tmp_path])
    assert table.column("item").to_pylist() == ["7", "8", "007"]
    assert where.notes == ["c.csv: no rows, left out", "'item': integers in some files and text in others, now text"]
    assert [Table(table, where).row_name(row) for row in (1, 2)] == ["1 of a.csv", "0 of b.csv"]
    (tmp_path / "c.csv").write_text("item,at\n7,2026-03-02 10:00\n")
    refuses(ValueError, "c.csv: 'at' has type string, and int64 in a.csv; expected one type", read_table, [tmp_path])


def test_times_of_other_units_in_each_file_are_one_column(tmp_path):
    texts = {"a": ["1772323200", "1772323201"], "b": ["1772323202000000", ""], "c": ["2026-03-01T09:00:03+09:00", "-"]}
    for name, values in texts.items():
        (tmp_path / f"{name}.csv").write_text("n,at\n" + "".join(f"7,{value}\n" for value in values))
    table, where = read_table([tmp_path])
    assert table.column("at").to_pylist() == [*range(1772323200000, 1772323203000, 1000), None, 1772323203000, None]
    assert where.notes == ["'at': seconds in a.csv, microseconds in b.csv, dates in c.csv; now milliseconds since 1970"]


def test_a_map_says_the_encoding_and_which_of_two_columns_of_one_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("prénom,p,p\ncafé,1,2\n".encode("latin-1"))
    roles = {"encoding": "latin-1", "p_click": "p:1", "skip": "x+p:2"}
    assert read_pages([path], stated_roles=roles)[0].to_pydict() == {"prénom": ["café"], "p:1": [1], "p:2": [2]}
    refuses(
        ValueError,
        "expected a name for each, or p:1 and p:2 by place, e.g. p_TASK=p:1",
        read_pages,
        [path],
        "",
        {"encoding": "latin-1"},
    )
    refuses(ValueError, "is no UTF-8; .*--map encoding=latin-1", read_pages, [path])
    refuses(
        ValueError,
        "encoding is 'latin1'; expected one of utf-8, latin-1",
        read_pages,
        [path],
        "",
        {"encoding": "latin1"},
    )
