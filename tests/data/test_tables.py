"""Delimited text: one row a line, or an error that names the line."""

import polars as pl
import pytest

from pygrade.data.tables import read_batches
from tests.refusals import refuses

COLUMNS = {"id": "int", "name": "text"}  # note is not read


def write(path, lines):
    path.write_text("\n".join(["id,name,note", *lines]) + "\n")
    return path


def read(path):
    return pl.concat([frame for _, frame in read_batches(path, COLUMNS)]).to_dict(as_series=False)


@pytest.mark.parametrize("column", ["name", "note"])
@pytest.mark.parametrize("quotes", [{8: '"'}, {8: '"x', 30: 'y"'}, {8: '"x', 9: 'y"'}])
def test_a_stray_quote_drops_no_row(tmp_path, column, quotes):
    lines = []
    for i in range(2, 100):
        texts = {"name": "n", "note": "o"} | ({column: quotes[i]} if i in quotes else {})
        lines.append(f"{i},{texts['name']},{texts['note']}")
    refuses(ValueError, rf"t\.csv.* line {min(quotes)}.*quote", lambda: read(write(tmp_path / "t.csv", lines)))


def test_text_that_is_quoted_as_it_should_be_is_read(tmp_path):
    lines = ['1,"a,b",', '2,"say ""x""",""', '3,in"side,"(0,10]"', '4,"",z'] * 50
    for ending in ("\n", "\r\n"):
        path = tmp_path / "t.csv"
        path.write_bytes(ending.join(["id,name,note", *lines]).encode())  # no line feed behind the last line
        assert read(path) == {"id": [1, 2, 3, 4] * 50, "name": ["a,b", 'say "x"', 'in"side', ""] * 50}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"x,n,o", ": line 3, column 'id' is 'x'; expected a whole number"),
        (
            b"99999999999999999999,n,o",
            ": line 3, column 'id' is '99999999999999999999'; expected a whole number of 64 bits",
        ),
        (b"7,\xff,o", ", line 3: byte 0xff .* is no UTF-8"),
        (b'7,o,"n\n', ".*line 3.*quote"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\n".join([b"id,name,note", b"1,n,o", line, *[b"2,n,o"] * (not line.endswith(b"\n"))]))
    refuses(ValueError, rf"t\.csv{message}", lambda: list(read_batches(path, COLUMNS | {"note": "text"})))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name,flag\n1,n,2\n", ": line 2, column 'flag' is '2'; expected 0 or 1"),
        ("id,name,flag\n1,n,1\n,n,1\n", ": line 3, column 'id' is empty"),
        ("id,name,flag\n1.5,n,1\n", ": line 2, column 'id' is '1.5'; expected a whole number"),
        ("id,name,flag\n1,n,1\n2,n\n", ", line 3: 2 columns, expected 3"),
        ("id,name,flg\n1,n,1\n", ": column 'flag' is missing; the file has id, name, flg"),
        ("id,name,id\n1,n,1\n", ", line 1: column 'id' is there more than once"),
        ("id,name,flag\n", ": the file has no rows"),
        ("", ": the file is empty"),
    ],
)
def test_what_does_not_fit_the_columns_is_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    refuses(ValueError, rf"t\.csv{message}", lambda: list(read_batches(path, COLUMNS | {"flag": "binary"})))
