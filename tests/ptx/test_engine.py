"""What the emulator finds, and how warps run, in kernels written by hand."""

import pytest
import torch

from devtools.ptx import Unsupported, parse
from tests.ptx import kernel, run, words

THREAD = """
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
ld.param.b64 %rd1, [k_param_0];
mad.wide.u32 %rd2, %r1, 4, %rd1;
shl.b32 %r3, %r1, 2;
mov.b32 %r4, smem;
add.s32 %r5, %r4, %r3;
"""  # thread, program, a tensor, its element of the thread, byte of the thread in shared memory


STORE = "st.global.b32 [%rd2], %r7; ret;"


def kinds(body, *arguments, **options):
    return {finding.kind for finding in run(THREAD + body, *arguments, **options)}


def exchange(with_lane, barrier=""):
    """Each thread stores to shared memory and loads what another one stored."""
    load = f"xor.b32 %r6, %r5, {4 * with_lane}; ld.shared.b32 %r7, [%r6]; {STORE}"
    return f"st.shared.b32 [%r5], %r1; {barrier} {load}"


@pytest.mark.parametrize(
    ("with_lane", "barrier", "found"),
    [
        (32, "", {"race between warps"}),
        (32, "bar.warp.sync -1;", {"race between warps"}),
        (32, "bar.sync 0;", set()),
        (1, "", {"race between lanes of a warp"}),
        (1, "bar.warp.sync -1;", set()),
        (1, "bar.sync 0;", set()),
        (0, "", set()),
    ],
)
def test_shared_memory_needs_a_barrier(with_lane, barrier, found):
    out = words(64)
    assert kinds(exchange(with_lane, barrier), out, threads=64) == found
    if not found:
        assert torch.equal(out, torch.arange(64, dtype=torch.int32) ^ with_lane)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("st.global.b32 [%rd1], %r2; ret;", {"race between programs"}),  # the lanes of a program store one value
        ("mov.b32 %r6, 7; st.global.b32 [%rd1], %r6; ret;", set()),
        ("st.global.b32 [%rd1], %r1; ret;", {"race between programs", "race between lanes of a warp"}),
        ("mad.wide.u32 %rd3, %r2, 4, %rd1; st.global.b32 [%rd3], %r2; ret;", set()),
        ("ld.global.b32 %r6, [%rd1]; ret;", set()),
        (
            "shl.b32 %r7, %r2, 5; setp.eq.b32 %p1, %r1, %r7; ld.global.b32 %r6, [%rd1]; bar.warp.sync -1; "
            "@%p1 st.global.b32 [%rd1], %r6; ret;",
            {"race between programs"},
        ),
    ],
)
def test_global_memory_of_two_programs(body, found):
    assert kinds(body, words(value=-1), grid=(2,)) == found


def test_an_earlier_reader_is_remembered_though_others_read_after_it():
    """Program 1 stores to a word that all lanes of both programs have loaded."""
    only = "setp.eq.b32 %p1, %r2, 1; setp.eq.b32 %p2, %r1, 0; and.pred %p3, %p1, %p2; bar.warp.sync -1;"
    body = f"ld.global.b32 %r6, [%rd1]; {only} @%p3 st.global.b32 [%rd1], %r2; ret;"
    assert kinds(body, words(value=5), grid=(2,)) == {"race between programs"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("ld.global.b32 %r6, [%rd2+4]; ret;", {"out of bounds"}),
        ("st.global.b32 [%rd2+-4], %r1; ret;", {"out of bounds"}),
        ("ld.shared.b32 %r6, [%r5+1000]; ret;", {"out of bounds"}),
        ("ld.global.b32 %r6, [%rd1+2]; ret;", {"misaligned"}),
        ("ld.shared.v2.b32 {%r6, %r7}, [%r4+4]; ret;", {"misaligned"}),
        ("setp.lt.u32 %p1, %r1, 9; @%p1 bra $A; bar.sync 0; ret; $A: bar.sync 0; ret;", {"barrier in a diverged warp"}),
        ("setp.lt.u32 %p1, %r1, 9; @%p1 ret; bar.sync 0; ret;", {"barrier after the exit of threads"}),
        ("shfl.sync.bfly.b32 %r6, %r1, 1, 31, 3; ret;", {"members of a warp instruction"}),
        (
            "setp.lt.u32 %p1, %r1, 9; @%p1 bra $A; shfl.sync.idx.b32 %r6, %r1, 0, 31, -512; $A: ret;",
            {"members of a warp instruction"},
        ),
        ("$A: bra.uni $A; ret;", {"too long"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(body, found):
    body = body.replace("$A: ", "\n$A:\n")
    assert kinds(body, words(), limit=1000) == found


@pytest.mark.parametrize("fill", [0xFF, 0x7F])
def test_unwritten_memory_holds_the_fill(fill):
    out = words()
    assert kinds(f"ld.shared.b32 %r7, [%r5]; {STORE}", out, fill=fill) == set()
    assert out.view(torch.uint8).unique().tolist() == [fill]


def test_warps_that_wait_at_different_barriers():
    body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $A; bar.sync 0; ret;\n$A:\nbar.sync 0; ret;"
    assert kinds(body, words(64), threads=64) == {"warps at different barriers"}
    assert kinds("setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0; ret;", words(64), threads=64) == {
        "barrier after the exit of threads"
    }


def test_lanes_that_diverge_meet_again():
    """Each lane halves its number until it is 0, and counts; then a shuffle needs them all."""
    body = """mov.b32 %r6, 0; mov.b32 %r7, %r1;
$A:
setp.eq.b32 %p1, %r7, 0; @%p1 bra $B; shr.u32 %r7, %r7, 1; add.s32 %r6, %r6, 1; bra.uni $A;
$B:
shfl.sync.bfly.b32 %r8, %r6, 1, 31, -1; st.global.b32 [%rd2], %r8; ret;"""
    out = words()
    assert run(THREAD + body, out) == []
    assert out.tolist() == [(lane ^ 1).bit_length() for lane in range(32)]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("shfl.sync.up.b32 %r6, %r1, 3, 0, -1", [max(lane - 3, lane if lane < 3 else 0) for lane in range(32)]),
        ("shfl.sync.down.b32 %r6, %r1, 3, 31, -1", [lane + 3 if lane < 29 else lane for lane in range(32)]),
        ("shfl.sync.bfly.b32 %r6, %r1, 5, 31, -1", [lane ^ 5 for lane in range(32)]),
        ("shfl.sync.idx.b32 %r6, %r1, 7, 31, -1", [7] * 32),
        ("shfl.sync.idx.b32 %r6, %r1, 2, 6175, -1", [lane & 24 | 2 for lane in range(32)]),  # segments of 8 lanes
        ("redux.sync.add.s32 %r6, %r1, -1", [496] * 32),
        ("redux.sync.max.u32 %r6, %r1, -1", [31] * 32),
        ("redux.sync.xor.b32 %r6, %r1, -1", [0] * 32),
        ("not.b32 %r7, %r1; redux.sync.min.s32 %r6, %r7, -1", [-32] * 32),
        ("not.b32 %r7, %r1; redux.sync.min.u32 %r6, %r7, -1", [-32] * 32),
        ("cvt.rn.f32.u32 %r7, %r1; redux.sync.max.f32 %r8, %r7, -1; cvt.rzi.s32.f32 %r6, %r8", [31] * 32),
    ],
)
def test_instructions_of_a_warp(instruction, expected):
    out = words()
    assert kinds(f"{instruction}; st.global.b32 [%rd2], %r6; ret;", out) == set()
    assert out.tolist() == expected


def test_matrices_of_shared_memory():
    """Row r of matrix m holds 100 m + 8 r + column; lane l gets the columns 2 (l mod 4) and the next of row l / 4."""
    fill = "".join(
        f"mov.b16 %rs1, {100 * m + 8 * r + column}; st.shared.b16 [%r4+{128 * m + 16 * r + 2 * column}], %rs1;"
        for m in range(2) for r in range(8) for column in range(8)
    )  # fmt: skip
    body = f"""{fill} bar.sync 0; shl.b32 %r6, %r1, 4; add.s32 %r6, %r6, %r4;
ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r7, %r8}}, [%r6];
bar.sync 0; stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r6+256], {{%r7, %r8}}; bar.sync 0;
ld.shared.b32 %r9, [%r5+256]; ld.shared.b32 %r10, [%r5]; sub.s32 %r11, %r9, %r10;
ld.param.b64 %rd3, [k_param_1]; mad.wide.u32 %rd4, %r1, 4, %rd3;
st.global.b32 [%rd2], %r8; st.global.b32 [%rd4], %r11; ret;"""
    out, difference = words(), words()
    assert kinds(body, out, difference) == set()
    assert difference.tolist() == [0] * 32  # what is stored as it was loaded is the same matrix
    pairs = [(2 * (lane % 4), lane // 4) for lane in range(32)]
    cells = [(100 + 8 * r + c, 100 + 8 * r + c + 1) for c, r in pairs]
    assert out.tolist() == [low | high << 16 for low, high in cells]


@pytest.mark.parametrize(
    "statement",
    [
        "add.sat.s32 %r1, %r2, %r3",
        "add.f32 %r1, %r2, %r3",
        "add.rn.ftz.f32 %r1, %r2, %r3",
        "setp.lt.and.f32 %p1, %r2, %r3, %p2",
        "setp.lt.s32 %p1|%p2, %r2, %r3",
        "add.s32 %r1, %r2",
        "bar.sync 1",
        "bar.sync 0, 64",
        "ld.global.nc.b32 %r1, [%rd1]",
        "ld.acquire.gpu.global.b32 %r1, [%rd1]",
        "ld.global.v4.b32 {%r1, %r2}, [%rd1]",
        "atom.global.add.u32 %r1, [%rd1], 1",
        "cp.async.ca.shared.global [%r1], [%rd1], 4",
        "shfl.sync.bfly.b32 %r1|%p1, %r2, 1, 31, -1",
        "mov.b32 %r1, unknown",
        "frobnicate %r1",
    ],
)
def test_what_is_not_known_is_refused(statement):
    with pytest.raises(Unsupported, match="is not known"):
        parse(kernel(f"{statement}; ret;", 1))
