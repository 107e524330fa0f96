"""Logs whose slots nobody logged: read where they are said to be unknown, and never taken for logs with slots."""

import datetime

import numpy as np
import pytest

from pygrade.config.training import RewardConfig
from pygrade.logs import Logs, concatenate, read_logs, write_logs
from pygrade.logs.log_parts import LogParts
from pygrade.training.propensity import slot_propensity
from tests.logs.shop import CANDIDATES, shop

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def feed(requests: int = 40) -> dict[str, list]:
    """The shop's table with a flag of what was displayed in the place of the slots."""
    table = shop(requests)
    table["was_displayed"] = [rank is not None for rank in table.pop("rank")]
    return table


@pytest.fixture(scope="module")
def logs() -> Logs:
    return Logs.from_table(feed(), "slot=none")


def test_a_table_without_slots_names_the_cure_and_is_read_with_it(logs):
    with pytest.raises(ValueError, match=r"no column is known for slot; .*slot=none"):
        Logs.from_table(feed())
    assert not logs.slots_known and "slots unknown" in repr(logs)
    np.testing.assert_array_equal(logs.shown, feed()["was_displayed"])
    first = logs.position[:CANDIDATES]
    assert first[first >= 0].tolist() == list(range((first >= 0).sum())), "counted as listed"
    assert Logs.from_table(shop(40)).slots_known


def test_rows_with_times_of_their_own_are_counted_by_time():
    table = feed(3)
    start = datetime.datetime(2026, 3, 1)
    table["at"] = [start - datetime.timedelta(seconds=row) for row in range(3 * CANDIDATES)]
    shown = np.array(table["was_displayed"])[:CANDIDATES]
    position = Logs.from_table(table, "slot=none").position[:CANDIDATES]
    assert position[shown].tolist() == list(range(shown.sum()))[::-1] and (position[~shown] == -1).all()


def test_what_was_shown_is_never_guessed_from_events_alone(caplog):
    table = feed()
    shown = table.pop("was_displayed")
    clicked = [click if seen else None for click, seen in zip(table["clicked"], shown, strict=True)]
    bought = [buy if seen else None for buy, seen in zip(table["bought"], shown, strict=True)]
    logs = Logs.from_table(table | {"clicked": clicked, "bought": bought}, "slot=none")
    np.testing.assert_array_equal(logs.shown, shown)
    assert "rows without feedback were not shown" in caplog.text
    assert Logs.from_table(table, "slot=none").shown.all() and "every row was shown" in caplog.text
    events = {name: [value or None for value in table[name]] for name in ("clicked", "bought")}
    with pytest.raises(ValueError, match="shown=COLUMN"):
        Logs.from_table(table | events, "slot=none")


@pytest.mark.parametrize("flags", [("Y", "N"), (1, 0), (True, False)])
def test_an_impression_that_is_a_flag_is_no_request(flags):
    table = feed(20)
    table["Impression?"] = [flags[0] if shown else flags[1] for shown in table.pop("was_displayed")]
    del table["session_id"]
    table["feed"] = np.repeat(np.arange(20), CANDIDATES).tolist()
    logs = Logs.from_table(table, "request=feed,slot=none")
    np.testing.assert_array_equal(logs.shown, [value == flags[0] for value in table["Impression?"]])
    with pytest.raises(ValueError, match="no column is known for request, slot"):
        Logs.from_table({name: values for name, values in table.items() if name != "feed"})


def test_a_column_named_like_a_slot_is_no_attribute_of_items():
    logs = Logs.from_table(feed() | {"rank": list(range(40 * CANDIDATES))}, "slot=none")
    assert "rank" not in logs.items and not logs.slots_known


def test_files_keep_that_slots_are_unknown(logs, tmp_path):
    write_logs(logs, tmp_path / "log", rows_per_file=100)
    back = read_logs(tmp_path / "log")
    assert not back.slots_known
    np.testing.assert_array_equal(back.position, logs.position)
    kept = [back.select([1]), *back.split(0.5), concatenate([back.select([0]), back.select([1])]), back.shown_only()]
    parts = LogParts.open(tmp_path / "log")
    assert len(parts.parts) > 1 and not any(log.slots_known for log in (*kept, parts.read(), parts.sample(5)))

    table = pa.concat_tables(parquet.read_table(file) for file in sorted((tmp_path / "log").iterdir()))
    assert "position" not in table.column_names
    parquet.write_table(table.replace_schema_metadata(), tmp_path / "other.parquet")  # as a program that knows nothing
    assert not read_logs(tmp_path / "other.parquet").slots_known
    again = Logs.from_table(parquet.read_table(sorted((tmp_path / "log").iterdir())[0]))
    assert not again.slots_known and again.position.tolist() == logs.position[: again.num_rows].tolist()


def test_logs_with_and_without_slots_are_not_mixed(logs, tmp_path):
    known = Logs.from_table(shop(40))
    with pytest.raises(ValueError, match="parts differ in slots_known: True and False"):
        concatenate([known.arranged(known.tasks, known.features), logs])
    for name, log in (("a", known), ("b", logs)):
        write_logs(log, tmp_path / name)
    with pytest.raises(ValueError, match=r"b/.* one has slots \(position\), the other none"):
        LogParts.open([tmp_path / "a", tmp_path / "b"])


def test_an_exponent_of_0_is_a_choice_and_no_other_has_a_meaning(logs):
    unknown = slot_propensity(logs, RewardConfig(), warn=False)
    assert unknown.source == "none" and unknown.reason == "the log has no slots" and "propensity 0" in unknown.needed
    chosen = slot_propensity(logs, RewardConfig(propensity=0.0))
    assert (chosen.source, chosen.exponent, chosen.origin) == ("given", 0.0, chosen.reason)
    assert "by choice, no estimate" in chosen.note
    with pytest.raises(ValueError, match=r"propensity is 0\.6, and the log has no slots"):
        slot_propensity(logs, RewardConfig(propensity=0.6))
