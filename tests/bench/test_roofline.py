"""Counted bytes are those of the tensors; shares of limits; what the command line lists, says and leaves out."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import pygrade
from bench import __main__ as command
from bench import roofline
from bench.cpu import core, harness, machine, peers, training
from bench.cpu.harness import OURS, Report, Row, Timing
from bench.gpu.device_ops import OPS, SMALL, inputs
from bench.report import results
from pygrade.ops.dispatch import use_backend

ARRAYS = torch.Tensor | np.ndarray
CASES = [
    (op, dtype) for op in OPS for dtype in ("float32", "bfloat16") if dtype == "float32" or {*"NT"} <= {*op.letters}
]


@pytest.fixture
def calls(monkeypatch):
    """Bytes that the first call of each op reads and writes, by its name."""
    seen = {}

    def recorded(name, function):
        def call(*given, **options):
            result = function(*given, **options)
            options.pop("out", None)
            read = sum(value.nbytes for value in (*given, *options.values()) if isinstance(value, ARRAYS))
            written = sum(part.nbytes for part in ((result,) if isinstance(result, ARRAYS) else result))
            gradient = given[0].nbytes if name == "lambda_loss" else 0  # by autograd
            seen.setdefault(name, (read, written + gradient))
            return result

        return call

    for name in filter(str.islower, pygrade.ops.__all__):
        monkeypatch.setattr(pygrade, name, recorded(name, getattr(pygrade, name)))
    return seen


def matches(row, call):
    counted = roofline.work(row.op, row.shape)
    return (counted["read"], counted["written"]) == call


@pytest.mark.parametrize(("op", "dtype"), CASES, ids=[f"{op.name}-{dtype}" for op, dtype in CASES])
def test_bytes_of_an_op_of_the_gpu(op, dtype, calls):
    with use_backend("cpu"):
        op.ours(inputs(SMALL, "cpu", dtype=getattr(torch, dtype)))
    assert matches(Row(op.name, {**op.sizes(SMALL), "dtype": dtype}, {}, ()), calls[op.name.split()[0]])


def test_bytes_of_the_rows_of_the_cpu(calls, monkeypatch):
    monkeypatch.setattr(core, "row", lambda op, shape, *_, **__: Row(op, shape, {}, ()))
    for module in (peers, training):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    del (suites := command.suites())["call"]
    plans = [entry for plan in suites.values() for entry in plan if roofline.work(entry[0], {}) is not None]
    for name, measure, shapes, _ in plans:
        calls.clear()
        row = measure(True, *shapes[0])
        assert row.op == name and matches(row, calls[name.replace("log_prob ∇", "score").split()[0]]), row
    assert len(plans) == 13


def row(microseconds, op="fuse_topk", **shape):
    return Row(op, shape, {OURS: Timing(microseconds, microseconds, microseconds, 9)}, ())


def test_a_share_is_the_least_time_of_a_limit_over_the_time():
    found, composite = row(2.0, N=1000, T=8, k=10), row(2.0, "policy + rank", N=500, T=8)
    for each in (found, composite):
        roofline.add(each, {"memory": 64.0, "fp32": 100.0, "special": 1.0})
    assert found.work == {"bytes": 32112, "read": 32032, "written": 80, "fp32": 17000, "fp64": 0, "special": 0}
    assert found.gb_per_s == pytest.approx(16.056) and (composite.work, composite.shares) == (None, {})
    assert found.shares == pytest.approx({"memory": 16.056 / 64, "fp32": 0.085, "special": 0.0})
    assert roofline.table(Report("", {}, [found, composite])).endswith("16.1      25.1       8.5       0.0")


def test_the_installed_command_lists_ops_and_says_what_needs_a_clone(tmp_path):
    def run(*words):
        command = [sys.executable, "-m", "pygrade", "bench", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    listed = run("--list", "--only", "topk")
    ops = [line[10:].split()[0] for line in listed.stdout.splitlines()]
    assert listed.returncode == 0 and {*ops} == {"fuse_topk", "topk_gain"} and "--device cuda" in listed.stdout
    refused = run("--suite", "page")
    assert refused.returncode == 1 and "system.page needs a clone of the repository" in refused.stderr


def test_main_times_what_it_can_and_names_what_is_missing(monkeypatch, tmp_path, capsys):
    def without_a_peer(quick, count):
        harness.optional("no_such_peer")
        return row(3.0, N=count, T=8, k=10)

    def impossible(quick, count):
        raise ModuleNotFoundError(name="no_such_package")

    plan = [("fuse_topk", without_a_peer, [(500,), (600,)], 1), ("rank", impossible, [(500,)], 1)]
    monkeypatch.setattr(command, "suites", lambda: dict.fromkeys(command.NAMES, plan))
    monkeypatch.setattr(machine, "prepare", lambda threads: None)
    assert command.main(["--suite", "serving", "--out", str(tmp_path)]) == 0
    report, shown = results.read(next(tmp_path.iterdir())), capsys.readouterr().out
    assert [found.absent for found in report.rows] == [("no_such_peer",)] * 2 and "without no_such_peer" in shown
    assert report.skipped["rank"] == f"no_such_package is {command.ABSENT}"
    assert "skipped: rank" in shown and {*report.limits} == {*report.rows[0].shares} == {"memory", "L2", "fp32", "fp64"}
    assert min(report.limits.values()) > 1 and report.rows[0].shares["memory"] > 0
    for option, message in (
        ("--only", "--only is 'no such'; expected part of"),
        ("--suite", "suite 'no such' is unknown"),
    ):
        with pytest.raises(SystemExit):
            command.main([option, "no such"])
        assert message in capsys.readouterr().err
