"""Exposures and feedback joined on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.service import JoinConfig
from pygrade.logs import read_logs
from pygrade.logs.log_parts import LogParts
from pygrade.logs.parquet import write_part
from pygrade.service.join import join_logs
from tests.refusals import refuses
from tests.service.served import DELAY, START, by_request, events_of, pages, write_exposures, write_feedback

CONFIG = JoinConfig(feedback_delay_ms=DELAY)
FOREVER = 1 << 60


def equal(a, b):
    """The logs, but for how they were joined."""
    for name, value in (vars(by_request(a)) | {"feedback_delays": b.feedback_delays}).items():
        np.testing.assert_array_equal(value, getattr(by_request(b), name), name)


def test_feedback_reaches_its_rows_whatever_its_order(tmp_path):
    logs = pages(300)
    records, amounts = events_of(logs)
    shuffled = [records[i] for i in np.random.default_rng(3).permutation(len(records))]
    for number in range(3):
        write_exposures(logs.select(slice(100 * number, 100 * number + 100)), tmp_path / "exposures", number)
        write_feedback(shuffled[number::3] + shuffled[: 40 * number], tmp_path / "feedback", number)
    folders = tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined"
    record = join_logs(*folders, CONFIG, FOREVER)
    assert len(list((tmp_path / "joined").glob("*.parquet"))) == 3  # of each file
    equal(read_logs(tmp_path / "joined"), replace(logs, feedback=amounts))
    assert (record["requests"], record["open"], record["waiting"]) == (300, 0, 0)
    assert record["joined"] == len(records) and record["repeated"] == 40 + 80
    assert record["late"] == record["unknown"] == record["malformed"] == record["not_on_page"] == 0


def test_runs_over_new_files_make_the_log_of_one_run(tmp_path):
    logs = pages(200)
    records, _ = events_of(logs)
    whole, steps = ([tmp_path / name / kind for kind in ("exposures", "feedback", "joined")] for name in "ab")
    write_exposures(logs, whole[0], 0)
    write_feedback(records, whole[1], 0)
    wanted = join_logs(whole[0], [whole[1]], whole[2], CONFIG, FOREVER)
    opened = []
    for number in range(4):  # pages 0 … 49, then 50 … 99 and so on; events as they happen
        write_exposures(logs.select(slice(50 * number, 50 * number + 50)), steps[0], number)
        until = START + 1000 * (50 * number + 49)
        fresh = [r for r in records if (number == 0 or r["timestamp"] > until - 50_000) and r["timestamp"] <= until]
        write_feedback(fresh, steps[1], "all", "a")
        found = join_logs(steps[0], [steps[1]], steps[2], CONFIG)
        opened.append(found["open"])
        again = sorted((p.name, p.stat().st_ino) for p in steps[2].iterdir())
        assert join_logs(steps[0], [steps[1]], steps[2], CONFIG) == found
        assert sorted((p.name, p.stat().st_ino) for p in steps[2].iterdir()) == again  # nothing was written
    write_feedback([r for r in records if r["timestamp"] > START + 199_000], steps[1], "more")
    found = join_logs(steps[0], [steps[1]], steps[2], CONFIG, FOREVER)
    assert opened == [50, 60, 60, 60]
    equal(read_logs(steps[2]), read_logs(whole[2]))
    assert found | {"files": 0} == wanted | {"files": 0}


def test_what_does_not_fit_is_counted(tmp_path, caplog):
    logs = pages(20)
    write_exposures(logs, tmp_path / "exposures", 0)
    write_exposures(replace(logs, timestamp=logs.timestamp + 5), tmp_path / "exposures", 1)  # asked again
    first = {"user": "u0", "item": int(logs.item_id[0]), "task": "click", "timestamp": START, "request_id": "r0"}
    events = [
        first,
        first,  # the same content is the same event
        first | {"timestamp": START + DELAY + 1},
        first | {"item": int(logs.item_id[5])},  # a candidate that was not shown
        first | {"request_id": "nobody"},
        {name: value for name, value in first.items() if name != "request_id"},
        first | {"task": "unheard"},
        {name: value for name, value in first.items() if name != "task"},  # says that the item was shown
        first | {"amount": -1.0},
        first | {"timestamp": "noon"},
        [1, 2],
    ]
    write_feedback(events, tmp_path / "feedback", 0)
    with (tmp_path / "feedback" / "0.jsonl").open("a") as stream:
        stream.write("{broken\n")
        stream.write(json.dumps(first | {"item": int(logs.item_id[1])}))  # the writer is not done with this line
    folders = tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined"
    record = join_logs(*folders, CONFIG, FOREVER)
    assert record["requests"] == record["repeated_pages"] == 20
    assert [record[name] for name in ("joined", "repeated", "late", "not_on_page", "other", "unknown")] == [1] * 4 + [
        2
    ] * 2
    assert record["malformed"] == 4 and "timestamp 'noon'" in caplog.text
    joined = by_request(read_logs(tmp_path / "joined"))
    np.testing.assert_array_equal(joined.timestamp, by_request(logs).timestamp)  # the first pages
    assert joined.feedback.sum() == 1
    with (tmp_path / "feedback" / "0.jsonl").open("a") as stream:
        stream.write("\n")
    again = join_logs(*folders, CONFIG, FOREVER)
    assert again["late"] == record["late"] + 1  # now it is whole, and its page was written


def test_an_identical_page_twice_in_a_file_counts_once(tmp_path):
    logs = pages(6)
    parts = [logs.select([0, 1]), logs.select([1, 2]), logs.select([0, 3, 4, 5])]
    twice = {name: parts[0].offsets if name == "offsets" else value for name, value in vars(parts[0]).items()}
    for name, value in vars(parts[0]).items():
        if isinstance(value, np.ndarray) and name != "offsets":
            twice[name] = np.concatenate([getattr(part, name) for part in parts])
    twice["offsets"] = np.arange(9) * 6
    (tmp_path / "exposures").mkdir()
    write_part(twice, tmp_path / "exposures" / "exposures-0.parquet")
    with pytest.raises(ValueError):
        read_logs(tmp_path / "exposures")
    (tmp_path / "feedback").mkdir()
    record = join_logs(tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined", CONFIG, FOREVER)
    assert record["repeated_pages"] == 2 and record["requests"] == 6
    equal(read_logs(tmp_path / "joined"), logs)


def test_bad_inputs_are_named_before_anything_is_written(tmp_path):
    logs = pages(5)
    write_exposures(logs, tmp_path / "exposures", 0)
    (tmp_path / "feedback").mkdir()
    folders = [tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined"]
    refuses(ValueError, "feedback_delay_ms is -1", JoinConfig, feedback_delay_ms=-1)
    with pytest.raises(FileNotFoundError, match="nothing is no directory"):
        join_logs(folders[0], [tmp_path / "nothing"], folders[2], CONFIG)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    refuses(ValueError, "mine holds", join_logs, *folders[:2], tmp_path / "mine", CONFIG)
    assert not folders[2].exists()
    join_logs(*folders, CONFIG)
    refuses(ValueError, "feedback_delay_ms is 5; .*60000", lambda: join_logs(*folders, JoinConfig(feedback_delay_ms=5)))
    write_exposures(pages(6), tmp_path / "exposures", 0)
    refuses(ValueError, "changed size", join_logs, *folders, CONFIG)


def test_item_columns_that_some_pages_have_are_unknown_on_the_others(tmp_path):
    """Pages of a policy with item columns and of one without, some of which wait for the next run."""
    logs = pages(200)
    bare = replace(logs, items=(), item_features=None)
    for number, part in enumerate((bare.select(slice(0, 100)), logs.select(slice(100, 200)))):
        write_exposures(part, tmp_path / "exposures", number)
    write_feedback(events_of(logs)[0], tmp_path / "feedback", 0)
    for until in (START + 1000 * 80, FOREVER):
        join_logs(tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined", CONFIG, until)
    joined, known = by_request(LogParts.open(tmp_path / "joined").read()), by_request(logs)
    assert joined.num_requests == 200 and joined.items == logs.items == ("margin",)
    without = np.isin(joined.request_id, bare.request_id[:100])[joined.row_request]
    assert np.isnan(joined.item_features[without]).all()
    np.testing.assert_array_equal(joined.item_features[~without], known.item_features[~without])
