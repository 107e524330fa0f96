"""`python -m bench compare` names what changed beyond the noise, on made-up reports."""

from dataclasses import replace

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


def changes(before: float, after: float, machine: float = 1.0, **options: float) -> list[str]:
    return list(compare.changes(report(before, **options), report(after, machine, **options)))


@pytest.mark.parametrize(
    ("before", "after", "options", "named"),
    [
        (10.0, 10.0, {}, False),
        (10.0, 9.0, {"spread": 0.08}, False),  # inside the intervals
        (10.0, 9.0, {"spread": 0.03}, True),
        (10.0, 10.15, {"spread": 0.0}, False),  # below two per cent, however quiet the machine
        (10.0, 10.35, {"spread": 0.0}, True),
        (10.0, 9.2, {"spread": 0.03}, True),
        (10.0, 9.2, {"spread": 0.03, "blocks": 7}, False),  # few blocks widen the noise
        (10.0, 10.0, {"machine": 1.5}, False),  # a slower machine is divided out
    ],
)
def test_a_change_beyond_the_noise_is_named(before, after, options, named):
    assert bool(changes(before, after, **options)) is named


def test_a_change_is_named_with_its_factor():
    assert changes(10.0, 8.0) == [f"fuse_topk N={n}, pygrade: 10 → 8 µs, 1.25 × faster" for n in (100, 1000)]
    assert "1.25 × slower" in changes(8.0, 10.0)[0]
    assert all("pygrade:" in line for line in changes(10.0, 8.0, machine=1.5))


def test_peers_of_another_version_say_nothing_of_the_machine():
    assert compare.drift(report(), report(machine=1.5)) == pytest.approx(1.5)
    after = report(machine=1.5)
    after.machine |= dict.fromkeys(("numpy", "torch", "faiss-cpu"), "2.0")
    assert compare.drift(report(), after) == 1.0
    assert any("numpy" in line and "slower" in line for line in compare.changes(report(), after))


def test_rows_and_contenders_that_came_or_went_are_named():
    before, after = report(), report()
    del before.rows[1]
    del after.rows[0].timings["faiss"]
    lines = list(compare.changes(before, after))
    assert "fuse_topk N=100, faiss: only before" in lines and "fuse_topk N=1000, pygrade: only after" in lines


def test_the_command_compares_two_files_of_one_suite(tmp_path, capsys):
    paths = [str(results.write(report(ours), tmp_path / str(ours))) for ours in (10.0, 8.0)]
    assert compare.main(paths) == 0
    assert "1.25 × faster" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        compare.main([paths[0], str(results.write(replace(report(), suite="training"), tmp_path))])
    assert "expected one suite" in capsys.readouterr().err
