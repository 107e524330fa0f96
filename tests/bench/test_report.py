"""README and docs/BENCH.md match the committed summary, and every missed target has a reason."""

import re
from pathlib import Path

import pytest

from bench.cpu.harness import NOTHING, OURS, Report, Row, Timing
from bench.report import generate, results, summary, targets

ROOT = Path(__file__).parents[2]
COMMITTED, NOTES = generate.load(results.RESULTS)
TOPK = "top-k, N 2k–10k, k 50–500"


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


def verdict(name: str, measured: targets.Results) -> targets.Verdict:
    return next(v for v in targets.judge(measured)["avx512"] if v.target.name == name)


def met(name: str, measured: targets.Results, isa: str = "avx512") -> bool:
    target = next(target for target in targets.TARGETS if target.name == name)
    return targets.reached(target, isa, summary.summarize(measured)[isa]["targets"][name]["worst"])


def page(measured: targets.Results, notes: str = "") -> str:
    return generate.page(summary.summarize(measured), notes)


def block(measured: targets.Results) -> str:
    return generate.block(summary.summarize(measured))


# --- what is committed ----------------------------------------------------------------------------------------------


def test_the_texts_say_what_the_committed_results_say():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/BENCH.md"))
    block = generate.block(COMMITTED)
    assert generate.with_block(readme, block) == readme, "run python -m bench report"
    assert page == generate.page(COMMITTED, NOTES), "run python -m bench report"
    rows = [line for line in block.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(generate.README_ROWS)
    for folder, text in ((ROOT, readme), (ROOT / "docs", page)):
        assert all((folder / picture).is_file() for picture in generate.PICTURE.findall(text))


def test_the_committed_summary_has_every_target_what_was_timed_and_the_reasons_for_misses():
    assert list(COMMITTED) == ["avx512", "avx2"] and generate.unexplained(COMMITTED, NOTES) == []
    for entry in COMMITTED.values():
        assert set(entry["targets"]) == {target.name for target in targets.TARGETS}
        assert {"processor", "torch", "numpy"} <= entry["machine"].keys() and all(entry["commits"].values())


# --- how it is made, on made-up results ------------------------------------------------------------------------------


def test_without_results_there_are_no_tables_and_pictures():
    assert generate.block({}) == generate.NO_RESULTS and generate.NO_RESULTS in generate.page({}, "")
    assert generate.pictures({}, {}) == {}


def test_the_worst_row_decides():
    assert verdict(TOPK, made_up()).values == (4.0, 7.0)
    assert not met(TOPK, made_up()) and met(TOPK, made_up("avx512", topk()))


def test_bounds_and_calls_have_upper_limits():
    bound, call = "top-k, N 2k, k 50–100, bound", "call of fuse_topk(out=)"
    assert verdict(bound, made_up()).values == (2.0,) and met(bound, made_up())
    assert not met(bound, made_up("avx512", topk(core=2.0)))
    assert verdict(call, made_up()).values == pytest.approx((0.35,)) and met(call, made_up())


def test_the_numba_kernel_counts_only_for_its_own_target():
    measured = made_up()
    assert verdict(f"{TOPK}, numba", measured).values == pytest.approx((9 / 3.5, 4.5))
    assert measured["avx512"]["serving"].rows[0].best_peer == "numpy"


def test_instruction_sets_have_their_own_targets():
    name, log = "top-k of log p, N ≤ 10k", topk(ours=4.0, f="log")
    assert not met(name, made_up("avx512", log)) and met(name, made_up("avx2", log), "avx2")


def figures_of(text: str, target: str) -> list[list[float]]:
    """The numbers in each cell of the target's row."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {target} |"))
    return [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)] for cell in line.split("|")[2:-1]]


def test_the_readme_block_has_the_figures_and_leaves_the_targets_to_the_page():
    text, call = block(made_up() | made_up("avx2")), "call of fuse_topk(out=)"
    assert figures_of(text, TOPK) == [[3.5], [14], [4, 7], [4, 7]]
    assert call not in text and "**" not in text and "≥" not in text
    assert figures_of(page(made_up() | made_up("avx2")), call)[:4] == [[0.35], [], [0.35], [0.35]]


def test_the_page_has_every_target_its_verdict_and_the_notes():
    notes = f"**{TOPK}**: because."
    text, measured = page(made_up(), notes), summary.summarize(made_up())
    assert all(target.name in text for target in targets.TARGETS)
    assert "| ≥ 6 | 4.00–7.00 | **missed** |" in text and "because." in text
    assert TOPK in generate.unexplained(measured, "") and TOPK not in generate.unexplained(measured, notes)


def test_the_readme_block_names_each_machine_once_with_its_commits():
    measured = made_up() | made_up("avx2")
    assert block(measured).count("P, one core") == 1
    measured["avx2"]["serving"].machine.update(processor="Uvw 2", commit="c0ffee")
    lines = [line for line in block(measured).splitlines() if "one core" in line]
    assert ["AVX-512" in line for line in lines] == [True, False] == ["c0ffee" not in line for line in lines]


def test_a_run_of_some_suites_leaves_the_figures_of_the_others(tmp_path):
    summary.update(tmp_path, made_up())
    before, _ = generate.load(tmp_path)
    some = {"avx512": {"serving": Report("serving", {"processor": "Q", "isa": "avx512"}, [topk(ours=1.0)])}}
    summary.update(tmp_path, some)
    after, _ = generate.load(tmp_path)
    call = "call of fuse_topk(out=)"
    assert after["avx512"]["targets"][TOPK]["worst"] == 14.0 != before["avx512"]["targets"][TOPK]["worst"]
    assert after["avx512"]["targets"][call] == before["avx512"]["targets"][call]
    assert after["avx512"]["machine"]["processor"] == "Q"


def test_the_command_writes_texts_and_pictures(tmp_path, capsys):
    for measured in made_up()["avx512"].values():
        results.write(measured, tmp_path / "full")
    (tmp_path / "README.md").write_text(f"before\n{generate.BEGIN}\nold\n{generate.END}\nbehind\n")
    folders = ["--full", str(tmp_path / "full"), "--results", str(tmp_path / "results")]
    assert generate.main([*folders, "--root", str(tmp_path)]) == 0
    assert generate.load(tmp_path / "results")[0] == summary.summarize(made_up())
    for name in ("ratios", "serving", "scaling"):
        assert (tmp_path / f"docs/bench/{name}.png").read_bytes().startswith(b"\x89PNG")
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("behind\n") and "old" not in readme
    assert "(bench/serving.png)" in (tmp_path / "docs/BENCH.md").read_text() and TOPK in capsys.readouterr().out
