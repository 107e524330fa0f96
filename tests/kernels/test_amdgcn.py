"""What is found in assembly of gfx942 written by hand."""

import pytest

from devtools.amdgcn import findings

LDS_BYTES = 1024


def found(body):
    """Findings in a kernel, each without its line."""
    lines = "\n".join(
        f"\t{part.strip()}" if not part.strip().endswith(":") else part.strip() for part in body.split("/")
    )
    text = f"\t.text\nk:\n{lines}\n\ts_endpgm\n.Lfunc_end0:\n\t.size k, 8\n"
    return [finding.split(": ", 1)[1] for finding in findings(text, LDS_BYTES)]


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("ds_write_b32 v0, v1 offset:1020", None),
        ("ds_write_b32 v0, v1 offset:1024", 1028),
        ("ds_read_b128 v[0:3], v4 offset:1012", 1028),
        ("ds_read_u8 v0, v4 offset:1023", None),
        ("ds_read2_b32 v[0:1], v4 offset1:255", None),
        ("ds_read2_b64 v[0:3], v4 offset0:3 offset1:128", 1032),
        ("ds_write2st64_b32 v0, v1, v2 offset1:3", None),
        ("ds_write2st64_b32 v0, v1, v2 offset1:4", 1028),
        ("v_mov_b32_e32 v0, 0x3fc / ds_write_b32 v0, v1", None),
        ("v_mov_b32_e32 v0, 0x3fc / ds_write_b32 v0, v1 offset:4", 1028),
        ("v_mov_b32_e32 v0, 1024 / v_add_u32_e32 v0, v0, v9 / ds_write_b32 v0, v1", None),  # no longer a constant
        ("v_mov_b32_e32 v0, 1024 /.LBB0_1:/ ds_write_b32 v0, v1", None),  # another path may come here
        ("ds_bpermute_b32 v0, v1, v2 offset:4096", None),  # no memory
    ],
)
def test_bounds_of_lds(body, end):
    problems = found(body)
    assert [problem.split(" reaches ")[1] for problem in problems] == (
        [] if end is None else [f"byte {end} of 1024 of LDS"]
    )


LOAD, OTHER = "global_load_dword v0, v[2:3], off", "global_load_dword v1, v[2:3], off"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (f"{LOAD} / v_add_f32_e32 v1, v0, v0", "v0 without a wait for its load from vector memory"),
        (f"{LOAD} / s_waitcnt vmcnt(0) / v_add_f32_e32 v1, v0, v0", ""),
        (f"{LOAD} / s_waitcnt lgkmcnt(0) / v_add_f32_e32 v1, v0, v0", "v0 without a wait"),
        (f"{LOAD} / v_mov_b32_e32 v0, 1", "v0 without a wait"),  # the load would overwrite it
        (f"{LOAD} / {LOAD} / s_waitcnt vmcnt(0) / v_mov_b32_e32 v1, v0", ""),
        (f"{LOAD} / {LOAD} / s_waitcnt vmcnt(1) / v_mov_b32_e32 v1, v0", "v0 without a wait"),  # the later one
        (f"{LOAD} / {OTHER} / s_waitcnt vmcnt(1) / v_mov_b32_e32 v4, v0", ""),
        (f"{LOAD} / {OTHER} / s_waitcnt vmcnt(1) / v_mov_b32_e32 v4, v1", "v1 without a wait"),
        (f"{LOAD} / global_store_dword v[2:3], v5, off / s_waitcnt vmcnt(1) / v_mov_b32_e32 v4, v0", ""),
        (f"{LOAD} / global_store_dword v[2:3], v0, off", "v0 without a wait"),
        ("global_load_dwordx2 v[0:1], v[2:3], off / v_mov_b32_e32 v4, v1", "v1 without a wait"),
        ("ds_read_b64 v[0:1], v2 / v_mov_b32_e32 v4, v1", "v1 without a wait for its load from LDS"),
        ("ds_bpermute_b32 v0, v1, v2 / s_waitcnt vmcnt(0) / v_mov_b32_e32 v4, v0", "v0 without a wait"),
        ("s_load_dwordx2 s[4:5], s[0:1], 0x0 / s_add_i32 s6, s5, 1", "s5 without a wait for its load from scalar"),
        ("s_load_dword s4, s[0:1], 0x0 / s_load_dword s5, s[0:1], 0x4 / s_waitcnt lgkmcnt(1) / s_mov_b32 s6, s4",
         "s4 without a wait"),  # scalar loads end in any order
        ("s_load_dwordx2 vcc, s[0:1], 0x0 / s_cbranch_vccnz .LBB0_1 /.LBB0_1:", "vcc without a wait"),
        ("ds_write_b32 v0, v1 / s_barrier", "s_barrier does not wait for the stores to LDS"),
        ("ds_write_b32 v0, v1 / s_waitcnt lgkmcnt(0) / s_barrier", ""),
    ],
)  # fmt: skip
def test_waits(body, wrong):
    problems = found(body)
    assert len(problems) == bool(wrong) and all(wrong in problem for problem in problems)


@pytest.mark.parametrize(("waits", "wrong"), [("", True), ("s_waitcnt vmcnt(0)", False)])  # only one of two paths loads
def test_waits_on_every_path(waits, wrong):
    branch = f"s_cbranch_scc0 .LBB0_1 / {LOAD} /.LBB0_1:/ {waits or 's_nop 0'} / v_mov_b32_e32 v1, v0"
    assert bool(found(branch)) == wrong
    loop = (
        f"v_mov_b32_e32 v0, 0 /.LBB0_1:/ v_mov_b32_e32 v1, v0 / {LOAD} / {waits or 's_nop 0'} / s_cbranch_scc0 .LBB0_1"
    )
    assert bool(found(loop)) == wrong


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("scratch_load_dword v0, off, s32", "uses scratch"),
        ("flat_load_dword v0, v[2:3]", "is not known"),
        ("s_waitcnt 0", "is not known"),
        ("global_atomic_add v[2:3], v0, off", "is not known"),
        ("s_swappc_b64 s[30:31], s[4:5]", "is not known"),
    ],
)
def test_what_the_reader_does_not_know_is_a_finding(statement, wrong):
    (problem,) = found(statement)
    assert wrong in problem


def test_text_without_a_kernel_is_a_finding():
    assert findings("\t.text\n", LDS_BYTES) == ["line 0: no instruction is there"]
