import numpy as np
import pytest

from pygrade.evaluation import abtest
from pygrade.evaluation.user_tables import load_test
from tests.refusals import refuses


def write(folder, **texts):
    """A CSV file per name; lines are separated by blanks."""
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text("\n".join(text.split()) + "\n")
    return {name: folder / f"{name}.csv" for name in texts}


OLD, NEW = "user_id,v,n 01,1,2 b,3,4 x,0,1", "n,v,user_id 5,2,1 6,4,d"


def test_tables_are_joined_by_name_of_the_column(tmp_path):
    test = load_test(write(tmp_path, old=OLD, new=NEW), ["v", "rate=v/n"])
    assert test.names == ("old", "new") and test.arm.tolist() == [0, 0, 0, 1, 1]
    assert test.metrics["v"].numerator.tolist() == [1, 3, 0, 2, 4] and set(test.metrics["v"].denominator) == {1.0}
    assert test.metrics["rate"].denominator.tolist() == [2, 4, 1, 5, 6] and test.metrics["rate"].covariates is None
    assert set(load_test(write(tmp_path, old=OLD, new=NEW)).metrics) == {"v", "n"}


def test_earlier_values_come_from_columns_or_from_a_table(tmp_path):
    wide = write(tmp_path, old="user_id,v,before_v a,1,7 b,3,", new="user_id,v,before_v c,1,9 d,3,2")
    column = load_test(wide).metrics["v"].covariates
    table = write(tmp_path, old="user_id,v a,1 b,3", new="user_id,v c,1 d,3", before="user_id,v,w d,2,0 a,7,0 c,9,0")
    before = table.pop("before")
    assert (column == load_test(table, before=before).metrics["v"].covariates).all()
    assert column.tolist() == [[1, 1], [0, 0], [3, 1], [-4, 1]]  # 6 is the mean of those with history
    ratio = write(tmp_path, old="user_id,v,n a,1,2 b,3,4", new="user_id,v,n c,1,2 d,3,4", b="user_id,v,n a,1,4 d,3,4")
    before = ratio.pop("b")
    history = load_test(ratio, ["v/n"], before).metrics["v/n"].covariates
    assert (history == abtest.covariates(np.array([1.0, 0, 0, 3]), np.array([4.0, 0, 0, 4]))).all()


@pytest.mark.parametrize(
    ("texts", "metrics", "message"),
    [
        ({}, ["w"], r"old.csv: column 'w' is missing; the file has user_id, v, n"),
        ({"new": "user_id,n c,1"}, ["v"], r"new.csv: column 'v' is missing"),
        ({"new": "v,n 1,1"}, [], "new.csv: column 'user_id' is missing"),
        ({"new": "user_id,v,n c,1,2 b,1,2"}, [], "user 'b' is in arm 'old' and in arm 'new'"),
        ({"new": "user_id,v,n c,1,2 c,1,2"}, [], "user 'c' is twice in arm 'new'"),
        ({"new": "user_id,v,n"}, [], "new.csv: the file has no rows"),
        ({"new": "user_id,v,n c,nan,2"}, [], "new.csv: line 2, column 'v' is 'nan'; expected a finite number"),
        ({"new": "user_id,v,n c,DE,2"}, [], "new.csv: line 2, column 'v' is 'DE'; expected a finite number"),
        ({"new": "user_id,v,n ,1,2"}, [], "new.csv: column 'user_id' is empty in row 0"),
        ({"old": "user_id a", "new": "user_id b"}, [], "old.csv: no column beside user_id"),
        ({"new": "user_id,v,n,before_v c,1,2,3"}, [], "old.csv: column 'before_v' is missing, and other arms have it"),
        ({"old": "user_id,v,n,before_v a,1,2,3", "new": "user_id,v,n,before_v c,1,2,3"}, ["v/n"], "of 'v' alone"),
        ({}, ["v", "v"], "metrics are v, v; expected distinct names"),
        ({}, ["r=v/"], "metrics has 'r=v/'; expected COLUMN or NAME=COLUMN/COLUMN"),
        ({}, ["r=v"], "metrics has 'r=v'"),
    ],
)
def test_bad_tables_are_named(tmp_path, texts, metrics, message):
    refuses(ValueError, message, lambda: load_test(write(tmp_path, **{"old": OLD, "new": NEW} | texts), metrics))


def test_a_bad_table_of_earlier_values_is_named(tmp_path):
    tables = write(tmp_path, old=OLD, new=NEW, twice="user_id,v b,1 b,2", other="user_id,z b,1")
    arms = {name: tables[name] for name in ("old", "new")}
    for before, message in (("twice", r"user 'b' is twice in .*twice.csv"), ("other", "other.csv: no column of the")):
        refuses(ValueError, message, load_test, arms, before=tables[before])
    refuses(ValueError, r"expected a table of users, .csv or .parquet", load_test, arms | {"new": tmp_path / "new.txt"})
