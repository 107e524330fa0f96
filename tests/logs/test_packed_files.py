"""Hostile files: small ones that unpack to much, databases whose views and names reach for other files."""

import gzip
import re

import pytest

from pygrade.logs import packed_files
from pygrade.logs.table_files import read_table

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_files, "_FREE", 1 << 16)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"0,0\n" * 1_000_000))
    assert 4_000_000 / path.stat().st_size > 200
    return path


def test_a_packed_file_that_unpacks_to_too_much_is_refused_until_the_limit_is_raised(bomb, monkeypatch):
    with pytest.raises(ValueError, match=r"bomb\.csv\.gz unpacks to more than 1 MiB .*PYGRADE_UNPACKED_GIB") as caught:
        read_table([bomb])
    assert "complete" not in str(caught.value)
    monkeypatch.setenv("PYGRADE_UNPACKED_GIB", "0.1")
    assert len(read_table([bomb])[0]) == 1_000_000
    monkeypatch.setenv("PYGRADE_UNPACKED_GIB", "0.001")
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB"):
        read_table([bomb])


def test_json_and_parquet_have_the_limit_too(bomb, tmp_path, monkeypatch):
    packed = bomb.rename(tmp_path / "bomb.jsonl.gz")
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_table([packed])
    parquet.write_table(pa.table({"a": pa.repeat(0, 1_000_000)}), tmp_path / "bomb.parquet")
    assert len(read_table([tmp_path / "bomb.parquet"])[0]) == 1_000_000
    monkeypatch.setenv("PYGRADE_UNPACKED_GIB", "0.001")
    with pytest.raises(ValueError, match=re.escape("bomb.parquet unpacks to 0 GiB or more")):
        read_table([tmp_path / "bomb.parquet"])


def test_a_database_reads_nothing_but_itself(tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nhidden\n")
    path, named = tmp_path / "shop.duckdb", tmp_path / "names.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"create view feed as select * from read_csv('{secret}')")
    for query in ("", f"select * from '{secret}'", f"copy (select 1) to '{tmp_path / 'new.csv'}'"):
        with pytest.raises(ValueError, match=r"(?i)permission|disabled"):
            read_table([path], query)
    assert not (tmp_path / "new.csv").exists()
    with duckdb.connect(str(named)) as connection:
        connection.execute('create schema "s"";"; create table "s"";"."we""ird" as select 1 as a')
    table, name = read_table([named])
    assert table.to_pylist() == [{"a": 1}] and name == 'names.duckdb, table s";.we"ird'
