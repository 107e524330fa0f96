"""The KuaiRand loader: both formats, strict reading, requests, and no look at the present or the future."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pygrade.data.history import last_before, prior_sums
from pygrade.data.kuairand import CONTEXT_FEATURES, KuaiRandConfig, features, group, load
from pygrade.data.kuairand_files import EVENTS, find_files, read_events
from pygrade.logs import validate
from pygrade.mtl import MtlConfig
from tests.data.kuairand_world import FIRST_DAY, HOUR, make_rows, write_excerpt, write_public

FAST = MtlConfig(experts=2, expert_hidden=16, expert_output=8, tower_hidden=8, embedding=4, buckets=512, epochs=8,
                 batch_size=64)  # fmt: skip
CONFIG = KuaiRandConfig(mtl=FAST)


def auc(labels, scores):
    order = np.argsort(np.argsort(scores, kind="stable"))
    positives = labels.sum()
    return (order[labels > 0].sum() - positives * (positives - 1) / 2) / (positives * (len(labels) - positives))


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def public(rows, tmp_path_factory):
    return write_public(tmp_path_factory.mktemp("pure") / "data", rows).parent


def test_public_files_become_valid_logs_of_the_later_days(public, rows):
    logs = load(public, CONFIG)
    validate(logs)
    assert logs.tasks == EVENTS and logs.features == CONTEXT_FEATURES
    cut = FIRST_DAY + 12 * 24 * HOUR
    assert logs.timestamp.min() >= cut and (np.diff(logs.timestamp) >= 0).all()
    later = [r for r in rows if r["time_ms"] >= cut]
    by_request = {}
    for r in later:
        by_request.setdefault((r["user_id"], r["tab"], r["date"]), []).append(r)
    wanted = {k: v for k, v in by_request.items() if len(v) >= 2}
    assert logs.num_requests == len(wanted) and logs.num_rows == sum(map(len, wanted.values()))
    for r in range(0, logs.num_requests, 37):
        day = 20220408 + int((logs.timestamp[r] - FIRST_DAY) // (24 * HOUR))
        day = day if day <= 20220430 else day - 20220430 + 20220500
        expected = wanted[(int(logs.user_id[r]), int(str(logs.scenario[r])[3:]), day)]
        part = slice(logs.offsets[r], logs.offsets[r + 1])
        assert logs.item_id[part].tolist() == [e["video_id"] for e in expected]
        assert logs.position[part].tolist() == list(range(len(expected)))
        assert logs.feedback[part, 0].tolist() == [e["is_click"] for e in expected]
        assert logs.feedback[part, 7].tolist() == [float(e["comment_stay_time"] > 0) for e in expected]
    assert logs.predictions.min() > 0 and logs.predictions.max() <= 1
    assert auc(logs.feedback[:, 0], logs.predictions[:, 0]) > 0.7  # clicks depend on the video
    early, late = logs.split(0.7)
    assert early.timestamp.max() <= late.timestamp.min()


def test_parts_read_as_one_file_and_equal_the_whole(public, rows, tmp_path):
    parts = write_public(tmp_path / "parts", rows, "27k", parts=2)
    whole, split = load(public, CONFIG), load(parts, CONFIG)
    np.testing.assert_array_equal(whole.item_id, split.item_id)
    np.testing.assert_array_equal(whole.predictions, split.predictions)
    (parts / "log_standard_4_22_to_5_08_27k_part1.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"part1\.csv is missing"):
        load(parts, CONFIG)


def test_same_files_same_log(public):
    np.testing.assert_array_equal(load(public, CONFIG).predictions, load(public, CONFIG).predictions)


def test_the_excerpt_takes_like_from_label_and_leaves_it_out_by_default(rows, tmp_path):
    directory = write_excerpt(tmp_path, rows)
    logs = load(directory, CONFIG)
    assert "like" not in logs.tasks and logs.scenario is None
    chosen = load(directory, replace(CONFIG, tasks=("like", "click"), task_values={"like": 5.0}))
    assert chosen.tasks == ("like", "click") and chosen.task_values == (5.0, 1.0)
    events = read_events(find_files(directory))
    assert events.feedback[:, EVENTS.index("like")].sum() == sum(r["is_like"] for r in rows)


def test_random_rows_and_a_share_of_the_users_can_be_left_out(public, rows):
    files = find_files(public)
    everyone = read_events(files)
    assert len(everyone.user) == len(rows)
    assert len(read_events(files, random=False).user) == len(rows) - sum(r["is_rand"] for r in rows)
    half = read_events(files, user_fraction=0.5)
    assert 0 < len(half.user_id) < len(everyone.user_id)
    counts = np.bincount(everyone.user)[np.isin(everyone.user_id, half.user_id)]
    np.testing.assert_array_equal(np.bincount(half.user), counts)  # all rows of a kept user


def test_sessions_end_at_a_gap_and_long_requests_are_cut(public):
    events = read_events(find_files(public))
    sessions = group(events, KuaiRandConfig(requests="session", session_gap_minutes=60))
    time = events.time[sessions.order]
    for r in range(0, len(sessions.user), 53):
        part = slice(sessions.offsets[r], sessions.offsets[r + 1])
        assert len(set(events.user[sessions.order[part]])) == 1 and len(set(events.tab[sessions.order[part]])) == 1
        assert (np.diff(time[part]) <= 60 * 60_000).all()
    assert sorted(sessions.order) == list(range(len(events.user)))
    short = group(events, KuaiRandConfig(max_rows=2))
    assert np.diff(short.offsets).max() == 2
    assert (short.start == events.time[short.order][short.offsets[:-1]]).all()


def test_prior_sums_count_strictly_earlier_events_of_the_same_key():
    rng = np.random.default_rng(0)
    key, time = rng.integers(0, 5, 300), rng.integers(0, 50, 300)
    values = rng.integers(0, 2, (300, 2))
    query_key, query_time = rng.integers(-1, 7, 100), rng.integers(-5, 60, 100)
    count, sums = prior_sums(key, time, values, query_key, query_time)
    since = last_before(key, time, query_key, query_time)
    for q in range(100):
        mask = (key == query_key[q]) & (time < query_time[q])
        assert count[q] == mask.sum()
        np.testing.assert_array_equal(sums[q], values[mask].sum(0))
        if mask.any():
            assert since[q] == query_time[q] - time[mask].max()
        else:
            assert np.isnan(since[q])
    empty, _ = prior_sums(key[:0], time[:0], values[:0], query_key, query_time)
    assert not empty.any()


def test_no_feature_sees_its_own_or_a_later_event(public):
    """Whatever happens from a request's first impression on, its features stay the same, bit for bit."""
    events = read_events(find_files(public))
    requests = group(events, CONFIG)
    context, dense, _ = features(events, requests)
    row_request = requests.row_request
    rng = np.random.default_rng(0)
    moved = 0
    for r in rng.choice(len(requests.user), 25, replace=False):
        now = events.time >= requests.start[r]
        feedback, play = events.feedback.copy(), events.play.copy()
        feedback[now], play[now] = 1 - feedback[now], play[now] + 1000.0
        other_context, other_dense, _ = features(replace(events, feedback=feedback, play=play), requests)
        np.testing.assert_array_equal(context[r], other_context[r])
        np.testing.assert_array_equal(dense[row_request == r], other_dense[row_request == r])
        moved += int((context != other_context).any(1).sum())
    assert moved > 1000  # the changes do reach the requests that come after


def test_a_planted_leak_stays_out_of_the_predictions(tmp_path):
    """Coin-toss labels that a row's own play time gives away: who looks at the row itself reaches an AUC of 1."""
    rows = make_rows(users=40, leak=True)
    logs = load(write_public(tmp_path, rows), replace(CONFIG, mtl=FAST))
    assert logs.num_rows > 1500
    for t, task in enumerate(logs.tasks):
        assert abs(auc(logs.feedback[:, t], logs.predictions[:, t]) - 0.5) < 0.06, task


def test_labels_of_the_last_day_do_not_reach_the_model(rows, tmp_path):
    """Predictions of all requests but the last day's stay bit-equal when the last day's labels change."""
    before = load(write_excerpt(tmp_path / "a", rows), CONFIG)
    last = max(r["date"] for r in rows)
    flipped = [{**r, "is_click": 1 - r["is_click"]} if r["date"] == last else r for r in rows]
    after = load(write_excerpt(tmp_path / "b", flipped), CONFIG)
    earlier = before.row_request < np.searchsorted(before.timestamp, FIRST_DAY + 23 * 24 * HOUR)
    assert 0 < earlier.sum() < before.num_rows
    np.testing.assert_array_equal(before.predictions[earlier], after.predictions[earlier])
    assert (before.feedback[~earlier] != after.feedback[~earlier]).any()


def damage(path: Path, line: int, change) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def put(column: int, text: str, delimiter: str = "\t"):
    def change(line: str) -> str:
        fields = line.split(delimiter)
        fields[column] = text
        return delimiter.join(fields)

    return change


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (5, put(5, "2"), r"interactions.tsv: line 5, column 'is_click' is 2; want 0 or 1"),
        (6, put(5, ""), r"interactions.tsv: line 6, column 'is_click' is empty"),
        (7, put(4, "x"), r"interactions.tsv: line 7, column 'time_ms' is 'x'; want a whole number"),
        (8, put(10, "1.5"), r"interactions.tsv: line 8, column 'play_time_ms' is '1.5'"),
        (9, put(10, "-3"), r"interactions.tsv: line 9, column 'play_time_ms' is -3; want 0 or more"),
        (10, put(2, "20220431"), r"interactions.tsv: line 10, column 'date' is 20220431; want a day"),
        (11, put(2, "20230408"), r"interactions.tsv: line 11, column 'date' is 20230408; want the day of time_ms"),
        (12, lambda line: line[: len(line) // 2], r"interactions.tsv: line 12 has \d+ fields; the header names 16"),
        (13, lambda line: "", r"interactions.tsv: line 13, column 'user_id' is empty"),
        (1, put(9, "long_vew"), r"interactions.tsv: column 'long_view' is missing; the file has user_id"),
        (1, put(9, "is_click"), r"interactions.tsv: line 1 names column 'is_click' more than once"),
        (14, put(0, "99999"), r"user_features.csv: user_id 99999 of the logs is missing"),
    ],
)
def test_bad_rows_are_named(rows, tmp_path, line, change, message):
    directory = write_excerpt(tmp_path, rows[:200])
    damage(directory / "interactions.tsv", line, change)
    with pytest.raises(ValueError, match=message):
        load(directory, CONFIG)


def test_bad_feature_files_are_named(rows, tmp_path):
    directory = write_public(tmp_path, rows)
    basic = directory / "video_features_basic_pure.csv"
    good = basic.read_text()
    damage(basic, 4, lambda line: line.replace("2022-03-01", "2022-13-01"))
    with pytest.raises(ValueError, match=r"video_features_basic_pure.csv: video_id 102, column 'upload_dt'"):
        load(directory, CONFIG)
    basic.write_text(good + good.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="video_id 100 stands in more than one row"):
        load(directory, CONFIG)
    basic.write_text(good)
    users = directory / "user_features_pure.csv"
    users.write_text(users.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"user_features_pure\.csv: the file has a header and no rows"):
        load(directory, CONFIG)
    users.write_text("")
    with pytest.raises(ValueError, match=r"user_features_pure\.csv: the file is empty"):
        load(directory, CONFIG)


def test_missing_and_mixed_files_are_named(rows, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        find_files(tmp_path / "none")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no KuaiRand logs \(it has x.txt\); want the excerpt"):
        find_files(tmp_path)
    write_excerpt(tmp_path / "e", rows[:50])
    (tmp_path / "e" / "user_features.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"user_features\.csv is missing"):
        find_files(tmp_path / "e")
    mixed = write_public(tmp_path / "m", rows[:50])
    write_public(mixed, rows[:50], "1k")
    with pytest.raises(ValueError, match="mixes versions"):
        find_files(mixed)
    write_excerpt(mixed, rows[:50])
    with pytest.raises(ValueError, match="more than once"):
        find_files(mixed)


@pytest.mark.parametrize(
    "bad",
    [
        {"requests": "page"}, {"session_gap_minutes": -1.0}, {"min_rows": 0}, {"min_rows": 9, "max_rows": 8},
        {"mtl_fraction": 1.0}, {"user_fraction": 0.0}, {"tasks": ("clicks",)}, {"task_values": {"x": 1.0}},
        {"min_positives": 0},
    ],
)  # fmt: skip
def test_bad_config_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        KuaiRandConfig(**bad)


def test_a_task_without_enough_events_is_refused(rows, tmp_path):
    directory = write_excerpt(tmp_path, [{**r, "is_follow": 0} for r in rows])
    assert "follow" not in load(directory, CONFIG).tasks
    with pytest.raises(ValueError, match="tasks names 'follow', which has 0 positives"):
        load(directory, replace(CONFIG, tasks=("follow",)))
    with pytest.raises(ValueError, match="the logs hold 1 day"):
        load(write_excerpt(tmp_path / "day", [r for r in rows if r["date"] == 20220408]), CONFIG)


@pytest.mark.skipif(not os.environ.get("PYGRADE_DATA"), reason="PYGRADE_DATA names no directory with kuairand27k/")
def test_the_real_excerpt():
    logs = load(Path(os.environ["PYGRADE_DATA"]) / "kuairand27k")
    validate(logs)
    assert logs.num_requests == 2813 and logs.num_rows == 18666
    assert logs.tasks == ("click", "long_view", "comment", "follow", "forward", "profile_enter", "comment_stay")
    floors = {"click": 0.74, "long_view": 0.74, "comment": 0.66, "profile_enter": 0.66, "comment_stay": 0.71}
    for task, floor in floors.items():
        t = logs.tasks.index(task)
        assert auc(logs.feedback[:, t], logs.predictions[:, t]) > floor, task
        assert abs(logs.predictions[:, t].mean() / logs.feedback[:, t].mean() - 1) < 0.25, task
