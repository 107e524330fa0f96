"""Timing, the records and their files."""

import threading

import pytest

from bench.cpu import harness
from bench.cpu.harness import NOTHING, OURS, Report, Row, Timing
from bench.report import results


def flat(p50: float) -> Timing:
    return Timing(p50, p50, p50, 100)


def row(**options: object) -> Row:
    timings = {OURS: flat(2.0), "numpy": flat(10.0), "torch": flat(6.0), "numba threshold": flat(3.0)}
    values = {"core": flat(1.5), "bound": flat(0.5), "bound_kind": "read"} | options
    return Row("fuse_topk", {"N": 10, "T": 8}, timings, ("numpy", "torch"), ("numba threshold",), **values)


@pytest.mark.parametrize("processors", [1, 2])
def test_contenders_are_timed_in_microseconds_and_take_turns(processors, monkeypatch):
    order = []
    monkeypatch.setattr(harness.os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(harness.time, "sleep", order.append)

    def waiting(name, seconds):
        def run(i):
            order.append(name)
            threading.Event().wait(seconds)

        return run

    seen = set()
    harness.measure({"a": lambda i: seen.add(i % harness.ROTATIONS)}, 0.02)
    assert seen == set(range(harness.ROTATIONS))  # every input is visited
    order.clear()
    timings = harness.measure({"a": waiting("a", 0.004), "b": waiting("b", 0.008)}, 0.1)
    assert timings["a"].p20 >= 4000
    assert timings["b"].p20 >= 8000
    assert all(t.p20 <= t.p50 <= t.p80 and t.blocks >= 7 for t in timings.values())
    turns = order[8:]  # behind the warm-up
    if processors == 2:  # pools of several threads: before each block a rest, and untimed calls for as long again
        starts = [i for i, entry in enumerate(order) if entry == harness.REST]
        blocks = [order[i + 1 : end] for i, end in zip(starts, [*starts[1:], len(order)], strict=True)]
        assert starts[0] == 8
        assert all(len(set(block)) == 1 and len(block) > 1 for block in blocks)
        turns = [block[0] for block in blocks]
    assert all({first, second} == {"a", "b"} for first, second in zip(turns[::2], turns[1::2], strict=True))
    assert len(set(turns[::2])) == 2  # in shuffled order


def test_ratios_are_to_the_best_library_peer():
    found = row()
    assert found.best_peer == "torch"
    assert found.ratio == 3.0
    assert found.core_ratio == 4.0
    assert found.bound_ratio == 3.0
    assert found.ratio_to("numba threshold") == 1.5
    assert found.overhead is None
    found.timings[NOTHING] = flat(0.1)
    assert found.overhead == pytest.approx(0.4)  # without the harness and the core


def test_a_row_without_peers_has_no_ratio():
    found = row(core=None, bound=None)
    found.peers = ()
    assert (found.best_peer, found.ratio, found.core_ratio, found.bound_ratio) == (None,) * 4
    assert "fuse_topk" in results.table(Report("call", {"processor": "P", "isa": "avx2"}, [found]))


def test_reports_survive_their_files(tmp_path):
    report = Report("serving", {"processor": "P", "isa": "avx2", "pygrade": "0.1"}, [row()])
    path = results.write(report, tmp_path)
    assert path.name == "serving-avx2.json"
    assert results.read(path) == report
    assert results.read_all(tmp_path) == {"avx2": {"serving": report}}
    report.machine["threads"] = "4"  # such results lie apart
    assert results.write(report, tmp_path / "4").name == "serving-avx2-4-threads.json"
    assert results.read_all(tmp_path / "4") == {}
