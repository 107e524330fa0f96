"""Counted bytes are those of the tensors; shares of limits; what the command line says, lists and leaves out."""

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

SCORED = [op for op in OPS if {"N", "T"} <= set(op.letters)]
CALLED = {"dirichlet_log_prob ∇": "dirichlet_score"}


def nbytes(*values):
    if len(values) == 1 and isinstance(values[0], torch.Tensor | np.ndarray):
        return values[0].nbytes
    nested = [value for value in values if isinstance(value, torch.Tensor | np.ndarray | tuple)]
    return sum(nbytes(*value) if isinstance(value, tuple) else value.nbytes for value in nested)


@pytest.fixture
def calls(monkeypatch):
    """Bytes that the first call of each op reads and writes, by its name."""
    seen = {}

    def recorded(name, function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            read = nbytes(*arguments, *(value for option, value in options.items() if option != "out"))
            gradient = arguments[0].nbytes if name == "lambda_loss" else 0  # by autograd
            seen.setdefault(name, (read, nbytes(result) + gradient))
            return result

        return call

    for name in {*pygrade.ops.__all__} & {*dir(pygrade)}:
        if name.islower():
            monkeypatch.setattr(pygrade, name, recorded(name, getattr(pygrade, name)))
    return seen


@pytest.mark.parametrize(
    ("op", "dtype"),
    [*((op, "float32") for op in OPS), *((op, "bfloat16") for op in SCORED)],
    ids=lambda x: str(getattr(x, "name", x)),
)
def test_bytes_of_an_op_on_a_device(op, dtype, calls):
    with use_backend("cpu"):
        op.ours(inputs(SMALL, "cpu", dtype=getattr(torch, dtype)))
    work = roofline.work(op.name, {**op.sizes(SMALL), "dtype": dtype})
    assert (work["read"], work["written"]) == calls[op.name.split()[0]]


def test_bytes_of_the_rows_of_the_cpu(calls, monkeypatch):
    monkeypatch.setattr(core, "row", lambda op, shape, *_, **__: Row(op, shape, {}, ()))
    for module in (peers, training):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    counted = set()
    for suite, plan in command.suites().items():
        for name, measure, shapes, _ in plan if suite != "call" else ():
            if roofline.work(name, {}) is not None:
                calls.clear()
                row = measure(True, *shapes[0])
                work = roofline.work(row.op, row.shape)
                assert (work["read"], work["written"]) == calls[CALLED.get(name, name.split()[0])], row
                counted.add(row.op)
    assert len(counted) == 10


def row(microseconds, op="fuse_topk", **shape):
    return Row(op, shape, {OURS: Timing(microseconds, microseconds, microseconds, 9)}, ())


def test_a_share_is_the_least_time_of_a_limit_over_the_time():
    found = row(2.0, N=1000, T=8, k=10)
    roofline.add(found, {"memory": 64.0, "fp32": 100.0, "special": 1.0})
    assert found.work == {"read": 32032, "written": 80, "fp32": 17000, "fp64": 0, "special": 0}
    assert found.gb_per_s == pytest.approx(16.056)
    assert found.shares == pytest.approx({"memory": 16.056 / 64, "fp32": 0.085, "special": 0.0})
    composite = row(2.0, "policy + rank", N=500, T=8)
    roofline.add(composite, {"memory": 64.0})
    assert composite.work is None and composite.shares == {}
    text = roofline.table(Report("x", {}, [found, composite], {"memory": 64.0, "fp32": 100.0}))
    assert "16.1      25.1       8.5" in text and "policy" not in text


def test_the_installed_command_lists_ops_and_says_what_needs_a_clone(tmp_path):
    def run(*arguments):
        words = [sys.executable, "-m", "pygrade", "bench", *arguments]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    listed = run("--list", "--only", "topk")
    ops = [line[10:34].split()[0] for line in listed.stdout.splitlines() if line]
    assert listed.returncode == 0 and set(ops) == {"fuse_topk", "topk_gain"} and "--device cuda" in listed.stdout
    for words in (["report"], ["study", "--quick"], ["--suite", "page"]):
        refused = run(*words)
        assert refused.returncode == 1 and "not in the package: run python -m bench in a clone" in refused.stderr


def test_main_times_what_it_can_and_names_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(core, "executable", lambda: None)
    monkeypatch.setattr(machine, "prepare", lambda threads: None)
    monkeypatch.setattr(core, "limits", lambda: {"memory": 32.0})

    def without_a_peer(quick, count):
        harness.optional("no_such_peer")
        return row(3.0, N=count, T=8, k=10)

    def impossible(quick, count):
        raise ModuleNotFoundError(name="no_such_package")

    plan = [("fuse_topk", without_a_peer, [(500,), (600,)], 1), ("rank", impossible, [(500,)], 1)]
    monkeypatch.setattr(command, "suites", lambda: dict.fromkeys(command.NAMES, plan))
    assert command.main(["--suite", "serving", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    report, shown = results.read(path), capsys.readouterr().out
    assert [found.absent for found in report.rows] == [("no_such_peer",)] * 2 and "without no_such_peer" in shown
    assert report.skipped["rank"] == "no_such_package is not installed: pip install 'pygrade-ranking[bench]'"
    assert report.limits == {"memory": 32.0} and report.rows[0].shares["memory"] > 0 and "skipped: rank" in shown
    assert command.main(["--quick", "--suite", "serving", "--only", "topk"]) == 0
    assert "skipped: rank" not in capsys.readouterr().out
    for words, message in (
        (["--only", "nothing"], "--only is 'nothing'; want part"),
        (["--suite", "no"], "suite 'no' is"),
    ):
        with pytest.raises(SystemExit):
            command.main(words)
        assert message in capsys.readouterr().err


def test_limits_are_measured_and_their_absence_is_no_error(monkeypatch):
    found = core.limits()
    assert found["L2"] > found["memory"] / 2 > 0 and found["fp64"] == found["fp32"] / 2 > 0
    monkeypatch.setenv("PATH", "")
    assert core.limits() == {}
