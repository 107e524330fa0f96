"""README, docs/BENCH.md and the pictures follow from the committed results, and every missed target has its reason."""

from pathlib import Path

import pytest

from bench.cpu.harness import NOTHING, OURS, Report, Row, Timing
from bench.report import generate, results, targets

ROOT = Path(__file__).parents[2]
COMMITTED, NOTES = generate.load(results.RESULTS)


def flat(p50: float) -> Timing:
    return Timing(p50, p50, p50, 100)


def topk(ours: float = 2.0, core: float = 1.0, **shape: object) -> Row:
    timings = {OURS: flat(ours), "numpy": flat(14.0), "torch": flat(20.0), "numba threshold": flat(9.0)}
    size = {"N": 2000, "T": 8, "k": 100, "f": "identity"} | shape
    return Row("fuse_topk", size, timings, ("numpy", "torch"), ("numba threshold",), flat(core), flat(0.5), "read")


def made_up(isa: str = "avx512", *rows: Row) -> targets.Results:
    machine = {"processor": "P", "isa": isa}
    call = Row("fuse_topk", {"N": 8, "result": "out="}, {OURS: flat(0.5), NOTHING: flat(0.05)}, (), core=flat(0.1))
    scaled = [topk(axis="N", N=n) for n in (100, 1000)]
    return {
        isa: {
            "serving": Report("serving", machine, list(rows) or [topk(), topk(ours=3.5, k=500)]),
            "call": Report("call", machine, [call]),
            "scaling": Report("scaling", machine, scaled),
        }
    }


def verdict(name: str, found: targets.Results) -> targets.Verdict:
    return next(v for v in targets.judge(found)["avx512"] if v.target.name == name)


# --- what is committed ----------------------------------------------------------------------------------------------


def test_the_readme_says_what_the_committed_results_say():
    readme = (ROOT / "README.md").read_text()
    assert generate.with_block(readme, generate.block(COMMITTED)) == readme, "run python -m bench report"


def test_the_page_says_what_the_committed_results_say():
    page = ROOT / "docs/BENCH.md"
    assert page.read_text() == generate.page(COMMITTED, NOTES), "run python -m bench report"


def test_the_pictures_of_the_texts_exist():
    for name in ("README.md", "docs/BENCH.md"):
        text = (ROOT / name).read_text()
        for picture in generate.PICTURE.findall(text):
            assert (ROOT / name).parent.joinpath(picture).is_file(), picture


def test_every_missed_target_has_its_reason():
    assert generate.unexplained(COMMITTED, NOTES) == []


def test_committed_results_are_named_by_suite_and_instruction_set_and_hold_every_peer():
    for isa, reports in COMMITTED.items():
        for suite, found in reports.items():
            assert (results.RESULTS / f"{suite}-{isa}.json").is_file()
            assert {"processor", "isa", "threads", "torch", "numpy", "pygrade"} <= found.machine.keys()


# --- how it is made, on made-up results ------------------------------------------------------------------------------


def test_no_results_give_a_sentence():
    assert generate.block({}) == generate.NO_RESULTS
    assert generate.NO_RESULTS in generate.page({}, "")
    assert generate.pictures({}) == {}


def test_the_worst_row_decides():
    found = verdict("top-k, N 2k–10k, k 50–500", made_up())
    assert found.values == (4.0, 7.0)
    assert not found.met
    assert verdict("top-k, N 2k–10k, k 50–500", made_up("avx512", topk())).met


def test_bounds_and_calls_are_held_from_above():
    assert verdict("top-k, N 2k, k 50–100, bound", made_up()).values == (2.0,)
    assert verdict("top-k, N 2k, k 50–100, bound", made_up()).met
    assert not verdict("top-k, N 2k, k 50–100, bound", made_up("avx512", topk(core=2.0))).met
    call = verdict("call of fuse_topk(out=)", made_up())
    assert call.values == pytest.approx((0.35,))
    assert call.met


def test_the_kernel_beside_counts_only_where_it_is_named():
    found = made_up()
    assert verdict("top-k, N 2k–10k, k 50–500, numba", found).values == pytest.approx((9 / 3.5, 4.5))
    assert found["avx512"]["serving"].rows[0].best_peer == "numpy"


def test_instruction_sets_have_their_own_marks():
    log = topk(ours=4.0, f="log")
    assert not verdict("top-k of log p, N ≤ 10k", made_up("avx512", log)).met
    on_avx2 = targets.judge(made_up("avx2", log))["avx2"]
    assert [v.met for v in on_avx2 if v.target.name == "top-k of log p, N ≤ 10k"] == [True]


def test_the_readme_block_names_figures_targets_and_misses():
    text = generate.block(made_up() | made_up("avx2"))
    line = next(line for line in text.splitlines() if line.startswith("| top-k, N 2k–10k, k 50–500 |"))
    assert line == "| top-k, N 2k–10k, k 50–500 | 3.5 µs | 14 µs (numpy) | 4.0–7.0 × | 4.0–7.0 × | ≥ 6 |"
    assert "| call of fuse_topk(out=) | 0.35 µs |  | **0.35** µs | **0.35** µs | ≤ 0.4 |" in text


def test_the_readme_block_names_the_machines_and_commits():
    found = made_up() | made_up("avx2")
    assert "\nOne core of an P.\n" in generate.block(found)
    found["avx2"]["serving"].machine.update(processor="Q", commit="abc")
    text = generate.block(found)
    assert "\nAVX-512: one core of an P.\n" in text
    assert "\nAVX2: one core of an Q, commit abc.\n" in text


def test_a_picture_comes_from_the_best_instruction_set_that_has_its_suite():
    found = made_up() | made_up("avx2")
    del found["avx512"]["scaling"]
    text = generate.page(found, "")
    assert "## One request, everybody, AVX-512\n" in text
    assert "## How the cost grows, AVX2\n" in text


def test_the_page_has_every_target_the_notes_and_the_rows():
    text = generate.page(made_up(), "**top-k, N 2k–10k, k 50–500**: because.")
    assert all(target.name in text for target in targets.TARGETS)
    assert "because." in text
    assert "N=2000 T=8 k=500 f=identity" in text


def test_unexplained_misses_are_named():
    found = made_up()
    assert "top-k, N 2k–10k, k 50–500" in generate.unexplained(found, "")
    assert "top-k, N 2k–10k, k 50–500" not in generate.unexplained(found, "**top-k, N 2k–10k, k 50–500**: because.")


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n{generate.BEGIN}\nold\n{generate.END}\nbehind\n"
    assert generate.with_block(text, "new\n") == f"before\n{generate.BEGIN}\nnew\n{generate.END}\nbehind\n"


def test_the_command_writes_texts_and_pictures(tmp_path, capsys):
    for reports in made_up().values():
        for found in reports.values():
            results.write(found, tmp_path / "results")
    (tmp_path / "README.md").write_text(f"{generate.BEGIN}\n{generate.END}\n")
    assert generate.main(["--results", str(tmp_path / "results"), "--root", str(tmp_path)]) == 0
    for name in ("ratios", "serving", "scaling"):
        assert (tmp_path / f"docs/bench/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "(bench/serving.png)" in (tmp_path / "docs/BENCH.md").read_text()
    assert "does not say why: top-k, N 2k–10k, k 50–500" in capsys.readouterr().out
