"""Streams: the same rows in any chunks, each part by its time, bounded memory, every fault named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.metrics.roc import auc
from pygrade.mtl import Columns, TimeCounts, TimeSplit, count_times, fit_stream, predict
from pygrade.mtl.column_stats import ColumnStats
from pygrade.mtl.stream import Window
from pygrade.mtl.timeline import FIRST, LAST
from tests.mtl.worlds import COLUMNS, SMALL, batches_of, fit, parameters, world
from tests.refusals import refuses

TASKS = ("a", "b")
PARTS = TimeSplit(2000, 2400, 2900)


def test_chunks_do_not_matter():
    dense, ids, labels, time, _ = world(3000)
    config = replace(SMALL, epochs=3)
    whole = fit(dense, ids, labels, time, TASKS, config, stop=0.2, calibrate=0.2)
    timeline = TimeSplit(1800, 2400, LAST)
    for rows in (3000, 1000):
        streamed = fit_stream(batches_of(dense, ids, labels, time, rows=rows), TASKS, timeline, COLUMNS, config)
        assert (streamed.best_epoch, streamed.columns) == (whole.best_epoch, whole.columns)
        np.testing.assert_allclose(predict(streamed, dense, ids), predict(whole, dense, ids), rtol=1e-4)


def test_each_part_is_used_for_what_it_is_for():
    dense, ids, labels, time, _ = world(3000)
    config = replace(SMALL, epochs=2, refit=False)

    def trained(part, other=config):
        start, stop = PARTS.parts[part] if part else (0, 0)
        changed = np.where(((time >= start) & (time < stop))[:, None], 1 - labels, labels)
        return fit_stream(batches_of(dense, ids, changed, time), TASKS, PARTS, COLUMNS, other)

    plain = trained(None)
    assert parameters(trained("train")) != parameters(plain)
    stopped, calibrated, later = trained("stop"), trained("calibrate"), trained("predict")
    assert stopped.validation_auc != plain.validation_auc
    assert parameters(calibrated) == parameters(plain) and calibrated.validation_auc == plain.validation_auc
    assert not np.array_equal(calibrated.calibration.beta, plain.calibration.beta)
    assert parameters(later) == parameters(plain) and np.array_equal(later.calibration.beta, plain.calibration.beta)
    with_refit = replace(config, refit=True)
    assert parameters(trained("stop", with_refit)) != parameters(trained(None, with_refit))


def test_a_stream_larger_than_the_buffer_learns_as_well():
    dense, ids, labels, time, _ = world(4000)
    timeline = TimeSplit(3400, 4000, 4000)
    config = replace(SMALL, epochs=10, batch_size=128)
    new_dense, new_ids, new_labels, *_ = world(seed=1)
    areas = []
    for memory_rows in (4000, 500):
        model = fit_stream(
            batches_of(dense, ids, labels, time), TASKS, timeline, COLUMNS, replace(config, memory_rows=memory_rows)
        )
        areas.append([auc(new_labels[:, t], predict(model, new_dense, new_ids)[:, t]).value for t in range(2)])
    np.testing.assert_allclose(areas[1], areas[0], atol=0.01)
    assert areas[1][0] > 0.8


def test_the_buffer_gives_every_row_once_a_pass_mixed_and_holds_few():
    n, memory_rows = 5000, 600
    dense = np.arange(n, dtype=np.float32)[:, None]
    ids, labels, time = np.zeros((n, 1), np.int64), np.zeros((n, 1), np.float32), np.arange(n)
    read = 0
    ahead = []

    def batches():
        nonlocal read
        for chunk in batches_of(dense, ids, labels, time, rows=100)():
            read += len(chunk[0])
            yield chunk

    window = Window(batches, Columns(("x",), ("id",), (8,)), (1000, 4500), 3500, memory_rows, 1)
    torch.manual_seed(0)
    given = []
    for rows, *_ in window.shuffled(64):
        given += rows[:, 0].int().tolist()
        ahead.append(read - 1000 - len(given))
    assert sorted(given) == list(range(1000, 4500))
    assert max(ahead[:-20]) <= memory_rows + 100  # what was read and not yet given: the buffer and one chunk
    moved = np.abs(np.array(given) - np.arange(1000, 4500))
    assert 100 < moved.mean() < memory_rows and given[:300] != sorted(given[:300])
    assert next(r.shape for r, *_ in window.shuffled(64)) == (64, 1)
    assert next(iter(window.shuffled(64)))[0][:, 0].tolist() != given[:64]  # another pass, another order


def test_a_window_that_fits_is_read_once():
    dense, ids, labels, time, _ = world(1000)
    calls = 0

    def batches():
        nonlocal calls
        calls += 1
        return batches_of(dense, ids, labels, time)()

    for memory_rows, expected in ((500, 1), (499, 3)):
        calls = 0
        window = Window(batches, COLUMNS, (250, 750), 500, memory_rows, 2)
        for _ in range(3):
            assert sum(len(rows[0]) for rows in window) == 500
        assert calls == expected


def test_moments_of_a_stream_are_those_of_the_whole():
    dense, _, labels, *_ = world(3000)
    dense = dense * 3 + np.array([1e4, 0, -5], np.float32)
    dense[::3, 1] = np.nan
    labels[::5, 0] = np.nan
    stats = ColumnStats(3, 2)
    for start in range(0, 3000, 70):
        stats.add_rows(dense[start : start + 70], labels[start : start + 70])
    np.testing.assert_allclose(stats.mean, np.nanmean(dense.astype(np.float64), 0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, np.nanstd(dense.astype(np.float64), 0), rtol=1e-9)
    np.testing.assert_allclose(stats.rate, np.nanmean(labels, 0), rtol=1e-6)
    assert stats.observed.tolist() == [2400, 3000] and stats.rows == 3000


def split_times(batches, shares=(0.5, 0.1, 0.15)):
    return count_times(time for *_, time in batches()).split(shares)


def test_times_split_by_rows_and_instants_stay_together():
    time = np.repeat(np.arange(100) * 1000 + 5, 10)
    arrays = (np.zeros((1000, 1), np.float32), np.zeros((1000, 1), np.int64), np.zeros((1000, 1), np.float32), time)
    timeline = split_times(batches_of(*arrays, rows=77), (0.503, 0.1, 0.2))
    assert (timeline.train_end, timeline.stop_end, timeline.calibrate_end) == (50_005, 60_005, 80_005)
    assert timeline.parts["train"] == (FIRST, 50_005) and timeline.parts["predict"] == (80_005, LAST)
    late = np.random.default_rng(0).permutation(np.repeat(10**12 + np.arange(300_000) * 7919, 2))
    wide = np.zeros((len(late), 0))
    timeline = split_times(batches_of(wide, wide, wide, late, rows=50_000), (0.5, 0.25, 0.125))
    shares = [((late >= a) & (late < b)).mean() for a, b in timeline.parts.values()]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.125, 0.125], atol=1e-4)


def test_times_that_cannot_be_split_are_named():
    dense, ids, labels, time, _ = world(100)
    rows = batches_of(dense, ids, labels, time)
    for shares in ((0.5, 0.5, 0.1), (0.5, 0.0, 0.1), (0.5, 0.1)):
        refuses(ValueError, "shares is", split_times, rows, shares)
    for batches, message in (
        (batches_of(dense, ids, labels, np.zeros(100, np.int64)), "the train part has no rows: 100 rows of 1 instants"),
        (lambda: iter([]), "batches gives no rows"),
    ):
        refuses(ValueError, message, split_times, batches)
    refuses(ValueError, "train_end is 5, stop_end 4", TimeSplit, 5, 4, 6)


def test_a_part_without_positives_is_named():
    for part in ("train", "stop", "calibrate"):  # what is predicted may have none
        start, stop = PARTS.parts[part]
        dense, ids, labels, time, _ = world(3000)
        labels[(time >= start) & (time < stop), 1] = 0
        with pytest.raises(ValueError, match=f"task 'b' has 0 positives of [0-9]+ labels in the {part} part"):
            fit_stream(batches_of(dense, ids, labels, time), TASKS, PARTS, COLUMNS, SMALL)


@pytest.mark.parametrize(
    ("funnel", "message"),
    [
        ((("a", "c"),), "funnel names 'c'"),
        ((("a", "b"), ("b", "a")), "back to itself"),
        ((("a", "b"), ("a", "b")), "two parents"),
        ((("a", "b"),), "funnel says 'b' follows 'a', but [0-9]+ rows"),
    ],
)
def test_a_funnel_that_cannot_be_is_named(funnel, message):
    dense, ids, labels, time, _ = world(3000)
    with pytest.raises(ValueError, match=message):
        fit_stream(batches_of(dense, ids, labels, time), TASKS, PARTS, COLUMNS, replace(SMALL, funnel=funnel))


def test_times_counted_in_parts_join_to_the_whole(monkeypatch):
    monkeypatch.setattr("pygrade.mtl.timeline._MAX_INSTANTS", 40)
    rng = np.random.default_rng(0)
    parts = [rng.integers(start, start + width, 300) for start, width in ((0, 10), (50, 5000), (3, 900))]
    whole = count_times([np.concatenate(parts)])
    assert whole.width > 1 and len(whole.instants) <= 40 and whole.counts.sum() == 900
    for order in ([0, 1, 2], [2, 1, 0]):
        joined = TimeCounts.join(count_times(np.array_split(parts[i], 7)) for i in order)
        assert joined.width == whole.width
        np.testing.assert_array_equal(joined.instants, whole.instants)
        np.testing.assert_array_equal(joined.counts, whole.counts)
    assert joined.split((0.5, 0.1, 0.15)) == whole.split((0.5, 0.1, 0.15))
