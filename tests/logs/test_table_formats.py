"""Tables beside files, each written by its own library."""

import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from tests.refusals import refuses

pa = pytest.importorskip("pyarrow")
import pyarrow.dataset as dataset  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from pygrade.cli.main import main  # noqa: E402
from pygrade.logs import Logs, read_logs  # noqa: E402
from pygrade.logs.table import to_arrow  # noqa: E402
from pygrade.logs.table_files import read_table  # noqa: E402
from pygrade.storage import upload_directory  # noqa: E402
from tests.logs.shop import shop  # noqa: E402
from tests.logs.test_logs import assert_same  # noqa: E402

SHOP = pa.table(shop(30))


def numbers(table):
    return sorted(table["x"].to_pylist())


def lines(table):
    return sorted(table.to_pylist(), key=lambda line: line["x"])


def rows(first, last):
    return pa.table({"x": np.arange(first, last), "day": [f"2026-03-0{1 + n % 3}" for n in range(first, last)]})


def test_objects_that_hand_over_arrow_give_the_same_log(tmp_path):
    parquet.write_table(SHOP, tmp_path / "shop.parquet")
    found = dataset.dataset(tmp_path / "shop.parquet")
    for table in (found, found.scanner(), SHOP.to_reader(), SHOP.to_batches()[0]):
        assert_same(Logs.from_table(table), Logs.from_table(SHOP))


def test_a_relation_of_duckdb():
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    relation = connection.from_arrow(SHOP)
    assert_same(Logs.from_table(relation), Logs.from_table(SHOP))
    assert to_arrow(relation.filter("rank = 1"))["rank"].unique().to_pylist() == [1]
    wide = "* replace (device::enum('app', 'web') as device, product_id::hugeint as product_id)"
    assert_same(Logs.from_table(relation.project(wide)), Logs.from_table(SHOP))
    with pytest.raises(ValueError, match="column 'price'"):
        Logs.from_table(to_arrow(relation).append_column("price", SHOP["price"]))


def test_named_indexes_of_pandas_are_columns():
    frame = pytest.importorskip("pandas").DataFrame(shop(30))
    wanted = Logs.from_table(frame)
    assert_same(Logs.from_table(frame.set_index(["session_id", "product_id"])), wanted)
    assert to_arrow(frame[frame["rank"] == 1]).column_names == list(frame.columns)


def test_a_dataset_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset(SHOP)
    assert_same(Logs.from_table(found), Logs.from_table(SHOP))
    assert to_arrow(found.select([3, 1])).equals(SHOP.take([3, 1]))
    with pytest.raises(TypeError, match="DatasetDict of 'train', 'test'"):
        to_arrow(datasets.DatasetDict({"train": found, "test": found}))


@pytest.fixture
def database(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.from_arrow(SHOP).create("feed")
    return tmp_path / "shop.duckdb"


def test_a_database_of_duckdb(database):
    table, where = read_table([database])
    assert where == "shop.duckdb, table feed"
    assert_same(Logs.from_table(table), Logs.from_table(SHOP))
    table, where = read_table([database], "select * from feed where rank = 1")
    assert where == "shop.duckdb, query" and len(table) == 30
    other = database.rename(database.with_name("shop.db"))  # known by its first bytes
    assert read_table([other])[1] == "shop.db, table feed"


def test_what_a_query_can_not_be(database, tmp_path):
    parquet.write_table(SHOP, tmp_path / "a.parquet")
    for paths, query, message in (
        ([database], "select * from fed", "shop.duckdb: Catalog Error: Table with name fed does not exist"),
        ([database], "delete from feed", "shop.duckdb: .*read-only"),
        ([tmp_path / "a.parquet"], "select 1", "a.parquet is not a DuckDB database; expected one"),
        ([database, tmp_path / "a.parquet"], "select 1", "on several files; expected one DuckDB database"),
    ):
        refuses(ValueError, message, read_table, paths, query)
    (tmp_path / "cut.duckdb").write_bytes(b"cut")
    refuses(ValueError, r"cut\.duckdb", read_table, [tmp_path / "cut.duckdb"])


def test_a_database_of_several_tables_wants_a_query(database):
    import duckdb

    with duckdb.connect(str(database)) as connection:
        connection.sql("create schema raw")
        connection.sql('create table raw."my items" as select 1 as x')
    refuses(ValueError, r"has the tables feed, raw\.my items", read_table, [database])


def test_doctor_takes_a_query(database, tmp_path, capsys):
    query = "select * from feed where session_id < 's00020'"
    assert main(["doctor", str(database), "--query", query, "--out", str(tmp_path / "run")]) == 0
    assert "shop.duckdb, query" in capsys.readouterr().out
    assert read_logs(tmp_path / "run" / "logs").num_requests == 20
    again = ["doctor", "--config", str(tmp_path / "run" / "pygrade.toml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert_same(read_logs(tmp_path / "again" / "logs"), read_logs(tmp_path / "run" / "logs"))


@pytest.fixture
def delta(tmp_path):
    """A table in four versions: two appends, a deletion, an append with a new column."""
    deltalake = pytest.importorskip("deltalake")
    path = str(tmp_path / "feed")
    deltalake.write_deltalake(path, rows(0, 10), partition_by=["day"])
    deltalake.write_deltalake(path, rows(10, 20), mode="append")
    deltalake.DeltaTable(path).delete("x >= 5 and x < 12")
    later = rows(20, 25).append_column("price", pa.array([2.5] * 5))
    deltalake.write_deltalake(path, later, mode="append", schema_mode="merge")
    return tmp_path / "feed"


def test_a_delta_table_has_the_rows_that_its_own_reader_reads(delta):
    import deltalake

    table, where = read_table([delta])
    own = deltalake.DeltaTable(delta).to_pyarrow_table()
    assert where == "feed@v3"
    assert table.column_names == own.column_names == ["x", "day", "price"]
    assert lines(table) == lines(own)
    assert numbers(table) == [*range(5), *range(12, 25)]
    assert numbers(to_arrow(deltalake.DeltaTable(delta, version=1))) == list(range(20))
    for version, wanted in ((0, range(10)), (1, range(20)), (2, [*range(5), *range(12, 20)])):
        assert numbers(read_table([f"{delta}@v{version}"])[0]) == list(wanted)


def test_deletion_vectors_remove_rows(tmp_path):
    deltalake, bitmaps = pytest.importorskip("deltalake"), pytest.importorskip("pyroaring")
    path = tmp_path / "feed"
    deltalake.write_deltalake(str(path), rows(0, 10))
    file = next(path.glob("*.parquet"))
    # What Spark writes for a deletion: the specification's 64-bit roaring array, here inline, in base 85.
    data = struct.pack("<IqI", 1681511377, 1, 0) + bitmaps.BitMap([1, 3]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": base85(data), "sizeInBytes": len(data), "cardinality": 2}
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    old = {"path": file.name, "partitionValues": {}, "size": file.stat().st_size, "dataChange": True}
    now = int(1000 * time.time())
    stats = {"modificationTime": now, "stats": json.dumps({"numRecords": 10}), "deletionVector": vector}
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {"remove": {**old, "deletionTimestamp": now}},
        {"add": {**old, **stats}},
    ]
    (path / "_delta_log" / f"{1:020}.json").write_text("\n".join(map(json.dumps, actions)))
    assert numbers(read_table([path])[0]) == [0, 2, *range(4, 10)]


def base85(data):
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4)]
    return "".join(digits[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))


def test_files_of_a_delta_table_are_not_read_alone(delta):
    for path in (next(delta.rglob("*.parquet")), next(delta.glob("day=*"))):
        refuses(ValueError, f"is in the Delta table {delta}, whose files alone are not its rows", read_table, [path])
    refuses(
        ValueError, f"{delta.parent} holds the Delta table {delta}; expected its own path", read_table, [delta.parent]
    )
    refuses(ValueError, "is a Delta table", read_logs, delta)


def test_versions_that_are_not_there(delta, tmp_path):
    refuses(ValueError, "feed has no version 99", read_table, [f"{delta}@v99"])
    parquet.write_table(SHOP, tmp_path / "a.parquet")
    refuses(ValueError, r"a\.parquet is no", read_table, [f"{tmp_path / 'a.parquet'}@v1"])


def test_a_delta_table_at_a_url(delta, s3):
    upload_directory(f"{s3}/feed", delta, "**/*")
    table, where = read_table([f"{s3}/feed"])
    assert where == "feed@v3" and table.equals(read_table([delta])[0])
    assert numbers(read_table([f"{s3}/feed@v0"])[0]) == list(range(10))


def iceberg_table(warehouse, folder):
    """A table in three snapshots: an append, an overwrite, a deletion; with a column that was renamed and one added."""
    sql = pytest.importorskip("pyiceberg.catalog.sql")
    catalog = sql.SqlCatalog(
        "shop",
        uri=f"sqlite:///{folder / 'catalog.db'}",
        warehouse=warehouse,
        **{"s3.endpoint": os.environ.get("AWS_ENDPOINT_URL", ""), "s3.region": "us-east-1"},
    )
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.feed", schema=rows(0, 1).schema)
    table.append(rows(0, 10))
    table.overwrite(rows(10, 20))
    table.delete("x >= 15")
    with table.update_schema() as change:
        change.rename_column("day", "date")
        change.add_column("price", pytest.importorskip("pyiceberg.types").DoubleType())
    catalog.close()
    return table


def test_an_iceberg_table_has_the_rows_that_its_own_reader_reads(tmp_path):
    own = iceberg_table(f"file://{tmp_path}", tmp_path)
    path = Path(own.location().removeprefix("file://"))
    table, where = read_table([path])
    assert where == f"feed@v{own.current_snapshot().snapshot_id}"
    assert table.equals(own.scan().to_arrow()) and table.column_names == ["x", "date", "price"]
    assert numbers(table) == list(range(10, 15)) == numbers(to_arrow(own)) == numbers(to_arrow(own.scan()))
    assert read_table([own.metadata_location.removeprefix("file://")])[0].equals(table)
    first = own.snapshots()[0].snapshot_id
    assert numbers(read_table([f"{path}@v{first}"])[0]) == list(range(10))
    refuses(ValueError, f"feed has no snapshot 12; expected one of {first}, ", read_table, [f"{path}@v12"])


def test_files_of_an_iceberg_table_are_not_read_alone(tmp_path):
    own = iceberg_table(f"file://{tmp_path}", tmp_path)
    path = Path(own.location().removeprefix("file://"))
    for loose in (path / "data", next(path.rglob("*.parquet"))):
        refuses(ValueError, f"is in the Iceberg table {path}, whose files", read_table, [loose])
    refuses(ValueError, "is an Iceberg table", read_logs, path)
    name = own.metadata_location.rpartition("/")[2]
    (path / "metadata" / name.replace("-", "-0", 1)).write_bytes((path / "metadata" / name).read_bytes())
    refuses(ValueError, "committed", read_table, [path])
    (path / "metadata" / "version-hint.text").write_text("1")
    assert numbers(read_table([path])[0]) == list(range(10))


def test_an_iceberg_table_that_was_moved(tmp_path):
    own = iceberg_table(f"file://{tmp_path}", tmp_path)
    path = Path(own.location().removeprefix("file://"))
    moved = path.rename(tmp_path / "moved")
    refuses(ValueError, "moved", read_table, [moved])


def test_an_iceberg_table_at_a_url(tmp_path, s3):
    own = iceberg_table(f"{s3}/warehouse", tmp_path)
    table, where = read_table([own.location()])
    assert where == f"feed@v{own.current_snapshot().snapshot_id}" and table.equals(own.scan().to_arrow())


def test_partitions_are_columns(tmp_path, s3):
    table = (
        rows(0, 30)
        .append_column("hour", pa.array(np.arange(30) % 2))
        .append_column("shop", pa.array([None, "a/b=c"] * 15))
    )
    parquet.write_to_dataset(table, tmp_path / "feed", partition_cols=["day", "hour", "shop"])
    (tmp_path / "feed" / "_SUCCESS").touch()
    upload_directory(f"{s3}/feed", tmp_path / "feed", "**/*")
    for place in (tmp_path / "feed", f"{s3}/feed"):
        found, where = read_table([place])
        assert where == "feed" and found.schema.field("hour").type == pa.int64()
        assert lines(found.select(table.column_names)) == table.to_pylist()


def test_partitions_whose_files_differ_in_columns(tmp_path):
    for day, names in ((1, ["x"]), (2, ["x", "price"])):
        folder = tmp_path / "feed" / f"day=0{day}"
        folder.mkdir(parents=True)
        parquet.write_table(pa.table({name: [day] for name in names}), folder / "a.parquet")
    table, _ = read_table([tmp_path / "feed"])
    assert table.to_pylist() == [{"x": 1, "price": None, "day": 1}, {"x": 2, "price": 2, "day": 2}]
