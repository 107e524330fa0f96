"""The list of compiled variants covers what the launch functions choose, and the tools that judge binaries can fail."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from bench.gpu import model, resources
from bench.gpu.device_ops import OPS
from pygrade.aot.variants import VARIANTS
from tests.kernels import sweep
from tests.ptx import run

ROW = resources.Row(64, 0, 1024, 0, 500, 0, 2, variant="a", kernel="_k", target="sm_90", warps=4)


def compiling(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True)


def test_at_most_64_variants_cover_what_launch_functions_choose():
    assert len(VARIANTS) <= 64
    run = compiling("tests.kernels.sweep")
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["launches"] > 500
    assert record["uncovered"] == []


def test_the_sweep_finds_what_is_missing():
    chosen = {"k": {"num_warps": {"1", "8"}, "N (size)": {"1", "4", "64"}, "x": {"*fp16 None"}}}
    built = {"k": {"num_warps": {"1"}, "N (size)": {"2", "64"}, "x": {"*fp32 None"}}}
    assert sweep.uncovered(chosen, built) == ["k num_warps = 8", "k N (size) = 1", "k x = *fp16 None"]


@pytest.mark.parametrize("version", ["3.6.0", "3.9.0"])
def test_each_budget_has_a_line_for_every_variant_and_target(version):
    budget = json.loads(resources.budget_path(version).read_text())
    lines = {(key.split()[0], key.split()[2]) for key in budget}
    assert lines == {(name, target) for name in VARIANTS for target in resources.TARGETS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 65}, "65 registers; the budget has 64"),
        ({"shared": 1025}, "1025 shared; the budget has 1024"),
        ({"instructions": 501}, "501 instructions; the budget has 500"),
        ({"wide_loads": 1}, "1 wide_loads; the budget has 2"),
        ({"target": "sm_80"}, "no line in the budget"),
    ],
)
def test_more_than_the_budget_is_reported(change, message):
    budget = resources.budget_of([ROW])
    assert resources.over_budget([ROW], budget) == []
    (problem,) = resources.over_budget([replace(ROW, **change)], budget)
    assert message in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spills": 8}, "8 spills; want none"),
        ({"inexact": 1}, "1 float32 instructions that may be fused"),
        ({"scratch": 64}, "64 bytes of Triton's own global scratch"),
        ({"wide_loads": 0}, "no 128-bit load"),
        ({"faults": ("line 7: v_mov_b32 uses v0 without a wait",)}, "uses v0 without a wait"),
    ],
)
def test_broken_rules_are_reported(change, message):
    assert resources.broken_rules([ROW], {"a"}) == []
    (problem,) = resources.broken_rules([replace(ROW, **change)], {"a"})
    assert message in problem


def test_a_budget_is_one_line_a_kernel_and_target(tmp_path):
    path = tmp_path / "budget.json"
    resources.write_budget(path, resources.budget_of([ROW, replace(ROW, target="gfx942")]))
    assert path.read_text().splitlines()[2].startswith('"a k sm_90": {"registers": 64, ')
    assert json.loads(path.read_text())["a k gfx942"]["wide_loads"] == 2


def test_an_inexact_kernel_is_caught(tmp_path):
    """A kernel that the compiler may contract, and the same as ours are compiled."""
    code = tmp_path / "inexact.py"
    code.write_text(
        "import torch, triton, triton.language as tl\n"
        "from bench.gpu.binaries import resources\n"
        "from pygrade.aot import build as aot\n"
        "@triton.jit\n"
        "def k(x, y, N: tl.constexpr):\n"
        "    i = tl.arange(0, N)\n"
        "    tl.store(y + i, tl.load(x + i) * 3.0 + 1.0)\n"
        "x = torch.zeros(1024)\n"
        "for fusion in (True, False):\n"
        "    (launch,) = aot.record(lambda: k[(1,)](x, x, N=1024, enable_fp_fusion=fusion, num_warps=4))\n"
        "    found = [resources(aot.compiled(launch, target)) for target in ('sm_90', 'gfx942')]\n"
        "    print(*(r.inexact for r in found), *(r.wide_loads for r in found))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, code], env=environment | {"PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    fused, exact = ([int(n) for n in line.split()] for line in run.stdout.splitlines())
    assert min(fused[:2]) > 0 and exact[:2] == [0, 0]
    assert min(exact[2:]) > 0


def test_what_a_launch_executes_is_counted():
    out = torch.zeros(64, dtype=torch.int32)
    load = "ld.param.b64 %rd1, [k_param_0]; mad.wide.u32 %rd2, %r1, 4, %rd1; ld.global.b32 %r2, [%rd2];"
    store = "add.s32 %r3, %r2, %r1; st.global.b32 [%rd2], %r3; ret;"
    launched = run(f"mov.u32 %r1, %tid.x; {load} bar.sync 0; {store}", out, threads=64)
    work = model.Work.of(launched)
    assert work.barriers == 1 and work.sectors == 16 and work.touched == 16  # 8 read and written, of each word once
    assert work.pipes == {"float32": 4.0, "integer": 6.0, "float64": 0.0, "memory": 4.0, "special": 0.0}
    assert (
        model.Work.of(replace(launched, counts={k: 2 * v for k, v in launched.counts.items()})).slots == 2 * work.slots
    )


def test_the_range_of_a_time():
    """Slow assumptions lengthen loads and leave DRAM and arithmetic one after the other."""
    bounds = {"issue": 3.0, "chain": 1.0, "DRAM": 2.0}
    assert model.total(bounds) == model.total(bounds, model.FASTEST) == 3.0
    assert model.total(bounds, model.SLOWEST) == 5.0
    launched = run(
        "ld.param.b64 %rd1, [k_param_0]; ld.global.b32 %r1, [%rd1]; add.s32 %r2, %r1, 1; ret;", torch.zeros(1)
    )
    found = [
        model.costs_of(launched.call.program, assumed) for assumed in (model.FASTEST, model.TYPICAL, model.SLOWEST)
    ]
    assert [costs[1][1] for costs in found] == [200, 300, 800] and found[0][2][1] < found[1][2][1] < found[2][2][1]


def test_the_predictions_are_of_the_bench_s_shapes():
    rows = json.loads(model.RESULTS.read_text())["rows"]
    assert {row["op"] for row in rows} == {op.name for op in OPS}
    for row in rows:
        assert max(row["H100"].values()) == pytest.approx(row["us"]["H100"], abs=0.1)
        assert all(low <= row["us"][name] <= high for name, (low, high) in row["range"].items())
    assert model.table(rows) in model.PAGE.read_text()


def test_writing_some_ops_keeps_the_rows_of_the_others(tmp_path):
    committed, page = json.loads(model.RESULTS.read_text())["rows"], model.PAGE.read_text()
    (tmp_path / "model.json").write_text(json.dumps({"rows": committed}))
    (tmp_path / "page.md").write_text(page)
    new = [row | {"us": row["us"] | {"H100": 1234.5}} for row in committed if row["op"] == "rollout"]
    model.write(new, tmp_path / "model.json", tmp_path / "page.md")
    written = json.loads((tmp_path / "model.json").read_text())["rows"]
    assert [row for row in written if row["op"] == "rollout"] == new
    assert [row for row in written if row["op"] != "rollout"] == [r for r in committed if r["op"] != "rollout"]
    changed = {*page.splitlines()} ^ {*(tmp_path / "page.md").read_text().splitlines()}
    assert len(changed) == 2 and all("rollout_kernel" in line for line in changed)
    (tmp_path / "page.md").write_text("no table")
    with pytest.raises(ValueError, match="lacks the table"):
        model.write(new, tmp_path / "model.json", tmp_path / "page.md")
