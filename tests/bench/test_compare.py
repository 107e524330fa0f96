"""`python -m bench compare` names what changed beyond the noise, on made-up reports."""

import copy

import pytest

from bench.cpu.harness import OURS, Report, Row, Timing
from bench.report import compare, results

PEERS = ("numpy", "torch", "faiss")


def timing(p50: float, spread: float = 0.01, blocks: int = 10_000) -> Timing:
    return Timing(p50 * (1 - spread), p50, p50 * (1 + spread), blocks)


def report(ours: float = 10.0, machine: float = 1.0, **options: float) -> Report:
    rows = []
    for count in (100, 1000):
        timings = {OURS: timing(ours * machine, **options)}
        timings |= {name: timing(40.0 * machine, **options) for name in PEERS}
        rows.append(Row("fuse_topk", {"N": count}, timings, PEERS, core=timing(5.0 * machine, **options)))
    versions = dict.fromkeys(("numpy", "torch", "faiss-cpu"), "1.0")
    return Report("serving", {"processor": "P", "isa": "avx2", "pygrade": "0.1"} | versions, rows)


def test_equal_reports_have_no_changes():
    assert list(compare.changes(report(), report())) == []


def test_a_change_beyond_the_intervals_is_named_with_its_factor():
    lines = list(compare.changes(report(10.0), report(8.0)))
    assert lines == [f"fuse_topk N={n}, pygrade: 10 → 8 µs, 1.25 × faster" for n in (100, 1000)]
    assert "1.25 × slower" in next(iter(compare.changes(report(8.0), report(10.0))))


def test_a_change_inside_the_noise_is_not_named():
    assert list(compare.changes(report(10.0, spread=0.08), report(9.0, spread=0.08))) == []
    assert list(compare.changes(report(10.0, spread=0.03), report(9.0, spread=0.03))) != []


def test_a_change_below_two_percent_is_not_named_however_quiet_the_machine():
    assert list(compare.changes(report(10.0, spread=0.0), report(10.15, spread=0.0))) == []
    assert list(compare.changes(report(10.0, spread=0.0), report(10.35, spread=0.0))) != []


def test_few_blocks_widen_the_noise():
    assert list(compare.changes(report(10.0, spread=0.03), report(9.2, spread=0.03))) != []
    assert list(compare.changes(report(10.0, spread=0.03, blocks=7), report(9.2, spread=0.03, blocks=7))) == []


def test_a_slower_machine_is_divided_out():
    assert compare.drift(report(), report(machine=1.5)) == pytest.approx(1.5)
    assert list(compare.changes(report(), report(machine=1.5))) == []
    assert all("pygrade:" in line for line in compare.changes(report(), report(8.0, machine=1.5)))


def test_peers_of_another_version_say_nothing_of_the_machine():
    after = report(machine=1.5)
    after.machine |= dict.fromkeys(("numpy", "torch", "faiss-cpu"), "2.0")
    assert compare.drift(report(), after) == 1.0
    assert any("numpy" in line and "slower" in line for line in compare.changes(report(), after))


def test_rows_and_contenders_that_came_or_went_are_named():
    before, after = report(), report()
    del before.rows[1]
    del after.rows[0].timings["faiss"]
    lines = list(compare.changes(before, after))
    assert "fuse_topk N=100, faiss: only before" in lines
    assert "fuse_topk N=1000, pygrade: only after" in lines


def test_the_command_compares_two_files_of_one_suite(tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    paths = [str(results.write(report(10.0), first)), str(results.write(report(8.0), second))]
    assert compare.main(paths) == 0
    assert "1.25 × faster" in capsys.readouterr().out
    other = copy.deepcopy(report())
    other.suite = "training"
    with pytest.raises(SystemExit):
        compare.main([paths[0], str(results.write(other, second))])
    assert "want one suite" in capsys.readouterr().err
