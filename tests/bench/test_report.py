"""The pages match the committed summaries, and every missed target has a reason."""

import copy
import re
import subprocess
from pathlib import Path

import pytest

from bench.cpu.harness import NOTHING, OURS, Report, Row, Timing
from bench.report import age, generate, results, summary, targets

ROOT = Path(__file__).parents[2]
COMMITTED = generate.load(results.RESULTS)
TOPK, LOG, CALL = "top-k, N 2k–10k, k 50–500", "top-k of log p, N ≤ 10k", "call of fuse_topk(out=)"


def flat(p50: float) -> Timing:
    return Timing(p50, p50, p50, 100)


def topk(ours: float = 2.0, core: float = 1.0, **shape: object) -> Row:
    timings = {OURS: flat(ours), "numpy": flat(14.0), "torch": flat(20.0), "numba threshold": flat(9.0)}
    size = {"N": 2000, "T": 8, "k": 100, "f": "identity"} | shape
    return Row("fuse_topk", size, timings, ("numpy", "torch"), ("numba threshold",), flat(core), flat(0.5), "read")


def made_up(isa: str = "avx512", *rows: Row) -> targets.Results:
    machine = {"processor": "P", "isa": isa}
    call = Row("fuse_topk", {"N": 8, "result": "out="}, {OURS: flat(0.5), NOTHING: flat(0.05)}, (), core=flat(0.1))
    return {
        isa: {
            "serving": Report("serving", machine, list(rows) or [topk(), topk(ours=3.5, k=500)]),
            "call": Report("call", machine, [call]),
        }
    }


def met(name: str, measured: targets.Results, isa: str = "avx512") -> bool:
    target = next(target for target in targets.TARGETS if target.name == name)
    return targets.reached(target, isa, summary.summarize(measured)[isa]["targets"][name]["worst"])


def page(measured: targets.Results) -> str:
    return generate.targets(summary.summarize(measured))


def block(measured: targets.Results) -> str:
    return generate.bench(summary.summarize(measured))


def test_the_pages_say_what_the_committed_results_say():
    pages = {name: (ROOT / name).read_text() for name in generate.PAGES}
    assert [name for name in generate.BLOCKS if f"<!-- {name}:begin" not in "".join(pages.values())] == []
    for name, text in pages.items():
        assert generate.with_blocks(text, COMMITTED) == text, f"run python -m bench report: {name}"
    rows = [line for line in generate.bench(COMMITTED["bench"]).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(generate.README_ROWS.values())
    assert generate.unexplained(COMMITTED["bench"], pages[generate.BENCH]) == []


def test_the_committed_summary_has_every_target_and_what_was_timed():
    assert list(COMMITTED["bench"]) == ["avx512", "avx2"]
    for isa, entry in COMMITTED["bench"].items():
        assert set(entry["targets"]) == {target.name for target in targets.TARGETS if isa in target.want}
        assert {"processor", "torch", "numpy"} <= entry["machine"].keys() and all(entry["commits"].values())


def test_a_block_without_results_says_so_and_one_without_an_end_is_refused():
    begin = "<!-- targets:begin, written by python -m bench report -->"
    made = generate.with_blocks(f"a\n{begin}\nold\n<!-- targets:end -->\nb", {name: {} for name in generate.BLOCKS})
    assert made == f"a\n{begin}\nNot measured yet.\n<!-- targets:end -->\nb"
    with pytest.raises(ValueError, match="targets:end"):
        generate.with_blocks(f"{begin}\n", {name: {} for name in generate.BLOCKS})


@pytest.mark.parametrize(
    ("name", "rows", "values", "reached"),
    [
        (TOPK, [], (4.0, 7.0), False),  # the worst row decides
        (TOPK, [topk()], (7.0,), True),
        ("top-k, N 2k, k 50–100, bound", [], (2.0,), True),  # an upper limit, as of calls
        ("top-k, N 2k, k 50–100, bound", [topk(core=2.0)], (4.0,), False),
        (CALL, [], (0.35,), True),
        (f"{TOPK}, numba", [], (9 / 3.5, 4.5), False),  # which counts for no other target
        (LOG, [topk(ours=4.0, f="log")], (3.5,), False),
    ],
)
def test_targets_are_judged_by_their_measure(name, rows, values, reached):
    measured = made_up("avx512", *rows)
    verdict = next(v for v in targets.check_targets(measured)["avx512"] if v.target.name == name)
    assert verdict.values == pytest.approx(values) and met(name, measured) is reached
    assert measured["avx512"]["serving"].rows[0].best_peer == "numpy"


def test_instruction_sets_have_their_own_targets():
    assert met(LOG, made_up("avx2", topk(ours=4.0, f="log")), "avx2")


def figures_of(text: str, target: str) -> list[list[float]]:
    """The numbers in each cell of the target's row."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {target} |"))
    return [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)] for cell in line.split("|")[2:-1]]


def test_the_readme_block_has_the_figures_and_leaves_the_targets_to_the_page():
    text = block(made_up() | made_up("avx2"))
    assert figures_of(text, generate.README_ROWS[TOPK]) == [[3.5], [14], [4, 7], [4, 7]]
    assert CALL not in text and "**" not in text and "≥" not in text
    assert figures_of(page(made_up() | made_up("avx2")), CALL)[:5] == [[0.35], [], [], [0.4], [0.35]]


def test_the_page_has_every_target_and_its_verdict_and_a_miss_wants_a_reason():
    text, measured = page(made_up()), summary.summarize(made_up())
    assert all(f"| {target.name} |" in text for target in targets.TARGETS)
    assert "| ≥ 6 | 4.00–7.00 | **missed** |" in text
    assert TOPK in generate.unexplained(measured, "")
    assert TOPK not in generate.unexplained(measured, f"**{TOPK}**: because.")


def test_the_readme_block_names_each_machine_once_with_its_commits():
    measured = made_up() | made_up("avx2")
    assert block(measured).count("P, one core") == 1
    measured["avx2"]["serving"].machine.update(processor="Uvw 2", commit="c0ffee")
    lines = [line for line in block(measured).splitlines() if "one core" in line]
    assert ["AVX-512" in line for line in lines] == [True, False] == ["c0ffee" not in line for line in lines]


def test_a_run_of_some_suites_leaves_the_figures_of_the_others():
    before = summary.merge({}, made_up())["avx512"]
    some = {"avx512": {"serving": Report("serving", {"processor": "Q", "isa": "avx512"}, [topk(ours=1.0)])}}
    after = summary.merge({"avx512": copy.deepcopy(before)}, some)["avx512"]
    assert after["targets"][TOPK]["worst"] == 14.0 != before["targets"][TOPK]["worst"]
    assert after["targets"][CALL] == before["targets"][CALL]
    assert after["machine"]["processor"] == "Q"


def test_the_command_writes_the_blocks(tmp_path, capsys):
    for measured in made_up()["avx512"].values():
        results.write(measured, tmp_path / "full")
    for name in generate.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    folders = ["--full", str(tmp_path / "full"), "--results", str(tmp_path / "results")]
    assert generate.main([*folders, "--root", str(tmp_path)]) == 0
    assert generate.load(tmp_path / "results")["bench"] == summary.summarize(made_up())
    for name in ("README.md", generate.BENCH):
        before, after = (ROOT / name).read_text(), (tmp_path / name).read_text()
        assert before != after and "P, one core" in after and after.startswith(before[:100])
    printed = capsys.readouterr()
    assert generate.BENCH in printed.out and "not checked" in printed.err  # no repository here


@pytest.fixture
def repository(tmp_path):
    """A repository with three commits of sources and one of docs; commits by age."""
    ids = []
    for name in ("csrc/a.cpp", "csrc/tests/a.cpp", "pygrade/ops/a.py", "kernels/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", name], ["rev-parse", "HEAD"]):
            done = subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True)
        ids.insert(0, done.stdout.strip())
    return tmp_path, ids


def test_results_of_sources_of_long_ago_are_named(repository):
    root, (head, last, tests, first) = repository
    commits = [("a", head), ("b", f"{last[:9]}+"), ("c", tests), ("d", first)]
    assert age.stale(root, commits, most=2) == [] == age.stale(root, commits[:2], most=1)
    assert [line.split(",")[0].split(":")[0] for line in age.stale(root, commits, most=1)] == ["c", "d"]
    (unknown, absent) = age.stale(root, [("e", "f" * 40), ("g", "")])
    assert unknown.startswith("e: commit ffff") and absent.startswith("g: ")
    subprocess.run(["git", "clone", "-q", "--depth", "1", root.as_uri(), str(root / "shallow")], check=True)
    assert age.stale(root / "shallow", commits) is None


def test_the_command_refuses_old_results_before_it_writes(repository, capsys, monkeypatch):
    root, ids = repository
    measured = made_up()["avx512"]
    for report in measured.values():
        report.machine["commit"] = ids[-1]
        results.write(report, root / "full")
    for name in generate.PAGES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    (root / "results").mkdir()
    (root / "results" / "page-avx2.json").write_text(f'{{"machine": {{"commit": "{ids[0]}"}}}}')
    words = [f"--{name}={root / place}" for name, place in (("full", "full"), ("results", "results"), ("root", "."))]
    monkeypatch.setattr(age.stale, "__defaults__", (1,))
    assert generate.main(words) == 1
    printed = capsys.readouterr().err
    assert all(f"ops.json, avx512, {suite}: commit {ids[-1]}" in printed for suite in measured)
    assert "page" not in printed and not (root / "results" / "ops.json").exists()
    assert generate.main([*words, "--stale-ok"]) == 0 and (root / "results" / "ops.json").exists()
