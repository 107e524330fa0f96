"""Delimited text: one row a line, or an error that names the line."""

import numpy as np
import pytest

from pygrade.data.events import import_events
from pygrade.data.tables import read_blocks
from tests.datasets.kuairand_world import make_rows, write_excerpt

COLUMNS = {"id": "int", "name": "text"}  # note is not read


def write(path, lines):
    path.write_text("\n".join(["id,name,note", *lines]) + "\n")
    return path


def read(path):
    blocks = [block for _, block in read_blocks(path, COLUMNS)]
    return {name: np.concatenate([block[name] for block in blocks]).tolist() for name in COLUMNS}


@pytest.fixture(params=[1 << 20, 256])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr("pygrade.data.tables._BLOCK_BYTES", request.param)


@pytest.mark.parametrize("column", ["name", "note"])
@pytest.mark.parametrize("quotes", [{8: '"'}, {8: '"x', 30: 'y"'}, {8: '"x', 9: 'y"'}])
def test_a_stray_quote_drops_no_row(tmp_path, block_bytes, column, quotes):
    lines = []
    for i in range(2, 100):
        texts = {"name": "n", "note": "o"} | ({column: quotes[i]} if i in quotes else {})
        lines.append(f"{i},{texts['name']},{texts['note']}")
    with pytest.raises(ValueError, match=rf"t\.csv: line {min(quotes)} .*quote"):
        read(write(tmp_path / "t.csv", lines))


def test_text_that_is_quoted_as_it_should_be_is_read(tmp_path, block_bytes):
    lines = ['1,"a,b",', '2,"say ""x""",""', '3,in"side,"(0,10]"', '4,"",z'] * 50
    for ending in ("\n", "\r\n"):
        path = tmp_path / "t.csv"
        path.write_bytes(ending.join(["id,name,note", *lines]).encode())  # no line feed behind the last line
        assert read(path) == {"id": [1, 2, 3, 4] * 50, "name": ["a,b", 'say "x"', 'in"side', ""] * 50}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"x," + b"x" * 200_000 + b",o", "line 3 .*field larger than field limit"),
        (b"x,n,o", "line 3, column 'id' is 'x'; want a whole number"),
        (b"99999999999999999999,n,o", "line 3, column 'id' is '99999999999999999999'; want a whole number of 64 bits"),
        (b"7,\xff,o", "line 3 is not UTF-8 text"),
        (b"7,n\ro,o", "line 3 "),
        (b'7,o,"n\n', "line 3 .*a quote is not closed"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, block_bytes, line, message):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\n".join([b"id,name,note", b"1,n,o", line, *[b"2,n,o"] * (not line.endswith(b"\n"))]))
    with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
        list(read_blocks(path, COLUMNS | {"note": "text"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name,flag\n1,n,2\n", "line 2, column 'flag' is 2; want 0 or 1"),
        ("id,name,flag\n1,n,1\n,n,1\n", "line 3, column 'id' is empty"),
        ("id,name,flag\n1.5,n,1\n", "line 2, column 'id' is '1.5'; want a whole number"),
        ("id,name,flag\n1,n,1\n2,n\n", "line 3 has 2 fields; the header names 3"),
        ("id,name,flg\n1,n,1\n", "column 'flag' is missing; the file has id, name, flg"),
        ("id,name,id\n1,n,1\n", "line 1 names column 'id' more than once"),
        ("id,name,flag\n", "the file has a header and no rows"),
        ("", "the file is empty"),
    ],
)
def test_what_does_not_fit_the_columns_is_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
        list(read_blocks(path, COLUMNS | {"flag": "binary"}))


@pytest.mark.parametrize("quotes", [{7: '"'}, {7: '"x', 199: 'y"'}])
def test_every_row_of_the_excerpt_is_imported_with_quotes_in_it(tmp_path, quotes):
    rows = make_rows()[:400]
    path = write_excerpt(tmp_path / "excerpt", rows) / "interactions.tsv"
    lines = path.read_text().splitlines()
    for at, text in quotes.items():
        lines[at] = lines[at].rpartition("\t")[0] + "\t" + text
    path.write_text("\n".join(lines))
    assert import_events(f"kuairand:{path.parent}", tmp_path / "log").num_rows == 400
